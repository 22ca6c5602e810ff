/* Which items of a Zabbix host take no values, and since when. */
#ifndef MON_ZABBIX_PATIENCE_H
#define MON_ZABBIX_PATIENCE_H

#include <stdbool.h>
#include <stddef.h>

struct mon_failing {
    char *key;
    size_t len;
    double since; /* seconds of the monotonic clock */
    double last;
};

struct mon_zabbix_patience {
    struct mon_failing *list;
    size_t count;
};

enum { MON_FAILING_ITEMS = 2000 }; /* at most so many are remembered */

/* Whether values of the item failed last time. */
bool mon_patience_knows(const struct mon_zabbix_patience *patience, const char *key, size_t len);
/* Notes that values of it fail `now`; for how many seconds they do. Below 0: there is no room for one more item. */
double mon_patience_failed(struct mon_zabbix_patience *patience, const char *key, size_t len, double now);
/* Notes that it took values `now`; of an item that took some and not others the failures count. */
void mon_patience_taken(struct mon_zabbix_patience *patience, const char *key, size_t len, double now);
void mon_patience_free(struct mon_zabbix_patience *patience);

#endif
