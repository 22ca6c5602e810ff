/* From an event to values for trapper items.
 *
 *     trackmate.metric[site,app,name,metric,tool]    numeric (float)      each value of `metrics`
 *     trackmate.run.state[site,app,name,tool]        numeric (unsigned)   1 running, 2 ok, 3 failed, 4 aborted
 *     trackmate.run.progress[site,app,name,tool]     numeric (float), %
 *     trackmate.run.duration[site,app,name,tool]     numeric (float), s
 *     trackmate.state[site,app,name,tool]            text
 *     trackmate.log[site,app]                        log                  messages and errors */
#include "zabbix_values.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../number.h"
#include "../text.h"

struct target { /* where the values of one event go */
    struct mon_zabbix_list *list;
    size_t event;
    const char *host;
    int64_t seconds;
    uint32_t nanoseconds;
};

static const char *text_of(const struct mon_json *object, const char *key) {
    const struct mon_json *value = mon_json_get(object, key);
    return value != NULL && value->type == MON_JSON_STRING ? value->text : NULL;
}

static void add_parameter(struct mon_buf *key, const char *text) {
    size_t len = strlen(text);
    bool quoted = text[0] == '"' || text[0] == ' ' || text[0] == '[' || strpbrk(text, ",]") != NULL;
    if (quoted) {
        mon_buf_char(key, '"');
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        bool hex = byte == '%' && i + 2 < len && strchr("0123456789ABCDEF", text[i + 1]) != NULL && strchr("0123456789ABCDEF", text[i + 2]) != NULL;
        if (byte < 0x20 || byte == 0x7F || hex || (byte == '\\' && i + 1 == len)) {
            mon_buf_format(key, "%%%02X", byte);
        } else {
            if (quoted && byte == '"') {
                mon_buf_char(key, '\\');
            }
            mon_buf_char(key, (char)byte);
        }
    }
    if (quoted) {
        mon_buf_char(key, '"');
    }
}

void mon_zabbix_key(struct mon_buf *key, const char *prefix, const char *const *values, size_t count) {
    mon_buf_format(key, "%s[", prefix);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            mon_buf_char(key, ',');
        }
        add_parameter(key, values[i]);
    }
    mon_buf_char(key, ']');
}

/* Room for one more; NULL without memory. */
static struct mon_zabbix_value *next_value(struct mon_zabbix_list *list) {
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 64 : list->room * 2;
        struct mon_zabbix_value *values = realloc(list->values, room * sizeof *values);
        if (values == NULL) {
            list->data.failed = true;
            return NULL;
        }
        list->values = values;
        list->room = room;
    }
    return &list->values[list->count++];
}

static void add_value(struct target *target, const char *prefix, const char *const *parameters, size_t count, const char *value, const char *more) {
    struct mon_zabbix_list *list = target->list;
    struct mon_buf *data = &list->data;
    struct mon_zabbix_value *added = next_value(list);
    if (added == NULL) {
        return;
    }
    *added = (struct mon_zabbix_value){.event = target->event, .start = data->len, .key = list->keys.len};
    mon_zabbix_key(&list->keys, prefix, parameters, count);
    added->key_len = list->keys.len - added->key;
    data->failed |= list->keys.failed;
    mon_buf_text(data, "{\"host\":");
    mon_text_quote(data, target->host, strlen(target->host));
    mon_buf_text(data, ",\"key\":");
    mon_text_quote(data, list->keys.data + added->key, list->keys.failed ? 0 : added->key_len);
    mon_buf_text(data, ",\"value\":");
    mon_text_quote(data, value, mon_text_fit(value, strlen(value), 65535));
    mon_buf_format(data, ",\"clock\":%lld,\"ns\":%u%s},", (long long)target->seconds, target->nanoseconds, more);
    added->len = data->len - added->start;
}

static const char *run_state(const struct mon_json *event, const char *kind) {
    const char *status = text_of(event, "status");
    if (strcmp(kind, "start") == 0) {
        return "1";
    }
    bool error = strcmp(kind, "error") == 0 && mon_json_get(event, "run_id") != NULL;
    if (!error && strcmp(kind, "finish") != 0) {
        return NULL;
    }
    if (status == NULL) {
        return error ? "3" : "2";
    }
    return strcmp(status, "ok") == 0 ? "2" : strcmp(status, "failed") == 0 ? "3" : "4";
}

static void add_number(struct target *target, const char *prefix, const char *const *parameters, const struct mon_json *number, double factor) {
    if (number != NULL && (number->type == MON_JSON_INTEGER || number->type == MON_JSON_NUMBER)) {
        char text[MON_NUMBER_TEXT + 1];
        text[mon_number_write(text, mon_number_parse(number->text, number->len) * factor)] = '\0';
        add_value(target, prefix, parameters, 4, text, "");
    }
}

static int by_key(const void *one, const void *other) {
    const struct mon_json *a = *(const struct mon_json *const *)one;
    const struct mon_json *b = *(const struct mon_json *const *)other;
    return strcmp(a->key, b->key);
}

static void add_names(struct mon_buf *text, const struct mon_json *entities) {
    enum { MOST = 64 };
    const struct mon_json *sorted[MOST];
    size_t count = 0;
    for (const struct mon_json *entry = entities == NULL ? NULL : entities->child; entry != NULL && count < MOST; entry = entry->next) {
        if (entry->type == MON_JSON_STRING) {
            sorted[count++] = entry;
        }
    }
    if (count > 1) {
        qsort(sorted, count, sizeof *sorted, by_key);
    }
    for (size_t i = 0; i < count; i++) {
        mon_buf_format(text, "%s=%s, ", sorted[i]->key, sorted[i]->text);
    }
}

static void add_log(struct target *target, const struct mon_json *event, const char *kind, const char *const *parameters, const char *name) {
    const char *message = text_of(event, "message");
    const struct mon_json *error = mon_json_get(event, "error");
    if (strcmp(kind, "log") != 0 && strcmp(kind, "error") != 0 && message == NULL && error == NULL) {
        return;
    }
    struct mon_buf text = {0};
    mon_buf_format(&text, "%s%s%s [", name, message == NULL ? "" : ": ", message == NULL ? "" : message);
    add_names(&text, mon_json_get(event, "entities"));
    const char *id = text_of(event, "event_id");
    const char *run = text_of(event, "run_id");
    mon_buf_format(&text, "event_id=%s%s%s]", id == NULL ? "" : id, run == NULL ? "" : ", run_id=", run == NULL ? "" : run);
    if (error != NULL && text_of(error, "type") != NULL && text_of(error, "message") != NULL) {
        mon_buf_format(&text, "\n%s: %s", text_of(error, "type"), text_of(error, "message"));
        if (text_of(error, "stack") != NULL) {
            mon_buf_format(&text, "\n%s", text_of(error, "stack"));
        }
    }
    const char *severity = text_of(event, "severity");
    severity = severity != NULL ? severity : strcmp(kind, "error") == 0 ? "error" : "info";
    int level = strcmp(severity, "debug") == 0     ? 10
                : strcmp(severity, "warning") == 0 ? 2
                : strcmp(severity, "error") == 0   ? 4
                : strcmp(severity, "critical") == 0 ? 9
                                                    : 1;
    struct mon_buf more = {0};
    mon_buf_format(&more, ",\"timestamp\":%lld,\"severity\":%d,\"source\":", (long long)target->seconds, level);
    mon_text_quote(&more, name, mon_text_fit(name, strlen(name), 64));
    const char *value = mon_buf_string(&text);
    const char *extra = mon_buf_string(&more);
    if (value != NULL && extra != NULL) {
        add_value(target, "trackmate.log", parameters, 2, value, extra);
    }
    mon_buf_free(&text);
    mon_buf_free(&more);
}

void mon_zabbix_values(struct mon_zabbix_list *list, size_t place, const struct mon_json *event, const char *host, int64_t seconds,
                       uint32_t nanoseconds) {
    struct target target = {list, place, host, seconds, nanoseconds};
    const char *kind = text_of(event, "kind");
    const char *name = text_of(event, "name");
    const char *site = text_of(event, "site_id");
    const char *app = text_of(mon_json_get(event, "app"), "name");
    const char *tool = text_of(mon_json_get(event, "entities"), "tool");
    if (kind == NULL || name == NULL || site == NULL || app == NULL) {
        return;
    }
    const char *parameters[] = {site, app, name, tool == NULL ? "" : tool};
    const char *state = run_state(event, kind);
    if (state != NULL) {
        add_value(&target, "trackmate.run.state", parameters, 4, state, "");
    }
    add_number(&target, "trackmate.run.progress", parameters, mon_json_get(event, "progress"), 100);
    add_number(&target, "trackmate.run.duration", parameters, mon_json_get(event, "duration_ms"), 0.001);
    const char *to = text_of(mon_json_get(event, "state"), "to");
    if (to != NULL) {
        add_value(&target, "trackmate.state", parameters, 4, to, "");
    }
    const struct mon_json *metrics = mon_json_get(event, "metrics");
    for (const struct mon_json *metric = metrics == NULL ? NULL : metrics->child; metric != NULL; metric = metric->next) {
        if (metric->type == MON_JSON_INTEGER || metric->type == MON_JSON_NUMBER) {
            const char *of_metric[] = {site, app, name, metric->key, parameters[3]};
            add_value(&target, "trackmate.metric", of_metric, 5, metric->text, "");
        }
    }
    add_log(&target, event, kind, parameters, name);
}

void mon_zabbix_list_free(struct mon_zabbix_list *list) {
    mon_buf_free(&list->data);
    mon_buf_free(&list->keys);
    free(list->values);
}
