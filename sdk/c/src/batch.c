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
    }
    return batch;
}

void mon_batch_free(struct mon_batch *batch) {
    if (batch != NULL) {
        mon_buf_free(&batch->body);
        free(batch->ends);
        free(batch->seqs);
        free(batch);
    }
}

bool mon_batch_line(struct mon_batch *batch, uint64_t seq) {
    if (batch->count == batch->room) {
        size_t room = batch->room == 0 ? 64 : batch->room * 2;
        size_t *ends = realloc(batch->ends, room * sizeof *ends);
        if (ends == NULL) {
            return false;
        }
        batch->ends = ends;
        uint64_t *seqs = realloc(batch->seqs, room * sizeof *seqs);
        if (seqs == NULL) {
            return false;
        }
        batch->seqs = seqs;
        batch->room = room;
    }
    if (batch->body.failed) {
        return false;
    }
    batch->ends[batch->count] = batch->body.len;
    batch->seqs[batch->count] = seq;
    batch->count++;
    return true;
}

bool mon_batch_takes(const struct mon_batch *batch, size_t len) {
    return batch->count == 0 || (batch->body.len + len < MON_MAX_BATCH_BYTES && batch->count < MON_MAX_BATCH_EVENTS);
}

uint64_t mon_batch_first_seq(const struct mon_batch *batch) {
    return batch->count == 0 ? 0 : batch->seqs[0];
}

uint64_t mon_batch_last_seq(const struct mon_batch *batch) {
    return batch->count == 0 ? 0 : batch->seqs[batch->count - 1];
}

const char *mon_batch_get(const struct mon_batch *batch, size_t index, size_t *len) {
    size_t start = index == 0 ? 0 : batch->ends[index - 1];
    *len = batch->ends[index] - start - 1;
    return batch->body.data + start;
}

bool mon_batch_halves(const struct mon_batch *batch, struct mon_batch *halves[2]) {
    size_t middle = batch->count / 2;
    for (size_t half = 0; half < 2; half++) {
        struct mon_batch *part = mon_batch_new(batch->emitter_id, batch->ordinal + (half == 0 ? 0 : (int64_t)middle));
        bool whole = part != NULL;
        for (size_t i = half == 0 ? 0 : middle; whole && i < (half == 0 ? middle : batch->count); i++) {
            size_t len;
            const char *line = mon_batch_get(batch, i, &len);
            mon_buf_add(&part->body, line, len + 1);
            whole = mon_batch_line(part, batch->seqs[i]);
        }
        halves[half] = part;
        if (!whole) {
            mon_batch_free(part);
            if (half == 1) {
                mon_batch_free(halves[0]);
            }
            return false;
        }
        part->pending = batch->pending;
        part->replayed = batch->replayed;
        part->taken = batch->taken;
        part->spooled = batch->spooled;
        part->refused = batch->refused;
    }
    memcpy(halves[0]->reports, batch->reports, sizeof batch->reports);
    return true;
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
        batch->seqs[batch->count - 1] = seq_of(line, size, batch->emitter_id);
        line = mon_batch_get(batch, 0, &size);
        batch->seqs[0] = seq_of(line, size, batch->emitter_id);
    }
    return first;
}
