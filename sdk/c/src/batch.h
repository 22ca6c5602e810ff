/* A batch: events as lines of JSON, as they go over the wire or to the disk. */
#ifndef MON_BATCH_H
#define MON_BATCH_H

#include <stdatomic.h>
#include <stdint.h>

#include "buffer.h"
#include "check.h"

enum mon_drop_reason { MON_DROP_QUEUE_FULL, MON_DROP_SPOOL_FAILED, MON_DROP_UNDELIVERABLE, MON_DROP_REASONS };

/* What became of an event at some target or other. */
enum mon_fate {
    MON_FATE_NOTHING = 0,
    MON_FATE_TAKEN = 1,
    MON_FATE_REJECTED = 2,
    MON_FATE_SPOOLED = 4,
    MON_FATE_REFUSED = 8,
    MON_FATE_LOST = 16,
    MON_FATE_STOOD_IN = 32, /* taken by a fallback */
};

struct mon_line {
    size_t end;   /* in the body, after its line feed */
    uint64_t seq; /* emitter.seq; of a batch from disk of the first and last alone, if known */
    /* shipment.c, a bit for each target: */
    uint32_t pending; /* is not done with it */
    uint32_t missed;  /* failed to take it once */
    uint32_t due;     /* a fallback that is about to get it */
    uint32_t fates;
};

/* Its lines never change once it is out of the hands of its maker, so that any thread may read them. */
struct mon_batch {
    struct mon_batch *next; /* in somebody's list */
    struct mon_buf body;
    struct mon_line *lines;
    size_t count;
    size_t room;
    char emitter_id[37];
    int64_t ordinal; /* the place of the first in the order of taking; below 0 for reports */
    bool replayed;   /* it comes from a spool file */
    atomic_uint references;
    struct mon_batch *whole; /* what it is a piece of, which it keeps; NULL: of nothing */
    size_t first;            /* its place there */

    /* of a whole one; with the queue's lock held */
    struct mon_batch *hand_next;
    struct mon_batch *hand_before;
    bool in_hand;
    bool settled;

    /* with the delivery's lock held */
    struct mon_batch *waits[MON_MAX_BACKENDS]; /* the next in the backlog of each target */
    size_t left;                               /* how many pending bits its lines have */
    enum mon_drop_reason lost_by;
    uint64_t reports[MON_DROP_REASONS]; /* drops that it reports */
};

/* The caller's; NULL without memory. */
struct mon_batch *mon_batch_new(const char *emitter_id, int64_t ordinal);
/* One more who has it, and one less: the last frees it. NULL does no harm. */
struct mon_batch *mon_batch_hold(struct mon_batch *batch);
void mon_batch_release(struct mon_batch *batch);

/* Notes that a line with that number was added to the body; false without memory. */
bool mon_batch_line(struct mon_batch *batch, uint64_t seq);

/* Whether one more line of `len` bytes keeps it within the limits of a request. */
bool mon_batch_takes(const struct mon_batch *batch, size_t len);

uint64_t mon_batch_first_seq(const struct mon_batch *batch);
uint64_t mon_batch_last_seq(const struct mon_batch *batch);

/* Where a line begins, and how long it is without its line feed. */
const char *mon_batch_get(const struct mon_batch *batch, size_t index, size_t *len);

/* Some lines of a batch as a batch that remembers where they come from; NULL without memory. */
struct mon_batch *mon_batch_piece(struct mon_batch *batch, size_t first, size_t count);
/* Two pieces in place of one of two events or more, which stays the caller's; false without memory. */
bool mon_batch_halves(struct mon_batch *batch, struct mon_batch *halves[2]);
/* The lines of several batches as one that is none's piece; NULL without memory. */
struct mon_batch *mon_batch_joined(struct mon_batch *const *batches, size_t count);

/* The whole lines of a spool file as batches, linked by `next`; what follows the last line feed is torn. */
struct mon_batch *mon_batch_unpack(const char *data, size_t len);

/* Takes the lines that hold no JSON object, as after damage to a disk, out of what was unpacked: `*damaged` gets them, each under its
 * place counted from `number` on, or NULL when there are none. False without memory: then nothing has changed. */
bool mon_batch_sort_out(struct mon_batch **list, uint64_t number, struct mon_batch **damaged);

#endif
