/* Checks a configuration against the JSON Schema that all languages share, and names every mistake.
 *
 * It knows the part of JSON Schema 2020-12 that config.schema.json uses; a test holds it against the schema. */
#include <math.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>

#include "config.h"
#include "schema.h"
#include "text.h"

enum { PATH = 512 };

static pthread_once_t schema_once = PTHREAD_ONCE_INIT;
static cJSON *schema;

static void free_schema(void) {
    cJSON_Delete(schema);
    schema = NULL;
}

static void parse_schema(void) {
    schema = cJSON_ParseWithLength(mon_schema_text, mon_schema_length);
    (void)atexit(free_schema);
}

const cJSON *mon_config_schema(void) {
    (void)pthread_once(&schema_once, parse_schema);
    return schema;
}

static void join(char out[PATH], const char *path, const char *key) {
    snprintf(out, PATH, "%s%s%s", path, path[0] == '\0' ? "" : ".", key);
}

static bool is_type(const cJSON *value, const char *name) {
    if (strcmp(name, "object") == 0) {
        return cJSON_IsObject(value);
    }
    if (strcmp(name, "array") == 0) {
        return cJSON_IsArray(value);
    }
    if (strcmp(name, "string") == 0) {
        return cJSON_IsString(value);
    }
    if (strcmp(name, "boolean") == 0) {
        return cJSON_IsBool(value);
    }
    if (strcmp(name, "null") == 0) {
        return cJSON_IsNull(value);
    }
    bool number = cJSON_IsNumber(value) && isfinite(value->valuedouble);
    return number && (strcmp(name, "number") == 0 || floor(value->valuedouble) == value->valuedouble);
}

/* A value in a message: short, and only its kind where it could hold a secret. */
static void shown(const cJSON *value, char out[72]) {
    if (cJSON_IsObject(value) || cJSON_IsArray(value)) {
        snprintf(out, 72, cJSON_IsObject(value) ? "a mapping" : "a list");
        return;
    }
    struct mon_buf text = {0};
    if (cJSON_IsString(value)) {
        mon_text_quote(&text, value->valuestring, strlen(value->valuestring));
    } else if (cJSON_IsNumber(value) && value->valuestring != NULL) {
        mon_buf_text(&text, value->valuestring);
    } else {
        char *printed = cJSON_PrintUnformatted(value);
        mon_buf_text(&text, printed == NULL ? "?" : printed);
        cJSON_free(printed);
    }
    size_t fit = text.len <= 60 ? text.len : mon_text_fit(text.data, text.len, 57);
    snprintf(out, 72, "%.*s%s", (int)fit, text.data, fit < text.len ? "..." : "");
    mon_buf_free(&text);
}

static void list_of(const cJSON *array, const char *between, char *out, size_t room) {
    out[0] = '\0';
    const cJSON *entry;
    cJSON_ArrayForEach(entry, array) {
        size_t len = strlen(out);
        snprintf(out + len, room - len, "%s%s", len == 0 ? "" : between, cJSON_IsString(entry) ? entry->valuestring : "?");
    }
}

static bool matches(const char *pattern, const char *text) {
    char posix[256];
    size_t len = 0;
    for (const char *at = pattern; *at != '\0' && len < sizeof posix - 16; at++) {
        if (at[0] == '\\' && at[1] == 's') { /* POSIX has no \s within brackets */
            len += (size_t)snprintf(posix + len, sizeof posix - len, "[:space:]");
            at++;
        } else {
            posix[len++] = *at;
        }
    }
    posix[len] = '\0';
    regex_t regex;
    if (regcomp(&regex, posix, REG_EXTENDED | REG_NOSUB) != 0) {
        return true;
    }
    bool found = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

static size_t characters_of(const char *text) {
    size_t count = 0;
    for (; *text != '\0'; text++) {
        count += ((unsigned char)*text & 0xC0) != 0x80;
    }
    return count;
}

static const cJSON *rule(const cJSON *rules, const char *keyword) {
    return cJSON_GetObjectItemCaseSensitive(rules, keyword);
}

static bool in_list(const cJSON *list, const cJSON *value) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, list) {
        if (cJSON_IsString(entry) && cJSON_IsString(value) ? strcmp(entry->valuestring, value->valuestring) == 0 : cJSON_Compare(entry, value, 1)) {
            return true;
        }
    }
    return false;
}

static void check_text(const cJSON *rules, const cJSON *value, const char *path, struct mon_problems *problems) {
    char got[72];
    shown(value, got);
    const cJSON *pattern = rule(rules, "pattern");
    if (pattern != NULL && !matches(pattern->valuestring, value->valuestring)) {
        const cJSON *description = rule(rules, "description");
        mon_problem_add(problems, path, "expected %s%s, got %s", description == NULL ? "text like " : "",
                        description == NULL ? pattern->valuestring : description->valuestring, got);
    }
    const cJSON *least = rule(rules, "minLength");
    const cJSON *most = rule(rules, "maxLength");
    size_t characters = characters_of(value->valuestring);
    if (least != NULL && characters < (size_t)least->valueint) {
        mon_problem_add(problems, path, "expected at least %d character(s)", least->valueint);
    }
    if (most != NULL && characters > (size_t)most->valueint) {
        mon_problem_add(problems, path, "expected at most %d character(s)", most->valueint);
    }
}

static void check_number(const cJSON *rules, const cJSON *value, const char *path, struct mon_problems *problems) {
    static const struct {
        const char *keyword;
        const char *words;
    } bounds[] = {{"minimum", "at least"}, {"maximum", "at most"}, {"exclusiveMinimum", "more than"}, {"exclusiveMaximum", "less than"}};
    char got[72];
    shown(value, got);
    for (size_t i = 0; i < 4; i++) {
        const cJSON *bound = rule(rules, bounds[i].keyword);
        if (bound == NULL) {
            continue;
        }
        double number = value->valuedouble;
        double limit = bound->valuedouble;
        bool kept = i == 0 ? number >= limit : i == 1 ? number <= limit : i == 2 ? number > limit : number < limit;
        if (!kept) {
            mon_problem_add(problems, path, "expected %s %g, got %s", bounds[i].words, limit, got);
        }
    }
}

static void check(const cJSON *rules, const cJSON *value, const char *path, const cJSON *root, struct mon_problems *problems);

static void unknown_key(const cJSON *known, const cJSON *entry, const char *path, struct mon_problems *problems) {
    const char *close = NULL;
    double best = 0.6;
    char names[384] = "";
    const cJSON *candidate;
    cJSON_ArrayForEach(candidate, known) {
        double likeness = mon_text_likeness(entry->string, candidate->string);
        if (likeness >= best) {
            best = likeness;
            close = candidate->string;
        }
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%s", len == 0 ? "" : ", ", candidate->string);
    }
    char place[PATH];
    join(place, path, entry->string);
    if (close != NULL) {
        mon_problem_add(problems, place, "unknown key; did you mean %s?", close);
    } else {
        mon_problem_add(problems, place, "unknown key; known here: %s", names[0] == '\0' ? "none" : names);
    }
}

static void check_object(const cJSON *rules, const cJSON *value, const char *path, const cJSON *root, struct mon_problems *problems) {
    const cJSON *known = rule(rules, "properties");
    char place[PATH];
    const cJSON *key;
    cJSON_ArrayForEach(key, rule(rules, "required")) {
        if (rule(value, key->valuestring) == NULL) {
            join(place, path, key->valuestring);
            mon_problem_add(problems, place, "required but missing");
        }
    }
    const cJSON *entry;
    cJSON_ArrayForEach(entry, value) {
        const cJSON *inner = known == NULL ? NULL : rule(known, entry->string);
        if (inner != NULL) {
            join(place, path, entry->string);
            check(inner, entry, place, root, problems);
        } else if (cJSON_IsFalse(rule(rules, "additionalProperties"))) {
            unknown_key(known, entry, path, problems);
        }
    }
}

static const cJSON *resolve(const char *reference, const cJSON *root) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", reference);
    char *rest = NULL;
    const cJSON *node = root;
    for (char *part = strtok_r(copy, "#/", &rest); part != NULL && node != NULL; part = strtok_r(NULL, "#/", &rest)) {
        node = rule(node, part);
    }
    return node;
}

static void check(const cJSON *rules, const cJSON *value, const char *path, const cJSON *root, struct mon_problems *problems) {
    const cJSON *reference = rule(rules, "$ref");
    if (reference != NULL) {
        rules = resolve(reference->valuestring, root);
    }
    char got[72];
    shown(value, got);
    const cJSON *type = rule(rules, "type");
    if (type != NULL) {
        bool right = cJSON_IsString(type) && is_type(value, type->valuestring);
        const cJSON *names = cJSON_IsArray(type) ? type : NULL;
        const cJSON *name;
        cJSON_ArrayForEach(name, names) {
            right |= is_type(value, name->valuestring);
        }
        if (!right) {
            char wanted[64];
            list_of(type, " or ", wanted, sizeof wanted);
            mon_problem_add(problems, path, "expected %s, got %s", cJSON_IsString(type) ? type->valuestring : wanted, got);
            return;
        }
    }
    const cJSON *choices = rule(rules, "enum");
    if (choices != NULL && !in_list(choices, value)) {
        char list[256];
        list_of(choices, ", ", list, sizeof list);
        mon_problem_add(problems, path, "expected one of %s, got %s", list, got);
    }
    const cJSON *constant = rule(rules, "const");
    if (constant != NULL && !cJSON_Compare(constant, value, 1)) {
        mon_problem_add(problems, path, "expected %s, got %s", cJSON_IsString(constant) ? constant->valuestring : "?", got);
    }
    if (cJSON_IsString(value)) {
        check_text(rules, value, path, problems);
    } else if (cJSON_IsNumber(value)) {
        check_number(rules, value, path, problems);
    } else if (cJSON_IsObject(value)) {
        check_object(rules, value, path, root, problems);
    } else if (cJSON_IsArray(value)) {
        size_t index = 0;
        const cJSON *entry;
        cJSON_ArrayForEach(entry, value) {
            char place[PATH];
            snprintf(place, sizeof place, "%s[%zu]", path, index++);
            check(rule(rules, "items"), entry, place, root, problems);
        }
    }
    const cJSON *part;
    cJSON_ArrayForEach(part, rule(rules, "allOf")) {
        check(part, value, path, root, problems);
    }
    const cJSON *condition = rule(rules, "if");
    if (condition != NULL) {
        struct mon_problems broken = {0};
        check(condition, value, path, root, &broken);
        if (broken.count == 0) {
            check(rule(rules, "then"), value, path, root, problems);
        }
        mon_problems_free(&broken);
    }
}

void mon_config_check(const cJSON *document, struct mon_problems *problems) {
    const cJSON *root = mon_config_schema();
    check(root, document, "", root, problems);
}

bool mon_config_is_text(char *const *path, size_t count) {
    const cJSON *node = mon_config_schema();
    for (size_t i = 0; i < count && node != NULL; i++) {
        node = rule(rule(node, "properties"), path[i]);
    }
    const cJSON *type = node == NULL ? NULL : rule(node, "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "string") == 0;
}
