/* Emitting: an event is stamped and put on the queue under one short lock. */
#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "error.h"
#include "log.h"
#include "number.h"
#include "thread.h"

static const double PATIENCE = 1;    /* how long an emit waits for the disk when the queue is full and `on_full` is `spool` */
enum { PARTS = 16 };

struct mon_client mon_client;

static pthread_once_t client_once = PTHREAD_ONCE_INIT;
static _Atomic(mon_trace_source) trace_source;
static void *trace_data;

static void prepare(void) {
    mon_queue_init(&mon_client.queue);
}

void mon_client_prepare(void) {
    (void)pthread_once(&client_once, prepare);
}

void mon_set_trace_source(mon_trace_source source, void *data) {
    trace_data = data;
    atomic_store(&trace_source, source);
}

unsigned mon_client_forks(void) {
    return mon_client.fork_count;
}

/* ------------------------------------------------------------------------------------------------------------- near the bound */

static void make_room(struct mon_delivery *delivery) {
    struct mon_queue *queue = &mon_client.queue;
    double deadline = mon_monotonic() + PATIENCE;
    uint64_t dropped = 0;
    enum mon_drop_reason reason = MON_DROP_QUEUE_FULL;
    pthread_mutex_lock(&queue->lock);
    while (mon_client.delivery == delivery && mon_delivery_is_full(delivery)) {
        bool failing = atomic_load(&delivery->disk_failing);
        bool drop = delivery->on_full == MON_FULL_DROP_OLDEST ||
                    (delivery->on_full == MON_FULL_SPOOL && (failing || mon_monotonic() > deadline));
        if (drop) {
            reason = failing && delivery->on_full == MON_FULL_SPOOL ? MON_DROP_SPOOL_FAILED : MON_DROP_QUEUE_FULL;
            while (queue->count > 0 && mon_delivery_is_full(delivery)) {
                mon_queue_drop(queue);
                dropped++;
            }
            break;
        }
        struct timespec moment = mon_moment(mon_monotonic() + 0.02);
        queue->waiters++;
        pthread_cond_timedwait(&queue->change, &queue->lock, &moment);
        queue->waiters--;
    }
    if (dropped > 0) {
        mon_delivery_count_drop(delivery, reason, dropped);
    }
    pthread_mutex_unlock(&queue->lock);
}

/* What an event finds when it comes into a queue that wants attention. */
struct attention {
    struct mon_delivery *delivery; /* NULL: none is wanted */
    bool start;
    bool wake;
    bool overflow;
    bool full;
};

/* With the queue's lock held. */
static void look(struct attention *attention, bool large) {
    struct mon_delivery *delivery = mon_client.delivery;
    const struct mon_queue *queue = &mon_client.queue;
    if (!large && queue->count < mon_client.notice) {
        return;
    }
    size_t high_water = delivery->settings->max_events * 3 / 4;
    attention->start = mon_client.notice == 1 && !atomic_load(&delivery->started);
    bool high = queue->count >= (high_water > 0 ? high_water : 1) || queue->large > MON_LARGE_SUM / 2;
    attention->wake = high || queue->count >= delivery->settings->batch_size || large;
    attention->overflow = high && delivery->on_full == MON_FULL_SPOOL;
    attention->full = high && mon_delivery_is_full(delivery);
    bool told = atomic_load_explicit(&delivery->signalled, memory_order_relaxed);
    if (attention->start || attention->full || (attention->overflow && !atomic_load(&delivery->spill_asked)) || (attention->wake && !told)) {
        attention->delivery = delivery;
        mon_delivery_hold(delivery);
    }
}

static void attend(const struct attention *attention) {
    struct mon_delivery *delivery = attention->delivery;
    if (attention->start && mon_delivery_start(delivery)) {
        pthread_mutex_lock(&mon_client.queue.lock);
        if (mon_client.delivery == delivery) {
            size_t high_water = delivery->settings->max_events * 3 / 4;
            size_t size = delivery->settings->batch_size;
            mon_client.notice = high_water > 0 && high_water < size ? high_water : size;
        }
        pthread_mutex_unlock(&mon_client.queue.lock);
    }
    if (attention->wake) {
        mon_delivery_wake(delivery);
    }
    if (attention->overflow) {
        mon_delivery_overflow(delivery);
    }
    if (attention->full) {
        make_room(delivery);
    }
    mon_delivery_release(delivery);
}

/* ------------------------------------------------------------------------------------------------------------------- emitting */

struct assembly {
    struct mon_part parts[PARTS];
    size_t count;
    size_t len;
};

static inline void add(struct assembly *assembly, const char *text, size_t len) {
    if (len > 0) {
        assembly->parts[assembly->count++] = (struct mon_part){text, len};
        assembly->len += len;
    }
}

static void add_table(struct assembly *assembly, const char *opening, size_t opening_len, const struct mon_buf *text) {
    add(assembly, opening, opening_len);
    add(assembly, text->data, text->len > 0 ? text->len - 1 : 0); /* without the last comma */
    add(assembly, "},", 2);
}

/* Adds the entities of the run that the event has not given itself. */
static void inherit(struct mon_event *event, const struct mon_table *entities) {
    struct mon_table *own = &event->entities;
    for (size_t i = 0; i < entities->count; i++) {
        const char *entry = entities->text.data + entities->entries[i].start;
        size_t end = i + 1 < entities->count ? entities->entries[i + 1].start : entities->text.len;
        if (!mon_table_has(own, entry, entities->entries[i].key_len)) {
            mon_buf_add(&own->text, entry, end - entities->entries[i].start);
        }
    }
}

static void ask_for_trace(struct mon_event *event) {
    mon_trace_source source = atomic_load_explicit(&trace_source, memory_order_relaxed);
    if (source == NULL || (event->given & (1U << MON_F_TRACE_ID | 1U << MON_F_SPAN_ID))) {
        return;
    }
    char trace_id[33] = "";
    char span_id[17] = "";
    if (source(trace_id, span_id, trace_data)) {
        trace_id[32] = span_id[16] = '\0';
        if (mon_is_hex(trace_id, strlen(trace_id), 32) && mon_is_hex(span_id, strlen(span_id), 16)) {
            mon_event_trace(event, trace_id, span_id);
        }
    }
}

/* The fields of an event but for site and app; those of the run, and its own. */
static void assemble(struct assembly *assembly, struct mon_event *event, const struct mon_context *context) {
    unsigned given = event->given;
    if (context != NULL && !(given & (1U << MON_F_RUN_ID))) {
        add(assembly, context->run.data, context->run.len);
        if (!(given & (1U << MON_F_PARENT_RUN_ID))) {
            add(assembly, context->parent.data, context->parent.len);
        }
    }
    add(assembly, event->text.data, event->text.len);
    bool inherited = context != NULL && context->entities.count > 0;
    if (given & (1U << MON_F_ENTITIES)) {
        if (inherited) {
            inherit(event, &context->entities);
        }
        add_table(assembly, "\"entities\":{", 12, &event->entities.text);
    } else if (inherited) {
        add_table(assembly, "\"entities\":{", 12, &context->entities.text);
    }
    if (given & (1U << MON_F_METRICS)) {
        add_table(assembly, "\"metrics\":{", 11, &event->metrics.text);
    }
    if (given & (1U << MON_F_ATTRIBUTES)) {
        add_table(assembly, "\"attributes\":{", 14, &event->attributes.text);
    }
}

/* The bytes that the event will have, at most. */
static size_t size_of(const struct assembly *assembly) {
    size_t size = assembly->len + MON_HEAD;
    if (size > MON_MAX_EVENT / 4) {
        for (size_t i = 0; i < assembly->count; i++) {
            const char *at = assembly->parts[i].text;
            const char *end = at + assembly->parts[i].len;
            while (at < end && (at = memchr(at, MON_NUMBER_MARK, (size_t)(end - at))) != NULL) {
                size += MON_NUMBER_TEXT - 9;
                at += 9;
            }
        }
    }
    return size;
}

mon_status mon_client_not_running(const char *call) {
    return mon_error_set(MON_ERR_STATE, "", "%s needs a running SDK: call mon_initialize() first, and mon_close() only at the end", call);
}

/* Puts a complete event on the queue. */
static mon_status put(struct mon_event *event, const struct mon_context *context, char *id) {
    struct assembly assembly = {.count = 2, .len = 0};
    assemble(&assembly, event, context);
    struct mon_queue *queue = &mon_client.queue;
    struct attention attention = {0};
    struct mon_record stamps = {0};
    struct mon_id_source ids = {.tail = ""};
    mon_status status = MON_OK;
    pthread_mutex_lock(&queue->lock);
    const struct mon_delivery *delivery = mon_client.delivery;
    if (delivery == NULL) {
        status = MON_ERR_STATE;
    } else {
        assembly.parts[0] = (struct mon_part){delivery->site.data, event->given & (1U << MON_F_SITE_ID) ? 0 : delivery->site.len};
        assembly.parts[1] = (struct mon_part){delivery->app.data, event->given & (1U << MON_F_APP) ? 0 : delivery->app.len};
        assembly.len += assembly.parts[0].len + assembly.parts[1].len;
        uint32_t flags = (event->given & (1U << MON_F_EVENT_ID) ? MON_RECORD_HAS_ID : 0U) |
                         (event->given & (1U << MON_F_TIMESTAMP) ? MON_RECORD_HAS_TIME : 0U);
        if (size_of(&assembly) > MON_MAX_EVENT) {
            status = MON_ERR_EVENT;
        } else if (!mon_queue_put(queue, assembly.parts, assembly.count, assembly.len, flags, &stamps)) {
            status = MON_ERR_MEMORY;
        } else {
            look(&attention, assembly.len > MON_LARGE);
            if (id != NULL) {
                ids = delivery->origin.ids;
            }
        }
    }
    pthread_mutex_unlock(&queue->lock);
    if (__builtin_expect(attention.delivery != NULL, 0)) {
        attend(&attention);
    }
    if (status == MON_OK && id != NULL) {
        if (event->event_id[0] != '\0') {
            memcpy(id, event->event_id, MON_ID_SIZE);
        } else {
            mon_id_write(&ids, id, stamps.id_millis, stamps.seq);
        }
    }
    if (status == MON_ERR_STATE) {
        return mon_client_not_running("an emit");
    }
    if (status == MON_ERR_EVENT) {
        return mon_error_set(status, "", "invalid event: the event has more than %d bytes; keep large data elsewhere and send its address", MON_MAX_EVENT);
    }
    return status == MON_OK ? MON_OK : mon_error_set(status, "", "out of memory for an event");
}

static const struct mon_context *current(void) {
    const struct mon_thread *thread = mon_thread();
    return thread == NULL || thread->innermost == NULL ? NULL : thread->innermost->context;
}

mon_status mon_client_emit(struct mon_event *event, const struct mon_context *context, char *id) {
    mon_client_prepare();
    ask_for_trace(event);
    mon_status status = mon_event_complete(event);
    if (status == MON_OK) {
        status = put(event, context, id);
    }
    mon_event_free(event);
    return status;
}

static mon_status emit_here(mon_event *event, char *event_id) {
    if (event == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected an event, got NULL");
    }
    return mon_client_emit(event, current(), event_id);
}

mon_status mon_emit_id(mon_event *event, char event_id[MON_ID_SIZE]) {
    return emit_here(event, event_id);
}

mon_status mon_emit(mon_event *event) {
    return emit_here(event, NULL);
}

/* Whether every one of these is right, and small enough; what is not is the thread's error, with its place. */
static mon_status check_all(mon_event *const *events, size_t count, const struct mon_context *context) {
    for (size_t i = 0; i < count; i++) {
        mon_status status;
        if (events[i] == NULL) {
            status = mon_error_set(MON_ERR_ARGUMENT, "", "expected an event, got NULL");
        } else {
            ask_for_trace(events[i]);
            status = mon_event_complete(events[i]);
        }
        if (status == MON_OK) {
            struct assembly assembly = {.count = 0};
            struct mon_event *event = events[i];
            assemble(&assembly, event, context);
            if (size_of(&assembly) + 2048 > MON_MAX_EVENT) {
                status = mon_error_set(MON_ERR_EVENT, "", "invalid event: the event has more than %d bytes", MON_MAX_EVENT);
            }
        }
        if (status != MON_OK) {
            char place[32];
            snprintf(place, sizeof place, "[%zu]", i);
            mon_error_prefix(place);
            return status;
        }
    }
    return MON_OK;
}

mon_status mon_emit_batch_ids(mon_event *const *events, size_t count, char (*event_ids)[MON_ID_SIZE]) {
    if (events == NULL && count > 0) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected events, got NULL");
    }
    mon_client_prepare();
    pthread_mutex_lock(&mon_client.queue.lock);
    bool running = mon_client.delivery != NULL;
    pthread_mutex_unlock(&mon_client.queue.lock);
    const struct mon_context *context = current();
    mon_status status = running ? check_all(events, count, context) : mon_client_not_running("mon_emit_batch()");
    for (size_t i = 0; i < count; i++) {
        if (status == MON_OK) {
            status = put(events[i], context, event_ids == NULL ? NULL : event_ids[i]);
        }
        mon_event_free(events[i]);
    }
    return status;
}

mon_status mon_emit_batch(mon_event *const *events, size_t count) {
    return mon_emit_batch_ids(events, count, NULL);
}

static mon_status not_json(const struct mon_json_document *document) {
    return mon_error_set(MON_ERR_EVENT, "", "invalid event: not valid JSON: %s (at byte %zu)", document->error, document->error_at);
}

mon_status mon_emit_json_id(const char *text, size_t length, char *event_id) {
    if (text == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected an event as JSON, got NULL");
    }
    struct mon_json_document document;
    mon_status status;
    if (!mon_json_parse(&document, text, length)) {
        status = not_json(&document);
    } else {
        struct mon_event *event = mon_event_from_json(document.root);
        status = event == NULL ? MON_ERR_MEMORY : emit_here(event, event_id);
    }
    mon_json_free(&document);
    return status;
}

mon_status mon_emit_json(const char *text, size_t length) {
    return mon_emit_json_id(text, length, NULL);
}

static mon_status emit_list(const struct mon_json *list, char (*event_ids)[MON_ID_SIZE], size_t room, size_t *count) {
    size_t many = 0;
    for (const struct mon_json *entry = list->child; entry != NULL; entry = entry->next) {
        many++;
    }
    struct mon_event **events = calloc(many + 1, sizeof *events);
    char(*ids)[MON_ID_SIZE] = calloc(many + 1, sizeof *ids);
    mon_status status = events == NULL || ids == NULL ? mon_error_set(MON_ERR_MEMORY, "", "out of memory for a batch") : MON_OK;
    size_t made = 0;
    for (const struct mon_json *entry = list->child; status == MON_OK && entry != NULL; entry = entry->next) {
        events[made++] = mon_event_from_json(entry);
    }
    if (status == MON_OK) {
        status = mon_emit_batch_ids(events, made, ids);
    }
    if (status == MON_OK && event_ids != NULL) {
        memcpy(event_ids, ids, (many < room ? many : room) * sizeof *ids);
    }
    if (count != NULL) {
        *count = status == MON_OK ? many : 0;
    }
    free(events);
    free(ids);
    return status;
}

mon_status mon_emit_batch_json(const char *text, size_t length, char (*event_ids)[MON_ID_SIZE], size_t room, size_t *count) {
    if (text == NULL) {
        return mon_error_set(MON_ERR_ARGUMENT, "", "expected events as a JSON array, got NULL");
    }
    struct mon_json_document document;
    mon_status status;
    if (!mon_json_parse(&document, text, length)) {
        status = not_json(&document);
    } else if (document.root->type != MON_JSON_ARRAY) {
        status = mon_error_set(MON_ERR_EVENT, "", "invalid event: expected a list of events, got %s", mon_json_type_name(document.root->type));
    } else {
        status = emit_list(document.root, event_ids, room, count);
    }
    mon_json_free(&document);
    return status;
}
