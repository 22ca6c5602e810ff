/* Runs the unit tests; those whose name holds the argument, or all. */
#define _GNU_SOURCE
#include "unit.h"

#include <dirent.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monitoring.h"

static atomic_int failures; /* threads check too */
static char folders[64][64];
static size_t folder_count;

void unit_check(bool holds, const char *condition, const char *file, int line) {
    if (!holds) {
        failures++;
        printf("    %s:%d: %s does not hold\n", file, line, condition);
    }
}

void unit_check_text(const char *got, const char *expected, const char *file, int line) {
    if (got == NULL || strcmp(got, expected) != 0) {
        failures++;
        printf("    %s:%d: expected '%s', got '%s'\n", file, line, expected, got == NULL ? "NULL" : got);
    }
}

const char *unit_folder(void) {
    char *folder = folders[folder_count++];
    snprintf(folder, 64, "/tmp/mon-unit-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror("mkdtemp");
        exit(2);
    }
    return folder;
}

size_t unit_files(const char *folder, const char *ending, char *text, size_t room) {
    size_t count = 0;
    DIR *opened = opendir(folder);
    const struct dirent *entry;
    while (opened != NULL && (entry = readdir(opened)) != NULL) {
        size_t len = strlen(entry->d_name);
        if (len < strlen(ending) || strcmp(entry->d_name + len - strlen(ending), ending) != 0 || entry->d_name[0] == '.') {
            continue;
        }
        if (count++ == 0 && text != NULL) {
            char path[512];
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            FILE *file = fopen(path, "r");
            size_t got = file == NULL ? 0 : fread(text, 1, room - 1, file);
            text[got] = '\0';
            if (file != NULL) {
                fclose(file);
            }
        }
    }
    if (opened != NULL) {
        closedir(opened);
    }
    return count;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

static void quiet(mon_severity severity, const char *line, void *data) {
    (void)severity;
    (void)line;
    (void)data;
}

int main(int argc, char **argv) {
    const struct unit_test *groups[] = {unit_text_tests,  unit_event_tests, unit_config_tests,
                                        unit_queue_tests, unit_spool_tests, unit_answers_tests, unit_shipment_tests, unit_client_tests};
    size_t run = 0;
    mon_set_logger(quiet, NULL);
    for (size_t group = 0; group < sizeof groups / sizeof *groups; group++) {
        for (const struct unit_test *test = groups[group]; test->name != NULL; test++) {
            if (argc > 1 && strstr(test->name, argv[1]) == NULL) {
                continue;
            }
            int before = failures;
            test->run();
            run++;
            printf("%s %s\n", failures == before ? "ok  " : "FAIL", test->name);
        }
    }
    for (size_t i = 0; i < folder_count; i++) {
        nftw(folders[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    printf("%zu tests, %d failures\n", run, failures);
    return failures == 0 && run > 0 ? 0 : 1;
}
