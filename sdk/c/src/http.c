/* HTTP by libcurl's multi interface, whose waiting another thread can end. */
#include "http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "ids.h"
#include "retry.h"

enum { WORTH_COMPRESSING = 1400, LARGEST_ANSWER = 4 * 1024 * 1024, SOCKETS = 8 };

struct mon_http {
    CURL *easy;
    CURLM *multi;
    atomic_bool interrupted;
    char *ca_file; /* whom to trust; NULL: as the system has it */
    char *ca_folder;
    char *cert_file;
    char *key_file;
    bool unverified;
    curl_socket_t sockets[SOCKETS]; /* that are open: a forked child closes its copies */
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void) {
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

static char *copied(const cJSON *tls, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(tls, key);
    return cJSON_IsString(value) && value->valuestring[0] != '\0' ? strdup(value->valuestring) : NULL;
}

/* A file or folder that the environment names, as OpenSSL's own programs take it: libcurl does not look. */
static char *named_by(const char *variable) {
    const char *value = getenv(variable);
    return value != NULL && value[0] != '\0' ? strdup(value) : NULL;
}

struct mon_http *mon_http_new(const struct mon_backend_settings *backend) {
    (void)pthread_once(&curl_once, init_curl);
    struct mon_http *http = calloc(1, sizeof *http);
    if (http == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < SOCKETS; i++) {
        http->sockets[i] = CURL_SOCKET_BAD;
    }
    const cJSON *tls = backend == NULL ? NULL : cJSON_GetObjectItemCaseSensitive(backend->options, "tls");
    http->ca_file = copied(tls, "ca_file");
    if (http->ca_file == NULL) {
        http->ca_file = named_by("SSL_CERT_FILE");
        http->ca_folder = named_by("SSL_CERT_DIR");
    }
    http->cert_file = copied(tls, "cert_file");
    http->key_file = copied(tls, "key_file");
    http->unverified = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(tls, "verify"));
    http->multi = curl_multi_init(); /* here and not when it is needed: `interrupt` may come at any time */
    if (http->multi == NULL) {
        mon_http_free(http);
        return NULL;
    }
    return http;
}

static curl_socket_t open_socket(void *data, curlsocktype purpose, struct curl_sockaddr *address) {
    struct mon_http *http = data;
    (void)purpose;
    curl_socket_t opened = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    for (size_t i = 0; opened != CURL_SOCKET_BAD && i < SOCKETS; i++) {
        if (http->sockets[i] == CURL_SOCKET_BAD) {
            http->sockets[i] = opened;
            break;
        }
    }
    return opened;
}

static int close_socket(void *data, curl_socket_t closed) {
    struct mon_http *http = data;
    for (size_t i = 0; i < SOCKETS; i++) {
        if (http->sockets[i] == closed) {
            http->sockets[i] = CURL_SOCKET_BAD;
        }
    }
    return close(closed);
}

static size_t on_body(char *bytes, size_t one, size_t len, void *data) {
    struct mon_http_response *response = data;
    (void)one;
    if (response->body.len + len > LARGEST_ANSWER) {
        return 0;
    }
    mon_buf_add(&response->body, bytes, len);
    return response->body.failed ? 0 : len;
}

static size_t on_header(char *bytes, size_t one, size_t len, void *data) {
    static const char name[] = "retry-after:";
    struct mon_http_response *response = data;
    (void)one;
    if (len >= sizeof name - 1 && strncasecmp(bytes, name, sizeof name - 1) == 0) {
        response->retry_after = mon_retry_after(bytes + sizeof name - 1, len - sizeof name + 1, time(NULL));
    }
    return len;
}

static bool gzip(const char *body, size_t len, struct mon_buf *packed) {
    z_stream stream = {0};
    if (deflateInit2(&stream, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        return false;
    }
    bool done = false;
    if (mon_buf_room(packed, len)) {
        stream.next_in = (z_const unsigned char *)(uintptr_t)body;
        stream.avail_in = (unsigned)len;
        stream.next_out = (unsigned char *)packed->data;
        stream.avail_out = (unsigned)len; /* what does not get smaller stays as it is */
        done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
        packed->len = stream.total_out;
    }
    deflateEnd(&stream);
    return done;
}

static void forget_handles(struct mon_http *http) {
    if (http->easy != NULL) {
        curl_easy_cleanup(http->easy);
        http->easy = NULL;
    }
}

static bool prepare(struct mon_http *http) {
    if (http->easy == NULL) {
        http->easy = curl_easy_init();
    } else {
        curl_easy_reset(http->easy);
    }
    return http->easy != NULL;
}

/* Runs the request until it is done, its deadline is over, or somebody interrupts it. */
static CURLcode run(struct mon_http *http, double timeout) {
    double deadline = mon_monotonic() + timeout;
    if (curl_multi_add_handle(http->multi, http->easy) != CURLM_OK) {
        return CURLE_FAILED_INIT;
    }
    CURLcode result = CURLE_OPERATION_TIMEDOUT;
    int running = 1;
    while (running > 0) {
        if (curl_multi_perform(http->multi, &running) != CURLM_OK) {
            result = CURLE_FAILED_INIT;
            break;
        }
        int left;
        const CURLMsg *message = curl_multi_info_read(http->multi, &left);
        if (message != NULL && message->msg == CURLMSG_DONE) {
            result = message->data.result;
            break;
        }
        double rest = deadline - mon_monotonic();
        if (atomic_load(&http->interrupted)) {
            result = CURLE_ABORTED_BY_CALLBACK;
            break;
        }
        if (rest <= 0) {
            break;
        }
        curl_multi_poll(http->multi, NULL, 0, (int)(rest * 1000) + 1, NULL);
    }
    curl_multi_remove_handle(http->multi, http->easy);
    return result;
}

static void set_trust(const struct mon_http *http) {
    if (http->ca_file != NULL) {
        curl_easy_setopt(http->easy, CURLOPT_CAINFO, http->ca_file);
    }
    if (http->ca_folder != NULL) {
        curl_easy_setopt(http->easy, CURLOPT_CAPATH, http->ca_folder);
    }
    if (http->cert_file != NULL) {
        curl_easy_setopt(http->easy, CURLOPT_SSLCERT, http->cert_file);
        curl_easy_setopt(http->easy, CURLOPT_SSLKEY, http->key_file != NULL ? http->key_file : http->cert_file);
    }
    if (http->unverified) {
        curl_easy_setopt(http->easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(http->easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

/* The handle as the request wants it; headers, body and `why` must outlive its run. */
static void set_up(struct mon_http *http, const struct mon_http_request *request, struct mon_http_response *response, char why[CURL_ERROR_SIZE]) {
    CURL *easy = http->easy;
    long milliseconds = request->timeout * 1000 < 1 ? 1 : (long)(request->timeout * 1000);
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, milliseconds);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, response);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, response);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, http);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, http);
#if LIBCURL_VERSION_NUM >= 0x075700
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* never wait for a resolver that hangs */
#endif
    set_trust(http);
    if (mon_http_is_loopback(request->url)) {
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    }
    if (request->user != NULL) {
        curl_easy_setopt(easy, CURLOPT_USERPWD, request->user);
    }
    if (request->signature != NULL) {
        curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, request->signature);
    }
}

/* Says why there is no answer. */
static void explain(CURLcode result, const char *why, struct mon_http_response *response) {
    char *detail = response->detail;
    size_t room = sizeof response->detail;
    why = why[0] != '\0' ? why : curl_easy_strerror(result);
    switch (result) {
    case CURLE_OPERATION_TIMEDOUT: snprintf(detail, room, "it did not answer in time"); break;
    case CURLE_ABORTED_BY_CALLBACK: snprintf(detail, room, "the SDK is closing"); break;
    case CURLE_PEER_FAILED_VERIFICATION:
        response->untrusted = true;
        snprintf(detail, room, "its certificate is not to be trusted: %.140s", why);
        break;
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ENGINE_INITFAILED:
        response->untrusted = true;
        snprintf(detail, room, "a file for TLS can't be used: %.150s", why);
        break;
    default: snprintf(detail, room, "%.180s", why);
    }
}

void mon_http_send(struct mon_http *http, const struct mon_http_request *request, struct mon_http_response *response) {
    *response = (struct mon_http_response){.retry_after = -1};
    if (!prepare(http)) {
        snprintf(response->detail, sizeof response->detail, "out of memory");
        return;
    }
    struct mon_buf packed = {0};
    bool compressed = request->compress && request->len > WORTH_COMPRESSING && gzip(request->body, request->len, &packed);
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    for (const char *const *header = request->headers; *header != NULL; header++) {
        headers = curl_slist_append(headers, *header);
    }
    if (compressed) {
        headers = curl_slist_append(headers, "Content-Encoding: gzip");
    }
    char why[CURL_ERROR_SIZE] = "";
    set_up(http, request, response, why);
    curl_easy_setopt(http->easy, CURLOPT_HTTPHEADER, headers);
    if (request->body != NULL) {
        curl_easy_setopt(http->easy, CURLOPT_POSTFIELDS, compressed ? packed.data : request->body);
        curl_easy_setopt(http->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(compressed ? packed.len : request->len));
    }
    CURLcode result = atomic_load(&http->interrupted) ? CURLE_ABORTED_BY_CALLBACK : run(http, request->timeout);
    if (result == CURLE_OK) {
        curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &response->status);
    } else {
        explain(result, why, response);
    }
    curl_easy_setopt(http->easy, CURLOPT_ERRORBUFFER, NULL);
    curl_slist_free_all(headers);
    mon_buf_free(&packed);
}

void mon_http_interrupt(struct mon_http *http) {
    atomic_store(&http->interrupted, true);
    curl_multi_wakeup(http->multi);
}

void mon_http_free(struct mon_http *http) {
    if (http == NULL) {
        return;
    }
    forget_handles(http);
    if (http->multi != NULL) {
        curl_multi_cleanup(http->multi);
    }
    free(http->ca_file);
    free(http->ca_folder);
    free(http->cert_file);
    free(http->key_file);
    free(http);
}

void mon_http_forget(struct mon_http *http) {
    for (size_t i = 0; i < SOCKETS; i++) {
        if (http->sockets[i] != CURL_SOCKET_BAD) {
            close(http->sockets[i]);
            http->sockets[i] = CURL_SOCKET_BAD;
        }
    }
}

bool mon_http_is_loopback(const char *url) {
    const char *host = strstr(url, "://");
    if (host == NULL) {
        return false;
    }
    host += 3;
    size_t len = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/?#");
    return (len == 9 && strncasecmp(host, "localhost", 9) == 0) || strncmp(host, "127.", 4) == 0 || (len == 5 && strncmp(host, "[::1]", 5) == 0);
}

void mon_http_judge(const struct mon_http_response *response, struct mon_answer *answer) {
    long status = response->status;
    char said[160];
    size_t len = 0;
    for (size_t i = 0; i < response->body.len && i < 400 && len < sizeof said - 1; i++) {
        char byte = response->body.data[i];
        bool space = byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
        if (!space || (len > 0 && said[len - 1] != ' ')) {
            said[len++] = space ? ' ' : byte;
        }
    }
    said[len] = '\0';
    answer->retry_after = response->retry_after;
    if (status == 0) {
        mon_answer_set(answer, response->untrusted ? MON_KEEP : MON_RETRY, "%s", response->detail);
        return;
    }
    enum mon_result result = MON_KEEP;
    if (status == 408 || status == 425 || status == 429 || status >= 500) {
        result = MON_RETRY;
    } else if (status == 413) {
        result = MON_TOO_LARGE;
    } else if (status == 400 || status == 415 || status == 422) {
        result = MON_REFUSED;
    }
    mon_answer_set(answer, result, "it answered %ld: %s", status, len == 0 ? "nothing" : said);
}
