/* Elasticsearch: each event is a document whose id is its `event_id`, made with `op_type=create`, as sinks/elk.py does.
 *
 * A document that is there already (409) counts as delivered, so a batch delivered twice leaves one copy. With a date in the
 * index's name (`monitoring-%Y.%m`) the date is the event's own. Before the first document the index template is installed, unless it is there or `manage_template` is false. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../http.h"
#include "../json.h"
#include "../partition.h"
#include "elk_template.h"

struct elk {
    struct mon_http *http;
    char *base;
    char *url;
    bool prepared; /* the index template is there, or none of our business */
    char *index;
    char *user;          /* `name:password`; NULL: none */
    char *authorization; /* of an API key; NULL: none */
};

static void close_elk(void *self) {
    struct elk *elk = self;
    mon_http_free(elk->http);
    free(elk->base);
    free(elk->url);
    free(elk->index);
    free(elk->user);
    free(elk->authorization);
    free(elk);
}

static bool given(const char *text) {
    return text != NULL && text[0] != '\0';
}

static void *open_elk(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct elk *elk = calloc(1, sizeof *elk);
    (void)settings;
    if (elk == NULL) {
        return NULL;
    }
    const char *url = mon_option_text(backend, "url");
    const char *index = mon_option_text(backend, "index");
    const char *username = mon_option_text(backend, "username");
    const char *password = mon_option_text(backend, "password");
    const char *api_key = mon_option_text(backend, "api_key");
    size_t len = strlen(url);
    struct mon_buf address = {0};
    mon_buf_format(&address, "%.*s/_bulk?filter_path=errors,items.*.status,items.*.error", (int)(len > 0 && url[len - 1] == '/' ? len - 1 : len), url);
    (void)mon_buf_string(&address);
    elk->url = address.data;
    if (given(api_key)) {
        struct mon_buf header = {0};
        mon_buf_format(&header, "Authorization: ApiKey %s", api_key);
        (void)mon_buf_string(&header);
        elk->authorization = header.data;
    } else if (given(username)) {
        struct mon_buf user = {0};
        mon_buf_format(&user, "%s:%s", username, password == NULL ? "" : password);
        (void)mon_buf_string(&user);
        elk->user = user.data;
    }
    elk->base = strndup(url, len > 0 && url[len - 1] == '/' ? len - 1 : len);
    elk->prepared = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(backend->options, "manage_template"));
    elk->index = strdup(given(index) ? index : "monitoring");
    elk->http = mon_http_new(backend);
    if (elk->base == NULL || elk->url == NULL || elk->index == NULL || elk->http == NULL) {
        close_elk(elk);
        return NULL;
    }
    return elk;
}

/* Adds the two lines of a document; false when the event has no id. */
static bool add_document(struct mon_buf *body, const char *pattern, const char *line, size_t len) {
    struct mon_json_document document;
    bool done = false;
    if (mon_json_parse(&document, line, len)) {
        const struct mon_json *id = mon_json_get(document.root, "event_id");
        if (id != NULL && id->type == MON_JSON_STRING) {
            char index[256];
            time_t seconds = (time_t)mon_line_moment(line, len);
            struct tm parts;
            gmtime_r(&seconds, &parts);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            if (strftime(index, sizeof index, pattern, &parts) == 0) {
                snprintf(index, sizeof index, "monitoring");
            }
#pragma GCC diagnostic pop
            mon_buf_format(body, "{\"create\":{\"_index\":\"%s\",\"_id\":\"%.36s\"}}\n", index, id->text);
            mon_buf_add(body, line, len);
            mon_buf_char(body, '\n');
            done = true;
        }
    }
    mon_json_free(&document);
    return done;
}

static bool text_is(const struct mon_json *value, const char *text) {
    return value != NULL && value->type == MON_JSON_STRING && strcmp(value->text, text) == 0;
}

/* What became of each document. */
static void read_results(const struct mon_json *items, const size_t *places, size_t sent, struct mon_answer *answer) {
    size_t seen = 0;
    size_t again = 0;
    char why[160] = "";
    for (const struct mon_json *item = items->child; item != NULL; item = item->next, seen++) {
        const struct mon_json *result = mon_json_get(item, "create");
        const struct mon_json *status = mon_json_get(result, "status");
        const struct mon_json *error = mon_json_get(result, "error");
        const struct mon_json *type = mon_json_get(error, "type");
        const struct mon_json *reason = mon_json_get(error, "reason");
        long code = status != NULL && status->type == MON_JSON_INTEGER ? strtol(status->text, NULL, 10) : 0;
        if (code == 200 || code == 201 || code == 409) {
            continue;
        }
        char what[128];
        snprintf(what, sizeof what, "%.40s: %.80s", type != NULL && type->type == MON_JSON_STRING ? type->text : "error",
                 reason != NULL && reason->type == MON_JSON_STRING ? reason->text : "");
        bool place = text_is(type, "index_closed_exception") || text_is(type, "invalid_index_name_exception") || text_is(type, "validation_exception");
        if (code == 400 && !place) {
            if (seen < sent) {
                mon_answer_refuse(answer, places[seen], what);
            }
        } else {
            again++;
            snprintf(why, sizeof why, "%s", what);
        }
    }
    if (seen != sent) {
        mon_answer_set(answer, MON_RETRY, "it does not answer for each of %zu documents: is it Elasticsearch?", sent);
    } else if (again > 0) { /* those that are there already are passed over the next time */
        answer->rejected = 0;
        mon_answer_set(answer, MON_RETRY, "it took all but %zu of %zu documents: %s", again, sent, why);
    } else {
        mon_answer_set(answer, MON_ACCEPTED, "indexed");
    }
}

/* One request about the index template; whether it was answered with success. */
static bool ask(struct elk *elk, const char *method, const char *name, const struct mon_buf *body, double timeout, struct mon_http_response *response) {
    struct mon_buf url = {0};
    mon_buf_format(&url, "%s/_index_template/%s", elk->base, name);
    const char *headers[] = {"Content-Type: application/json", elk->authorization, NULL};
    struct mon_http_request request = {
        .method = method,
        .url = mon_buf_string(&url),
        .headers = headers,
        .body = body == NULL ? NULL : body->data,
        .len = body == NULL ? 0 : body->len,
        .user = elk->user,
        .timeout = timeout,
    };
    mon_http_send(elk->http, &request, response);
    mon_buf_free(&url);
    return response->status >= 200 && response->status < 300;
}

/* Installs the index template, unless this version of it or a later one is there; false when that is not possible now. */
static bool prepare(struct elk *elk, double timeout, struct mon_answer *answer) {
    char name[256];
    struct mon_buf body = {0};
    struct mon_http_response response;
    mon_elk_template(elk->index, name, sizeof name, &body);
    bool there = ask(elk, "GET", name, NULL, timeout, &response) && response.body.data != NULL &&
                 mon_elk_template_version(response.body.data, response.body.len) >= MON_ELK_TEMPLATE_VERSION;
    bool missing = response.status == 404 || (response.status >= 200 && response.status < 300);
    if (!there && missing) {
        mon_buf_free(&response.body);
        there = ask(elk, "PUT", name, &body, timeout, &response);
    }
    if (!there) {
        mon_http_judge(&response, answer);
        answer->result = answer->result == MON_REFUSED || answer->result == MON_TOO_LARGE ? MON_KEEP : answer->result;
    }
    mon_buf_free(&response.body);
    mon_buf_free(&body);
    elk->prepared = there;
    return there;
}

static void send_to_elk(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct elk *elk = self;
    if (!elk->prepared && !prepare(elk, timeout, answer)) {
        return;
    }
    struct mon_buf body = {0};
    size_t *places = calloc(batch->count, sizeof *places);
    size_t sent = 0;
    for (size_t i = 0; places != NULL && i < batch->count; i++) {
        size_t len;
        const char *line = mon_batch_get(batch, i, &len);
        if (add_document(&body, elk->index, line, len)) {
            places[sent++] = i;
        }
    }
    if (places == NULL || body.failed) {
        mon_answer_set(answer, MON_RETRY, "no memory for a request");
        mon_buf_free(&body);
        free(places);
        return;
    }
    const char *headers[] = {"Content-Type: application/x-ndjson", elk->authorization, NULL};
    struct mon_http_request request = {
        .method = "POST",
        .url = elk->url,
        .headers = headers,
        .body = body.data,
        .len = body.len,
        .user = elk->user,
        .timeout = timeout,
    };
    struct mon_http_response response;
    mon_http_send(elk->http, &request, &response);
    struct mon_json_document document = {0};
    bool json = response.status == 200 && response.body.len > 0 && mon_json_parse(&document, response.body.data, response.body.len);
    const struct mon_json *items = json ? mon_json_get(document.root, "items") : NULL;
    if (items != NULL && items->type == MON_JSON_ARRAY) {
        read_results(items, places, sent, answer);
    } else if (response.status >= 200 && response.status < 300) {
        mon_answer_set(answer, MON_RETRY, "it answered %ld with something that is no bulk result: is it Elasticsearch?", response.status);
    } else {
        mon_http_judge(&response, answer);
        if (answer->result == MON_REFUSED) {
            answer->result = MON_KEEP; /* the whole request was wrong: that is not about the events */
        }
    }
    mon_json_free(&document);
    mon_buf_free(&response.body);
    mon_buf_free(&body);
    free(places);
}

static void interrupt_elk(void *self) {
    mon_http_interrupt(((struct elk *)self)->http);
}

static void forget_elk(void *self) {
    mon_http_forget(((struct elk *)self)->http);
}

const struct mon_backend_type mon_backend_elk = {
    "elk", open_elk, send_to_elk, interrupt_elk, close_elk, forget_elk, NULL, true,
};
