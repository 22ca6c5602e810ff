/* Text as JSON wants it: valid UTF-8, escaped where it must be, counted in characters. */
#include "text.h"

#include <stdint.h>
#include <string.h>

static const char REPLACEMENT[] = "\xEF\xBF\xBD";

/* Whether eight bytes are all printable ASCII that JSON takes as it is. */
static inline bool plain_word(const char *text) {
    const uint64_t ones = 0x0101010101010101ULL;
    uint64_t word;
    memcpy(&word, text, sizeof word);
    uint64_t quotes = word ^ (ones * 0x22);
    uint64_t slashes = word ^ (ones * 0x5C);
    uint64_t doubtful = word | (word - ones * 0x20) | (quotes - ones) | (slashes - ones);
    return (doubtful & (ones * 0x80)) == 0;
}

static inline bool plain_byte(unsigned char byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

static size_t plain_run(const char *text, size_t len) {
    size_t at = 0;
    while (len - at >= 8 && plain_word(text + at)) {
        at += 8;
    }
    while (at < len && plain_byte((unsigned char)text[at])) {
        at++;
    }
    return at;
}

size_t mon_text_sequence(const char *text, size_t len, size_t *skip) {
    const unsigned char *byte = (const unsigned char *)text;
    *skip = 1;
    if (byte[0] < 0x80) {
        return 1;
    }
    size_t need = byte[0] >= 0xF0 ? 4 : byte[0] >= 0xE0 ? 3 : 2;
    if (byte[0] < 0xC2 || byte[0] > 0xF4) {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        if (i >= len || (byte[i] & 0xC0) != 0x80) {
            *skip = i;
            return 0;
        }
        if (i == 1 && ((byte[0] == 0xE0 && byte[1] < 0xA0) || (byte[0] == 0xF0 && byte[1] < 0x90) || (byte[0] == 0xF4 && byte[1] > 0x8F))) {
            return 0;
        }
    }
    if (byte[0] == 0xED && byte[1] > 0x9F) { /* a surrogate: one character that is none */
        *skip = 3;
        return 0;
    }
    return need;
}

static void escape_byte(struct mon_buf *buf, unsigned char byte) {
    static const char digits[] = "0123456789abcdef";
    char text[6] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
    const char *brief = NULL;
    switch (byte) {
    case '"': brief = "\\\""; break;
    case '\\': brief = "\\\\"; break;
    case '\n': brief = "\\n"; break;
    case '\r': brief = "\\r"; break;
    case '\t': brief = "\\t"; break;
    case '\b': brief = "\\b"; break;
    case '\f': brief = "\\f"; break;
    default: break;
    }
    if (brief != NULL) {
        mon_buf_add(buf, brief, 2);
    } else {
        mon_buf_add(buf, text, sizeof text);
    }
}

static size_t add_text(struct mon_buf *buf, const char *text, size_t len, bool escape) {
    size_t characters = 0;
    size_t at = 0;
    while (at < len) {
        size_t run = plain_run(text + at, len - at);
        mon_buf_add(buf, text + at, run);
        characters += run;
        at += run;
        if (at >= len) {
            break;
        }
        unsigned char byte = (unsigned char)text[at];
        characters++;
        if (byte == 0) {
            mon_buf_add(buf, REPLACEMENT, 3);
            at++;
        } else if (byte < 0x80) {
            if (escape) {
                escape_byte(buf, byte);
            } else {
                mon_buf_char(buf, (char)byte);
            }
            at++;
        } else {
            size_t skip;
            size_t size = mon_text_sequence(text + at, len - at, &skip);
            if (size > 0) {
                mon_buf_add(buf, text + at, size);
                at += size;
            } else {
                mon_buf_add(buf, REPLACEMENT, 3);
                at += skip;
            }
        }
    }
    return characters;
}

size_t mon_text_escape(struct mon_buf *buf, const char *text, size_t len) {
    return add_text(buf, text, len, true);
}

size_t mon_text_quote(struct mon_buf *buf, const char *text, size_t len) {
    mon_buf_char(buf, '"');
    size_t characters = add_text(buf, text, len, true);
    mon_buf_char(buf, '"');
    return characters;
}

void mon_text_clean(struct mon_buf *buf, const char *text, size_t len) {
    add_text(buf, text, len, false);
}

void mon_text_add_code(struct mon_buf *buf, unsigned code) {
    if (code == 0 || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) {
        mon_buf_add(buf, REPLACEMENT, 3);
    } else if (code < 0x80) {
        mon_buf_char(buf, (char)code);
    } else {
        char text[4];
        size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
        for (size_t i = size - 1; i > 0; i--) {
            text[i] = (char)(0x80 | (code & 0x3F));
            code >>= 6;
        }
        unsigned lead = size == 2 ? 0xC0 : size == 3 ? 0xE0 : 0xF0;
        text[0] = (char)(lead | code);
        mon_buf_add(buf, text, size);
    }
}

size_t mon_text_fit(const char *text, size_t len, size_t limit) {
    if (len <= limit) {
        return len;
    }
    while (limit > 0 && ((unsigned char)text[limit] & 0xC0) == 0x80) {
        limit--;
    }
    return limit;
}

double mon_text_likeness(const char *one, const char *other) {
    enum { LONGEST = 64 };
    size_t n = strlen(one);
    size_t m = strlen(other);
    if (n == 0 || m == 0 || n > LONGEST || m > LONGEST) {
        return 0;
    }
    size_t row[LONGEST + 1] = {0};
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = 0;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j];
            if (one[i - 1] == other[j - 1]) {
                row[j] = diagonal + 1;
            } else if (row[j - 1] > row[j]) {
                row[j] = row[j - 1];
            }
            diagonal = above;
        }
    }
    return 2.0 * (double)row[m] / (double)(n + m);
}
