/* UUIDs of version 7 (RFC 9562): random bits once a source, then a number that counts, so that ids sort as they were made. */
#ifndef MON_IDS_H
#define MON_IDS_H

#include <stdint.h>
#include <time.h>

#include "monitoring.h"

struct mon_id_source {
    char tail[28]; /* "-7xxx-xxxx-xxxx": what is the same in all of its ids */
};

/* Fills with bytes that nobody can foretell. */
void mon_random(void *bytes, size_t len);

void mon_id_source_init(struct mon_id_source *source);

/* Writes the id of that millisecond and number, with a terminator. Safe in a signal handler. */
void mon_id_write(const struct mon_id_source *source, char id[MON_ID_SIZE], uint64_t millis, uint64_t number);

/* A single id of this moment. */
void mon_id_new(char id[MON_ID_SIZE]);

/* Microseconds since 1970. */
uint64_t mon_now_micros(void);

/* Seconds of a clock that never goes back. */
double mon_monotonic(void);

/* A moment of that clock as the system wants it. */
struct timespec mon_moment(double monotonic);

#endif
