/* Fields that are one value: text, choices, ids, moments, numbers. */
#include "fields.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FIRST_YEAR = 1970, LAST_YEAR = 2099 };

bool write_short(Writer *writer, const char *path, SEXP value, size_t longest)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    if (length == 0)
        return fail(writer, path, "expected at least 1 character(s)%s", "");
    if (length > longest && utf8_characters(data, length) > longest)
        return fail(writer, path, "expected at most %s character(s)", longest == MAX_SITE ? "64" : "256");
    json_string(writer->out, data, length);
    return true;
}

bool write_text(Writer *writer, const char *path, SEXP value)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    json_string(writer->out, data, length);
    return true;
}

bool write_message(Writer *writer, SEXP value, bool *truncated)
{
    const char *data;
    size_t length;
    if (!string_of(writer, "message", value, &data, &length))
        return false;
    if (length > MAX_MESSAGE_BYTES) {
        length = MAX_MESSAGE_BYTES;
        while (length > 0 && ((unsigned char)data[length] & 0xC0) == 0x80)
            length--;
        *truncated = true;
    }
    json_string(writer->out, data, length);
    return true;
}

int choice(const char *const *choices, SEXP value)
{
    if (TYPEOF(value) == STRSXP && Rf_xlength(value) == 1)
        for (int i = 0; choices[i] != NULL; i++)
            if (strcmp(CHAR(STRING_ELT(value, 0)), choices[i]) == 0)
                return i;
    return -1;
}

bool write_choice(Writer *writer, const char *path, SEXP value, const char *const *choices)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    int found = choice(choices, value);
    if (found < 0) {
        char message[PATH_BYTES] = "expected one of ";
        for (int i = 0; choices[i] != NULL; i++) {
            strncat(message, choices[i], sizeof message - strlen(message) - 1);
            strncat(message, choices[i + 1] ? ", " : ", got '", sizeof message - strlen(message) - 1);
        }
        snprintf(message + strlen(message), sizeof message - strlen(message), "%.100s'", data);
        return fail(writer, path, "%s", message);
    }
    json_string(writer->out, choices[found], strlen(choices[found]));
    return true;
}

static bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

bool write_uuid(Writer *writer, const char *path, SEXP value, char *copy)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    bool is_uuid = length == UUID_LENGTH;
    for (size_t i = 0; is_uuid && i < UUID_LENGTH; i++)
        is_uuid = i == 8 || i == 13 || i == 18 || i == 23 ? data[i] == '-' : is_hex(data[i]);
    if (!is_uuid)
        return fail(writer, path, "expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057%s", "");
    json_string(writer->out, data, length);
    if (copy != NULL)
        memcpy(copy, data, UUID_LENGTH + 1);
    return true;
}

bool write_hex(Writer *writer, const char *path, SEXP value, size_t digits)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    bool fits = length == digits;
    for (size_t i = 0; fits && i < digits; i++)
        fits = is_hex(data[i]);
    if (!fits)
        return fail(writer, path, "expected %s lower-case hexadecimal digits", digits == 32 ? "32" : "16");
    json_string(writer->out, data, length);
    return true;
}

static int digits_at(const char *text, int from, int count)
{
    int number = 0;
    for (int i = from; i < from + count; i++) {
        if (!isdigit((unsigned char)text[i]))
            return -1;
        number = number * 10 + text[i] - '0';
    }
    return number;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

/* The year in UTC of an RFC 3339 timestamp with offset, or -1 when it is none. */
static int year_of(const char *text, size_t length)
{
    if (length < 20)
        return -1;
    int year = digits_at(text, 0, 4), month = digits_at(text, 5, 2), day = digits_at(text, 8, 2);
    int hour = digits_at(text, 11, 2), minute = digits_at(text, 14, 2), second = digits_at(text, 17, 2);
    bool marks = text[4] == '-' && text[7] == '-' && strchr("Tt ", text[10]) && text[13] == ':' && text[16] == ':';
    if (!marks || year < 1 || month < 1 || month > 12 || day < 1 || day > days_in(year, month) || hour < 0 || hour > 23 ||
        minute < 0 || minute > 59 || second < 0 || second > 59)
        return -1;
    size_t at = 19;
    if (text[at] == '.') {
        size_t start = ++at;
        while (at < length && isdigit((unsigned char)text[at]))
            at++;
        if (at == start)
            return -1;
    }
    int offset = 0;
    if (at + 1 == length && (text[at] == 'Z' || text[at] == 'z')) {
        offset = 0;
    } else if (at + 6 == length && (text[at] == '+' || text[at] == '-') && text[at + 3] == ':') {
        int hours = digits_at(text, (int)at + 1, 2), minutes = digits_at(text, (int)at + 4, 2);
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59)
            return -1;
        offset = (text[at] == '-' ? -1 : 1) * (hours * 60 + minutes);
    } else {
        return -1;
    }
    int local = hour * 60 + minute - offset;
    if (local < 0 && month == 1 && day == 1)
        return year - 1;
    if (local >= 1440 && month == 12 && day == 31)
        return year + 1;
    return year;
}

void write_moment(Text *out, int64_t micros)
{
    time_t seconds = (time_t)(micros / 1000000);
    struct tm parts;
    char text[48];
    gmtime_r(&seconds, &parts);
    size_t length = strftime(text, sizeof text, "\"%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, sizeof text - length, ".%06dZ\"", (int)(micros % 1000000));
    text_put(out, text);
}

bool write_timestamp(Writer *writer, SEXP value)
{
    if (Rf_inherits(value, "POSIXct") && Rf_xlength(value) == 1 && (TYPEOF(value) == REALSXP || TYPEOF(value) == INTSXP)) {
        double seconds = Rf_asReal(value);
        if (!(seconds >= 0 && seconds < 4102444800.0))
            return fail(writer, "timestamp", "expected a moment from 1970 to 2099%s", "");
        write_moment(writer->out, (int64_t)llround(seconds * 1e6));
        return true;
    }
    const char *data;
    size_t length;
    if (!string_of(writer, "timestamp", value, &data, &length))
        return false;
    int year = year_of(data, length);
    if (year < 0)
        return fail(writer, "timestamp", "expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z%s", "");
    if (year < FIRST_YEAR || year > LAST_YEAR) {
        char text[16];
        snprintf(text, sizeof text, "%d", year);
        return fail(writer, "timestamp", "expected a moment from 1970 to 2099, got year %s", text);
    }
    json_string(writer->out, data, length);
    return true;
}

/* A number; `exact` points to it when it is an integer64, which a double can't hold. */
bool number_of(Writer *writer, const char *path, SEXP value, double *number, int64_t *exact, bool *is_exact)
{
    *is_exact = false;
    bool alone = Rf_xlength(value) == 1 && !Rf_inherits(value, "factor");
    if (alone && TYPEOF(value) == REALSXP && Rf_inherits(value, "integer64")) {
        memcpy(exact, REAL(value), sizeof *exact);
        *is_exact = *exact != INT64_MIN;
        *number = *is_exact ? (double)*exact : NA_REAL;
    } else if (alone && TYPEOF(value) == REALSXP) {
        *number = REAL(value)[0];
    } else if (alone && TYPEOF(value) == INTSXP) {
        *number = INTEGER(value)[0] == NA_INTEGER ? NA_REAL : INTEGER(value)[0];
    } else {
        return fail(writer, path, "expected number, got %s", type_name(value));
    }
    return true;
}

void write_number(Text *out, double number, int64_t exact, bool is_exact)
{
    if (is_exact) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)exact);
        text_put(out, text);
    } else {
        json_number(out, number);
    }
}

bool write_bounded(Writer *writer, const char *path, SEXP value, double most)
{
    double number;
    int64_t exact;
    bool is_exact;
    if (!number_of(writer, path, value, &number, &exact, &is_exact))
        return false;
    if (!(number >= 0) || isinf(number))
        return fail(writer, path, "expected a number not below 0%s", "");
    if (number > most)
        return fail(writer, path, "expected a number not above 1%s", "");
    write_number(writer->out, number, exact, is_exact);
    return true;
}
