/* The end of a delivery: its threads get a deadline, and what they have not done by then is done here. */
#define _GNU_SOURCE
#include <errno.h>

#include "delivery.h"

static const double INTERRUPT_GRACE = 0.4; /* how long an interrupted sender has before `close` does its work */

/* Waits for a thread to end until a moment, and joins it; whether it ended. */
static bool joined(struct mon_delivery *delivery, const bool *started, const bool *ended, const pthread_t *thread, double until) {
    struct timespec moment = mon_moment(until);
    pthread_mutex_lock(&delivery->lock);
    bool running = *started;
    int error = 0;
    while (running && !*ended && error != ETIMEDOUT) {
        error = pthread_cond_timedwait(&delivery->ended, &delivery->lock, &moment);
    }
    bool done = !running || *ended;
    pthread_mutex_unlock(&delivery->lock);
    if (running && done) {
        pthread_join(*thread, NULL);
    }
    return done;
}

/* Settles what a thread that did not end in time has in hand, and puts it on disk. */
static void rescue(struct mon_delivery *delivery) {
    for (;;) {
        pthread_mutex_lock(&delivery->queue->lock);
        struct mon_batch *batch = delivery->queue->hand;
        if (batch != NULL) {
            batch->borrowed = true;
        }
        pthread_mutex_unlock(&delivery->queue->lock);
        if (batch == NULL) {
            return;
        }
        mon_put_away(delivery, batch, NULL, true);
        (void)mon_settle(delivery, batch);
        pthread_mutex_lock(&delivery->queue->lock);
        batch->borrowed = false;
        bool orphaned = batch->abandoned;
        pthread_mutex_unlock(&delivery->queue->lock);
        if (orphaned) {
            mon_batch_free(batch);
        }
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
    bool ended = joined(delivery, &delivery->sender_started, &delivery->sender_ended, &delivery->sender, delivery->deadline);
    if (!ended) {
        for (size_t i = 0; i < delivery->target_count; i++) {
            if (delivery->targets[i].type->interrupt != NULL) {
                delivery->targets[i].type->interrupt(delivery->targets[i].self);
            }
        }
        ended = joined(delivery, &delivery->sender_started, &delivery->sender_ended, &delivery->sender, mon_monotonic() + INTERRUPT_GRACE);
        if (!ended) {
            pthread_detach(delivery->sender);
        }
    }
    if (!joined(delivery, &delivery->spiller_started, &delivery->spiller_ended, &delivery->spiller, mon_monotonic() + INTERRUPT_GRACE)) {
        pthread_detach(delivery->spiller);
    }
    mon_put_away_queue(delivery);
    rescue(delivery);
    pthread_mutex_lock(&delivery->queue->lock);
    atomic_store(&delivery->over, true);
    pthread_mutex_unlock(&delivery->queue->lock);
    if (ended) {
        for (size_t i = 0; i < delivery->target_count; i++) {
            if (delivery->targets[i].spool != NULL) {
                mon_spool_close(delivery->targets[i].spool);
            }
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
