/* The way to one target: a bounded backlog, and what is done with it, by a thread of its own or by the sender. */
#define _GNU_SOURCE
#include <errno.h>

#include "delivery.h"

static const double TICK = 1; /* how long a lane rests at most, in seconds */
enum { GROUP = 64 };          /* batches that go to disk together */

/* -------------------------------------------------------------------------------------------------------------- the backlog */

/* With the delivery's lock held: puts a batch before the first that is younger. */
static void insert(struct mon_target *target, struct mon_batch *batch) {
    size_t index = target->index;
    struct mon_batch **at = &target->backlog;
    while (*at != NULL && mon_batch_first_seq(*at) < mon_batch_first_seq(batch)) {
        at = &(*at)->waits[index];
    }
    batch->waits[index] = *at;
    *at = batch;
    if (batch->waits[index] == NULL) {
        target->newest = batch;
    }
}

/* The same at the end. */
static void append(struct mon_target *target, struct mon_batch *batch) {
    batch->waits[target->index] = NULL;
    if (target->backlog == NULL) {
        target->backlog = batch;
    } else {
        target->newest->waits[target->index] = batch;
    }
    target->newest = batch;
}

static void put_back(struct mon_target *target, struct mon_batch *const *batches, size_t count) {
    pthread_mutex_lock(&target->delivery->lock);
    for (size_t i = count; i > 0; i--) {
        insert(target, batches[i - 1]);
        target->waiting += batches[i - 1]->count;
        target->waiting_bytes += batches[i - 1]->body.len;
    }
    pthread_mutex_unlock(&target->delivery->lock);
}

/* Takes up to so many of the oldest, of which the second and later keep within a request's bounds; how many. */
static size_t take(struct mon_target *target, struct mon_batch **batches, size_t limit) {
    size_t taken = 0;
    size_t events = 0;
    size_t bytes = 0;
    pthread_mutex_lock(&target->delivery->lock);
    while (taken < limit && target->backlog != NULL) {
        struct mon_batch *batch = target->backlog;
        events += batch->count;
        bytes += batch->body.len;
        if (taken > 0 && (events > MON_MAX_BATCH_EVENTS || bytes > MON_MAX_BATCH_BYTES)) {
            break;
        }
        target->backlog = batch->waits[target->index];
        target->waiting -= batch->count;
        target->waiting_bytes -= batch->body.len;
        batches[taken++] = batch;
    }
    if (taken > 0) {
        pthread_cond_broadcast(&target->change);
    }
    pthread_mutex_unlock(&target->delivery->lock);
    return taken;
}

static void let_go(struct mon_batch *const *batches, size_t count) {
    for (size_t i = 0; i < count; i++) {
        mon_batch_release(batches[i]);
    }
}

void mon_lane_empty(struct mon_target *target) {
    struct mon_batch *batch;
    while (take(target, &batch, 1) > 0) {
        mon_batch_release(batch);
    }
}

/* Whether more waits than should; a single batch never is. With the delivery's lock held. */
static bool is_over(const struct mon_target *target) {
    bool many = target->waiting > target->delivery->settings->max_events || target->waiting_bytes > MON_LARGE_SUM;
    return many && target->backlog->waits[target->index] != NULL;
}

static bool is_over_now(struct mon_target *target) {
    pthread_mutex_lock(&target->delivery->lock);
    bool over = is_over(target);
    pthread_mutex_unlock(&target->delivery->lock);
    return over;
}

/* With `on_full: block` a target that works is given the time that it needs. */
static void wait_for_room(struct mon_target *target) {
    struct mon_delivery *delivery = target->delivery;
    pthread_mutex_lock(&delivery->lock);
    while (is_over(target) && !atomic_load(&target->troubled) && !atomic_load(&delivery->closing)) {
        struct timespec moment = mon_moment(mon_monotonic() + 0.1); /* trouble is not told */
        pthread_cond_timedwait(&target->change, &delivery->lock, &moment);
    }
    pthread_mutex_unlock(&delivery->lock);
}

/* Brings the backlog back into its bounds: the oldest go to disk, or are lost. */
static void make_room(struct mon_target *target) {
    const struct mon_delivery *delivery = target->delivery;
    bool spooling = target->spool != NULL && !target->fallback && delivery->settings->on_full != MON_FULL_DROP_OLDEST;
    enum mon_drop_reason reason = MON_DROP_QUEUE_FULL;
    struct mon_batch *group[GROUP];
    while (is_over_now(target)) {
        size_t count = take(target, group, spooling ? GROUP : 1);
        if (spooling && !mon_put_away(target, group, count, false)) {
            put_back(target, group, count);
            spooling = false;
            reason = MON_DROP_SPOOL_FAILED;
            continue;
        }
        for (size_t i = 0; i < count && !spooling; i++) {
            mon_batch_lose(target, group[i], target->spool == NULL ? MON_DROP_UNDELIVERABLE : reason);
        }
        let_go(group, count);
    }
}

void mon_lane_offer(struct mon_target *target, struct mon_batch *batch) {
    struct mon_delivery *delivery = target->delivery;
    pthread_mutex_lock(&delivery->lock);
    bool late = target->lane.ended;
    bool over = false;
    if (!late) {
        append(target, batch);
        target->waiting += batch->count;
        target->waiting_bytes += batch->body.len;
        target->signalled = true;
        pthread_cond_broadcast(&target->change);
        over = is_over(target);
    }
    pthread_mutex_unlock(&delivery->lock);
    if (late) {
        (void)mon_put_away(target, &batch, 1, true);
        mon_batch_release(batch);
    } else if (over && !delivery->alone) {
        if (delivery->on_full == MON_FULL_BLOCK) {
            wait_for_room(target);
        }
        make_room(target);
    }
}

/* ------------------------------------------------------------------------------------------------------- what is done with it */

/* The target can't have these now: those that stand in for it may, and it gets them later. Whether it is done with them. */
static bool give_up(struct mon_target *target, struct mon_batch *const *batches, size_t count) {
    bool final = atomic_load(&target->delivery->closing);
    for (size_t i = 0; i < count; i++) {
        mon_batch_miss(target, batches[i]);
    }
    if (!mon_put_away(target, batches, count, final)) {
        put_back(target, batches, count);
        return false;
    }
    let_go(batches, count);
    return true;
}

/* Whether the target is to be tried now. */
static bool is_tried(const struct mon_target *target) {
    double now = mon_monotonic();
    if (atomic_load(&target->delivery->closing) && (target->breaker.failures > 0 || now >= target->delivery->deadline)) {
        return false;
    }
    return mon_breaker_allows(&target->breaker, now);
}

/* Delivers a batch, in halves if need be; whether the target is done with it. */
static bool deliver(struct mon_target *target, struct mon_batch *batch) {
    if (!is_tried(target)) {
        return give_up(target, &batch, 1);
    }
    int retries = target->delivery->settings->retries;
    struct mon_buf refused = {0};
    struct mon_answer answer = {.refused = &refused};
    struct mon_batch *halves[2];
    mon_delivery_send(target, batch, target->breaker.failures == 0 ? 1 + retries : 1, &answer);
    if (answer.result == MON_ACCEPTED) {
        mon_note_rejections(target, batch, &answer);
    }
    mon_buf_free(&refused);
    if (answer.result == MON_ACCEPTED) {
        mon_batch_resolve(target, batch, MON_FATE_TAKEN, answer.rejected);
    } else if (answer.result == MON_TOO_LARGE && batch->count > 1 && mon_batch_halves(batch, halves)) {
        mon_batch_release(batch);
        bool first = deliver(target, halves[0]);
        return deliver(target, halves[1]) && first;
    } else if (answer.result == MON_REFUSED || answer.result == MON_TOO_LARGE) {
        mon_batch_miss(target, batch);
        mon_put_aside(target, batch, answer.detail);
    } else {
        return give_up(target, &batch, 1);
    }
    mon_batch_release(batch);
    return true;
}

/* Lets those that stand in for it have all that waits for a target that can't take it now. */
static void miss_all(struct mon_target *target) {
    struct mon_batch *batch;
    struct mon_batch *seen = NULL;
    while (target->delivery->fallbacks != 0 && take(target, &batch, 1) > 0) {
        mon_batch_miss(target, batch);
        batch->waits[target->index] = seen;
        seen = batch;
    }
    while (seen != NULL) {
        batch = seen;
        seen = batch->waits[target->index];
        put_back(target, &batch, 1);
    }
}

void mon_lane_work(struct mon_target *target) {
    for (;;) {
        struct mon_batch *group[GROUP];
        size_t count = take(target, group, is_tried(target) ? 1 : GROUP); /* what goes to disk anyway goes there in few files */
        if (count == 0) {
            return;
        }
        if (count == 1 ? !deliver(target, group[0]) : !give_up(target, group, count)) {
            miss_all(target);
            if (is_over_now(target)) {
                make_room(target);
            }
            return;
        }
    }
}

void mon_lane_rest(struct mon_target *target) {
    mon_replay(target);
    if (target->type->tick != NULL) {
        target->type->tick(target->self);
    }
}

/* ----------------------------------------------------------------------------------------------------------------- the thread */

void mon_lane_wake(struct mon_target *target) {
    pthread_mutex_lock(&target->delivery->lock);
    target->signalled = true;
    pthread_cond_broadcast(&target->change);
    pthread_mutex_unlock(&target->delivery->lock);
}

/* Waits for something to do; whether this is the end. */
static bool wait_for_work(struct mon_target *target, double seconds) {
    struct mon_delivery *delivery = target->delivery;
    double due = mon_monotonic() + seconds;
    struct timespec moment = mon_moment(due);
    pthread_mutex_lock(&delivery->lock);
    while (!target->signalled && !target->ending && mon_monotonic() < due) {
        pthread_cond_timedwait(&target->change, &delivery->lock, &moment);
    }
    target->signalled = false;
    bool ending = target->ending;
    pthread_mutex_unlock(&delivery->lock);
    return ending;
}

/* Ends the lane, unless something came in meanwhile; whether it has ended. */
static bool end(struct mon_target *target) {
    pthread_mutex_lock(&target->delivery->lock);
    bool empty = target->backlog == NULL;
    if (empty) {
        target->lane.ended = true;
        pthread_cond_broadcast(&target->delivery->ended);
    }
    pthread_mutex_unlock(&target->delivery->lock);
    return empty;
}

void *mon_lane_run(void *data) {
    struct mon_target *target = data;
    struct mon_delivery *delivery = target->delivery;
    double interval = delivery->settings->flush_interval < TICK ? delivery->settings->flush_interval : TICK;
    bool ending = false;
    while (!ending) {
        ending = wait_for_work(target, target->has_more ? 0 : interval);
        mon_lane_work(target);
        if (!atomic_load(&delivery->closing)) {
            mon_lane_rest(target);
        }
    }
    while (!end(target)) {
        mon_lane_work(target);
    }
    mon_delivery_release(delivery);
    return NULL;
}
