/* Interpolation of ${VAR} and ${VAR:-default}, and laying one document over another. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "buffer.h"
#include "config.h"

/* One ${…} at `text`: its length, with the value added to `out`; 0 when it is none. */
static size_t replace_variable(const char *text, struct mon_buf *out, const char *path, struct mon_problems *problems) {
    const char *name = text + 2;
    if (text[0] != '$' || text[1] != '{' || (!isalpha((unsigned char)*name) && *name != '_')) {
        return 0;
    }
    size_t len = 1;
    while (isalnum((unsigned char)name[len]) || name[len] == '_') {
        len++;
    }
    const char *fallback = NULL;
    const char *end = name + len;
    if (end[0] == ':' && end[1] == '-') {
        fallback = end + 2;
        end = fallback + strcspn(fallback, "}");
    }
    if (*end != '}') {
        return 0;
    }
    char variable[256];
    snprintf(variable, sizeof variable, "%.*s", (int)len, name);
    const char *value = getenv(variable);
    if (value != NULL) {
        mon_buf_text(out, value);
    } else if (fallback != NULL) {
        mon_buf_add(out, fallback, (size_t)(end - fallback));
    } else {
        mon_problem_add(problems, path, "environment variable %s is not set and has no default (write ${%s:-default})", variable, variable);
    }
    return (size_t)(end - text) + 1;
}

void mon_config_interpolate(cJSON *value, const char *path, struct mon_problems *problems) {
    if (cJSON_IsString(value) && strstr(value->valuestring, "${") != NULL) {
        struct mon_buf out = {0};
        const char *text = value->valuestring;
        while (*text != '\0') {
            size_t len = replace_variable(text, &out, path, problems);
            if (len == 0) {
                mon_buf_char(&out, *text);
                len = 1;
            }
            text += len;
        }
        mon_buf_char(&out, '\0');
        if (!out.failed) {
            cJSON_free(value->valuestring);
            value->valuestring = cJSON_malloc(out.len);
            if (value->valuestring != NULL) {
                memcpy(value->valuestring, out.data, out.len);
            } else {
                value->type = cJSON_NULL;
            }
        }
        mon_buf_free(&out);
        return;
    }
    if (!cJSON_IsObject(value) && !cJSON_IsArray(value)) {
        return;
    }
    bool disabled = strncmp(path, "sdk.direct_backends[", 20) == 0 && cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(value, "enabled"));
    size_t index = 0;
    for (cJSON *entry = value->child; entry != NULL; entry = entry->next, index++) {
        char inner[512];
        if (cJSON_IsArray(value)) {
            snprintf(inner, sizeof inner, "%s[%zu]", path, index);
        } else {
            snprintf(inner, sizeof inner, "%s%s%s", path, path[0] == '\0' ? "" : ".", entry->string);
        }
        if (!disabled || strcmp(entry->string, "config") != 0) { /* a backend that nobody opens may name variables that nobody sets */
            mon_config_interpolate(entry, inner, problems);
        }
    }
}

/* cJSON's own copy, with how numbers were written. */
static cJSON *copy_of(const cJSON *value) {
    return cJSON_Duplicate(value, 1);
}

void mon_config_merge(cJSON *tree, const cJSON *other) {
    for (const cJSON *entry = other->child; entry != NULL; entry = entry->next) {
        cJSON *inner = cJSON_GetObjectItemCaseSensitive(tree, entry->string);
        if (cJSON_IsObject(inner) && cJSON_IsObject(entry)) {
            mon_config_merge(inner, entry);
            continue;
        }
        cJSON *copy = copy_of(entry);
        if (copy != NULL && inner != NULL) {
            cJSON_ReplaceItemInObjectCaseSensitive(tree, entry->string, copy);
        } else if (copy != NULL) {
            cJSON_AddItemToObject(tree, entry->string, copy);
        }
    }
}

bool mon_config_put(cJSON *tree, char *const *path, size_t count, cJSON *value) {
    for (size_t i = 0; i + 1 < count; i++) {
        cJSON *inner = cJSON_GetObjectItemCaseSensitive(tree, path[i]);
        if (!cJSON_IsObject(inner)) {
            cJSON_DeleteItemFromObjectCaseSensitive(tree, path[i]);
            inner = cJSON_AddObjectToObject(tree, path[i]);
        }
        if (inner == NULL) {
            cJSON_Delete(value);
            return false;
        }
        tree = inner;
    }
    cJSON *wrapped = cJSON_CreateObject();
    if (wrapped == NULL || !cJSON_AddItemToObject(wrapped, path[count - 1], value)) {
        cJSON_Delete(value);
        cJSON_Delete(wrapped);
        return false;
    }
    mon_config_merge(tree, wrapped);
    cJSON_Delete(wrapped);
    return true;
}
