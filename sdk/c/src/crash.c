/* Fatal signals: what is in memory is written to the spool folder before the process dies.
 *
 * Only for signals whose handling the program has left to the system, and only with calls that are safe in a handler: the records
 * lie in memory as nearly finished text, so that writing them takes open, write, fsync and rename. Nobody is waited for: when
 * another thread holds the queue's lock, the handler gives up after a moment, and what was in memory is lost as with kill -9. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "files.h"
#include "number.h"

static const int SIGNALS[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
enum { SIGNAL_COUNT = sizeof SIGNALS / sizeof *SIGNALS, PATH = 4096, TRIES = 200 };

static bool watched[SIGNAL_COUNT];

/* Where spool files go, written down while that is safe. */
static struct {
    char final[PATH];
    char temporary[PATH];
    char folder[PATH];
    bool ready;
} places;

static bool put(int fd, const char *bytes, size_t len) {
    return mon_write_all(fd, bytes, len) == 0;
}

/* Writes a record as a line. A marked number is written by snprintf, which glibc does without allocating for a double. */
static bool put_record(int fd, const struct mon_record *record, const struct mon_origin *origin) {
    char head[MON_RECORD_HEAD];
    const char *text = (const char *)(record + 1);
    size_t len = record->len - 1; /* without the last comma */
    bool done = put(fd, head, mon_record_head(head, record, origin));
    while (done && len > 0) {
        const char *mark = memchr(text, MON_NUMBER_MARK, len);
        size_t plain = mark == NULL ? len : (size_t)(mark - text);
        done = put(fd, text, plain);
        if (mark == NULL) {
            break;
        }
        double value;
        memcpy(&value, mark + 1, sizeof value);
        char number[MON_NUMBER_TEXT];
        done = done && put(fd, number, mon_number_write(number, value));
        text = mark + 1 + sizeof value;
        len -= plain + 1 + sizeof value;
    }
    return done && put(fd, "}\n", 2);
}

static bool put_records(int fd, const struct mon_chunk *chunk, size_t offset, size_t count, const struct mon_origin *origin) {
    for (size_t i = 0; i < count && chunk != NULL; i++) {
        if (offset == atomic_load(&chunk->used)) {
            chunk = chunk->next;
            offset = 0;
            if (chunk == NULL) {
                return true;
            }
        }
        const struct mon_record *record = (const struct mon_record *)(const void *)(chunk->bytes + offset);
        if (!put_record(fd, record, origin)) {
            return false;
        }
        offset += mon_record_size(record->len);
    }
    return true;
}

static void write_down(const struct mon_delivery *delivery) {
    const struct mon_queue *queue = &mon_client.queue;
    if (queue->count == 0 && queue->takings == NULL && queue->hand == NULL) {
        return;
    }
    for (char *at = places.folder + 1; *at != '\0'; at++) {
        if (*at == '/') {
            *at = '\0';
            (void)mkdir(places.folder, 0777);
            *at = '/';
        }
    }
    (void)mkdir(places.folder, 0777);
    /* Made by this process, and never locked by anybody: whoever looks sees an owner that is dead. */
    int fd = open(places.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        return;
    }
    bool done = true;
    for (const struct mon_batch *batch = queue->hand; done && batch != NULL; batch = batch->hand_next) {
        done = put(fd, batch->body.data, batch->body.len);
    }
    for (const struct mon_taking *taking = queue->takings; done && taking != NULL; taking = taking->next) {
        done = put_records(fd, taking->chunk, taking->offset, taking->count, &delivery->origin);
    }
    done = done && put_records(fd, queue->head, queue->offset, queue->count, &delivery->origin);
    if (done && fsync(fd) == 0) {
        (void)rename(places.temporary, places.final);
    }
    close(fd); /* what is not renamed is read up to its last whole line */
}

static void on_signal(int number) {
    struct sigaction fallback = {.sa_handler = SIG_DFL};
    sigaction(number, &fallback, NULL);
    for (int i = 0; places.ready && i < TRIES; i++) {
        if (pthread_mutex_trylock(&mon_client.queue.lock) == 0) {
            places.ready = false;
            if (mon_client.delivery != NULL) {
                write_down(mon_client.delivery);
            }
            pthread_mutex_unlock(&mon_client.queue.lock);
            break;
        }
        struct timespec moment = {.tv_nsec = 500 * 1000};
        nanosleep(&moment, NULL);
    }
    raise(number); /* when it is not raised again by going back to what went wrong */
}

void mon_crash_install(void) {
    const struct mon_delivery *delivery = mon_client.delivery;
    if (delivery == NULL || !delivery->settings->spooling || delivery->target_count != 1) {
        return;
    }
    /* A number above those of all events: the file comes last, and no other has its name. */
    const char *folder = mon_spool_folder(delivery->targets[0].spool);
    int len = snprintf(places.final, PATH, "%s/%s.%ld.%020llu.jsonl", folder, delivery->origin.emitter_id, (long)getpid(), 9999999999999999999ULL);
    places.ready = len > 0 && len < PATH - 8;
    if (!places.ready) {
        return;
    }
    snprintf(places.temporary, PATH, "%.4090s.tmp", places.final);
    snprintf(places.folder, PATH, "%s", folder);
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        struct sigaction before;
        struct sigaction ours = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
        if (sigaction(SIGNALS[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL) {
            watched[i] = sigaction(SIGNALS[i], &ours, NULL) == 0;
        }
    }
}

void mon_crash_uninstall(void) {
    places.ready = false;
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        struct sigaction now;
        struct sigaction fallback = {.sa_handler = SIG_DFL};
        if (watched[i] && sigaction(SIGNALS[i], NULL, &now) == 0 && now.sa_handler == on_signal) {
            sigaction(SIGNALS[i], &fallback, NULL);
        }
        watched[i] = false;
    }
}
