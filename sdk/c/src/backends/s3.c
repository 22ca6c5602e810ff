/* Amazon S3 and compatible stores: JSON Lines objects in `date=…/hour=…` folders, as sinks/s3.py names them.
 *
 *     <prefix>date=2026-07-01/hour=09/<emitter id>.<backend>-<first seq>-<last seq>.jsonl.gz
 *
 * The name is made of what is inside, so a batch delivered twice overwrites itself. */
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "../http.h"
#include "../partition.h"
#include "../sha256.h"

struct s3 {
    struct mon_http *http;
    char *base; /* the address up to the prefix, with what URLs need escaped */
    char *name;
    char *credentials;
    char *signature;
    char *token_header; /* of temporary credentials; NULL: none */
    bool gzip;
};

static void close_s3(void *self) {
    struct s3 *s3 = self;
    mon_http_free(s3->http);
    free(s3->base);
    free(s3->name);
    free(s3->credentials);
    free(s3->signature);
    free(s3->token_header);
    free(s3);
}

/* Adds text to a URL's path as the signature wants it: all but letters, digits, -._~ and slashes as %XX. */
static void add_escaped(struct mon_buf *url, const char *text) {
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || strchr("-._~/", byte) != NULL;
        if (plain) {
            mon_buf_char(url, (char)byte);
        } else {
            mon_buf_format(url, "%%%02X", byte);
        }
    }
}

static char *text_of(struct mon_buf *text) {
    return mon_buf_string(text) == NULL ? NULL : text->data;
}

static void *open_s3(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct s3 *s3 = calloc(1, sizeof *s3);
    (void)settings;
    if (s3 == NULL) {
        return NULL;
    }
    const char *region = mon_option_text(backend, "region");
    const char *endpoint = mon_option_text(backend, "endpoint_url");
    const char *bucket = mon_option_text(backend, "bucket");
    const char *prefix = mon_option_text(backend, "prefix");
    const char *compression = mon_option_text(backend, "compression");
    const struct mon_backend_settings keys = {.options = cJSON_GetObjectItemCaseSensitive(backend->options, "credentials")};
    region = region == NULL || region[0] == '\0' ? "us-east-1" : region;
    prefix = prefix == NULL ? "events/" : prefix;
    struct mon_buf base = {0};
    if (endpoint != NULL && endpoint[0] != '\0') {
        size_t len = strlen(endpoint);
        mon_buf_format(&base, "%.*s/", (int)(endpoint[len - 1] == '/' ? len - 1 : len), endpoint);
        add_escaped(&base, bucket);
    } else {
        mon_buf_format(&base, "https://%s.s3.%s.amazonaws.com", bucket, region);
    }
    mon_buf_char(&base, '/');
    add_escaped(&base, prefix);
    if (prefix[0] != '\0' && prefix[strlen(prefix) - 1] != '/') {
        mon_buf_char(&base, '/');
    }
    struct mon_buf credentials = {0};
    const char *key_id = keys.options != NULL ? mon_option_text(&keys, "access_key_id") : getenv("AWS_ACCESS_KEY_ID");
    const char *secret = keys.options != NULL ? mon_option_text(&keys, "secret_access_key") : getenv("AWS_SECRET_ACCESS_KEY");
    mon_buf_format(&credentials, "%s:%s", key_id == NULL ? "" : key_id, secret == NULL ? "" : secret);
    struct mon_buf signature = {0};
    mon_buf_format(&signature, "aws:amz:%s:s3", region);
    const char *token = keys.options != NULL ? mon_option_text(&keys, "session_token") : getenv("AWS_SESSION_TOKEN");
    if (token != NULL && token[0] != '\0') {
        struct mon_buf header = {0};
        mon_buf_format(&header, "x-amz-security-token: %s", token);
        s3->token_header = text_of(&header);
    }
    s3->base = text_of(&base);
    s3->credentials = text_of(&credentials);
    s3->signature = text_of(&signature);
    s3->name = strdup(backend->name);
    s3->gzip = compression == NULL || strcmp(compression, "gzip") == 0;
    s3->http = mon_http_new(backend);
    if (s3->base == NULL || s3->credentials == NULL || s3->signature == NULL || s3->name == NULL || s3->http == NULL) {
        close_s3(s3);
        return NULL;
    }
    return s3;
}

/* The same bytes for the same lines: no name and no time in the header. */
static bool pack(const struct mon_buf *lines, struct mon_buf *packed) {
    z_stream stream = {0};
    if (deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        return false;
    }
    size_t room = deflateBound(&stream, lines->len);
    bool done = mon_buf_room(packed, room);
    if (done) {
        stream.next_in = (z_const unsigned char *)(uintptr_t)lines->data;
        stream.avail_in = (unsigned)lines->len;
        stream.next_out = (unsigned char *)packed->data;
        stream.avail_out = (unsigned)room;
        done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
        packed->len = stream.total_out;
    }
    deflateEnd(&stream);
    return done;
}

static void judge(const struct mon_http_response *response, struct mon_answer *answer) {
    mon_http_judge(response, answer);
    if (answer->result == MON_REFUSED || answer->result == MON_TOO_LARGE) {
        answer->result = MON_KEEP; /* what S3 refuses is the request or the place, never the events */
    }
}

static bool put(struct s3 *s3, const struct mon_batch *batch, const struct mon_hour *hour, double timeout, struct mon_answer *answer) {
    struct mon_buf packed = {0};
    if (s3->gzip && !pack(&hour->lines, &packed)) {
        mon_buf_free(&packed);
        mon_answer_set(answer, MON_RETRY, "out of memory");
        return false;
    }
    const struct mon_buf *body = s3->gzip ? &packed : &hour->lines;
    char name[160];
    mon_hour_name(batch, hour, s3->name, name);
    struct mon_buf url = {0};
    mon_buf_text(&url, s3->base);
    add_escaped(&url, hour->folder);
    mon_buf_format(&url, "/%s.jsonl%s", name, s3->gzip ? ".gz" : "");
    char hash[MON_SHA256_HEX];
    char hash_header[96];
    mon_sha256_hex(body->data, body->len, hash);
    snprintf(hash_header, sizeof hash_header, "x-amz-content-sha256: %s", hash);
    const char *headers[] = {s3->gzip ? "Content-Type: application/gzip" : "Content-Type: application/x-ndjson", hash_header, s3->token_header, NULL};
    struct mon_http_request request = {
        .method = "PUT",
        .url = mon_buf_string(&url),
        .headers = headers,
        .body = body->data,
        .len = body->len,
        .user = s3->credentials,
        .signature = s3->signature,
        .timeout = timeout,
    };
    struct mon_http_response response;
    mon_http_send(s3->http, &request, &response);
    bool stored = response.status >= 200 && response.status < 300;
    if (!stored) {
        judge(&response, answer);
    }
    mon_buf_free(&response.body);
    mon_buf_free(&packed);
    mon_buf_free(&url);
    return stored;
}

static void send_to_s3(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct s3 *s3 = self;
    struct mon_hours hours;
    if (!mon_hours_of(batch, &hours)) {
        mon_answer_set(answer, MON_RETRY, "out of memory");
        return;
    }
    bool stored = true;
    for (size_t i = 0; stored && i < hours.count; i++) {
        stored = put(s3, batch, &hours.list[i], timeout, answer);
    }
    if (stored) {
        mon_answer_set(answer, MON_ACCEPTED, "stored");
    }
    mon_hours_free(&hours);
}

static void interrupt_s3(void *self) {
    mon_http_interrupt(((struct s3 *)self)->http);
}

static void forget_s3(void *self) {
    mon_http_forget(((struct s3 *)self)->http);
}

const struct mon_backend_type mon_backend_s3 = {
    "s3", open_s3, send_to_s3, interrupt_s3, close_s3, forget_s3, NULL, false,
};
