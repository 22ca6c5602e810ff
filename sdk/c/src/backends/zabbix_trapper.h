/* Where a Zabbix server or proxy takes values, in the protocol of zabbix_sender. */
#ifndef MON_ZABBIX_TRAPPER_H
#define MON_ZABBIX_TRAPPER_H

#include <stdatomic.h>

#include "../backend.h"

struct mon_trapper {
    char *address;
    char *port;
    atomic_bool interrupted;
    atomic_int fd; /* -1: no connection */
};

/* What a server made of the values of a request. */
struct mon_trapper_counts {
    size_t processed;
    size_t failed;
};

/* Of the `url` only host and port count: it isn't HTTP. False without memory; to be closed all the same. */
bool mon_trapper_open(struct mon_trapper *trapper, const char *url);
void mon_trapper_close(struct mon_trapper *trapper);

/* Hands over `count` values, JSON objects with a comma after each; false when there is no answer, which `answer` explains. */
bool mon_trapper_send(struct mon_trapper *trapper, const struct mon_buf *values, size_t count, double deadline, struct mon_trapper_counts *counts,
                      struct mon_answer *answer);

/* Makes a request in another thread return soon. */
void mon_trapper_interrupt(struct mon_trapper *trapper);
/* In a forked child: closes what it inherited. */
void mon_trapper_forget(struct mon_trapper *trapper);

#endif
