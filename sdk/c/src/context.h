/* Runs: what happens between the begin and the end of a context, and how it is reported. */
#ifndef MON_CONTEXT_H
#define MON_CONTEXT_H

#include <stdatomic.h>

#include "event.h"

struct mon_context {
    atomic_int references;
    unsigned fork_count; /* of the process that began it: in a forked child the run is the parent's to end */
    atomic_bool ended;
    double began;
    char *name;
    char run_id[MON_ID_SIZE];
    struct mon_buf run;        /* `"run_id":"…",` */
    struct mon_buf parent;     /* `"parent_run_id":"…",`, or empty */
    struct mon_table entities; /* its own, and those of the runs around it */
    struct mon_table attributes;
};

void mon_context_release(struct mon_context *context);

#endif
