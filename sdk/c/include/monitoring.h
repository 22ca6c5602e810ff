/**
 * @file monitoring.h
 * @brief Report what a long technical job does, without ever feeling it: no stall, no crash, no lost event.
 *
 * @code
 * #include <monitoring.h>
 *
 * mon_initialize(NULL);                                   // reads monitoring-config.yaml and the environment
 * mon_context *run = mon_context_begin_with("etch", "lot", "L2301", "tool", "ETCH-07", NULL);
 * mon_event *e = mon_event_new(MON_METRIC, "chuck");
 * mon_event_metric(e, "temperature", 21.5);
 * mon_emit(e);
 * mon_context_end_ok(run);
 * @endcode
 *
 * Rules that hold for every call:
 * - Any thread may call anything at any time; one event, metadata or configuration belongs to one thread at a time.
 * - Text is UTF-8 and is copied. What is not UTF-8 becomes U+FFFD.
 * - No call but mon_flush(), mon_close() and mon_initialize() waits for the network or the disk, except that an emit waits for
 *   the disk when the queue is full (see `queue.on_full`).
 * - Trouble with delivery is never an error of a call. Misuse is: the call says so at once, and mon_error_message() explains it.
 * - Nothing here may be called from a signal handler. An application that handles SIGTERM leaves its main loop and calls
 *   mon_close() or exit().
 */
#ifndef MONITORING_H
#define MONITORING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MON_API __attribute__((visibility("default")))
#define MON_SENTINEL __attribute__((sentinel))
#else
#define MON_API
#define MON_SENTINEL
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** The version of this header, as text. */
#define MON_VERSION "0.1.0"

/** Bytes that an event or run id takes, with its terminator. */
#define MON_ID_SIZE 37

/** What became of a call. Everything but MON_OK and MON_TIMEOUT is misuse or a lack of memory. */
typedef enum mon_status {
    MON_OK = 0,            /**< done */
    MON_TIMEOUT = 1,       /**< mon_flush(): not everything was delivered or on disk in time */
    MON_ERR_EVENT = -1,    /**< an event breaks the contract; mon_error_path() says where */
    MON_ERR_CONFIG = -2,   /**< the configuration is wrong; mon_error_problem_count() and so on list every mistake */
    MON_ERR_STATE = -3,    /**< called before mon_initialize() or after mon_close() */
    MON_ERR_ARGUMENT = -4, /**< a NULL, or a value that no call takes */
    MON_ERR_MEMORY = -5,   /**< out of memory */
    MON_ERR_SYSTEM = -6    /**< the system refused something, such as a thread */
} mon_status;

/** What kind of report an event is. */
typedef enum mon_kind {
    MON_START,    /**< a run begins; contexts emit it */
    MON_PROGRESS, /**< how far it is */
    MON_FINISH,   /**< a run ended; contexts emit it */
    MON_ERROR,    /**< something failed */
    MON_METRIC,   /**< measured values */
    MON_LOG,      /**< a line of text */
    MON_STATE     /**< a state machine changed its state */
} mon_kind;

/** How grave an event is. */
typedef enum mon_severity { MON_DEBUG, MON_INFO, MON_WARNING, MON_SEVERE, MON_CRITICAL } mon_severity;

/** How a run ended. */
typedef enum mon_outcome { MON_SUCCEEDED, MON_FAILED, MON_ABORTED } mon_outcome;

/** A configuration that is put together by the program; lies above file and environment. */
typedef struct mon_config mon_config;
/** An event that is being put together. */
typedef struct mon_event mon_event;
/** What is known about a run when it begins. */
typedef struct mon_metadata mon_metadata;
/** A run that is under way. */
typedef struct mon_context mon_context;

/* ---------------------------------------------------------------------------------------------------------------- errors */

/** The status of the last call of this thread that failed. */
MON_API mon_status mon_error_status(void);
/** What went wrong in it, for people: what, where, what to do. Valid until the thread's next failing call. */
MON_API const char *mon_error_message(void);
/** The dotted path of the first mistake, such as `metrics.temperature` or `sdk.queue.batch_size`; empty: the whole. */
MON_API const char *mon_error_path(void);
/** How many mistakes the configuration has. */
MON_API size_t mon_error_problem_count(void);
/** The dotted path of one of them. */
MON_API const char *mon_error_problem_path(size_t index);
/** What is wrong there. */
MON_API const char *mon_error_problem_message(size_t index);
/** A word for a status, such as `invalid event`. */
MON_API const char *mon_status_text(mon_status status);

/* --------------------------------------------------------------------------------------------------------- configuration */

/** An empty configuration; NULL when there is no memory. */
MON_API mon_config *mon_config_new(void);
/** Read this YAML or JSON file in place of what MONITORING_CONFIG names or of ./monitoring-config.yaml. */
MON_API mon_status mon_config_file(mon_config *config, const char *path);
/** Lay a JSON document such as `{"sdk": {"app": {"name": "etcher", "site_id": "fab1"}}}` over file and environment. */
MON_API mon_status mon_config_json(mon_config *config, const char *text, size_t length);
/** Set one value above all: `mon_config_set(c, "sidecar.url", "http://localhost:17000")`. Numbers and booleans are written as in YAML. */
MON_API mon_status mon_config_set(mon_config *config, const char *path, const char *value);
/** Let go of it; NULL does no harm. */
MON_API void mon_config_free(mon_config *config);

/**
 * Read the configuration and start. A second call closes what runs, and starts anew.
 *
 * @param config what the program sets itself; NULL: file and environment alone. Stays the caller's.
 * @return MON_ERR_CONFIG when it is wrong: every mistake at once, through mon_error_problem_count() and its like.
 */
MON_API mon_status mon_initialize(const mon_config *config);

/** Wait until all that was emitted is delivered or on disk, at most `timeout` seconds. MON_OK or MON_TIMEOUT. */
MON_API mon_status mon_flush(double timeout);

/**
 * Send what is queued, put on disk what can't be sent within a second, and end; takes at most two seconds. Happens by itself at
 * exit(). Calling it again does no harm.
 */
MON_API mon_status mon_close(void);

/* ---------------------------------------------------------------------------------------------------------------- events */

/**
 * A new event. The SDK adds id, time, site, app, number and the run that the thread is in.
 *
 * What a setter below refuses is remembered: mon_emit() then refuses the event with the first mistake. So the status of a setter
 * need not be looked at.
 *
 * @param kind what kind of report it is.
 * @param name the operation, metric, logger or state machine; 1 to 256 characters.
 * @return NULL when there is no memory, which every call below takes.
 */
MON_API mon_event *mon_event_new(mon_kind kind, const char *name);
/** Let go of an event that is not emitted; NULL does no harm. */
MON_API void mon_event_free(mon_event *event);

/** Text for people; cut at 8 KiB, and then marked by the attribute `truncated`. */
MON_API mon_status mon_event_message(mon_event *event, const char *text);
/** The same with a length, for text that has no terminator. */
MON_API mon_status mon_event_message_n(mon_event *event, const char *text, size_t length);
/** How grave it is. */
MON_API mon_status mon_event_severity(mon_event *event, mon_severity severity);
/** What it happened to: `lot`, `wafer`, `tool`, `chamber`, `recipe`, `step`, `product`, `operator`, or a site's own. */
MON_API mon_status mon_event_entity(mon_event *event, const char *key, const char *value);
/** A measured value; one that is NaN or infinite is left out and named in the attribute `dropped_metrics`. */
MON_API mon_status mon_event_metric(mon_event *event, const char *key, double value);
/** A counted value. */
MON_API mon_status mon_event_metric_int(mon_event *event, const char *key, int64_t value);
/** Data of the program's own: text. */
MON_API mon_status mon_event_text(mon_event *event, const char *key, const char *value);
/** Data of the program's own: text of that length. */
MON_API mon_status mon_event_text_n(mon_event *event, const char *key, const char *value, size_t length);
/** Data of the program's own: a number (null when it is NaN or infinite). */
MON_API mon_status mon_event_number(mon_event *event, const char *key, double value);
/** Data of the program's own: an integer. */
MON_API mon_status mon_event_integer(mon_event *event, const char *key, int64_t value);
/** Data of the program's own: true or false. */
MON_API mon_status mon_event_boolean(mon_event *event, const char *key, bool value);
/** Data of the program's own: any JSON. */
MON_API mon_status mon_event_json(mon_event *event, const char *key, const char *json, size_t length);
/** How far it is, from 0 to 1; on MON_PROGRESS. */
MON_API mon_status mon_event_progress(mon_event *event, double fraction);
/** How long it took, in milliseconds; on MON_FINISH and MON_ERROR. */
MON_API mon_status mon_event_duration(mon_event *event, double milliseconds);
/** How it ended; on MON_FINISH and MON_ERROR. */
MON_API mon_status mon_event_outcome(mon_event *event, mon_outcome outcome);
/** What went wrong; on MON_FINISH and MON_ERROR. `stack` may be NULL. */
MON_API mon_status mon_event_error(mon_event *event, const char *type, const char *message, const char *stack);
/** From which state (may be NULL) to which; on MON_STATE, and needed there. For tools the SEMI E10 states. */
MON_API mon_status mon_event_state(mon_event *event, const char *from, const char *to);
/** The W3C ids (hexadecimal) of the span that it belongs to. */
MON_API mon_status mon_event_trace(mon_event *event, const char *trace_id, const char *span_id);
/** Any field of the contract by its name, as JSON: `mon_event_field(e, "timestamp", "\"2026-01-31T12:00:00Z\"", 22)`. */
MON_API mon_status mon_event_field(mon_event *event, const char *field, const char *json, size_t length);

/** Report an event, which is the SDK's from then on, whatever comes of it. Costs well below a microsecond. */
MON_API mon_status mon_emit(mon_event *event);
/** The same; the id that it got is written to `event_id`. */
MON_API mon_status mon_emit_id(mon_event *event, char event_id[MON_ID_SIZE]);
/** Report several, all or none; they are the SDK's from then on. The path of a mistake begins with the place, such as `[3]`. */
MON_API mon_status mon_emit_batch(mon_event *const *events, size_t count);
/** The same; `event_ids` has room for `count` of them. */
MON_API mon_status mon_emit_batch_ids(mon_event *const *events, size_t count, char (*event_ids)[MON_ID_SIZE]);

/** Report an event that is there as JSON, such as `{"kind": "log", "name": "etch", "message": "done"}`. */
MON_API mon_status mon_emit_json(const char *text, size_t length);
/** The same; the id that it got is written to `event_id`, unless that is NULL. */
MON_API mon_status mon_emit_json_id(const char *text, size_t length, char *event_id);
/** Report the events of a JSON array, all or none. Ids of the first `room` go to `event_ids`, their number to `count` (both may be NULL). */
MON_API mon_status mon_emit_batch_json(const char *text, size_t length, char (*event_ids)[MON_ID_SIZE], size_t room, size_t *count);

/* -------------------------------------------------------------------------------------------------------------- contexts */

/** Empty metadata; NULL when there is no memory, which every call below takes. */
MON_API mon_metadata *mon_metadata_new(void);
/** `lot`, `wafer`, `tool`, `chamber`, `recipe`, `step`, `product`, `operator` are entities; all else are attributes. */
MON_API mon_status mon_metadata_text(mon_metadata *metadata, const char *key, const char *value);
/** An entity of the site's own. */
MON_API mon_status mon_metadata_entity(mon_metadata *metadata, const char *key, const char *value);
/** A number; as an entity it must be whole: see mon_metadata_integer(). */
MON_API mon_status mon_metadata_number(mon_metadata *metadata, const char *key, double value);
/** An integer; among the entities it becomes text. */
MON_API mon_status mon_metadata_integer(mon_metadata *metadata, const char *key, int64_t value);
/** True or false. */
MON_API mon_status mon_metadata_boolean(mon_metadata *metadata, const char *key, bool value);
/** Any JSON. */
MON_API mon_status mon_metadata_json(mon_metadata *metadata, const char *key, const char *json, size_t length);
/** Let go of it; NULL does no harm. */
MON_API void mon_metadata_free(mon_metadata *metadata);

/**
 * Begin a run inside the one that the thread is in, and report its start. Every event of this thread until its end carries its
 * ids and entities.
 *
 * @param name the operation; 1 to 256 characters.
 * @param metadata may be NULL, and stays the caller's.
 * @return NULL on misuse (see mon_error_message()), which every call below takes.
 */
MON_API mon_context *mon_context_begin(const char *name, const mon_metadata *metadata);
/** The same with metadata as pairs of texts and a NULL at the end: `mon_context_begin_with("etch", "lot", "L1", NULL)`. */
MON_API mon_context *mon_context_begin_with(const char *name, ...) MON_SENTINEL;
/** The same with metadata as a JSON object. */
MON_API mon_context *mon_context_begin_json(const char *name, const char *metadata, size_t length);
/** Report how far it is, from 0 to 1; `message` may be NULL. `event_id` (may be NULL) gets the id. */
MON_API mon_status mon_context_progress(mon_context *context, double fraction, const char *message, char *event_id);
/** The run ended well. The context is gone after this. */
MON_API mon_status mon_context_end_ok(mon_context *context);
/** The run failed: an error of that type and message, with the calls that led here. The context is gone after this. */
MON_API mon_status mon_context_fail(mon_context *context, const char *type, const char *message);
/** The same with the caller's own text for where it happened. */
MON_API mon_status mon_context_fail_at(mon_context *context, const char *type, const char *message, const char *stack);
/** The run was given up, which is no error: cancelled, or interrupted. The context is gone after this. */
MON_API mon_status mon_context_abort(mon_context *context, const char *type, const char *message);
/** Its run id; empty for NULL. */
MON_API const char *mon_context_run_id(const mon_context *context);
/** The run that the thread is in; NULL when it is in none. */
MON_API mon_context *mon_context_current(void);
/** Take this thread into a run that another began: what it emits belongs there until mon_context_leave(). */
MON_API mon_status mon_context_enter(mon_context *context);
/** The end of mon_context_enter(); the run goes on. */
MON_API mon_status mon_context_leave(mon_context *context);

/* ------------------------------------------------------------------------------------------------------- self-measurement */

/** Counts since mon_initialize() or since the fork. An emitted event is in exactly one of sent, rejected, spooled, failed, dropped, queued. */
typedef struct mon_counts {
    uint64_t emitted;             /**< taken from the program */
    uint64_t sent;                /**< acknowledged without a stay on disk; in direct mode by every backend that should have it */
    uint64_t rejected;            /**< refused one by one; the sidecar keeps them in quarantine */
    uint64_t spooled;             /**< written to the spool folder */
    uint64_t replayed;            /**< acknowledged out of the spool folder, on top of the others */
    uint64_t failed;              /**< refused as a whole batch, and kept aside in the spool folder */
    uint64_t dropped;             /**< lost, be it to a single backend that no fallback stood in for: the sum of the next three */
    uint64_t dropped_queue_full;  /**< the queue was full */
    uint64_t dropped_spool_failed; /**< the spool folder could not be written */
    uint64_t dropped_undeliverable; /**< there was no spool folder */
    uint64_t queued;              /**< in memory now */
    uint64_t reserved[5];         /**< 0 */
} mon_counts;

/** What one destination did. */
typedef struct mon_backend_counts {
    char name[65];      /**< as configured, else its type */
    char type[17];      /**< `sidecar`, `filesystem`, … */
    uint64_t delivered; /**< events that it took */
    uint64_t rejected;  /**< events that it refused one by one */
    uint64_t spooled;   /**< events that wait for it on disk */
    uint64_t failed;    /**< events that it refused as a whole */
    uint64_t replayed;  /**< events that it took out of the spool folder */
    uint64_t dropped;   /**< events that are lost to it */
    uint64_t waiting;   /**< events in batches in memory that it has still to get */
    uint64_t reserved[4]; /**< 0 */
    char trouble[200];  /**< why it takes nothing now; empty when it does */
} mon_backend_counts;

/** The counts now; after mon_close() the last word. */
MON_API mon_status mon_stats(mon_counts *counts);
/** How many destinations there are: one in sidecar mode, the enabled backends in direct mode. */
MON_API size_t mon_backend_count(void);
/** The counts of one of them, in the order of their priority. */
MON_API mon_status mon_backend_stats(size_t index, mon_backend_counts *counts);

/** Takes the SDK's own log, a line a call. `severity` is MON_INFO, MON_WARNING or MON_SEVERE. */
typedef void (*mon_logger)(mon_severity severity, const char *line, void *data);
/** Where the SDK's own log goes; NULL: warnings and worse to standard error, which is how it begins. */
MON_API void mon_set_logger(mon_logger logger, void *data);

/** Fills in the W3C ids of the active span, and returns whether there is one. */
typedef bool (*mon_trace_source)(char trace_id[33], char span_id[17], void *data);
/** Where trace ids come from, for programs with OpenTelemetry; NULL: nowhere. */
MON_API void mon_set_trace_source(mon_trace_source source, void *data);

#ifdef __cplusplus
}
#endif

#endif
