/* What the C files of the package share: growing text, JSON, the queue of one emitter. */
#ifndef MONITORING_EMITTER_H
#define MONITORING_EMITTER_H

#define R_NO_REMAP
#include <R.h>
#include <Rinternals.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    MAX_EVENT_BYTES = 256 * 1024,
    MAX_MESSAGE_BYTES = 8 * 1024,
    MAX_DEPTH = 64,
    MAX_TEXT = 256,
    MAX_SITE = 64,
    PATH_BYTES = 600,
    UUID_LENGTH = 36
};

/* Text that grows. Its memory stays until the emitter goes, so that an error of R in the middle leaks nothing. */
typedef struct {
    char *data;
    size_t length;
    size_t room;
} Text;

/* The first mistake in an event: where it is, and what was expected there. */
typedef struct {
    bool found;
    char path[PATH_BYTES];
    char message[PATH_BYTES];
} Mistake;

typedef struct {
    char *data;
    size_t length;
    double seq;
} Line;

/* One start of one process. */
typedef struct {
    pid_t pid;
    char id[UUID_LENGTH + 1];
    char id_tail[32];
    int64_t last_millis;
    double seq;
    char *site;         /* the text of `site_id`, with a comma after it */
    char *app;          /* the same of `app` */
    Line *lines;        /* a ring */
    size_t room;
    size_t first;
    size_t count;
    size_t bytes;
    double oldest;      /* when the first line came, by the monotonic clock */
    double batch_events;
    double batch_bytes;
    double interval;
    Text scratch;
} Emitter;

void text_clear(Text *text);
void text_add(Text *text, const char *data, size_t length);
void text_put(Text *text, const char *string);
void text_free(Text *text);

/* `string` in UTF-8, with U+FFFD for what is not; what it points to lives until the next call of R or the end of the .Call. */
const char *utf8_of(SEXP string, size_t *length, Text *mended);
size_t utf8_characters(const char *data, size_t length);
void json_string(Text *text, const char *data, size_t length);
void json_number(Text *text, double number);

double clock_now(void);
double clock_monotonic(void);
bool random_bytes(unsigned char *data, size_t length);
int64_t micros_now(void);
void uuid_v7(char *to);

/* Check `event` and append its JSON, a whole line without its line feed. */
void encode_event(Emitter *emitter, SEXP event, SEXP run, double seq, int64_t now_micros, Text *out, char *event_id, Mistake *mistake);

/* Between these two the queue is not what it looks like: a SIGTERM waits. */
void rescue_hold(void);
void rescue_free(void);
void rescue_forget(const Emitter *emitter);

SEXP mon_watch(SEXP pointer, SEXP folders, SEXP starts, SEXP apart);
SEXP mon_unwatch(void);
SEXP mon_in_hand(SEXP body, SEXP number, SEXP next);
SEXP mon_settled(void);

SEXP mon_emitter(SEXP site, SEXP app, SEXP limits);
SEXP mon_emitter_id(SEXP pointer);
SEXP mon_emit(SEXP pointer, SEXP event, SEXP run);
SEXP mon_emit_all(SEXP pointer, SEXP events, SEXP run);
SEXP mon_is_due(SEXP pointer);
SEXP mon_depth(SEXP pointer);
SEXP mon_take(SEXP pointer, SEXP events, SEXP bytes);
SEXP mon_mend(SEXP event);

SEXP mon_now(void);
SEXP mon_monotonic(void);
SEXP mon_random(SEXP count);
SEXP mon_uuid(void);
SEXP mon_pid(void);
SEXP mon_lines(SEXP body);
SEXP mon_gzip(SEXP stream, SEXP body);
SEXP mon_open_lock(SEXP path, SEXP create);
SEXP mon_is_at(SEXP fd, SEXP path);
SEXP mon_close(SEXP fd);
SEXP mon_write_file(SEXP path, SEXP temporary, SEXP data);
SEXP mon_append_file(SEXP path, SEXP size, SEXP data);
SEXP mon_sync_folder(SEXP path);
SEXP mon_rename(SEXP from, SEXP to);
SEXP mon_is_alive(SEXP pid);

#endif
