/* Which items of a Zabbix host take no values, and since when. */
#define _GNU_SOURCE
#include "zabbix_patience.h"

#include <stdlib.h>
#include <string.h>

static struct mon_failing *find(const struct mon_zabbix_patience *patience, const char *key, size_t len) {
    for (size_t i = 0; i < patience->count; i++) {
        if (patience->list[i].len == len && memcmp(patience->list[i].key, key, len) == 0) {
            return &patience->list[i];
        }
    }
    return NULL;
}

bool mon_patience_knows(const struct mon_zabbix_patience *patience, const char *key, size_t len) {
    return find(patience, key, len) != NULL;
}

double mon_patience_failed(struct mon_zabbix_patience *patience, const char *key, size_t len, double now) {
    struct mon_failing *found = find(patience, key, len);
    if (found != NULL) {
        found->last = now;
        return now - found->since;
    }
    if (patience->count == MON_FAILING_ITEMS) {
        return -1;
    }
    char *copy = strndup(key, len);
    struct mon_failing *list = copy == NULL ? NULL : realloc(patience->list, (patience->count + 1) * sizeof *list);
    if (list == NULL) {
        free(copy);
        return 0; /* its patience begins with the next failure */
    }
    patience->list = list;
    list[patience->count++] = (struct mon_failing){.key = copy, .len = len, .since = now, .last = now};
    return 0;
}

void mon_patience_taken(struct mon_zabbix_patience *patience, const char *key, size_t len, double now) {
    struct mon_failing *found = find(patience, key, len);
    if (found != NULL && found->last < now) {
        free(found->key);
        *found = patience->list[--patience->count];
    }
}

void mon_patience_free(struct mon_zabbix_patience *patience) {
    for (size_t i = 0; i < patience->count; i++) {
        free(patience->list[i].key);
    }
    free(patience->list);
}
