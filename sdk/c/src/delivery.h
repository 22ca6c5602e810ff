/* Moves events from the queue to the backends, or to disk when they can't be reached, on threads of its own.
 *
 * The sender cuts batches and hands them to the targets. In sidecar mode, and with a single backend, it serves the only one itself;
 * else each target has a lane: a thread and a bounded backlog of its own, so that nobody waits for a neighbour that hangs. They share
 * the batches. The spiller, started when the queue first nears its bound, writes batches to disk while the sender is busy. Closing
 * gives all of them a deadline, and does itself what they have not done by then. */
#ifndef MON_DELIVERY_H
#define MON_DELIVERY_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend.h"
#include "queue.h"
#include "retry.h"
#include "spool.h"

struct mon_delivery;

/* A thread; with the delivery's lock held, but for what runs in it. */
struct mon_worker {
    pthread_t thread;
    bool started;
    bool ended;
};

struct mon_target {
    struct mon_delivery *delivery;
    const struct mon_backend_type *type;
    void *self;
    size_t index;
    uint32_t bit;
    bool fallback;
    uint32_t better;         /* of a fallback: those that it stands in for */
    double timeout;          /* of one delivery */
    struct mon_spool *spool; /* NULL: nothing is spooled */
    pthread_mutex_t putting; /* held while batches are put away: who comes second finds it done; taken before all other locks */

    /* of the thread that serves it */
    struct mon_breaker breaker;
    struct mon_random random;
    double next_orphans; /* when to look for what others left */
    bool has_more;       /* the last replay ended before all files were looked at */
    atomic_bool troubled; /* the breaker is open; for others to see */

    /* with the delivery's lock held */
    struct mon_worker lane;
    pthread_cond_t change; /* there is something in the backlog, or less than there was */
    bool signalled;
    bool ending;
    struct mon_batch *backlog; /* linked by `waits`, oldest first; each is held */
    struct mon_batch *newest;
    size_t waiting; /* events in the backlog, and their bytes */
    size_t waiting_bytes;
    mon_backend_counts counts;
};

struct mon_delivery {
    struct mon_settings *settings;
    struct mon_origin origin;
    struct mon_queue *queue;
    struct mon_buf site; /* `"site_id":"…",` */
    struct mon_buf app;  /* `"app":{…},` */
    struct mon_target *targets; /* in the order of their priority */
    size_t target_count;
    uint32_t always;    /* a bit for each target that gets every event */
    uint32_t fallbacks; /* and for each that does not */
    bool alone;         /* there is one target, and the sender serves it */
    enum mon_on_full on_full;

    pthread_mutex_t lock; /* of what follows; taken after the queue's, never before */
    pthread_cond_t wake;
    pthread_cond_t ended;
    atomic_bool signalled;
    atomic_bool spill_asked;
    atomic_bool closing;
    atomic_bool disk_failing;
    atomic_bool over; /* closed to the end: a thread that is late takes nothing more */
    atomic_bool started;
    bool flush_asked;
    double deadline; /* of closing */
    struct mon_worker sender;
    struct mon_worker spiller;
    mon_counts counts;
    uint64_t unreported[MON_DROP_REASONS];
    int64_t reports;
    int references;
};

/* Takes the settings over; NULL without memory (they stay the caller's then). */
struct mon_delivery *mon_delivery_new(struct mon_settings *settings, struct mon_queue *queue);

void mon_delivery_hold(struct mon_delivery *delivery);
void mon_delivery_release(struct mon_delivery *delivery);

/* Starts the sender and the lanes, unless they run; false when the system refuses a thread. */
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
/* Takes up to `limit` events from the queue. */
struct mon_batch *mon_delivery_take(struct mon_delivery *delivery, size_t limit);

/* sender.c */

void *mon_sender_run(void *delivery);

/* shipment.c: a batch on its way to several targets. What it says of a piece it says of its lines in the whole. */

/* Every target that gets all events is to get this one; before anybody else sees it. */
void mon_batch_address(struct mon_delivery *delivery, struct mon_batch *batch);
/* Whether the target is not done with some of its lines. */
bool mon_batch_is_pending(const struct mon_target *target, const struct mon_batch *batch);
/* The first lines from `*first` on with which the target is not done, as a range of the whole; false when there are none. */
bool mon_batch_pending_run(const struct mon_target *target, const struct mon_batch *whole, size_t *first, size_t *count);
/* The target is done with it, `rejected` of its events refused one by one: counted once, and settled when it is the last. */
void mon_batch_resolve(struct mon_target *target, struct mon_batch *batch, enum mon_fate fate, size_t rejected);
/* The same for a target that will never have it. */
void mon_batch_lose(struct mon_target *target, struct mon_batch *batch, enum mon_drop_reason reason);
/* The target failed to take it: fallbacks get what all those before them failed to take. Said again it does nothing. */
void mon_batch_miss(struct mon_target *target, struct mon_batch *batch);
/* Counts a batch with which everybody is done, as out of memory; said again it does nothing. */
void mon_batch_settle(struct mon_delivery *delivery, struct mon_batch *whole);

/* lane.c: the way to one target. */

/* Hands a batch (which the caller lets go of) to a target. */
void mon_lane_offer(struct mon_target *target, struct mon_batch *batch);
/* Delivers what waits, or puts it on disk. */
void mon_lane_work(struct mon_target *target);
/* Replays what waits on disk, and lets the backend tidy up. */
void mon_lane_rest(struct mon_target *target);
/* Has the lane look at its backlog now. */
void mon_lane_wake(struct mon_target *target);
/* Lets go of what is in the backlog, with which everybody is done. */
void mon_lane_empty(struct mon_target *target);
void *mon_lane_run(void *target);

/* putaway.c: the last resort. */

/* Puts batches on disk for a target, in one file; whether it is done with them. What is `final` has no other try: it is lost then. */
bool mon_put_away(struct mon_target *target, struct mon_batch *const *batches, size_t count, bool final);
/* Says that the spool folder fails, once until it works again. */
void mon_complain(const struct mon_target *target, int error);
/* Puts everything in the queue on disk, at the end. */
void mon_put_away_queue(struct mon_delivery *delivery);
void *mon_spiller_run(void *delivery);

/* aside.c: what a target will never take. */

/* Keeps a batch aside, with the reason. */
void mon_put_aside(struct mon_target *target, struct mon_batch *batch, const char *why);
/* Keeps the events of an accepted batch aside that were refused one by one, each with its reason, and says why the first was. */
void mon_note_rejections(struct mon_target *target, const struct mon_batch *batch, const struct mon_answer *answer);

/* replay.c */

/* One attempt, or several, to hand a batch to a target; the breaker knows of it. */
void mon_delivery_send(struct mon_target *target, const struct mon_batch *batch, int attempts, struct mon_answer *answer);
/* Sends what waits on disk for a target, a few files, until one fails. */
void mon_replay(struct mon_target *target);

#endif
