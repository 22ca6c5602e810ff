/* What a target will never take is kept where nobody replays it: dead letters, in the form of the sidecar's. */
#define _GNU_SOURCE
#include "aside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "json.h"
#include "log.h"
#include "number.h"
#include "text.h"

static const char DAMAGED[] = "the spool file is damaged here";

/* Quotes a line that may be damaged: of the bytes that no event holds, zero bytes stay what they are. */
static void quote_line(struct mon_buf *buf, const char *line, size_t len) {
    mon_buf_char(buf, '"');
    for (;;) {
        const char *zero = memchr(line, '\0', len);
        size_t run = zero == NULL ? len : (size_t)(zero - line);
        mon_text_escape(buf, line, run);
        if (zero == NULL) {
            break;
        }
        mon_buf_text(buf, "\\u0000");
        line += run + 1;
        len -= run + 1;
    }
    mon_buf_char(buf, '"');
}

/* The number of an event in its process, else `otherwise`. */
static uint64_t seq_of(const struct mon_json *event, uint64_t otherwise) {
    const struct mon_json *seq = mon_json_get(mon_json_get(event, "emitter"), "seq");
    return seq != NULL && seq->type == MON_JSON_INTEGER ? strtoull(seq->text, NULL, 10) : otherwise;
}

void mon_aside_add(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, size_t index, const char *why) {
    size_t len;
    const char *line = mon_batch_get(batch, index, &len);
    struct mon_json_document document;
    const struct mon_json *event = mon_json_parse(&document, line, len) ? document.root : NULL;
    const struct mon_json *id = mon_json_get(event, "event_id");
    uint64_t known = batch->lines[index].seq;
    uint64_t seq = known != 0 ? known : seq_of(event, mon_batch_first_seq(batch) + index);
    uint64_t micros = mon_now_micros();
    time_t now = (time_t)(micros / 1000000);
    struct tm parts;
    char moment[24];
    gmtime_r(&now, &parts);
    strftime(moment, sizeof moment, "%Y-%m-%dT%H:%M:%S", &parts);
    struct mon_buf *letters = &aside->letters;
    mon_buf_format(letters, "{\"dead_at\":\"%s.%03u+00:00\",\"backend\":", moment, (unsigned)(micros / 1000 % 1000));
    mon_text_quote(letters, backend, strlen(backend));
    mon_buf_format(letters, ",\"seq\":%llu,\"event_id\":", (unsigned long long)seq);
    if (id != NULL && id->type == MON_JSON_STRING) {
        mon_text_quote(letters, id->text, id->len);
    } else {
        mon_buf_text(letters, "null");
    }
    mon_buf_text(letters, ",\"reason\":");
    mon_text_quote(letters, why, strlen(why));
    mon_buf_text(letters, ",\"event\":");
    quote_line(letters, line, len);
    mon_buf_text(letters, "}\n");
    mon_json_free(&document);
    if (aside->count++ == 0) {
        aside->first = seq;
        snprintf(aside->reason, sizeof aside->reason, "%s", why);
    }
}

void mon_aside_add_all(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, const char *why) {
    for (size_t i = 0; i < batch->count; i++) {
        mon_aside_add(aside, backend, batch, i, why);
    }
}

void mon_aside_add_damaged(struct mon_aside *aside, const char *backend, const struct mon_batch *damaged) {
    mon_aside_add_all(aside, backend, damaged, DAMAGED);
}

void mon_aside_add_refused(struct mon_aside *aside, const char *backend, const struct mon_batch *batch, const struct mon_answer *answer) {
    size_t at = 0;
    size_t index;
    const char *why;
    if (answer->refused == NULL || answer->refused->failed) { /* without memory for their names: their number */
        aside->letters.failed = true;
        aside->count += answer->rejected;
        snprintf(aside->reason, sizeof aside->reason, "%s", answer->first_rejected);
    }
    while (mon_answer_refused(answer, &at, &index, &why)) {
        mon_aside_add(aside, backend, batch, index, why);
    }
}

void mon_aside_free(struct mon_aside *aside) {
    mon_buf_free(&aside->letters);
}

bool mon_aside_keep(const struct mon_aside *aside, const struct mon_target *target, const char *name) {
    int error = aside->letters.failed ? ENOMEM : mon_spool_set_aside(target->spool, name, &aside->letters);
    if (error != 0) {
        mon_complain(target, error);
    }
    return error == 0;
}

void mon_aside_tell(const struct mon_aside *aside, const struct mon_target *target, bool kept) {
    mon_log(MON_WARNING, "%s refused %zu event(s) for good%s%s; the first: %s", target->counts.name, aside->count, kept ? ", kept as *.refused in " : "",
            kept ? mon_spool_folder(target->spool) : "", aside->reason);
}

/* ------------------------------------------------------------------------------------------------------- of what is on its way */

void mon_put_aside(struct mon_target *target, struct mon_batch *batch, const char *why) {
    mon_log(MON_SEVERE, "%s refused a batch of %zu event(s) for good: %s", target->counts.name, batch->count, why);
    if (target->spool != NULL) {
        struct mon_aside aside = {0};
        char name[MON_SPOOL_NAME];
        mon_spool_name(target->spool, mon_batch_first_seq(batch), name);
        if (target->delivery->settings->direct) {
            mon_aside_add_all(&aside, target->counts.name, batch, why);
        } else { /* a person looks at what a sidecar refused as a whole, and hands it in again as it is */
            mon_buf_add(&aside.letters, batch->body.data, batch->body.len);
        }
        (void)mon_aside_keep(&aside, target, name);
        mon_aside_free(&aside);
    }
    mon_batch_resolve(target, batch, MON_FATE_REFUSED, 0);
}

void mon_note_rejections(struct mon_target *target, const struct mon_batch *batch, const struct mon_answer *answer) {
    if (answer->rejected == 0) {
        return;
    }
    if (!target->type->names_refused) {
        const char *where = strcmp(target->type->name, "sidecar") == 0 ? " and keeps them in quarantine" : " for good";
        mon_log(MON_WARNING, "%s refused %zu event(s)%s; the first: %s", target->counts.name, answer->rejected, where, answer->first_rejected);
        return;
    }
    struct mon_aside aside = {0};
    char name[MON_SPOOL_NAME];
    mon_aside_add_refused(&aside, target->counts.name, batch, answer);
    bool kept = false;
    if (target->spool != NULL) {
        mon_spool_name(target->spool, aside.first, name);
        kept = mon_aside_keep(&aside, target, name);
    }
    mon_aside_tell(&aside, target, kept);
    mon_aside_free(&aside);
}
