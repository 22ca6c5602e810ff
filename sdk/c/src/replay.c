/* Sending: single attempts and retries; and the replay of what waits on disk, this process's own and what dead ones left. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "delivery.h"
#include "log.h"

static const double LONGEST_WAIT = 10;     /* a backend that asks for more is left alone, and its batch goes to disk meanwhile */
static const double ORPHAN_INTERVAL = 15;  /* how often to look for what others left, in seconds */
enum { FILES_AT_ONCE = 20 };

/* Sleeps; false when the SDK is closing. */
static bool pause_for(struct mon_delivery *delivery, double seconds) {
    double until = mon_monotonic() + seconds;
    struct timespec moment = mon_moment(until);
    pthread_mutex_lock(&delivery->lock);
    while (!atomic_load(&delivery->closing) && mon_monotonic() < until) {
        pthread_cond_timedwait(&delivery->wake, &delivery->lock, &moment);
    }
    pthread_mutex_unlock(&delivery->lock);
    return !atomic_load(&delivery->closing);
}

void mon_delivery_send(struct mon_target *target, const struct mon_batch *batch, int attempts, struct mon_answer *answer) {
    struct mon_delivery *delivery = target->delivery;
    for (int attempt = 0; attempt < attempts; attempt++) {
        double timeout = target->timeout;
        if (atomic_load(&delivery->closing)) {
            double rest = delivery->deadline - mon_monotonic();
            rest = rest < 0.05 ? 0.05 : rest;
            timeout = rest < timeout ? rest : timeout;
        }
        *answer = (struct mon_answer){.retry_after = -1, .refused = answer->refused};
        if (answer->refused != NULL) {
            answer->refused->len = 0;
        }
        target->type->send(target->self, batch, timeout, answer);
        if (answer->result != MON_RETRY && answer->result != MON_KEEP) {
            atomic_store(&target->troubled, false);
            if (mon_breaker_succeeded(&target->breaker)) {
                mon_log(MON_INFO, "%s takes events again", target->counts.name);
                pthread_mutex_lock(&delivery->lock);
                target->counts.trouble[0] = '\0';
                pthread_mutex_unlock(&delivery->lock);
            }
            return;
        }
        if (answer->result == MON_KEEP || attempt + 1 == attempts) {
            break;
        }
        double backoff = mon_backoff((unsigned)attempt, &target->random);
        double wait = answer->retry_after > backoff ? answer->retry_after : backoff;
        if (wait > LONGEST_WAIT || !pause_for(delivery, wait)) {
            break;
        }
    }
    bool was_closed = mon_breaker_failed(&target->breaker, mon_monotonic(), answer->retry_after, &target->random);
    atomic_store(&target->troubled, true);
    pthread_mutex_lock(&delivery->lock);
    snprintf(target->counts.trouble, sizeof target->counts.trouble, "%.190s", answer->detail);
    pthread_mutex_unlock(&delivery->lock);
    if (was_closed && !atomic_load(&delivery->closing)) {
        bool sidecar = !delivery->settings->direct;
        mon_log(MON_WARNING, "%s%s does not take events (%s); they wait in %s", sidecar ? "the sidecar at " : "the backend ",
                sidecar ? delivery->settings->url : target->counts.name, answer->detail,
                target->spool != NULL ? mon_spool_folder(target->spool) : "memory");
    }
}

void mon_note_rejections(struct mon_target *target, const struct mon_batch *batch, const struct mon_answer *answer) {
    if (answer->rejected == 0) {
        return;
    }
    const char *where = strcmp(target->type->name, "sidecar") == 0 ? " and keeps them in quarantine" : " for good";
    if (target->type->names_refused && target->spool != NULL && mon_keep_refused(target, batch, answer)) {
        where = " for good, kept as *.refused in ";
    }
    bool kept = where[strlen(where) - 1] == ' ';
    mon_log(MON_WARNING, "%s refused %zu event(s)%s%s; the first: %s", target->counts.name, answer->rejected, where,
            kept ? mon_spool_folder(target->spool) : "", answer->first_rejected);
}

static size_t events_from(const struct mon_batch *batch) {
    size_t sum = 0;
    for (; batch != NULL; batch = batch->next) {
        sum += batch->count;
    }
    return sum;
}

struct tally {
    size_t taken;
    size_t rejected;
    size_t failed;
};

static void count(struct mon_target *target, const struct tally *tally) {
    struct mon_delivery *delivery = target->delivery;
    pthread_mutex_lock(&delivery->lock);
    delivery->counts.replayed += tally->taken;
    size_t rejected = target->type->names_refused ? 0 : tally->rejected;
    size_t failed = tally->failed + tally->rejected - rejected;
    delivery->counts.rejected += rejected;
    delivery->counts.failed += failed;
    target->counts.replayed += tally->taken;
    target->counts.rejected += rejected;
    target->counts.failed += failed;
    pthread_mutex_unlock(&delivery->lock);
}

/* Sends one file; whether the target took it or never will. */
static bool send_file(struct mon_target *target, struct mon_claim *claim) {
    struct tally tally = {0};
    for (struct mon_batch *batch = claim->batches; batch != NULL; batch = batch->next) {
        struct mon_buf refused = {0};
        struct mon_answer answer = {.refused = &refused};
        mon_delivery_send(target, batch, 1, &answer);
        if (answer.result == MON_ACCEPTED) {
            mon_note_rejections(target, batch, &answer);
        }
        mon_buf_free(&refused);
        struct mon_batch *halves[2];
        if (answer.result == MON_TOO_LARGE && batch->count > 1 && mon_batch_halves(batch, halves)) {
            halves[0]->next = halves[1]; /* in its place: this one is empty from now on, and the loop goes on with them */
            halves[1]->next = batch->next;
            batch->next = halves[0];
            batch->count = 0;
            continue;
        }
        if (answer.result == MON_REFUSED || answer.result == MON_TOO_LARGE) {
            mon_log(MON_SEVERE, "%s refused %s for good: %s", target->counts.name, strrchr(claim->base, '/') + 1, answer.detail);
            tally.failed = events_from(batch);
            mon_claim_refuse(claim);
            count(target, &tally);
            return true;
        }
        if (answer.result != MON_ACCEPTED) {
            mon_claim_return(claim);
            return false;
        }
        tally.taken += batch->count - answer.rejected;
        tally.rejected += answer.rejected;
    }
    mon_claim_done(claim);
    count(target, &tally);
    return true;
}

/* Whether there is something to do that goes before what waits on disk. */
static bool busy(const struct mon_target *target) {
    struct mon_delivery *delivery = target->delivery;
    pthread_mutex_lock(&delivery->queue->lock);
    bool full = delivery->alone && delivery->queue->count >= delivery->settings->batch_size; /* else the sender sees to it */
    pthread_mutex_unlock(&delivery->queue->lock);
    pthread_mutex_lock(&delivery->lock);
    bool waits = target->backlog != NULL;
    pthread_mutex_unlock(&delivery->lock);
    return full || waits || atomic_load(&delivery->closing);
}

void mon_replay(struct mon_target *target) {
    const struct mon_delivery *delivery = target->delivery;
    target->has_more = false;
    double now = mon_monotonic();
    if (target->spool == NULL || !mon_breaker_allows(&target->breaker, now)) {
        return;
    }
    struct mon_names names = {0};
    int error = 0;
    if (now >= target->next_orphans) {
        target->next_orphans = now + ORPHAN_INTERVAL;
        error = mon_spool_orphans(target->spool, &names);
    }
    if (error == 0) {
        error = mon_spool_own(target->spool, &names);
    }
    for (size_t i = 0; i < names.count && error == 0; i++) {
        if (i == FILES_AT_ONCE || busy(target)) {
            target->has_more = !atomic_load(&delivery->closing);
            target->next_orphans = now;
            break;
        }
        struct mon_claim claim;
        error = mon_spool_claim(target->spool, names.list[i], &claim);
        if (error == ENOENT) {
            error = 0;
        } else if (error == 0 && !send_file(target, &claim)) {
            break;
        }
    }
    if (error != 0) {
        mon_log(MON_WARNING, "can't replay from %s now: %s", mon_spool_folder(target->spool), strerror(error));
    }
    mon_names_free(&names);
}
