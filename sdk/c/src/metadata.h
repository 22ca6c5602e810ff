/* What is known about a run when it begins: entities and attributes. */
#ifndef MON_METADATA_H
#define MON_METADATA_H

#include "event.h"

struct mon_metadata {
    struct mon_event *event; /* holds both tables, and the first mistake */
};

#endif
