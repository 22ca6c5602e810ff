/* What the SDK keeps for each thread, and lets go of when the thread ends. */
#include "thread.h"

#include <pthread.h>
#include <stdlib.h>

#include "context.h"
#include "event.h"

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static __thread struct mon_thread *own;

static void at_thread_end(void *value) {
    struct mon_thread *thread = value;
    while (thread->innermost != NULL) {
        struct mon_link *link = thread->innermost;
        thread->innermost = link->outer;
        mon_context_release(link->context);
        free(link);
    }
    mon_event_free_spares(thread);
    mon_last_error_free(&thread->error);
    free(thread);
    own = NULL;
}

static void make_key(void) {
    (void)pthread_key_create(&key, at_thread_end);
}

/* The main thread's, whose keys nobody destroys at exit. */
__attribute__((destructor)) static void at_process_end(void) {
    if (own != NULL) {
        (void)pthread_setspecific(key, NULL);
        at_thread_end(own);
    }
}

struct mon_thread *mon_thread(void) {
    if (__builtin_expect(own != NULL, 1)) {
        return own;
    }
    (void)pthread_once(&key_once, make_key);
    struct mon_thread *thread = calloc(1, sizeof *thread);
    if (thread != NULL && pthread_setspecific(key, thread) != 0) {
        free(thread);
        thread = NULL;
    }
    own = thread;
    return thread;
}
