/* The whole configuration: found, merged, checked, and turned into settings. */
#define _GNU_SOURCE
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "number.h"

extern char **environ;

static const char DEFAULT_FILE[] = "monitoring-config.yaml";
static const char ENVIRONMENT[] = "MONITORING_SDK__";
static const double LONGEST_TIMEOUT = 86400;
static const double BACKEND_TIMEOUT = 30;
enum { LEVELS = 8, LARGEST_FILE = 1024 * 1024 };

/* ------------------------------------------------------------------------------------------------- put together by a program */

mon_config *mon_config_new(void) {
    struct mon_config *config = calloc(1, sizeof *config);
    if (config != NULL) {
        config->documents = cJSON_CreateArray();
    }
    if (config == NULL || config->documents == NULL) {
        free(config);
        mon_error_set(MON_ERR_MEMORY, "", "out of memory for a configuration");
        return NULL;
    }
    return config;
}

void mon_config_free(mon_config *config) {
    if (config != NULL) {
        free(config->file);
        cJSON_Delete(config->documents);
        free(config);
    }
}

mon_status mon_config_file(mon_config *config, const char *path) {
    if (config == NULL || path == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected a configuration and a path, got NULL");
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return mon_error_set(MON_ERR_MEMORY, "", "out of memory for a configuration");
    }
    free(config->file);
    config->file = copy;
    return MON_OK;
}

static mon_status add_document(mon_config *config, cJSON *document) {
    if (document == NULL || !cJSON_AddItemToArray(config->documents, document)) {
        return mon_error_set(MON_ERR_MEMORY, "", "out of memory for a configuration");
    }
    return MON_OK;
}

mon_status mon_config_json(mon_config *config, const char *text, size_t length) {
    if (config == NULL || text == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected a configuration and a document, got NULL");
    }
    char problem[160];
    cJSON *document = mon_config_tree(text, length, problem, sizeof problem);
    if (!cJSON_IsObject(document)) {
        struct mon_problems problems = {0};
        mon_problem_add(&problems, "", "%s%s", document == NULL ? "not valid JSON: " : "expected a mapping at the top",
                        document == NULL ? problem : "");
        cJSON_Delete(document);
        return mon_error_config("configuration", &problems);
    }
    return add_document(config, document);
}

/* The parts of a dotted path below `sdk`, in `copy`; how many. */
static size_t split(char *copy, const char *separator, char *parts[LEVELS]) {
    static char sdk[] = "sdk";
    size_t count = 0;
    parts[count++] = sdk;
    size_t width = strlen(separator);
    for (char *at = copy; at != NULL && count < LEVELS;) {
        char *end = strstr(at, separator);
        if (end != NULL) {
            *end = '\0';
        }
        parts[count++] = at;
        at = end == NULL ? NULL : end + width;
    }
    return count;
}

mon_status mon_config_set(mon_config *config, const char *path, const char *value) {
    if (config == NULL || path == NULL || value == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected a configuration, a path and a value, got NULL");
    }
    char *copy = strdup(strncmp(path, "sdk.", 4) == 0 ? path + 4 : path);
    cJSON *document = cJSON_CreateObject();
    char *parts[LEVELS];
    size_t count = copy == NULL ? 0 : split(copy, ".", parts);
    cJSON *typed = count > 0 && mon_config_is_text(parts, count) ? cJSON_CreateString(value) : mon_yaml_value(value);
    bool done = count > 0 && document != NULL && typed != NULL && mon_config_put(document, parts, count, typed);
    free(copy);
    if (!done) {
        cJSON_Delete(document);
        document = NULL;
    }
    return add_document(config, document);
}

/* ---------------------------------------------------------------------------------------------------------------- the file */

static char *absolute(const char *path, const char *folder) {
    char *whole = NULL;
    const char *home = getenv("HOME");
    if (path[0] == '/') {
        return strdup(path);
    }
    if (path[0] == '~' && (path[1] == '/' || path[1] == '\0') && home != NULL) {
        return asprintf(&whole, "%s%s", home, path + 1) < 0 ? NULL : whole;
    }
    return asprintf(&whole, "%s/%s", folder, path) < 0 ? NULL : whole;
}

static char *here(void) {
    char folder[PATH_MAX];
    return getcwd(folder, sizeof folder) == NULL ? strdup("/") : strdup(folder);
}

/* Makes a relative spool folder relative to the file that names it, not to wherever the program was started. */
static void anchor(cJSON *document, const char *file) {
    cJSON *sidecar = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(document, "sdk"), "sidecar");
    const cJSON *spool = cJSON_GetObjectItemCaseSensitive(sidecar, "spool_dir");
    if (!cJSON_IsString(spool) || spool->valuestring[0] == '\0') {
        return;
    }
    char *cwd = here();
    char *path = cwd == NULL ? NULL : absolute(file, cwd);
    char *slash = path == NULL ? NULL : strrchr(path, '/');
    if (slash != NULL) {
        *slash = '\0';
        char *folder = absolute(spool->valuestring, path);
        cJSON *item = folder == NULL ? NULL : cJSON_CreateString(folder);
        if (item != NULL) {
            cJSON_ReplaceItemInObjectCaseSensitive(sidecar, "spool_dir", item);
        }
        free(folder);
    }
    free(path);
    free(cwd);
}

static cJSON *read_file(const char *file, struct mon_problems *problems) {
    FILE *stream = fopen(file, "rbe");
    if (stream == NULL) {
        if (errno == ENOENT) {
            mon_problem_add(problems, "", "there is no such file; check mon_config_file() or MONITORING_CONFIG");
        } else {
            mon_problem_add(problems, "", "can't be read: %s", strerror(errno));
        }
        return NULL;
    }
    struct mon_buf text = {0};
    char piece[4096];
    size_t got;
    while ((got = fread(piece, 1, sizeof piece, stream)) > 0 && text.len < LARGEST_FILE) {
        mon_buf_add(&text, piece, got);
    }
    bool failed = ferror(stream) != 0;
    fclose(stream);
    char problem[200] = "";
    cJSON *document = NULL;
    if (failed) {
        mon_problem_add(problems, "", "can't be read: %s", strerror(EIO));
    } else {
        document = mon_yaml_parse(text.data == NULL ? "" : text.data, text.len, problem, sizeof problem);
        if (document == NULL) {
            mon_problem_add(problems, "", "not valid YAML or JSON: %s", problem);
        } else if (cJSON_IsNull(document)) {
            cJSON_Delete(document);
            document = cJSON_CreateObject();
        } else if (!cJSON_IsObject(document)) {
            mon_problem_add(problems, "", "expected a mapping at the top, got %s", cJSON_IsArray(document) ? "a list" : "a value");
            cJSON_Delete(document);
            document = NULL;
        }
    }
    mon_buf_free(&text);
    return document;
}

/* ---------------------------------------------------------------------------------------------------------- the environment */

static int by_name(const void *one, const void *other) {
    return strcmp(*(char *const *)one, *(char *const *)other);
}

static void merge_environment(cJSON *merged) {
    size_t count = 0;
    char **names = NULL;
    for (char **at = environ; at != NULL && *at != NULL; at++) {
        if (strncmp(*at, ENVIRONMENT, strlen(ENVIRONMENT)) == 0 && strchr(*at, '=') != NULL) {
            char **more = realloc(names, (count + 1) * sizeof *more);
            if (more == NULL) {
                break;
            }
            names = more;
            names[count++] = *at;
        }
    }
    if (count > 1) {
        qsort(names, count, sizeof *names, by_name);
    }
    for (size_t i = 0; i < count; i++) {
        char *copy = strdup(names[i] + strlen(ENVIRONMENT));
        char *text = copy == NULL ? NULL : strchr(copy, '=');
        if (text != NULL) {
            *text++ = '\0';
            for (char *at = copy; *at != '\0'; at++) {
                *at = (char)tolower((unsigned char)*at);
            }
            char *parts[LEVELS];
            size_t depth = split(copy, "__", parts);
            cJSON *value = mon_config_is_text(parts, depth) ? cJSON_CreateString(text) : mon_yaml_value(text);
            if (value != NULL) {
                (void)mon_config_put(merged, parts, depth, value);
            }
        }
        free(copy);
    }
    free(names);
}

/* ------------------------------------------------------------------------------------------------------------- the settings */

static const cJSON *get(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* A value, else the schema's default for it. */
static const cJSON *setting(const cJSON *sdk, const char *section, const char *key) {
    const cJSON *given = get(section == NULL ? sdk : get(sdk, section), key);
    if (given != NULL) {
        return given;
    }
    const cJSON *rules = get(get(get(mon_config_schema(), "properties"), "sdk"), "properties");
    if (section != NULL) {
        rules = get(get(rules, section), "properties");
    }
    return get(get(rules, key), "default");
}

static char *text_setting(const cJSON *sdk, const char *section, const char *key) {
    const cJSON *value = setting(sdk, section, key);
    return cJSON_IsString(value) ? strdup(value->valuestring) : NULL;
}

static double number_setting(const cJSON *sdk, const char *section, const char *key) {
    const cJSON *value = setting(sdk, section, key);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

/* `1.0` stays "1.0", and 2 is "2": as the number was meant, not as it was typed. */
static char *version_of(const cJSON *version) {
    if (!cJSON_IsNumber(version)) {
        return cJSON_IsString(version) ? strdup(version->valuestring) : NULL;
    }
    char text[MON_NUMBER_TEXT + 4];
    size_t len = mon_number_write(text, version->valuedouble);
    text[len] = '\0';
    if (version->valuestring != NULL && strpbrk(version->valuestring, ".eE") != NULL && strpbrk(text, ".e") == NULL) {
        memcpy(text + len, ".0", 3);
    }
    return strdup(text);
}

static int by_priority(const void *one, const void *other) {
    const struct mon_backend_settings *a = one;
    const struct mon_backend_settings *b = other;
    return a->priority != b->priority ? (a->priority < b->priority ? -1 : 1) : 0;
}

static bool add_backend(struct mon_settings *settings, const char *type, const char *name, const cJSON *backend) {
    struct mon_backend_settings *list = realloc(settings->backends, (settings->backend_count + 1) * sizeof *list);
    if (list == NULL) {
        return false;
    }
    settings->backends = list;
    const cJSON *priority = get(backend, "priority");
    const cJSON *delivery = get(backend, "delivery");
    struct mon_backend_settings *added = &list[settings->backend_count++];
    *added = (struct mon_backend_settings){
        .type = strdup(type),
        .priority = cJSON_IsNumber(priority) ? priority->valueint : 100,
        .fallback = cJSON_IsString(delivery) && strcmp(delivery->valuestring, "fallback") == 0,
        .options = cJSON_IsObject(get(backend, "config")) ? cJSON_Duplicate(get(backend, "config"), 1) : cJSON_CreateObject(),
    };
    const cJSON *timeout = get(backend, "timeout");
    double otherwise = strcmp(type, "sidecar") == 0 ? settings->timeout : BACKEND_TIMEOUT;
    added->timeout = cJSON_IsNumber(timeout) && timeout->valuedouble < LONGEST_TIMEOUT ? timeout->valuedouble : otherwise;
    added->name = strdup(name != NULL ? name : type);
    return added->type != NULL && added->name != NULL && added->options != NULL;
}

static bool fill_backends(struct mon_settings *settings, const cJSON *sdk) {
    if (!settings->direct) {
        return add_backend(settings, "sidecar", NULL, NULL);
    }
    const cJSON *backend;
    cJSON_ArrayForEach(backend, get(sdk, "direct_backends")) {
        if (cJSON_IsFalse(get(backend, "enabled"))) {
            continue;
        }
        const cJSON *name = get(backend, "name");
        if (!add_backend(settings, get(backend, "type")->valuestring, cJSON_IsString(name) ? name->valuestring : NULL, backend)) {
            return false;
        }
    }
    /* qsort may reorder equals: the place in the file decides among them */
    for (size_t i = 1; i < settings->backend_count; i++) {
        for (size_t j = i; j > 0 && by_priority(&settings->backends[j - 1], &settings->backends[j]) > 0; j--) {
            struct mon_backend_settings swapped = settings->backends[j];
            settings->backends[j] = settings->backends[j - 1];
            settings->backends[j - 1] = swapped;
        }
    }
    return true;
}

static struct mon_settings *settings_of(const cJSON *sdk) {
    struct mon_settings *settings = calloc(1, sizeof *settings);
    if (settings == NULL) {
        return NULL;
    }
    const cJSON *mode = setting(sdk, NULL, "mode");
    settings->direct = cJSON_IsString(mode) && strcmp(mode->valuestring, "direct") == 0;
    settings->url = text_setting(sdk, "sidecar", "url");
    double timeout = number_setting(sdk, "sidecar", "timeout");
    settings->timeout = timeout < LONGEST_TIMEOUT ? timeout : LONGEST_TIMEOUT;
    double retries = number_setting(sdk, "sidecar", "retries");
    settings->retries = retries < 1000000 ? (int)retries : 1000000;
    settings->spooling = cJSON_IsTrue(setting(sdk, "sidecar", "enable_spooling"));
    char *spool = text_setting(sdk, "sidecar", "spool_dir");
    char *cwd = here();
    settings->spool_dir = spool == NULL || cwd == NULL ? NULL : absolute(spool, cwd);
    free(spool);
    free(cwd);
    settings->token = text_setting(sdk, "sidecar", "token");
    double events = number_setting(sdk, "queue", "max_events");
    settings->max_events = events < 1e9 ? (size_t)events : 1000000000;
    settings->batch_size = (size_t)number_setting(sdk, "queue", "batch_size");
    double interval = number_setting(sdk, "queue", "flush_interval");
    settings->flush_interval = interval < LONGEST_TIMEOUT ? interval : LONGEST_TIMEOUT;
    const cJSON *on_full = setting(sdk, "queue", "on_full");
    const char *policy = cJSON_IsString(on_full) ? on_full->valuestring : "spool";
    settings->on_full = strcmp(policy, "block") == 0 ? MON_FULL_BLOCK : strcmp(policy, "drop_oldest") == 0 ? MON_FULL_DROP_OLDEST : MON_FULL_SPOOL;
    settings->app_name = text_setting(sdk, "app", "name");
    settings->site_id = text_setting(sdk, "app", "site_id");
    settings->instance_id = text_setting(sdk, "app", "instance_id");
    settings->version = version_of(setting(sdk, "app", "version"));
    bool whole = settings->url != NULL && settings->spool_dir != NULL && settings->token != NULL && settings->app_name != NULL;
    if (!whole || settings->site_id == NULL || !fill_backends(settings, sdk)) {
        mon_settings_free(settings);
        return NULL;
    }
    return settings;
}

void mon_settings_free(struct mon_settings *settings) {
    if (settings == NULL) {
        return;
    }
    for (size_t i = 0; i < settings->backend_count; i++) {
        free(settings->backends[i].type);
        free(settings->backends[i].name);
        cJSON_Delete(settings->backends[i].options);
    }
    free(settings->backends);
    free(settings->url);
    free(settings->spool_dir);
    free(settings->token);
    free(settings->app_name);
    free(settings->site_id);
    free(settings->version);
    free(settings->instance_id);
    free(settings);
}

/* --------------------------------------------------------------------------------------------------------------- all of it */

/* What is wrong with the host or the port of the sidecar's URL, which a pattern can't tell. */
static void check_url(const cJSON *document, struct mon_problems *problems) {
    const cJSON *url = get(get(get(document, "sdk"), "sidecar"), "url");
    if (!cJSON_IsString(url) || (strncmp(url->valuestring, "http://", 7) != 0 && strncmp(url->valuestring, "https://", 8) != 0)) {
        return;
    }
    const char *host = strstr(url->valuestring, "://") + 3;
    size_t len = strcspn(host, "/?#");
    const char *at = memchr(host, '@', len);
    if (at != NULL) {
        len -= (size_t)(at + 1 - host);
        host = at + 1;
    }
    size_t name = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/?#");
    bool sound = name > 0 && name <= len && (host[0] != '[' || name > 2);
    if (sound && name < len) {
        size_t digits = len - name - 1;
        sound = host[name] == ':' && digits <= 5 && strspn(host + name + 1, "0123456789") >= digits;
        long port = sound && digits > 0 ? strtol(host + name + 1, NULL, 10) : 1;
        sound = sound && port > 0 && port <= 65535;
    }
    if (!sound) {
        mon_problem_add(problems, "sdk.sidecar.url", "expected a URL such as http://localhost:17000, got \"%.60s\"", url->valuestring);
    }
}

static void merge_documents(cJSON *merged, const struct mon_config *config, struct mon_problems *problems) {
    const cJSON *documents = config == NULL ? NULL : config->documents;
    const cJSON *given;
    cJSON_ArrayForEach(given, documents) {
        cJSON *document = cJSON_Duplicate(given, 1);
        if (document != NULL) {
            mon_config_interpolate(document, "", problems);
            mon_config_merge(merged, document);
            cJSON_Delete(document);
        }
    }
}

/* What is wrong with the merged document. */
static void check(const cJSON *merged, struct mon_problems *problems) {
    struct mon_problems found = {0};
    mon_config_check(merged, &found);
    check_url(merged, &found);
    mon_config_check_backends(get(merged, "sdk"), &found);
    for (size_t i = 0; i < found.count; i++) { /* of several at one place the first explains the others */
        bool known = false;
        for (size_t j = 0; j < problems->count; j++) {
            known |= strcmp(problems->list[j].path, found.list[i].path) == 0;
        }
        if (!known) {
            mon_problem_add(problems, found.list[i].path, "%s", found.list[i].message);
        }
    }
    mon_problems_free(&found);
}

struct mon_settings *mon_settings_load(const struct mon_config *config) {
    const char *named = config == NULL ? NULL : config->file;
    const char *variable = getenv("MONITORING_CONFIG");
    const char *file = named != NULL ? named : variable != NULL && variable[0] != '\0' ? variable : access(DEFAULT_FILE, F_OK) == 0 ? DEFAULT_FILE : NULL;
    struct mon_problems problems = {0};
    cJSON *merged = cJSON_CreateObject();
    if (merged == NULL || mon_config_schema() == NULL) {
        cJSON_Delete(merged);
        mon_error_set(MON_ERR_MEMORY, "", "out of memory for a configuration");
        return NULL;
    }
    if (file != NULL) {
        cJSON *document = read_file(file, &problems);
        if (document == NULL) {
            cJSON_Delete(merged);
            mon_error_config(file, &problems);
            return NULL;
        }
        mon_config_interpolate(document, "", &problems);
        anchor(document, file);
        mon_config_merge(merged, document);
        cJSON_Delete(document);
    }
    merge_environment(merged);
    merge_documents(merged, config, &problems);
    check(merged, &problems);
    struct mon_settings *settings = NULL;
    if (problems.count > 0) {
        mon_error_config(file == NULL ? "configuration" : file, &problems);
    } else {
        settings = settings_of(get(merged, "sdk"));
        if (settings == NULL) {
            mon_error_set(MON_ERR_MEMORY, "", "out of memory for a configuration");
        }
    }
    mon_problems_free(&problems);
    cJSON_Delete(merged);
    return settings;
}
