/* How answers of servers are read: apart from sending, so that tests and fuzzing reach them. */
#ifndef MON_ANSWERS_H
#define MON_ANSWERS_H

#include "http.h"

/* What the sidecar's answer means for a batch of `count` events. */
void mon_sidecar_read_answer(const struct mon_http_response *response, size_t count, struct mon_answer *answer);

/* The counts in Zabbix's answer; false when it is none. */
bool mon_zabbix_read_answer(const char *text, size_t len, size_t *processed, size_t *failed);

#endif
