/* Any HTTP endpoint: a batch as JSON Lines, as sinks/webhook.py sends it.
 *
 * Every request has an `Idempotency-Key` that is the same when the same events are sent again, and each event its `event_id`: with
 * either the receiver can tell a repetition. With a `secret` the header `X-TrackMate-Signature` is `v1=` and the HMAC-SHA256, in
 * hexadecimal, of the header `X-TrackMate-Timestamp` (seconds since 1970), a dot and the body. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../http.h"
#include "../sha256.h"

enum { HEADERS = 32 };

struct webhook {
    struct mon_http *http;
    char *url;
    char *secret; /* NULL: none */
    char *headers[HEADERS]; /* the program's own */
    size_t header_count;
};

static void close_webhook(void *self) {
    struct webhook *webhook = self;
    mon_http_free(webhook->http);
    for (size_t i = 0; i < webhook->header_count; i++) {
        free(webhook->headers[i]);
    }
    free(webhook->url);
    free(webhook->secret);
    free(webhook);
}

static void *open_webhook(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct webhook *webhook = calloc(1, sizeof *webhook);
    (void)settings;
    if (webhook == NULL) {
        return NULL;
    }
    const char *secret = mon_option_text(backend, "secret");
    webhook->http = mon_http_new(backend);
    webhook->url = strdup(mon_option_text(backend, "url"));
    webhook->secret = secret == NULL || secret[0] == '\0' ? NULL : strdup(secret);
    const cJSON *header;
    cJSON_ArrayForEach(header, cJSON_GetObjectItemCaseSensitive(backend->options, "headers")) {
        bool clean = strpbrk(header->string, ":\r\n ") == NULL && strpbrk(header->valuestring, "\r\n") == NULL;
        if (clean && webhook->header_count < HEADERS) {
            struct mon_buf line = {0};
            mon_buf_format(&line, "%s: %s", header->string, header->valuestring);
            if (mon_buf_string(&line) != NULL) {
                webhook->headers[webhook->header_count++] = line.data;
            }
        }
    }
    if (webhook->http == NULL || webhook->url == NULL) {
        close_webhook(webhook);
        return NULL;
    }
    return webhook;
}

static void send_to_webhook(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct webhook *webhook = self;
    char key[MON_SHA256_HEX];
    char key_header[64];
    char moment[24];
    char moment_header[64];
    char signature[MON_SHA256_HEX];
    char signature_header[112];
    const char *headers[HEADERS + 6] = {"Content-Type: application/x-ndjson", "User-Agent: monitoring-sdk-c/" MON_VERSION, key_header};
    size_t count = 3;
    mon_sha256_hex(batch->body.data, batch->body.len, key);
    snprintf(key_header, sizeof key_header, "Idempotency-Key: %.32s", key);
    if (webhook->secret != NULL) {
        int len = snprintf(moment, sizeof moment, "%lld.", (long long)time(NULL));
        mon_hmac_sha256_hex(webhook->secret, moment, (size_t)len, batch->body.data, batch->body.len, signature);
        snprintf(moment_header, sizeof moment_header, "X-TrackMate-Timestamp: %.*s", len - 1, moment);
        snprintf(signature_header, sizeof signature_header, "X-TrackMate-Signature: v1=%s", signature);
        headers[count++] = moment_header;
        headers[count++] = signature_header;
    }
    for (size_t i = 0; i < webhook->header_count; i++) {
        headers[count++] = webhook->headers[i];
    }
    headers[count] = NULL;
    struct mon_http_request request = {
        .method = "POST",
        .url = webhook->url,
        .headers = headers,
        .body = batch->body.data,
        .len = batch->body.len,
        .timeout = timeout,
    };
    struct mon_http_response response;
    mon_http_send(webhook->http, &request, &response);
    if (response.status >= 200 && response.status < 300) {
        mon_answer_set(answer, MON_ACCEPTED, "accepted");
    } else {
        mon_http_judge(&response, answer);
    }
    mon_buf_free(&response.body);
}

static void interrupt_webhook(void *self) {
    mon_http_interrupt(((struct webhook *)self)->http);
}

static void forget_webhook(void *self) {
    mon_http_forget(((struct webhook *)self)->http);
}

const struct mon_backend_type mon_backend_webhook = {
    "webhook", open_webhook, send_to_webhook, interrupt_webhook, close_webhook, forget_webhook, NULL, false,
};
