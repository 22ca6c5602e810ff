/* What the harness does with the SDK: one command in, one answer out; see sdk/conformance/HARNESS.md. */
#ifndef HARNESS_COMMANDS_H
#define HARNESS_COMMANDS_H

#include "buffer.h"
#include "json.h"

/* Carries out one command and adds its answer (a line without its line feed); false when the process is to end without one. */
bool harness_command(struct mon_buf *answer, const struct mon_json *command);

#endif
