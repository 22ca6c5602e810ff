/* How the fields of an event are checked and written; shared by the files that do so. */
#ifndef MONITORING_FIELDS_H
#define MONITORING_FIELDS_H

#include "emitter.h"

typedef struct {
    Text *out;
    Text *mended;
    Mistake *mistake;
} Writer;

/* An object of R: a list, or an atomic vector with names. */
typedef struct {
    SEXP values;
    SEXP names;
    R_xlen_t count;
} Members;

/* A field of an object that has these and no others. */
typedef struct {
    const char *name;
    size_t longest; /* 0: any length */
    bool required;
} Part;

/* members.c: what R's values are. Functions that return bool say whether all is well; the first mistake is noted. */
bool fail(Writer *writer, const char *path, const char *format, const char *detail);
const char *type_name(SEXP value);
bool members_of(SEXP value, Members *members);
SEXP member(const Members *members, R_xlen_t i);
bool are_distinct(const Members *members, Writer *writer, const char *path);
bool string_of(Writer *writer, const char *path, SEXP value, const char **data, size_t *length);
void below(char *path, const char *start, SEXP name);

/* fields.c: fields that are one value. */
bool write_short(Writer *writer, const char *path, SEXP value, size_t longest);
bool write_text(Writer *writer, const char *path, SEXP value);
bool write_message(Writer *writer, SEXP value, bool *truncated);
int choice(const char *const *choices, SEXP value);
bool write_choice(Writer *writer, const char *path, SEXP value, const char *const *choices);
bool write_uuid(Writer *writer, const char *path, SEXP value, char *copy);
bool write_hex(Writer *writer, const char *path, SEXP value, size_t digits);
void write_moment(Text *out, int64_t micros);
bool write_timestamp(Writer *writer, SEXP value);
bool number_of(Writer *writer, const char *path, SEXP value, double *number, int64_t *exact, bool *is_exact);
void write_number(Text *out, double number, int64_t exact, bool is_exact);
bool write_bounded(Writer *writer, const char *path, SEXP value, double most);

/* tables.c: fields that are objects. */
bool table_of(Writer *writer, const char *path, SEXP value, Members *members);
bool write_entities(Writer *writer, const Members *members);
bool write_metrics(Writer *writer, SEXP value, Text *dropped);
bool write_struct(Writer *writer, const char *field, SEXP value, const Part *parts);

/* values.c: any JSON. */
void close_with(Text *out, const char *mark);
bool write_attributes(Writer *writer, SEXP value, const Text *dropped, bool truncated);

#endif
