/* The queue and the batches: nothing is lost, doubled or out of order, whatever is taken, pinned and dropped meanwhile. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "queue.h"
#include "unit.h"

static struct mon_origin origin = {.ids = {.tail = "-7000-8000-0000"}, .emitter_id = "01890a5d-ac96-774b-8cce-000000000001"};

static void put(struct mon_queue *queue, const char *text) {
    struct mon_record stamps = {0};
    struct mon_part parts[] = {{text, strlen(text)}};
    pthread_mutex_lock(&queue->lock);
    CHECK(mon_queue_put(queue, parts, 1, parts[0].len, 0, &stamps));
    pthread_mutex_unlock(&queue->lock);
}

/* Takes up to `limit` as batches, which the caller settles; how many events. */
static size_t take(struct mon_queue *queue, size_t limit, struct mon_batch **batches) {
    struct mon_taking taking;
    *batches = NULL;
    pthread_mutex_lock(&queue->lock);
    bool some = mon_queue_take(queue, &taking, limit);
    pthread_mutex_unlock(&queue->lock);
    if (!some) {
        return 0;
    }
    size_t lost;
    *batches = mon_queue_pack(&taking, &origin, &lost);
    CHECK(lost == 0);
    pthread_mutex_lock(&queue->lock);
    mon_queue_release(queue, &taking, *batches);
    pthread_mutex_unlock(&queue->lock);
    return taking.count;
}

static void settle(struct mon_queue *queue, struct mon_batch *batches) {
    while (batches != NULL) {
        struct mon_batch *batch = batches;
        batches = batch->next;
        pthread_mutex_lock(&queue->lock);
        CHECK(mon_queue_settle(queue, batch) && !mon_queue_settle(queue, batch));
        pthread_mutex_unlock(&queue->lock);
        mon_batch_release(batch);
    }
}

static void end(struct mon_queue *queue) {
    mon_queue_empty(queue);
    pthread_mutex_destroy(&queue->lock);
    pthread_cond_destroy(&queue->change);
}

static void a_line_is_not_the_event(void) {
    struct mon_queue queue;
    mon_queue_init(&queue);
    put(&queue, "\"kind\":\"log\",\"name\":\"x\",");
    struct mon_batch *batch;
    CHECK(take(&queue, 10, &batch) == 1 && batch != NULL && batch->count == 1);
    char expected[] = "{\"event_id\":\"########-####-7000-8000-000000000001\",\"timestamp\":\"####-##-##T##:##:##.######Z\",\"emitter\":{\"id\":"
                      "\"01890a5d-ac96-774b-8cce-000000000001\",\"seq\":1},\"kind\":\"log\",\"name\":\"x\"}\n";
    CHECK(batch->body.len == strlen(expected));
    for (size_t i = 0; i < batch->body.len && i < strlen(expected); i++) {
        CHECK(expected[i] == '#' || expected[i] == batch->body.data[i]);
    }
    settle(&queue, batch);
    end(&queue);
}

static void events_change_places_between_chunks(void) {
    struct mon_queue queue;
    mon_queue_init(&queue);
    uint64_t next = 1;
    unsigned seed = 5;
    size_t put_so_far = 0;
    for (int round = 0; round < 400; round++) {
        seed = seed * 1103515245 + 12345;
        size_t many = seed >> 16 & 63;
        for (size_t i = 0; i < many; i++) {
            char text[3000];
            size_t len = 20 + (seed >> 8 & 2047);
            memset(text, 'x', len);
            text[len] = '\0';
            put(&queue, text);
            put_so_far++;
        }
        struct mon_batch *batches;
        size_t got = take(&queue, seed >> 20 & 31, &batches);
        size_t seen = 0;
        for (const struct mon_batch *batch = batches; batch != NULL; batch = batch->next) {
            for (size_t i = 0; i < batch->count; i++, seen++) {
                CHECK(batch->lines[i].seq == next++);
            }
        }
        CHECK(seen == got);
        settle(&queue, batches);
    }
    pthread_mutex_lock(&queue.lock);
    CHECK(queue.count == put_so_far - (next - 1) && mon_queue_mark(&queue) == (int64_t)put_so_far);
    CHECK(mon_queue_done(&queue, (int64_t)next - 1) && !mon_queue_done(&queue, (int64_t)next));
    while (queue.count > 0) {
        mon_queue_drop(&queue);
    }
    CHECK(queue.large == 0);
    pthread_mutex_unlock(&queue.lock);
    end(&queue);
}

static void a_batch_is_too_large_for_a_request(void) {
    struct mon_queue queue;
    mon_queue_init(&queue);
    static char text[100001];
    memset(text, 'y', 100000);
    for (int i = 0; i < 25; i++) {
        put(&queue, text);
    }
    for (int i = 0; i < 6000; i++) {
        put(&queue, "\"a\":1,");
    }
    struct mon_batch *batches;
    CHECK(take(&queue, 10000, &batches) == 6025);
    size_t events = 0;
    for (const struct mon_batch *batch = batches; batch != NULL; batch = batch->next) {
        CHECK(batch->body.len <= 1024 * 1024 && batch->count <= 5000 && batch->count > 0);
        CHECK(batch->ordinal == (int64_t)events);
        events += batch->count;
    }
    CHECK(events == 6025);
    settle(&queue, batches);
    end(&queue);
}

struct race {
    struct mon_queue queue;
    pthread_mutex_t guard;
    int running;
};

static void *producer(void *data) {
    struct race *race = data;
    for (int i = 0; i < 20000; i++) {
        put(&race->queue, "\"kind\":\"log\",\"name\":\"x\",");
    }
    pthread_mutex_lock(&race->guard);
    race->running--;
    pthread_mutex_unlock(&race->guard);
    return NULL;
}

static void threads_lose_events(void) {
    static struct race race;
    mon_queue_init(&race.queue);
    pthread_mutex_init(&race.guard, NULL);
    race.running = 16;
    pthread_t threads[16];
    for (size_t i = 0; i < 16; i++) {
        CHECK(pthread_create(&threads[i], NULL, producer, &race) == 0);
    }
    uint64_t next = 1;
    for (bool more = true; more;) {
        pthread_mutex_lock(&race.guard);
        bool running = race.running > 0;
        pthread_mutex_unlock(&race.guard);
        struct mon_batch *batches;
        size_t got = take(&race.queue, 700, &batches);
        for (const struct mon_batch *batch = batches; batch != NULL; batch = batch->next) {
            for (size_t i = 0; i < batch->count; i++) {
                CHECK(batch->lines[i].seq == next++);
            }
        }
        settle(&race.queue, batches);
        more = running || got > 0;
    }
    for (size_t i = 0; i < 16; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(next == 16 * 20000 + 1);
    end(&race.queue);
    pthread_mutex_destroy(&race.guard);
}

static void a_half_loses_an_event(void) {
    struct mon_batch *batch = mon_batch_new(origin.emitter_id, 40);
    for (uint64_t i = 1; i <= 7; i++) {
        mon_buf_format(&batch->body, "{\"n\":%d}\n", (int)i);
        CHECK(mon_batch_line(batch, 100 + i));
    }
    struct mon_batch *halves[2];
    CHECK(mon_batch_halves(batch, halves));
    CHECK(halves[0]->count == 3 && halves[1]->count == 4 && halves[1]->ordinal == 43 && mon_batch_first_seq(halves[1]) == 104);
    CHECK(halves[0]->body.len + halves[1]->body.len == batch->body.len && mon_batch_last_seq(halves[1]) == 107);
    mon_batch_release(halves[0]);
    mon_batch_release(halves[1]);
    mon_batch_release(batch);
}

static void a_torn_line_is_replayed(void) {
    const char *text = "{\"emitter\":{\"id\":\"01890a5d-ac96-774b-8cce-000000000001\",\"seq\":5}}\n\n{\"b\":1}\n{\"torn\":";
    struct mon_batch *batch = mon_batch_unpack(text, strlen(text));
    CHECK(batch != NULL && batch->count == 2 && batch->next == NULL && batch->replayed && mon_batch_first_seq(batch) == 5);
    mon_batch_release(batch);
    CHECK(mon_batch_unpack("{}", 2) == NULL && mon_batch_unpack("", 0) == NULL && mon_batch_unpack("\n\n", 2) == NULL);
}

const struct unit_test unit_queue_tests[] = {
    TEST(a_line_is_not_the_event),
    TEST(events_change_places_between_chunks),
    TEST(a_batch_is_too_large_for_a_request),
    TEST(threads_lose_events),
    TEST(a_half_loses_an_event),
    TEST(a_torn_line_is_replayed),
    {NULL, NULL},
};
