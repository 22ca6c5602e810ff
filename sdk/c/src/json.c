/* A JSON parser into a tree that lives in blocks of memory. */
#include "json.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "number.h"
#include "text.h"

enum { DEEPEST = 512, BLOCK = 4096, FEW = 16 };

struct mon_json_block {
    struct mon_json_block *next;
    size_t used;
    size_t size;
    _Alignas(16) char bytes[];
};

struct parser {
    struct mon_json_document *document;
    const char *text;
    size_t len;
    size_t at;
    size_t depth;
    struct mon_buf scratch;
};

static struct mon_json *parse_value(struct parser *parser);

static void *allocate(struct mon_json_document *document, size_t size) {
    size = (size + 15) & ~(size_t)15;
    struct mon_json_block *block = document->blocks;
    if (block == NULL || block->size - block->used < size) {
        size_t room = size > BLOCK ? size : BLOCK;
        block = malloc(sizeof *block + room);
        if (block == NULL) {
            return NULL;
        }
        *block = (struct mon_json_block){.next = document->blocks, .size = room};
        document->blocks = block;
    }
    void *memory = block->bytes + block->used;
    block->used += size;
    return memory;
}

static void *fail(struct parser *parser, const char *message) {
    struct mon_json_document *document = parser->document;
    if (document->error[0] == '\0') {
        snprintf(document->error, sizeof document->error, "%s", message);
        document->error_at = parser->at;
    }
    return NULL;
}

static void skip_space(struct parser *parser) {
    while (parser->at < parser->len) {
        char byte = parser->text[parser->at];
        if (byte != ' ' && byte != '\t' && byte != '\n' && byte != '\r') {
            return;
        }
        parser->at++;
    }
}

static char peek(const struct parser *parser) {
    return parser->at < parser->len ? parser->text[parser->at] : '\0';
}

static bool take(struct parser *parser, const char *word) {
    size_t len = strlen(word);
    if (parser->len - parser->at < len || memcmp(parser->text + parser->at, word, len) != 0) {
        return false;
    }
    parser->at += len;
    return true;
}

static struct mon_json *new_node(struct parser *parser, enum mon_json_type type) {
    struct mon_json *node = allocate(parser->document, sizeof *node);
    if (node == NULL) {
        return fail(parser, MON_JSON_NO_MEMORY);
    }
    *node = (struct mon_json){.type = type};
    return node;
}

static bool hex4(struct parser *parser, unsigned *code) {
    if (parser->len - parser->at < 4) {
        return false;
    }
    unsigned value = 0;
    for (size_t i = 0; i < 4; i++) {
        char byte = parser->text[parser->at + i];
        unsigned digit;
        if (byte >= '0' && byte <= '9') {
            digit = (unsigned)(byte - '0');
        } else if (byte >= 'a' && byte <= 'f') {
            digit = (unsigned)(byte - 'a') + 10;
        } else if (byte >= 'A' && byte <= 'F') {
            digit = (unsigned)(byte - 'A') + 10;
        } else {
            return false;
        }
        value = value * 16 + digit;
    }
    parser->at += 4;
    *code = value;
    return true;
}

static bool parse_escape(struct parser *parser) {
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    char byte = peek(parser);
    parser->at++;
    if (byte == 'u') {
        unsigned code;
        if (!hex4(parser, &code)) {
            return false;
        }
        size_t after = parser->at;
        unsigned low;
        if (code >= 0xD800 && code < 0xDC00 && take(parser, "\\u") && hex4(parser, &low)) {
            if (low >= 0xDC00 && low < 0xE000) {
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            } else {
                parser->at = after;
            }
        } else if (code >= 0xD800 && code < 0xDC00) {
            parser->at = after;
        }
        mon_text_add_code(&parser->scratch, code);
        return true;
    }
    const char *found = byte == '\0' ? NULL : strchr(from, byte);
    if (found == NULL) {
        return false;
    }
    mon_buf_char(&parser->scratch, to[found - from]);
    return true;
}

/* The text after an opening quote, into the document's memory. */
static bool parse_string(struct parser *parser, const char **text, size_t *len) {
    struct mon_buf *scratch = &parser->scratch;
    scratch->len = 0;
    parser->at++;
    for (;;) {
        size_t start = parser->at;
        while (parser->at < parser->len && parser->text[parser->at] != '"' && parser->text[parser->at] != '\\' &&
               (unsigned char)parser->text[parser->at] >= 0x20) {
            parser->at++;
        }
        mon_text_clean(scratch, parser->text + start, parser->at - start);
        char byte = peek(parser);
        if (parser->at >= parser->len) {
            fail(parser, "the text ends inside a string");
            return false;
        }
        parser->at++;
        if (byte == '"') {
            break;
        }
        if (byte != '\\') {
            parser->at--;
            fail(parser, "a control character in a string must be escaped");
            return false;
        }
        if (!parse_escape(parser)) {
            fail(parser, "an escape that JSON does not have");
            return false;
        }
    }
    char *copy = allocate(parser->document, scratch->len + 1);
    if (copy == NULL || scratch->failed) {
        fail(parser, MON_JSON_NO_MEMORY);
        return false;
    }
    if (scratch->len > 0) {
        memcpy(copy, scratch->data, scratch->len);
    }
    copy[scratch->len] = '\0';
    *text = copy;
    *len = scratch->len;
    return true;
}

static bool digits(struct parser *parser) {
    size_t start = parser->at;
    while (peek(parser) >= '0' && peek(parser) <= '9') {
        parser->at++;
    }
    return parser->at > start;
}

static struct mon_json *parse_number(struct parser *parser) {
    size_t start = parser->at;
    if (take(parser, "NaN") || take(parser, "Infinity") || take(parser, "-Infinity")) {
        return new_node(parser, MON_JSON_NONFINITE);
    }
    enum mon_json_type type = MON_JSON_INTEGER;
    (void)take(parser, "-");
    bool sound = peek(parser) == '0' ? take(parser, "0") : digits(parser);
    if (sound && take(parser, ".")) {
        type = MON_JSON_NUMBER;
        sound = digits(parser);
    }
    if (sound && (take(parser, "e") || take(parser, "E"))) {
        type = MON_JSON_NUMBER;
        if (!take(parser, "+")) {
            (void)take(parser, "-");
        }
        sound = digits(parser);
    }
    if (!sound) {
        return fail(parser, "expected a value");
    }
    struct mon_json *node = new_node(parser, type);
    if (node != NULL) {
        node->len = parser->at - start;
        char *copy = allocate(parser->document, node->len + 1);
        if (copy == NULL) {
            return fail(parser, MON_JSON_NO_MEMORY);
        }
        memcpy(copy, parser->text + start, node->len);
        copy[node->len] = '\0';
        node->text = copy;
        if (type == MON_JSON_NUMBER && isinf(mon_number_parse(copy, node->len))) {
            node->type = MON_JSON_NONFINITE;
        }
    }
    return node;
}

static int by_key(const void *one, const void *other) {
    const struct mon_json *a = *(const struct mon_json *const *)one;
    const struct mon_json *b = *(const struct mon_json *const *)other;
    size_t shorter = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = shorter == 0 ? 0 : memcmp(a->key, b->key, shorter);
    if (order == 0 && a->key_len != b->key_len) {
        order = a->key_len < b->key_len ? -1 : 1;
    }
    if (order == 0) { /* in the order of the text */
        order = a->len < b->len ? -1 : a->len > b->len;
    }
    return order;
}

static bool same_key(const struct mon_json *a, const struct mon_json *b) {
    return a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0;
}

static void unlink_node(struct mon_json *object, const struct mon_json *gone) {
    for (struct mon_json **at = &object->child; *at != NULL; at = &(*at)->next) {
        if (*at == gone) {
            *at = gone->next;
            return;
        }
    }
}

/* Of entries with the same key only the last stays. */
static bool drop_repeated(struct mon_json *object, size_t count) {
    if (count <= FEW) {
        for (struct mon_json *entry = object->child; entry != NULL; entry = entry->next) {
            for (const struct mon_json *later = entry->next; later != NULL; later = later->next) {
                if (same_key(entry, later)) {
                    unlink_node(object, entry);
                    break;
                }
            }
        }
        return true;
    }
    struct place {
        struct mon_json node; /* its key, and its place as `len` */
        struct mon_json *entry;
    } *places = calloc(count, sizeof *places);
    const struct mon_json **sorted = calloc(count, sizeof *sorted);
    if (places == NULL || sorted == NULL) {
        free(places);
        free(sorted);
        return false;
    }
    size_t n = 0;
    for (struct mon_json *entry = object->child; entry != NULL; entry = entry->next, n++) {
        places[n].node = (struct mon_json){.key = entry->key, .key_len = entry->key_len, .len = n};
        places[n].entry = entry;
        sorted[n] = &places[n].node;
    }
    qsort(sorted, n, sizeof *sorted, by_key);
    for (size_t i = 0; i + 1 < n; i++) {
        if (same_key(sorted[i], sorted[i + 1])) {
            unlink_node(object, places[sorted[i]->len].entry);
        }
    }
    free(places);
    free(sorted);
    return true;
}

static struct mon_json *parse_container(struct parser *parser, bool is_object) {
    char close = is_object ? '}' : ']';
    struct mon_json *node = new_node(parser, is_object ? MON_JSON_OBJECT : MON_JSON_ARRAY);
    if (node == NULL) {
        return NULL;
    }
    if (++parser->depth > DEEPEST) {
        return fail(parser, "nests deeper than 64 levels");
    }
    parser->at++;
    skip_space(parser);
    struct mon_json **last = &node->child;
    size_t count = 0;
    while (peek(parser) != close) {
        const char *key = NULL;
        size_t key_len = 0;
        if (is_object) {
            if (peek(parser) != '"') {
                return fail(parser, "expected a key in quotes");
            }
            if (!parse_string(parser, &key, &key_len)) {
                return NULL;
            }
            skip_space(parser);
            if (!take(parser, ":")) {
                return fail(parser, "expected ':'");
            }
        }
        struct mon_json *entry = parse_value(parser);
        if (entry == NULL) {
            return NULL;
        }
        entry->key = key;
        entry->key_len = key_len;
        *last = entry;
        last = &entry->next;
        count++;
        if (take(parser, ",")) {
            skip_space(parser);
            if (peek(parser) == close) {
                return fail(parser, "expected another value after ','");
            }
        } else if (peek(parser) != close) {
            return fail(parser, parser->at >= parser->len ? "the text ends too early" : "expected ',' or the end of the object or array");
        }
    }
    parser->at++;
    parser->depth--;
    return is_object && !drop_repeated(node, count) ? fail(parser, MON_JSON_NO_MEMORY) : node;
}

static struct mon_json *parse_value(struct parser *parser) {
    skip_space(parser);
    struct mon_json *node;
    switch (peek(parser)) {
    case '{': node = parse_container(parser, true); break;
    case '[': node = parse_container(parser, false); break;
    case '"':
        node = new_node(parser, MON_JSON_STRING);
        if (node != NULL && !parse_string(parser, &node->text, &node->len)) {
            node = NULL;
        }
        break;
    case 't': node = take(parser, "true") ? new_node(parser, MON_JSON_TRUE) : fail(parser, "expected a value"); break;
    case 'f': node = take(parser, "false") ? new_node(parser, MON_JSON_FALSE) : fail(parser, "expected a value"); break;
    case 'n': node = take(parser, "null") ? new_node(parser, MON_JSON_NULL) : fail(parser, "expected a value"); break;
    default: node = parse_number(parser); break;
    }
    skip_space(parser);
    return node;
}

bool mon_json_parse(struct mon_json_document *document, const char *text, size_t len) {
    *document = (struct mon_json_document){0};
    struct parser parser = {.document = document, .text = text, .len = len};
    struct mon_json *root = parse_value(&parser);
    if (root != NULL && parser.at < len) {
        root = fail(&parser, "something follows the value");
    }
    mon_buf_free(&parser.scratch);
    document->root = root;
    return root != NULL;
}

void mon_json_free(struct mon_json_document *document) {
    while (document->blocks != NULL) {
        struct mon_json_block *block = document->blocks;
        document->blocks = block->next;
        free(block);
    }
    document->root = NULL;
}

void mon_json_write(struct mon_buf *buf, const struct mon_json *value) {
    switch (value->type) {
    case MON_JSON_NULL:
    case MON_JSON_NONFINITE: mon_buf_text(buf, "null"); break;
    case MON_JSON_FALSE: mon_buf_text(buf, "false"); break;
    case MON_JSON_TRUE: mon_buf_text(buf, "true"); break;
    case MON_JSON_INTEGER:
    case MON_JSON_NUMBER: mon_buf_add(buf, value->text, value->len); break;
    case MON_JSON_STRING: mon_text_quote(buf, value->text, value->len); break;
    case MON_JSON_ARRAY:
    case MON_JSON_OBJECT:
        mon_buf_char(buf, value->type == MON_JSON_ARRAY ? '[' : '{');
        for (const struct mon_json *entry = value->child; entry != NULL; entry = entry->next) {
            if (entry != value->child) {
                mon_buf_char(buf, ',');
            }
            if (value->type == MON_JSON_OBJECT) {
                mon_text_quote(buf, entry->key, entry->key_len);
                mon_buf_char(buf, ':');
            }
            mon_json_write(buf, entry);
        }
        mon_buf_char(buf, value->type == MON_JSON_ARRAY ? ']' : '}');
        break;
    }
}

const struct mon_json *mon_json_get(const struct mon_json *object, const char *key) {
    if (object == NULL || object->type != MON_JSON_OBJECT) {
        return NULL;
    }
    for (const struct mon_json *entry = object->child; entry != NULL; entry = entry->next) {
        if (mon_json_is(entry->key, entry->key_len, key)) {
            return entry;
        }
    }
    return NULL;
}

bool mon_json_is(const char *text, size_t len, const char *other) {
    return strlen(other) == len && memcmp(text, other, len) == 0;
}

const char *mon_json_type_name(enum mon_json_type type) {
    static const char *const names[] = {"null", "boolean", "boolean", "integer", "number", "number", "string", "array", "object"};
    return names[type];
}
