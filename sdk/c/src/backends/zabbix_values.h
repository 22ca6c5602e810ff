/* What Zabbix gets of an event: the items' keys and the values, as sinks/zabbix_items.py has them. */
#ifndef MON_ZABBIX_VALUES_H
#define MON_ZABBIX_VALUES_H

#include <stdint.h>

#include "../json.h"

struct mon_zabbix_value {
    size_t event; /* its event's place */
    size_t start; /* where it stands in `data`, and its item's key in `keys` */
    size_t len;
    size_t key;
    size_t key_len;
};

/* Values in the order of their events. */
struct mon_zabbix_list {
    struct mon_buf data; /* JSON objects with a comma after each; `failed`: there was no memory for all */
    struct mon_buf keys;
    struct mon_zabbix_value *values;
    size_t count;
    size_t room;
};

/* Adds the values of the event of that place. */
void mon_zabbix_values(struct mon_zabbix_list *list, size_t place, const struct mon_json *event, const char *host, int64_t seconds,
                       uint32_t nanoseconds);
void mon_zabbix_list_free(struct mon_zabbix_list *list);

/* Adds `prefix[a,b]` with quotes only where Zabbix itself would set them. */
void mon_zabbix_key(struct mon_buf *key, const char *prefix, const char *const *values, size_t count);

#endif
