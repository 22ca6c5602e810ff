/* From the protocol's values to JSON text for the SDK. */
#include "values.h"

#include <stdlib.h>

#include "text.h"

static void add_base64(struct mon_buf *bytes, const char *text) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned value = 0;
    unsigned bits = 0;
    for (; *text != '\0' && *text != '='; text++) {
        const char *digit = strchr(digits, *text);
        value = (value << 6 | (digit == NULL ? 0U : (unsigned)(digit - digits))) & 0xFFFFFF;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            mon_buf_char(bytes, (char)(value >> bits & 0xFF));
        }
    }
}

/* A string of any bytes, as mon_emit_json() takes it: what must be escaped is, what is not UTF-8 stays. */
static void add_bytes(struct mon_buf *out, const struct mon_buf *bytes) {
    mon_buf_char(out, '"');
    for (size_t i = 0; i < bytes->len; i++) {
        unsigned char byte = (unsigned char)bytes->data[i];
        if (byte < 0x20 || byte == '"' || byte == '\\') {
            mon_buf_format(out, "\\u%04x", byte);
        } else {
            mon_buf_char(out, (char)byte);
        }
    }
    mon_buf_char(out, '"');
}

/* JSON text of a value, with the language's own for what the protocol writes as $float, $bytes and $surrogate. */
void harness_render(struct mon_buf *out, const struct mon_json *value) {
    bool single = value->type == MON_JSON_OBJECT && value->child != NULL && value->child->next == NULL && value->child->type == MON_JSON_STRING;
    if (single && mon_json_is(value->child->key, value->child->key_len, "$float")) {
        const char *text = value->child->text;
        mon_buf_text(out, strcmp(text, "nan") == 0 ? "NaN" : strcmp(text, "inf") == 0 ? "Infinity" : "-Infinity");
    } else if (single && mon_json_is(value->child->key, value->child->key_len, "$bytes")) {
        struct mon_buf bytes = {0};
        add_base64(&bytes, value->child->text);
        add_bytes(out, &bytes);
        mon_buf_free(&bytes);
    } else if (single && mon_json_is(value->child->key, value->child->key_len, "$surrogate")) {
        unsigned code = (unsigned)strtoul(value->child->text, NULL, 16);
        char bytes[] = {(char)(0xE0 | code >> 12), (char)(0x80 | (code >> 6 & 0x3F)), (char)(0x80 | (code & 0x3F))};
        mon_buf_char(out, '"');
        mon_buf_add(out, bytes, sizeof bytes);
        mon_buf_char(out, '"');
    } else if (value->type == MON_JSON_NONFINITE) {
        mon_buf_text(out, "NaN");
    } else if (value->type == MON_JSON_OBJECT || value->type == MON_JSON_ARRAY) {
        mon_buf_char(out, value->type == MON_JSON_OBJECT ? '{' : '[');
        for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
            if (value->type == MON_JSON_OBJECT) {
                mon_text_quote(out, entry->key, entry->key_len);
                mon_buf_char(out, ':');
            }
            harness_render(out, entry);
            if (entry->next != NULL) {
                mon_buf_char(out, ',');
            }
        }
        mon_buf_char(out, value->type == MON_JSON_OBJECT ? '}' : ']');
    } else {
        mon_json_write(out, value);
    }
}
