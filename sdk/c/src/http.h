/* One kept HTTP connection: each request within a deadline however slowly the answer drips, and interruptible. */
#ifndef MON_HTTP_H
#define MON_HTTP_H

#include "backend.h"
#include "buffer.h"

struct mon_http;

struct mon_http_request {
    const char *method;
    const char *url;
    const char *const *headers; /* up to a NULL */
    const char *body; /* NULL: none */
    size_t len;
    bool compress;        /* gzip it when that makes it smaller */
    const char *user;     /* `name:password` for basic authentication, or for the signature; may be NULL */
    const char *signature; /* as in CURLOPT_AWS_SIGV4; may be NULL */
    double timeout;
};

struct mon_http_response {
    long status; /* 0: there is no answer, and `detail` says why */
    struct mon_buf body;
    double retry_after;
    bool untrusted; /* no answer, because its certificate or ours is not right */
    char detail[200];
};

/* `backend` may have a `tls` block: which certificates are trusted, and which one is shown. Without (or with NULL) the environment's
 * SSL_CERT_FILE and SSL_CERT_DIR say whom to trust, else the system. */
struct mon_http *mon_http_new(const struct mon_backend_settings *backend);
/* Sends a request and waits for the answer, whose body the caller frees. */
void mon_http_send(struct mon_http *http, const struct mon_http_request *request, struct mon_http_response *response);
void mon_http_interrupt(struct mon_http *http);
void mon_http_free(struct mon_http *http);
/* In a forked child: closes the sockets without a word on them. */
void mon_http_forget(struct mon_http *http);

/* Whether a URL leads to this very host. */
bool mon_http_is_loopback(const char *url);

/* What an answer other than success means for a batch, the same for all that speak HTTP. */
void mon_http_judge(const struct mon_http_response *response, struct mon_answer *answer);

#endif
