/* A JSON document of the program's own as a tree. */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "json.h"
#include "number.h"

static cJSON *tree_of(const struct mon_json *value) {
    cJSON *tree;
    switch (value->type) {
    case MON_JSON_FALSE: return cJSON_CreateFalse();
    case MON_JSON_TRUE: return cJSON_CreateTrue();
    case MON_JSON_STRING: return cJSON_CreateString(value->text);
    case MON_JSON_INTEGER:
    case MON_JSON_NUMBER:
        tree = cJSON_CreateNumber(mon_number_parse(value->text, value->len));
        if (tree != NULL) {
            tree->valuestring = strdup(value->text);
        }
        return tree;
    case MON_JSON_ARRAY:
    case MON_JSON_OBJECT:
        tree = value->type == MON_JSON_ARRAY ? cJSON_CreateArray() : cJSON_CreateObject();
        for (const struct mon_json *entry = value->child; tree != NULL && entry != NULL; entry = entry->next) {
            cJSON *item = tree_of(entry);
            if (item == NULL) {
                break;
            }
            if (value->type == MON_JSON_ARRAY) {
                cJSON_AddItemToArray(tree, item);
            } else {
                cJSON_AddItemToObject(tree, entry->key, item);
            }
        }
        return tree;
    default: return cJSON_CreateNull();
    }
}

cJSON *mon_config_tree(const char *text, size_t len, char *problem, size_t room) {
    struct mon_json_document document;
    cJSON *tree = NULL;
    if (mon_json_parse(&document, text, len)) {
        tree = tree_of(document.root);
        snprintf(problem, room, "out of memory");
    } else {
        snprintf(problem, room, "%s (at byte %zu)", document.error, document.error_at);
    }
    mon_json_free(&document);
    return tree;
}
