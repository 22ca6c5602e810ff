/* From a record to a line of JSON. */
#include "record.h"

#include "number.h"

static size_t add(char *out, size_t at, const char *text) {
    size_t len = strlen(text);
    memcpy(out + at, text, len);
    return at + len;
}

static size_t add_padded(char *out, size_t at, uint64_t value, size_t digits) {
    for (size_t i = digits; i > 0; i--) {
        out[at + i - 1] = (char)('0' + value % 10);
        value /= 10;
    }
    return at + digits;
}

/* Howard Hinnant's civil_from_days, for days from 1970 on. */
static size_t add_time(char *out, size_t at, uint64_t micros) {
    uint64_t seconds = micros / 1000000;
    uint64_t days = seconds / 86400 + 719468;
    uint64_t era = days / 146097;
    uint64_t day_of_era = days % 146097;
    uint64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t shifted = (5 * day_of_year + 2) / 153;
    uint64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    at = add_padded(out, at, year_of_era + era * 400 + (month <= 2 ? 1 : 0), 4);
    out[at++] = '-';
    at = add_padded(out, at, month, 2);
    out[at++] = '-';
    at = add_padded(out, at, day_of_year - (153 * shifted + 2) / 5 + 1, 2);
    out[at++] = 'T';
    at = add_padded(out, at, seconds / 3600 % 24, 2);
    out[at++] = ':';
    at = add_padded(out, at, seconds / 60 % 60, 2);
    out[at++] = ':';
    at = add_padded(out, at, seconds % 60, 2);
    out[at++] = '.';
    at = add_padded(out, at, micros % 1000000, 6);
    out[at++] = 'Z';
    return at;
}

size_t mon_record_head(char out[MON_RECORD_HEAD], const struct mon_record *record, const struct mon_origin *origin) {
    size_t at = 0;
    out[at++] = '{';
    if (!(record->flags & MON_RECORD_HAS_ID)) {
        at = add(out, at, "\"event_id\":\"");
        mon_id_write(&origin->ids, out + at, record->id_millis, record->seq);
        at += MON_ID_SIZE - 1;
        at = add(out, at, "\",");
    }
    if (!(record->flags & MON_RECORD_HAS_TIME)) {
        at = add(out, at, "\"timestamp\":\"");
        at = add_time(out, at, record->micros);
        at = add(out, at, "\",");
    }
    at = add(out, at, "\"emitter\":{\"id\":\"");
    at = add(out, at, origin->emitter_id);
    at = add(out, at, "\",\"seq\":");
    at += mon_number_unsigned(out + at, record->seq);
    return add(out, at, "},");
}

void mon_record_line(struct mon_buf *buf, const struct mon_record *record, const struct mon_origin *origin) {
    char head[MON_RECORD_HEAD];
    mon_buf_add(buf, head, mon_record_head(head, record, origin));
    mon_number_expand(buf, (const char *)(record + 1), record->len);
    if (!buf->failed) {
        buf->data[buf->len - 1] = '}'; /* in place of the last comma */
    }
    mon_buf_char(buf, '\n');
}
