/* The contract of an event: names the first mistake, or writes the event as JSON with what the SDK fills in. */
#include "fields.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum {
    EVENT_ID, TIMESTAMP, KIND, NAME, SITE_ID, APP, RUN_ID, PARENT_RUN_ID, ENTITIES, STATUS, SEVERITY, MESSAGE, PROGRESS,
    DURATION_MS, STATE, METRICS, ERROR_, TRACE_ID, SPAN_ID, ATTRIBUTES, FIELDS, UNKNOWN = -1
} Field;

static const char *const FIELD_NAMES[FIELDS] = {
    "event_id", "timestamp", "kind", "name", "site_id", "app", "run_id", "parent_run_id", "entities", "status", "severity",
    "message", "progress", "duration_ms", "state", "metrics", "error", "trace_id", "span_id", "attributes"
};
static const char *const KINDS[] = {"start", "progress", "finish", "error", "metric", "log", "state", NULL};
static const char *const STATUSES[] = {"ok", "failed", "aborted", NULL};
static const char *const SEVERITIES[] = {"debug", "info", "warning", "error", "critical", NULL};

static const Part APP_PARTS[] = {{"name", MAX_TEXT, true}, {"version", MAX_TEXT, false}, {"instance_id", MAX_TEXT, false}, {NULL, 0, false}};
static const Part STATE_PARTS[] = {{"to", MAX_TEXT, true}, {"from", MAX_TEXT, false}, {NULL, 0, false}};
static const Part ERROR_PARTS[] = {{"type", MAX_TEXT, true}, {"message", 0, true}, {"stack", 0, false}, {NULL, 0, false}};

static Field field_of(const char *name)
{
    for (int i = 0; i < FIELDS; i++)
        if (strcmp(FIELD_NAMES[i], name) == 0)
            return (Field)i;
    return UNKNOWN;
}

/* Letters that differ, at most; a small bound is enough to guess what was meant. */
static int distance(const char *a, const char *b)
{
    int row[24], previous, above;
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > 22 || m > 22)
        return 99;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        previous = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            above = row[j];
            int best = previous + (a[i - 1] != b[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            previous = above;
        }
    }
    return row[m];
}

static bool refuse_field(Writer *writer, const char *name)
{
    if (strcmp(name, "emitter") == 0)
        return fail(writer, name, "is made by the SDK; leave it out%s", "");
    for (int i = 0; i < FIELDS; i++)
        if (distance(name, FIELD_NAMES[i]) <= 2)
            return fail(writer, name, "unknown field; did you mean '%s'?", FIELD_NAMES[i]);
    return fail(writer, name, "unknown field; put data of your own under 'attributes'%s", "");
}

static bool allows(Writer *writer, Field field, const char *kind)
{
    bool is_end = strcmp(kind, "finish") == 0 || strcmp(kind, "error") == 0;
    const char *only = NULL;
    if ((field == STATUS || field == DURATION_MS || field == ERROR_) && !is_end)
        only = "is only allowed on kind finish or error, not on %s";
    else if (field == PROGRESS && strcmp(kind, "progress") != 0)
        only = "is only allowed on kind progress, not on %s";
    else if (field == STATE && strcmp(kind, "state") != 0)
        only = "is only allowed on kind state, not on %s";
    return only == NULL ? true : fail(writer, FIELD_NAMES[field], only, kind);
}

static bool write_field(Writer *writer, Field field, SEXP value, char *event_id, bool *truncated, Text *dropped)
{
    const char *name = FIELD_NAMES[field];
    json_string(writer->out, name, strlen(name));
    text_add(writer->out, ":", 1);
    switch (field) {
    case EVENT_ID: return write_uuid(writer, name, value, event_id);
    case RUN_ID: case PARENT_RUN_ID: return write_uuid(writer, name, value, NULL);
    case TIMESTAMP: return write_timestamp(writer, value);
    case KIND: return write_choice(writer, name, value, KINDS);
    case STATUS: return write_choice(writer, name, value, STATUSES);
    case SEVERITY: return write_choice(writer, name, value, SEVERITIES);
    case NAME: return write_short(writer, name, value, MAX_TEXT);
    case SITE_ID: return write_short(writer, name, value, MAX_SITE);
    case APP: return write_struct(writer, name, value, APP_PARTS);
    case STATE: return write_struct(writer, name, value, STATE_PARTS);
    case ERROR_: return write_struct(writer, name, value, ERROR_PARTS);
    case MESSAGE: return write_message(writer, value, truncated);
    case PROGRESS: return write_bounded(writer, name, value, 1);
    case DURATION_MS: return write_bounded(writer, name, value, HUGE_VAL);
    case METRICS: return write_metrics(writer, value, dropped);
    case TRACE_ID: return write_hex(writer, name, value, 32);
    case SPAN_ID: return write_hex(writer, name, value, 16);
    default: return false;
    }
}

/* The run's ids and entities, as far as the event has none of its own, and the event's entities over the run's. */
static bool write_run(Writer *writer, SEXP run, const SEXP *given)
{
    Members own = {R_NilValue, R_NilValue, 0}, outer = {R_NilValue, R_NilValue, 0};
    if (given[ENTITIES] != NULL && !table_of(writer, "entities", given[ENTITIES], &own))
        return false;
    if (run != R_NilValue) {
        const char *run_id = CHAR(STRING_ELT(VECTOR_ELT(run, 0), 0));
        const char *parent = CHAR(STRING_ELT(VECTOR_ELT(run, 1), 0));
        if (given[RUN_ID] == NULL) {
            text_put(writer->out, "\"run_id\":\"");
            text_put(writer->out, run_id);
            text_put(writer->out, "\",");
            if (given[PARENT_RUN_ID] == NULL && parent[0]) {
                text_put(writer->out, "\"parent_run_id\":\"");
                text_put(writer->out, parent);
                text_put(writer->out, "\",");
            }
        }
        members_of(VECTOR_ELT(run, 2), &outer);
    }
    if (given[ENTITIES] == NULL && outer.count == 0)
        return true;
    text_put(writer->out, "\"entities\":{");
    for (R_xlen_t i = 0; i < outer.count; i++) {
        SEXP name = STRING_ELT(outer.names, i);
        bool hidden = false;
        for (R_xlen_t j = 0; j < own.count; j++)
            hidden |= strcmp(CHAR(STRING_ELT(own.names, j)), CHAR(name)) == 0;
        if (hidden)
            continue;
        size_t length;
        const char *data = utf8_of(name, &length, writer->mended);
        json_string(writer->out, data, length);
        text_add(writer->out, ":", 1);
        data = utf8_of(STRING_ELT(outer.values, i), &length, writer->mended);
        json_string(writer->out, data, length);
        text_add(writer->out, ",", 1);
    }
    if (!write_entities(writer, &own))
        return false;
    close_with(writer->out, "},");
    return true;
}

static void write_ids(Emitter *emitter, Text *out, const SEXP *given, double seq, int64_t now, char *event_id)
{
    char text[128];
    if (given[EVENT_ID] == NULL) {
        int64_t millis = now / 1000;
        if (millis < emitter->last_millis)
            millis = emitter->last_millis;
        emitter->last_millis = millis;
        snprintf(text, sizeof text, "%08llx-%04llx%.15s%08llx", (unsigned long long)(millis >> 16),
                 (unsigned long long)(millis & 0xFFFF), emitter->id_tail, (unsigned long long)seq & 0xFFFFFFFFULL);
        memcpy(event_id, text, UUID_LENGTH);
        event_id[UUID_LENGTH] = '\0';
        snprintf(text, sizeof text, "\"event_id\":\"%s\",", event_id);
        text_put(out, text);
    }
    if (given[TIMESTAMP] == NULL) {
        text_put(out, "\"timestamp\":");
        write_moment(out, now);
        text_add(out, ",", 1);
    }
    snprintf(text, sizeof text, "\"emitter\":{\"id\":\"%s\",\"seq\":%.0f},", emitter->id, seq);
    text_put(out, text);
}

static bool check_fields(Writer *writer, SEXP event, SEXP *given)
{
    Members members;
    if (TYPEOF(event) != VECSXP || !members_of(event, &members))
        return fail(writer, "", "expected a list such as list(kind = \"log\", name = \"etch\"), got %s", type_name(event));
    if (!are_distinct(&members, writer, ""))
        return false;
    const char *unknown = NULL;
    for (R_xlen_t i = 0; i < members.count; i++) {
        const char *name = CHAR(STRING_ELT(members.names, i));
        Field field = field_of(name);
        if (field == UNKNOWN)
            unknown = unknown ? unknown : name;
        else
            given[field] = VECTOR_ELT(event, i);
    }
    if (given[KIND] == NULL)
        return fail(writer, "kind", "required field is missing%s", "");
    if (given[NAME] == NULL)
        return fail(writer, "name", "required field is missing%s", "");
    int kind = choice(KINDS, given[KIND]);
    if (kind < 0) {
        write_choice(writer, "kind", given[KIND], KINDS);
        return false;
    }
    if (unknown != NULL)
        return refuse_field(writer, unknown);
    for (int i = 0; i < FIELDS; i++)
        if (given[i] != NULL && !allows(writer, (Field)i, KINDS[kind]))
            return false;
    return strcmp(KINDS[kind], "state") != 0 || given[STATE] != NULL ? true : fail(writer, "state", "required field is missing%s", "");
}

void encode_event(Emitter *emitter, SEXP event, SEXP run, double seq, int64_t now, Text *out, char *event_id, Mistake *mistake)
{
    static Text mended, dropped;
    SEXP given[FIELDS] = {NULL};
    Writer writer = {out, &mended, mistake};
    size_t start = out->length;
    bool truncated = false;
    mistake->found = false;
    text_clear(&dropped);
    if (!check_fields(&writer, event, given))
        return;
    text_add(out, "{", 1);
    write_ids(emitter, out, given, seq, now, event_id);
    if (given[SITE_ID] == NULL)
        text_put(out, emitter->site);
    if (given[APP] == NULL)
        text_put(out, emitter->app);
    if (!write_run(&writer, run, given))
        return;
    for (int i = 0; i < FIELDS; i++) {
        if (given[i] == NULL || i == ENTITIES || i == ATTRIBUTES)
            continue;
        if (!write_field(&writer, (Field)i, given[i], event_id, &truncated, &dropped))
            return;
        text_add(out, ",", 1);
    }
    if ((given[ATTRIBUTES] != NULL || truncated || dropped.length) && !write_attributes(&writer, given[ATTRIBUTES], &dropped, truncated))
        return;
    close_with(out, "}");
    if (out->length - start > MAX_EVENT_BYTES)
        fail(&writer, "", "the event has more than 262144 bytes; keep large data elsewhere and send its address%s", "");
}
