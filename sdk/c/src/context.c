/* Runs: begun, nested by thread, ended. */
#define _GNU_SOURCE
#include "context.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif

#include "client.h"
#include "error.h"
#include "metadata.h"
#include "text.h"
#include "thread.h"

enum { LONGEST_ERROR = 8000, LONGEST_STACK = 32000, FRAMES = 48 };
static const double ROUNDING = 1e-9;

static void free_table(struct mon_table *table) {
    mon_buf_free(&table->text);
    free(table->entries);
}

void mon_context_release(struct mon_context *context) {
    if (atomic_fetch_sub(&context->references, 1) == 1) {
        free_table(&context->entities);
        free_table(&context->attributes);
        mon_buf_free(&context->run);
        mon_buf_free(&context->parent);
        free(context->name);
        free(context);
    }
}

/* Adds the entries of one table that another does not have. */
static bool add_missing(struct mon_table *table, const struct mon_table *other) {
    for (size_t i = 0; i < other->count; i++) {
        const char *entry = other->text.data + other->entries[i].start;
        size_t end = i + 1 < other->count ? other->entries[i + 1].start : other->text.len;
        if (mon_table_has(table, entry, other->entries[i].key_len)) {
            continue;
        }
        struct mon_entry *entries = realloc(table->entries, (table->count + 1) * sizeof *entries);
        if (entries == NULL) {
            return false;
        }
        table->entries = entries;
        table->room = table->count + 1;
        entries[table->count++] = (struct mon_entry){(unsigned)table->text.len, other->entries[i].key_len};
        mon_buf_add(&table->text, entry, end - other->entries[i].start);
    }
    return !table->text.failed;
}

static bool push(struct mon_context *context) {
    struct mon_thread *thread = mon_thread();
    struct mon_link *link = thread == NULL ? NULL : malloc(sizeof *link);
    if (link == NULL) {
        return false;
    }
    *link = (struct mon_link){context, thread->innermost};
    atomic_fetch_add(&context->references, 1);
    thread->innermost = link;
    return true;
}

static bool pop(struct mon_context *context) {
    struct mon_thread *thread = mon_thread();
    for (struct mon_link **at = thread == NULL ? NULL : &thread->innermost; at != NULL && *at != NULL; at = &(*at)->outer) {
        struct mon_link *link = *at;
        if (link->context == context) {
            *at = link->outer;
            free(link);
            mon_context_release(context);
            return true;
        }
    }
    return false;
}

mon_context *mon_context_current(void) {
    const struct mon_thread *thread = mon_thread();
    return thread == NULL || thread->innermost == NULL ? NULL : thread->innermost->context;
}

static mon_context *fail(const char *message) {
    mon_error_set(MON_ERR_MEMORY, "", "%s", message);
    return NULL;
}

/* A run inside the active one, not yet begun. */
static struct mon_context *new_context(const char *name, const struct mon_metadata *metadata) {
    struct mon_context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        return NULL;
    }
    const struct mon_context *outer = mon_context_current();
    atomic_init(&context->references, 1);
    context->fork_count = mon_client_forks();
    context->began = mon_monotonic();
    context->name = strdup(name);
    mon_id_new(context->run_id);
    mon_buf_format(&context->run, "\"run_id\":\"%s\",", context->run_id);
    if (outer != NULL) {
        mon_buf_format(&context->parent, "\"parent_run_id\":\"%s\",", outer->run_id);
    }
    bool whole = context->name != NULL && !context->run.failed && !context->parent.failed;
    if (metadata != NULL) {
        whole = whole && add_missing(&context->entities, &metadata->event->entities) && add_missing(&context->attributes, &metadata->event->attributes);
    }
    if (outer != NULL) {
        whole = whole && add_missing(&context->entities, &outer->entities);
    }
    if (!whole) {
        mon_context_release(context);
        return NULL;
    }
    return context;
}

static void give_attributes(struct mon_event *event, const struct mon_context *context) {
    if (context->attributes.count > 0) {
        event->given |= 1U << MON_F_ATTRIBUTES;
        if (!add_missing(&event->attributes, &context->attributes)) {
            event->attributes.text.failed = true;
        }
    }
}

mon_context *mon_context_begin(const char *name, const mon_metadata *metadata) {
    if (metadata != NULL && metadata->event->status != MON_OK) {
        (void)mon_event_complete(metadata->event); /* which notes the mistake as this thread's error */
        return NULL;
    }
    struct mon_event *start = mon_event_new(MON_START, name);
    struct mon_context *context = start == NULL || name == NULL ? NULL : new_context(name, metadata);
    if (context == NULL) {
        mon_status status = start == NULL ? MON_ERR_MEMORY : mon_event_complete(start);
        mon_event_free(start);
        return status == MON_ERR_EVENT ? NULL : fail("out of memory for a context");
    }
    give_attributes(start, context);
    if (mon_client_emit(start, context, NULL) != MON_OK) {
        mon_context_release(context);
        return NULL;
    }
    if (!push(context)) {
        mon_context_release(context);
        return fail("out of memory for a context");
    }
    return context;
}

mon_context *mon_context_begin_with(const char *name, ...) {
    struct mon_metadata *metadata = mon_metadata_new();
    if (metadata == NULL) {
        return NULL;
    }
    va_list pairs;
    va_start(pairs, name);
    const char *key;
    while ((key = va_arg(pairs, const char *)) != NULL) {
        const char *value = va_arg(pairs, const char *);
        if (value == NULL) {
            mon_event_mistake(metadata->event, key, "expected a value after this key, got NULL");
            break;
        }
        (void)mon_metadata_text(metadata, key, value);
    }
    va_end(pairs);
    mon_context *context = mon_context_begin(name, metadata);
    mon_metadata_free(metadata);
    return context;
}

static mon_status no_context(void) {
    return mon_error_set(MON_ERR_ARGUMENT, "", "expected a context, got NULL");
}

mon_status mon_context_progress(mon_context *context, double fraction, const char *message, char *event_id) {
    if (context == NULL) {
        return no_context();
    }
    struct mon_event *event = mon_event_new(MON_PROGRESS, context->name);
    if (event == NULL) {
        return MON_ERR_MEMORY;
    }
    (void)mon_event_progress(event, fraction > 1 && fraction <= 1 + ROUNDING ? 1 : fraction);
    if (message != NULL) {
        (void)mon_event_message(event, message);
    }
    return mon_client_emit(event, context, event_id);
}

/* --------------------------------------------------------------------------------------------------------------------- the end */

/* Head and tail of a text that is too long. */
static char *cut(const char *text, size_t longest) {
    size_t len = strlen(text);
    if (len <= longest) {
        return strdup(text);
    }
    size_t head = mon_text_fit(text, len, longest / 2);
    size_t tail = len - longest / 2;
    while (tail < len && ((unsigned char)text[tail] & 0xC0) == 0x80) {
        tail++;
    }
    char *whole = NULL;
    return asprintf(&whole, "%.*s\n... %zu bytes left out ...\n%s", (int)head, text, tail - head, text + tail) < 0 ? NULL : whole;
}

struct failure {
    const char *type;
    const char *message;
    const char *stack;
};

static struct mon_event *end_event(const struct mon_context *context, mon_outcome outcome, const struct failure *failure, double took) {
    struct mon_event *event = mon_event_new(outcome == MON_FAILED ? MON_ERROR : MON_FINISH, context->name);
    if (event == NULL) {
        return NULL;
    }
    (void)mon_event_outcome(event, outcome);
    (void)mon_event_duration(event, round(took * 1e6) / 1e3);
    if (outcome == MON_ABORTED) {
        (void)mon_event_severity(event, MON_WARNING);
    }
    if (failure != NULL) {
        char *type = strndup(failure->type[0] == '\0' ? "error" : failure->type, mon_text_fit(failure->type, strlen(failure->type) + 1, MON_MAX_TEXT));
        char *message = cut(failure->message, LONGEST_ERROR);
        char *stack = failure->stack == NULL ? NULL : cut(failure->stack, LONGEST_STACK);
        (void)mon_event_error(event, type == NULL ? "error" : type, message == NULL ? "" : message, stack);
        free(type);
        free(message);
        free(stack);
    }
    return event;
}

static mon_status end(mon_context *context, mon_outcome outcome, const struct failure *failure) {
    if (context == NULL) {
        return no_context();
    }
    if (atomic_exchange(&context->ended, true)) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "this context has ended before");
    }
    double took = mon_monotonic() - context->began;
    (void)pop(context);
    mon_status status = MON_OK;
    if (context->fork_count == mon_client_forks()) { /* in a forked child the run is the parent's to end */
        struct mon_event *event = end_event(context, outcome, failure, took);
        status = MON_ERR_MEMORY;
        if (event != NULL) {
            give_attributes(event, context);
            status = mon_client_emit(event, context, NULL);
        }
        if (status == MON_ERR_EVENT) { /* together they are too large: the end matters more than what is said about it */
            event = end_event(context, outcome, failure, took);
            if (event != NULL) {
                (void)mon_event_boolean(event, "truncated", true);
                status = mon_client_emit(event, context, NULL);
            }
        }
    }
    mon_context_release(context);
    return status;
}

mon_status mon_context_end_ok(mon_context *context) {
    return end(context, MON_SUCCEEDED, NULL);
}

mon_status mon_context_fail_at(mon_context *context, const char *type, const char *message, const char *stack) {
    struct failure failure = {type == NULL ? "error" : type, message == NULL ? "" : message, stack};
    return end(context, MON_FAILED, &failure);
}

/* The calls that led here, innermost first, a line each; to be freed, NULL when they can't be had. */
static char *calls(void) {
#ifdef __GLIBC__
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    char **names = backtrace_symbols(frames, count);
    struct mon_buf text = {0};
    for (int i = 2; names != NULL && i < count; i++) {
        mon_buf_format(&text, "%s%s", i > 2 ? "\n" : "", names[i]);
    }
    free(names);
    (void)mon_buf_string(&text);
    return text.data;
#else
    return NULL;
#endif
}

mon_status mon_context_fail(mon_context *context, const char *type, const char *message) {
    char *stack = calls();
    mon_status status = mon_context_fail_at(context, type, message, stack);
    free(stack);
    return status;
}

mon_status mon_context_abort(mon_context *context, const char *type, const char *message) {
    struct failure failure = {type == NULL ? "aborted" : type, message == NULL ? "" : message, NULL};
    return end(context, MON_ABORTED, &failure);
}

const char *mon_context_run_id(const mon_context *context) {
    return context == NULL ? "" : context->run_id;
}

mon_status mon_context_enter(mon_context *context) {
    if (context == NULL) {
        return no_context();
    }
    return push(context) ? MON_OK : mon_error_set(MON_ERR_MEMORY, "", "out of memory for a context");
}

mon_status mon_context_leave(mon_context *context) {
    if (context == NULL) {
        return no_context();
    }
    return pop(context) ? MON_OK : mon_error_set(MON_ERR_ARGUMENT, "", "this thread is not in that context");
}
