/* The last error of each thread: a status, the path of the mistake, a message for people, and every problem of a configuration. */
#ifndef MON_ERROR_H
#define MON_ERROR_H

#include "buffer.h"
#include "monitoring.h"

struct mon_problem {
    char *path;
    char *message;
};

struct mon_problems {
    struct mon_problem *list;
    size_t count;
};

/* Notes a problem; the same one twice counts once. */
void mon_problem_add(struct mon_problems *problems, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));
void mon_problems_free(struct mon_problems *problems);

struct mon_last_error {
    mon_status status;
    struct mon_buf path;
    struct mon_buf message;
    struct mon_problems problems;
};

/* Notes an error of the calling thread, and returns its status. */
mon_status mon_error_set(mon_status status, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Notes a wrong configuration; takes the problems over, sorted. `source` says where it stands. */
mon_status mon_error_config(const char *source, struct mon_problems *problems);

/* Puts a word before the path of the thread's error. */
void mon_error_prefix(const char *prefix);

void mon_last_error_free(struct mon_last_error *error);

#endif
