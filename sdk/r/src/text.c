/* Growing text, UTF-8 as JSON wants it, and numbers as the shortest text that gives the same double. */
#include "emitter.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char REPLACEMENT[] = "\xEF\xBF\xBD";

void text_clear(Text *text) { text->length = 0; }

void text_add(Text *text, const char *data, size_t length)
{
    if (text->length + length + 1 > text->room) {
        size_t room = text->room ? text->room : 1024;
        while (room < text->length + length + 1)
            room *= 2;
        char *grown = realloc(text->data, room);
        if (grown == NULL)
            Rf_error("monitoring: out of memory");
        text->data = grown;
        text->room = room;
    }
    memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_put(Text *text, const char *string) { text_add(text, string, strlen(string)); }

void text_free(Text *text)
{
    free(text->data);
    text->data = NULL;
    text->length = text->room = 0;
}

/* Bytes of the well-formed character at `at`, 0 when there is none (RFC 3629, section 4). */
static size_t character(const unsigned char *at, size_t left)
{
    unsigned char c = at[0];
    if (c < 0x80)
        return 1;
    if (c < 0xC2 || c > 0xF4)
        return 0;
    size_t length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (left < length)
        return 0;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if (at[i] < 0x80 || at[i] > 0xBF)
            return 0;
    return length;
}

static bool is_utf8(const char *data, size_t length)
{
    const unsigned char *at = (const unsigned char *)data;
    size_t i = 0;
    while (i < length) {
        size_t step = at[i] < 0x80 ? 1 : character(at + i, length - i);
        if (step == 0)
            return false;
        i += step;
    }
    return true;
}

const char *utf8_of(SEXP string, size_t *length, Text *mended)
{
    const char *data = CHAR(string);
    size_t bytes = (size_t)LENGTH(string);
    if (is_utf8(data, bytes) && Rf_getCharCE(string) != CE_LATIN1) {
        *length = bytes;
        return data;
    }
    cetype_t encoding = Rf_getCharCE(string);
    if (encoding == CE_LATIN1) {
        data = Rf_translateCharUTF8(string);
        bytes = strlen(data);
        if (is_utf8(data, bytes)) {
            *length = bytes;
            return data;
        }
    }
    text_clear(mended);
    const unsigned char *at = (const unsigned char *)data;
    for (size_t i = 0; i < bytes;) {
        size_t step = character(at + i, bytes - i);
        if (step)
            text_add(mended, data + i, step);
        else
            text_add(mended, REPLACEMENT, 3);
        i += step ? step : 1;
    }
    *length = mended->length;
    return mended->data;
}

size_t utf8_characters(const char *data, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++)
        count += ((unsigned char)data[i] & 0xC0) != 0x80;
    return count;
}

void json_string(Text *text, const char *data, size_t length)
{
    static const char hex[] = "0123456789abcdef";
    text_add(text, "\"", 1);
    size_t plain = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        text_add(text, data + plain, i - plain);
        plain = i + 1;
        char escape[7] = {'\\', 0, 0, 0, 0, 0, 0};
        switch (c) {
        case '"': case '\\': escape[1] = (char)c; break;
        case '\b': escape[1] = 'b'; break;
        case '\f': escape[1] = 'f'; break;
        case '\n': escape[1] = 'n'; break;
        case '\r': escape[1] = 'r'; break;
        case '\t': escape[1] = 't'; break;
        default:
            memcpy(escape + 1, "u00", 3);
            escape[4] = hex[c >> 4];
            escape[5] = hex[c & 15];
        }
        text_put(text, escape);
    }
    text_add(text, data + plain, length - plain);
    text_add(text, "\"", 1);
}

void json_number(Text *text, double number)
{
    char digits[32];
    if (number == floor(number) && fabs(number) < 1e15) {
        snprintf(digits, sizeof digits, "%.0f", number);
    } else {
        for (int precision = 15; precision <= 17; precision++) {
            snprintf(digits, sizeof digits, "%.*g", precision, number);
            if (strtod(digits, NULL) == number)
                break;
        }
    }
    text_put(text, digits);
}
