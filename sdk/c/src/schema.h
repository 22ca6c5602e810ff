/* schema/config.schema.json, as it was when the library was built. */
#ifndef MON_SCHEMA_H
#define MON_SCHEMA_H

#include <stddef.h>

extern const char mon_schema_text[];
extern const size_t mon_schema_length;

#endif
