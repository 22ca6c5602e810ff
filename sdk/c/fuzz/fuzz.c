/* Feeds whatever libFuzzer thinks of to everything that reads what others wrote: configuration, events, metadata, HTTP answers,
 * Retry-After, names and content of spool files. The first byte chooses. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "answers.h"
#include "config.h"
#include "event.h"
#include "partition.h"
#include "retry.h"
#include "spool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void yaml(const char *text, size_t len) {
    char problem[200];
    cJSON *tree = mon_yaml_parse(text, len, problem, sizeof problem);
    if (tree != NULL) {
        struct mon_problems problems = {0};
        mon_config_interpolate(tree, "", &problems);
        mon_config_check(tree, &problems);
        mon_config_check_backends(cJSON_GetObjectItemCaseSensitive(tree, "sdk"), &problems);
        mon_problems_free(&problems);
        cJSON_Delete(tree);
    }
}

static void configuration(const char *text, size_t len) {
    mon_config *config = mon_config_new();
    if (mon_config_json(config, text, len) == MON_OK) {
        mon_settings_free(mon_settings_load(config));
    }
    mon_config_free(config);
}

static void event(const char *text, size_t len) {
    struct mon_json_document document;
    if (mon_json_parse(&document, text, len)) {
        struct mon_event *made = mon_event_from_json(document.root);
        if (mon_event_complete(made) == MON_OK && made->text.len == 0) {
            abort(); /* an event without a text */
        }
        mon_event_free(made);
        struct mon_buf out = {0};
        mon_json_write(&out, document.root);
        struct mon_json_document again; /* what was written must be JSON */
        if (!mon_json_parse(&again, out.data, out.len)) {
            abort();
        }
        mon_json_free(&again);
        mon_buf_free(&out);
    }
    mon_json_free(&document);
}

static void answer(const char *text, size_t len) {
    struct mon_http_response response = {.status = len % 2 == 0 ? 202 : 400, .retry_after = -1};
    struct mon_answer read = {.retry_after = -1};
    mon_buf_add(&response.body, text, len);
    mon_sidecar_read_answer(&response, len, &read);
    mon_buf_free(&response.body);
    size_t processed, failed;
    (void)mon_zabbix_read_answer(text, len, &processed, &failed);
}

static void spool(const char *text, size_t len) {
    struct mon_batch *batch = mon_batch_unpack(text, len);
    struct mon_batch *damaged = NULL;
    (void)mon_batch_sort_out(&batch, 1, &damaged);
    mon_batch_release(damaged);
    while (batch != NULL) {
        struct mon_batch *next = batch->next;
        struct mon_hours hours;
        if (mon_hours_of(batch, &hours)) {
            mon_hours_free(&hours);
        }
        mon_batch_release(batch);
        batch = next;
    }
    char name[256];
    struct mon_spool_name parts;
    size_t fit = len < sizeof name - 1 ? len : sizeof name - 1;
    if (fit > 0) {
        memcpy(name, text, fit);
    }
    name[fit] = '\0';
    (void)mon_spool_parse_name(name, &parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const char *text = (const char *)data + 1;
    size_t len = size - 1;
    switch (data[0] % 6) {
    case 0: yaml(text, len); break;
    case 1: configuration(text, len); break;
    case 2: event(text, len); break;
    case 3: answer(text, len); break;
    case 4: (void)mon_retry_after(text, len, 1769860800); break;
    default: spool(text, len); break;
    }
    return 0;
}
