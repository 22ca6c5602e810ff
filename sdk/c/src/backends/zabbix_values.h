/* What Zabbix gets of an event: the items' keys and the values, as sinks/zabbix_items.py has them. */
#ifndef MON_ZABBIX_VALUES_H
#define MON_ZABBIX_VALUES_H

#include <stdint.h>

#include "../json.h"

/* Adds the event's values to a request's `data`, each a JSON object with a comma after it; how many. */
size_t mon_zabbix_values(struct mon_buf *data, const struct mon_json *event, const char *host, int64_t seconds, uint32_t nanoseconds);

/* Adds `prefix[a,b]` with quotes only where Zabbix itself would set them. */
void mon_zabbix_key(struct mon_buf *key, const char *prefix, const char *const *values, size_t count);

#endif
