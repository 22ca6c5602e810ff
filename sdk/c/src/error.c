/* The last error of each thread. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "thread.h"

void mon_problem_add(struct mon_problems *problems, const char *path, const char *format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < problems->count; i++) {
        if (strcmp(problems->list[i].path, path) == 0 && strcmp(problems->list[i].message, message) == 0) {
            return;
        }
    }
    struct mon_problem *list = realloc(problems->list, (problems->count + 1) * sizeof *list);
    if (list == NULL) {
        return;
    }
    problems->list = list;
    struct mon_problem problem = {strdup(path), strdup(message)};
    if (problem.path == NULL || problem.message == NULL) {
        free(problem.path);
        free(problem.message);
        return;
    }
    list[problems->count++] = problem;
}

void mon_problems_free(struct mon_problems *problems) {
    for (size_t i = 0; i < problems->count; i++) {
        free(problems->list[i].path);
        free(problems->list[i].message);
    }
    free(problems->list);
    *problems = (struct mon_problems){0};
}

static int by_path(const void *one, const void *other) {
    const struct mon_problem *a = one;
    const struct mon_problem *b = other;
    int order = strcmp(a->path, b->path);
    return order != 0 ? order : strcmp(a->message, b->message);
}

static void begin(struct mon_last_error *error, mon_status status) {
    error->status = status;
    error->path.len = 0;
    error->message.len = 0;
    mon_problems_free(&error->problems);
}

mon_status mon_error_set(mon_status status, const char *path, const char *format, ...) {
    struct mon_thread *thread = mon_thread();
    if (thread == NULL) {
        return status;
    }
    begin(&thread->error, status);
    mon_buf_text(&thread->error.path, path);
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    mon_buf_text(&thread->error.message, message);
    return status;
}

mon_status mon_error_config(const char *source, struct mon_problems *problems) {
    struct mon_thread *thread = mon_thread();
    if (thread == NULL) {
        mon_problems_free(problems);
        return MON_ERR_CONFIG;
    }
    begin(&thread->error, MON_ERR_CONFIG);
    if (problems->count > 0) {
        qsort(problems->list, problems->count, sizeof *problems->list, by_path);
        mon_buf_text(&thread->error.path, problems->list[0].path);
    }
    mon_buf_format(&thread->error.message, "%s: %zu problem%s", source, problems->count, problems->count == 1 ? "" : "s");
    for (size_t i = 0; i < problems->count; i++) {
        const struct mon_problem *problem = &problems->list[i];
        mon_buf_format(&thread->error.message, "\n  %s%s%s", problem->path, problem->path[0] == '\0' ? "" : ": ", problem->message);
    }
    thread->error.problems = *problems;
    *problems = (struct mon_problems){0};
    return MON_ERR_CONFIG;
}

void mon_error_prefix(const char *prefix) {
    struct mon_thread *thread = mon_thread();
    if (thread == NULL) {
        return;
    }
    struct mon_buf path = {0};
    mon_buf_text(&path, prefix);
    if (thread->error.path.len > 0) {
        mon_buf_char(&path, '.');
        mon_buf_add(&path, thread->error.path.data, thread->error.path.len);
    }
    mon_buf_free(&thread->error.path);
    thread->error.path = path;
}

void mon_last_error_free(struct mon_last_error *error) {
    mon_buf_free(&error->path);
    mon_buf_free(&error->message);
    mon_problems_free(&error->problems);
}

mon_status mon_error_status(void) {
    struct mon_thread *thread = mon_thread();
    return thread == NULL ? MON_ERR_MEMORY : thread->error.status;
}

const char *mon_error_message(void) {
    struct mon_thread *thread = mon_thread();
    const char *text = thread == NULL ? NULL : mon_buf_string(&thread->error.message);
    return text == NULL ? "out of memory" : text;
}

const char *mon_error_path(void) {
    struct mon_thread *thread = mon_thread();
    const char *text = thread == NULL ? NULL : mon_buf_string(&thread->error.path);
    return text == NULL ? "" : text;
}

size_t mon_error_problem_count(void) {
    struct mon_thread *thread = mon_thread();
    return thread == NULL ? 0 : thread->error.problems.count;
}

const char *mon_error_problem_path(size_t index) {
    return index < mon_error_problem_count() ? mon_thread()->error.problems.list[index].path : "";
}

const char *mon_error_problem_message(size_t index) {
    return index < mon_error_problem_count() ? mon_thread()->error.problems.list[index].message : "";
}
