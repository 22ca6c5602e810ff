/* Text as JSON wants it: valid UTF-8, escaped where it must be, counted in characters. */
#ifndef MON_TEXT_H
#define MON_TEXT_H

#include "buffer.h"

/* Adds `text` as the inside of a JSON string; what is not UTF-8, surrogates and U+0000 become U+FFFD. The number of characters. */
size_t mon_text_escape(struct mon_buf *buf, const char *text, size_t len);

/* The same with quotes around it. */
size_t mon_text_quote(struct mon_buf *buf, const char *text, size_t len);

/* Adds `text` as valid UTF-8 without U+0000 and without escapes. */
void mon_text_clean(struct mon_buf *buf, const char *text, size_t len);

/* Adds the character `code` (a surrogate or 0 becomes U+FFFD) as UTF-8. */
void mon_text_add_code(struct mon_buf *buf, unsigned code);

/* The number of bytes of the character at `text`, of which `len` bytes follow; 0 when it is none, with `*skip` bytes to pass over. */
size_t mon_text_sequence(const char *text, size_t len, size_t *skip);

/* The longest start of valid UTF-8 `text` that has at most `limit` bytes and ends between two characters. */
size_t mon_text_fit(const char *text, size_t len, size_t limit);

/* How alike two words are, from 0 to 1: twice the length of their longest common subsequence over the sum of their lengths. */
double mon_text_likeness(const char *one, const char *other);

#endif
