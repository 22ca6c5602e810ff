/* A batch on its way to several targets: who is not done with which of its lines, who failed to take them, and what became of them.
 *
 * A target gets the whole batch, or pieces of it where it is too large; so all is noted line by line, in the whole. A bit is taken
 * away once, by whoever is first: a thread that is late finds that nothing is its own any more. */
#include "delivery.h"

static struct mon_batch *whole_of(struct mon_batch *batch) {
    return batch->whole != NULL ? batch->whole : batch;
}

void mon_batch_address(struct mon_delivery *delivery, struct mon_batch *batch) {
    for (size_t i = 0; i < batch->count; i++) {
        batch->lines[i].pending = delivery->always;
    }
    pthread_mutex_lock(&delivery->lock);
    for (size_t i = 0; i < delivery->target_count; i++) {
        if (delivery->always & delivery->targets[i].bit) {
            delivery->targets[i].counts.waiting += batch->count;
            batch->left += batch->count;
        }
    }
    pthread_mutex_unlock(&delivery->lock);
}

bool mon_batch_is_pending(const struct mon_target *target, const struct mon_batch *batch) {
    const struct mon_batch *whole = batch->whole != NULL ? batch->whole : batch;
    bool pending = false;
    pthread_mutex_lock(&target->delivery->lock);
    for (size_t i = 0; i < batch->count && !pending; i++) {
        pending = whole->lines[batch->first + i].pending & target->bit;
    }
    pthread_mutex_unlock(&target->delivery->lock);
    return pending;
}

/* The first run of lines with that bit in `pending` or `due`; with the delivery's lock held. */
static bool find_run(const struct mon_batch *whole, uint32_t bit, bool due, size_t *first, size_t *count) {
    size_t at = *first;
    while (at < whole->count && !((due ? whole->lines[at].due : whole->lines[at].pending) & bit)) {
        at++;
    }
    *first = at;
    while (at < whole->count && (due ? whole->lines[at].due : whole->lines[at].pending) & bit) {
        at++;
    }
    *count = at - *first;
    return *count > 0;
}

bool mon_batch_pending_run(const struct mon_target *target, const struct mon_batch *whole, size_t *first, size_t *count) {
    pthread_mutex_lock(&target->delivery->lock);
    bool found = find_run(whole, target->bit, false, first, count);
    pthread_mutex_unlock(&target->delivery->lock);
    return found;
}

static void count_for(struct mon_target *target, enum mon_fate fate, size_t done, size_t rejected) {
    mon_backend_counts *counts = &target->counts;
    counts->waiting -= done;
    switch (fate) {
    case MON_FATE_TAKEN:
    case MON_FATE_STOOD_IN:
    case MON_FATE_REJECTED:
        counts->delivered += done - rejected;
        *(target->type->names_refused ? &counts->failed : &counts->rejected) += rejected;
        break;
    case MON_FATE_SPOOLED: counts->spooled += done; break;
    case MON_FATE_REFUSED: counts->failed += done; break;
    case MON_FATE_LOST: counts->dropped += done; break;
    case MON_FATE_NOTHING: break;
    }
}

/* Takes the target's bits away from some lines; whether nobody has to do with the batch any more. */
static bool take_away(struct mon_target *target, struct mon_batch *whole, size_t first, size_t count, enum mon_fate fate, size_t rejected) {
    size_t done = 0;
    enum mon_fate refusal = target->type->names_refused ? MON_FATE_REFUSED : MON_FATE_REJECTED;
    for (size_t i = first; i < first + count; i++) {
        struct mon_line *line = &whole->lines[i];
        if (line->pending & target->bit) {
            line->pending &= ~target->bit;
            line->fates |= done < rejected ? refusal : fate;
            done++;
        }
    }
    count_for(target, fate, done, rejected < done ? rejected : done);
    whole->left -= done;
    return done > 0 && whole->left == 0;
}

static void resolve(struct mon_target *target, struct mon_batch *whole, size_t first, size_t count, enum mon_fate fate, size_t rejected) {
    pthread_mutex_lock(&target->delivery->lock);
    bool last = take_away(target, whole, first, count, fate, rejected);
    pthread_mutex_unlock(&target->delivery->lock);
    if (last) {
        mon_batch_settle(target->delivery, whole);
    }
}

void mon_batch_resolve(struct mon_target *target, struct mon_batch *batch, enum mon_fate fate, size_t rejected) {
    if (fate == MON_FATE_TAKEN && target->fallback) {
        fate = MON_FATE_STOOD_IN;
    }
    resolve(target, whole_of(batch), batch->first, batch->count, fate, rejected);
}

void mon_batch_lose(struct mon_target *target, struct mon_batch *batch, enum mon_drop_reason reason) {
    struct mon_batch *whole = whole_of(batch);
    pthread_mutex_lock(&target->delivery->lock);
    whole->lost_by = target->fallback ? whole->lost_by : reason;
    pthread_mutex_unlock(&target->delivery->lock);
    /* What a fallback does not get is not lost: those that it stands in for keep it. */
    resolve(target, whole, batch->first, batch->count, target->fallback ? MON_FATE_NOTHING : MON_FATE_LOST, 0);
}

/* Notes the failure, and which fallbacks are to get which lines because of it; which fallbacks these are. */
static uint32_t note_miss(struct mon_target *target, const struct mon_batch *batch, struct mon_batch *whole) {
    struct mon_delivery *delivery = target->delivery;
    uint32_t due = 0;
    for (size_t i = 0; i < batch->count; i++) {
        struct mon_line *line = &whole->lines[batch->first + i];
        if (line->missed & target->bit) {
            continue;
        }
        line->missed |= target->bit;
        for (size_t j = target->index + 1; j < delivery->target_count; j++) {
            struct mon_target *other = &delivery->targets[j];
            if (other->better & target->bit && (line->missed & other->better) == other->better) {
                line->due |= other->bit;
                line->pending |= other->bit;
                whole->left++;
                other->counts.waiting++;
                due |= other->bit;
            }
        }
    }
    return due;
}

/* Takes the next run of lines that is due for a fallback. */
static bool take_due(const struct mon_target *fallback, struct mon_batch *whole, size_t *first, size_t *count) {
    pthread_mutex_lock(&fallback->delivery->lock);
    bool found = find_run(whole, fallback->bit, true, first, count);
    for (size_t i = *first; i < *first + *count; i++) {
        whole->lines[i].due &= ~fallback->bit;
    }
    pthread_mutex_unlock(&fallback->delivery->lock);
    return found;
}

void mon_batch_miss(struct mon_target *target, struct mon_batch *batch) {
    struct mon_delivery *delivery = target->delivery;
    struct mon_batch *whole = whole_of(batch);
    if (delivery->fallbacks == 0) {
        return;
    }
    pthread_mutex_lock(&delivery->lock);
    uint32_t due = note_miss(target, batch, whole);
    pthread_mutex_unlock(&delivery->lock);
    for (size_t i = 0; i < delivery->target_count; i++) {
        struct mon_target *fallback = &delivery->targets[i];
        size_t first = 0;
        size_t count;
        while ((due & fallback->bit) && take_due(fallback, whole, &first, &count)) {
            struct mon_batch *piece = count == whole->count ? mon_batch_hold(whole) : mon_batch_piece(whole, first, count);
            if (piece != NULL) {
                mon_lane_offer(fallback, piece);
            } else { /* without memory it gets nothing: those before it keep what they failed to take */
                resolve(fallback, whole, first, count, MON_FATE_NOTHING, 0);
            }
            first += count;
        }
    }
}

/* Where an event is counted: as lost when somebody lacks it for good and nobody stood in, and so on. */
static uint64_t *count_of(mon_counts *counts, uint32_t fates) {
    if (fates & MON_FATE_LOST && !(fates & MON_FATE_STOOD_IN)) {
        return &counts->dropped;
    }
    return fates & MON_FATE_SPOOLED                       ? &counts->spooled
           : fates & MON_FATE_REJECTED                    ? &counts->rejected
           : fates & (MON_FATE_TAKEN | MON_FATE_STOOD_IN) ? &counts->sent
           : fates & MON_FATE_REFUSED                     ? &counts->failed
                                                          : &counts->dropped;
}

void mon_batch_settle(struct mon_delivery *delivery, struct mon_batch *whole) {
    mon_counts outcome = {0};
    pthread_mutex_lock(&delivery->lock);
    for (size_t i = 0; i < whole->count; i++) {
        ++*count_of(&outcome, whole->lines[i].fates);
    }
    enum mon_drop_reason reason = whole->lost_by;
    pthread_mutex_unlock(&delivery->lock);
    pthread_mutex_lock(&delivery->queue->lock); /* from one moment to the next it is no more in memory and counted elsewhere */
    if (mon_queue_settle(delivery->queue, whole)) {
        pthread_mutex_lock(&delivery->lock);
        delivery->counts.sent += outcome.sent;
        delivery->counts.rejected += outcome.rejected;
        delivery->counts.spooled += outcome.spooled;
        delivery->counts.failed += outcome.failed;
        for (size_t i = 0; outcome.dropped > 0 && i < MON_DROP_REASONS; i++) {
            delivery->unreported[i] += whole->reports[i];
        }
        pthread_mutex_unlock(&delivery->lock);
        if (outcome.dropped > 0) {
            mon_delivery_count_drop(delivery, reason, outcome.dropped);
        }
    }
    pthread_mutex_unlock(&delivery->queue->lock);
}
