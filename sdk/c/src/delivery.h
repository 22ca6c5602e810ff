/* Moves events from the queue to the backends, or to disk when they can't be reached, on threads of its own.
 *
 * The sender cuts batches, sends them, retries, and replays what waits on disk. The spiller, started when the queue first nears
 * its bound, writes batches to disk while the sender is busy with a slow backend. Closing gives both a deadline, and does itself
 * what they have not done by then. */
#ifndef MON_DELIVERY_H
#define MON_DELIVERY_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend.h"
#include "queue.h"
#include "retry.h"
#include "spool.h"

struct mon_target {
    const struct mon_backend_type *type;
    void *self;
    bool fallback;
    bool owed; /* what it did not get waits on disk for it */
    uint32_t bit;
    double timeout;         /* of one delivery */
    struct mon_spool *spool; /* NULL: nothing is spooled */
    struct mon_breaker breaker;
    double next_orphans; /* when to look for what others left */
    bool has_more;       /* the last replay ended before all files were looked at */
    mon_backend_counts counts;
};

struct mon_delivery {
    struct mon_settings *settings;
    struct mon_origin origin;
    struct mon_queue *queue;
    struct mon_buf site; /* `"site_id":"…",` */
    struct mon_buf app;  /* `"app":{…},` */
    struct mon_target *targets;
    size_t target_count;
    enum mon_on_full on_full;
    struct mon_random random; /* the sender's */

    pthread_mutex_t lock; /* of what follows; taken after the queue's, never before */
    pthread_cond_t wake;
    pthread_cond_t ended;
    atomic_bool signalled;
    atomic_bool spill_asked;
    atomic_bool closing;
    atomic_bool disk_failing;
    atomic_bool over; /* closed to the end: a thread that is late takes nothing more */
    bool flush_asked;
    double deadline; /* of closing */
    bool sender_started;
    bool sender_ended;
    bool spiller_started;
    bool spiller_ended;
    pthread_t sender;
    pthread_t spiller;
    struct mon_batch *held; /* what could be put nowhere, oldest first */
    mon_counts counts;
    uint64_t unreported[MON_DROP_REASONS];
    int64_t reports;
    int references;
};

/* Takes the settings over; NULL without memory (they stay the caller's then). */
struct mon_delivery *mon_delivery_new(struct mon_settings *settings, struct mon_queue *queue);

void mon_delivery_hold(struct mon_delivery *delivery);
void mon_delivery_release(struct mon_delivery *delivery);

/* Starts the sender, unless it runs; false when the system refuses a thread. */
bool mon_delivery_start(struct mon_delivery *delivery);
/* Has the sender look at the queue now. */
void mon_delivery_wake(struct mon_delivery *delivery);
/* Has the spiller put some of the queue on disk. */
void mon_delivery_overflow(struct mon_delivery *delivery);
/* Waits until all that is in the queue is delivered or on disk; whether that came to pass in time. */
bool mon_delivery_flush(struct mon_delivery *delivery, double timeout);
/* Sends what can be sent within `grace` seconds, puts the rest on disk, and ends. */
void mon_delivery_close(struct mon_delivery *delivery, double grace);
/* In a forked child: lets go of what it inherited; the parent goes on with it. */
void mon_delivery_forget(struct mon_delivery *delivery);

void mon_delivery_count_drop(struct mon_delivery *delivery, enum mon_drop_reason reason, uint64_t events);
void mon_delivery_stats(struct mon_delivery *delivery, mon_counts *counts);
/* Whether the queue holds more than it may; with its lock held. */
bool mon_delivery_is_full(const struct mon_delivery *delivery);
/* How many events to take for the queue to come down to half its bounds; with its lock held. */
size_t mon_delivery_excess(const struct mon_delivery *delivery);

/* putaway.c: the last resort. */

/* Puts a batch on disk for a target, or for each that is owed it (NULL); `at_the_end` what has no place is given up. */
void mon_put_away(struct mon_delivery *delivery, struct mon_batch *batch, struct mon_target *target, bool at_the_end);
/* Keeps a batch aside that a target will never take. */
void mon_put_aside(struct mon_delivery *delivery, struct mon_batch *batch, struct mon_target *target, const char *why);
/* The caller is done with a batch that it took: it is settled and counted, or held to be tried again. */
void mon_batch_finish(struct mon_delivery *delivery, struct mon_batch *batch);
/* Settles and counts a batch; false when somebody was first. */
bool mon_settle(struct mon_delivery *delivery, struct mon_batch *batch);
/* Frees a batch, now or when its borrower is done with it. */
void mon_batch_discard(struct mon_delivery *delivery, struct mon_batch *batch);
/* Takes up to `limit` events from the queue. */
struct mon_batch *mon_delivery_take(struct mon_delivery *delivery, size_t limit);
/* Puts everything in the queue on disk. */
void mon_put_away_queue(struct mon_delivery *delivery);
void *mon_spiller_run(void *delivery);

/* replay.c */

/* One attempt, or several, to hand a batch to a target; the breaker knows of it. */
void mon_delivery_send(struct mon_delivery *delivery, struct mon_target *target, const struct mon_batch *batch, int attempts, struct mon_answer *answer);
/* Sends what waits on disk for a target, a few files, until one fails. */
void mon_replay(struct mon_delivery *delivery, struct mon_target *target);
/* Counts the events of an accepted batch that were refused, and says why the first was. */
void mon_note_rejections(const struct mon_target *target, const struct mon_answer *answer);

#endif
