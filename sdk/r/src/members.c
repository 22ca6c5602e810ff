/* What a value of R is: text, an object, an array; and where in an event it stands. */
#include "fields.h"
#include <stdio.h>
#include <string.h>

enum { DISTINCT = 32 };

bool fail(Writer *writer, const char *path, const char *format, const char *detail)
{
    writer->mistake->found = true;
    snprintf(writer->mistake->path, PATH_BYTES, "%s", path);
    snprintf(writer->mistake->message, PATH_BYTES, format, detail);
    return false;
}

const char *type_name(SEXP value)
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

bool members_of(SEXP value, Members *members)
{
    bool is_list = TYPEOF(value) == VECSXP;
    if (!is_list && !Rf_isVectorAtomic(value))
        return false;
    members->values = value;
    members->names = Rf_getAttrib(value, R_NamesSymbol);
    members->count = Rf_xlength(value);
    return members->names != R_NilValue || (is_list && members->count == 0);
}

SEXP member(const Members *members, R_xlen_t i)
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

bool are_distinct(const Members *members, Writer *writer, const char *path)
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
bool string_of(Writer *writer, const char *path, SEXP value, const char **data, size_t *length)
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

void below(char *path, const char *start, SEXP name)
{
    snprintf(path, PATH_BYTES, start[0] ? "%s.%.300s" : "%s%.300s", start, CHAR(name));
}
