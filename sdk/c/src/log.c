/* The SDK's own log: to whom the program says, else warnings and worse to standard error. */
#include "log.h"

#include "client.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mon_logger current;
static void *current_data;

void mon_set_logger(mon_logger logger, void *data) {
    pthread_mutex_lock(&lock);
    current = logger;
    current_data = data;
    pthread_mutex_unlock(&lock);
}

void mon_log(mon_severity severity, const char *format, ...) {
    char line[700] = "monitoring: ";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + 12, sizeof line - 12, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&lock);
    mon_logger logger = current;
    void *data = current_data;
    pthread_mutex_unlock(&lock);
    if (logger != NULL) {
        logger(severity, line, data);
    } else if (severity >= MON_WARNING) {
        fprintf(stderr, "%s\n", line);
    }
}

void mon_log_after_fork(void) {
    pthread_mutex_init(&lock, NULL);
}
