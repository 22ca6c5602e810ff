/* An event, or a field of one, from JSON: the same checks in the same order as in every language's SDK. */
#include <stdio.h>

#include "error.h"
#include "event.h"
#include "number.h"
#include "text.h"

enum { PATH = 64 + 4 * MON_MAX_TEXT };

static mon_status wrong_type(struct mon_event *event, const char *path, const char *expected, const struct mon_json *value) {
    return mon_event_mistake(event, path, "expected %s, got %s", expected, mon_json_type_name(value->type));
}

static size_t count_digits(const struct mon_json *value) {
    return value->len - (value->text[0] == '-' ? 1 : 0);
}

/* Whether what stands in attributes nests too deep or holds an integer that is too long. `path` is room for the place. */
static bool check_free(struct mon_event *event, const struct mon_json *value, char path[PATH], size_t len, size_t depth) {
    if (value->type == MON_JSON_INTEGER && count_digits(value) > MON_MAX_DIGITS) {
        mon_event_mistake(event, path, "integer of more than %d digits", MON_MAX_DIGITS);
        return false;
    }
    if (value->type != MON_JSON_ARRAY && value->type != MON_JSON_OBJECT) {
        return true;
    }
    if (depth > MON_MAX_DEPTH) {
        mon_event_mistake(event, "attributes", "nests deeper than %d levels", MON_MAX_DEPTH);
        return false;
    }
    size_t index = 0;
    for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next, index++) {
        int more = value->type == MON_JSON_OBJECT ? snprintf(path + len, PATH - len, ".%.*s", (int)entry->key_len, entry->key)
                                                  : snprintf(path + len, PATH - len, ".%zu", index);
        size_t longer = more < 0 || len + (size_t)more >= PATH ? PATH - 1 : len + (size_t)more;
        if (!check_free(event, entry, path, longer, depth + 1)) {
            return false;
        }
        path[len] = '\0';
    }
    return true;
}

static mon_status set_attributes(struct mon_event *event, const struct mon_json *value) {
    char path[PATH] = "attributes";
    if (!check_free(event, value, path, strlen(path), 2)) {
        return MON_ERR_EVENT;
    }
    for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
        if (!mon_table_key(event, &event->attributes, "attributes", entry->key, entry->key_len, true)) {
            return MON_ERR_EVENT;
        }
        mon_json_write(&event->attributes.text, entry);
        mon_buf_char(&event->attributes.text, ',');
    }
    return MON_OK;
}

static mon_status set_metric(struct mon_event *event, const struct mon_json *entry, const char *path) {
    switch (entry->type) {
    case MON_JSON_INTEGER:
        if (count_digits(entry) > MON_MAX_DIGITS) {
            return mon_event_mistake(event, path, "expected a number of at most %d digits", MON_MAX_DIGITS);
        }
        break;
    case MON_JSON_NUMBER: break;
    case MON_JSON_NONFINITE:
        if (event->left_out.len > 0) {
            mon_buf_char(&event->left_out, ',');
        }
        mon_text_quote(&event->left_out, entry->key, entry->key_len);
        return MON_OK;
    default: return wrong_type(event, path, "number", entry);
    }
    if (!mon_table_key(event, &event->metrics, "metrics", entry->key, entry->key_len, false)) {
        return MON_ERR_EVENT;
    }
    mon_buf_add(&event->metrics.text, entry->text, entry->len);
    mon_buf_char(&event->metrics.text, ',');
    return MON_OK;
}

static size_t count_characters(const char *text, size_t len) {
    size_t count = 0;
    for (size_t i = 0; i < len; i++) {
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return count;
}

static mon_status set_table(struct mon_event *event, enum mon_field field, const struct mon_json *value) {
    for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
        size_t characters = count_characters(entry->key, entry->key_len);
        if (characters == 0 || characters > MON_MAX_TEXT) {
            return mon_event_mistake(event, mon_field_names[field], "expected keys of 1 to %d characters", MON_MAX_TEXT);
        }
        char path[PATH];
        snprintf(path, sizeof path, "%s.%.*s", mon_field_names[field], (int)entry->key_len, entry->key);
        mon_status status;
        if (field == MON_F_METRICS) {
            status = set_metric(event, entry, path);
        } else if (entry->type != MON_JSON_STRING) {
            status = wrong_type(event, path, "string", entry);
        } else {
            status = mon_event_set_entity(event, entry->key, entry->key_len, entry->text, entry->len);
        }
        if (status != MON_OK) {
            return status;
        }
    }
    return MON_OK;
}

struct member {
    const char *name;
    bool required;
    size_t longest; /* 0: any, even empty */
};

static const struct member *member_of(const struct member *members, const struct mon_json *entry) {
    for (const struct member *member = members; member->name != NULL; member++) {
        if (mon_json_is(entry->key, entry->key_len, member->name)) {
            return member;
        }
    }
    return NULL;
}

/* A field that is an object with these members, all of them texts. */
static mon_status set_struct(struct mon_event *event, enum mon_field field, const struct mon_json *value, const struct member *members) {
    char path[PATH];
    for (const struct member *member = members; member->name != NULL; member++) {
        if (member->required && mon_json_get(value, member->name) == NULL) {
            snprintf(path, sizeof path, "%s.%s", mon_field_names[field], member->name);
            return mon_event_mistake(event, path, "required field is missing");
        }
    }
    for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
        if (member_of(members, entry) == NULL) {
            snprintf(path, sizeof path, "%s.%.*s", mon_field_names[field], (int)entry->key_len, entry->key);
            return mon_event_mistake(event, path, "unknown field; put data of your own under 'attributes'");
        }
    }
    for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
        const struct member *member = member_of(members, entry);
        snprintf(path, sizeof path, "%s.%s", mon_field_names[field], member->name);
        if (entry->type != MON_JSON_STRING) {
            return wrong_type(event, path, "string", entry);
        }
        size_t characters = count_characters(entry->text, entry->len);
        if (member->longest > 0 && characters == 0) {
            return mon_event_mistake(event, path, "expected at least 1 character(s)");
        }
        if (member->longest > 0 && characters > member->longest) {
            return mon_event_mistake(event, path, "expected at most %zu character(s)", member->longest);
        }
    }
    struct mon_buf json = {0};
    mon_json_write(&json, value);
    mon_status status = mon_event_set_raw(event, field, json.data, json.len);
    event->text.failed |= json.failed;
    mon_buf_free(&json);
    return status;
}

static mon_status set_choice(struct mon_event *event, enum mon_field field, const struct mon_json *value, const char *const *names, size_t count) {
    if (mon_choice(value->text, value->len, names, count) < 0) {
        char list[80] = "";
        for (size_t i = 0; i < count; i++) {
            size_t len = strlen(list);
            snprintf(list + len, sizeof list - len, "%s%s", i == 0 ? "" : ", ", names[i]);
        }
        return mon_event_mistake(event, mon_field_names[field], "expected one of %s, got '%.40s'", list, value->text);
    }
    return mon_event_set_short(event, field, value->text, value->len, MON_MAX_TEXT);
}

static mon_status set_text(struct mon_event *event, enum mon_field field, const struct mon_json *value) {
    const char *path = mon_field_names[field];
    char room[64];
    const char *problem;
    switch (field) {
    case MON_F_EVENT_ID:
    case MON_F_RUN_ID:
    case MON_F_PARENT_RUN_ID:
        if (!mon_is_uuid(value->text, value->len)) {
            return mon_event_mistake(event, path, "expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057");
        }
        if (field == MON_F_EVENT_ID) {
            memcpy(event->event_id, value->text, MON_ID_SIZE);
        }
        return mon_event_set_short(event, field, value->text, value->len, MON_MAX_TEXT);
    case MON_F_TIMESTAMP:
        problem = mon_timestamp_problem(value->text, value->len, room);
        return problem == NULL ? mon_event_set_short(event, field, value->text, value->len, value->len)
                               : mon_event_mistake(event, path, "%s", problem);
    case MON_F_TRACE_ID:
        return mon_is_hex(value->text, value->len, 32) ? mon_event_set_short(event, field, value->text, value->len, 32)
                                                       : mon_event_mistake(event, path, "expected 32 lower-case hexadecimal digits");
    case MON_F_SPAN_ID:
        return mon_is_hex(value->text, value->len, 16) ? mon_event_set_short(event, field, value->text, value->len, 16)
                                                       : mon_event_mistake(event, path, "expected 16 lower-case hexadecimal digits");
    case MON_F_SITE_ID: return mon_event_set_short(event, field, value->text, value->len, MON_MAX_SITE);
    case MON_F_MESSAGE: return mon_event_set_message(event, value->text, value->len);
    case MON_F_STATUS: return set_choice(event, field, value, mon_outcome_names, 3);
    case MON_F_SEVERITY: return set_choice(event, field, value, mon_severity_names, 5);
    case MON_F_KIND: return set_choice(event, field, value, mon_kind_names, 7);
    default: return mon_event_set_short(event, field, value->text, value->len, MON_MAX_TEXT);
    }
}

static mon_status set_number(struct mon_event *event, enum mon_field field, const struct mon_json *value) {
    const char *path = mon_field_names[field];
    if (value->type == MON_JSON_INTEGER && count_digits(value) > MON_MAX_DIGITS) {
        return mon_event_mistake(event, path, "expected a number of at most %d digits", MON_MAX_DIGITS);
    }
    double number = value->type == MON_JSON_NONFINITE ? -1 : mon_number_parse(value->text, value->len);
    if (!(number >= 0)) {
        return mon_event_mistake(event, path, "expected a number not below 0");
    }
    if (field == MON_F_PROGRESS && number > 1) {
        return mon_event_mistake(event, path, "expected a number not above 1");
    }
    return mon_event_set_raw(event, field, value->text, value->len);
}

mon_status mon_event_set_json(struct mon_event *event, enum mon_field field, const struct mon_json *value) {
    static const struct member app[] = {{"name", true, MON_MAX_TEXT}, {"version", false, MON_MAX_TEXT}, {"instance_id", false, MON_MAX_TEXT}, {0}};
    static const struct member state[] = {{"to", true, MON_MAX_TEXT}, {"from", false, MON_MAX_TEXT}, {0}};
    static const struct member error[] = {{"type", true, MON_MAX_TEXT}, {"message", true, 0}, {"stack", false, 0}, {0}};
    const char *path = mon_field_names[field];
    enum mon_json_type type = value->type;
    switch (field) {
    case MON_F_PROGRESS:
    case MON_F_DURATION_MS:
        if (type != MON_JSON_INTEGER && type != MON_JSON_NUMBER && type != MON_JSON_NONFINITE) {
            return wrong_type(event, path, "number", value);
        }
        return set_number(event, field, value);
    case MON_F_APP:
    case MON_F_STATE:
    case MON_F_ERROR:
    case MON_F_ENTITIES:
    case MON_F_METRICS:
    case MON_F_ATTRIBUTES:
        if (type != MON_JSON_OBJECT) {
            return wrong_type(event, path, "object", value);
        }
        if (field == MON_F_APP || field == MON_F_STATE || field == MON_F_ERROR) {
            return set_struct(event, field, value, field == MON_F_APP ? app : field == MON_F_STATE ? state : error);
        }
        event->given |= 1U << field;
        return field == MON_F_ATTRIBUTES ? set_attributes(event, value) : set_table(event, field, value);
    default: return type == MON_JSON_STRING ? set_text(event, field, value) : wrong_type(event, path, "string", value);
    }
}

static mon_status unknown_field(struct mon_event *event, const struct mon_json *entry) {
    char name[PATH];
    snprintf(name, sizeof name, "%.*s", (int)entry->key_len, entry->key);
    if (strcmp(name, "emitter") == 0) {
        return mon_event_mistake(event, name, "is made by the SDK; leave it out");
    }
    const char *close = NULL;
    double best = 0.6;
    for (size_t i = 0; i < MON_FIELDS; i++) {
        double likeness = mon_text_likeness(name, mon_field_names[i]);
        if (likeness >= best) {
            best = likeness;
            close = mon_field_names[i];
        }
    }
    return close != NULL ? mon_event_mistake(event, name, "unknown field; did you mean '%s'?", close)
                         : mon_event_mistake(event, name, "unknown field; put data of your own under 'attributes'");
}

static mon_status fill(struct mon_event *event, const struct mon_json *object) {
    if (object->type != MON_JSON_OBJECT) {
        return mon_event_mistake(event, "", "expected object, got %s", mon_json_type_name(object->type));
    }
    const struct mon_json *kind = mon_json_get(object, "kind");
    if (kind == NULL || mon_json_get(object, "name") == NULL) {
        return mon_event_mistake(event, kind == NULL ? "kind" : "name", "required field is missing");
    }
    event->kind = MON_LOG;
    mon_status status = mon_event_set_json(event, MON_F_KIND, kind);
    if (status != MON_OK) {
        return status;
    }
    event->kind = (mon_kind)mon_choice(kind->text, kind->len, mon_kind_names, 7);
    for (const struct mon_json *entry = object->child; entry != NULL; entry = entry->next) {
        enum mon_field field = mon_field_of(entry->key, entry->key_len);
        if (field == MON_F_NONE) {
            return unknown_field(event, entry);
        }
        const char *kinds = mon_field_kinds(field, event->kind);
        if (kinds != NULL) {
            return mon_event_mistake(event, mon_field_names[field], "is only allowed on kind %s, not on %s", kinds, mon_kind_names[event->kind]);
        }
    }
    if (event->kind == MON_STATE && mon_json_get(object, "state") == NULL) {
        return mon_event_mistake(event, "state", "required field is missing");
    }
    for (const struct mon_json *entry = object->child; entry != NULL && status == MON_OK; entry = entry->next) {
        enum mon_field field = mon_field_of(entry->key, entry->key_len);
        if (field != MON_F_KIND) {
            status = mon_event_set_json(event, field, entry);
        }
    }
    return status;
}

struct mon_event *mon_event_from_json(const struct mon_json *object) {
    struct mon_event *event = mon_event_take();
    if (event != NULL) {
        event->kind = MON_LOG;
        (void)fill(event, object);
    }
    return event;
}

/* Parses one value for a setter; false after noting the mistake. */
static bool parse(struct mon_event *event, const char *path, const char *json, size_t length, struct mon_json_document *document) {
    if (json != NULL && mon_json_parse(document, json, length)) {
        return true;
    }
    mon_event_mistake(event, path, "not valid JSON: %s", json == NULL ? "NULL" : document->error);
    if (json != NULL) {
        mon_json_free(document);
    }
    return false;
}

mon_status mon_event_field(mon_event *event, const char *field, const char *json, size_t length) {
    if (event == NULL || field == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected an event and the name of a field, got NULL");
    }
    struct mon_json_document document;
    enum mon_field known = mon_field_of(field, strlen(field));
    struct mon_json entry = {.key = field, .key_len = strlen(field)};
    if (known == MON_F_NONE) {
        return unknown_field(event, &entry);
    }
    const char *kinds = mon_field_kinds(known, event->kind);
    if (kinds != NULL) {
        return mon_event_mistake(event, field, "is only allowed on kind %s, not on %s", kinds, mon_kind_names[event->kind]);
    }
    if (known == MON_F_KIND) {
        return mon_event_mistake(event, field, "is given when the event is made");
    }
    if (!parse(event, field, json, length, &document)) {
        return MON_ERR_EVENT;
    }
    mon_status status = mon_event_set_json(event, known, document.root);
    mon_json_free(&document);
    return status;
}

mon_status mon_event_json(mon_event *event, const char *key, const char *json, size_t length) {
    if (event == NULL || key == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected an event and a key, got NULL");
    }
    struct mon_json_document document;
    char path[PATH];
    snprintf(path, sizeof path, "attributes.%.*s", MON_MAX_TEXT, key);
    if (!parse(event, path, json, length, &document)) {
        return MON_ERR_EVENT;
    }
    mon_status status = MON_ERR_EVENT;
    if (check_free(event, document.root, path, strlen(path), 3) &&
        mon_table_key(event, &event->attributes, "attributes", key, strlen(key), true)) {
        mon_json_write(&event->attributes.text, document.root);
        mon_buf_char(&event->attributes.text, ',');
        event->given |= 1U << MON_F_ATTRIBUTES;
        status = MON_OK;
    }
    mon_json_free(&document);
    return status;
}
