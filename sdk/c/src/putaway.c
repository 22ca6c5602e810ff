/* The last resort: batches go to disk, or are given up; and the spiller that does it for a full queue. */
#define _GNU_SOURCE
#include "check.h"
#include "delivery.h"
#include "log.h"

void mon_complain(const struct mon_target *target, int error) {
    if (!atomic_exchange(&target->delivery->disk_failing, true)) {
        mon_log(MON_SEVERE, "can't write to the spool folder %s: %s; check space and rights", mon_spool_folder(target->spool), strerror(error));
    }
}

static bool keep(const struct mon_target *target, const struct mon_batch *batch) {
    int error = mon_spool_write(target->spool, batch);
    if (error != 0) {
        mon_complain(target, error);
        return false;
    }
    atomic_store(&target->delivery->disk_failing, false);
    return true;
}

/* Writes batches as one file; without memory for that, or when it is one, as they are. How many of them are on disk. */
static size_t keep_all(const struct mon_target *target, struct mon_batch *const *batches, size_t count) {
    struct mon_batch *joined = count > 1 ? mon_batch_joined(batches, count) : NULL;
    if (joined != NULL) {
        bool kept = keep(target, joined);
        mon_batch_release(joined);
        return kept ? count : 0;
    }
    size_t kept = 0;
    while (kept < count && (!mon_batch_is_pending(target, batches[kept]) || keep(target, batches[kept]))) {
        kept++;
    }
    return kept;
}

static bool put_away(struct mon_target *target, struct mon_batch *const *batches, size_t count, bool final) {
    bool pending = false;
    for (size_t i = 0; i < count; i++) {
        pending |= mon_batch_is_pending(target, batches[i]);
    }
    if (!pending) { /* somebody else saw to it */
        return true;
    }
    /* What a fallback did not get waits for those before it. */
    size_t kept = target->spool != NULL && !target->fallback ? keep_all(target, batches, count) : 0;
    for (size_t i = 0; i < kept; i++) {
        mon_batch_resolve(target, batches[i], MON_FATE_SPOOLED, 0);
    }
    bool done = final || target->fallback || kept == count;
    for (size_t i = kept; done && i < count; i++) {
        mon_batch_lose(target, batches[i], target->spool != NULL ? MON_DROP_SPOOL_FAILED : MON_DROP_UNDELIVERABLE);
    }
    return done;
}

/* The end puts away what a slow lane is about to put away, maybe a part of it under the same name. */
bool mon_put_away(struct mon_target *target, struct mon_batch *const *batches, size_t count, bool final) {
    pthread_mutex_lock(&target->putting);
    bool done = put_away(target, batches, count, final);
    pthread_mutex_unlock(&target->putting);
    return done;
}

/* Takes some of the queue to disk, for every target that gets all; what finds no place there waits in the targets' backlogs. */
static bool put_away_some(struct mon_delivery *delivery, size_t limit, bool final) {
    struct mon_batch *batches = mon_delivery_take(delivery, limit);
    bool some = batches != NULL;
    while (batches != NULL) {
        struct mon_batch *batch = batches;
        batches = batch->next;
        if (batch->count == 0) {
            mon_batch_settle(delivery, batch);
        }
        for (size_t i = 0; i < delivery->target_count; i++) {
            struct mon_target *target = &delivery->targets[i];
            if (!target->fallback && batch->count > 0 && !mon_put_away(target, &batch, 1, final)) {
                mon_lane_offer(target, mon_batch_hold(batch));
            }
        }
        mon_batch_release(batch);
    }
    return some;
}

void mon_put_away_queue(struct mon_delivery *delivery) {
    while (put_away_some(delivery, MON_MAX_BATCH_EVENTS, true)) {
    }
}

/* Brings the queue down to half its bounds. */
static void spill(struct mon_delivery *delivery) {
    while (!atomic_load(&delivery->closing) && !atomic_load(&delivery->disk_failing)) {
        pthread_mutex_lock(&delivery->queue->lock);
        size_t excess = mon_delivery_excess(delivery);
        pthread_mutex_unlock(&delivery->queue->lock);
        if (excess == 0 || !put_away_some(delivery, excess < MON_MAX_BATCH_EVENTS ? excess : MON_MAX_BATCH_EVENTS, false)) {
            return;
        }
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
    delivery->spiller.ended = true;
    pthread_cond_broadcast(&delivery->ended);
    pthread_mutex_unlock(&delivery->lock);
    mon_delivery_release(delivery);
    return NULL;
}
