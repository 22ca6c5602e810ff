/* The rules of the contract for single fields. */
#include "check.h"

#include <stdio.h>
#include <string.h>

const char *const mon_field_names[MON_FIELDS] = {
    "event_id", "timestamp", "kind",     "name",        "site_id", "app",     "run_id", "parent_run_id", "entities", "status",
    "severity", "message",   "progress", "duration_ms", "state",   "metrics", "error",  "trace_id",      "span_id",  "attributes",
};
const char *const mon_kind_names[7] = {"start", "progress", "finish", "error", "metric", "log", "state"};
const char *const mon_severity_names[5] = {"debug", "info", "warning", "error", "critical"};
const char *const mon_outcome_names[3] = {"ok", "failed", "aborted"};

enum mon_field mon_field_of(const char *name, size_t len) {
    int place = mon_choice(name, len, mon_field_names, MON_FIELDS);
    return place < 0 ? MON_F_NONE : (enum mon_field)place;
}

const char *mon_field_kinds(enum mon_field field, mon_kind kind) {
    switch (field) {
    case MON_F_STATUS:
    case MON_F_DURATION_MS:
    case MON_F_ERROR: return kind == MON_FINISH || kind == MON_ERROR ? NULL : "finish or error";
    case MON_F_PROGRESS: return kind == MON_PROGRESS ? NULL : "progress";
    case MON_F_STATE: return kind == MON_STATE ? NULL : "state";
    default: return NULL;
    }
}

int mon_choice(const char *text, size_t len, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], text, len) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static bool is_hex_digit(char byte) {
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
}

bool mon_is_hex(const char *text, size_t len, size_t digits) {
    for (size_t i = 0; i < len; i++) {
        if (!is_hex_digit(text[i])) {
            return false;
        }
    }
    return len == digits;
}

bool mon_is_uuid(const char *text, size_t len) {
    if (len != MON_ID_SIZE - 1) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text[i] != '-' : !is_hex_digit(text[i])) {
            return false;
        }
    }
    return true;
}

/* Howard Hinnant's days_from_civil. */
int64_t mon_seconds_of(int64_t year, unsigned month, unsigned day, unsigned hour, unsigned minute, unsigned second) {
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    unsigned year_of_era = (unsigned)(year - era * 400);
    unsigned day_of_year = (153 * (month + (month > 2 ? (unsigned)-3 : 9)) + 2) / 5 + day - 1;
    unsigned day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    int64_t days = era * 146097 + (int64_t)day_of_era - 719468;
    return ((days * 24 + hour) * 60 + minute) * 60 + second;
}

static bool number_at(const char *text, size_t digits, unsigned *value) {
    *value = 0;
    for (size_t i = 0; i < digits; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        *value = *value * 10 + (unsigned)(text[i] - '0');
    }
    return true;
}

static bool is_leap(unsigned year) {
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

const char *mon_timestamp_problem(const char *text, size_t len, char room[64]) {
    static const char expected[] = "expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z";
    static const unsigned month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned year, month, day, hour, minute, second;
    if (len < 20 || !number_at(text, 4, &year) || text[4] != '-' || !number_at(text + 5, 2, &month) || text[7] != '-' ||
        !number_at(text + 8, 2, &day) || (text[10] != 'T' && text[10] != 't' && text[10] != ' ') || !number_at(text + 11, 2, &hour) ||
        text[13] != ':' || !number_at(text + 14, 2, &minute) || text[16] != ':' || !number_at(text + 17, 2, &second)) {
        return expected;
    }
    if (year < 1 || month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59 ||
        day > month_days[month - 1] + (month == 2 && is_leap(year) ? 1U : 0U)) {
        return expected;
    }
    size_t at = 19;
    if (text[at] == '.') {
        size_t start = ++at;
        while (at < len && text[at] >= '0' && text[at] <= '9') {
            at++;
        }
        if (at == start) {
            return expected;
        }
    }
    int64_t offset = 0;
    if (at + 1 == len && (text[at] == 'Z' || text[at] == 'z')) {
        at++;
    } else if (at + 6 == len && (text[at] == '+' || text[at] == '-')) {
        unsigned hours, minutes;
        if (!number_at(text + at + 1, 2, &hours) || text[at + 3] != ':' || !number_at(text + at + 4, 2, &minutes) || hours > 23 || minutes > 59) {
            return expected;
        }
        offset = (int64_t)(hours * 3600 + minutes * 60) * (text[at] == '-' ? -1 : 1);
    } else {
        return expected;
    }
    int64_t moment = mon_seconds_of(year, month, day, hour, minute, second) - offset;
    int64_t first = mon_seconds_of(1970, 1, 1, 0, 0, 0);
    int64_t end = mon_seconds_of(2100, 1, 1, 0, 0, 0);
    if (moment < first || moment >= end) {
        int64_t shown = (int64_t)year;
        if (moment < first && shown >= 1970) {
            shown = 1969;
        } else if (moment >= end && shown < 2100) {
            shown = 2100;
        }
        snprintf(room, 64, "expected a moment from 1970 to 2099, got year %lld", (long long)shown);
        return room;
    }
    return NULL;
}
