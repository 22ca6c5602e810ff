/* The one SDK of a process: stamps events and puts them on the queue; everything slow is behind it. */
#ifndef MON_CLIENT_H
#define MON_CLIENT_H

#include "context.h"
#include "delivery.h"

struct mon_client {
    struct mon_queue queue; /* its lock guards what follows too */
    struct mon_delivery *delivery; /* NULL: not running */
    struct mon_delivery *retired;  /* the one that is being closed */
    size_t notice;                 /* how many events must wait for somebody to be told */
    mon_counts last;               /* the last word of the client that was closed */
    bool hooked;                   /* exit and fork are watched */
    unsigned fork_count;
};

extern struct mon_client mon_client;

/* Makes the queue, once a process. */
void mon_client_prepare(void);

/* Emits an event of a run (NULL: of none), which is the SDK's from then on. `id` may be NULL. */
mon_status mon_client_emit(struct mon_event *event, const struct mon_context *context, char *id);

/* Notes that `call` needs a running SDK, and that there is none. */
mon_status mon_client_not_running(const char *call);

/* Closes what runs, if anything. */
void mon_client_close(void);

/* The number of forks that lie between the first process and this one. */
unsigned mon_client_forks(void);

/* lifecycle.c: watches over exit and fork; installed once. */
void mon_lifecycle_install(void);

/* crash.c: fatal signals. */
void mon_crash_install(void);
void mon_crash_uninstall(void);

/* log.c: in a forked child. */
void mon_log_after_fork(void);

#endif
