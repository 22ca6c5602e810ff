/* Attributes: any value of R that JSON can express. */
#include "fields.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

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
void close_with(Text *out, const char *mark)
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

bool write_attributes(Writer *writer, SEXP value, const Text *dropped, bool truncated)
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
