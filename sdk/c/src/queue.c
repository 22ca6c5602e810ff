/* The bounded queue. */
#define _GNU_SOURCE
#include "queue.h"

#include <stdlib.h>

#include "check.h"

enum { CHUNK = 64 * 1024 - 64, SPARES = 4 };

void mon_queue_init(struct mon_queue *queue) {
    *queue = (struct mon_queue){0};
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
#ifdef __GLIBC__
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP); /* the lock is held for some 50 ns: sleeping costs more */
#endif
    pthread_mutex_init(&queue->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->change, &clock);
    pthread_condattr_destroy(&clock);
}

static void free_chunks(struct mon_chunk *chunk) {
    while (chunk != NULL) {
        struct mon_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void mon_queue_empty(struct mon_queue *queue) {
    free_chunks(queue->head);
    free_chunks(queue->spare);
    queue->head = queue->tail = queue->spare = NULL;
    queue->spares = queue->offset = queue->count = queue->large = 0;
}

static struct mon_chunk *new_chunk(struct mon_queue *queue, size_t size) {
    struct mon_chunk *chunk = queue->spare;
    if (chunk != NULL && size <= CHUNK) {
        queue->spare = chunk->next;
        queue->spares--;
    } else {
        size = size > CHUNK ? size : CHUNK;
        chunk = malloc(sizeof *chunk + size);
        if (chunk == NULL) {
            return NULL;
        }
        chunk->size = size;
    }
    chunk->next = NULL;
    chunk->pins = 0;
    chunk->detached = false;
    atomic_init(&chunk->used, 0);
    return chunk;
}

static void free_chunk(struct mon_queue *queue, struct mon_chunk *chunk) {
    if (chunk->size == CHUNK && queue->spares < SPARES) {
        chunk->next = queue->spare;
        queue->spare = chunk;
        queue->spares++;
    } else {
        free(chunk);
    }
}

static size_t used(const struct mon_chunk *chunk) {
    return atomic_load_explicit(&chunk->used, memory_order_acquire);
}

bool mon_queue_put(struct mon_queue *queue, const struct mon_part *parts, size_t count, size_t len, uint32_t flags, struct mon_record *stamps) {
    size_t size = mon_record_size(len);
    struct mon_chunk *tail = queue->tail;
    if (tail != NULL && queue->count == 0 && tail->pins == 0 && queue->head == tail) {
        atomic_store_explicit(&tail->used, 0, memory_order_release);
        queue->offset = 0;
    }
    if (tail == NULL || tail->size - used(tail) < size) {
        struct mon_chunk *chunk = new_chunk(queue, size);
        if (chunk == NULL) {
            return false;
        }
        if (tail == NULL) {
            queue->head = chunk;
            queue->offset = 0;
        } else {
            tail->next = chunk;
        }
        queue->tail = tail = chunk;
    }
    stamps->len = (uint32_t)len;
    stamps->flags = flags;
    stamps->seq = ++queue->seq;
    stamps->micros = mon_now_micros();
    uint64_t millis = stamps->micros / 1000;
    queue->id_millis = millis > queue->id_millis ? millis : queue->id_millis; /* ids sort even when the clock is set back */
    stamps->id_millis = queue->id_millis;
    size_t at = used(tail);
    char *place = tail->bytes + at;
    memcpy(place, stamps, sizeof *stamps);
    place += sizeof *stamps;
    for (size_t i = 0; i < count; i++) {
        memcpy(place, parts[i].text, parts[i].len);
        place += parts[i].len;
    }
    atomic_store_explicit(&tail->used, at + size, memory_order_release);
    queue->count++;
    queue->large += len > MON_LARGE ? len : 0;
    return true;
}

static const struct mon_record *record_at(const struct mon_chunk *chunk, size_t offset) {
    return (const struct mon_record *)(const void *)(chunk->bytes + offset);
}

static void detach(struct mon_queue *queue, struct mon_chunk *chunk) {
    chunk->detached = true;
    if (chunk->pins == 0) {
        free_chunk(queue, chunk);
    }
}

/* The head with the oldest record in it; chunks that were read to the end go. */
static struct mon_chunk *settle_head(struct mon_queue *queue) {
    while (queue->head != NULL && queue->offset == used(queue->head) && queue->head->next != NULL) {
        struct mon_chunk *read = queue->head;
        queue->head = read->next;
        queue->offset = 0;
        detach(queue, read);
    }
    return queue->head;
}

static void pass_over(struct mon_queue *queue) {
    const struct mon_record *record = record_at(queue->head, queue->offset);
    queue->large -= record->len > MON_LARGE ? record->len : 0;
    queue->offset += mon_record_size(record->len);
    queue->count--;
    queue->taken++;
}

bool mon_queue_take(struct mon_queue *queue, struct mon_taking *taking, size_t limit) {
    struct mon_chunk *chunk = settle_head(queue);
    if (queue->count == 0 || limit == 0) {
        return false;
    }
    *taking = (struct mon_taking){.next = queue->takings, .chunk = chunk, .offset = queue->offset, .ordinal = queue->taken, .last = chunk};
    queue->takings = taking;
    chunk->pins++;
    while (queue->count > 0 && taking->count < limit) {
        chunk = settle_head(queue);
        if (chunk != taking->last) {
            chunk->pins++;
            taking->last = chunk;
        }
        pass_over(queue);
        taking->count++;
    }
    if (queue->waiters > 0) {
        pthread_cond_broadcast(&queue->change);
    }
    return true;
}

void mon_queue_drop(struct mon_queue *queue) {
    if (queue->count > 0) {
        settle_head(queue);
        pass_over(queue);
    }
}

struct mon_batch *mon_queue_pack(const struct mon_taking *taking, const struct mon_origin *origin, size_t *lost) {
    struct mon_batch *first = NULL;
    struct mon_batch **last = &first;
    struct mon_batch *batch = NULL;
    const struct mon_chunk *chunk = taking->chunk;
    size_t offset = taking->offset;
    *lost = 0;
    for (size_t i = 0; i < taking->count; i++) {
        if (offset == used(chunk)) {
            chunk = chunk->next;
            offset = 0;
        }
        const struct mon_record *record = record_at(chunk, offset);
        offset += mon_record_size(record->len);
        size_t start = batch == NULL ? 0 : batch->body.len;
        if (batch != NULL) {
            mon_record_line(&batch->body, record, origin);
        }
        if (batch == NULL || (batch->count > 0 && (batch->body.len > MON_MAX_BATCH_BYTES || batch->count >= MON_MAX_BATCH_EVENTS))) {
            struct mon_batch *other = mon_batch_new(origin->emitter_id, taking->ordinal + (int64_t)i);
            if (other == NULL) {
                ++*lost;
                continue;
            }
            if (batch == NULL) {
                mon_record_line(&other->body, record, origin);
            } else {
                mon_buf_add(&other->body, batch->body.data + start, batch->body.len - start);
                batch->body.len = start;
            }
            batch = other;
            *last = batch;
            last = &batch->next;
        }
        if (!mon_batch_line(batch, record->seq)) {
            batch->body.len = batch->count == 0 ? 0 : batch->lines[batch->count - 1].end;
            batch->body.failed = false;
            ++*lost;
        }
    }
    return first;
}

void mon_queue_hold(struct mon_queue *queue, struct mon_batch *batch) {
    batch->in_hand = true;
    batch->hand_before = NULL;
    batch->hand_next = queue->hand;
    if (queue->hand != NULL) {
        queue->hand->hand_before = batch;
    }
    queue->hand = batch;
}

void mon_queue_release(struct mon_queue *queue, struct mon_taking *taking, struct mon_batch *batches) {
    for (struct mon_batch *batch = batches; batch != NULL; batch = batch->next) {
        mon_queue_hold(queue, batch);
    }
    for (struct mon_taking **at = &queue->takings; *at != NULL; at = &(*at)->next) {
        if (*at == taking) {
            *at = taking->next;
            break;
        }
    }
    struct mon_chunk *chunk = taking->chunk;
    struct mon_chunk *last = taking->last;
    for (bool more = true; more;) {
        struct mon_chunk *next = chunk->next;
        more = chunk != last;
        if (--chunk->pins == 0 && chunk->detached) {
            free_chunk(queue, chunk);
        }
        chunk = next;
    }
}

bool mon_queue_settle(struct mon_queue *queue, struct mon_batch *batch) {
    if (batch->settled) {
        return false;
    }
    batch->settled = true;
    if (batch->in_hand) {
        batch->in_hand = false;
        if (batch->hand_before != NULL) {
            batch->hand_before->hand_next = batch->hand_next;
        } else {
            queue->hand = batch->hand_next;
        }
        if (batch->hand_next != NULL) {
            batch->hand_next->hand_before = batch->hand_before;
        }
    }
    if (queue->waiters > 0) {
        pthread_cond_broadcast(&queue->change);
    }
    return true;
}

int64_t mon_queue_mark(const struct mon_queue *queue) {
    return queue->taken + (int64_t)queue->count;
}

bool mon_queue_done(const struct mon_queue *queue, int64_t mark) {
    if (queue->taken < mark) {
        return false;
    }
    for (const struct mon_taking *taking = queue->takings; taking != NULL; taking = taking->next) {
        if (taking->ordinal < mark) {
            return false;
        }
    }
    for (const struct mon_batch *batch = queue->hand; batch != NULL; batch = batch->hand_next) {
        if (batch->ordinal < mark) {
            return false;
        }
    }
    return true;
}

size_t mon_queue_depth(const struct mon_queue *queue) {
    size_t depth = queue->count;
    for (const struct mon_taking *taking = queue->takings; taking != NULL; taking = taking->next) {
        depth += taking->count;
    }
    for (const struct mon_batch *batch = queue->hand; batch != NULL; batch = batch->hand_next) {
        depth += batch->count;
    }
    return depth;
}
