/* One emitter: its ids, its numbers, and the lines that wait in memory until somebody takes them. */
#include "emitter.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static SEXP tag(void)
{
    return Rf_install("monitoring_emitter");
}

static void forget_lines(Emitter *emitter)
{
    for (size_t i = 0; i < emitter->count; i++)
        free(emitter->lines[(emitter->first + i) % emitter->room].data);
    emitter->count = emitter->bytes = 0;
}

static void finalize(SEXP pointer)
{
    Emitter *emitter = R_ExternalPtrAddr(pointer);
    if (emitter == NULL)
        return;
    R_ClearExternalPtr(pointer);
    rescue_forget(emitter);
    forget_lines(emitter);
    free(emitter->lines);
    free(emitter->site);
    free(emitter->app);
    text_free(&emitter->scratch);
    free(emitter);
}

static Emitter *emitter_of(SEXP pointer)
{
    Emitter *emitter = TYPEOF(pointer) == EXTPTRSXP && R_ExternalPtrTag(pointer) == tag() ? R_ExternalPtrAddr(pointer) : NULL;
    if (emitter == NULL)
        Rf_error("monitoring: not a live emitter");
    return emitter;
}

static char *copy_of(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy == NULL)
        Rf_error("monitoring: out of memory");
    return memcpy(copy, text, size);
}

/* `site` and `app` are the text of these two fields, each with a comma after it; `limits` are events, bytes and seconds. */
SEXP mon_emitter(SEXP site, SEXP app, SEXP limits)
{
    Emitter *emitter = calloc(1, sizeof *emitter);
    if (emitter == NULL)
        Rf_error("monitoring: out of memory");
    SEXP pointer = PROTECT(R_MakeExternalPtr(emitter, tag(), R_NilValue));
    R_RegisterCFinalizerEx(pointer, finalize, FALSE);
    unsigned char random[6];
    emitter->pid = getpid();
    uuid_v7(emitter->id);
    if (!random_bytes(random, sizeof random))
        Rf_error("monitoring: can't read /dev/urandom");
    snprintf(emitter->id_tail, sizeof emitter->id_tail, "-7%01x%02x-%c%01x%02x-%02x%02x", random[0] & 15, random[1],
             "89ab"[random[0] >> 6], random[2] & 15, random[3], random[4], random[5]);
    emitter->site = copy_of(CHAR(STRING_ELT(site, 0)));
    emitter->app = copy_of(CHAR(STRING_ELT(app, 0)));
    emitter->batch_events = REAL(limits)[0];
    emitter->batch_bytes = REAL(limits)[1];
    emitter->interval = REAL(limits)[2];
    UNPROTECT(1);
    return pointer;
}

SEXP mon_emitter_id(SEXP pointer)
{
    return Rf_mkString(emitter_of(pointer)->id);
}

/* Put a copy of the line into the ring. */
static void append(Emitter *emitter, const char *data, size_t length, double seq)
{
    if (emitter->count == emitter->room) {
        size_t room = emitter->room ? emitter->room * 2 : 1024;
        Line *lines = malloc(room * sizeof *lines);
        if (lines == NULL)
            Rf_error("monitoring: out of memory");
        rescue_hold();
        for (size_t i = 0; i < emitter->count; i++)
            lines[i] = emitter->lines[(emitter->first + i) % emitter->room];
        free(emitter->lines);
        emitter->lines = lines;
        emitter->room = room;
        emitter->first = 0;
        rescue_free();
    }
    char *copy = malloc(length + 1);
    if (copy == NULL)
        Rf_error("monitoring: out of memory");
    memcpy(copy, data, length);
    copy[length] = '\n';
    if (emitter->count == 0)
        emitter->oldest = clock_monotonic();
    Line *line = &emitter->lines[(emitter->first + emitter->count) % emitter->room];
    line->data = copy;
    line->length = length + 1;
    line->seq = seq;
    rescue_hold();
    emitter->count++;
    emitter->bytes += length + 1;
    rescue_free();
}

static SEXP mistake_of(const Mistake *mistake, R_xlen_t index)
{
    SEXP found = PROTECT(Rf_allocVector(VECSXP, 3));
    SET_VECTOR_ELT(found, 0, Rf_ScalarString(Rf_mkCharCE(mistake->path, CE_UTF8)));
    SET_VECTOR_ELT(found, 1, Rf_ScalarString(Rf_mkCharCE(mistake->message, CE_UTF8)));
    SET_VECTOR_ELT(found, 2, Rf_ScalarReal((double)index));
    UNPROTECT(1);
    return found;
}

/* The event's id; NULL in a forked child, where the emitter is the parent's; a list for the first mistake. */
SEXP mon_emit(SEXP pointer, SEXP event, SEXP run)
{
    Emitter *emitter = emitter_of(pointer);
    if (emitter->pid != getpid())
        return R_NilValue;
    char event_id[UUID_LENGTH + 1];
    Mistake mistake;
    text_clear(&emitter->scratch);
    encode_event(emitter, event, run, emitter->seq + 1, micros_now(), &emitter->scratch, event_id, &mistake);
    if (mistake.found)
        return mistake_of(&mistake, -1);
    append(emitter, emitter->scratch.data, emitter->scratch.length, emitter->seq + 1);
    emitter->seq++;
    return Rf_mkString(event_id);
}

/* As mon_emit, for all of a list of events or none. */
SEXP mon_emit_all(SEXP pointer, SEXP events, SEXP run)
{
    Emitter *emitter = emitter_of(pointer);
    if (emitter->pid != getpid())
        return R_NilValue;
    R_xlen_t count = Rf_xlength(events);
    SEXP ids = PROTECT(Rf_allocVector(STRSXP, count));
    size_t *ends = (size_t *)R_alloc((size_t)count + 1, sizeof *ends);
    text_clear(&emitter->scratch);
    for (R_xlen_t i = 0; i < count; i++) {
        char event_id[UUID_LENGTH + 1];
        Mistake mistake;
        encode_event(emitter, VECTOR_ELT(events, i), run, emitter->seq + 1 + (double)i, micros_now(), &emitter->scratch, event_id, &mistake);
        if (mistake.found) {
            UNPROTECT(1);
            return mistake_of(&mistake, i);
        }
        ends[i] = emitter->scratch.length;
        SET_STRING_ELT(ids, i, Rf_mkChar(event_id));
    }
    for (R_xlen_t i = 0; i < count; i++) {
        size_t start = i ? ends[i - 1] : 0;
        append(emitter, emitter->scratch.data + start, ends[i] - start, emitter->seq + 1);
        emitter->seq++;
    }
    UNPROTECT(1);
    return ids;
}

/* Whether there is a whole batch, or one that is old enough. */
SEXP mon_is_due(SEXP pointer)
{
    Emitter *emitter = emitter_of(pointer);
    bool full = (double)emitter->count >= emitter->batch_events || (double)emitter->bytes >= emitter->batch_bytes;
    return Rf_ScalarLogical(full || (emitter->count > 0 && clock_monotonic() - emitter->oldest >= emitter->interval));
}

/* How many events wait, and how many there ever were. */
SEXP mon_depth(SEXP pointer)
{
    Emitter *emitter = emitter_of(pointer);
    SEXP depth = PROTECT(Rf_allocVector(REALSXP, 2));
    REAL(depth)[0] = (double)emitter->count;
    REAL(depth)[1] = emitter->seq;
    UNPROTECT(1);
    return depth;
}

/* The oldest events, as many as fit (at least one): their NDJSON, their count, the number of the first. NULL when there are none. */
SEXP mon_take(SEXP pointer, SEXP events, SEXP bytes)
{
    Emitter *emitter = emitter_of(pointer);
    if (emitter->count == 0)
        return R_NilValue;
    size_t count = 0, size = 0;
    while (count < emitter->count && (double)count < Rf_asReal(events)) {
        size_t length = emitter->lines[(emitter->first + count) % emitter->room].length;
        if (count > 0 && (double)(size + length) > Rf_asReal(bytes))
            break;
        size += length;
        count++;
    }
    SEXP taken = PROTECT(Rf_allocVector(VECSXP, 3));
    SEXP body = PROTECT(Rf_allocVector(RAWSXP, (R_xlen_t)size));
    SET_VECTOR_ELT(taken, 0, body);
    SET_VECTOR_ELT(taken, 1, Rf_ScalarReal((double)count));
    SET_VECTOR_ELT(taken, 2, Rf_ScalarReal(emitter->lines[emitter->first].seq));
    unsigned char *to = RAW(body);
    rescue_hold(); /* until mon_in_hand knows of the batch */
    for (size_t i = 0; i < count; i++) {
        Line *line = &emitter->lines[emitter->first];
        memcpy(to, line->data, line->length);
        to += line->length;
        free(line->data);
        emitter->first = (emitter->first + 1) % emitter->room;
    }
    emitter->count -= count;
    emitter->bytes -= size;
    emitter->oldest = clock_monotonic();
    UNPROTECT(2);
    return taken;
}

/* An event's own fields as they would go out, without an emitter: for checking metadata. TRUE, or a list for the first mistake. */
SEXP mon_mend(SEXP event)
{
    static Emitter none = {.site = "", .app = "", .id = ""};
    char event_id[UUID_LENGTH + 1];
    Mistake mistake;
    text_clear(&none.scratch);
    encode_event(&none, event, R_NilValue, 0, 0, &none.scratch, event_id, &mistake);
    return mistake.found ? mistake_of(&mistake, -1) : Rf_ScalarLogical(TRUE);
}
