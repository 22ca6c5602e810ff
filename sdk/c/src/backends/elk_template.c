/* The index template of Elasticsearch. */
#include "elk_template.h"

#include <stdio.h>
#include <stdlib.h>

#include "../json.h"
#include "../text.h"

static const char HEAD[] =
    "{\"index_patterns\":[";
static const char TAIL[] =
    "],\"priority\":150,\"version\":1,\"template\":{\"settings\":{\"index.mapping.total_fields.ignore_dynamic_beyond_limit\":"
    "true},\"mappings\":{\"dynamic\":false,\"dynamic_templates\":[{\"entities\":{\"path_match\":\"entities.*\",\"mapping\":{\"type"
    "\":\"keyword\",\"ignore_above\":1024}}},{\"metrics\":{\"path_match\":\"metrics.*\",\"mapping\":{\"type\":\"double\"}}}],\"proper"
    "ties\":{\"event_id\":{\"type\":\"keyword\"},\"timestamp\":{\"type\":\"date_nanos\",\"format\":\"strict_date_optional_time_nano"
    "s\"},\"kind\":{\"type\":\"keyword\"},\"name\":{\"type\":\"keyword\"},\"site_id\":{\"type\":\"keyword\"},\"app\":{\"properties\":{\"nam"
    "e\":{\"type\":\"keyword\"},\"version\":{\"type\":\"keyword\"},\"instance_id\":{\"type\":\"keyword\"}}},\"run_id\":{\"type\":\"keywor"
    "d\"},\"parent_run_id\":{\"type\":\"keyword\"},\"emitter\":{\"properties\":{\"id\":{\"type\":\"keyword\"},\"seq\":{\"type\":\"long\"}}"
    "},\"entities\":{\"type\":\"object\",\"dynamic\":true,\"subobjects\":false},\"metrics\":{\"type\":\"object\",\"dynamic\":true,\"su"
    "bobjects\":false},\"status\":{\"type\":\"keyword\"},\"severity\":{\"type\":\"keyword\"},\"message\":{\"type\":\"text\",\"norms\":fa"
    "lse,\"fields\":{\"keyword\":{\"type\":\"keyword\",\"ignore_above\":256}}},\"progress\":{\"type\":\"double\"},\"duration_ms\":{\"t"
    "ype\":\"double\"},\"state\":{\"properties\":{\"from\":{\"type\":\"keyword\"},\"to\":{\"type\":\"keyword\"}}},\"error\":{\"properties"
    "\":{\"type\":{\"type\":\"keyword\"},\"message\":{\"type\":\"text\",\"norms\":false},\"stack\":{\"type\":\"text\",\"norms\":false}}},\""
    "trace_id\":{\"type\":\"keyword\"},\"span_id\":{\"type\":\"keyword\"},\"attributes\":{\"type\":\"flattened\",\"depth_limit\":64,\"i"
    "gnore_above\":1024}}}},\"_meta\":{\"description\":\"TrackMate's events\",\"managed_by\":\"trackmate\"}}";

void mon_elk_template(const char *index, char *name, size_t room, struct mon_buf *body) {
    static const char *const directives[][2] = {{"%Y", "yyyy"}, {"%m", "mm"}, {"%d", "dd"}, {"%H", "hh"}, {"%G", "gggg"}, {"%V", "ww"}};
    struct mon_buf pattern = {0};
    struct mon_buf plain = {0};
    mon_buf_text(&plain, "trackmate-");
    while (*index != '\0') {
        const char *word = NULL;
        for (size_t i = 0; i < sizeof directives / sizeof *directives; i++) {
            if (strncmp(index, directives[i][0], 2) == 0) {
                word = directives[i][1];
            }
        }
        if (word != NULL) {
            mon_buf_char(&pattern, '*');
            mon_buf_text(&plain, word);
            index += 2;
        } else {
            mon_buf_char(&pattern, *index);
            mon_buf_char(&plain, *index++);
        }
    }
    snprintf(name, room, "%s", mon_buf_string(&plain) == NULL ? "" : plain.data);
    mon_buf_text(body, HEAD);
    mon_text_quote(body, pattern.data, pattern.len);
    mon_buf_text(body, TAIL);
    mon_buf_free(&pattern);
    mon_buf_free(&plain);
}

long mon_elk_template_version(const char *answer, size_t len) {
    struct mon_json_document document;
    long version = -1;
    if (mon_json_parse(&document, answer, len)) {
        const struct mon_json *list = mon_json_get(document.root, "index_templates");
        const struct mon_json *first = list != NULL && list->type == MON_JSON_ARRAY ? list->child : NULL;
        const struct mon_json *number = mon_json_get(mon_json_get(first, "index_template"), "version");
        if (number != NULL && number->type == MON_JSON_INTEGER) {
            version = strtol(number->text, NULL, 10);
        }
    }
    mon_json_free(&document);
    return version;
}
