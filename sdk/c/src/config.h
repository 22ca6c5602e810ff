/* Where the configuration comes from: defaults, then a file, then the environment, then the program; later wins. */
#ifndef MON_CONFIG_H
#define MON_CONFIG_H

#include <cjson/cJSON.h>

#include "error.h"
#include "monitoring.h"

enum mon_on_full { MON_FULL_SPOOL, MON_FULL_DROP_OLDEST, MON_FULL_BLOCK };

/* One destination. `options` is its `config` block (NULL: none); of a sidecar it is made up from `sdk.sidecar`. */
struct mon_backend_settings {
    char *type;
    char *name;
    int priority;
    bool fallback;
    double timeout; /* of one delivery, in seconds */
    cJSON *options;
};

/* A whole, valid configuration. Times are in seconds. */
struct mon_settings {
    bool direct;
    char *url;
    double timeout;
    int retries;
    bool spooling;
    char *spool_dir;
    char *token;
    struct mon_backend_settings *backends; /* in the order of their priority */
    size_t backend_count;
    size_t max_events;
    size_t batch_size;
    double flush_interval;
    enum mon_on_full on_full;
    char *app_name;
    char *site_id;
    char *version;     /* may be NULL */
    char *instance_id; /* may be NULL */
};

struct mon_config {
    char *file;
    cJSON *documents; /* an array, in the order in which they were given */
};

/* Loads and merges; NULL after noting every mistake as the thread's error. */
struct mon_settings *mon_settings_load(const struct mon_config *config);
void mon_settings_free(struct mon_settings *settings);

/* config_yaml.c: a document as a tree; NULL with `problem` when it is not one. An empty one is null. */
cJSON *mon_yaml_parse(const char *text, size_t len, char *problem, size_t room);
/* The value that YAML sees in plain text: a number, a boolean, null, a list, else the text. */
cJSON *mon_yaml_value(const char *text);

/* config_json.c: JSON text as a tree that knows how its numbers were written; NULL with `problem` when it is none. */
cJSON *mon_config_tree(const char *text, size_t len, char *problem, size_t room);

/* config_check.c: every way in which a document breaks the schema. */
const cJSON *mon_config_schema(void);
void mon_config_check(const cJSON *document, struct mon_problems *problems);
/* Whether the value at this path below the root is text. */
bool mon_config_is_text(char *const *path, size_t count);

/* config_backends.c: what the schema leaves open about direct backends. */
void mon_config_check_backends(const cJSON *sdk, struct mon_problems *problems);

/* config_merge.c */
void mon_config_interpolate(cJSON *value, const char *path, struct mon_problems *problems);
void mon_config_merge(cJSON *tree, const cJSON *other);
/* Sets the value (which it takes) at a path, making objects on the way; false without memory. */
bool mon_config_put(cJSON *tree, char *const *path, size_t count, cJSON *value);

#endif
