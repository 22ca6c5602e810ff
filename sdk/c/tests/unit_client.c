/* The whole SDK from many threads at once: they emit while others flush, measure, close and start anew. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "monitoring.h"
#include "unit.h"

enum { EMITTERS = 16, ROUNDS = 3, TEXT = 4096 };

struct crowd {
    atomic_bool over;
    atomic_ullong taken; /* events that the SDK took from the program */
};

static void *emitter(void *data) {
    struct crowd *crowd = data;
    while (!atomic_load(&crowd->over)) {
        mon_context *run = mon_context_begin_with("crowd", "tool", "T1", NULL);
        mon_event *event = mon_event_new(MON_METRIC, "measured");
        (void)mon_event_metric(event, "third", 1.0 / 3);
        unsigned long long took = run != NULL;
        took += mon_emit(event) == MON_OK;
        took += mon_context_end_ok(run) == MON_OK && run != NULL;
        atomic_fetch_add(&crowd->taken, took);
        nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
    }
    return NULL;
}

static void *observer(void *data) {
    struct crowd *crowd = data;
    while (!atomic_load(&crowd->over)) {
        mon_counts counts;
        mon_backend_counts backend;
        CHECK(mon_stats(&counts) == MON_OK);
        if (mon_backend_stats(0, &backend) != MON_OK) {
            CHECK(mon_error_status() == MON_ERR_STATE);
        }
        (void)mon_flush(0.02);
    }
    return NULL;
}

/* Starts the SDK anew a few times under the feet of threads that use it: what it says that it was given is what it was given. */
static void crowd_with(const char *configuration) {
    struct crowd crowd = {false, 0};
    pthread_t threads[EMITTERS + 1];
    mon_config *config = mon_config_new();
    CHECK(mon_config_json(config, configuration, strlen(configuration)) == MON_OK);
    CHECK(mon_initialize(config) == MON_OK);
    for (size_t i = 0; i <= EMITTERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, i == EMITTERS ? observer : emitter, &crowd) == 0);
    }
    unsigned long long emitted = 0;
    unsigned long long dropped = 0;
    for (int round = 0; round < ROUNDS; round++) {
        mon_counts counts = {0};
        while (counts.emitted < 1000) {
            CHECK(mon_stats(&counts) == MON_OK);
            (void)mon_flush(0.01);
        }
        CHECK(mon_close() == MON_OK && mon_stats(&counts) == MON_OK);
        CHECK(counts.queued == 0 && counts.emitted == counts.sent + counts.spooled + counts.rejected + counts.failed + counts.dropped);
        CHECK(counts.failed == 0);
        dropped += counts.dropped;
        emitted += counts.emitted;
        CHECK(mon_initialize(config) == MON_OK);
    }
    atomic_store(&crowd.over, true);
    for (size_t i = 0; i <= EMITTERS; i++) {
        pthread_join(threads[i], NULL);
    }
    mon_counts counts;
    CHECK(mon_close() == MON_OK && mon_stats(&counts) == MON_OK);
    emitted += counts.emitted;
    dropped += counts.dropped;
    /* A machine that is too slow for its disk drops some, after a second, and reports that by events of the SDK's own. */
    CHECK(dropped == 0 ? emitted == atomic_load(&crowd.taken) : emitted > atomic_load(&crowd.taken));
    mon_config_free(config);
}

static void threads_and_a_dead_sidecar_lose_events(void) {
    char configuration[TEXT];
    snprintf(configuration, sizeof configuration,
             "{\"sdk\":{\"app\":{\"name\":\"a\",\"site_id\":\"b\"},\"queue\":{\"flush_interval\":0.01},"
             "\"sidecar\":{\"url\":\"http://127.0.0.1:9\",\"retries\":0,\"spool_dir\":\"%s\"}}}",
             unit_folder());
    crowd_with(configuration);
}

static void threads_and_several_backends_lose_events(void) {
    char configuration[TEXT];
    const char *folder = unit_folder();
    snprintf(configuration, sizeof configuration,
             "{\"sdk\":{\"mode\":\"direct\",\"app\":{\"name\":\"a\",\"site_id\":\"b\"},\"queue\":{\"flush_interval\":0.01,\"max_events\":500},"
             "\"sidecar\":{\"retries\":0,\"spool_dir\":\"%s/spool\"},\"direct_backends\":["
             "{\"type\":\"filesystem\",\"priority\":1,\"config\":{\"path\":\"%s/one\"}},"
             "{\"type\":\"filesystem\",\"name\":\"two\",\"priority\":2,\"config\":{\"path\":\"%s/two\"}},"
             "{\"type\":\"webhook\",\"priority\":2,\"config\":{\"url\":\"http://127.0.0.1:9\"}},"
             "{\"type\":\"filesystem\",\"name\":\"rest\",\"priority\":3,\"delivery\":\"fallback\",\"config\":{\"path\":\"%s/rest\"}}]}}",
             folder, folder, folder, folder);
    crowd_with(configuration);
}

const struct unit_test unit_client_tests[] = {
    TEST(threads_and_a_dead_sidecar_lose_events),
    TEST(threads_and_several_backends_lose_events),
    {NULL, NULL},
};
