/* The calls that begin, end and measure. */
#include "client.h"
#include "error.h"
#include "log.h"

static const double CLOSE_GRACE = 1; /* how long `close` goes on sending; what is left then goes to disk */


mon_status mon_initialize(const mon_config *config) {
    mon_client_prepare();
    struct mon_settings *settings = mon_settings_load(config);
    if (settings == NULL) {
        return mon_error_status();
    }
    mon_client_close();
    struct mon_delivery *delivery = mon_delivery_new(settings, &mon_client.queue);
    if (delivery == NULL) {
        mon_settings_free(settings);
        return mon_error_set(MON_ERR_MEMORY, "", "out of memory for the SDK");
    }
    mon_lifecycle_install();
    struct mon_queue *queue = &mon_client.queue;
    pthread_mutex_lock(&queue->lock);
    mon_queue_empty(queue);
    queue->seq = 0;
    queue->taken = 0;
    mon_client.delivery = delivery;
    mon_client.notice = 1;
    pthread_mutex_unlock(&queue->lock);
    mon_crash_install();
    /* At once, so that what a process before this one left on disk is sent even before the first event. */
    if (!mon_delivery_start(delivery)) {
        mon_log(MON_WARNING, "the system refuses a thread now; the first events try again");
    } else {
        pthread_mutex_lock(&queue->lock);
        mon_client.notice = settings->batch_size < settings->max_events * 3 / 4 ? settings->batch_size : settings->max_events * 3 / 4;
        mon_client.notice = mon_client.notice == 0 ? 1 : mon_client.notice;
        pthread_mutex_unlock(&queue->lock);
    }
    return MON_OK;
}

void mon_client_close(void) {
    struct mon_queue *queue = &mon_client.queue;
    pthread_mutex_lock(&queue->lock);
    struct mon_delivery *delivery = mon_client.delivery;
    mon_client.delivery = NULL;
    mon_client.retired = delivery;
    pthread_mutex_unlock(&queue->lock);
    if (delivery == NULL) {
        return;
    }
    mon_delivery_close(delivery, CLOSE_GRACE);
    mon_counts counts;
    mon_delivery_stats(delivery, &counts);
    pthread_mutex_lock(&queue->lock);
    mon_client.last = counts;
    mon_client.retired = NULL;
    bool idle = queue->takings == NULL && queue->hand == NULL;
    if (idle) {
        mon_queue_empty(queue);
    }
    pthread_mutex_unlock(&queue->lock);
    mon_crash_uninstall();
    mon_log(counts.dropped + counts.failed > 0 ? MON_WARNING : MON_INFO,
            "closed; emitted=%llu sent=%llu spooled=%llu replayed=%llu rejected=%llu failed=%llu dropped=%llu queued=%llu",
            (unsigned long long)counts.emitted, (unsigned long long)counts.sent, (unsigned long long)counts.spooled,
            (unsigned long long)counts.replayed, (unsigned long long)counts.rejected, (unsigned long long)counts.failed,
            (unsigned long long)counts.dropped, (unsigned long long)counts.queued);
    mon_delivery_release(delivery);
}

mon_status mon_close(void) {
    mon_client_prepare();
    mon_client_close();
    return MON_OK;
}

/* The running delivery, which the caller releases; NULL when nothing runs. */
static struct mon_delivery *running(void) {
    mon_client_prepare();
    pthread_mutex_lock(&mon_client.queue.lock);
    struct mon_delivery *delivery = mon_client.delivery;
    if (delivery != NULL) {
        mon_delivery_hold(delivery);
    }
    pthread_mutex_unlock(&mon_client.queue.lock);
    return delivery;
}

mon_status mon_flush(double timeout) {
    struct mon_delivery *delivery = running();
    if (delivery == NULL) {
        return mon_client_not_running("mon_flush()");
    }
    bool done = mon_delivery_flush(delivery, timeout);
    mon_delivery_release(delivery);
    return done ? MON_OK : MON_TIMEOUT;
}

mon_status mon_stats(mon_counts *counts) {
    if (counts == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected room for the counts, got NULL");
    }
    struct mon_delivery *delivery = running();
    if (delivery == NULL) {
        pthread_mutex_lock(&mon_client.queue.lock);
        *counts = mon_client.last;
        pthread_mutex_unlock(&mon_client.queue.lock);
        return MON_OK;
    }
    mon_delivery_stats(delivery, counts);
    mon_delivery_release(delivery);
    return MON_OK;
}

size_t mon_backend_count(void) {
    struct mon_delivery *delivery = running();
    size_t count = 0;
    if (delivery != NULL) {
        count = delivery->target_count;
        mon_delivery_release(delivery);
    }
    return count;
}

mon_status mon_backend_stats(size_t index, mon_backend_counts *counts) {
    struct mon_delivery *delivery = running();
    if (delivery == NULL) {
        return mon_client_not_running("mon_backend_stats()");
    }
    mon_status status = MON_OK;
    if (counts == NULL || index >= delivery->target_count) {
        status = mon_error_set(MON_ERR_ARGUMENT, "", "there are %zu backends, and no number %zu", delivery->target_count, index);
    } else {
        pthread_mutex_lock(&delivery->lock);
        *counts = delivery->targets[index].counts;
        pthread_mutex_unlock(&delivery->lock);
    }
    mon_delivery_release(delivery);
    return status;
}

const char *mon_status_text(mon_status status) {
    switch (status) {
    case MON_OK: return "done";
    case MON_TIMEOUT: return "not in time";
    case MON_ERR_EVENT: return "invalid event";
    case MON_ERR_CONFIG: return "wrong configuration";
    case MON_ERR_STATE: return "not initialized";
    case MON_ERR_ARGUMENT: return "wrong argument";
    case MON_ERR_MEMORY: return "out of memory";
    case MON_ERR_SYSTEM: return "refused by the system";
    }
    return "unknown status";
}
