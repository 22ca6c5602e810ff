/* What servers answer, and what Zabbix, folders and objects are called. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answers.h"
#include "backends/zabbix_values.h"
#include "http.h"
#include "partition.h"
#include "unit.h"

static enum mon_result judged(long status, const char *body, size_t events, struct mon_answer *answer) {
    struct mon_http_response response = {.status = status, .retry_after = -1};
    mon_buf_text(&response.body, body);
    *answer = (struct mon_answer){.retry_after = -1};
    mon_sidecar_read_answer(&response, events, answer);
    mon_buf_free(&response.body);
    return answer->result;
}

static void an_answer_means_something_else(void) {
    struct mon_answer answer;
    CHECK(judged(202, "{\"accepted\":2,\"rejected\":[]}", 2, &answer) == MON_ACCEPTED && answer.rejected == 0);
    CHECK(judged(202, "{\"accepted\":1,\"rejected\":[{\"index\":1,\"path\":\"metrics.x\",\"error\":\"no\"}, 5]}", 2, &answer) == MON_ACCEPTED);
    CHECK(answer.rejected == 1);
    CHECK_TEXT(answer.first_rejected, "metrics.x: no");
    CHECK(judged(202, "hello", 2, &answer) == MON_RETRY && strstr(answer.detail, "no acknowledgement") != NULL);
    CHECK(judged(200, "", 2, &answer) == MON_RETRY);
    CHECK(judged(202, "{\"accepted\":\"2\"}", 2, &answer) == MON_RETRY);
    const struct {
        long status;
        enum mon_result result;
    } cases[] = {{400, MON_REFUSED}, {401, MON_KEEP}, {403, MON_KEEP}, {404, MON_KEEP}, {408, MON_RETRY}, {413, MON_TOO_LARGE}, {415, MON_REFUSED},
                 {422, MON_REFUSED}, {425, MON_RETRY}, {429, MON_RETRY}, {500, MON_RETRY}, {503, MON_RETRY}, {302, MON_KEEP}, {0, MON_RETRY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(judged(cases[i].status, "why", 1, &answer) == cases[i].result);
    }
}

static void another_host_is_taken_for_this_one(void) {
    CHECK(mon_http_is_loopback("http://localhost:17000/x") && mon_http_is_loopback("http://127.0.0.1") && mon_http_is_loopback("https://[::1]:5"));
    CHECK(!mon_http_is_loopback("http://localhost.example") && !mon_http_is_loopback("http://10.0.0.1") && !mon_http_is_loopback("nothing"));
}

static void an_event_lies_in_another_hour(void) {
    const char *lines[] = {"{\"timestamp\":\"2026-01-31T23:30:00.000000+05:30\",\"emitter\":{\"id\":\"01890a5d-ac96-774b-8cce-000000000001\",\"seq\":7}}",
                           "{\"event_id\":\"01890a5d-ac96-774b-8cce-000000000001\",\"timestamp\":\"2026-02-01T00:10:00.000000Z\",\"x\":1}"};
    struct mon_batch *batch = mon_batch_new("01890a5d-ac96-774b-8cce-000000000001", 0);
    for (size_t i = 0; i < 2; i++) {
        mon_buf_text(&batch->body, lines[i]);
        mon_buf_char(&batch->body, '\n');
        CHECK(mon_batch_line(batch, 7 + i));
    }
    struct mon_hours hours;
    CHECK(mon_hours_of(batch, &hours) && hours.count == 2);
    if (hours.count == 2) {
        CHECK_TEXT(hours.list[0].folder, "date=2026-01-31/hour=18");
        CHECK_TEXT(hours.list[1].folder, "date=2026-02-01/hour=00");
        char name[160];
        mon_hour_name(batch, &hours.list[1], "s3", name);
        CHECK_TEXT(name, "01890a5d-ac96-774b-8cce-000000000001.s3-00000000000000000008-00000000000000000008");
    }
    mon_hours_free(&hours);
    mon_batch_release(batch);
}

static void check_key(const char *const *values, size_t count, const char *expected) {
    struct mon_buf key = {0};
    mon_zabbix_key(&key, "k", values, count);
    CHECK_TEXT(mon_buf_string(&key), expected);
    mon_buf_free(&key);
}

static void zabbix_knows_the_key_by_another_name(void) {
    check_key((const char *[]){"fab1", "app", ""}, 3, "k[fab1,app,]");
    check_key((const char *[]){"a,b", "c]d", " e"}, 3, "k[\"a,b\",\"c]d\",\" e\"]");
    check_key((const char *[]){"a\"b,", "\"x", "y\\"}, 3, "k[\"a\\\"b,\",\"\\\"x\",y%5C]");
    check_key((const char *[]){"tab\there", "50%41"}, 2, "k[tab%09here,50%2541]");
}

static void zabbix_gets_no_value(void) {
    const char *text = "{\"kind\":\"finish\",\"name\":\"etch\",\"site_id\":\"f\",\"app\":{\"name\":\"a\"},\"entities\":{\"tool\":\"T\"},\"status\":\"failed\","
                       "\"duration_ms\":1500,\"metrics\":{\"p\":0.5},\"error\":{\"type\":\"E\",\"message\":\"m\"},\"event_id\":\"i\"}";
    struct mon_json_document document;
    struct mon_zabbix_list list = {0};
    CHECK(mon_json_parse(&document, text, strlen(text)));
    mon_zabbix_values(&list, 7, document.root, "host", 1000, 5);
    CHECK(list.count == 4 && list.values[3].event == 7);
    CHECK(list.values[1].key_len == 34 && strncmp(list.keys.data + list.values[1].key, "trackmate.run.duration[f,a,etch,T]", 34) == 0);
    const char *all = mon_buf_string(&list.data);
    CHECK(strstr(all, "\"key\":\"trackmate.run.state[f,a,etch,T]\",\"value\":\"3\",\"clock\":1000,\"ns\":5") != NULL);
    CHECK(strstr(all, "\"key\":\"trackmate.run.duration[f,a,etch,T]\",\"value\":\"1.5\"") != NULL);
    CHECK(strstr(all, "\"key\":\"trackmate.metric[f,a,etch,p,T]\",\"value\":\"0.5\"") != NULL);
    CHECK(strstr(all, "\"value\":\"etch [tool=T, event_id=i]\\nE: m\"") != NULL);
    mon_json_free(&document);
    mon_zabbix_list_free(&list);
    size_t processed = 0, failed = 0;
    const char answer[] = "{\"response\":\"success\",\"info\":\"processed: 2; failed: 1; total: 3; seconds spent: 0.000055\"}";
    CHECK(mon_zabbix_read_answer(answer, strlen(answer), &processed, &failed) && processed == 2 && failed == 1);
    CHECK(!mon_zabbix_read_answer("{}", 2, &processed, &failed) && !mon_zabbix_read_answer("x", 1, &processed, &failed));
}

const struct unit_test unit_answers_tests[] = {
    TEST(an_answer_means_something_else), TEST(another_host_is_taken_for_this_one),   TEST(an_event_lies_in_another_hour),
    TEST(zabbix_knows_the_key_by_another_name), TEST(zabbix_gets_no_value), {NULL, NULL},
};
