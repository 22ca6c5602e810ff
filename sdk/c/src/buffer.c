/* A byte buffer that grows. */
#include "buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

bool mon_buf_grow(struct mon_buf *buf, size_t more) {
    if (buf->failed || more > SIZE_MAX / 4 || buf->len > SIZE_MAX / 4) {
        buf->failed = true;
        return false;
    }
    size_t cap = buf->cap < 64 ? 64 : buf->cap;
    while (cap < buf->len + more) {
        cap *= 2;
    }
    char *data = realloc(buf->data, cap);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

void mon_buf_format(struct mon_buf *buf, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int needed = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (needed >= 0 && mon_buf_room(buf, (size_t)needed + 1)) {
        vsnprintf(buf->data + buf->len, (size_t)needed + 1, format, again);
        buf->len += (size_t)needed;
    }
    va_end(again);
}

const char *mon_buf_string(struct mon_buf *buf) {
    if (!mon_buf_room(buf, 1)) {
        return NULL;
    }
    buf->data[buf->len] = '\0';
    return buf->data;
}

void mon_buf_cut(struct mon_buf *buf, size_t offset, size_t len) {
    memmove(buf->data + offset, buf->data + offset + len, buf->len - offset - len);
    buf->len -= len;
}

void mon_buf_free(struct mon_buf *buf) {
    free(buf->data);
    *buf = (struct mon_buf){0};
}
