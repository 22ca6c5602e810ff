/* The rules of the contract for single fields; see contract/event.schema.json. */
#ifndef MON_CHECK_H
#define MON_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "monitoring.h"

enum {
    MON_MAX_EVENT = 256 * 1024,
    MON_HEAD = 220, /* what is put before an event's own fields (ids, timestamp, emitter), at most */
    MON_MAX_MESSAGE = 8 * 1024,
    MON_MAX_TEXT = 256,
    MON_MAX_SITE = 64,
    MON_MAX_DEPTH = 64,
    MON_MAX_DIGITS = 308,
    MON_MAX_BACKENDS = 16,
    MON_MAX_BATCH_EVENTS = 5000,
    MON_MAX_BATCH_BYTES = 1024 * 1024 - 4096, /* a request stays below 1 MiB: a failed one costs less, and memory stays bounded */
};

enum mon_field {
    MON_F_EVENT_ID,
    MON_F_TIMESTAMP,
    MON_F_KIND,
    MON_F_NAME,
    MON_F_SITE_ID,
    MON_F_APP,
    MON_F_RUN_ID,
    MON_F_PARENT_RUN_ID,
    MON_F_ENTITIES,
    MON_F_STATUS,
    MON_F_SEVERITY,
    MON_F_MESSAGE,
    MON_F_PROGRESS,
    MON_F_DURATION_MS,
    MON_F_STATE,
    MON_F_METRICS,
    MON_F_ERROR,
    MON_F_TRACE_ID,
    MON_F_SPAN_ID,
    MON_F_ATTRIBUTES,
    MON_FIELDS,
    MON_F_NONE = MON_FIELDS,
};

extern const char *const mon_field_names[MON_FIELDS];
extern const char *const mon_kind_names[7];
extern const char *const mon_severity_names[5];
extern const char *const mon_outcome_names[3];

/* The field of that name; MON_F_NONE when there is none. */
enum mon_field mon_field_of(const char *name, size_t len);

/* NULL when an event of this kind may have the field; else the kinds that may. */
const char *mon_field_kinds(enum mon_field field, mon_kind kind);

/* The place of a text among `count` names; -1 when it is not there. */
int mon_choice(const char *text, size_t len, const char *const *names, size_t count);

bool mon_is_uuid(const char *text, size_t len);
bool mon_is_hex(const char *text, size_t len, size_t digits);

/* NULL when the text is a timestamp that an event may have; else what is wrong, which may stand in `room`. */
const char *mon_timestamp_problem(const char *text, size_t len, char room[64]);

/* Seconds since 1970 of a date and time in UTC (proleptic Gregorian calendar). */
int64_t mon_seconds_of(int64_t year, unsigned month, unsigned day, unsigned hour, unsigned minute, unsigned second);

#endif
