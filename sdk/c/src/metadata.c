/* Metadata of a run: eight names are entities, as is what stands under `entities`; all else are attributes. */
#include "metadata.h"

#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "number.h"

static bool is_entity(const char *key) {
    static const char *const names[] = {"lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator"};
    return mon_choice(key, strlen(key), names, sizeof names / sizeof *names) >= 0;
}

mon_metadata *mon_metadata_new(void) {
    struct mon_metadata *metadata = calloc(1, sizeof *metadata);
    if (metadata != NULL) {
        metadata->event = mon_event_new(MON_START, "metadata");
    }
    if (metadata == NULL || metadata->event == NULL) {
        free(metadata);
        mon_error_set(MON_ERR_MEMORY, "", "out of memory for metadata");
        return NULL;
    }
    return metadata;
}

void mon_metadata_free(mon_metadata *metadata) {
    if (metadata != NULL) {
        mon_event_free(metadata->event);
        free(metadata);
    }
}

static mon_status missing(void) {
    return mon_error_set(MON_ERR_ARGUMENT, "", "expected metadata, a key and a value, got NULL");
}

mon_status mon_metadata_text(mon_metadata *metadata, const char *key, const char *value) {
    if (metadata == NULL || key == NULL || value == NULL) {
        return missing();
    }
    return is_entity(key) ? mon_event_entity(metadata->event, key, value) : mon_event_text(metadata->event, key, value);
}

mon_status mon_metadata_entity(mon_metadata *metadata, const char *key, const char *value) {
    return metadata == NULL || key == NULL || value == NULL ? missing() : mon_event_entity(metadata->event, key, value);
}

static mon_status wrong_entity(struct mon_event *event, const char *key, const char *got) {
    char path[64];
    snprintf(path, sizeof path, "entities.%.40s", key);
    return mon_event_mistake(event, path, "expected string, got %s", got);
}

mon_status mon_metadata_number(mon_metadata *metadata, const char *key, double value) {
    if (metadata == NULL || key == NULL) {
        return missing();
    }
    return is_entity(key) ? wrong_entity(metadata->event, key, "number") : mon_event_number(metadata->event, key, value);
}

mon_status mon_metadata_integer(mon_metadata *metadata, const char *key, int64_t value) {
    if (metadata == NULL || key == NULL) {
        return missing();
    }
    if (is_entity(key)) {
        char text[MON_NUMBER_TEXT];
        snprintf(text, sizeof text, "%lld", (long long)value);
        return mon_event_entity(metadata->event, key, text);
    }
    return mon_event_integer(metadata->event, key, value);
}

mon_status mon_metadata_boolean(mon_metadata *metadata, const char *key, bool value) {
    if (metadata == NULL || key == NULL) {
        return missing();
    }
    return is_entity(key) ? wrong_entity(metadata->event, key, "boolean") : mon_event_boolean(metadata->event, key, value);
}

static mon_status set_entity(struct mon_event *event, const char *key, size_t key_len, const struct mon_json *value) {
    if (value->type == MON_JSON_STRING || value->type == MON_JSON_INTEGER) {
        return mon_event_set_entity(event, key, key_len, value->text, value->len);
    }
    return wrong_entity(event, key, mon_json_type_name(value->type));
}

static mon_status set_json(struct mon_metadata *metadata, const char *key, const struct mon_json *value) {
    struct mon_event *event = metadata->event;
    if (is_entity(key)) {
        return set_entity(event, key, strlen(key), value);
    }
    if (strcmp(key, "entities") == 0) {
        if (value->type != MON_JSON_OBJECT) {
            return mon_event_mistake(event, "metadata.entities", "expected a mapping such as {\"robot\": \"R2\"}, got %s", mon_json_type_name(value->type));
        }
        mon_status status = MON_OK;
        for (const struct mon_json *entry = value->child; status == MON_OK && entry != NULL; entry = entry->next) {
            status = set_entity(event, entry->key, entry->key_len, entry);
        }
        return status;
    }
    struct mon_buf text = {0};
    mon_json_write(&text, value);
    mon_status status = mon_event_json(event, key, text.data, text.len);
    mon_buf_free(&text);
    return status;
}

mon_status mon_metadata_json(mon_metadata *metadata, const char *key, const char *json, size_t length) {
    if (metadata == NULL || key == NULL || json == NULL) {
        return missing();
    }
    struct mon_json_document document;
    mon_status status = mon_json_parse(&document, json, length)
                            ? set_json(metadata, key, document.root)
                            : mon_event_mistake(metadata->event, "metadata", "not valid JSON: %s", document.error);
    mon_json_free(&document);
    return status;
}

mon_context *mon_context_begin_json(const char *name, const char *text, size_t length) {
    struct mon_metadata *metadata = mon_metadata_new();
    if (metadata == NULL) {
        return NULL;
    }
    struct mon_json_document document;
    if (text == NULL || !mon_json_parse(&document, text, length)) {
        mon_event_mistake(metadata->event, "metadata", "not valid JSON: %s", text == NULL ? "NULL" : document.error);
    } else if (document.root->type != MON_JSON_OBJECT) {
        mon_event_mistake(metadata->event, "metadata", "expected a mapping such as {\"lot\": \"L1\"}, got %s", mon_json_type_name(document.root->type));
    } else {
        for (const struct mon_json *entry = document.root->child; entry != NULL; entry = entry->next) {
            (void)set_json(metadata, entry->key, entry);
        }
    }
    if (text != NULL) {
        mon_json_free(&document);
    }
    mon_context *context = mon_context_begin(name, metadata);
    mon_metadata_free(metadata);
    return context;
}
