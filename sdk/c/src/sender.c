/* The sender: cuts batches from the queue, hands them to the targets, and says what was lost on the way. */
#include <stdlib.h>

#include "check.h"
#include "delivery.h"
#include "number.h"

/* ------------------------------------------------------------------------------------------------------------- what was lost */

static const char *const REASONS[MON_DROP_REASONS] = {"queue_full", "spool_failed", "undeliverable"};

/* Takes the counts that nobody was told of; their sum. */
static uint64_t take_unreported(struct mon_delivery *delivery, uint64_t drops[MON_DROP_REASONS], int64_t *ordinal) {
    uint64_t sum = 0;
    pthread_mutex_lock(&delivery->lock);
    for (size_t i = 0; i < MON_DROP_REASONS; i++) {
        drops[i] = delivery->unreported[i];
        delivery->unreported[i] = 0;
        sum += drops[i];
    }
    *ordinal = sum > 0 ? -++delivery->reports : 0;
    pthread_mutex_unlock(&delivery->lock);
    return sum;
}

/* Adds the line of an event of the SDK's own, under the next number; false without memory. */
static bool add_own(struct mon_delivery *delivery, struct mon_batch *batch, const struct mon_buf *fields) {
    struct mon_record *record = fields->failed ? NULL : calloc(1, mon_record_size(fields->len));
    if (record == NULL) {
        return false;
    }
    uint64_t micros = mon_now_micros();
    pthread_mutex_lock(&delivery->queue->lock);
    *record = (struct mon_record){.len = (uint32_t)fields->len, .seq = ++delivery->queue->seq, .micros = micros, .id_millis = micros / 1000};
    pthread_mutex_unlock(&delivery->queue->lock);
    memcpy(record + 1, fields->data, fields->len);
    mon_record_line(&batch->body, record, &delivery->origin);
    bool made = mon_batch_line(batch, record->seq);
    free(record);
    return made;
}

/* Tells of what was lost by an event of its own, so that the gap in the numbers is explained; NULL when nothing was. */
static struct mon_batch *report(struct mon_delivery *delivery) {
    uint64_t drops[MON_DROP_REASONS];
    int64_t ordinal;
    uint64_t sum = take_unreported(delivery, drops, &ordinal);
    if (sum == 0 || atomic_load(&delivery->over)) {
        return NULL;
    }
    struct mon_buf fields = {0};
    mon_buf_add(&fields, delivery->site.data, delivery->site.len);
    mon_buf_add(&fields, delivery->app.data, delivery->app.len);
    mon_buf_format(&fields,
                   "\"kind\":\"metric\",\"name\":\"sdk.dropped\",\"severity\":\"warning\",\"message\":\"%llu event(s) of this process were lost "
                   "before they reached the sidecar\",\"metrics\":{",
                   (unsigned long long)sum);
    const char *comma = "";
    for (size_t i = 0; i < MON_DROP_REASONS; i++) {
        if (drops[i] > 0) {
            mon_buf_format(&fields, "%s\"%s\":%llu", comma, REASONS[i], (unsigned long long)drops[i]);
            comma = ",";
        }
    }
    mon_buf_text(&fields, "},");
    struct mon_batch *batch = mon_batch_new(delivery->origin.emitter_id, ordinal);
    if (batch == NULL || !add_own(delivery, batch, &fields)) {
        mon_batch_release(batch);
        mon_buf_free(&fields);
        return NULL;
    }
    mon_buf_free(&fields);
    memcpy(batch->reports, drops, sizeof drops);
    mon_batch_address(delivery, batch);
    pthread_mutex_lock(&delivery->queue->lock);
    mon_queue_hold(delivery->queue, batch);
    pthread_mutex_unlock(&delivery->queue->lock);
    return batch;
}

/* ---------------------------------------------------------------------------------------------------------------- the rounds */

/* Hands a batch to every target that gets all events, those of better priority first. */
static void ship(struct mon_delivery *delivery, struct mon_batch *batch) {
    if (batch->count == 0) { /* there was no memory for its lines */
        mon_batch_settle(delivery, batch);
    }
    for (size_t i = 0; i < delivery->target_count; i++) {
        if (batch->count > 0 && (delivery->always & delivery->targets[i].bit)) {
            mon_lane_offer(&delivery->targets[i], mon_batch_hold(batch));
        }
    }
    mon_batch_release(batch);
    if (delivery->alone) {
        mon_lane_work(&delivery->targets[0]);
    }
}

static void ship_report(struct mon_delivery *delivery) {
    struct mon_batch *batch = report(delivery);
    if (batch != NULL) {
        ship(delivery, batch);
    }
}

/* Takes up to so many events from the queue and hands them out; how many. */
static size_t ship_some(struct mon_delivery *delivery, size_t limit) {
    struct mon_batch *batches = mon_delivery_take(delivery, limit);
    size_t taken = 0;
    while (batches != NULL) {
        struct mon_batch *batch = batches;
        batches = batch->next;
        taken += batch->count;
        ship(delivery, batch);
    }
    return taken;
}

static size_t waiting(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->queue->lock);
    size_t count = delivery->queue->count;
    pthread_mutex_unlock(&delivery->queue->lock);
    return count;
}

/* How many events to take at once: what goes to disk anyway goes there in few files. */
static size_t bite(const struct mon_delivery *delivery) {
    bool down = delivery->alone && !mon_breaker_allows(&delivery->targets[0].breaker, mon_monotonic());
    return down ? MON_MAX_BATCH_EVENTS : delivery->settings->batch_size;
}

/* Sends what is due: all full batches, with `everything` also the rest and what waits for another try. */
static void send_due(struct mon_delivery *delivery, bool everything) {
    size_t due = 0;
    if (everything) {
        for (size_t i = 0; i < delivery->target_count; i++) {
            if (delivery->alone) {
                mon_lane_work(&delivery->targets[i]);
            } else {
                mon_lane_wake(&delivery->targets[i]);
            }
        }
        ship_report(delivery);
        due = waiting(delivery);
    }
    while (!atomic_load(&delivery->closing) && (due > 0 || waiting(delivery) >= delivery->settings->batch_size)) {
        size_t taken = ship_some(delivery, bite(delivery));
        due = taken == 0 || taken > due ? 0 : due - taken;
        if (taken == 0 && waiting(delivery) == 0) {
            break;
        }
    }
    if (delivery->alone && !atomic_load(&delivery->closing)) {
        mon_lane_rest(&delivery->targets[0]);
    }
}

/* The last round: the targets get everything, and see to it that it is sent in time or goes to disk. */
static void finish(struct mon_delivery *delivery) {
    if (delivery->alone) {
        mon_lane_work(&delivery->targets[0]);
    }
    ship_report(delivery);
    while (ship_some(delivery, delivery->settings->batch_size) > 0) {
    }
}

/* Waits until there is something to do; whether somebody asked for everything to be sent. */
static bool wait_for_work(struct mon_delivery *delivery, double due) {
    struct timespec until = mon_moment(due);
    pthread_mutex_lock(&delivery->lock);
    while (!atomic_load(&delivery->signalled) && !atomic_load(&delivery->closing) && mon_monotonic() < due) {
        pthread_cond_timedwait(&delivery->wake, &delivery->lock, &until);
    }
    atomic_store(&delivery->signalled, false);
    bool flush = delivery->flush_asked;
    delivery->flush_asked = false;
    pthread_mutex_unlock(&delivery->lock);
    return flush;
}

void *mon_sender_run(void *data) {
    struct mon_delivery *delivery = data;
    double interval = delivery->settings->flush_interval;
    double due = mon_monotonic() + interval;
    while (!atomic_load(&delivery->closing)) {
        bool more = delivery->alone && delivery->targets[0].has_more;
        bool flush = wait_for_work(delivery, more ? 0 : due);
        bool everything = flush || mon_monotonic() >= due;
        if (everything) {
            due = mon_monotonic() + interval;
        }
        send_due(delivery, everything);
    }
    finish(delivery);
    pthread_mutex_lock(&delivery->lock);
    delivery->sender.ended = true;
    pthread_cond_broadcast(&delivery->ended);
    pthread_mutex_unlock(&delivery->lock);
    mon_delivery_release(delivery);
    return NULL;
}
