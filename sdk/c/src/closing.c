/* The end of a delivery: its threads get a deadline, and what they have not done by then is done here. */
#define _GNU_SOURCE
#include <errno.h>

#include "delivery.h"

static const double INTERRUPT_GRACE = 0.4; /* how long interrupted threads have before `close` does their work */

/* Waits for a thread to end until a moment, and joins it; whether it does not run. */
static bool joined(struct mon_delivery *delivery, struct mon_worker *worker, double until) {
    struct timespec moment = mon_moment(until);
    pthread_mutex_lock(&delivery->lock);
    int error = 0;
    while (worker->started && !worker->ended && error != ETIMEDOUT) {
        error = pthread_cond_timedwait(&delivery->ended, &delivery->lock, &moment);
    }
    bool ended = worker->started && worker->ended;
    bool running = worker->started && !worker->ended;
    worker->started = running; /* a thread is joined once */
    pthread_mutex_unlock(&delivery->lock);
    if (ended) {
        pthread_join(worker->thread, NULL);
    }
    return !running;
}

/* The same in the end: a thread that goes on is left to itself. */
static bool parted(struct mon_delivery *delivery, struct mon_worker *worker, double until) {
    bool ended = joined(delivery, worker, until);
    if (!ended) {
        pthread_detach(worker->thread);
    }
    return ended;
}

/* Ends the lanes: first those that others stand in for. */
static void end_lanes(struct mon_delivery *delivery) {
    for (int fallbacks = 0; fallbacks < 2; fallbacks++) {
        for (size_t i = 0; i < delivery->target_count; i++) {
            if (delivery->targets[i].fallback == (fallbacks == 1)) {
                pthread_mutex_lock(&delivery->lock);
                delivery->targets[i].ending = true;
                pthread_cond_broadcast(&delivery->targets[i].change);
                pthread_mutex_unlock(&delivery->lock);
            }
        }
        for (size_t i = 0; i < delivery->target_count; i++) {
            if (delivery->targets[i].fallback == (fallbacks == 1)) {
                (void)joined(delivery, &delivery->targets[i].lane, delivery->deadline);
            }
        }
    }
}

/* Has calls that are still under way return soon. */
static void interrupt(struct mon_delivery *delivery) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        const struct mon_target *target = &delivery->targets[i];
        pthread_mutex_lock(&delivery->lock);
        bool busy = delivery->alone ? delivery->sender.started : target->lane.started;
        pthread_mutex_unlock(&delivery->lock);
        if (busy && target->type->interrupt != NULL) {
            target->type->interrupt(target->self);
        }
    }
}

/* Puts on disk what threads that did not end in time have in hand. */
static void rescue(struct mon_delivery *delivery) {
    for (;;) {
        pthread_mutex_lock(&delivery->queue->lock);
        struct mon_batch *whole = delivery->queue->hand;
        if (whole != NULL) {
            mon_batch_hold(whole);
        }
        pthread_mutex_unlock(&delivery->queue->lock);
        if (whole == NULL) {
            return;
        }
        for (size_t i = 0; i < delivery->target_count; i++) {
            struct mon_target *target = &delivery->targets[i];
            size_t first = 0;
            size_t count;
            while (mon_batch_pending_run(target, whole, &first, &count)) {
                struct mon_batch *piece = count == whole->count ? mon_batch_hold(whole) : mon_batch_piece(whole, first, count);
                struct mon_batch *rest = piece != NULL ? piece : whole; /* without memory too much rather than too little */
                (void)mon_put_away(target, &rest, 1, true);
                mon_batch_release(piece);
                first += count;
            }
        }
        mon_batch_settle(delivery, whole);
        mon_batch_release(whole);
    }
}

void mon_delivery_close(struct mon_delivery *delivery, double grace) {
    pthread_mutex_lock(&delivery->lock);
    delivery->deadline = mon_monotonic() + grace;
    atomic_store(&delivery->closing, true);
    pthread_cond_broadcast(&delivery->wake);
    pthread_mutex_unlock(&delivery->lock);
    pthread_mutex_lock(&delivery->queue->lock);
    pthread_cond_broadcast(&delivery->queue->change);
    pthread_mutex_unlock(&delivery->queue->lock);
    (void)joined(delivery, &delivery->sender, delivery->deadline);
    end_lanes(delivery);
    interrupt(delivery);
    double last = mon_monotonic() + INTERRUPT_GRACE;
    bool ended = parted(delivery, &delivery->sender, last);
    ended &= parted(delivery, &delivery->spiller, last);
    uint32_t late = 0;
    for (size_t i = 0; i < delivery->target_count; i++) {
        late |= parted(delivery, &delivery->targets[i].lane, last) ? 0 : delivery->targets[i].bit;
    }
    mon_put_away_queue(delivery);
    rescue(delivery);
    pthread_mutex_lock(&delivery->queue->lock);
    atomic_store(&delivery->over, true);
    pthread_mutex_unlock(&delivery->queue->lock);
    for (size_t i = 0; ended && i < delivery->target_count; i++) {
        if (delivery->targets[i].spool != NULL && !(late & delivery->targets[i].bit)) {
            mon_spool_close(delivery->targets[i].spool);
        }
    }
}

void mon_delivery_forget(struct mon_delivery *delivery) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        struct mon_target *target = &delivery->targets[i];
        target->type->forget(target->self);
        if (target->spool != NULL) {
            mon_spool_forget(target->spool);
        }
    }
}
