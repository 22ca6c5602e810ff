/* Numbers as JSON text. */
#define _GNU_SOURCE
#include "number.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const double POWERS[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8};
static const double EXACT = 9007199254740992.0; /* 2^53: below it every integer is a double */

static pthread_once_t locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void make_locale(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

size_t mon_number_unsigned(char *out, uint64_t value) {
    char digits[20];
    size_t len = 0;
    do {
        digits[len++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (size_t i = 0; i < len; i++) {
        out[i] = digits[len - 1 - i];
    }
    return len;
}

void mon_number_add_integer(struct mon_buf *buf, int64_t value) {
    char text[MON_NUMBER_TEXT];
    size_t len = 0;
    uint64_t size = (uint64_t)value;
    if (value < 0) {
        text[len++] = '-';
        size = 0 - size;
    }
    len += mon_number_unsigned(text + len, size);
    mon_buf_add(buf, text, len);
}

/* The text of a double with few decimal places; 0 when it is none. Division of two exact integers is correctly rounded, so equal
 * to `value` means that the decimal is read back as `value`. */
static size_t write_short(char *out, double value) {
    double size = fabs(value);
    if (!(size < 1e15) || (value == 0 && signbit(value))) {
        return 0;
    }
    for (size_t places = 0; places < sizeof POWERS / sizeof *POWERS; places++) {
        double scaled = size * POWERS[places];
        if (scaled >= EXACT) {
            return 0;
        }
        uint64_t whole = (uint64_t)scaled;
        if ((double)whole != scaled || (double)whole / POWERS[places] != size) {
            continue;
        }
        size_t len = 0;
        if (value < 0) {
            out[len++] = '-';
        }
        uint64_t unit = (uint64_t)POWERS[places];
        len += mon_number_unsigned(out + len, whole / unit);
        if (places > 0) {
            uint64_t rest = whole % unit;
            out[len] = '.';
            for (size_t i = places; i > 0; i--) {
                out[len + i] = (char)('0' + rest % 10);
                rest /= 10;
            }
            len += places + 1;
        }
        return len;
    }
    return 0;
}

void mon_number_add(struct mon_buf *buf, double value) {
    if (!mon_buf_room(buf, MON_NUMBER_TEXT)) {
        return;
    }
    size_t len = write_short(buf->data + buf->len, value);
    if (len == 0) {
        buf->data[buf->len] = MON_NUMBER_MARK;
        memcpy(buf->data + buf->len + 1, &value, sizeof value);
        len = 1 + sizeof value;
    }
    buf->len += len;
}

size_t mon_number_write(char out[MON_NUMBER_TEXT], double value) {
    size_t len = write_short(out, value);
    if (len > 0) {
        return len;
    }
    if (value == 0) {
        memcpy(out, "-0.0", 4);
        return 4;
    }
    for (int digits = 15; digits <= 17; digits++) {
        int wrote = snprintf(out, MON_NUMBER_TEXT, "%.*g", digits, value);
        len = wrote > 0 ? (size_t)wrote : 0;
        for (size_t i = 0; i < len; i++) { /* the program's locale may have a comma for the point */
            char byte = out[i];
            if ((byte < '0' || byte > '9') && byte != '-' && byte != '+' && byte != 'e') {
                out[i] = '.';
            }
        }
        if (mon_number_parse(out, len) == value) {
            break;
        }
    }
    return len;
}

void mon_number_expand(struct mon_buf *buf, const char *text, size_t len) {
    while (len > 0) {
        const char *mark = memchr(text, MON_NUMBER_MARK, len);
        size_t plain = mark == NULL ? len : (size_t)(mark - text);
        mon_buf_add(buf, text, plain);
        if (mark == NULL) {
            return;
        }
        double value;
        memcpy(&value, mark + 1, sizeof value);
        char number[MON_NUMBER_TEXT];
        mon_buf_add(buf, number, mon_number_write(number, value));
        text = mark + 1 + sizeof value;
        len -= plain + 1 + sizeof value;
    }
}

double mon_number_parse(const char *text, size_t len) {
    pthread_once(&locale_once, make_locale);
    char small[64];
    char *copy = len < sizeof small ? small : malloc(len + 1);
    if (copy == NULL) {
        return HUGE_VAL;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    double value = strtod_l(copy, NULL, c_locale);
    if (copy != small) {
        free(copy);
    }
    return value;
}
