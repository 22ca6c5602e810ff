/* An event in the queue: its stamps and the text of its fields; the worker writes the line that goes over the wire. */
#ifndef MON_RECORD_H
#define MON_RECORD_H

#include <stdint.h>

#include "buffer.h"
#include "ids.h"

enum { MON_RECORD_HAS_ID = 1, MON_RECORD_HAS_TIME = 2 };

struct mon_record {
    uint32_t len;   /* bytes of the fields that follow, each with a comma after it */
    uint32_t flags; /* which stamps the program gave itself, among the fields */
    uint64_t seq;
    uint64_t micros; /* since 1970 */
    uint64_t id_millis;
};

/* Where an emitter's records come from. */
struct mon_origin {
    struct mon_id_source ids;
    char emitter_id[MON_ID_SIZE];
};

enum { MON_RECORD_HEAD = 200 };

/* Writes what stands before the fields; how many bytes. Safe in a signal handler. */
size_t mon_record_head(char out[MON_RECORD_HEAD], const struct mon_record *record, const struct mon_origin *origin);

/* Adds the event as a line with its line feed. */
void mon_record_line(struct mon_buf *buf, const struct mon_record *record, const struct mon_origin *origin);

/* The bytes that a record takes in the queue. */
static inline size_t mon_record_size(size_t len) {
    return (sizeof(struct mon_record) + len + 7) & ~(size_t)7;
}

#endif
