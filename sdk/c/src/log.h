/* The SDK's own log. */
#ifndef MON_LOG_H
#define MON_LOG_H

#include "monitoring.h"

void mon_log(mon_severity severity, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
