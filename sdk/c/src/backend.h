/* The seam between the worker and whoever takes the events. */
#ifndef MON_BACKEND_H
#define MON_BACKEND_H

#include "batch.h"
#include "config.h"

enum mon_result {
    MON_ACCEPTED,  /* it is durable there, but for what was rejected */
    MON_RETRY,     /* not now: the same batch may be taken later */
    MON_KEEP,      /* not as things are configured: keep it, tell the operator, try seldom */
    MON_REFUSED,   /* never: sending it again can't help */
    MON_TOO_LARGE, /* send it in smaller pieces */
};

struct mon_answer {
    enum mon_result result;
    double retry_after; /* seconds; below 0: it does not say */
    size_t rejected;    /* events of an accepted batch that were not taken one by one */
    char first_rejected[160];
    char detail[240];
    struct mon_buf *refused; /* of the caller: which ones these were, and why, from backends that know */
};

/* A kind of destination. Its functions are called from one thread at a time, but for `interrupt`. */
struct mon_backend_type {
    const char *name;
    /* Makes what `send` needs, without I/O; NULL without memory. Keeps neither argument. */
    void *(*open)(const struct mon_settings *settings, const struct mon_backend_settings *backend);
    /* Hands over a batch within `timeout` seconds. Delivering it twice is harmless wherever the system allows. */
    void (*send)(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer);
    /* Makes a `send` in another thread return soon; nothing is sent after this. May be NULL. */
    void (*interrupt)(void *self);
    /* Completes what can be completed locally, and lets go of everything. */
    void (*close)(void *self);
    /* In a forked child: closes what it inherited and says nothing to anybody. */
    void (*forget)(void *self);
    /* Called now and then while nothing is sent; NULL: nothing to do. */
    void (*tick)(void *self);
    /* Says which events it refuses, and keeps none of them: so they are kept here. */
    bool names_refused;
};

extern const struct mon_backend_type mon_backend_sidecar;
extern const struct mon_backend_type mon_backend_filesystem;
extern const struct mon_backend_type mon_backend_s3;
extern const struct mon_backend_type mon_backend_elk;
extern const struct mon_backend_type mon_backend_webhook;
extern const struct mon_backend_type mon_backend_zabbix;

/* The kind of that name; NULL when there is none. */
const struct mon_backend_type *mon_backend_type_of(const char *name);

/* Sets an answer. */
void mon_answer_set(struct mon_answer *answer, enum mon_result result, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Notes that the event of this place in an accepted batch will never be taken. */
void mon_answer_refuse(struct mon_answer *answer, size_t index, const char *why);
/* The next of those from `*at` on, which moves on; false when there are no more. */
bool mon_answer_refused(const struct mon_answer *answer, size_t *at, size_t *index, const char **why);

/* A setting of a backend: a text (NULL when it is not there or null), a number. */
const char *mon_option_text(const struct mon_backend_settings *backend, const char *key);
double mon_option_number(const struct mon_backend_settings *backend, const char *key, double otherwise);

#endif
