/* The commands of the harness. */
#define _GNU_SOURCE
#include "commands.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitoring.h"
#include "number.h"
#include "text.h"
#include "values.h"

enum { CONTEXTS = 64 };

static struct {
    char name[64];
    mon_context *context;
} contexts[CONTEXTS];

/* ------------------------------------------------------------------------------------------------------------------ arguments */

static const char *text_of(const struct mon_json *object, const char *key) {
    const struct mon_json *value = mon_json_get(object, key);
    return value != NULL && value->type == MON_JSON_STRING ? value->text : NULL;
}

static double number_of(const struct mon_json *object, const char *key, double otherwise) {
    const struct mon_json *value = mon_json_get(object, key);
    bool number = value != NULL && (value->type == MON_JSON_INTEGER || value->type == MON_JSON_NUMBER);
    return number ? mon_number_parse(value->text, value->len) : otherwise;
}

static struct mon_buf rendered(const struct mon_json *command, const char *key) {
    struct mon_buf out = {0};
    const struct mon_json *value = mon_json_get(command, key);
    if (value != NULL) {
        harness_render(&out, value);
    } else {
        mon_buf_text(&out, "null");
    }
    return out;
}

/* -------------------------------------------------------------------------------------------------------------------- answers */

static void add_text(struct mon_buf *answer, const char *key, const char *value) {
    mon_buf_format(answer, ",\"%s\":", key);
    mon_text_quote(answer, value, strlen(value));
}

static void add_error(struct mon_buf *answer, mon_status status) {
    const char *kind = status == MON_ERR_EVENT ? "event" : status == MON_ERR_CONFIG ? "config" : status == MON_ERR_STATE ? "state" : "other";
    mon_buf_format(answer, ",\"ok\":false,\"error\":{\"kind\":\"%s\"", kind);
    add_text(answer, "path", mon_error_path());
    add_text(answer, "message", mon_error_message());
    if (status == MON_ERR_CONFIG) {
        mon_buf_text(answer, ",\"problems\":[");
        for (size_t i = 0; i < mon_error_problem_count(); i++) {
            mon_buf_text(answer, i == 0 ? "{\"path\":" : ",{\"path\":");
            mon_text_quote(answer, mon_error_problem_path(i), strlen(mon_error_problem_path(i)));
            add_text(answer, "message", mon_error_problem_message(i));
            mon_buf_char(answer, '}');
        }
        mon_buf_char(answer, ']');
    }
    mon_buf_char(answer, '}');
}

static void other_error(struct mon_buf *answer, const char *message) {
    mon_buf_text(answer, ",\"ok\":false,\"error\":{\"kind\":\"other\",\"path\":\"\"");
    add_text(answer, "message", message);
    mon_buf_char(answer, '}');
}

static void settle(struct mon_buf *answer, mon_status status) {
    if (status == MON_OK || status == MON_TIMEOUT) {
        mon_buf_text(answer, ",\"ok\":true");
    } else {
        add_error(answer, status);
    }
}

/* ------------------------------------------------------------------------------------------------------------------- commands */

static void initialize(struct mon_buf *answer, const struct mon_json *command) {
    mon_config *config = mon_config_new();
    const char *file = text_of(command, "file");
    mon_status status = MON_OK;
    if (file != NULL) {
        status = mon_config_file(config, file);
    }
    if (status == MON_OK && mon_json_get(command, "config") != NULL) {
        struct mon_buf text = rendered(command, "config");
        status = mon_config_json(config, text.data, text.len);
        mon_buf_free(&text);
    }
    if (status == MON_OK) {
        status = mon_initialize(config);
    }
    mon_config_free(config);
    settle(answer, status);
}

static void emit_event(struct mon_buf *answer, const struct mon_json *command) {
    char id[MON_ID_SIZE] = "";
    struct mon_buf text = rendered(command, "event");
    mon_status status = mon_emit_json_id(text.data, text.len, id);
    mon_buf_free(&text);
    settle(answer, status);
    if (status == MON_OK) {
        add_text(answer, "event_id", id);
    }
}

static void emit_batch(struct mon_buf *answer, const struct mon_json *command) {
    enum { ROOM = 100000 };
    char(*ids)[MON_ID_SIZE] = calloc(ROOM, sizeof *ids);
    size_t count = 0;
    struct mon_buf text = rendered(command, "events");
    mon_status status = mon_emit_batch_json(text.data, text.len, ids, ROOM, &count);
    mon_buf_free(&text);
    settle(answer, status);
    if (status == MON_OK) {
        mon_buf_text(answer, ",\"event_ids\":[");
        for (size_t i = 0; i < count && i < ROOM; i++) {
            mon_buf_format(answer, "%s\"%s\"", i == 0 ? "" : ",", ids[i]);
        }
        mon_buf_char(answer, ']');
    }
    free(ids);
}

/* An event whose attributes get a number for each repetition. */
struct repetition {
    const char *head; /* the event up to the end of its attributes, with a comma where one is needed */
    long times;
    int thread; /* below 0: none */
    double slowest;
    mon_status status;
};

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void *run_repetition(void *data) {
    struct repetition *repetition = data;
    struct mon_buf text = {0};
    for (long i = 0; i < repetition->times && repetition->status == MON_OK; i++) {
        text.len = 0;
        mon_buf_text(&text, repetition->head);
        mon_buf_format(&text, "\"n\":%ld", i);
        if (repetition->thread >= 0) {
            mon_buf_format(&text, ",\"thread\":%d", repetition->thread);
        }
        mon_buf_text(&text, "}}");
        double began = microseconds();
        repetition->status = mon_emit_json(text.data, text.len);
        double took = microseconds() - began;
        repetition->slowest = took > repetition->slowest ? took : repetition->slowest;
    }
    mon_buf_free(&text);
    return NULL;
}

static struct mon_buf head_of(const struct mon_json *event) {
    struct mon_buf head = {0};
    mon_buf_char(&head, '{');
    for (const struct mon_json *entry = event == NULL ? NULL : event->child; entry != NULL; entry = entry->next) {
        if (!mon_json_is(entry->key, entry->key_len, "attributes")) {
            mon_text_quote(&head, entry->key, entry->key_len);
            mon_buf_char(&head, ':');
            harness_render(&head, entry);
            mon_buf_char(&head, ',');
        }
    }
    mon_buf_text(&head, "\"attributes\":{");
    const struct mon_json *attributes = mon_json_get(event, "attributes");
    for (const struct mon_json *entry = attributes == NULL ? NULL : attributes->child; entry != NULL; entry = entry->next) {
        mon_text_quote(&head, entry->key, entry->key_len);
        mon_buf_char(&head, ':');
        harness_render(&head, entry);
        mon_buf_char(&head, ',');
    }
    (void)mon_buf_string(&head);
    return head;
}

static void repeat(struct mon_buf *answer, const struct mon_json *command, size_t threads) {
    enum { MOST = 256 };
    struct mon_buf head = head_of(mon_json_get(command, "event"));
    struct repetition repetitions[MOST];
    pthread_t running[MOST];
    size_t count = threads == 0 ? 1 : threads < MOST ? threads : MOST;
    size_t started = 0;
    for (size_t i = 0; i < count; i++) {
        repetitions[i] = (struct repetition){.head = head.data, .times = (long)number_of(command, "times", 1), .thread = threads == 0 ? -1 : (int)i};
        if (threads == 0) {
            run_repetition(&repetitions[i]);
        } else if (pthread_create(&running[i], NULL, run_repetition, &repetitions[i]) == 0) {
            started++;
        } else {
            break;
        }
    }
    double slowest = 0;
    mon_status status = threads > 0 && started < count ? MON_ERR_SYSTEM : MON_OK;
    for (size_t i = 0; i < (threads == 0 ? count : started); i++) {
        if (threads > 0) {
            pthread_join(running[i], NULL);
        }
        slowest = repetitions[i].slowest > slowest ? repetitions[i].slowest : slowest;
        status = status == MON_OK ? repetitions[i].status : status;
    }
    mon_buf_free(&head);
    settle(answer, status);
    if (status == MON_OK) {
        mon_buf_format(answer, ",\"slowest_us\":%.1f", slowest);
    }
}

static mon_context **context_of(const struct mon_json *command, bool make) {
    const char *name = text_of(command, "context");
    for (size_t i = 0; name != NULL && i < CONTEXTS; i++) {
        if (contexts[i].context != NULL && strcmp(contexts[i].name, name) == 0) {
            return &contexts[i].context;
        }
    }
    for (size_t i = 0; make && i < CONTEXTS; i++) {
        if (contexts[i].context == NULL) {
            snprintf(contexts[i].name, sizeof contexts[i].name, "%s", name == NULL ? "" : name);
            return &contexts[i].context;
        }
    }
    return NULL;
}

static void context_start(struct mon_buf *answer, const struct mon_json *command) {
    mon_context **place = context_of(command, true);
    const char *name = text_of(command, "name");
    if (place == NULL) {
        other_error(answer, "too many contexts");
        return;
    }
    const struct mon_json *metadata = mon_json_get(command, "metadata");
    if (metadata != NULL && metadata->type != MON_JSON_NULL) {
        struct mon_buf text = rendered(command, "metadata");
        *place = mon_context_begin_json(name, text.data, text.len);
        mon_buf_free(&text);
    } else {
        *place = mon_context_begin(name, NULL);
    }
    if (*place == NULL) {
        add_error(answer, mon_error_status());
    } else {
        mon_buf_text(answer, ",\"ok\":true");
        add_text(answer, "run_id", mon_context_run_id(*place));
    }
}

static void in_context(struct mon_buf *answer, const struct mon_json *command, const char *what) {
    mon_context **place = context_of(command, false);
    if (place == NULL) {
        other_error(answer, "there is no such context");
        return;
    }
    if (strcmp(what, "progress") == 0) {
        char id[MON_ID_SIZE];
        mon_status status = mon_context_progress(*place, number_of(command, "progress", 0), text_of(command, "message"), id);
        settle(answer, status);
        if (status == MON_OK) {
            add_text(answer, "event_id", id);
        }
        return;
    }
    mon_context *context = *place;
    *place = NULL;
    if (strcmp(what, "finish") == 0) {
        settle(answer, mon_context_end_ok(context));
        return;
    }
    mon_status status = mon_context_fail(context, text_of(command, "type"), text_of(command, "message"));
    settle(answer, status);
    if (status == MON_OK) {
        mon_buf_text(answer, ",\"raised\":true");
    }
}

static void flush(struct mon_buf *answer, const struct mon_json *command) {
    mon_status status = mon_flush(number_of(command, "timeout", 5));
    settle(answer, status);
    if (status != MON_OK && status != MON_TIMEOUT) {
        return;
    }
    mon_buf_format(answer, ",\"flushed\":%s,\"backends\":{", status == MON_OK ? "true" : "false");
    for (size_t i = 0; i < mon_backend_count(); i++) {
        mon_backend_counts counts;
        if (mon_backend_stats(i, &counts) != MON_OK) {
            break;
        }
        mon_buf_format(answer,
                       "%s\"%s\":{\"type\":\"%s\",\"delivered\":%llu,\"rejected\":%llu,\"spooled\":%llu,\"failed\":%llu,\"replayed\":%llu,\"dropped\":%llu,"
                       "\"waiting\":%llu", i == 0 ? "" : ",",
                       counts.name, counts.type, (unsigned long long)counts.delivered, (unsigned long long)counts.rejected,
                       (unsigned long long)counts.spooled, (unsigned long long)counts.failed, (unsigned long long)counts.replayed,
                       (unsigned long long)counts.dropped, (unsigned long long)counts.waiting);
        add_text(answer, "trouble", counts.trouble);
        mon_buf_char(answer, '}');
    }
    mon_buf_char(answer, '}');
}

static void stats(struct mon_buf *answer) {
    mon_counts c;
    settle(answer, mon_stats(&c));
    mon_buf_format(answer,
                   ",\"stats\":{\"emitted\":%llu,\"sent\":%llu,\"spooled\":%llu,\"replayed\":%llu,\"rejected\":%llu,\"failed\":%llu,\"dropped\":%llu,\"queued\":%llu,"
                   "\"dropped_by_reason\":{\"queue_full\":%llu,\"spool_failed\":%llu,\"undeliverable\":%llu}}",
                   (unsigned long long)c.emitted, (unsigned long long)c.sent, (unsigned long long)c.spooled, (unsigned long long)c.replayed,
                   (unsigned long long)c.rejected, (unsigned long long)c.failed, (unsigned long long)c.dropped, (unsigned long long)c.queued,
                   (unsigned long long)c.dropped_queue_full, (unsigned long long)c.dropped_spool_failed, (unsigned long long)c.dropped_undeliverable);
}

static size_t entries_of(const char *path) {
    size_t count = 0;
    DIR *folder = opendir(path);
    if (folder != NULL) {
        const struct dirent *entry;
        while ((entry = readdir(folder)) != NULL) {
            count += entry->d_name[0] != '.';
        }
        closedir(folder);
    }
    return count;
}

static void resources(struct mon_buf *answer) {
    /* one of the files is the folder that is read */
    mon_buf_format(answer, ",\"ok\":true,\"threads\":%zu,\"files\":%zu", entries_of("/proc/self/task"), entries_of("/proc/self/fd") - 1);
}

static void rest(double seconds) {
    struct timespec pause = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&pause, &pause) != 0) {
    }
}

static void fork_off(struct mon_buf *answer, const struct mon_json *command) {
    int ends[2];
    if (pipe(ends) != 0) {
        other_error(answer, "no pipe");
        return;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        const struct mon_json *commands = mon_json_get(command, "commands");
        struct mon_buf answers = {0};
        bool goes_on = true;
        for (const struct mon_json *inner = commands == NULL ? NULL : commands->child; goes_on && inner != NULL; inner = inner->next) {
            answers.len = 0;
            goes_on = harness_command(&answers, inner);
            mon_buf_char(&answers, inner->next == NULL ? ' ' : ',');
            if (write(ends[1], answers.data, answers.len) < 0) {
                break;
            }
        }
        mon_buf_free(&answers);
        close(ends[1]);
        fclose(stdin);
        exit(0);
    }
    close(ends[1]);
    mon_buf_text(answer, ",\"ok\":true,\"answers\":[");
    char piece[4096];
    ssize_t got;
    while ((got = read(ends[0], piece, sizeof piece)) > 0) {
        mon_buf_add(answer, piece, (size_t)got);
    }
    close(ends[0]);
    if (answer->data[answer->len - 1] == ',') { /* the child ended in the middle */
        answer->len--;
    }
    int status = 0;
    waitpid(child, &status, 0);
    mon_buf_format(answer, "],\"status\":%d", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static void crash(const struct mon_json *command) {
    const char *how = text_of(command, "how");
    how = how == NULL ? "kill" : how;
    fflush(stdout);
    if (strcmp(how, "exit") == 0) {
        exit(0);
    }
    if (strcmp(how, "abort") == 0) {
        abort();
    }
    if (strcmp(how, "exception") == 0) { /* C has none: a program that meets an error it can't handle ends like this */
        fprintf(stderr, "an error that nobody handles\n");
        exit(EXIT_FAILURE);
    }
    kill(getpid(), SIGKILL);
}

static bool run(struct mon_buf *answer, const char *what, const struct mon_json *command) {
    if (strcmp(what, "initialize") == 0) {
        initialize(answer, command);
    } else if (strcmp(what, "emit_event") == 0) {
        emit_event(answer, command);
    } else if (strcmp(what, "emit_batch") == 0) {
        emit_batch(answer, command);
    } else if (strcmp(what, "repeat") == 0) {
        repeat(answer, command, 0);
    } else if (strcmp(what, "threads") == 0) {
        repeat(answer, command, (size_t)number_of(command, "threads", 1));
    } else if (strcmp(what, "context_start") == 0) {
        context_start(answer, command);
    } else if (strcmp(what, "progress") == 0 || strcmp(what, "finish") == 0 || strcmp(what, "error") == 0) {
        in_context(answer, command, what);
    } else if (strcmp(what, "flush") == 0) {
        flush(answer, command);
    } else if (strcmp(what, "stats") == 0) {
        stats(answer);
    } else if (strcmp(what, "sleep") == 0 || strcmp(what, "idle") == 0) {
        rest(number_of(command, "seconds", 0));
        mon_buf_text(answer, ",\"ok\":true");
    } else if (strcmp(what, "fork") == 0) {
        fork_off(answer, command);
    } else if (strcmp(what, "close") == 0) {
        settle(answer, mon_close());
    } else if (strcmp(what, "resources") == 0) {
        resources(answer);
    } else if (strcmp(what, "crash") == 0) {
        crash(command);
        return false;
    } else {
        other_error(answer, "unknown command");
    }
    return true;
}

bool harness_command(struct mon_buf *answer, const struct mon_json *command) {
    const struct mon_json *id = mon_json_get(command, "id");
    const char *what = text_of(command, "do");
    mon_buf_text(answer, "{\"id\":");
    if (id == NULL) {
        mon_buf_text(answer, "null");
    } else {
        mon_json_write(answer, id);
    }
    bool goes_on = run(answer, what == NULL ? "" : what, command);
    mon_buf_char(answer, '}');
    return goes_on;
}
