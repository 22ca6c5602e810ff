/* Batches: made, halved, read back from a spool file. */
#include "batch.h"

#include <stdlib.h>

#include "check.h"
#include "json.h"
#include "number.h"
#include "text.h"

static const char NOBODY[37] = "";

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

/* Notes who emitted the first and the last line of a batch from disk, and under which numbers. */
static void name_ends(struct mon_batch *batch) {
    if (batch->count > 0) {
        size_t size;
        const char *line = mon_batch_get(batch, batch->count - 1, &size);
        batch->lines[batch->count - 1].seq = seq_of(line, size, batch->emitter_id);
        line = mon_batch_get(batch, 0, &size);
        batch->lines[0].seq = seq_of(line, size, batch->emitter_id);
    }
}

struct mon_batch *mon_batch_unpack(const char *data, size_t len) {
    struct mon_batch *first = NULL;
    struct mon_batch **last = &first;
    struct mon_batch *batch = NULL;
    const char *end;
    while (len > 0 && (end = memchr(data, '\n', len)) != NULL) {
        size_t size = (size_t)(end - data) + 1;
        if (size > 1) {
            if (batch == NULL || !mon_batch_takes(batch, size)) {
                batch = mon_batch_new(NOBODY, -1);
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
        name_ends(batch);
    }
    return first;
}

/* --------------------------------------------------------------------------------------------------------------------- damage */

enum soundness { SOUND, DAMAGED, UNKNOWN };

static bool is_utf8(const char *text, size_t len) {
    size_t skip;
    size_t size;
    for (size_t at = 0; at < len; at += size) {
        size = mon_text_sequence(text + at, len - at, &skip);
        if (size == 0) {
            return false;
        }
    }
    return true;
}

static enum soundness soundness_of(const char *line, size_t len) {
    struct mon_json_document document;
    enum soundness found = SOUND;
    if (!is_utf8(line, len)) {
        return DAMAGED;
    }
    if (!mon_json_parse(&document, line, len)) {
        found = strcmp(document.error, MON_JSON_NO_MEMORY) == 0 ? UNKNOWN : DAMAGED;
    } else if (document.root->type != MON_JSON_OBJECT) {
        found = DAMAGED;
    }
    mon_json_free(&document);
    return found;
}

static void release_all(struct mon_batch *list) {
    while (list != NULL) {
        struct mon_batch *batch = list;
        list = batch->next;
        mon_batch_release(batch);
    }
}

/* The damaged lines of a list, under their places from `number` on; NULL without memory. */
static struct mon_batch *damaged_of(const struct mon_batch *list, uint64_t number) {
    struct mon_batch *damaged = mon_batch_new(NOBODY, -1);
    bool going = damaged != NULL;
    for (const struct mon_batch *batch = list; batch != NULL; batch = batch->next) {
        for (size_t i = 0; going && i < batch->count; i++, number++) {
            size_t len;
            const char *line = mon_batch_get(batch, i, &len);
            enum soundness found = soundness_of(line, len);
            if (found == DAMAGED) {
                mon_buf_add(&damaged->body, line, len + 1);
                going = mon_batch_line(damaged, number);
            } else {
                going = found == SOUND;
            }
        }
    }
    if (!going) {
        mon_batch_release(damaged);
        return NULL;
    }
    return damaged;
}

/* What is left of a list without these; false without memory. */
static bool sound_of(struct mon_batch *list, uint64_t number, const struct mon_batch *damaged, struct mon_batch **sound) {
    struct mon_batch **last = sound;
    size_t passed = 0;
    *sound = NULL;
    for (const struct mon_batch *batch = list; batch != NULL; batch = batch->next) {
        struct mon_batch *part = mon_batch_new(NOBODY, -1);
        bool going = part != NULL;
        for (size_t i = 0; going && i < batch->count; i++, number++) {
            if (passed < damaged->count && damaged->lines[passed].seq == number) {
                passed++;
            } else {
                going = copy_lines(part, batch, i, 1);
            }
        }
        if (!going) {
            mon_batch_release(part);
            release_all(*sound);
            return false;
        }
        part->replayed = true;
        name_ends(part);
        *last = part;
        last = &part->next;
    }
    return true;
}

bool mon_batch_sort_out(struct mon_batch **list, uint64_t number, struct mon_batch **damaged) {
    struct mon_batch *sound;
    *damaged = damaged_of(*list, number);
    if (*damaged == NULL || (*damaged)->count == 0) {
        bool known = *damaged != NULL;
        mon_batch_release(*damaged);
        *damaged = NULL;
        return known;
    }
    if (!sound_of(*list, number, *damaged, &sound)) {
        mon_batch_release(*damaged);
        *damaged = NULL;
        return false;
    }
    release_all(*list);
    *list = sound;
    return true;
}
