/* Which hour an event belongs to. */
#define _GNU_SOURCE
#include "partition.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "json.h"
#include "sha256.h"

static int64_t moment_of(const char *text, size_t len) {
    char room[64];
    if (mon_timestamp_problem(text, len, room) != NULL) {
        return -1;
    }
    unsigned part[6] = {0};
    static const size_t places[6] = {0, 5, 8, 11, 14, 17};
    for (size_t i = 0; i < 6; i++) {
        for (size_t j = 0; j < (i == 0 ? 4U : 2U); j++) {
            part[i] = part[i] * 10 + (unsigned)(text[places[i] + j] - '0');
        }
    }
    int64_t moment = mon_seconds_of(part[0], part[1], part[2], part[3], part[4], part[5]);
    if (text[len - 3] == ':') {
        int64_t offset = ((text[len - 5] - '0') * 10 + text[len - 4] - '0') * 3600 + ((text[len - 2] - '0') * 10 + text[len - 1] - '0') * 60;
        moment -= text[len - 6] == '-' ? -offset : offset;
    }
    return moment;
}

int64_t mon_line_moment(const char *line, size_t len) {
    static const char ours[] = "\"timestamp\":\"";
    const char *at = len > 80 ? memmem(line, 80, ours, sizeof ours - 1) : NULL;
    if (at != NULL && at - line <= 52 && at[sizeof ours - 1 + 27] == '"') { /* as this SDK writes it */
        return moment_of(at + sizeof ours - 1, 27);
    }
    struct mon_json_document document;
    int64_t moment = -1;
    if (mon_json_parse(&document, line, len)) {
        const struct mon_json *timestamp = mon_json_get(document.root, "timestamp");
        if (timestamp != NULL && timestamp->type == MON_JSON_STRING) {
            moment = moment_of(timestamp->text, timestamp->len);
        }
    }
    mon_json_free(&document);
    return moment;
}

static struct mon_hour *hour_of(struct mon_hours *hours, int64_t moment) {
    char folder[MON_PARTITION];
    struct tm parts;
    time_t seconds = (time_t)(moment < 0 ? 0 : moment);
    gmtime_r(&seconds, &parts);
    strftime(folder, sizeof folder, "date=%Y-%m-%d/hour=%H", &parts);
    for (size_t i = 0; i < hours->count; i++) {
        if (strcmp(hours->list[i].folder, folder) == 0) {
            return &hours->list[i];
        }
    }
    struct mon_hour *list = realloc(hours->list, (hours->count + 1) * sizeof *list);
    if (list == NULL) {
        return NULL;
    }
    hours->list = list;
    struct mon_hour *added = &list[hours->count++];
    *added = (struct mon_hour){0};
    memcpy(added->folder, folder, sizeof folder);
    return added;
}

bool mon_hours_of(const struct mon_batch *batch, struct mon_hours *hours) {
    *hours = (struct mon_hours){0};
    for (size_t i = 0; i < batch->count; i++) {
        size_t len;
        const char *line = mon_batch_get(batch, i, &len);
        struct mon_hour *hour = hour_of(hours, mon_line_moment(line, len));
        if (hour == NULL) {
            mon_hours_free(hours);
            return false;
        }
        mon_buf_add(&hour->lines, line, len + 1);
        /* of a batch from disk only the ends are known: its hours then share them, and differ by their folder */
        hour->first_seq = batch->replayed ? mon_batch_first_seq(batch) : hour->count == 0 ? batch->lines[i].seq : hour->first_seq;
        hour->last_seq = batch->replayed ? mon_batch_last_seq(batch) : batch->lines[i].seq;
        hour->count++;
    }
    for (size_t i = 0; i < hours->count; i++) {
        if (hours->list[i].lines.failed) {
            mon_hours_free(hours);
            return false;
        }
    }
    return true;
}

void mon_hours_free(struct mon_hours *hours) {
    for (size_t i = 0; i < hours->count; i++) {
        mon_buf_free(&hours->list[i].lines);
    }
    free(hours->list);
    *hours = (struct mon_hours){0};
}

void mon_hour_name(const struct mon_batch *batch, const struct mon_hour *hour, const char *backend, char name[160]) {
    char emitter[MON_SHA256_HEX];
    if (batch->emitter_id[0] != '\0') {
        snprintf(emitter, sizeof emitter, "%s", batch->emitter_id);
    } else { /* events that name no emitter: their content does */
        mon_sha256_hex(hour->lines.data, hour->lines.len, emitter);
        emitter[36] = '\0';
    }
    snprintf(name, 160, "%.36s%s%.40s-%020llu-%020llu", emitter, backend[0] == '\0' ? "" : ".", backend, (unsigned long long)hour->first_seq,
             (unsigned long long)hour->last_seq);
}
