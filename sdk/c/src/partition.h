/* Which hour an event belongs to, for backends that keep events in `date=…/hour=…` folders, in UTC. */
#ifndef MON_PARTITION_H
#define MON_PARTITION_H

#include <time.h>

#include "batch.h"

enum { MON_PARTITION = 24 };

/* One hour's events of a batch. */
struct mon_hour {
    char folder[MON_PARTITION]; /* date=2026-07-01/hour=09 */
    struct mon_buf lines;
    uint64_t first_seq;
    uint64_t last_seq;
    size_t count;
};

struct mon_hours {
    struct mon_hour *list;
    size_t count;
};

/* The batch by hours; false without memory. */
bool mon_hours_of(const struct mon_batch *batch, struct mon_hours *hours);
void mon_hours_free(struct mon_hours *hours);

/* `<emitter>[.<backend>]-<first>-<last>`: the same for the same events, however often they come. */
void mon_hour_name(const struct mon_batch *batch, const struct mon_hour *hour, const char *backend, char name[160]);

/* The seconds since 1970 of a line's timestamp; -1 when it has none. */
int64_t mon_line_moment(const char *line, size_t len);

#endif
