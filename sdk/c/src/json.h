/* JSON as events need it: integers of any length stay exact, text comes out as valid UTF-8, NaN and infinities are told apart. */
#ifndef MON_JSON_H
#define MON_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"

enum mon_json_type {
    MON_JSON_NULL,
    MON_JSON_FALSE,
    MON_JSON_TRUE,
    MON_JSON_INTEGER,
    MON_JSON_NUMBER,
    MON_JSON_NONFINITE, /* NaN, Infinity, -Infinity, or a number beyond a double */
    MON_JSON_STRING,
    MON_JSON_ARRAY,
    MON_JSON_OBJECT,
};

struct mon_json {
    enum mon_json_type type;
    const char *text; /* of a string: its clean UTF-8; of a number: as it was written */
    size_t len;
    const char *key; /* in an object */
    size_t key_len;
    struct mon_json *child; /* the first in an array or object */
    struct mon_json *next;
};

struct mon_json_block;

/* Owns the nodes and texts of what was parsed. */
struct mon_json_document {
    struct mon_json *root;
    struct mon_json_block *blocks;
    char error[96]; /* what is wrong, when there is no root */
    size_t error_at; /* at which byte */
};

/* What `error` is when there was no memory. */
#define MON_JSON_NO_MEMORY "out of memory"

/* Parses the whole of `text`; of a key that stands twice the last counts. False when it is not JSON (or memory ran out). */
bool mon_json_parse(struct mon_json_document *document, const char *text, size_t len);

void mon_json_free(struct mon_json_document *document);

/* Adds the value as JSON text without white space; what is not finite becomes null. */
void mon_json_write(struct mon_buf *buf, const struct mon_json *value);

/* The entry of that name in an object; NULL when there is none. */
const struct mon_json *mon_json_get(const struct mon_json *object, const char *key);

/* "string", "integer", "object" and so on. */
const char *mon_json_type_name(enum mon_json_type type);

/* Whether a text is exactly `other`. */
bool mon_json_is(const char *text, size_t len, const char *other);

#endif
