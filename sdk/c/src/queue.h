/* The bounded queue between the program's threads and the worker: one short lock, records side by side in chunks of memory. */
#ifndef MON_QUEUE_H
#define MON_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>

#include "batch.h"
#include "record.h"

enum { MON_LARGE = 4096 }; /* events with more bytes are bounded by their sum too; smaller ones by their number alone */
enum { MON_LARGE_SUM = 32 * 1024 * 1024 };

struct mon_chunk {
    struct mon_chunk *next;
    size_t size;
    atomic_size_t used;
    size_t pins; /* how many takings read it */
    bool detached;
    _Alignas(8) char bytes[];
};

/* Some records that left the queue and are being turned into batches. */
struct mon_taking {
    struct mon_taking *next;
    struct mon_chunk *chunk;
    size_t offset;
    size_t count;
    int64_t ordinal;
    struct mon_chunk *last;
};

struct mon_part { /* of what is put */
    const char *text;
    size_t len;
};

struct mon_queue {
    pthread_mutex_t lock;
    pthread_cond_t change; /* there is room again, or a batch is settled; monotonic clock */
    struct mon_chunk *head;
    struct mon_chunk *tail;
    struct mon_chunk *spare;
    size_t spares;
    size_t offset; /* of the oldest record, in the head */
    size_t count;
    size_t large; /* bytes of the large ones */
    uint64_t seq;
    uint64_t id_millis;
    int64_t taken; /* how many have left the queue */
    struct mon_taking *takings;
    struct mon_batch *hand; /* batches that are not settled */
    size_t waiters;
};

void mon_queue_init(struct mon_queue *queue);

/* Frees what is in it; the lock stays. */
void mon_queue_empty(struct mon_queue *queue);

/* What follows is called with the lock held, but for the one that says otherwise. */

/* Appends a record of `parts`, stamped; false without memory. */
bool mon_queue_put(struct mon_queue *queue, const struct mon_part *parts, size_t count, size_t len, uint32_t flags, struct mon_record *stamps);

/* Takes up to `limit` of the oldest records; they stay in memory until the release. */
bool mon_queue_take(struct mon_queue *queue, struct mon_taking *taking, size_t limit);

/* Without the lock: the records of a taking as batches, linked by `next`. Those for which there is no memory are counted. */
struct mon_batch *mon_queue_pack(const struct mon_taking *taking, const struct mon_origin *origin, size_t *lost);

/* Lets go of a taking; its batches are known as being in hand from then on. */
void mon_queue_release(struct mon_queue *queue, struct mon_taking *taking, struct mon_batch *batches);

/* Loses the oldest record. */
void mon_queue_drop(struct mon_queue *queue);

void mon_queue_hold(struct mon_queue *queue, struct mon_batch *batch);

/* Whether the caller is the first to be done with `batch`, which is out of hand then. */
bool mon_queue_settle(struct mon_queue *queue, struct mon_batch *batch);

/* The ordinal after the newest record. */
int64_t mon_queue_mark(const struct mon_queue *queue);

/* Whether every event below `mark` is out of memory. */
bool mon_queue_done(const struct mon_queue *queue, int64_t mark);

/* Events in memory. */
size_t mon_queue_depth(const struct mon_queue *queue);

#endif
