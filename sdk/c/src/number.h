/* Numbers as JSON text. */
#ifndef MON_NUMBER_H
#define MON_NUMBER_H

#include <stdint.h>

#include "buffer.h"

enum { MON_NUMBER_TEXT = 32 };

/* Stands in an event's text for a double that takes long to write: this byte, which no JSON text holds, then its eight bytes. */
#define MON_NUMBER_MARK '\x01'

/* The digits of `value` at `out`, which has MON_NUMBER_TEXT bytes; how many. No terminator. */
size_t mon_number_unsigned(char *out, uint64_t value);

/* Adds a finite double: as text where that is quick, else marked, to be written out by the worker. */
void mon_number_add(struct mon_buf *buf, double value);

/* Adds an integer. */
void mon_number_add_integer(struct mon_buf *buf, int64_t value);

/* The shortest text that gives the same finite double; how many bytes. */
size_t mon_number_write(char out[MON_NUMBER_TEXT], double value);

/* Adds an event's text with the marked numbers written out. */
void mon_number_expand(struct mon_buf *buf, const char *text, size_t len);

/* The double that `text` (JSON's grammar, `len` bytes) stands for, whatever the locale; infinite when it is beyond a double. */
double mon_number_parse(const char *text, size_t len);

#endif
