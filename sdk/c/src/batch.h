/* A batch: events as lines of JSON, as they go over the wire or to the disk. */
#ifndef MON_BATCH_H
#define MON_BATCH_H

#include <stdint.h>

#include "buffer.h"

enum mon_drop_reason { MON_DROP_QUEUE_FULL, MON_DROP_SPOOL_FAILED, MON_DROP_UNDELIVERABLE, MON_DROP_REASONS };

struct mon_batch {
    struct mon_batch *next; /* in somebody's list */
    struct mon_batch *hand_next;
    struct mon_batch *hand_before;
    struct mon_buf body;
    size_t *ends; /* where each line ends in the body, after its line feed */
    size_t count;
    size_t room;
    uint64_t *seqs; /* emitter.seq of each event; of a batch from disk of the first and last alone, if known */
    char emitter_id[37];
    int64_t ordinal; /* the place of the first in the order of taking; below 0 for reports */
    bool in_hand;
    bool borrowed;  /* somebody else puts it away: who took it must not free it */
    bool abandoned; /* who took it is done with it */
    bool settled;
    bool replayed; /* it comes from a spool file */
    uint32_t pending; /* a bit for each target that is not done with it */
    bool taken;       /* some target has it */
    bool spooled;     /* it waits on disk for some target */
    bool refused;
    size_t rejected;
    uint64_t reports[MON_DROP_REASONS]; /* drops that it reports */
};

struct mon_batch *mon_batch_new(const char *emitter_id, int64_t ordinal);
void mon_batch_free(struct mon_batch *batch);

/* Notes that a line with that number was added to the body; false without memory. */
bool mon_batch_line(struct mon_batch *batch, uint64_t seq);

/* Whether one more line of `len` bytes keeps it within the limits of a request. */
bool mon_batch_takes(const struct mon_batch *batch, size_t len);

uint64_t mon_batch_first_seq(const struct mon_batch *batch);
uint64_t mon_batch_last_seq(const struct mon_batch *batch);

/* Where a line begins, and how long it is without its line feed. */
const char *mon_batch_get(const struct mon_batch *batch, size_t index, size_t *len);

/* Two batches in place of one of two events or more, which stays the caller's; false without memory. */
bool mon_batch_halves(const struct mon_batch *batch, struct mon_batch *halves[2]);

/* The whole lines of a spool file as batches, linked by `next`; what follows the last line feed is torn. */
struct mon_batch *mon_batch_unpack(const char *data, size_t len);

#endif
