/* A delivery as the client sees it: made, started, flushed, counted. */
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
#include "sha256.h"
#include "text.h"

static const double POLL = 0.02;
enum { PROGRAM_CHARACTERS = 80 }; /* of a program's name, at most so many stand in a folder's */

/* -------------------------------------------------------------------------------------------------------------- made and freed */

static void init_condition(pthread_cond_t *condition) {
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &clock);
    pthread_condattr_destroy(&clock);
}

/* Adds the part of a spool folder's name that is this program's own in direct mode, as SPOOL_FORMAT.md has it: nobody else may send
 * these events, since another program's backend of that name may be elsewhere. */
static void add_program(struct mon_buf *folder, const struct mon_settings *settings) {
    struct mon_buf identity = {0};
    char digest[MON_SHA256_HEX];
    mon_buf_add(&identity, settings->site_id, strlen(settings->site_id) + 1);
    mon_buf_text(&identity, settings->app_name);
    folder->failed |= identity.failed;
    mon_sha256_hex(identity.data, identity.len, digest);
    mon_buf_free(&identity);
    size_t characters = 0;
    for (const char *at = settings->app_name; *at != '\0' && characters < PROGRAM_CHARACTERS; at++) {
        if (((unsigned char)*at & 0xC0) != 0x80) { /* the first byte of a character */
            bool plain = (*at >= '0' && *at <= '9') || (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z') || *at == '-';
            mon_buf_char(folder, plain ? *at : '_');
            characters++;
        }
    }
    mon_buf_format(folder, "-%.8s", digest);
}

/* Opens the backend of that number, after those of better priority; false without memory. */
static bool open_target(struct mon_delivery *delivery, size_t index) {
    const struct mon_settings *settings = delivery->settings;
    const struct mon_backend_settings *backend = &settings->backends[index];
    struct mon_target *target = &delivery->targets[index];
    *target = (struct mon_target){.delivery = delivery, .type = mon_backend_type_of(backend->type), .index = index, .bit = 1U << index};
    target->fallback = backend->fallback;
    target->timeout = backend->timeout;
    for (size_t i = 0; i < index && target->fallback; i++) {
        target->better |= settings->backends[i].priority < backend->priority ? delivery->targets[i].bit : 0;
    }
    *(target->fallback ? &delivery->fallbacks : &delivery->always) |= target->bit;
    snprintf(target->counts.name, sizeof target->counts.name, "%s", backend->name);
    snprintf(target->counts.type, sizeof target->counts.type, "%s", backend->type);
    mon_random(&target->random, sizeof target->random);
    init_condition(&target->change);
    pthread_mutex_init(&target->putting, NULL);
    target->self = target->type->open(settings, backend);
    delivery->target_count++;
    if (target->self == NULL || !settings->spooling) {
        return target->self != NULL;
    }
    struct mon_buf folder = {0};
    mon_buf_text(&folder, settings->spool_dir);
    if (settings->direct) { /* a folder of its own: what waits for one backend is nothing for the others */
        mon_buf_text(&folder, "/direct/");
        add_program(&folder, settings);
        mon_buf_format(&folder, "/%s", backend->name);
    }
    const char *name = mon_buf_string(&folder);
    target->spool = name == NULL ? NULL : mon_spool_new(name, delivery->origin.emitter_id);
    mon_buf_free(&folder);
    return target->spool != NULL;
}

static void destroy(struct mon_delivery *delivery) {
    for (size_t i = 0; i < delivery->target_count; i++) {
        struct mon_target *target = &delivery->targets[i];
        mon_lane_empty(target);
        if (target->self != NULL) {
            target->type->close(target->self);
        }
        if (target->spool != NULL) {
            mon_spool_close(target->spool);
            mon_spool_free(target->spool);
        }
        pthread_cond_destroy(&target->change);
        pthread_mutex_destroy(&target->putting);
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
    pthread_mutex_init(&delivery->lock, NULL);
    init_condition(&delivery->wake);
    init_condition(&delivery->ended);
    fill_app(delivery);
    delivery->targets = calloc(settings->backend_count, sizeof *delivery->targets);
    bool whole = delivery->targets != NULL && !delivery->site.failed && !delivery->app.failed;
    for (size_t i = 0; whole && i < settings->backend_count; i++) {
        whole = open_target(delivery, i);
    }
    delivery->alone = settings->backend_count == 1;
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

/* --------------------------------------------------------------------------------------------------------------- the threads */

/* Starts a thread that takes no signals of the program's. The delivery's lock is held. */
static bool start(struct mon_delivery *delivery, struct mon_worker *worker, void *(*run)(void *), void *data, const char *name) {
    if (worker->started) {
        return true;
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    worker->started = pthread_create(&worker->thread, NULL, run, data) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (worker->started) {
        delivery->references++;
        (void)pthread_setname_np(worker->thread, name);
    }
    return worker->started;
}

bool mon_delivery_start(struct mon_delivery *delivery) {
    bool runs = true;
    pthread_mutex_lock(&delivery->lock);
    if (!atomic_load(&delivery->closing)) {
        for (size_t i = 0; runs && !delivery->alone && i < delivery->target_count; i++) {
            char name[16];
            snprintf(name, sizeof name, "mon-%.11s", delivery->targets[i].counts.name);
            runs = start(delivery, &delivery->targets[i].lane, mon_lane_run, &delivery->targets[i], name);
        }
        runs = runs && start(delivery, &delivery->sender, mon_sender_run, delivery, "mon-sender");
        atomic_store(&delivery->started, runs);
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
    if (!atomic_load(&delivery->closing)) {
        (void)start(delivery, &delivery->spiller, mon_spiller_run, delivery, "mon-spiller");
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
        mon_batch_address(delivery, batch);
    }
    pthread_mutex_lock(&queue->lock);
    mon_queue_release(queue, &taking, batches);
    pthread_mutex_unlock(&queue->lock);
    if (lost > 0) {
        mon_delivery_count_drop(delivery, MON_DROP_UNDELIVERABLE, lost);
    }
    return batches;
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
