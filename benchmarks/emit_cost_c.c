/* What one emit costs the calling thread in C. `emit_cost_c URL SPOOL CALLS MILLIONS` prints JSON; figures in nanoseconds. */
#define _GNU_SOURCE
#include <cjson/cJSON.h>
#include <monitoring.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 500, PAUSE_MILLISECONDS = 20, THREADS = 16 };

static double now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (double)moment.tv_sec * 1e9 + (double)moment.tv_nsec;
}

static int by_size(const void *one, const void *other) {
    double a = *(const double *)one;
    double b = *(const double *)other;
    return a < b ? -1 : a > b;
}

static void emit(long n) {
    mon_event *event = mon_event_new(MON_METRIC, "chuck");
    mon_event_message(event, "step done");
    mon_event_entity(event, "lot", "L1");
    mon_event_entity(event, "tool", "E1");
    mon_event_metric(event, "temperature", 21.5);
    mon_event_metric(event, "pressure", 0.3);
    mon_event_integer(event, "n", n);
    mon_emit(event);
}

static FILE *log_file;

/* The peer: the same content as JSON by cJSON, appended to a file and handed to the system. */
static void append(long n) {
    struct timespec moment;
    struct tm parts;
    char timestamp[40];
    clock_gettime(CLOCK_REALTIME, &moment);
    gmtime_r(&moment.tv_sec, &parts);
    size_t len = strftime(timestamp, sizeof timestamp, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(timestamp + len, sizeof timestamp - len, ".%06ldZ", moment.tv_nsec / 1000);
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "timestamp", timestamp);
    cJSON_AddStringToObject(event, "kind", "metric");
    cJSON_AddStringToObject(event, "name", "chuck");
    cJSON_AddStringToObject(event, "message", "step done");
    cJSON *entities = cJSON_AddObjectToObject(event, "entities");
    cJSON_AddStringToObject(entities, "lot", "L1");
    cJSON_AddStringToObject(entities, "tool", "E1");
    cJSON *metrics = cJSON_AddObjectToObject(event, "metrics");
    cJSON_AddNumberToObject(metrics, "temperature", 21.5);
    cJSON_AddNumberToObject(metrics, "pressure", 0.3);
    cJSON_AddNumberToObject(cJSON_AddObjectToObject(event, "attributes"), "n", (double)n);
    char *text = cJSON_PrintUnformatted(event);
    fprintf(log_file, "%s\n", text);
    fflush(log_file);
    free(text);
    cJSON_Delete(event);
}

/* Median and 99th percentile of single calls, in bursts with pauses in which the worker catches up, as a program that works does. */
static void paced(const char *name, void (*call)(long), long calls) {
    double *took = calloc((size_t)calls, sizeof *took);
    struct timespec pause = {.tv_nsec = PAUSE_MILLISECONDS * 1000L * 1000L};
    for (long n = 0; n < calls / 10; n++) {
        call(n);
    }
    for (long n = 0; n < calls; n++) {
        if (n % BURST == 0) {
            nanosleep(&pause, NULL);
        }
        double began = now();
        call(n);
        took[n] = now() - began;
    }
    qsort(took, (size_t)calls, sizeof *took, by_size);
    printf("\"%s\":{\"median\":%.0f,\"p99\":%.0f}", name, took[calls / 2], took[calls * 99 / 100]);
    free(took);
}

static void *emit_many(void *calls) {
    for (long n = 0; n < *(long *)calls; n++) {
        emit(n);
    }
    return NULL;
}

static long resident(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%*s %ld", &pages) != 1) {
            pages = 0;
        }
        fclose(file);
    }
    return pages * sysconf(_SC_PAGESIZE) / 1024;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: emit_cost_c URL SPOOL CALLS EVENTS\n");
        return 2;
    }
    long calls = atol(argv[3]);
    long events = atol(argv[4]);
    mon_config *config = mon_config_new();
    mon_config_set(config, "app.name", "benchmark");
    mon_config_set(config, "app.site_id", "fab1");
    mon_config_set(config, "sidecar.url", argv[1]);
    mon_config_set(config, "sidecar.spool_dir", argv[2]);
    mon_config_set(config, "sidecar.retries", "0");
    mon_config_set(config, "queue.max_events", "100000");
    if (mon_initialize(config) != MON_OK) {
        fprintf(stderr, "%s\n", mon_error_message());
        return 2;
    }
    mon_config_free(config);
    printf("{");
    paced("emit", emit, calls);
    if (events > 0) {
        mon_flush(60);
        long before = resident();
        double began = now();
        for (long n = 0; n < events; n++) {
            emit(n);
        }
        double mean = (now() - began) / (double)events;
        mon_flush(120);
        printf(",\"flat_out\":{\"events\":%ld,\"mean\":%.0f,\"rss_kib_before\":%ld,\"rss_kib_after\":%ld}", events, mean, before, resident());
        pthread_t threads[THREADS];
        long each = events / THREADS / 4;
        began = now();
        for (size_t i = 0; i < THREADS; i++) {
            if (pthread_create(&threads[i], NULL, emit_many, &each) != 0) {
                return 2;
            }
        }
        for (size_t i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
        printf(",\"threads\":{\"threads\":%d,\"mean\":%.0f}", THREADS, (now() - began) / (double)(each * THREADS));
    }
    char path[4096];
    snprintf(path, sizeof path, "%s.peer.jsonl", argv[2]);
    log_file = fopen(path, "w");
    if (log_file != NULL) {
        printf(",");
        paced("json_append", append, calls);
        fclose(log_file);
        (void)remove(path);
    }
    mon_close();
    mon_counts counts;
    mon_stats(&counts);
    printf(",\"counts\":{\"emitted\":%llu,\"sent\":%llu,\"spooled\":%llu,\"dropped\":%llu}}\n", (unsigned long long)counts.emitted,
           (unsigned long long)counts.sent, (unsigned long long)counts.spooled, (unsigned long long)counts.dropped);
    return 0;
}
