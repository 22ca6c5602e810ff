/* Batches: made, halved, read back from a spool file. */
#include "batch.h"

#include <stdlib.h>

#include "check.h"
#include "json.h"
#include "number.h"

struct mon_batch *mon_batch_new(const char *emitter_id, int64_t ordinal) {
    struct mon_batch *batch = calloc(1, sizeof *batch);
    if (batch != NULL) {
        memcpy(batch->emitter_id, emitter_id, sizeof batch->emitter_id);
        batch->ordinal = ordinal;
        atomic_init(&batch->references, 1);
    }
    return batch;
}

struct mon_batch *mon_batch_hold(struct mon_batch *batch) {
    atomic_fetch_add(&batch->references, 1);
    return batch;
}

void mon_batch_release(struct mon_batch *batch) {
    while (batch != NULL && atomic_fetch_sub(&batch->references, 1) == 1) {
        struct mon_batch *whole = batch->whole;
        mon_buf_free(&batch->body);
        free(batch->lines);
        free(batch);
        batch = whole;
    }
}

bool mon_batch_line(struct mon_batch *batch, uint64_t seq) {
    if (batch->count == batch->room) {
        size_t room = batch->room == 0 ? 64 : batch->room * 2;
        struct mon_line *lines = realloc(batch->lines, room * sizeof *lines);
        if (lines == NULL) {
            return false;
        }
        batch->lines = lines;
        batch->room = room;
    }
    if (batch->body.failed) {
        return false;
    }
    batch->lines[batch->count++] = (struct mon_line){.end = batch->body.len, .seq = seq};
    return true;
}

bool mon_batch_takes(const struct mon_batch *batch, size_t len) {
    return batch->count == 0 || (batch->body.len + len < MON_MAX_BATCH_BYTES && batch->count < MON_MAX_BATCH_EVENTS);
}

uint64_t mon_batch_first_seq(const struct mon_batch *batch) {
    return batch->count == 0 ? 0 : batch->lines[0].seq;
}

uint64_t mon_batch_last_seq(const struct mon_batch *batch) {
    return batch->count == 0 ? 0 : batch->lines[batch->count - 1].seq;
}

const char *mon_batch_get(const struct mon_batch *batch, size_t index, size_t *len) {
    size_t start = index == 0 ? 0 : batch->lines[index - 1].end;
    *len = batch->lines[index].end - start - 1;
    return batch->body.data + start;
}

/* Adds lines of another batch; false without memory. */
static bool copy_lines(struct mon_batch *batch, const struct mon_batch *other, size_t first, size_t count) {
    for (size_t i = first; i < first + count; i++) {
        size_t len;
        const char *line = mon_batch_get(other, i, &len);
        mon_buf_add(&batch->body, line, len + 1);
        if (!mon_batch_line(batch, other->lines[i].seq)) {
            return false;
        }
    }
    return true;
}

struct mon_batch *mon_batch_piece(struct mon_batch *batch, size_t first, size_t count) {
    struct mon_batch *piece = mon_batch_new(batch->emitter_id, batch->ordinal + (int64_t)first);
    if (piece == NULL || !copy_lines(piece, batch, first, count)) {
        mon_batch_release(piece);
        return NULL;
    }
    piece->replayed = batch->replayed;
    piece->whole = mon_batch_hold(batch->whole != NULL ? batch->whole : batch);
    piece->first = batch->first + first;
    return piece;
}

bool mon_batch_halves(struct mon_batch *batch, struct mon_batch *halves[2]) {
    size_t middle = batch->count / 2;
    halves[0] = mon_batch_piece(batch, 0, middle);
    halves[1] = halves[0] == NULL ? NULL : mon_batch_piece(batch, middle, batch->count - middle);
    if (halves[1] == NULL) {
        mon_batch_release(halves[0]);
        return false;
    }
    return true;
}

struct mon_batch *mon_batch_joined(struct mon_batch *const *batches, size_t count) {
    struct mon_batch *joined = mon_batch_new(batches[0]->emitter_id, batches[0]->ordinal);
    for (size_t i = 0; i < count && joined != NULL; i++) {
        if (!copy_lines(joined, batches[i], 0, batches[i]->count)) {
            mon_batch_release(joined);
            joined = NULL;
        }
    }
    return joined;
}

/* Who emitted a line, and under which number; 0 when it does not say. */
static uint64_t seq_of(const char *line, size_t len, char emitter_id[37]) {
    struct mon_json_document document;
    uint64_t seq = 0;
    if (mon_json_parse(&document, line, len)) {
        const struct mon_json *emitter = mon_json_get(document.root, "emitter");
        const struct mon_json *id = mon_json_get(emitter, "id");
        const struct mon_json *number = mon_json_get(emitter, "seq");
        if (id != NULL && id->type == MON_JSON_STRING && mon_is_uuid(id->text, id->len) && number != NULL && number->type == MON_JSON_INTEGER) {
            seq = strtoull(number->text, NULL, 10);
            memcpy(emitter_id, id->text, 37);
        }
    }
    mon_json_free(&document);
    return seq;
}

struct mon_batch *mon_batch_unpack(const char *data, size_t len) {
    struct mon_batch *first = NULL;
    struct mon_batch **last = &first;
    struct mon_batch *batch = NULL;
    char nobody[37] = "";
    const char *end;
    while (len > 0 && (end = memchr(data, '\n', len)) != NULL) {
        size_t size = (size_t)(end - data) + 1;
        if (size > 1) {
            if (batch == NULL || !mon_batch_takes(batch, size)) {
                batch = mon_batch_new(nobody, -1);
                if (batch == NULL) {
                    break;
                }
                batch->replayed = true;
                *last = batch;
                last = &batch->next;
            }
            mon_buf_add(&batch->body, data, size);
            if (!mon_batch_line(batch, 0)) {
                break;
            }
        }
        data += size;
        len -= size;
    }
    for (batch = first; batch != NULL; batch = batch->next) {
        if (batch->count == 0) {
            continue;
        }
        size_t size;
        const char *line = mon_batch_get(batch, batch->count - 1, &size);
        batch->lines[batch->count - 1].seq = seq_of(line, size, batch->emitter_id);
        line = mon_batch_get(batch, 0, &size);
        batch->lines[0].seq = seq_of(line, size, batch->emitter_id);
    }
    return first;
}
