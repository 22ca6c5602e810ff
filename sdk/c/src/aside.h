/* Events that a target will never take, as dead letters on their way to a `.refused` file. */
#ifndef MON_ASIDE_H
#define MON_ASIDE_H

#include "delivery.h"

struct mon_aside {
    struct mon_buf letters;
    size_t count;
    uint64_t first;   /* the number of the first */
    char reason[240]; /* why that one was refused */
};

/* Adds the event of that place in a batch. */
void mon_aside_add(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, size_t index, const char *why);
/* Adds all of a batch. */
void mon_aside_add_all(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, const char *why);
/* Adds lines that are no events, each with its number as `seq`. */
void mon_aside_add_damaged(struct mon_aside *aside, const char *backend, const struct mon_batch *damaged);
/* Adds those of an accepted batch that the answer names. */
void mon_aside_add_refused(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, const struct mon_answer *answer);
/* Writes all that was added to `<name>.refused` of the target's folder; false when that fails. */
bool mon_aside_keep(const struct mon_aside *aside, const struct mon_target *target, const char *name);
/* Says in the log what was refused. */
void mon_aside_tell(const struct mon_aside *aside, const struct mon_target *target, bool kept);
void mon_aside_free(struct mon_aside *aside);

#endif
