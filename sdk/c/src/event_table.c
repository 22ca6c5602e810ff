/* The tables of an event: entries with keys, of which each stands once. */
#include <stdlib.h>

#include "event.h"
#include "text.h"

enum { FEW_ENTRIES = 8 };

static void remove_entry(struct mon_table *table, size_t place) {
    unsigned start = table->entries[place].start;
    size_t end = place + 1 < table->count ? table->entries[place + 1].start : table->text.len;
    unsigned len = (unsigned)(end - start);
    mon_buf_cut(&table->text, start, len);
    table->count--;
    for (size_t i = place; i < table->count; i++) {
        table->entries[i] = table->entries[i + 1];
        table->entries[i].start -= len;
    }
}

bool mon_table_key(struct mon_event *event, struct mon_table *table, const char *path, const char *key, size_t len, bool any) {
    if (table->count == table->room) {
        size_t room = table->room == 0 ? FEW_ENTRIES : table->room * 2;
        struct mon_entry *entries = realloc(table->entries, room * sizeof *entries);
        if (entries == NULL) {
            event->text.failed = true;
            return false;
        }
        table->entries = entries;
        table->room = room;
    }
    size_t start = table->text.len;
    size_t characters = mon_text_quote(&table->text, key, len);
    if (!any && (characters == 0 || characters > MON_MAX_TEXT)) {
        table->text.len = start;
        mon_event_mistake(event, path, "expected keys of 1 to %d characters", MON_MAX_TEXT);
        return false;
    }
    unsigned key_len = (unsigned)(table->text.len - start);
    mon_buf_char(&table->text, ':');
    struct mon_entry *entries = table->entries;
    entries[table->count++] = (struct mon_entry){(unsigned)start, key_len};
    for (size_t i = 0; i + 1 < table->count; i++) {
        if (entries[i].key_len == key_len && memcmp(table->text.data + entries[i].start, table->text.data + start, key_len) == 0) {
            remove_entry(table, i);
            break;
        }
    }
    return true;
}

void mon_table_undo(struct mon_table *table) {
    table->count--;
    table->text.len = table->entries[table->count].start;
}

bool mon_table_has(const struct mon_table *table, const char *quoted, size_t len) {
    for (size_t i = 0; i < table->count; i++) {
        const struct mon_entry *entry = &table->entries[i];
        if (entry->key_len == len && memcmp(table->text.data + entry->start, quoted, len) == 0) {
            return true;
        }
    }
    return false;
}
