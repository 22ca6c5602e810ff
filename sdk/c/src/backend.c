/* The kinds of destinations, and how they answer. */
#include "backend.h"

#include <stdarg.h>
#include <stdio.h>

const struct mon_backend_type *mon_backend_type_of(const char *name) {
    static const struct mon_backend_type *const types[] = {&mon_backend_sidecar, &mon_backend_filesystem, &mon_backend_s3,
                                                           &mon_backend_elk,     &mon_backend_webhook,    &mon_backend_zabbix};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i]->name, name) == 0) {
            return types[i];
        }
    }
    return NULL;
}

void mon_answer_set(struct mon_answer *answer, enum mon_result result, const char *format, ...) {
    answer->result = result;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(answer->detail, sizeof answer->detail, format, arguments);
    va_end(arguments);
}

void mon_answer_refuse(struct mon_answer *answer, size_t index, const char *why) {
    if (answer->rejected++ == 0) {
        snprintf(answer->first_rejected, sizeof answer->first_rejected, "%s", why);
    }
    if (answer->refused != NULL) {
        mon_buf_add(answer->refused, &index, sizeof index);
        mon_buf_add(answer->refused, why, strlen(why) + 1);
    }
}

bool mon_answer_refused(const struct mon_answer *answer, size_t *at, size_t *index, const char **why) {
    const struct mon_buf *refused = answer->refused;
    if (refused == NULL || refused->failed || *at >= refused->len) {
        return false;
    }
    memcpy(index, refused->data + *at, sizeof *index);
    *why = refused->data + *at + sizeof *index;
    *at += sizeof *index + strlen(*why) + 1;
    return true;
}

const char *mon_option_text(const struct mon_backend_settings *backend, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(backend->options, key);
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

double mon_option_number(const struct mon_backend_settings *backend, const char *key, double otherwise) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(backend->options, key);
    return cJSON_IsNumber(value) ? value->valuedouble : otherwise;
}
