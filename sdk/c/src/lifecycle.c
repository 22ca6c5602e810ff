/* The ends of a process: exit and fork. What is queued is sent or put on disk at exit; a forked child begins anew. */
#include <pthread.h>
#include <stdlib.h>

#include "client.h"
#include "log.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mon_delivery *volatile inherited; /* what a forked child got from its parent: never used, never freed */

static void at_exit(void) {
    mon_client_close();
}

static void before_fork(void) {
    pthread_mutex_lock(&mon_client.queue.lock);
}

static void in_parent(void) {
    pthread_mutex_unlock(&mon_client.queue.lock);
}

/* The child is an emitter of its own: what the parent had queued is the parent's. The first event starts the worker. */
static void in_child(void) {
    mon_log_after_fork();
    mon_client.fork_count++;
    mon_queue_empty(&mon_client.queue);
    mon_queue_init(&mon_client.queue);
    struct mon_delivery *old = mon_client.delivery != NULL ? mon_client.delivery : mon_client.retired;
    bool runs = mon_client.delivery != NULL;
    mon_client.delivery = NULL;
    mon_client.retired = NULL;
    mon_client.last = (mon_counts){0};
    mon_client.notice = 1;
    if (old != NULL) {
        inherited = old;
        mon_delivery_forget(old);
        mon_client.delivery = runs ? mon_delivery_new(old->settings, &mon_client.queue) : NULL;
        mon_crash_uninstall();
        mon_crash_install();
    }
}

static void install(void) {
    (void)atexit(at_exit);
    (void)pthread_atfork(before_fork, in_parent, in_child);
}

void mon_lifecycle_install(void) {
    (void)pthread_once(&once, install);
}
