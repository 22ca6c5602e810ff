/* Events as the program puts them together, without a running SDK: what is refused, and what the text is. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "event.h"
#include "monitoring.h"
#include "unit.h"

/* The mistake that an event has, as `path: problem`; "" for none. The event is gone after this. */
static const char *mistake_of(mon_event *event) {
    static char text[1600];
    mon_status status = mon_event_complete(event);
    snprintf(text, sizeof text, "%s", status == MON_OK ? "" : mon_error_path());
    CHECK(status == MON_OK || strstr(mon_error_message(), text) != NULL);
    mon_event_free(event);
    return text;
}

static const char *mistake_in(const char *json) {
    struct mon_json_document document;
    CHECK(mon_json_parse(&document, json, strlen(json)));
    mon_event *event = mon_event_from_json(document.root);
    mon_json_free(&document);
    return mistake_of(event);
}

static void a_field_of_another_kind_is_taken(void) {
    mon_event *event = mon_event_new(MON_LOG, "etch");
    CHECK(mon_event_progress(event, 0.5) == MON_ERR_EVENT);
    CHECK_TEXT(mistake_of(event), "progress");
    event = mon_event_new(MON_METRIC, "etch");
    CHECK(mon_event_outcome(event, MON_FAILED) == MON_ERR_EVENT);
    CHECK_TEXT(mistake_of(event), "status");
    CHECK_TEXT(mistake_of(mon_event_new(MON_STATE, "door")), "state");
    event = mon_event_new(MON_STATE, "door");
    mon_event_state(event, "closed", "open");
    CHECK_TEXT(mistake_of(event), "");
}

static void the_first_mistake_is_forgotten(void) {
    mon_event *event = mon_event_new(MON_METRIC, "chuck");
    mon_event_entity(event, "lot", "");
    mon_event_entity(event, "", "x");
    mon_event_metric(event, "t", 1);
    CHECK_TEXT(mistake_of(event), "entities.lot");
    CHECK_TEXT(mistake_of(mon_event_new(MON_LOG, "")), "name");
    CHECK_TEXT(mistake_of(mon_event_new(MON_LOG, NULL)), "name");
    CHECK_TEXT(mistake_of(mon_event_new((mon_kind)99, "x")), "kind");
}

static void a_key_that_is_set_twice_stands_twice(void) {
    mon_event *event = mon_event_new(MON_METRIC, "chuck");
    mon_event_metric(event, "a", 1);
    mon_event_metric(event, "b", 2);
    mon_event_metric(event, "a", 3);
    mon_event_message(event, "one");
    mon_event_severity(event, MON_WARNING);
    mon_event_message(event, "two");
    CHECK_TEXT(mon_buf_string(&event->metrics.text), "\"b\":2,\"a\":3,");
    CHECK_TEXT(mon_buf_string(&event->text), "\"kind\":\"metric\",\"name\":\"chuck\",\"severity\":\"warning\",\"message\":\"two\",");
    CHECK_TEXT(mistake_of(event), "");
}

static void nan_gets_into_json(void) {
    mon_event *event = mon_event_new(MON_METRIC, "chuck");
    mon_event_metric(event, "a", NAN);
    mon_event_metric(event, "b", 2);
    mon_event_metric(event, "c", INFINITY);
    mon_event_number(event, "x", -INFINITY);
    CHECK(mon_event_complete(event) == MON_OK);
    CHECK_TEXT(mon_buf_string(&event->metrics.text), "\"b\":2,");
    CHECK_TEXT(mon_buf_string(&event->attributes.text), "\"x\":null,\"dropped_metrics\":[\"a\",\"c\"],");
    mon_event_free(event);
}

static void a_long_message_is_cut_in_a_character(void) {
    char text[10001];
    for (size_t i = 0; i < 10000; i += 2) {
        memcpy(text + i, "\xC3\xA9", 2);
    }
    text[10000] = '\0';
    mon_event *event = mon_event_new(MON_LOG, "x");
    mon_event_message(event, text + 1); /* begins in the middle of one */
    CHECK(event->text.len < 8192 + 64);
    CHECK_TEXT(mon_buf_string(&event->attributes.text), "\"truncated\":true,");
    struct mon_buf json = {0};
    mon_buf_char(&json, '{');
    mon_buf_add(&json, event->text.data, event->text.len - 1);
    mon_buf_char(&json, '}');
    struct mon_json_document document;
    CHECK(mon_json_parse(&document, json.data, json.len));
    const struct mon_json *message = mon_json_get(document.root, "message");
    CHECK(message != NULL && message->len <= 8192 && message->len > 8180 && strcmp(message->text + message->len - 2, "\xC3\xA9") == 0);
    mon_json_free(&document);
    mon_buf_free(&json);
    mon_event_free(event);
}

static void json_that_breaks_the_contract_is_taken(void) {
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"metrics\":{\"t\":\"21\"}}"), "metrics.t");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"emitter\":{}}"), "emitter");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"sevrity\":\"info\"}"), "sevrity");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\"}"), "name");
    CHECK_TEXT(mistake_in("{\"name\":\"x\"}"), "kind");
    CHECK_TEXT(mistake_in("{\"kind\":\"error\",\"name\":\"x\",\"error\":{\"type\":\"x\"}}"), "error.message");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"app\":{\"name\":\"a\",\"host\":\"h\"}}"), "app.host");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"timestamp\":\"2026-02-30T00:00:00Z\"}"), "timestamp");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"timestamp\":\"2024-02-29T23:59:59.123456789+05:30\"}"), "");
    CHECK_TEXT(mistake_in("{\"kind\":\"log\",\"name\":\"x\",\"attributes\":{\"a\":[[{\"b\":[]}]]}}"), "");
}

static void a_setter_takes_json_that_is_none(void) {
    mon_event *event = mon_event_new(MON_LOG, "x");
    CHECK(mon_event_json(event, "a", "[1,", 3) == MON_ERR_EVENT);
    CHECK_TEXT(mistake_of(event), "attributes.a");
    event = mon_event_new(MON_LOG, "x");
    CHECK(mon_event_json(event, "a", "{\"b\":[1,null]}", 14) == MON_OK);
    CHECK(mon_event_field(event, "timestamp", "\"2026-01-31T12:00:00Z\"", 22) == MON_OK);
    CHECK(mon_event_field(event, "colour", "1", 1) == MON_ERR_EVENT);
    CHECK_TEXT(mistake_of(event), "colour");
}

static void null_takes_the_process_down(void) {
    CHECK(mon_event_message(NULL, "x") == MON_ERR_ARGUMENT);
    CHECK(mon_event_metric(NULL, "x", 1) == MON_ERR_ARGUMENT);
    CHECK(mon_event_text(NULL, "x", "y") != MON_OK);
    CHECK(mon_event_number(NULL, "x", 1) != MON_OK);
    CHECK(mon_event_trace(NULL, "x", "y") == MON_ERR_ARGUMENT);
    CHECK(mon_emit(NULL) == MON_ERR_ARGUMENT);
    CHECK(mon_emit_json(NULL, 0) == MON_ERR_ARGUMENT);
    CHECK(mon_emit_batch_json(NULL, 0, NULL, 0, NULL) == MON_ERR_ARGUMENT);
    CHECK(mon_context_end_ok(NULL) == MON_ERR_ARGUMENT);
    CHECK(mon_context_fail(NULL, NULL, NULL) == MON_ERR_ARGUMENT);
    CHECK(mon_context_begin(NULL, NULL) == NULL);
    CHECK(mon_context_begin_json("x", NULL, 0) == NULL);
    CHECK(mon_config_file(NULL, "x") == MON_ERR_ARGUMENT);
    CHECK(mon_metadata_text(NULL, "a", "b") == MON_ERR_ARGUMENT);
    CHECK(mon_stats(NULL) == MON_ERR_ARGUMENT);
    mon_event_free(NULL);
    mon_metadata_free(NULL);
    mon_config_free(NULL);
    mon_event *event = mon_event_new(MON_LOG, "x");
    CHECK(mon_event_message(event, NULL) != MON_OK);
    mon_event_free(event);
}

static void use_without_initialize_goes_unnoticed(void) {
    CHECK(mon_emit(mon_event_new(MON_LOG, "x")) == MON_ERR_STATE);
    CHECK(strstr(mon_error_message(), "mon_initialize()") != NULL);
    CHECK(mon_flush(0) == MON_ERR_STATE);
    CHECK(mon_close() == MON_OK);
    CHECK(mon_backend_count() == 0);
}

const struct unit_test unit_event_tests[] = {
    TEST(a_field_of_another_kind_is_taken),
    TEST(the_first_mistake_is_forgotten),
    TEST(a_key_that_is_set_twice_stands_twice),
    TEST(nan_gets_into_json),
    TEST(a_long_message_is_cut_in_a_character),
    TEST(json_that_breaks_the_contract_is_taken),
    TEST(a_setter_takes_json_that_is_none),
    TEST(null_takes_the_process_down),
    TEST(use_without_initialize_goes_unnoticed),
    {NULL, NULL},
};
