/* What the SDK keeps for each thread: its last error, the contexts that it is in, and events to be used again. */
#ifndef MON_THREAD_H
#define MON_THREAD_H

#include "error.h"

struct mon_context;

struct mon_link { /* a context on a thread's stack */
    struct mon_context *context;
    struct mon_link *outer;
};

struct mon_thread {
    struct mon_last_error error;
    struct mon_link *innermost;
    struct mon_event *spare_events;
    size_t spares;
};

/* The calling thread's; NULL when there is no memory for it. */
struct mon_thread *mon_thread(void);

#endif
