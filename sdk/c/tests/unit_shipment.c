/* A batch on its way to several targets: who is to get what, and where it is counted. Nothing is sent here: no thread is started. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "delivery.h"
#include "unit.h"

struct stage {
    struct mon_queue queue;
    struct mon_delivery *delivery;
    struct mon_target *one, *two, *rest; /* two that get everything, and a fallback for both */
};

static struct stage set_up(void) {
    static struct mon_queue queue;
    struct stage stage = {.delivery = NULL};
    char text[2048];
    const char *folder = unit_folder();
    snprintf(text, sizeof text,
             "{\"sdk\":{\"mode\":\"direct\",\"app\":{\"name\":\"a\",\"site_id\":\"b\"},\"sidecar\":{\"spool_dir\":\"%s\"},\"direct_backends\":["
             "{\"type\":\"filesystem\",\"name\":\"one\",\"priority\":1,\"config\":{\"path\":\"%s/one\"}},"
             "{\"type\":\"filesystem\",\"name\":\"two\",\"priority\":2,\"config\":{\"path\":\"%s/two\"}},"
             "{\"type\":\"filesystem\",\"name\":\"rest\",\"priority\":3,\"delivery\":\"fallback\",\"config\":{\"path\":\"%s/rest\"}}]}}",
             folder, folder, folder, folder);
    mon_config *config = mon_config_new();
    CHECK(mon_config_json(config, text, strlen(text)) == MON_OK);
    struct mon_settings *settings = mon_settings_load(config);
    mon_config_free(config);
    mon_queue_init(&queue);
    stage.delivery = mon_delivery_new(settings, &queue);
    stage.one = &stage.delivery->targets[0];
    stage.two = &stage.delivery->targets[1];
    stage.rest = &stage.delivery->targets[2];
    return stage;
}

/* A batch of ten on its way, as if the sender had just taken it. */
static struct mon_batch *ten_from(struct stage *stage, uint64_t first) {
    struct mon_batch *batch = mon_batch_new(stage->delivery->origin.emitter_id, 0);
    for (uint64_t i = first; i < first + 10; i++) {
        mon_buf_format(&batch->body, "{\"n\":%d}\n", (int)i);
        CHECK(mon_batch_line(batch, i));
    }
    mon_batch_address(stage->delivery, batch);
    mon_queue_hold(stage->delivery->queue, batch);
    return batch;
}

static struct mon_batch *batch_of_ten(struct stage *stage) {
    return ten_from(stage, 1);
}

static mon_counts counts_of(struct stage *stage) {
    mon_counts counts;
    mon_delivery_stats(stage->delivery, &counts);
    return counts;
}

static void tear_down(struct stage *stage) {
    CHECK(stage->delivery->queue->hand == NULL);
    mon_delivery_release(stage->delivery);
}

static void a_fallback_gets_what_one_of_two_can_take(void) {
    struct stage stage = set_up();
    struct mon_batch *batch = batch_of_ten(&stage);
    CHECK(stage.rest->better == (stage.one->bit | stage.two->bit) && stage.delivery->always == stage.rest->better);
    struct mon_batch *head = mon_batch_piece(batch, 0, 4);
    struct mon_batch *tail = mon_batch_piece(batch, 4, 6);
    struct mon_batch *end = mon_batch_piece(tail, 3, 3); /* of a piece: 8 to 10 of the whole */
    CHECK(end->whole == batch && end->first == 7 && mon_batch_first_seq(end) == 8);
    mon_batch_miss(stage.one, tail);
    CHECK(stage.rest->backlog == NULL);
    mon_batch_miss(stage.two, head);
    CHECK(stage.rest->backlog == NULL);
    mon_batch_miss(stage.two, end);
    mon_batch_miss(stage.two, end);
    mon_batch_miss(stage.one, tail);
    const struct mon_batch *offered = stage.rest->backlog;
    CHECK(offered != NULL && offered->count == 3 && mon_batch_first_seq(offered) == 8 && offered->waits[stage.rest->index] == NULL);
    CHECK(stage.rest->counts.waiting == 3 && stage.one->counts.waiting == 10);
    mon_batch_resolve(stage.one, head, MON_FATE_TAKEN, 0);
    mon_batch_resolve(stage.one, tail, MON_FATE_SPOOLED, 0);
    mon_batch_resolve(stage.two, batch, MON_FATE_TAKEN, 0);
    CHECK(counts_of(&stage).queued == 10); /* the fallback is not done */
    mon_batch_resolve(stage.rest, stage.rest->backlog, MON_FATE_TAKEN, 0);
    mon_counts counts = counts_of(&stage);
    CHECK(counts.queued == 0 && counts.sent == 4 && counts.spooled == 6);
    CHECK(stage.one->counts.delivered == 4 && stage.one->counts.spooled == 6 && stage.rest->counts.delivered == 3);
    CHECK(stage.one->counts.waiting == 0 && stage.two->counts.waiting == 0 && stage.rest->counts.waiting == 0);
    mon_batch_release(head);
    mon_batch_release(tail);
    mon_batch_release(end);
    mon_batch_release(batch);
    tear_down(&stage);
}

static void who_comes_late_counts_a_batch_again(void) {
    struct stage stage = set_up();
    struct mon_batch *batch = batch_of_ten(&stage);
    CHECK(mon_put_away(stage.one, &batch, 1, true) && mon_put_away(stage.two, &batch, 1, true));
    CHECK(!mon_batch_is_pending(stage.one, batch) && !mon_batch_is_pending(stage.two, batch));
    mon_batch_resolve(stage.one, batch, MON_FATE_TAKEN, 0);
    mon_batch_lose(stage.two, batch, MON_DROP_QUEUE_FULL);
    mon_batch_settle(stage.delivery, batch);
    mon_counts counts = counts_of(&stage);
    CHECK(counts.spooled == 10 && counts.sent == 0 && counts.dropped == 0 && counts.queued == 0);
    CHECK(stage.one->counts.delivered == 0 && stage.one->counts.spooled == 10);
    mon_batch_release(batch);
    tear_down(&stage);
}

static atomic_bool disk_is_slow; /* the next file is on disk only a while after somebody else began to put away, too */
static atomic_bool writing;
static atomic_bool joined_in;

/* The library's, in this program. */
int fsync(int fd) {
    if (atomic_exchange(&disk_is_slow, false)) {
        atomic_store(&writing, true);
        while (!atomic_load(&joined_in)) {
            usleep(1000);
        }
        usleep(100 * 1000);
    }
    return (int)syscall(SYS_fsync, fd);
}

struct lane {
    struct mon_target *target;
    struct mon_batch *batches[2];
};

static void *put_both_away(void *data) {
    struct lane *lane = data;
    CHECK(mon_put_away(lane->target, lane->batches, 2, false));
    return NULL;
}

static void the_end_writes_a_part_over_what_a_lane_writes_whole(void) {
    struct stage stage = set_up();
    struct lane lane = {stage.one, {ten_from(&stage, 1), ten_from(&stage, 11)}};
    pthread_t thread;
    atomic_store(&disk_is_slow, true);
    CHECK(pthread_create(&thread, NULL, put_both_away, &lane) == 0);
    while (!atomic_load(&writing)) {
        usleep(1000);
    }
    atomic_store(&joined_in, true);
    CHECK(mon_put_away(stage.one, lane.batches, 1, true));
    pthread_join(thread, NULL);
    char text[2048] = "";
    CHECK(unit_files(mon_spool_folder(stage.one->spool), ".jsonl", text, sizeof text) == 1);
    CHECK(strstr(text, "{\"n\":1}") != NULL && strstr(text, "{\"n\":20}") != NULL);
    CHECK(stage.one->counts.spooled == 20 && stage.one->counts.waiting == 0);
    for (size_t i = 0; i < 2; i++) {
        CHECK(mon_put_away(stage.two, &lane.batches[i], 1, true));
        mon_batch_release(lane.batches[i]);
    }
    tear_down(&stage);
}

static void a_loss_hides_behind_a_backend_that_took_it(void) {
    struct stage stage = set_up();
    struct mon_batch *batch = batch_of_ten(&stage);
    struct mon_batch *head = mon_batch_piece(batch, 0, 4);
    mon_batch_resolve(stage.two, batch, MON_FATE_TAKEN, 2);
    mon_batch_lose(stage.one, head, MON_DROP_QUEUE_FULL);
    struct mon_batch *tail = mon_batch_piece(batch, 4, 6);
    mon_batch_resolve(stage.one, tail, MON_FATE_TAKEN, 0);
    mon_counts counts = counts_of(&stage);
    CHECK(counts.dropped == 4 && counts.dropped_queue_full == 4 && counts.sent == 6 && counts.rejected == 0);
    CHECK(stage.two->counts.delivered == 8 && stage.two->counts.rejected == 2 && stage.one->counts.dropped == 4);
    mon_batch_release(head);
    mon_batch_release(tail);
    mon_batch_release(batch);
    tear_down(&stage);
}

static void what_goes_to_disk_together_is_lost_on_the_way(void) {
    struct stage stage = set_up();
    struct mon_batch *batches[2] = {batch_of_ten(&stage), NULL};
    batches[1] = mon_batch_piece(batches[0], 5, 5);
    struct mon_batch *head = mon_batch_piece(batches[0], 0, 5);
    struct mon_batch *pieces[2] = {head, batches[1]};
    CHECK(mon_put_away(stage.one, pieces, 2, false));
    char text[256];
    CHECK(unit_files(mon_spool_folder(stage.one->spool), ".jsonl", text, sizeof text) == 1);
    CHECK_TEXT(text, batches[0]->body.data);
    CHECK(stage.one->counts.spooled == 10 && stage.two->counts.waiting == 10);
    mon_batch_resolve(stage.two, batches[0], MON_FATE_TAKEN, 0);
    mon_batch_release(head);
    mon_batch_release(batches[1]);
    mon_batch_release(batches[0]);
    tear_down(&stage);
}

const struct unit_test unit_shipment_tests[] = {
    TEST(a_fallback_gets_what_one_of_two_can_take),
    TEST(who_comes_late_counts_a_batch_again),
    TEST(the_end_writes_a_part_over_what_a_lane_writes_whole),
    TEST(a_loss_hides_behind_a_backend_that_took_it),
    TEST(what_goes_to_disk_together_is_lost_on_the_way),
    {NULL, NULL},
};
