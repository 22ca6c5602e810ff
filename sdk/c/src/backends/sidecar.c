/* The sidecar: POST {url}/v1/ingest/events, see contract/PROTOCOL.md. */
#include <stdio.h>
#include <stdlib.h>

#include "../answers.h"
#include "../json.h"
#include "../number.h"

struct sidecar {
    struct mon_http *http;
    char *url;
    char *authorization; /* NULL: none */
    bool compress;
};

static void close_sidecar(void *self) {
    struct sidecar *sidecar = self;
    mon_http_free(sidecar->http);
    free(sidecar->url);
    free(sidecar->authorization);
    free(sidecar);
}

static void *open_sidecar(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct sidecar *sidecar = calloc(1, sizeof *sidecar);
    if (sidecar == NULL) {
        return NULL;
    }
    const char *url = mon_option_text(backend, "url");
    const char *token = mon_option_text(backend, "token");
    url = url != NULL ? url : settings->url;
    token = token != NULL ? token : settings->token;
    size_t len = strcspn(url, "?#");
    while (len > 0 && url[len - 1] == '/') {
        len--;
    }
    struct mon_buf address = {0};
    mon_buf_format(&address, "%.*s/v1/ingest/events", (int)len, url);
    (void)mon_buf_string(&address);
    sidecar->url = address.data;
    size_t start = strspn(token, " \t\r\n");
    size_t end = strlen(token);
    while (end > start && strchr(" \t\r\n", token[end - 1]) != NULL) {
        end--;
    }
    if (end > start) {
        struct mon_buf header = {0};
        mon_buf_format(&header, "Authorization: Bearer %.*s", (int)(end - start), token + start);
        (void)mon_buf_string(&header);
        sidecar->authorization = header.data;
    }
    sidecar->http = mon_http_new(NULL);
    sidecar->compress = !mon_http_is_loopback(url);
    if (sidecar->http == NULL || sidecar->url == NULL) {
        close_sidecar(sidecar);
        return NULL;
    }
    return sidecar;
}

static void note_rejected(const struct mon_json *rejected, size_t count, struct mon_answer *answer) {
    if (rejected == NULL || rejected->type != MON_JSON_ARRAY) {
        return;
    }
    for (const struct mon_json *entry = rejected->child; entry != NULL; entry = entry->next) {
        if (entry->type != MON_JSON_OBJECT || answer->rejected >= count) {
            continue;
        }
        if (answer->rejected++ == 0) {
            const struct mon_json *path = mon_json_get(entry, "path");
            const struct mon_json *error = mon_json_get(entry, "error");
            snprintf(answer->first_rejected, sizeof answer->first_rejected, "%.60s: %.90s",
                     path != NULL && path->type == MON_JSON_STRING ? path->text : "",
                     error != NULL && error->type == MON_JSON_STRING ? error->text : "");
        }
    }
}

void mon_sidecar_read_answer(const struct mon_http_response *response, size_t count, struct mon_answer *answer) {
    if (response->status < 200 || response->status >= 300) {
        mon_http_judge(response, answer);
        return;
    }
    /* Only an answer that says what it accepted is one: anything may listen on that port. */
    struct mon_json_document document;
    bool json = mon_json_parse(&document, response->body.data == NULL ? "" : response->body.data, response->body.len);
    const struct mon_json *accepted = json ? mon_json_get(document.root, "accepted") : NULL;
    answer->retry_after = -1;
    if (accepted == NULL || accepted->type != MON_JSON_INTEGER) {
        mon_answer_set(answer, MON_RETRY, "it answered %ld with something that is no acknowledgement: %.*s", response->status,
                       (int)(response->body.len < 100 ? response->body.len : 100), response->body.data == NULL ? "" : response->body.data);
    } else {
        mon_answer_set(answer, MON_ACCEPTED, "accepted");
        note_rejected(mon_json_get(document.root, "rejected"), count, answer);
    }
    mon_json_free(&document);
}

static void send_to_sidecar(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct sidecar *sidecar = self;
    const char *headers[] = {"Content-Type: application/x-ndjson", "User-Agent: monitoring-sdk-c/" MON_VERSION, sidecar->authorization, NULL};
    struct mon_http_request request = {
        .method = "POST",
        .url = sidecar->url,
        .headers = headers,
        .body = batch->body.data,
        .len = batch->body.len,
        .compress = sidecar->compress,
        .timeout = timeout,
    };
    struct mon_http_response response;
    mon_http_send(sidecar->http, &request, &response);
    mon_sidecar_read_answer(&response, batch->count, answer);
    mon_buf_free(&response.body);
}

static void interrupt_sidecar(void *self) {
    mon_http_interrupt(((struct sidecar *)self)->http);
}

static void forget_sidecar(void *self) {
    mon_http_forget(((struct sidecar *)self)->http);
}

const struct mon_backend_type mon_backend_sidecar = {
    "sidecar", open_sidecar, send_to_sidecar, interrupt_sidecar, close_sidecar, forget_sidecar, NULL, false,
};
