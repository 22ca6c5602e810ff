/* The protocol of zabbix_sender: one connection, one request, one answer of counts. */
#define _GNU_SOURCE
#include "zabbix_trapper.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../answers.h"
#include "../ids.h"
#include "../json.h"

enum { LARGEST_ANSWER = 64 * 1024, POLL_MILLISECONDS = 100 };

bool mon_trapper_open(struct mon_trapper *trapper, const char *url) {
    const char *start = strstr(url, "://");
    start = start == NULL ? url : start + 3;
    bool bracketed = start[0] == '[';
    size_t len = bracketed ? strcspn(start, "]") : strcspn(start, ":/");
    const char *after = start + len + (bracketed && start[len] == ']' ? 1 : 0);
    trapper->address = strndup(start + (bracketed ? 1 : 0), len - (bracketed ? 1 : 0));
    trapper->port = *after == ':' ? strndup(after + 1, strspn(after + 1, "0123456789")) : strdup("10051");
    atomic_init(&trapper->interrupted, false);
    atomic_init(&trapper->fd, -1);
    return trapper->address != NULL && trapper->port != NULL;
}

void mon_trapper_close(struct mon_trapper *trapper) {
    free(trapper->address);
    free(trapper->port);
}

/* Waits until the socket is ready; false when the time is over or somebody interrupts. */
static bool ready(struct mon_trapper *trapper, int fd, short events, double deadline) {
    while (!atomic_load(&trapper->interrupted)) {
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

static int connect_to(struct mon_trapper *trapper, double deadline, struct mon_answer *answer) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int error = getaddrinfo(trapper->address, trapper->port, &hints, &list);
    if (error != 0) {
        mon_answer_set(answer, MON_RETRY, "%s: %s", trapper->address, gai_strerror(error));
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
            done = ready(trapper, fd, POLLOUT, deadline) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0;
        }
        if (!done) {
            mon_answer_set(answer, MON_RETRY, "%s:%s: %s", trapper->address, trapper->port, strerror(error));
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    atomic_store(&trapper->fd, fd);
    return fd;
}

static bool send_all(struct mon_trapper *trapper, int fd, const char *bytes, size_t len, double deadline) {
    while (len > 0) {
        if (!ready(trapper, fd, POLLOUT, deadline)) {
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

bool mon_trapper_send(struct mon_trapper *trapper, const struct mon_buf *values, size_t count, double deadline, struct mon_trapper_counts *counts,
                      struct mon_answer *answer) {
    struct mon_buf body = {0};
    struct mon_buf packet = {0};
    mon_buf_text(&body, "{\"request\":\"sender data\",\"data\":[");
    mon_buf_add(&body, values->data, values->len > 0 ? values->len - 1 : 0);
    mon_buf_text(&body, "]}");
    mon_buf_add(&packet, "ZBXD\x01", 5);
    add_length(&packet, body.len);
    mon_buf_add(&packet, body.data, body.len);
    bool whole = !(values->failed || body.failed || packet.failed);
    mon_buf_free(&body);
    bool done = false;
    if (!whole) {
        mon_answer_set(answer, MON_RETRY, "no memory for a request");
    }
    int fd = !whole ? -1 : connect_to(trapper, deadline, answer);
    if (fd >= 0) {
        struct mon_buf got = {0};
        mon_answer_set(answer, MON_RETRY, "it did not answer in time");
        bool more = send_all(trapper, fd, packet.data, packet.len, deadline);
        while (more && got.len < LARGEST_ANSWER && ready(trapper, fd, POLLIN, deadline) && mon_buf_room(&got, 4096)) {
            ssize_t len = recv(fd, got.data + got.len, 4096, 0);
            more = len > 0 || (len < 0 && (errno == EAGAIN || errno == EINTR));
            got.len += len > 0 ? (size_t)len : 0;
        }
        if (got.len >= 13 && memcmp(got.data, "ZBXD\x01", 5) == 0) {
            done = mon_zabbix_read_answer(got.data + 13, got.len - 13, &counts->processed, &counts->failed);
        }
        if (done && counts->processed + counts->failed != count) {
            mon_answer_set(answer, MON_RETRY, "it speaks of %zu processed and %zu failed values of %zu: that doesn't add up", counts->processed,
                           counts->failed, count);
            done = false;
        } else if (!done && got.len > 0) {
            mon_answer_set(answer, MON_RETRY, "what listens at %s:%s does not answer like Zabbix", trapper->address, trapper->port);
        }
        mon_buf_free(&got);
        atomic_store(&trapper->fd, -1);
        close(fd);
    }
    mon_buf_free(&packet);
    return done;
}

void mon_trapper_interrupt(struct mon_trapper *trapper) {
    atomic_store(&trapper->interrupted, true);
}

void mon_trapper_forget(struct mon_trapper *trapper) {
    int fd = atomic_exchange(&trapper->fd, -1);
    if (fd >= 0) {
        close(fd);
    }
}
