/* The sender: cuts batches, sends them, retries. */
#define _GNU_SOURCE
#include "delivery.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "log.h"
#include "number.h"
#include "text.h"

static const double POLL = 0.02;

/* -------------------------------------------------------------------------------------------------------------- made and freed */

static bool open_target(struct mon_delivery *delivery, size_t index, bool *owed_before) {
    const struct mon_settings *settings = delivery->settings;
    const struct mon_backend_settings *backend = &settings->backends[index];
    struct mon_target *target = &delivery->targets[index];
    *target = (struct mon_target){.type = mon_backend_type_of(backend->type), .fallback = backend->fallback, .bit = 1U << index, .timeout = backend->timeout};
    target->owed = !backend->fallback || !*owed_before;
    *owed_before |= target->owed;
    snprintf(target->counts.name, sizeof target->counts.name, "%s", backend->name);
    snprintf(target->counts.type, sizeof target->counts.type, "%s", backend->type);
    target->self = target->type->open(settings, backend);
    delivery->target_count++;
    if (target->self == NULL) {
        return false;
    }
    if (settings->spooling) {
        struct mon_buf folder = {0};
        mon_buf_text(&folder, settings->spool_dir);
        if (settings->direct) { /* a folder of its own: what waits for one backend is nothing for the others */
            mon_buf_format(&folder, "/%s", backend->name);
        }
        const char *name = mon_buf_string(&folder);
        target->spool = name == NULL ? NULL : mon_spool_new(name, delivery->origin.emitter_id);
        mon_buf_free(&folder);
        return target->spool != NULL;
    }
    return true;
}

static void destroy(struct mon_delivery *delivery) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        if (delivery->targets[i].self != NULL) {
            delivery->targets[i].type->close(delivery->targets[i].self);
        }
        if (delivery->targets[i].spool != NULL) {
            mon_spool_close(delivery->targets[i].spool);
            mon_spool_free(delivery->targets[i].spool);
        }
    }
    free(delivery->targets);
    mon_buf_free(&delivery->site);
    mon_buf_free(&delivery->app);
    pthread_mutex_destroy(&delivery->lock);
    pthread_cond_destroy(&delivery->wake);
    pthread_cond_destroy(&delivery->ended);
    mon_settings_free(delivery->settings);
    free(delivery);
}

static void fill_app(struct mon_delivery *delivery) {
    const struct mon_settings *settings = delivery->settings;
    mon_buf_text(&delivery->site, "\"site_id\":");
    mon_text_quote(&delivery->site, settings->site_id, strlen(settings->site_id));
    mon_buf_char(&delivery->site, ',');
    mon_buf_text(&delivery->app, "\"app\":{\"name\":");
    mon_text_quote(&delivery->app, settings->app_name, strlen(settings->app_name));
    if (settings->version != NULL) {
        mon_buf_text(&delivery->app, ",\"version\":");
        mon_text_quote(&delivery->app, settings->version, strlen(settings->version));
    }
    if (settings->instance_id != NULL) {
        mon_buf_text(&delivery->app, ",\"instance_id\":");
        mon_text_quote(&delivery->app, settings->instance_id, strlen(settings->instance_id));
    }
    mon_buf_text(&delivery->app, "},");
}

struct mon_delivery *mon_delivery_new(struct mon_settings *settings, struct mon_queue *queue) {
    struct mon_delivery *delivery = calloc(1, sizeof *delivery);
    if (delivery == NULL) {
        return NULL;
    }
    delivery->settings = settings;
    delivery->queue = queue;
    delivery->references = 1;
    delivery->on_full = settings->on_full == MON_FULL_SPOOL && !settings->spooling ? MON_FULL_DROP_OLDEST : settings->on_full;
    mon_id_source_init(&delivery->origin.ids);
    mon_id_new(delivery->origin.emitter_id);
    mon_random(&delivery->random, sizeof delivery->random);
    pthread_mutex_init(&delivery->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&delivery->wake, &clock);
    pthread_cond_init(&delivery->ended, &clock);
    pthread_condattr_destroy(&clock);
    fill_app(delivery);
    delivery->targets = calloc(settings->backend_count, sizeof *delivery->targets);
    bool whole = delivery->targets != NULL && !delivery->site.failed && !delivery->app.failed;
    bool owed = false;
    for (size_t i = 0; whole && i < settings->backend_count; i++) {
        whole = open_target(delivery, i, &owed);
    }
    if (!whole) {
        delivery->settings = NULL;
        destroy(delivery);
        return NULL;
    }
    return delivery;
}

void mon_delivery_hold(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->lock);
    delivery->references++;
    pthread_mutex_unlock(&delivery->lock);
}

void mon_delivery_release(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->lock);
    bool last = --delivery->references == 0;
    pthread_mutex_unlock(&delivery->lock);
    if (last) {
        destroy(delivery);
    }
}

/* ------------------------------------------------------------------------------------------------------------------ the sender */

/* Delivers a batch to every target that it waits for, and finishes it. */
static void deliver(struct mon_delivery *delivery, struct mon_batch *batch, bool at_the_end) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        struct mon_target *target = &delivery->targets[i];
        if (!(batch->pending & target->bit)) {
            continue;
        }
        if (target->fallback && batch->taken) {
            batch->pending &= ~target->bit;
            continue;
        }
        double now = mon_monotonic();
        bool late = at_the_end && (target->breaker.failures > 0 || now >= delivery->deadline);
        if (late || !mon_breaker_allows(&target->breaker, now)) {
            mon_put_away(delivery, batch, target, at_the_end);
            continue;
        }
        struct mon_answer answer;
        mon_delivery_send(delivery, target, batch, target->breaker.failures == 0 ? 1 + delivery->settings->retries : 1, &answer);
        struct mon_batch *halves[2];
        if (answer.result == MON_ACCEPTED) {
            batch->pending &= ~target->bit;
            batch->taken = true;
            batch->rejected = answer.rejected > batch->rejected ? answer.rejected : batch->rejected;
            mon_note_rejections(target, &answer);
            pthread_mutex_lock(&delivery->lock);
            target->counts.delivered += batch->count - answer.rejected;
            target->counts.rejected += answer.rejected;
            pthread_mutex_unlock(&delivery->lock);
        } else if (answer.result == MON_TOO_LARGE && batch->count > 1 && mon_batch_halves(batch, halves)) {
            pthread_mutex_lock(&delivery->queue->lock);
            mon_queue_hold(delivery->queue, halves[0]);
            mon_queue_hold(delivery->queue, halves[1]);
            mon_queue_settle(delivery->queue, batch);
            pthread_mutex_unlock(&delivery->queue->lock);
            mon_batch_discard(delivery, batch);
            deliver(delivery, halves[0], at_the_end);
            deliver(delivery, halves[1], at_the_end);
            return;
        } else if (answer.result == MON_REFUSED || answer.result == MON_TOO_LARGE) {
            mon_put_aside(delivery, batch, target, answer.detail);
        } else {
            mon_put_away(delivery, batch, target, at_the_end);
        }
    }
    mon_batch_finish(delivery, batch);
}

static struct mon_batch *pop(struct mon_batch **list) {
    struct mon_batch *batch = *list;
    *list = batch->next;
    batch->next = NULL;
    return batch;
}

/* Tries what could be put nowhere once more, until the first that fails again. */
static void retry_held(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->lock);
    struct mon_batch *held = delivery->held;
    delivery->held = NULL;
    pthread_mutex_unlock(&delivery->lock);
    while (held != NULL) {
        struct mon_batch *batch = pop(&held);
        deliver(delivery, batch, false);
        if (delivery->held == batch) { /* it is held again, behind nobody: the others go before it no more */
            break;
        }
    }
    if (held != NULL) {
        pthread_mutex_lock(&delivery->lock);
        struct mon_batch **last = &delivery->held;
        while (*last != NULL) {
            last = &(*last)->next;
        }
        *last = held;
        pthread_mutex_unlock(&delivery->lock);
    }
}

/* Tells of what was lost by an event of its own, so that the gap in the numbers is explained. */
static void report_drops(struct mon_delivery *delivery, bool at_the_end) {
    static const char *const reasons[MON_DROP_REASONS] = {"queue_full", "spool_failed", "undeliverable"};
    uint64_t drops[MON_DROP_REASONS];
    uint64_t sum = 0;
    pthread_mutex_lock(&delivery->lock);
    for (size_t i = 0; i < MON_DROP_REASONS; i++) {
        drops[i] = delivery->unreported[i];
        delivery->unreported[i] = 0;
        sum += drops[i];
    }
    int64_t ordinal = sum > 0 ? -++delivery->reports : 0;
    pthread_mutex_unlock(&delivery->lock);
    if (sum == 0 || atomic_load(&delivery->over)) {
        return;
    }
    struct mon_buf fields = {0};
    mon_buf_add(&fields, delivery->site.data, delivery->site.len);
    mon_buf_add(&fields, delivery->app.data, delivery->app.len);
    mon_buf_format(&fields,
                   "\"kind\":\"metric\",\"name\":\"sdk.dropped\",\"severity\":\"warning\",\"message\":\"%llu event(s) of this process were lost "
                   "before they reached the sidecar\",\"metrics\":{",
                   (unsigned long long)sum);
    bool first = true;
    for (size_t i = 0; i < MON_DROP_REASONS; i++) {
        if (drops[i] > 0) {
            mon_buf_format(&fields, "%s\"%s\":%llu", first ? "" : ",", reasons[i], (unsigned long long)drops[i]);
            first = false;
        }
    }
    mon_buf_text(&fields, "},");
    struct mon_batch *batch = mon_batch_new(delivery->origin.emitter_id, ordinal);
    size_t size = mon_record_size(fields.len);
    struct mon_record *record = batch == NULL || fields.failed ? NULL : calloc(1, size);
    bool made = false;
    if (record != NULL) {
        uint64_t micros = mon_now_micros();
        pthread_mutex_lock(&delivery->queue->lock);
        *record = (struct mon_record){.len = (uint32_t)fields.len, .seq = ++delivery->queue->seq, .micros = micros, .id_millis = micros / 1000};
        pthread_mutex_unlock(&delivery->queue->lock);
        memcpy(record + 1, fields.data, fields.len);
        mon_record_line(&batch->body, record, &delivery->origin);
        made = mon_batch_line(batch, record->seq);
    }
    free(record);
    mon_buf_free(&fields);
    if (!made) {
        mon_batch_free(batch);
        return;
    }
    memcpy(batch->reports, drops, sizeof drops);
    batch->pending = (1U << delivery->target_count) - 1U;
    pthread_mutex_lock(&delivery->queue->lock);
    mon_queue_hold(delivery->queue, batch);
    pthread_mutex_unlock(&delivery->queue->lock);
    deliver(delivery, batch, at_the_end);
}

static size_t waiting(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->queue->lock);
    size_t count = delivery->queue->count;
    pthread_mutex_unlock(&delivery->queue->lock);
    return count;
}

/* Whether some target would be tried now: else what goes to disk anyway goes there in few files. */
static bool some_allowed(const struct mon_delivery *delivery) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        if (mon_breaker_allows(&delivery->targets[i].breaker, mon_monotonic())) {
            return true;
        }
    }
    return false;
}

/* Sends what is due: all full batches, with `everything` also the rest; then what waits on disk. */
static void send_due(struct mon_delivery *delivery, bool everything) {
    size_t size = delivery->settings->batch_size;
    size_t due = 0;
    if (everything) {
        retry_held(delivery);
        report_drops(delivery, false);
        due = waiting(delivery);
    }
    while (!atomic_load(&delivery->closing) && (due > 0 || waiting(delivery) >= size)) {
        struct mon_batch *batches = mon_delivery_take(delivery, some_allowed(delivery) ? size : MON_MAX_BATCH_EVENTS);
        size_t taken = 0;
        while (batches != NULL) {
            struct mon_batch *batch = pop(&batches);
            taken += batch->count;
            deliver(delivery, batch, false);
        }
        due = taken == 0 || taken > due ? 0 : due - taken;
        if (taken == 0 && waiting(delivery) == 0) {
            break;
        }
    }
    for (size_t i = 0; i < delivery->target_count && !atomic_load(&delivery->closing); i++) {
        mon_replay(delivery, &delivery->targets[i]);
        if (delivery->targets[i].type->tick != NULL) {
            delivery->targets[i].type->tick(delivery->targets[i].self);
        }
    }
}

/* The sender's last round: sends what the deadline allows; the rest goes to disk. */
static void finish(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->lock);
    struct mon_batch *held = delivery->held;
    delivery->held = NULL;
    pthread_mutex_unlock(&delivery->lock);
    while (held != NULL) {
        struct mon_batch *batch = pop(&held);
        mon_put_away(delivery, batch, NULL, true);
        mon_batch_finish(delivery, batch);
    }
    report_drops(delivery, true);
    for (;;) {
        struct mon_batch *batches = mon_delivery_take(delivery, delivery->settings->batch_size);
        if (batches == NULL) {
            return;
        }
        while (batches != NULL) {
            deliver(delivery, pop(&batches), true);
        }
    }
}

static void *run_sender(void *data) {
    struct mon_delivery *delivery = data;
    double interval = delivery->settings->flush_interval;
    double due = mon_monotonic() + interval;
    while (!atomic_load(&delivery->closing)) {
        bool more = false;
        for (size_t i = 0; i < delivery->target_count; i++) {
            more |= delivery->targets[i].has_more;
        }
        pthread_mutex_lock(&delivery->lock);
        struct timespec until = mon_moment(due);
        while (!more && !atomic_load(&delivery->signalled) && !atomic_load(&delivery->closing) && mon_monotonic() < due) {
            pthread_cond_timedwait(&delivery->wake, &delivery->lock, &until);
        }
        atomic_store(&delivery->signalled, false);
        bool flush = delivery->flush_asked;
        delivery->flush_asked = false;
        pthread_mutex_unlock(&delivery->lock);
        bool everything = flush || mon_monotonic() >= due;
        if (everything) {
            due = mon_monotonic() + interval;
        }
        send_due(delivery, everything);
    }
    finish(delivery);
    pthread_mutex_lock(&delivery->lock);
    delivery->sender_ended = true;
    pthread_cond_broadcast(&delivery->ended);
    pthread_mutex_unlock(&delivery->lock);
    mon_delivery_release(delivery);
    return NULL;
}

/* Starts a thread that takes no signals of the program's. The delivery's lock is held. */
static bool start_thread(struct mon_delivery *delivery, pthread_t *thread, void *(*run)(void *), const char *name) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(thread, NULL, run, delivery) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        delivery->references++;
        (void)pthread_setname_np(*thread, name);
    }
    return started;
}

bool mon_delivery_start(struct mon_delivery *delivery) {
    pthread_mutex_lock(&delivery->lock);
    bool runs = delivery->sender_started || atomic_load(&delivery->closing);
    if (!runs) {
        runs = delivery->sender_started = start_thread(delivery, &delivery->sender, run_sender, "mon-sender");
    }
    pthread_mutex_unlock(&delivery->lock);
    return runs;
}

void mon_delivery_wake(struct mon_delivery *delivery) {
    if (!atomic_exchange(&delivery->signalled, true)) {
        pthread_mutex_lock(&delivery->lock);
        pthread_cond_broadcast(&delivery->wake);
        pthread_mutex_unlock(&delivery->lock);
    }
}

void mon_delivery_overflow(struct mon_delivery *delivery) {
    if (atomic_exchange(&delivery->spill_asked, true)) {
        return;
    }
    pthread_mutex_lock(&delivery->lock);
    if (!delivery->spiller_started && !atomic_load(&delivery->closing)) {
        delivery->spiller_started = start_thread(delivery, &delivery->spiller, mon_spiller_run, "mon-spiller");
    }
    pthread_cond_broadcast(&delivery->wake);
    pthread_mutex_unlock(&delivery->lock);
}

bool mon_delivery_flush(struct mon_delivery *delivery, double timeout) {
    struct mon_queue *queue = delivery->queue;
    double deadline = mon_monotonic() + timeout;
    pthread_mutex_lock(&queue->lock);
    int64_t mark = mon_queue_mark(queue);
    pthread_mutex_unlock(&queue->lock);
    (void)mon_delivery_start(delivery);
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        bool done = mon_queue_done(queue, mark);
        pthread_mutex_unlock(&queue->lock);
        if (done || mon_monotonic() >= deadline || atomic_load(&delivery->closing)) {
            return done;
        }
        pthread_mutex_lock(&delivery->lock);
        delivery->flush_asked = true;
        atomic_store(&delivery->signalled, true);
        pthread_cond_broadcast(&delivery->wake);
        pthread_mutex_unlock(&delivery->lock);
        pthread_mutex_lock(&queue->lock);
        if (!mon_queue_done(queue, mark)) {
            double until = mon_monotonic() + POLL;
            struct timespec moment = mon_moment(until < deadline ? until : deadline);
            queue->waiters++;
            pthread_cond_timedwait(&queue->change, &queue->lock, &moment);
            queue->waiters--;
        }
        pthread_mutex_unlock(&queue->lock);
    }
}

/* ---------------------------------------------------------------------------------------------------------- counts and bounds */

void mon_delivery_count_drop(struct mon_delivery *delivery, enum mon_drop_reason reason, uint64_t events) {
    pthread_mutex_lock(&delivery->lock);
    delivery->unreported[reason] += events;
    delivery->counts.dropped += events;
    uint64_t *counter = reason == MON_DROP_QUEUE_FULL     ? &delivery->counts.dropped_queue_full
                        : reason == MON_DROP_SPOOL_FAILED ? &delivery->counts.dropped_spool_failed
                                                          : &delivery->counts.dropped_undeliverable;
    *counter += events;
    pthread_mutex_unlock(&delivery->lock);
}

void mon_delivery_stats(struct mon_delivery *delivery, mon_counts *counts) {
    pthread_mutex_lock(&delivery->queue->lock);
    pthread_mutex_lock(&delivery->lock);
    *counts = delivery->counts;
    counts->emitted = (uint64_t)mon_queue_mark(delivery->queue) + (uint64_t)delivery->reports;
    counts->queued = mon_queue_depth(delivery->queue);
    pthread_mutex_unlock(&delivery->lock);
    pthread_mutex_unlock(&delivery->queue->lock);
}

bool mon_delivery_is_full(const struct mon_delivery *delivery) {
    return delivery->queue->count > delivery->settings->max_events || delivery->queue->large > MON_LARGE_SUM;
}

size_t mon_delivery_excess(const struct mon_delivery *delivery) {
    enum { FEW = 16 };
    size_t half = delivery->settings->max_events / 2;
    size_t count = delivery->queue->count;
    if (count > half) {
        return count - half > FEW ? count - half : FEW;
    }
    return delivery->queue->large > MON_LARGE_SUM / 2 ? FEW : 0;
}
