/* An event that is being put together, field by field. */
#include "event.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "number.h"
#include "text.h"
#include "thread.h"

enum { SPARES = 16, LARGE = 64 * 1024 };

static void clear_table(struct mon_table *table) {
    table->text.len = 0;
    table->text.failed = false;
    table->count = 0;
}

static void clear(struct mon_event *event) {
    event->given = 0;
    event->dropped_metrics = false;
    event->status = MON_OK;
    event->text.len = 0;
    event->text.failed = false;
    event->left_out.len = 0;
    event->event_id[0] = '\0';
    clear_table(&event->entities);
    clear_table(&event->metrics);
    clear_table(&event->attributes);
}

static void destroy(struct mon_event *event) {
    struct mon_table *tables[] = {&event->entities, &event->metrics, &event->attributes};
    for (size_t i = 0; i < 3; i++) {
        mon_buf_free(&tables[i]->text);
        free(tables[i]->entries);
    }
    mon_buf_free(&event->text);
    mon_buf_free(&event->left_out);
    free(event);
}

struct mon_event *mon_event_take(void) {
    struct mon_thread *thread = mon_thread();
    if (thread == NULL) {
        return NULL;
    }
    struct mon_event *event = thread->spare_events;
    if (event != NULL) {
        thread->spare_events = event->next;
        thread->spares--;
        clear(event);
        return event;
    }
    event = calloc(1, sizeof *event);
    if (event == NULL) {
        mon_error_set(MON_ERR_MEMORY, "", "out of memory for an event");
    }
    return event;
}

void mon_event_free(mon_event *event) {
    if (event == NULL) {
        return;
    }
    struct mon_thread *thread = mon_thread();
    size_t size = event->text.cap + event->entities.text.cap + event->metrics.text.cap + event->attributes.text.cap;
    if (thread == NULL || thread->spares >= SPARES || size > LARGE) {
        destroy(event);
        return;
    }
    event->next = thread->spare_events;
    thread->spare_events = event;
    thread->spares++;
}

void mon_event_free_spares(struct mon_thread *thread) {
    while (thread->spare_events != NULL) {
        struct mon_event *event = thread->spare_events;
        thread->spare_events = event->next;
        destroy(event);
    }
    thread->spares = 0;
}

mon_status mon_event_mistake(struct mon_event *event, const char *path, const char *format, ...) {
    if (event->status == MON_OK) {
        event->status = MON_ERR_EVENT;
        snprintf(event->path, sizeof event->path, "%s", path);
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(event->problem, sizeof event->problem, format, arguments);
        va_end(arguments);
    }
    return MON_ERR_EVENT;
}

/* ---------------------------------------------------------------------------------------------------------- single fields */

/* Begins a single field, in place of what it was. */
static void begin(struct mon_event *event, enum mon_field field) {
    static const char *const openings[MON_FIELDS] = {
        "\"event_id\":", "\"timestamp\":",     "\"kind\":",     "\"name\":",   "\"site_id\":",  "\"app\":",     "\"run_id\":",
        "\"parent_run_id\":", "\"entities\":", "\"status\":",   "\"severity\":", "\"message\":", "\"progress\":", "\"duration_ms\":",
        "\"state\":",    "\"metrics\":",       "\"error\":",    "\"trace_id\":", "\"span_id\":", "\"attributes\":",
    };
    if (event->given & (1U << field)) {
        struct mon_piece old = event->pieces[field];
        mon_buf_cut(&event->text, old.start, old.len);
        for (size_t i = 0; i < MON_FIELDS; i++) {
            if (event->pieces[i].start > old.start) {
                event->pieces[i].start -= old.len;
            }
        }
    }
    event->given |= 1U << field;
    event->pieces[field].start = (unsigned)event->text.len;
    mon_buf_text(&event->text, openings[field]);
}

static mon_status finish(struct mon_event *event, enum mon_field field) {
    mon_buf_char(&event->text, ',');
    event->pieces[field].len = (unsigned)event->text.len - event->pieces[field].start;
    return MON_OK;
}

static bool allowed(struct mon_event *event, enum mon_field field) {
    const char *kinds = mon_field_kinds(field, event->kind);
    if (kinds == NULL) {
        return true;
    }
    mon_event_mistake(event, mon_field_names[field], "is only allowed on kind %s, not on %s", kinds, mon_kind_names[event->kind]);
    return false;
}

mon_status mon_event_set_raw(struct mon_event *event, enum mon_field field, const char *json, size_t len) {
    begin(event, field);
    mon_buf_add(&event->text, json, len);
    return finish(event, field);
}

static mon_status check_length(struct mon_event *event, const char *path, size_t characters, size_t longest) {
    if (characters == 0) {
        return mon_event_mistake(event, path, "expected at least 1 character(s)");
    }
    if (characters > longest) {
        return mon_event_mistake(event, path, "expected at most %zu character(s)", longest);
    }
    return MON_OK;
}

mon_status mon_event_set_short(struct mon_event *event, enum mon_field field, const char *text, size_t len, size_t longest) {
    begin(event, field);
    size_t characters = mon_text_quote(&event->text, text, len);
    finish(event, field);
    return check_length(event, mon_field_names[field], characters, longest);
}

mon_status mon_event_set_kind(struct mon_event *event, mon_kind kind) {
    static const char *const texts[] = {"\"start\"", "\"progress\"", "\"finish\"", "\"error\"", "\"metric\"", "\"log\"", "\"state\""};
    event->kind = kind;
    return mon_event_set_raw(event, MON_F_KIND, texts[kind], strlen(texts[kind]));
}

mon_event *mon_event_new(mon_kind kind, const char *name) {
    struct mon_event *event = mon_event_take();
    if (event == NULL) {
        return NULL;
    }
    bool known = (unsigned)kind <= MON_STATE;
    mon_event_set_kind(event, known ? kind : MON_LOG);
    if (!known) {
        mon_event_mistake(event, "kind", "expected one of start, progress, finish, error, metric, log, state, got %d", (int)kind);
    }
    if (name == NULL) {
        mon_event_mistake(event, "name", "required field is missing");
    } else {
        mon_event_set_short(event, MON_F_NAME, name, strlen(name), MON_MAX_TEXT);
    }
    return event;
}

/* What a setter answers when there is no event, or no text. */
static mon_status missing(struct mon_event *event, const char *path) {
    return event == NULL ? mon_error_set(MON_ERR_ARGUMENT, "", "expected an event, got NULL")
                         : mon_event_mistake(event, path, "expected text, got NULL");
}

mon_status mon_event_set_message(struct mon_event *event, const char *text, size_t len) {
    begin(event, MON_F_MESSAGE);
    bool cut = false;
    if (len <= MON_MAX_MESSAGE / 3) {
        mon_text_quote(&event->text, text, len);
    } else {
        struct mon_buf clean = {0};
        mon_text_clean(&clean, text, len);
        size_t fit = mon_text_fit(clean.data, clean.len, MON_MAX_MESSAGE);
        cut = fit < clean.len;
        mon_text_quote(&event->text, clean.data, fit);
        event->text.failed |= clean.failed;
        mon_buf_free(&clean);
    }
    finish(event, MON_F_MESSAGE);
    return cut ? mon_event_boolean(event, "truncated", true) : MON_OK;
}

mon_status mon_event_message(mon_event *event, const char *text) {
    return event == NULL || text == NULL ? missing(event, "message") : mon_event_set_message(event, text, strlen(text));
}

mon_status mon_event_message_n(mon_event *event, const char *text, size_t length) {
    return event == NULL || text == NULL ? missing(event, "message") : mon_event_set_message(event, text, length);
}

static mon_status set_choice(struct mon_event *event, enum mon_field field, int choice, const char *const *names, int count) {
    if (choice < 0 || choice >= count) {
        return mon_event_mistake(event, mon_field_names[field], "expected one of its %d values, got %d", count, choice);
    }
    return mon_event_set_short(event, field, names[choice], strlen(names[choice]), MON_MAX_TEXT);
}

mon_status mon_event_severity(mon_event *event, mon_severity severity) {
    return event == NULL ? missing(event, "severity") : set_choice(event, MON_F_SEVERITY, (int)severity, mon_severity_names, 5);
}

mon_status mon_event_outcome(mon_event *event, mon_outcome outcome) {
    if (event == NULL) {
        return missing(event, "status");
    }
    return allowed(event, MON_F_STATUS) ? set_choice(event, MON_F_STATUS, (int)outcome, mon_outcome_names, 3) : MON_ERR_EVENT;
}

static mon_status set_number(struct mon_event *event, enum mon_field field, double value) {
    begin(event, field);
    mon_number_add(&event->text, value);
    return finish(event, field);
}

mon_status mon_event_progress(mon_event *event, double fraction) {
    if (event == NULL) {
        return missing(event, "progress");
    }
    if (!allowed(event, MON_F_PROGRESS)) {
        return MON_ERR_EVENT;
    }
    if (!(fraction >= 0)) {
        return mon_event_mistake(event, "progress", "expected a number not below 0");
    }
    if (fraction > 1) {
        return mon_event_mistake(event, "progress", "expected a number not above 1");
    }
    return set_number(event, MON_F_PROGRESS, fraction);
}

mon_status mon_event_duration(mon_event *event, double milliseconds) {
    if (event == NULL) {
        return missing(event, "duration_ms");
    }
    if (!allowed(event, MON_F_DURATION_MS)) {
        return MON_ERR_EVENT;
    }
    if (!(milliseconds >= 0) || isinf(milliseconds)) {
        return mon_event_mistake(event, "duration_ms", "expected a number not below 0");
    }
    return set_number(event, MON_F_DURATION_MS, milliseconds);
}

static mon_status add_member(struct mon_event *event, const char *name, const char *text, const char *path, size_t longest) {
    if (event->text.data[event->text.len - 1] != '{') {
        mon_buf_char(&event->text, ',');
    }
    mon_buf_format(&event->text, "\"%s\":", name);
    size_t characters = mon_text_quote(&event->text, text, strlen(text));
    return longest == 0 ? MON_OK : check_length(event, path, characters, longest);
}

mon_status mon_event_error(mon_event *event, const char *type, const char *message, const char *stack) {
    if (event == NULL) {
        return missing(event, "error");
    }
    if (!allowed(event, MON_F_ERROR)) {
        return MON_ERR_EVENT;
    }
    if (type == NULL || message == NULL) {
        return mon_event_mistake(event, type == NULL ? "error.type" : "error.message", "required field is missing");
    }
    begin(event, MON_F_ERROR);
    mon_buf_char(&event->text, '{');
    mon_status status = add_member(event, "type", type, "error.type", MON_MAX_TEXT);
    add_member(event, "message", message, "", 0);
    if (stack != NULL) {
        add_member(event, "stack", stack, "", 0);
    }
    mon_buf_char(&event->text, '}');
    finish(event, MON_F_ERROR);
    return status;
}

mon_status mon_event_state(mon_event *event, const char *from, const char *to) {
    if (event == NULL) {
        return missing(event, "state");
    }
    if (!allowed(event, MON_F_STATE)) {
        return MON_ERR_EVENT;
    }
    if (to == NULL) {
        return mon_event_mistake(event, "state.to", "required field is missing");
    }
    begin(event, MON_F_STATE);
    mon_buf_char(&event->text, '{');
    mon_status status = from == NULL ? MON_OK : add_member(event, "from", from, "state.from", MON_MAX_TEXT);
    mon_status other = add_member(event, "to", to, "state.to", MON_MAX_TEXT);
    mon_buf_char(&event->text, '}');
    finish(event, MON_F_STATE);
    return status != MON_OK ? status : other;
}

mon_status mon_event_trace(mon_event *event, const char *trace_id, const char *span_id) {
    if (event == NULL || trace_id == NULL || span_id == NULL) {
        return missing(event, trace_id == NULL ? "trace_id" : "span_id");
    }
    if (!mon_is_hex(trace_id, strlen(trace_id), 32)) {
        return mon_event_mistake(event, "trace_id", "expected 32 lower-case hexadecimal digits");
    }
    if (!mon_is_hex(span_id, strlen(span_id), 16)) {
        return mon_event_mistake(event, "span_id", "expected 16 lower-case hexadecimal digits");
    }
    mon_event_set_short(event, MON_F_TRACE_ID, trace_id, 32, 32);
    return mon_event_set_short(event, MON_F_SPAN_ID, span_id, 16, 16);
}

/* ----------------------------------------------------------------------------------------------------------------- tables */

static void set_path(char *path, size_t size, const char *table, const char *key, size_t len) {
    snprintf(path, size, "%s.%.*s", table, (int)len, key);
}

mon_status mon_event_set_entity(struct mon_event *event, const char *key, size_t key_len, const char *value, size_t len) {
    struct mon_table *table = &event->entities;
    if (!mon_table_key(event, table, "entities", key, key_len, false)) {
        return MON_ERR_EVENT;
    }
    size_t characters = mon_text_quote(&table->text, value, len);
    mon_buf_char(&table->text, ',');
    event->given |= 1U << MON_F_ENTITIES;
    if (characters == 0 || characters > MON_MAX_TEXT) {
        char path[sizeof event->path];
        set_path(path, sizeof path, "entities", key, key_len);
        mon_table_undo(table);
        return check_length(event, path, characters, MON_MAX_TEXT);
    }
    return MON_OK;
}

mon_status mon_event_entity(mon_event *event, const char *key, const char *value) {
    if (event == NULL || key == NULL || value == NULL) {
        return missing(event, "entities");
    }
    return mon_event_set_entity(event, key, strlen(key), value, strlen(value));
}

mon_status mon_event_metric(mon_event *event, const char *key, double value) {
    if (event == NULL || key == NULL) {
        return missing(event, "metrics");
    }
    if (!mon_table_key(event, &event->metrics, "metrics", key, strlen(key), false)) {
        return MON_ERR_EVENT;
    }
    event->given |= 1U << MON_F_METRICS;
    if (!isfinite(value)) {
        mon_table_undo(&event->metrics);
        if (event->left_out.len > 0) {
            mon_buf_char(&event->left_out, ',');
        }
        mon_text_quote(&event->left_out, key, strlen(key));
        return MON_OK;
    }
    mon_number_add(&event->metrics.text, value);
    mon_buf_char(&event->metrics.text, ',');
    return MON_OK;
}

mon_status mon_event_metric_int(mon_event *event, const char *key, int64_t value) {
    if (event == NULL || key == NULL) {
        return missing(event, "metrics");
    }
    if (!mon_table_key(event, &event->metrics, "metrics", key, strlen(key), false)) {
        return MON_ERR_EVENT;
    }
    event->given |= 1U << MON_F_METRICS;
    mon_number_add_integer(&event->metrics.text, value);
    mon_buf_char(&event->metrics.text, ',');
    return MON_OK;
}

static struct mon_buf *attribute(mon_event *event, const char *key) {
    if (event == NULL || key == NULL) {
        missing(event, "attributes");
        return NULL;
    }
    if (!mon_table_key(event, &event->attributes, "attributes", key, strlen(key), true)) {
        return NULL;
    }
    event->given |= 1U << MON_F_ATTRIBUTES;
    return &event->attributes.text;
}

mon_status mon_event_text_n(mon_event *event, const char *key, const char *value, size_t length) {
    if (value == NULL) {
        return missing(event, "attributes");
    }
    struct mon_buf *text = attribute(event, key);
    if (text == NULL) {
        return MON_ERR_EVENT;
    }
    mon_text_quote(text, value, length);
    mon_buf_char(text, ',');
    return MON_OK;
}

mon_status mon_event_text(mon_event *event, const char *key, const char *value) {
    return value == NULL ? missing(event, "attributes") : mon_event_text_n(event, key, value, strlen(value));
}

mon_status mon_event_number(mon_event *event, const char *key, double value) {
    struct mon_buf *text = attribute(event, key);
    if (text == NULL) {
        return MON_ERR_EVENT;
    }
    if (isfinite(value)) {
        mon_number_add(text, value);
    } else {
        mon_buf_text(text, "null");
    }
    mon_buf_char(text, ',');
    return MON_OK;
}

mon_status mon_event_integer(mon_event *event, const char *key, int64_t value) {
    struct mon_buf *text = attribute(event, key);
    if (text == NULL) {
        return MON_ERR_EVENT;
    }
    mon_number_add_integer(text, value);
    mon_buf_char(text, ',');
    return MON_OK;
}

mon_status mon_event_boolean(mon_event *event, const char *key, bool value) {
    struct mon_buf *text = attribute(event, key);
    if (text == NULL) {
        return MON_ERR_EVENT;
    }
    mon_buf_text(text, value ? "true," : "false,");
    return MON_OK;
}

/* --------------------------------------------------------------------------------------------------------- the whole event */

mon_status mon_event_complete(struct mon_event *event) {
    if (event->left_out.len > 0 && !event->dropped_metrics) {
        event->dropped_metrics = true;
        struct mon_buf *text = attribute(event, "dropped_metrics");
        if (text != NULL) {
            mon_buf_char(text, '[');
            mon_buf_add(text, event->left_out.data, event->left_out.len);
            mon_buf_text(text, "],");
        }
    }
    if (event->status == MON_OK && event->kind == MON_STATE && !(event->given & (1U << MON_F_STATE))) {
        mon_event_mistake(event, "state", "required field is missing");
    }
    if (event->status != MON_OK) {
        bool whole = event->path[0] == '\0';
        return mon_error_set(event->status, event->path, "invalid event: %.200s%s%s", event->path, whole ? "" : ": ", event->problem);
    }
    if (event->text.failed || event->entities.text.failed || event->metrics.text.failed || event->attributes.text.failed) {
        return mon_error_set(MON_ERR_MEMORY, "", "out of memory for an event");
    }
    return MON_OK;
}
