/* Zabbix: values for trapper items, in the protocol of zabbix_sender; 250 values a request.
 *
 * The items are made beforehand, by the template or by a sidecar's sink: a value whose item is not there is counted as rejected.
 * A batch that comes twice has the same moments, of which Zabbix keeps one value an item. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../answers.h"
#include "../ids.h"
#include "../json.h"
#include "../partition.h"
#include "zabbix_values.h"

enum { VALUES = 250, LARGEST_ANSWER = 64 * 1024, POLL_MILLISECONDS = 100 };

struct zabbix {
    char *address;
    char *port;
    char *host;
    atomic_bool interrupted;
    atomic_int fd; /* -1: no connection */
};

static void close_zabbix(void *self) {
    struct zabbix *zabbix = self;
    free(zabbix->address);
    free(zabbix->port);
    free(zabbix->host);
    free(zabbix);
}

static void *open_zabbix(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct zabbix *zabbix = calloc(1, sizeof *zabbix);
    (void)settings;
    if (zabbix == NULL) {
        return NULL;
    }
    const char *url = mon_option_text(backend, "url"); /* only host and port count: it isn't HTTP */
    const char *start = strstr(url, "://");
    start = start == NULL ? url : start + 3;
    bool bracketed = start[0] == '[';
    size_t len = bracketed ? strcspn(start, "]") : strcspn(start, ":/");
    const char *after = start + len + (bracketed && start[len] == ']' ? 1 : 0);
    zabbix->address = strndup(start + (bracketed ? 1 : 0), len - (bracketed ? 1 : 0));
    zabbix->port = *after == ':' ? strndup(after + 1, strspn(after + 1, "0123456789")) : strdup("10051");
    zabbix->host = strdup(mon_option_text(backend, "host"));
    atomic_init(&zabbix->fd, -1);
    if (zabbix->address == NULL || zabbix->port == NULL || zabbix->host == NULL) {
        close_zabbix(zabbix);
        return NULL;
    }
    return zabbix;
}

/* Waits until the socket is ready; false when the time is over or somebody interrupts. */
static bool ready(struct zabbix *zabbix, int fd, short events, double deadline) {
    while (!atomic_load(&zabbix->interrupted)) {
        double rest = deadline - mon_monotonic();
        if (rest <= 0) {
            return false;
        }
        struct pollfd wait = {.fd = fd, .events = events};
        int milliseconds = rest * 1000 < POLL_MILLISECONDS ? (int)(rest * 1000) + 1 : POLL_MILLISECONDS;
        if (poll(&wait, 1, milliseconds) > 0) {
            return true;
        }
    }
    return false;
}

static int connect_to(struct zabbix *zabbix, double deadline, struct mon_answer *answer) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int error = getaddrinfo(zabbix->address, zabbix->port, &hints, &list);
    if (error != 0) {
        mon_answer_set(answer, MON_RETRY, "%s: %s", zabbix->address, gai_strerror(error));
        return -1;
    }
    int fd = -1;
    for (const struct addrinfo *each = list; each != NULL && fd < 0; each = each->ai_next) {
        fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, each->ai_protocol);
        if (fd < 0) {
            continue;
        }
        bool done = connect(fd, each->ai_addr, each->ai_addrlen) == 0;
        error = errno;
        if (!done && error == EINPROGRESS) {
            socklen_t len = sizeof error;
            error = ETIMEDOUT;
            done = ready(zabbix, fd, POLLOUT, deadline) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0;
        }
        if (!done) {
            mon_answer_set(answer, MON_RETRY, "%s:%s: %s", zabbix->address, zabbix->port, strerror(error));
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    atomic_store(&zabbix->fd, fd);
    return fd;
}

static bool send_all(struct zabbix *zabbix, int fd, const char *bytes, size_t len, double deadline) {
    while (len > 0) {
        if (!ready(zabbix, fd, POLLOUT, deadline)) {
            return false;
        }
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

static void add_length(struct mon_buf *packet, size_t len) {
    for (size_t i = 0; i < 8; i++) {
        mon_buf_char(packet, (char)(i < 4 ? len >> (8 * i) & 0xFF : 0));
    }
}

/* The counts in an answer such as `processed: 2; failed: 0; total: 2; seconds spent: 0.1`. */
bool mon_zabbix_read_answer(const char *text, size_t len, size_t *processed, size_t *failed) {
    struct mon_json_document document;
    bool done = false;
    if (mon_json_parse(&document, text, len)) {
        const struct mon_json *response = mon_json_get(document.root, "response");
        const struct mon_json *info = mon_json_get(document.root, "info");
        bool success = response != NULL && response->type == MON_JSON_STRING && strcmp(response->text, "success") == 0;
        done = success && info != NULL && info->type == MON_JSON_STRING && sscanf(info->text, "processed: %9zu; failed: %9zu;", processed, failed) == 2;
    }
    mon_json_free(&document);
    return done;
}

/* One request and its answer; false when there is none, which `answer` explains. */
static bool exchange(struct zabbix *zabbix, const struct mon_buf *data, double deadline, size_t *processed, size_t *failed, struct mon_answer *answer) {
    struct mon_buf body = {0};
    struct mon_buf packet = {0};
    mon_buf_text(&body, "{\"request\":\"sender data\",\"data\":[");
    mon_buf_add(&body, data->data, data->len > 0 ? data->len - 1 : 0);
    mon_buf_text(&body, "]}");
    mon_buf_add(&packet, "ZBXD\x01", 5);
    add_length(&packet, body.len);
    mon_buf_add(&packet, body.data, body.len);
    mon_buf_free(&body);
    bool done = false;
    int fd = connect_to(zabbix, deadline, answer);
    if (fd >= 0) {
        struct mon_buf got = {0};
        mon_answer_set(answer, MON_RETRY, "it did not answer in time");
        bool more = send_all(zabbix, fd, packet.data, packet.len, deadline);
        while (more && got.len < LARGEST_ANSWER && ready(zabbix, fd, POLLIN, deadline) && mon_buf_room(&got, 4096)) {
            ssize_t len = recv(fd, got.data + got.len, 4096, 0);
            more = len > 0 || (len < 0 && (errno == EAGAIN || errno == EINTR));
            got.len += len > 0 ? (size_t)len : 0;
        }
        if (got.len >= 13 && memcmp(got.data, "ZBXD\x01", 5) == 0) {
            done = mon_zabbix_read_answer(got.data + 13, got.len - 13, processed, failed);
        }
        if (!done && got.len > 0) {
            mon_answer_set(answer, MON_RETRY, "what listens at %s:%s does not answer like Zabbix", zabbix->address, zabbix->port);
        }
        mon_buf_free(&got);
        atomic_store(&zabbix->fd, -1);
        close(fd);
    }
    mon_buf_free(&packet);
    return done;
}

/* Adds the values of a line, whose moment in nanoseconds is its microseconds and, below them, its number in its process. */
static size_t add_line(struct mon_buf *data, const char *line, size_t len, const char *host) {
    struct mon_json_document document;
    size_t count = 0;
    if (mon_json_parse(&document, line, len)) {
        const struct mon_json *timestamp = mon_json_get(document.root, "timestamp");
        const struct mon_json *seq = mon_json_get(mon_json_get(document.root, "emitter"), "seq");
        uint32_t micros = 0;
        const char *point = timestamp != NULL && timestamp->type == MON_JSON_STRING ? strchr(timestamp->text, '.') : NULL;
        for (size_t i = 1; i <= 6 && point != NULL; i++) {
            bool digit = point[i] >= '0' && point[i] <= '9';
            micros = micros * 10 + (digit ? (uint32_t)(point[i] - '0') : 0U);
            if (!digit) {
                for (; i < 6; i++) {
                    micros *= 10;
                }
                break;
            }
        }
        uint32_t tie = seq != NULL && seq->type == MON_JSON_INTEGER ? (uint32_t)(strtoull(seq->text, NULL, 10) % 1000) : 0;
        count = mon_zabbix_values(data, document.root, host, mon_line_moment(line, len), micros * 1000 + tie);
    }
    mon_json_free(&document);
    return count;
}

static void send_to_zabbix(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct zabbix *zabbix = self;
    double deadline = mon_monotonic() + timeout;
    struct mon_buf data = {0};
    size_t count = 0;
    size_t taken = 0;
    size_t lost = 0;
    bool going = true;
    for (size_t i = 0; going && i < batch->count; i++) {
        size_t len;
        const char *line = mon_batch_get(batch, i, &len);
        count += add_line(&data, line, len, zabbix->host);
        if (count >= VALUES || (i + 1 == batch->count && count > 0)) {
            size_t processed = 0;
            size_t failed = 0;
            going = exchange(zabbix, &data, deadline, &processed, &failed, answer);
            taken += processed;
            lost += failed;
            data.len = 0;
            count = 0;
        }
    }
    mon_buf_free(&data);
    if (!going) {
        return;
    }
    if (taken == 0 && lost > 0) {
        mon_answer_set(answer, MON_RETRY, "it takes none of %zu values: does its host '%.80s' have the trapper items, and do they exist for a minute?", lost,
                       zabbix->host);
        return;
    }
    mon_answer_set(answer, MON_ACCEPTED, "taken");
    if (lost > 0) {
        answer->rejected = lost < batch->count ? lost : batch->count;
        snprintf(answer->first_rejected, sizeof answer->first_rejected, "%zu value(s) have no trapper item on host '%.60s'", lost, zabbix->host);
    }
}

static void interrupt_zabbix(void *self) {
    atomic_store(&((struct zabbix *)self)->interrupted, true);
}

static void forget_zabbix(void *self) {
    int fd = atomic_exchange(&((struct zabbix *)self)->fd, -1);
    if (fd >= 0) {
        close(fd);
    }
}

const struct mon_backend_type mon_backend_zabbix = {
    "zabbix", open_zabbix, send_to_zabbix, interrupt_zabbix, close_zabbix, forget_zabbix, NULL, false,
};
