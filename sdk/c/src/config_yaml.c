/* YAML, read by libyaml into the tree that JSON has; JSON is YAML, so it is read by the same way. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "buffer.h"
#include "config.h"
#include "number.h"

enum { DEEPEST = 64 };

/* ${VAR} needs no quotes, though its braces would mean something else inside {...}: hidden while libyaml reads. */
struct hidden {
    char **texts;
    size_t count;
};

static size_t variable_length(const char *text) {
    if (text[0] != '$' || text[1] != '{' || (!isalpha((unsigned char)text[2]) && text[2] != '_')) {
        return 0;
    }
    size_t at = 2;
    while (isalnum((unsigned char)text[at]) || text[at] == '_') {
        at++;
    }
    if (text[at] == ':' && text[at + 1] == '-') {
        at += strcspn(text + at, "}");
    }
    return text[at] == '}' ? at + 1 : 0;
}

static bool hide(const char *text, struct mon_buf *out, struct hidden *hidden) {
    while (*text != '\0') {
        size_t len = variable_length(text);
        if (len == 0) {
            mon_buf_char(out, *text++);
            continue;
        }
        char **texts = realloc(hidden->texts, (hidden->count + 1) * sizeof *texts);
        char *copy = strndup(text, len);
        if (texts != NULL) {
            hidden->texts = texts;
        }
        if (texts == NULL || copy == NULL) {
            free(copy);
            return false;
        }
        texts[hidden->count] = copy;
        mon_buf_format(out, "\xEE\x80\x80%zu\xEE\x80\x81", hidden->count++);
        text += len;
    }
    return mon_buf_string(out) != NULL && !out->failed; /* libyaml wants a text, even of none */
}

static char *show(const char *text, size_t len, const struct hidden *hidden) {
    struct mon_buf out = {0};
    const char *end = text + len;
    while (text < end) {
        if (end - text > 3 && memcmp(text, "\xEE\x80\x80", 3) == 0) {
            char *after;
            unsigned long index = strtoul(text + 3, &after, 10);
            if (end - after >= 3 && memcmp(after, "\xEE\x80\x81", 3) == 0 && index < hidden->count) {
                mon_buf_text(&out, hidden->texts[index]);
                text = after + 3;
                continue;
            }
        }
        mon_buf_char(&out, *text++);
    }
    mon_buf_char(&out, '\0');
    if (out.failed) {
        mon_buf_free(&out);
    }
    return out.data;
}

static bool is_one_of(const char *text, const char *const *words) {
    for (; *words != NULL; words++) {
        if (strcmp(text, *words) == 0) {
            return true;
        }
    }
    return false;
}

static bool all_digits(const char *text, size_t len, const char *digits) {
    for (size_t i = 0; i < len; i++) {
        if (strchr(digits, text[i]) == NULL) {
            return false;
        }
    }
    return len > 0;
}

/* A number that remembers how it was written. */
static cJSON *number(double value, const char *written) {
    cJSON *node = cJSON_CreateNumber(value);
    if (node != NULL) {
        node->valuestring = strdup(written);
    }
    return node;
}

static cJSON *integer(const char *text) {
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')) {
        return all_digits(digits + 2, strlen(digits + 2), "0123456789abcdefABCDEF_") ? number((double)strtoll(text, NULL, 16), text) : NULL;
    }
    if (!all_digits(digits, strlen(digits), "0123456789_") || digits[0] == '_') {
        return NULL;
    }
    if (digits[0] == '0' && digits[1] != '\0') {
        return all_digits(digits, strlen(digits), "01234567_") ? number((double)strtoll(text, NULL, 8), text) : NULL;
    }
    char plain[64];
    size_t len = 0;
    for (const char *at = text; *at != '\0' && len < sizeof plain - 1; at++) {
        if (*at != '_' && *at != '+') {
            plain[len++] = *at;
        }
    }
    plain[len] = '\0';
    return number(mon_number_parse(plain, len), plain);
}

/* PyYAML's floating-point numbers: a point, and a sign in the exponent. */
static cJSON *floating(const char *text) {
    const char *at = text + (text[0] == '-' || text[0] == '+');
    size_t whole = strspn(at, "0123456789_");
    if (at[whole] != '.' || at[0] == '_') {
        return NULL;
    }
    size_t part = strspn(at + whole + 1, "0123456789_");
    const char *exponent = at + whole + 1 + part;
    if (whole + part == 0) {
        return NULL;
    }
    if (*exponent != '\0') {
        bool sound = (*exponent == 'e' || *exponent == 'E') && (exponent[1] == '+' || exponent[1] == '-');
        if (!sound || !all_digits(exponent + 2, strlen(exponent + 2), "0123456789")) {
            return NULL;
        }
    }
    char plain[64];
    size_t len = 0;
    for (const char *from = text; *from != '\0' && len < sizeof plain - 1; from++) {
        if (*from != '_' && !(*from == '+' && from == text)) {
            plain[len++] = *from;
        }
    }
    return number(mon_number_parse(plain, len), text);
}

static cJSON *plain_scalar(const char *text) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", NULL};
    if (is_one_of(text, nulls)) {
        return cJSON_CreateNull();
    }
    if (is_one_of(text, trues)) {
        return cJSON_CreateTrue();
    }
    if (is_one_of(text, falses)) {
        return cJSON_CreateFalse();
    }
    cJSON *node = integer(text);
    if (node == NULL) {
        node = floating(text);
    }
    return node != NULL ? node : cJSON_CreateString(text);
}

struct reader {
    yaml_document_t *document;
    const struct hidden *hidden;
    size_t depth;
    size_t nodes; /* aliases may multiply: bounded */
};

static cJSON *tree_of(struct reader *reader, const yaml_node_t *node);

static char *text_of(const struct reader *reader, const yaml_node_t *node) {
    return show((const char *)node->data.scalar.value, node->data.scalar.length, reader->hidden);
}

static cJSON *mapping_of(struct reader *reader, const yaml_node_t *node) {
    cJSON *object = cJSON_CreateObject();
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; object != NULL && pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(reader->document, pair->key);
        char *name = key != NULL && key->type == YAML_SCALAR_NODE ? text_of(reader, key) : NULL;
        cJSON *value = name == NULL ? NULL : tree_of(reader, yaml_document_get_node(reader->document, pair->value));
        if (value == NULL) {
            free(name);
            cJSON_Delete(object);
            return NULL;
        }
        cJSON_DeleteItemFromObjectCaseSensitive(object, name);
        cJSON_AddItemToObject(object, name, value);
        free(name);
    }
    return object;
}

static cJSON *tree_of(struct reader *reader, const yaml_node_t *node) {
    if (node == NULL || reader->depth >= DEEPEST || ++reader->nodes > 100000) {
        return NULL;
    }
    reader->depth++;
    cJSON *tree = NULL;
    if (node->type == YAML_SCALAR_NODE) {
        char *text = text_of(reader, node);
        if (text != NULL) {
            bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strchr(text, '$') == NULL;
            tree = plain ? plain_scalar(text) : cJSON_CreateString(text);
            free(text);
        }
    } else if (node->type == YAML_SEQUENCE_NODE) {
        tree = cJSON_CreateArray();
        for (yaml_node_item_t *item = node->data.sequence.items.start; tree != NULL && item < node->data.sequence.items.top; item++) {
            cJSON *entry = tree_of(reader, yaml_document_get_node(reader->document, *item));
            if (entry == NULL) {
                cJSON_Delete(tree);
                tree = NULL;
            } else {
                cJSON_AddItemToArray(tree, entry);
            }
        }
    } else if (node->type == YAML_MAPPING_NODE) {
        tree = mapping_of(reader, node);
    }
    reader->depth--;
    return tree;
}

cJSON *mon_yaml_parse(const char *text, size_t len, char *problem, size_t room) {
    struct mon_buf copy = {0};
    struct mon_buf readable = {0};
    struct hidden hidden = {0};
    cJSON *tree = NULL;
    mon_buf_add(&copy, text, len);
    const char *terminated = mon_buf_string(&copy);
    snprintf(problem, room, "out of memory");
    yaml_parser_t parser;
    if (terminated != NULL && strlen(terminated) < len) {
        snprintf(problem, room, "it holds a zero byte");
    } else if (terminated != NULL && hide(terminated, &readable, &hidden) && yaml_parser_initialize(&parser)) {
        yaml_document_t document;
        yaml_parser_set_input_string(&parser, (const unsigned char *)readable.data, readable.len);
        if (!yaml_parser_load(&parser, &document)) {
            snprintf(problem, room, "%s in line %zu", parser.problem == NULL ? "can't be read" : parser.problem, parser.problem_mark.line + 1);
        } else {
            const yaml_node_t *root = yaml_document_get_root_node(&document);
            struct reader reader = {.document = &document, .hidden = &hidden};
            snprintf(problem, room, "a key that is no text, or nests too deep");
            tree = root == NULL ? cJSON_CreateNull() : tree_of(&reader, root);
            yaml_document_delete(&document);
        }
        yaml_parser_delete(&parser);
    }
    for (size_t i = 0; i < hidden.count; i++) {
        free(hidden.texts[i]);
    }
    free(hidden.texts);
    mon_buf_free(&readable);
    mon_buf_free(&copy);
    return tree;
}

cJSON *mon_yaml_value(const char *text) {
    char problem[8];
    cJSON *value = mon_yaml_parse(text, strlen(text), problem, sizeof problem);
    return value != NULL ? value : cJSON_CreateString(text);
}
