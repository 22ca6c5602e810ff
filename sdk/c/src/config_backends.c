/* The settings of each backend of direct mode: which there are, of which type, and which are needed. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "config.h"
#include "text.h"

enum { REQUIRED = 1, NULLABLE = 2 };

struct option {
    const char *type; /* of the backend */
    const char *key;  /* with a dot: within an object */
    char kind;        /* s text, n number above 0, b boolean, o object, t text values in an object */
    int flags;
};

static const struct option OPTIONS[] = {
    {"sidecar", "url", 's', 0},
    {"sidecar", "token", 's', 0},
    {"filesystem", "path", 's', REQUIRED},
    {"filesystem", "format", 's', 0},
    {"filesystem", "rotate_size_mb", 'n', 0},
    {"filesystem", "rotate_seconds", 'n', 0},
    {"s3", "bucket", 's', REQUIRED},
    {"s3", "region", 's', NULLABLE},
    {"s3", "prefix", 's', 0},
    {"s3", "endpoint_url", 's', NULLABLE},
    {"s3", "credentials", 'o', 0}, /* else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY */
    {"s3", "credentials.access_key_id", 's', REQUIRED},
    {"s3", "credentials.secret_access_key", 's', REQUIRED},
    {"s3", "credentials.session_token", 's', NULLABLE},
    {"s3", "format", 's', 0},
    {"s3", "compression", 's', NULLABLE},
    {"elk", "url", 's', REQUIRED},
    {"elk", "index", 's', 0},
    {"elk", "username", 's', NULLABLE},
    {"elk", "password", 's', NULLABLE},
    {"elk", "api_key", 's', NULLABLE},
    {"elk", "manage_template", 'b', 0},
    {"webhook", "url", 's', REQUIRED},
    {"webhook", "secret", 's', NULLABLE},
    {"webhook", "headers", 't', 0},
    {"webhook", "allow_private", 'b', 0}, /* for the sidecar, whose operator is not the owner of the address */
    {"zabbix", "url", 's', REQUIRED},
    {"zabbix", "host", 's', REQUIRED},
    {"zabbix", "api_key", 's', NULLABLE},
    {"zabbix", "item_wait", 'n', 0},
    {"s3", "tls", 'o', 0},
    {"s3", "tls.ca_file", 's', NULLABLE},
    {"s3", "tls.cert_file", 's', NULLABLE},
    {"s3", "tls.key_file", 's', NULLABLE},
    {"s3", "tls.verify", 'b', 0},
    {"elk", "tls", 'o', 0},
    {"elk", "tls.ca_file", 's', NULLABLE},
    {"elk", "tls.cert_file", 's', NULLABLE},
    {"elk", "tls.key_file", 's', NULLABLE},
    {"elk", "tls.verify", 'b', 0},
    {"webhook", "tls", 'o', 0},
    {"webhook", "tls.ca_file", 's', NULLABLE},
    {"webhook", "tls.cert_file", 's', NULLABLE},
    {"webhook", "tls.key_file", 's', NULLABLE},
    {"webhook", "tls.verify", 'b', 0},
};
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

static const struct option *option_of(const char *type, const char *key) {
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(OPTIONS[i].type, type) == 0 && strcmp(OPTIONS[i].key, key) == 0) {
            return &OPTIONS[i];
        }
    }
    return NULL;
}

static void check_value(const struct option *option, const cJSON *value, const char *path, struct mon_problems *problems) {
    if (cJSON_IsNull(value) && (option->flags & NULLABLE)) {
        return;
    }
    switch (option->kind) {
    case 's':
        if (!cJSON_IsString(value)) {
            mon_problem_add(problems, path, "expected string");
        } else if ((option->flags & REQUIRED) && value->valuestring[0] == '\0') {
            mon_problem_add(problems, path, "expected at least 1 character(s)");
        } else if (strcmp(option->key, "url") == 0 && strcmp(option->type, "zabbix") != 0 && strncmp(value->valuestring, "http://", 7) != 0 &&
                   strncmp(value->valuestring, "https://", 8) != 0) {
            mon_problem_add(problems, path, "expected an http:// or https:// URL");
        } else if (strcmp(option->key, "format") == 0 && strcmp(value->valuestring, "jsonl") != 0) {
            mon_problem_add(problems, path, "this SDK writes jsonl; for '%.20s' let the sidecar write", value->valuestring);
        } else if (strcmp(option->key, "compression") == 0 && strcmp(value->valuestring, "gzip") != 0 && strcmp(value->valuestring, "none") != 0) {
            mon_problem_add(problems, path, "this SDK knows gzip and none, not '%.20s'", value->valuestring);
        }
        break;
    case 'n':
        if (!cJSON_IsNumber(value) || !(value->valuedouble > 0)) {
            mon_problem_add(problems, path, "expected a number above 0");
        }
        break;
    case 'b':
        if (!cJSON_IsBool(value)) {
            mon_problem_add(problems, path, "expected boolean");
        }
        break;
    default:
        if (!cJSON_IsObject(value)) {
            mon_problem_add(problems, path, "expected object");
        }
        for (const cJSON *entry = option->kind == 't' ? value->child : NULL; entry != NULL; entry = entry->next) {
            if (!cJSON_IsString(entry)) {
                mon_problem_add(problems, path, "expected texts");
            }
        }
        break;
    }
}

static void check_options(const char *type, const cJSON *object, const char *below, const char *place, struct mon_problems *problems) {
    char key[96];
    char path[256];
    size_t depth = strlen(below);
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &OPTIONS[i];
        const char *name = option->key + depth;
        bool here = strcmp(option->type, type) == 0 && strncmp(option->key, below, depth) == 0 && strchr(name, '.') == NULL;
        if (here && (option->flags & REQUIRED) && cJSON_GetObjectItemCaseSensitive(object, name) == NULL) {
            snprintf(path, sizeof path, "%s.%s", place, name);
            mon_problem_add(problems, path, "required but missing");
        }
    }
    const cJSON *members = cJSON_IsObject(object) ? object : NULL;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, members) {
        snprintf(key, sizeof key, "%s%.60s", below, entry->string);
        snprintf(path, sizeof path, "%s.%.60s", place, entry->string);
        const struct option *option = option_of(type, key);
        if (option == NULL) {
            mon_problem_add(problems, path, "unknown setting of a '%s' backend", type);
            continue;
        }
        check_value(option, entry, path, problems);
        if (option->kind == 'o' && cJSON_IsObject(entry)) {
            snprintf(key, sizeof key, "%s.", option->key);
            check_options(type, entry, key, path, problems);
        }
    }
}

static int priority_of(const cJSON *backend) {
    const cJSON *priority = cJSON_GetObjectItemCaseSensitive(backend, "priority");
    return cJSON_IsNumber(priority) ? priority->valueint : 100;
}

static bool has_better(const cJSON *sdk, const cJSON *backend) {
    const cJSON *other;
    cJSON_ArrayForEach(other, cJSON_GetObjectItemCaseSensitive(sdk, "direct_backends")) {
        if (!cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(other, "enabled")) && priority_of(other) < priority_of(backend)) {
            return true;
        }
    }
    return false;
}

/* Whether this SDK knows the type (NULL: the schema has seen that it is missing). */
static bool supports(const char *type, const char *place, struct mon_problems *problems) {
    static const char *const known[] = {"sidecar", "filesystem", "s3", "elk", "webhook", "zabbix"};
    for (size_t i = 0; type != NULL && i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i], type) == 0) {
            return true;
        }
    }
    if (type != NULL) {
        char path[128];
        snprintf(path, sizeof path, "%s.type", place);
        mon_problem_add(problems, path, "this SDK delivers to sidecar, filesystem, s3, elk, webhook and zabbix; for '%.20s' use the sidecar", type);
    }
    return false;
}

/* Whether nobody before has the name of the last one. */
static void check_name(char names[MON_MAX_BACKENDS][65], size_t count, const char *place, struct mon_problems *problems) {
    for (size_t i = 0; i + 1 < count; i++) {
        if (strcmp(names[i], names[count - 1]) == 0) {
            char path[128];
            snprintf(path, sizeof path, "%s.name", place);
            mon_problem_add(problems, path, "another backend is '%s' already; give one of them another `name`", names[i]);
            return;
        }
    }
}

static void check_delivery(const cJSON *sdk, const cJSON *backend, const char *place, struct mon_problems *problems) {
    const cJSON *delivery = cJSON_GetObjectItemCaseSensitive(backend, "delivery");
    if (cJSON_IsString(delivery) && strcmp(delivery->valuestring, "fallback") == 0 && !has_better(sdk, backend)) {
        char path[128];
        snprintf(path, sizeof path, "%s.delivery", place);
        mon_problem_add(problems, path, "a fallback needs an enabled backend with a lower `priority` number to stand in for");
    }
}

void mon_config_check_backends(const cJSON *sdk, struct mon_problems *problems) {
    const cJSON *mode = cJSON_GetObjectItemCaseSensitive(sdk, "mode");
    if (!cJSON_IsString(mode) || strcmp(mode->valuestring, "direct") != 0) {
        return;
    }
    size_t enabled = 0;
    size_t index = 0;
    bool unsupported = false;
    char names[MON_MAX_BACKENDS][65];
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(sdk, "direct_backends");
    const cJSON *backends = cJSON_IsArray(list) ? list : NULL;
    const cJSON *backend;
    cJSON_ArrayForEach(backend, backends) {
        char place[96];
        char path[128];
        snprintf(place, sizeof place, "sdk.direct_backends[%zu]", index++);
        if (cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(backend, "enabled"))) {
            continue;
        }
        const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(backend, "type"));
        if (!supports(type, place, problems)) {
            unsupported = true;
            continue;
        }
        if (enabled == MON_MAX_BACKENDS) {
            mon_problem_add(problems, "sdk.direct_backends", "expected at most %d enabled backends", MON_MAX_BACKENDS);
            return;
        }
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(backend, "name");
        snprintf(names[enabled++], sizeof *names, "%s", cJSON_IsString(name) ? name->valuestring : type);
        check_name(names, enabled, place, problems);
        check_delivery(sdk, backend, place, problems);
        snprintf(path, sizeof path, "%s.config", place);
        check_options(type, cJSON_GetObjectItemCaseSensitive(backend, "config"), "", path, problems);
    }
    if (enabled == 0 && !unsupported && (list == NULL || backends != NULL)) {
        mon_problem_add(problems, "sdk.direct_backends", "expected at least one enabled backend in direct mode");
    }
}
