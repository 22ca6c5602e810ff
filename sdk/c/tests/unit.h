/* A test is a function named after the failure that it would catch; CHECK says where it went wrong. */
#ifndef UNIT_H
#define UNIT_H

#include <stdbool.h>
#include <stddef.h>

struct unit_test {
    const char *name;
    void (*run)(void);
};

#define TEST(function) {#function, function}
#define CHECK(condition) unit_check((condition), #condition, __FILE__, __LINE__)
#define CHECK_TEXT(got, expected) unit_check_text((got), (expected), __FILE__, __LINE__)

void unit_check(bool holds, const char *condition, const char *file, int line);
void unit_check_text(const char *got, const char *expected, const char *file, int line);

/* A new, empty folder of this run, removed at its end. */
const char *unit_folder(void);

/* The files of a folder whose names end so, counted; with the content of the first in `text` unless that is NULL. */
size_t unit_files(const char *folder, const char *ending, char *text, size_t room);

extern const struct unit_test unit_text_tests[];
extern const struct unit_test unit_event_tests[];
extern const struct unit_test unit_config_tests[];
extern const struct unit_test unit_queue_tests[];
extern const struct unit_test unit_spool_tests[];
extern const struct unit_test unit_answers_tests[];
extern const struct unit_test unit_client_tests[];
extern const struct unit_test unit_shipment_tests[];

#endif
