/* The spool folder: who may take which file, and what is in it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "ids.h"
#include "spool.h"
#include "unit.h"

static struct mon_batch *batch_of(const char *emitter, uint64_t seq) {
    struct mon_batch *batch = mon_batch_new(emitter, 0);
    mon_buf_format(&batch->body, "{\"emitter\":{\"id\":\"%s\",\"seq\":%d}}\n", emitter, (int)seq);
    CHECK(mon_batch_line(batch, seq));
    return batch;
}

static void write_one(struct mon_spool *spool, const char *emitter, uint64_t seq) {
    struct mon_batch *batch = batch_of(emitter, seq);
    CHECK(mon_spool_write(spool, batch) == 0);
    mon_batch_release(batch);
}

static void a_name_is_misread(void) {
    struct mon_spool_name parts;
    const char owner[] = "01890a5d-ac96-774b-8cce-000000000001.123";
    char name[160];
    snprintf(name, sizeof name, "%s.%020d.jsonl", owner, 7);
    CHECK(mon_spool_parse_name(name, &parts) && parts.owner_len == strlen(owner) && parts.claimer == 0 && !parts.torn);
    snprintf(name, sizeof name, "%s.%020d.jsonl.tmp", owner, 7);
    CHECK(mon_spool_parse_name(name, &parts) && parts.torn);
    snprintf(name, sizeof name, "%s.%020d.jsonl.claimed-99", owner, 7);
    CHECK(mon_spool_parse_name(name, &parts) && parts.claimer == 99);
    const char *wrong[] = {"", "x", ".jsonl.refused", ".claimed-", ".claimed-x", ".tmp2", ".claimed-0"};
    for (size_t i = 2; i < 7; i++) {
        snprintf(name, sizeof name, "%s.%020d.jsonl%s", owner, 7, wrong[i]);
        CHECK(!mon_spool_parse_name(name, &parts));
    }
    CHECK(!mon_spool_parse_name(owner, &parts) && !mon_spool_parse_name("", &parts));
    snprintf(name, sizeof name, "%s.%019d.jsonl", owner, 7);
    CHECK(!mon_spool_parse_name(name, &parts));
}

static void what_a_living_process_wrote_is_taken(void) {
    const char *folder = unit_folder();
    char one[MON_ID_SIZE], other[MON_ID_SIZE];
    mon_id_new(one);
    mon_id_new(other);
    struct mon_spool *mine = mon_spool_new(folder, one);
    struct mon_spool *theirs = mon_spool_new(folder, other);
    write_one(mine, one, 12);
    write_one(mine, one, 3);
    struct mon_names names = {0};
    CHECK(mon_spool_orphans(theirs, &names) == 0 && names.count == 0);
    CHECK(mon_spool_own(mine, &names) == 0 && names.count == 2 && strstr(names.list[0], "00003.jsonl") != NULL);
    mon_names_free(&names);
    mon_spool_close(mine);
    CHECK(mon_spool_orphans(theirs, &names) == 0 && names.count == 2);
    struct mon_claim claim, again;
    CHECK(mon_spool_claim(theirs, names.list[0], &claim) == 0 && claim.batches != NULL && claim.batches->count == 1);
    CHECK(mon_spool_claim(mine, names.list[0], &again) == ENOENT);
    mon_claim_return(&claim);
    CHECK(unit_files(folder, ".jsonl", NULL, 0) == 2);
    CHECK(mon_spool_claim(theirs, names.list[0], &claim) == 0);
    mon_claim_done(&claim);
    CHECK(mon_spool_claim(theirs, names.list[1], &claim) == 0);
    mon_claim_refuse(&claim);
    CHECK(unit_files(folder, ".jsonl", NULL, 0) == 0 && unit_files(folder, ".refused", NULL, 0) == 1 && unit_files(folder, ".lock", NULL, 0) == 0);
    mon_names_free(&names);
    mon_spool_free(mine);
    mon_spool_close(theirs);
    mon_spool_free(theirs);
}

static void the_claim_of_a_dead_process_stays_for_ever(void) {
    const char *folder = unit_folder();
    char emitter[MON_ID_SIZE], me[MON_ID_SIZE];
    mon_id_new(emitter);
    mon_id_new(me);
    pid_t child = fork();
    if (child == 0) { /* dies with a file, a claim and a torn file */
        struct mon_spool *spool = mon_spool_new(folder, emitter);
        struct mon_batch *batch = batch_of(emitter, 1);
        struct mon_claim claim;
        struct mon_names names = {0};
        bool done = mon_spool_write(spool, batch) == 0 && mon_spool_own(spool, &names) == 0 && mon_spool_claim(spool, names.list[0], &claim) == 0;
        char path[256];
        snprintf(path, sizeof path, "%s/%s.%ld.%020d.jsonl.tmp", folder, emitter, (long)getpid(), 2);
        FILE *torn = fopen(path, "w");
        mon_batch_release(batch);
        mon_names_free(&names);
        done = done && torn != NULL && fputs("{\"whole\":1}\n{\"torn", torn) >= 0 && fclose(torn) == 0;
        _exit(done ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    struct mon_spool *spool = mon_spool_new(folder, me);
    struct mon_names names = {0};
    CHECK(mon_spool_orphans(spool, &names) == 0 && names.count == 2);
    size_t events = 0;
    for (size_t i = 0; i < names.count; i++) {
        struct mon_claim claim;
        CHECK(mon_spool_claim(spool, names.list[i], &claim) == 0);
        events += claim.batches == NULL ? 0 : claim.batches->count;
        mon_claim_done(&claim);
    }
    CHECK(events == 2);
    mon_names_free(&names);
    CHECK(mon_spool_orphans(spool, &names) == 0 && names.count == 0);
    CHECK(unit_files(folder, "", NULL, 0) == 0); /* the lock that guards nothing is gone too */
    mon_spool_free(spool);
}

static void a_link_leads_out_of_the_folder(void) {
    const char *folder = unit_folder();
    char emitter[MON_ID_SIZE], me[MON_ID_SIZE], target[128], link[256], name[160];
    mon_id_new(emitter);
    mon_id_new(me);
    snprintf(target, sizeof target, "%s/secret", folder);
    FILE *file = fopen(target, "w");
    CHECK(file != NULL && fclose(file) == 0);
    snprintf(name, sizeof name, "%s.1.%020d.jsonl", emitter, 1);
    snprintf(link, sizeof link, "%s/%s", folder, name);
    CHECK(symlink(target, link) == 0);
    struct mon_spool *spool = mon_spool_new(folder, me);
    struct mon_names names = {0};
    struct mon_claim claim;
    CHECK(mon_spool_orphans(spool, &names) == 0 && names.count == 0);
    CHECK(mon_spool_claim(spool, name, &claim) == ENOENT);
    mon_names_free(&names);
    mon_spool_free(spool);
}

static void a_folder_that_can_not_be_made_goes_unnoticed(void) {
    char emitter[MON_ID_SIZE];
    mon_id_new(emitter);
    struct mon_spool *spool = mon_spool_new("/proc/nowhere/spool", emitter);
    struct mon_batch *batch = batch_of(emitter, 1);
    CHECK(mon_spool_write(spool, batch) != 0);
    mon_batch_release(batch);
    mon_spool_close(spool);
    mon_spool_free(spool);
}

static void a_file_is_there_before_it_is_whole(void) {
    const char *folder = unit_folder();
    char inner[128], path[192], temporary[192], text[16];
    snprintf(inner, sizeof inner, "%s/a//b/c/", folder);
    CHECK(mon_make_folder("", true) != 0 && mon_make_folder(inner, true) == 0 && mon_make_folder(inner, false) == 0);
    snprintf(path, sizeof path, "%sfile", inner);
    snprintf(temporary, sizeof temporary, "%sfile.tmp", inner);
    FILE *torn = fopen(temporary, "w");
    CHECK(torn != NULL && fputs("left by one that died", torn) >= 0 && fclose(torn) == 0);
    CHECK(mon_put_file(path, temporary, "whole", 5) == 0 && mon_put_file(path, temporary, "again", 5) == 0);
    CHECK(unit_files(inner, "", text, sizeof text) == 1);
    CHECK_TEXT(text, "again");
    CHECK(mkdir(temporary, 0777) == 0 && mon_put_file(path, temporary, "never", 5) != 0);
}

static void damage_takes_sound_lines_with_it(void) {
    static const char text[] = "{\"emitter\":{\"id\":\"01890a5d-ac96-774b-8cce-000000000001\",\"seq\":7}}\n"
                               "[1]\n{\"a\":\"\xFF\"}\n\0\0\n{\"torn\":\n\n"
                               "{\"emitter\":{\"id\":\"01890a5d-ac96-774b-8cce-000000000001\",\"seq\":9}}\n3\n{\"a\":\"\xC3\xA4\"} \nnull\n";
    struct mon_batch *damaged;
    struct mon_batch *list = mon_batch_unpack(text, sizeof text - 1);
    CHECK(mon_batch_sort_out(&list, 100, &damaged) && damaged != NULL && damaged->count == 6);
    const uint64_t places[] = {101, 102, 103, 104, 106, 108};
    for (size_t i = 0; damaged != NULL && i < damaged->count && i < 6; i++) {
        CHECK(damaged->lines[i].seq == places[i]);
    }
    CHECK(list != NULL && list->count == 3 && list->next == NULL && list->replayed && mon_batch_first_seq(list) == 7);
    CHECK_TEXT(list->emitter_id, "01890a5d-ac96-774b-8cce-000000000001");
    mon_batch_release(damaged);
    const struct mon_batch *before = list;
    CHECK(mon_batch_sort_out(&list, 1, &damaged) && damaged == NULL && list == before); /* nothing is copied where all is sound */
    mon_batch_release(list);
    list = mon_batch_unpack("x\n", 2);
    CHECK(mon_batch_sort_out(&list, 1, &damaged) && damaged != NULL && damaged->count == 1 && list != NULL && list->count == 0);
    mon_batch_release(damaged);
    mon_batch_release(list);
    list = NULL;
    CHECK(mon_batch_sort_out(&list, 1, &damaged) && damaged == NULL && list == NULL);
}

const struct unit_test unit_spool_tests[] = {
    TEST(a_file_is_there_before_it_is_whole),
    TEST(a_name_is_misread),
    TEST(what_a_living_process_wrote_is_taken),
    TEST(the_claim_of_a_dead_process_stays_for_ever),
    TEST(a_link_leads_out_of_the_folder),
    TEST(a_folder_that_can_not_be_made_goes_unnoticed),
    TEST(damage_takes_sound_lines_with_it),
    {NULL, NULL},
};
