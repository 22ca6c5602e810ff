/* Sending: single attempts and retries; and the replay of what waits on disk, this process's own and what dead ones left. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "aside.h"
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

/* Takes damaged lines out of a file, where each is a delivery of its own backend's, and keeps them aside; false when that fails. In
 * sidecar mode the sidecar does so. */
static bool keep_damaged(struct mon_target *target, struct mon_claim *claim, struct mon_aside *aside) {
    struct mon_batch *damaged;
    if (!target->delivery->settings->direct) {
        return true;
    }
    if (!mon_batch_sort_out(&claim->batches, mon_claim_number(claim), &damaged)) {
        mon_complain(target, ENOMEM);
        return false;
    }
    if (damaged == NULL) {
        return true;
    }
    mon_aside_add_damaged(aside, target->counts.name, damaged);
    mon_batch_release(damaged);
    return mon_aside_keep(aside, target, mon_claim_name(claim));
}

/* Tries a batch of a file; what is never taken is put aside in direct mode. */
static void send_batch(struct mon_target *target, const struct mon_batch *batch, struct mon_answer *answer, struct mon_aside *aside, struct tally *tally) {
    bool direct = target->delivery->settings->direct;
    struct mon_buf refused = {0};
    *answer = (struct mon_answer){.refused = &refused};
    mon_delivery_send(target, batch, 1, answer);
    bool halves = answer->result == MON_TOO_LARGE && batch->count > 1;
    if (answer->result == MON_ACCEPTED) {
        if (target->type->names_refused) {
            mon_aside_add_refused(aside, target->counts.name, batch, answer);
        } else {
            mon_note_rejections(target, batch, answer);
        }
        tally->taken += batch->count - answer->rejected;
        tally->rejected += answer->rejected;
    } else if (direct && !halves && (answer->result == MON_REFUSED || answer->result == MON_TOO_LARGE)) {
        mon_aside_add_all(aside, target->counts.name, batch, answer->detail);
        tally->failed += batch->count;
        answer->result = MON_ACCEPTED; /* the target is done with it */
    }
    answer->refused = NULL;
    mon_buf_free(&refused);
}

/* Ends a file with which the target is done: what it refused is written before the file is gone. */
static void finish_file(struct mon_target *target, struct mon_claim *claim, const struct mon_aside *aside, size_t damaged) {
    bool kept = aside->count == damaged || mon_aside_keep(aside, target, mon_claim_name(claim));
    if (aside->count > 0) {
        mon_aside_tell(aside, target, kept);
    }
    if (kept) {
        mon_claim_done(claim);
    } else {
        mon_claim_refuse(claim); /* whole, which needs no room */
    }
}

/* Sends one file; whether the target took it or never will. */
static bool send_file(struct mon_target *target, struct mon_claim *claim) {
    struct tally tally = {0};
    struct mon_aside aside = {0};
    bool going = keep_damaged(target, claim, &aside);
    size_t damaged = aside.count;
    bool refused = false;
    for (struct mon_batch *batch = claim->batches; batch != NULL && going && !refused; batch = batch->next) {
        struct mon_answer answer;
        struct mon_batch *halves[2];
        if (batch->count == 0) {
            continue;
        }
        send_batch(target, batch, &answer, &aside, &tally);
        if (answer.result == MON_TOO_LARGE && batch->count > 1 && mon_batch_halves(batch, halves)) {
            halves[0]->next = halves[1]; /* in its place: this one is empty from now on, and the loop goes on with them */
            halves[1]->next = batch->next;
            batch->next = halves[0];
            batch->count = 0;
        } else if (answer.result == MON_REFUSED || answer.result == MON_TOO_LARGE) {
            mon_log(MON_SEVERE, "%s refused %s for good: %s", target->counts.name, mon_claim_name(claim), answer.detail);
            tally.failed = events_from(batch);
            refused = true;
        } else {
            going = answer.result == MON_ACCEPTED;
        }
    }
    if (refused) {
        mon_claim_refuse(claim);
    } else if (going) {
        tally.failed += damaged;
        finish_file(target, claim, &aside, damaged);
    } else {
        mon_claim_return(claim);
    }
    if (going) {
        count(target, &tally);
    }
    mon_aside_free(&aside);
    return going;
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
