/* The contract of an event: names the first mistake, or writes the event as JSON with what the SDK fills in. */
#include "emitter.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FIRST_YEAR = 1970, LAST_YEAR = 2099, DISTINCT = 32 };

typedef enum {
    EVENT_ID, TIMESTAMP, KIND, NAME, SITE_ID, APP, RUN_ID, PARENT_RUN_ID, ENTITIES, STATUS, SEVERITY, MESSAGE, PROGRESS,
    DURATION_MS, STATE, METRICS, ERROR_, TRACE_ID, SPAN_ID, ATTRIBUTES, FIELDS, UNKNOWN = -1
} Field;

static const char *const FIELD_NAMES[FIELDS] = {
    "event_id", "timestamp", "kind", "name", "site_id", "app", "run_id", "parent_run_id", "entities", "status", "severity",
    "message", "progress", "duration_ms", "state", "metrics", "error", "trace_id", "span_id", "attributes"
};
static const char *const KINDS[] = {"start", "progress", "finish", "error", "metric", "log", "state", NULL};
static const char *const STATUSES[] = {"ok", "failed", "aborted", NULL};
static const char *const SEVERITIES[] = {"debug", "info", "warning", "error", "critical", NULL};

typedef struct {
    Text *out;
    Text *mended;
    Mistake *mistake;
} Writer;

static bool fail(Writer *writer, const char *path, const char *format, const char *detail)
{
    writer->mistake->found = true;
    snprintf(writer->mistake->path, PATH_BYTES, "%s", path);
    snprintf(writer->mistake->message, PATH_BYTES, format, detail);
    return false;
}

static const char *type_name(SEXP value)
{
    if (value == R_NilValue)
        return "null";
    if (Rf_inherits(value, "factor"))
        return "string";
    if (Rf_xlength(value) != 1 && TYPEOF(value) != VECSXP && Rf_isVectorAtomic(value))
        return Rf_getAttrib(value, R_NamesSymbol) == R_NilValue ? "array" : "object";
    switch (TYPEOF(value)) {
    case LGLSXP: return LOGICAL(value)[0] == NA_LOGICAL ? "null" : "boolean";
    case INTSXP: return INTEGER(value)[0] == NA_INTEGER ? "null" : "integer";
    case REALSXP: return "number";
    case STRSXP: return STRING_ELT(value, 0) == NA_STRING ? "null" : "string";
    case VECSXP: return Rf_getAttrib(value, R_NamesSymbol) == R_NilValue ? "array" : "object";
    default: return Rf_type2char(TYPEOF(value));
    }
}

/* -------------------------------------------------------------------------------------------------------------- members */

/* An object of R: a list, or an atomic vector with names. */
typedef struct {
    SEXP values;
    SEXP names;
    R_xlen_t count;
} Members;

static bool members_of(SEXP value, Members *members)
{
    bool is_list = TYPEOF(value) == VECSXP;
    if (!is_list && !Rf_isVectorAtomic(value))
        return false;
    members->values = value;
    members->names = Rf_getAttrib(value, R_NamesSymbol);
    members->count = Rf_xlength(value);
    return members->names != R_NilValue || (is_list && members->count == 0);
}

static SEXP member(const Members *members, R_xlen_t i)
{
    SEXP values = members->values;
    switch (TYPEOF(values)) {
    case VECSXP: return VECTOR_ELT(values, i);
    case STRSXP: return Rf_ScalarString(STRING_ELT(values, i));
    case REALSXP: {
        SEXP value = PROTECT(Rf_ScalarReal(REAL(values)[i]));
        if (Rf_inherits(values, "integer64") || Rf_inherits(values, "POSIXct") || Rf_inherits(values, "Date"))
            Rf_setAttrib(value, R_ClassSymbol, Rf_getAttrib(values, R_ClassSymbol));
        UNPROTECT(1);
        return value;
    }
    case INTSXP:
        if (Rf_inherits(values, "factor")) {
            int level = INTEGER(values)[i];
            return Rf_ScalarString(level == NA_INTEGER ? NA_STRING : STRING_ELT(Rf_getAttrib(values, R_LevelsSymbol), level - 1));
        }
        return Rf_ScalarInteger(INTEGER(values)[i]);
    case LGLSXP: return Rf_ScalarLogical(LOGICAL(values)[i]);
    default: return R_NilValue;
    }
}

static bool are_distinct(const Members *members, Writer *writer, const char *path)
{
    for (R_xlen_t i = 1; i < members->count; i++) {
        SEXP name = STRING_ELT(members->names, i);
        R_xlen_t from = i > DISTINCT ? i - DISTINCT : 0;
        for (R_xlen_t j = from; j < i; j++)
            if (STRING_ELT(members->names, j) == name)
                return fail(writer, path, "expected every name once, got '%s' twice", CHAR(name));
    }
    return true;
}

/* A string of length 1 in UTF-8; false when it is none. */
static bool string_of(Writer *writer, const char *path, SEXP value, const char **data, size_t *length)
{
    SEXP string = R_NilValue;
    if (Rf_xlength(value) == 1) {
        if (TYPEOF(value) == STRSXP)
            string = STRING_ELT(value, 0);
        else if (Rf_inherits(value, "factor") && INTEGER(value)[0] != NA_INTEGER)
            string = STRING_ELT(Rf_getAttrib(value, R_LevelsSymbol), INTEGER(value)[0] - 1);
    }
    if (string == R_NilValue || string == NA_STRING)
        return fail(writer, path, "expected string, got %s", type_name(value));
    *data = utf8_of(string, length, writer->mended);
    return true;
}

static void below(char *path, const char *start, SEXP name)
{
    snprintf(path, PATH_BYTES, start[0] ? "%s.%.300s" : "%s%.300s", start, CHAR(name));
}

/* --------------------------------------------------------------------------------------------------------- simple fields */

static bool write_short(Writer *writer, const char *path, SEXP value, size_t longest)
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

static bool write_text(Writer *writer, const char *path, SEXP value)
{
    const char *data;
    size_t length;
    if (!string_of(writer, path, value, &data, &length))
        return false;
    json_string(writer->out, data, length);
    return true;
}

static bool write_message(Writer *writer, SEXP value, bool *truncated)
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

static int choice(const char *const *choices, SEXP value)
{
    if (TYPEOF(value) == STRSXP && Rf_xlength(value) == 1)
        for (int i = 0; choices[i] != NULL; i++)
            if (strcmp(CHAR(STRING_ELT(value, 0)), choices[i]) == 0)
                return i;
    return -1;
}

static bool write_choice(Writer *writer, const char *path, SEXP value, const char *const *choices)
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

static bool write_uuid(Writer *writer, const char *path, SEXP value, char *copy)
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

static bool write_hex(Writer *writer, const char *path, SEXP value, size_t digits)
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

static void write_moment(Text *out, int64_t micros)
{
    time_t seconds = (time_t)(micros / 1000000);
    struct tm parts;
    char text[48];
    gmtime_r(&seconds, &parts);
    size_t length = strftime(text, sizeof text, "\"%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, sizeof text - length, ".%06dZ\"", (int)(micros % 1000000));
    text_put(out, text);
}

static bool write_timestamp(Writer *writer, SEXP value)
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
static bool number_of(Writer *writer, const char *path, SEXP value, double *number, int64_t *exact, bool *is_exact)
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

static void write_number(Text *out, double number, int64_t exact, bool is_exact)
{
    if (is_exact) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)exact);
        text_put(out, text);
    } else {
        json_number(out, number);
    }
}

static bool write_bounded(Writer *writer, const char *path, SEXP value, double most)
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

/* ---------------------------------------------------------------------------------------------------------------- tables */

static bool key_of(Writer *writer, const char *path, SEXP name, const char **data, size_t *length)
{
    *data = utf8_of(name, length, writer->mended);
    if (name == NA_STRING || *length == 0 || (*length > MAX_TEXT && utf8_characters(*data, *length) > MAX_TEXT))
        return fail(writer, path, "expected keys of 1 to 256 characters%s", "");
    return true;
}

static bool table_of(Writer *writer, const char *path, SEXP value, Members *members)
{
    if (!members_of(value, members) || (TYPEOF(value) != VECSXP && members->names == R_NilValue))
        return fail(writer, path, "expected object, got %s", type_name(value));
    return are_distinct(members, writer, path);
}

/* Each entity with a comma after it. */
static bool write_entities(Writer *writer, const Members *members)
{
    char path[PATH_BYTES];
    for (R_xlen_t i = 0; i < members->count; i++) {
        const char *data;
        size_t length;
        if (!key_of(writer, "entities", STRING_ELT(members->names, i), &data, &length))
            return false;
        json_string(writer->out, data, length);
        text_add(writer->out, ":", 1);
        below(path, "entities", STRING_ELT(members->names, i));
        SEXP value = PROTECT(member(members, i));
        bool taken = write_short(writer, path, value, MAX_TEXT);
        UNPROTECT(1);
        if (!taken)
            return false;
        text_add(writer->out, ",", 1);
    }
    return true;
}

/* The metrics that are numbers of JSON; the names of the others go to `dropped`, as the inside of an array. */
static bool write_metrics(Writer *writer, SEXP value, Text *dropped)
{
    char path[PATH_BYTES];
    Members members;
    if (!table_of(writer, "metrics", value, &members))
        return false;
    text_add(writer->out, "{", 1);
    bool any = false;
    for (R_xlen_t i = 0; i < members.count; i++) {
        SEXP name = STRING_ELT(members.names, i);
        const char *data;
        size_t length;
        double number;
        int64_t exact = 0;
        bool is_exact;
        if (!key_of(writer, "metrics", name, &data, &length))
            return false;
        below(path, "metrics", name);
        SEXP entry = PROTECT(member(&members, i));
        bool taken = number_of(writer, path, entry, &number, &exact, &is_exact);
        UNPROTECT(1);
        if (!taken)
            return false;
        Text *to = writer->out;
        if (!R_FINITE(number)) {
            to = dropped;
            if (to->length)
                text_add(to, ",", 1);
        } else if (any) {
            text_add(to, ",", 1);
        }
        json_string(to, data, length);
        if (to == dropped)
            continue;
        any = true;
        text_add(to, ":", 1);
        write_number(to, number, exact, is_exact);
    }
    text_add(writer->out, "}", 1);
    return true;
}

static bool check_text(Writer *writer, const char *path, SEXP value, size_t longest)
{
    return longest ? write_short(writer, path, value, longest) : write_text(writer, path, value);
}

typedef struct {
    const char *name;
    size_t longest; /* 0: any length */
    bool required;
} Part;

static const Part APP_PARTS[] = {{"name", MAX_TEXT, true}, {"version", MAX_TEXT, false}, {"instance_id", MAX_TEXT, false}, {NULL, 0, false}};
static const Part STATE_PARTS[] = {{"to", MAX_TEXT, true}, {"from", MAX_TEXT, false}, {NULL, 0, false}};
static const Part ERROR_PARTS[] = {{"type", MAX_TEXT, true}, {"message", 0, true}, {"stack", 0, false}, {NULL, 0, false}};

static bool write_struct(Writer *writer, const char *field, SEXP value, const Part *parts)
{
    char path[PATH_BYTES];
    Members members;
    if (!table_of(writer, field, value, &members))
        return false;
    for (const Part *part = parts; part->name != NULL; part++) {
        bool there = !part->required;
        for (R_xlen_t i = 0; i < members.count && !there; i++)
            there = strcmp(CHAR(STRING_ELT(members.names, i)), part->name) == 0;
        if (!there) {
            snprintf(path, sizeof path, "%s.%s", field, part->name);
            return fail(writer, path, "required field is missing%s", "");
        }
    }
    text_add(writer->out, "{", 1);
    for (R_xlen_t i = 0; i < members.count; i++) {
        SEXP name = STRING_ELT(members.names, i);
        const Part *part = parts;
        while (part->name != NULL && strcmp(part->name, CHAR(name)) != 0)
            part++;
        below(path, field, name);
        if (part->name == NULL)
            return fail(writer, path, "unknown field; put data of your own under 'attributes'%s", "");
        if (i > 0)
            text_add(writer->out, ",", 1);
        json_string(writer->out, part->name, strlen(part->name));
        text_add(writer->out, ":", 1);
        SEXP entry = PROTECT(member(&members, i));
        bool taken = check_text(writer, path, entry, part->longest);
        UNPROTECT(1);
        if (!taken)
            return false;
    }
    text_add(writer->out, "}", 1);
    return true;
}

/* ------------------------------------------------------------------------------------------------------------ attributes */

static bool write_json(Writer *writer, const char *path, SEXP value, int depth);

static bool write_date(Writer *writer, SEXP value)
{
    double number = Rf_asReal(value);
    double seconds = Rf_inherits(value, "Date") ? number * 86400.0 : number;
    if (!R_FINITE(number) || fabs(seconds) > 2.5e11) {
        text_put(writer->out, "null");
    } else if (Rf_inherits(value, "Date")) {
        time_t moment = (time_t)floor(seconds);
        struct tm parts;
        char text[48];
        gmtime_r(&moment, &parts);
        strftime(text, sizeof text, "\"%Y-%m-%d\"", &parts);
        text_put(writer->out, text);
    } else {
        int64_t micros = (int64_t)llround(seconds * 1e6);
        if (micros < 0)
            micros = 0;
        write_moment(writer->out, micros);
    }
    return true;
}

static bool write_scalar(Writer *writer, const char *path, SEXP value)
{
    Text *out = writer->out;
    if (Rf_inherits(value, "Date") || Rf_inherits(value, "POSIXct"))
        return write_date(writer, value);
    switch (TYPEOF(value)) {
    case LGLSXP:
        text_put(out, LOGICAL(value)[0] == NA_LOGICAL ? "null" : LOGICAL(value)[0] ? "true" : "false");
        return true;
    case INTSXP:
        if (Rf_inherits(value, "factor")) {
            if (INTEGER(value)[0] == NA_INTEGER)
                text_put(out, "null");
            else
                return write_text(writer, path, value);
            return true;
        }
        if (INTEGER(value)[0] == NA_INTEGER)
            text_put(out, "null");
        else
            json_number(out, INTEGER(value)[0]);
        return true;
    case REALSXP: {
        double number;
        int64_t exact = 0;
        bool is_exact;
        if (!number_of(writer, path, value, &number, &exact, &is_exact))
            return false;
        if (R_FINITE(number))
            write_number(out, number, exact, is_exact);
        else
            text_put(out, "null");
        return true;
    }
    case STRSXP:
        if (STRING_ELT(value, 0) == NA_STRING)
            text_put(out, "null");
        else
            return write_text(writer, path, value);
        return true;
    default:
        return fail(writer, path, "expected JSON, got %s; convert it first", Rf_type2char(TYPEOF(value)));
    }
}

/* The members of an object, each with a comma after it; not those of the names in `but`. */
static bool write_members(Writer *writer, const char *path, const Members *members, int depth, const char *const *but)
{
    char *inner = NULL;
    for (R_xlen_t i = 0; i < members->count; i++) {
        SEXP name = STRING_ELT(members->names, i);
        bool skipped = false;
        for (const char *const *one = but; one != NULL && *one != NULL; one++)
            skipped |= strcmp(CHAR(name), *one) == 0;
        if (skipped)
            continue;
        if (inner == NULL)
            inner = R_alloc(PATH_BYTES, 1);
        size_t length;
        const char *data = name == NA_STRING ? "NA" : utf8_of(name, &length, writer->mended);
        if (name == NA_STRING)
            length = 2;
        json_string(writer->out, data, length);
        text_add(writer->out, ":", 1);
        below(inner, path, name);
        SEXP value = PROTECT(member(members, i));
        bool taken = write_json(writer, inner, value, depth);
        UNPROTECT(1);
        if (!taken)
            return false;
        text_add(writer->out, ",", 1);
    }
    return true;
}

/* Close a list of things that each have a comma after them. */
static void close_with(Text *out, const char *mark)
{
    if (out->data[out->length - 1] == ',')
        out->length--;
    text_put(out, mark);
}

static bool too_deep(Writer *writer, const char *path, int depth)
{
    char first[PATH_BYTES];
    snprintf(first, sizeof first, "%s", path);
    first[strcspn(first, ".")] = '\0';
    return depth > MAX_DEPTH ? fail(writer, first, "nests deeper than 64 levels%s", "") : true;
}

static bool write_json(Writer *writer, const char *path, SEXP value, int depth)
{
    Text *out = writer->out;
    if (value == R_NilValue) {
        text_put(out, "null");
        return true;
    }
    if (TYPEOF(value) != VECSXP && !Rf_isVectorAtomic(value))
        return fail(writer, path, "expected JSON, got %s; convert it first", Rf_type2char(TYPEOF(value)));
    if (TYPEOF(value) == RAWSXP || TYPEOF(value) == CPLXSXP)
        return fail(writer, path, "expected JSON, got %s; convert it first", Rf_type2char(TYPEOF(value)));
    if (Rf_inherits(value, "POSIXlt"))
        return fail(writer, path, "expected JSON, got POSIXlt; convert it by %s first", "as.POSIXct()");
    SEXP names = Rf_getAttrib(value, R_NamesSymbol);
    bool is_list = TYPEOF(value) == VECSXP;
    if (!is_list && names == R_NilValue && Rf_xlength(value) == 1 && !Rf_inherits(value, "AsIs"))
        return write_scalar(writer, path, value);
    if (!too_deep(writer, path, depth))
        return false;
    Members members = {value, names, Rf_xlength(value)};
    if (names != R_NilValue) {
        if (!are_distinct(&members, writer, path))
            return false;
        text_add(out, "{", 1);
        if (!write_members(writer, path, &members, depth + 1, NULL))
            return false;
        close_with(out, "}");
        return true;
    }
    text_add(out, "[", 1);
    char *inner = members.count ? R_alloc(PATH_BYTES, 1) : NULL;
    for (R_xlen_t i = 0; i < members.count; i++) {
        snprintf(inner, PATH_BYTES, "%.500s.%lld", path, (long long)i);
        SEXP entry = PROTECT(member(&members, i));
        bool taken = is_list ? write_json(writer, inner, entry, depth + 1) : write_scalar(writer, inner, entry);
        UNPROTECT(1);
        if (!taken)
            return false;
        text_add(out, ",", 1);
    }
    close_with(out, "]");
    return true;
}

static bool write_attributes(Writer *writer, SEXP value, const Text *dropped, bool truncated)
{
    Members members = {R_NilValue, R_NilValue, 0};
    if (value != NULL && !table_of(writer, "attributes", value, &members))
        return false;
    const char *but[3] = {NULL, NULL, NULL};
    int count = 0;
    if (dropped->length)
        but[count++] = "dropped_metrics";
    if (truncated)
        but[count] = "truncated";
    text_put(writer->out, "\"attributes\":{");
    if (!write_members(writer, "attributes", &members, 3, but))
        return false;
    if (dropped->length) {
        text_put(writer->out, "\"dropped_metrics\":[");
        text_add(writer->out, dropped->data, dropped->length);
        text_put(writer->out, "],");
    }
    if (truncated)
        text_put(writer->out, "\"truncated\":true");
    close_with(writer->out, "},");
    return true;
}

/* ----------------------------------------------------------------------------------------------------------------- event */

static Field field_of(const char *name)
{
    for (int i = 0; i < FIELDS; i++)
        if (strcmp(FIELD_NAMES[i], name) == 0)
            return (Field)i;
    return UNKNOWN;
}

/* Letters that differ, at most; a small bound is enough to guess what was meant. */
static int distance(const char *a, const char *b)
{
    int row[24], previous, above;
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > 22 || m > 22)
        return 99;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        previous = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            above = row[j];
            int best = previous + (a[i - 1] != b[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            previous = above;
        }
    }
    return row[m];
}

static bool refuse_field(Writer *writer, const char *name)
{
    if (strcmp(name, "emitter") == 0)
        return fail(writer, name, "is made by the SDK; leave it out%s", "");
    for (int i = 0; i < FIELDS; i++)
        if (distance(name, FIELD_NAMES[i]) <= 2)
            return fail(writer, name, "unknown field; did you mean '%s'?", FIELD_NAMES[i]);
    return fail(writer, name, "unknown field; put data of your own under 'attributes'%s", "");
}

static bool allows(Writer *writer, Field field, const char *kind)
{
    bool is_end = strcmp(kind, "finish") == 0 || strcmp(kind, "error") == 0;
    const char *only = NULL;
    if ((field == STATUS || field == DURATION_MS || field == ERROR_) && !is_end)
        only = "is only allowed on kind finish or error, not on %s";
    else if (field == PROGRESS && strcmp(kind, "progress") != 0)
        only = "is only allowed on kind progress, not on %s";
    else if (field == STATE && strcmp(kind, "state") != 0)
        only = "is only allowed on kind state, not on %s";
    return only == NULL ? true : fail(writer, FIELD_NAMES[field], only, kind);
}

static bool write_field(Writer *writer, Field field, SEXP value, char *event_id, bool *truncated, Text *dropped)
{
    const char *name = FIELD_NAMES[field];
    json_string(writer->out, name, strlen(name));
    text_add(writer->out, ":", 1);
    switch (field) {
    case EVENT_ID: return write_uuid(writer, name, value, event_id);
    case RUN_ID: case PARENT_RUN_ID: return write_uuid(writer, name, value, NULL);
    case TIMESTAMP: return write_timestamp(writer, value);
    case KIND: return write_choice(writer, name, value, KINDS);
    case STATUS: return write_choice(writer, name, value, STATUSES);
    case SEVERITY: return write_choice(writer, name, value, SEVERITIES);
    case NAME: return write_short(writer, name, value, MAX_TEXT);
    case SITE_ID: return write_short(writer, name, value, MAX_SITE);
    case APP: return write_struct(writer, name, value, APP_PARTS);
    case STATE: return write_struct(writer, name, value, STATE_PARTS);
    case ERROR_: return write_struct(writer, name, value, ERROR_PARTS);
    case MESSAGE: return write_message(writer, value, truncated);
    case PROGRESS: return write_bounded(writer, name, value, 1);
    case DURATION_MS: return write_bounded(writer, name, value, HUGE_VAL);
    case METRICS: return write_metrics(writer, value, dropped);
    case TRACE_ID: return write_hex(writer, name, value, 32);
    case SPAN_ID: return write_hex(writer, name, value, 16);
    default: return false;
    }
}

/* The run's ids and entities, as far as the event has none of its own, and the event's entities over the run's. */
static bool write_run(Writer *writer, SEXP run, const SEXP *given)
{
    Members own = {R_NilValue, R_NilValue, 0}, outer = {R_NilValue, R_NilValue, 0};
    if (given[ENTITIES] != NULL && !table_of(writer, "entities", given[ENTITIES], &own))
        return false;
    if (run != R_NilValue) {
        const char *run_id = CHAR(STRING_ELT(VECTOR_ELT(run, 0), 0));
        const char *parent = CHAR(STRING_ELT(VECTOR_ELT(run, 1), 0));
        if (given[RUN_ID] == NULL) {
            text_put(writer->out, "\"run_id\":\"");
            text_put(writer->out, run_id);
            text_put(writer->out, "\",");
            if (given[PARENT_RUN_ID] == NULL && parent[0]) {
                text_put(writer->out, "\"parent_run_id\":\"");
                text_put(writer->out, parent);
                text_put(writer->out, "\",");
            }
        }
        members_of(VECTOR_ELT(run, 2), &outer);
    }
    if (given[ENTITIES] == NULL && outer.count == 0)
        return true;
    text_put(writer->out, "\"entities\":{");
    for (R_xlen_t i = 0; i < outer.count; i++) {
        SEXP name = STRING_ELT(outer.names, i);
        bool hidden = false;
        for (R_xlen_t j = 0; j < own.count; j++)
            hidden |= strcmp(CHAR(STRING_ELT(own.names, j)), CHAR(name)) == 0;
        if (hidden)
            continue;
        size_t length;
        const char *data = utf8_of(name, &length, writer->mended);
        json_string(writer->out, data, length);
        text_add(writer->out, ":", 1);
        data = utf8_of(STRING_ELT(outer.values, i), &length, writer->mended);
        json_string(writer->out, data, length);
        text_add(writer->out, ",", 1);
    }
    if (!write_entities(writer, &own))
        return false;
    close_with(writer->out, "},");
    return true;
}

static void write_ids(Emitter *emitter, Text *out, const SEXP *given, double seq, int64_t now, char *event_id)
{
    char text[128];
    if (given[EVENT_ID] == NULL) {
        int64_t millis = now / 1000;
        if (millis < emitter->last_millis)
            millis = emitter->last_millis;
        emitter->last_millis = millis;
        snprintf(text, sizeof text, "%08llx-%04llx%.15s%08llx", (unsigned long long)(millis >> 16),
                 (unsigned long long)(millis & 0xFFFF), emitter->id_tail, (unsigned long long)seq & 0xFFFFFFFFULL);
        memcpy(event_id, text, UUID_LENGTH);
        event_id[UUID_LENGTH] = '\0';
        snprintf(text, sizeof text, "\"event_id\":\"%s\",", event_id);
        text_put(out, text);
    }
    if (given[TIMESTAMP] == NULL) {
        text_put(out, "\"timestamp\":");
        write_moment(out, now);
        text_add(out, ",", 1);
    }
    snprintf(text, sizeof text, "\"emitter\":{\"id\":\"%s\",\"seq\":%.0f},", emitter->id, seq);
    text_put(out, text);
}

static bool check_fields(Writer *writer, SEXP event, SEXP *given)
{
    Members members;
    if (TYPEOF(event) != VECSXP || !members_of(event, &members))
        return fail(writer, "", "expected a list such as list(kind = \"log\", name = \"etch\"), got %s", type_name(event));
    if (!are_distinct(&members, writer, ""))
        return false;
    const char *unknown = NULL;
    for (R_xlen_t i = 0; i < members.count; i++) {
        const char *name = CHAR(STRING_ELT(members.names, i));
        Field field = field_of(name);
        if (field == UNKNOWN)
            unknown = unknown ? unknown : name;
        else
            given[field] = VECTOR_ELT(event, i);
    }
    if (given[KIND] == NULL)
        return fail(writer, "kind", "required field is missing%s", "");
    if (given[NAME] == NULL)
        return fail(writer, "name", "required field is missing%s", "");
    int kind = choice(KINDS, given[KIND]);
    if (kind < 0) {
        write_choice(writer, "kind", given[KIND], KINDS);
        return false;
    }
    if (unknown != NULL)
        return refuse_field(writer, unknown);
    for (int i = 0; i < FIELDS; i++)
        if (given[i] != NULL && !allows(writer, (Field)i, KINDS[kind]))
            return false;
    return strcmp(KINDS[kind], "state") != 0 || given[STATE] != NULL ? true : fail(writer, "state", "required field is missing%s", "");
}

void encode_event(Emitter *emitter, SEXP event, SEXP run, double seq, int64_t now, Text *out, char *event_id, Mistake *mistake)
{
    static Text mended, dropped;
    SEXP given[FIELDS] = {NULL};
    Writer writer = {out, &mended, mistake};
    size_t start = out->length;
    bool truncated = false;
    mistake->found = false;
    text_clear(&dropped);
    if (!check_fields(&writer, event, given))
        return;
    text_add(out, "{", 1);
    write_ids(emitter, out, given, seq, now, event_id);
    if (given[SITE_ID] == NULL)
        text_put(out, emitter->site);
    if (given[APP] == NULL)
        text_put(out, emitter->app);
    if (!write_run(&writer, run, given))
        return;
    for (int i = 0; i < FIELDS; i++) {
        if (given[i] == NULL || i == ENTITIES || i == ATTRIBUTES)
            continue;
        if (!write_field(&writer, (Field)i, given[i], event_id, &truncated, &dropped))
            return;
        text_add(out, ",", 1);
    }
    if ((given[ATTRIBUTES] != NULL || truncated || dropped.length) && !write_attributes(&writer, given[ATTRIBUTES], &dropped, truncated))
        return;
    close_with(out, "}");
    if (out->length - start > MAX_EVENT_BYTES)
        fail(&writer, "", "the event has more than 262144 bytes; keep large data elsewhere and send its address%s", "");
}
