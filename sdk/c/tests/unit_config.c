/* Configuration: YAML, JSON, interpolation, environment, precedence, and every mistake with its path. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "unit.h"

static const char APP[] = "{\"sdk\":{\"app\":{\"name\":\"etcher\",\"site_id\":\"fab1\"}}}";

static mon_config *config_of(const char *json) {
    mon_config *config = mon_config_new();
    CHECK(mon_config_json(config, json, strlen(json)) == MON_OK);
    return config;
}

static bool has_problem(const char *path, const char *part) {
    for (size_t i = 0; i < mon_error_problem_count(); i++) {
        if (strcmp(mon_error_problem_path(i), path) == 0 && strstr(mon_error_problem_message(i), part) != NULL) {
            return true;
        }
    }
    printf("    no problem %s (%s) in: %s\n", path, part, mon_error_message());
    return false;
}

static const char *written(const char *folder, const char *name, const char *text) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
    return path;
}

static void a_default_is_not_that_of_the_schema(void) {
    mon_config *config = config_of(APP);
    struct mon_settings *settings = mon_settings_load(config);
    CHECK(settings != NULL);
    if (settings != NULL) {
        CHECK_TEXT(settings->url, "http://localhost:17000");
        CHECK_TEXT(settings->spool_dir, "/tmp/sdk-spool");
        CHECK(settings->timeout == 5 && settings->retries == 3 && settings->spooling && !settings->direct);
        CHECK(settings->max_events == 10000 && settings->batch_size == 500 && settings->flush_interval == 1);
        CHECK(settings->on_full == MON_FULL_SPOOL && settings->version == NULL && settings->backend_count == 1);
    }
    mon_settings_free(settings);
    mon_config_free(config);
}

static void a_file_is_misread(void) {
    const char *folder = unit_folder();
    setenv("UNIT_TOKEN", "tm_x", 1);
    const char *file = written(folder, "m.yaml",
                               "# a comment\nsdk:\n  sidecar: {url: http://h:1/base, timeout: 2.5, token: ${UNIT_TOKEN}, spool_dir: spool, enable_spooling: no}\n"
                               "  queue: {max_events: 1_000, batch_size: 0x10, on_full: block}\n"
                               "  app: {name: \"a b\", version: 1.0, site_id: '${UNSET_ONE:-fab-9}', instance_id: &x i1}\n");
    mon_config *config = mon_config_new();
    mon_config_file(config, file);
    struct mon_settings *settings = mon_settings_load(config);
    CHECK(settings != NULL);
    if (settings != NULL) {
        char spool[128];
        snprintf(spool, sizeof spool, "%s/spool", folder);
        CHECK_TEXT(settings->spool_dir, spool);
        CHECK_TEXT(settings->token, "tm_x");
        CHECK_TEXT(settings->version, "1.0");
        CHECK_TEXT(settings->site_id, "fab-9");
        CHECK_TEXT(settings->app_name, "a b");
        CHECK(settings->timeout == 2.5 && !settings->spooling && settings->max_events == 1000 && settings->batch_size == 16);
        CHECK(settings->on_full == MON_FULL_BLOCK);
    } else {
        printf("    %s\n", mon_error_message());
    }
    mon_settings_free(settings);
    mon_config_free(config);
    unsetenv("UNIT_TOKEN");
}

static void the_wrong_source_wins(void) {
    const char *folder = unit_folder();
    const char *file = written(folder, "m.json", "{\"sdk\": {\"app\": {\"name\": \"file\", \"site_id\": \"file\", \"version\": \"file\"}, \"queue\": {\"batch_size\": 5}}}");
    setenv("MONITORING_CONFIG", file, 1);
    setenv("MONITORING_SDK__APP__SITE_ID", "7", 1); /* text stays text */
    setenv("MONITORING_SDK__APP__VERSION", "environment", 1);
    setenv("MONITORING_SDK__QUEUE__BATCH_SIZE", "6", 1);
    mon_config *config = config_of("{\"sdk\":{\"app\":{\"version\":\"program\"}}}");
    mon_config_set(config, "sidecar.retries", "9");
    struct mon_settings *settings = mon_settings_load(config);
    CHECK(settings != NULL);
    if (settings != NULL) {
        CHECK_TEXT(settings->app_name, "file");
        CHECK_TEXT(settings->site_id, "7");
        CHECK_TEXT(settings->version, "program");
        CHECK(settings->batch_size == 6 && settings->retries == 9);
    }
    mon_settings_free(settings);
    mon_config_free(config);
    unsetenv("MONITORING_CONFIG");
    unsetenv("MONITORING_SDK__APP__SITE_ID");
    unsetenv("MONITORING_SDK__APP__VERSION");
    unsetenv("MONITORING_SDK__QUEUE__BATCH_SIZE");
}

static void a_mistake_goes_unreported(void) {
    mon_config *config = config_of("{\"sdk\":{\"mode\":\"both\",\"sidecar\":{\"retires\":3,\"timeout\":\"fast\",\"url\":\"ftp://x\",\"token\":\"${UNSET_TWO}\"},"
                                   "\"queue\":{\"batch_size\":0,\"max_events\":1.5},\"app\":{\"site_id\":\"\"},\"x\":{\"y\":1}}}");
    CHECK(mon_settings_load(config) == NULL);
    CHECK(mon_error_status() == MON_ERR_CONFIG);
    CHECK(has_problem("sdk.mode", "expected one of sidecar, direct, got \"both\""));
    CHECK(has_problem("sdk.sidecar.retires", "did you mean retries?"));
    CHECK(has_problem("sdk.sidecar.timeout", "expected number, got \"fast\""));
    CHECK(has_problem("sdk.sidecar.url", "expected an http:// or https:// URL"));
    CHECK(has_problem("sdk.sidecar.token", "UNSET_TWO is not set"));
    CHECK(has_problem("sdk.queue.batch_size", "expected at least 1, got 0"));
    CHECK(has_problem("sdk.queue.max_events", "expected integer, got 1.5"));
    CHECK(has_problem("sdk.app.site_id", "at least 1 character"));
    CHECK(has_problem("sdk.app.name", "required but missing"));
    CHECK(has_problem("sdk.x", "unknown key"));
    CHECK(mon_error_problem_count() == 10);
    mon_config_free(config);
}

static void a_url_without_a_host_is_taken(void) {
    const char *wrong[] = {"http://:17000", "http://h:0", "http://h:99999", "http://h:x", "http://[::1:5"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mon_config *config = config_of(APP);
        mon_config_set(config, "sdk.sidecar.url", wrong[i]);
        CHECK(mon_settings_load(config) == NULL);
        CHECK(has_problem("sdk.sidecar.url", "expected a"));
        mon_config_free(config);
    }
}

static void a_file_that_is_none_is_taken(void) {
    const char *folder = unit_folder();
    const char *wrong[] = {"sdk: [1, 2", "- 1\n- 2\n", "\tsdk: x", "sdk: {app: *nobody}", "{\"sdk\": }"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mon_config *config = mon_config_new();
        mon_config_file(config, written(folder, "wrong.yaml", wrong[i]));
        CHECK(mon_settings_load(config) == NULL && mon_error_problem_count() >= 1);
        mon_config_free(config);
    }
    mon_config *config = mon_config_new();
    mon_config_file(config, written(folder, "empty.yaml", ""));
    CHECK(mon_settings_load(config) == NULL && has_problem("sdk", "required but missing"));
    mon_config_free(config);
    config = mon_config_new();
    mon_config_file(config, "/nowhere/at/all.yaml");
    CHECK(mon_settings_load(config) == NULL && has_problem("", "there is no such file"));
    mon_config_free(config);
}

static void direct_backends_are_in_the_wrong_order(void) {
    mon_config *config = config_of("{\"sdk\":{\"mode\":\"direct\",\"app\":{\"name\":\"a\",\"site_id\":\"b\"},\"direct_backends\":["
                                   "{\"type\":\"webhook\",\"priority\":5,\"delivery\":\"fallback\",\"config\":{\"url\":\"http://h\"}},"
                                   "{\"type\":\"kafka\",\"enabled\":false},{\"type\":\"filesystem\",\"priority\":1,\"config\":{\"path\":\"/d\"}},"
                                   "{\"type\":\"filesystem\",\"name\":\"second\",\"timeout\":7,\"priority\":1,\"config\":{\"path\":\"/e\"}}]}}");
    struct mon_settings *settings = mon_settings_load(config);
    CHECK(settings != NULL && settings->backend_count == 3);
    if (settings != NULL) {
        CHECK_TEXT(settings->backends[0].name, "filesystem");
        CHECK_TEXT(settings->backends[1].name, "second");
        CHECK(settings->backends[0].timeout == 30 && settings->backends[1].timeout == 7);
        CHECK(settings->backends[2].fallback);
    }
    mon_settings_free(settings);
    mon_config_free(config);
}

static void a_backend_with_a_mistake_is_taken(void) {
    mon_config *config = config_of("{\"sdk\":{\"mode\":\"direct\",\"app\":{\"name\":\"a\",\"site_id\":\"b\"},\"direct_backends\":["
                                   "{\"type\":\"kafka\"},{\"type\":\"s3\",\"config\":{\"bucket\":\"b\",\"credentials\":{\"access_key_id\":\"x\"},\"colour\":1}},"
                                   "{\"type\":\"webhook\",\"config\":{\"url\":\"ftp://h\"}}]}}");
    CHECK(mon_settings_load(config) == NULL);
    CHECK(has_problem("sdk.direct_backends[0].type", "use the sidecar"));
    CHECK(has_problem("sdk.direct_backends[1].config.colour", "unknown setting"));
    CHECK(has_problem("sdk.direct_backends[1].config.credentials.secret_access_key", "required"));
    CHECK(has_problem("sdk.direct_backends[2].config.url", "http://"));
    mon_config_free(config);
    config = config_of("{\"sdk\":{\"mode\":\"direct\",\"app\":{\"name\":\"a\",\"site_id\":\"b\"}}}");
    CHECK(mon_settings_load(config) == NULL && has_problem("sdk.direct_backends", "at least one"));
    mon_config_free(config);
}

const struct unit_test unit_config_tests[] = {
    TEST(a_default_is_not_that_of_the_schema),
    TEST(a_file_is_misread),
    TEST(the_wrong_source_wins),
    TEST(a_mistake_goes_unreported),
    TEST(a_url_without_a_host_is_taken),
    TEST(a_file_that_is_none_is_taken),
    TEST(direct_backends_are_in_the_wrong_order),
    TEST(a_backend_with_a_mistake_is_taken),
    {NULL, NULL},
};
