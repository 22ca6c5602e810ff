/* An event that is being put together: checked and turned into JSON text as its fields come in. */
#ifndef MON_EVENT_H
#define MON_EVENT_H

#include "buffer.h"
#include "check.h"
#include "json.h"

struct mon_thread;

struct mon_entry { /* one of a table: `"key":value` at `start`, its quoted key being `key_len` bytes long */
    unsigned start;
    unsigned key_len;
};

/* The inside of a JSON object. */
struct mon_table {
    struct mon_buf text;
    struct mon_entry *entries;
    size_t count;
    size_t room;
};

struct mon_piece { /* where a single field stands in the text */
    unsigned start;
    unsigned len;
};

struct mon_event {
    struct mon_event *next;
    mon_kind kind;
    unsigned given; /* a bit for each field that is there */
    bool dropped_metrics;
    mon_status status; /* of the first mistake */
    char path[64 + 4 * MON_MAX_TEXT];
    char problem[192];
    struct mon_buf text; /* the single fields, each with a comma after it */
    struct mon_piece pieces[MON_FIELDS];
    struct mon_table entities;
    struct mon_table metrics;
    struct mon_table attributes;
    struct mon_buf left_out; /* names of metrics that are no numbers, quoted, with commas between */
    char event_id[MON_ID_SIZE]; /* that the program gave, else empty */
};

/* An empty event of the thread's stock, with neither kind nor name. */
struct mon_event *mon_event_take(void);
void mon_event_free_spares(struct mon_thread *thread);

/* Notes the first mistake; its status. */
mon_status mon_event_mistake(struct mon_event *event, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Sets a field that is one short text of 1 to `longest` characters. */
mon_status mon_event_set_short(struct mon_event *event, enum mon_field field, const char *text, size_t len, size_t longest);

/* Sets a single field to JSON text that is known to be right. */
mon_status mon_event_set_raw(struct mon_event *event, enum mon_field field, const char *json, size_t len);

mon_status mon_event_set_kind(struct mon_event *event, mon_kind kind);

/* Begins an entry of a table, in place of one with the same key. The value is to be added to `table->text`. False: a wrong key. */
bool mon_table_key(struct mon_event *event, struct mon_table *table, const char *path, const char *key, size_t len, bool any);

/* Takes back the entry that was begun last. */
void mon_table_undo(struct mon_table *table);

/* Whether a table has the entry with this quoted key. */
bool mon_table_has(const struct mon_table *table, const char *quoted, size_t len);

mon_status mon_event_set_entity(struct mon_event *event, const char *key, size_t key_len, const char *value, size_t len);
mon_status mon_event_set_message(struct mon_event *event, const char *text, size_t len);

/* Sets a field from JSON. */
mon_status mon_event_set_json(struct mon_event *event, enum mon_field field, const struct mon_json *value);

/* An event from a JSON object; never NULL but without memory: a mistake is noted in it. */
struct mon_event *mon_event_from_json(const struct mon_json *object);

/* Checks what only the whole event can tell, and completes it. */
mon_status mon_event_complete(struct mon_event *event);

#endif
