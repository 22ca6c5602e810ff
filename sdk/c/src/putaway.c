/* The last resort: batches go to disk, are held in memory, or are given up; and the spiller that does it for a full queue. */
#include <stdlib.h>

#include "check.h"
#include "delivery.h"
#include "log.h"

/* Says that the spool folder fails, once until it works again. */
static void complain(struct mon_delivery *delivery, const struct mon_target *target, int error) {
    if (!atomic_exchange(&delivery->disk_failing, true)) {
        mon_log(MON_SEVERE, "can't write to the spool folder %s: %s; check space and rights", mon_spool_folder(target->spool), strerror(error));
    }
}

static void put_away_for(struct mon_delivery *delivery, struct mon_batch *batch, struct mon_target *target, bool at_the_end) {
    if (!target->owed) { /* a fallback: what it did not get waits for those of better priority */
        batch->pending &= ~target->bit;
        return;
    }
    if (target->spool != NULL) {
        int error = mon_spool_write(target->spool, batch);
        if (error == 0) {
            atomic_store(&delivery->disk_failing, false);
            batch->pending &= ~target->bit;
            batch->spooled = true;
            pthread_mutex_lock(&delivery->lock);
            target->counts.spooled += batch->count;
            pthread_mutex_unlock(&delivery->lock);
            return;
        }
        complain(delivery, target, error);
    }
    if (at_the_end) {
        batch->pending &= ~target->bit;
    }
}

void mon_put_away(struct mon_delivery *delivery, struct mon_batch *batch, struct mon_target *target, bool at_the_end) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        struct mon_target *each = &delivery->targets[i];
        if ((target == NULL || target == each) && (batch->pending & each->bit)) {
            put_away_for(delivery, batch, each, at_the_end);
        }
    }
}

void mon_put_aside(struct mon_delivery *delivery, struct mon_batch *batch, struct mon_target *target, const char *why) {
    mon_log(MON_SEVERE, "%s refused a batch of %zu event(s) for good: %s", target->counts.name, batch->count, why);
    if (target->spool != NULL) {
        int error = mon_spool_set_aside(target->spool, batch);
        if (error != 0) {
            complain(delivery, target, error);
        }
    }
    batch->pending &= ~target->bit;
    batch->refused = true;
    pthread_mutex_lock(&delivery->lock);
    target->counts.failed += batch->count;
    pthread_mutex_unlock(&delivery->lock);
}

bool mon_settle(struct mon_delivery *delivery, struct mon_batch *batch) {
    pthread_mutex_lock(&delivery->queue->lock);
    bool first = mon_queue_settle(delivery->queue, batch);
    if (first) {
        pthread_mutex_lock(&delivery->lock);
        mon_counts *counts = &delivery->counts;
        bool lost = false;
        if (batch->spooled) {
            counts->spooled += batch->count;
        } else if (batch->taken) {
            counts->sent += batch->count - batch->rejected;
            counts->rejected += batch->rejected;
        } else if (batch->refused) {
            counts->failed += batch->count;
        } else {
            lost = true;
            for (size_t i = 0; i < MON_DROP_REASONS; i++) {
                delivery->unreported[i] += batch->reports[i];
            }
        }
        pthread_mutex_unlock(&delivery->lock);
        if (lost) {
            mon_delivery_count_drop(delivery, delivery->settings->spooling ? MON_DROP_SPOOL_FAILED : MON_DROP_UNDELIVERABLE, batch->count);
        }
    }
    pthread_mutex_unlock(&delivery->queue->lock);
    return first;
}

void mon_batch_discard(struct mon_delivery *delivery, struct mon_batch *batch) {
    pthread_mutex_lock(&delivery->queue->lock);
    bool borrowed = batch->borrowed;
    batch->abandoned = true;
    pthread_mutex_unlock(&delivery->queue->lock);
    if (!borrowed) {
        mon_batch_free(batch);
    }
}

/* Holds a batch that could be put nowhere; the oldest are given up when there are too many. */
static void hold(struct mon_delivery *delivery, struct mon_batch *batch) {
    pthread_mutex_lock(&delivery->lock);
    size_t sum = batch->count;
    struct mon_batch **last = &delivery->held;
    while (*last != NULL) {
        sum += (*last)->count;
        last = &(*last)->next;
    }
    batch->next = NULL;
    *last = batch;
    struct mon_batch *given_up = NULL;
    struct mon_batch **end = &given_up;
    while (sum > delivery->settings->max_events && delivery->held != NULL) {
        struct mon_batch *oldest = delivery->held;
        delivery->held = oldest->next;
        oldest->next = NULL;
        sum -= oldest->count;
        *end = oldest;
        end = &oldest->next;
    }
    pthread_mutex_unlock(&delivery->lock);
    while (given_up != NULL) {
        struct mon_batch *oldest = given_up;
        given_up = oldest->next;
        (void)mon_settle(delivery, oldest);
        mon_batch_discard(delivery, oldest);
    }
}

void mon_batch_finish(struct mon_delivery *delivery, struct mon_batch *batch) {
    pthread_mutex_lock(&delivery->queue->lock);
    bool settled = batch->settled;
    pthread_mutex_unlock(&delivery->queue->lock);
    if (!settled && batch->pending != 0) {
        hold(delivery, batch);
        return;
    }
    (void)mon_settle(delivery, batch);
    mon_batch_discard(delivery, batch);
}

struct mon_batch *mon_delivery_take(struct mon_delivery *delivery, size_t limit) {
    struct mon_queue *queue = delivery->queue;
    struct mon_taking taking;
    pthread_mutex_lock(&queue->lock);
    bool some = !atomic_load(&delivery->over) && mon_queue_take(queue, &taking, limit);
    pthread_mutex_unlock(&queue->lock);
    if (!some) {
        return NULL;
    }
    size_t lost;
    struct mon_batch *batches = mon_queue_pack(&taking, &delivery->origin, &lost);
    for (struct mon_batch *batch = batches; batch != NULL; batch = batch->next) {
        batch->pending = (1U << delivery->target_count) - 1U;
    }
    pthread_mutex_lock(&queue->lock);
    mon_queue_release(queue, &taking, batches);
    pthread_mutex_unlock(&queue->lock);
    if (lost > 0) {
        mon_delivery_count_drop(delivery, MON_DROP_UNDELIVERABLE, lost);
    }
    return batches;
}

static void put_away_all(struct mon_delivery *delivery, struct mon_batch *batches, bool at_the_end) {
    while (batches != NULL) {
        struct mon_batch *batch = batches;
        batches = batch->next;
        batch->next = NULL;
        mon_put_away(delivery, batch, NULL, at_the_end);
        mon_batch_finish(delivery, batch);
    }
}

void mon_put_away_queue(struct mon_delivery *delivery) {
    for (;;) {
        struct mon_batch *batches = mon_delivery_take(delivery, MON_MAX_BATCH_EVENTS);
        if (batches == NULL) {
            return;
        }
        put_away_all(delivery, batches, true);
    }
}

/* Brings the queue down to half its bounds. */
static void spill(struct mon_delivery *delivery) {
    while (!atomic_load(&delivery->closing) && !atomic_load(&delivery->disk_failing)) {
        pthread_mutex_lock(&delivery->queue->lock);
        size_t excess = mon_delivery_excess(delivery);
        pthread_mutex_unlock(&delivery->queue->lock);
        if (excess == 0) {
            return;
        }
        put_away_all(delivery, mon_delivery_take(delivery, excess < MON_MAX_BATCH_EVENTS ? excess : MON_MAX_BATCH_EVENTS), false);
    }
}

void *mon_spiller_run(void *data) {
    struct mon_delivery *delivery = data;
    while (!atomic_load(&delivery->closing)) {
        pthread_mutex_lock(&delivery->lock);
        while (!atomic_load(&delivery->spill_asked) && !atomic_load(&delivery->closing)) {
            pthread_cond_wait(&delivery->wake, &delivery->lock);
        }
        pthread_mutex_unlock(&delivery->lock);
        atomic_store(&delivery->spill_asked, false);
        spill(delivery);
    }
    pthread_mutex_lock(&delivery->lock);
    delivery->spiller_ended = true;
    pthread_cond_broadcast(&delivery->ended);
    pthread_mutex_unlock(&delivery->lock);
    mon_delivery_release(delivery);
    return NULL;
}
