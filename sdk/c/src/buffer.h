/* A byte buffer that grows; running out of memory is remembered instead of checked at each step. */
#ifndef MON_BUFFER_H
#define MON_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct mon_buf {
    char *data;
    size_t len;
    size_t cap;
    bool failed; /* an allocation failed: what was to be added is missing */
};

/* Makes room for `more` bytes; false when there is no memory. */
bool mon_buf_grow(struct mon_buf *buf, size_t more);

static inline bool mon_buf_room(struct mon_buf *buf, size_t more) {
    return buf->cap - buf->len >= more || mon_buf_grow(buf, more);
}

static inline void mon_buf_add(struct mon_buf *buf, const void *bytes, size_t len) {
    if (len > 0 && mon_buf_room(buf, len)) {
        memcpy(buf->data + buf->len, bytes, len);
        buf->len += len;
    }
}

static inline void mon_buf_text(struct mon_buf *buf, const char *text) {
    mon_buf_add(buf, text, strlen(text));
}

static inline void mon_buf_char(struct mon_buf *buf, char byte) {
    if (mon_buf_room(buf, 1)) {
        buf->data[buf->len++] = byte;
    }
}

/* Adds text as printf does. */
void mon_buf_format(struct mon_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The content as a C string that stays the buffer's; NULL when memory ran out. */
const char *mon_buf_string(struct mon_buf *buf);

/* Takes `len` bytes at `offset` out. */
void mon_buf_cut(struct mon_buf *buf, size_t offset, size_t len);

void mon_buf_free(struct mon_buf *buf);

#endif
