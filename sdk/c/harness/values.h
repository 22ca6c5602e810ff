/* Values that JSON lacks: what the protocol writes as $float, $bytes and $surrogate. */
#ifndef HARNESS_VALUES_H
#define HARNESS_VALUES_H

#include "json.h"

/* Adds a value as the JSON text that mon_emit_json() and its like take. */
void harness_render(struct mon_buf *out, const struct mon_json *value);

#endif
