/* Zabbix: values for trapper items, in the protocol of zabbix_sender; 250 values a request.
 *
 * The items are made beforehand, by the template or by a sidecar's sink. The server answers with counts only: which values it did not
 * take is found by halving, as sinks/zabbix.py does. It takes up new items with its next CacheUpdateFrequency, so a batch with such
 * values is tried again until they have failed for `item_wait` seconds; then their events are refused. A batch that comes twice has the
 * same moments, of which Zabbix keeps one value an item. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>

#include "../ids.h"
#include "../json.h"
#include "../partition.h"
#include "../text.h"
#include "zabbix_patience.h"
#include "zabbix_trapper.h"
#include "zabbix_values.h"

enum { VALUES = 250 };

static const double ITEM_WAIT = 180;

struct zabbix {
    struct mon_trapper trapper;
    struct mon_zabbix_patience patience;
    char *host;
    double item_wait;
    double proven; /* when the host last took a value, on the monotonic clock; below 0: never */
};

/* A batch on its way. */
struct round {
    struct zabbix *zabbix;
    struct mon_zabbix_list list;
    bool *failed; /* of each value */
    size_t taken;
    double deadline;
    struct mon_answer *answer;
};

static void close_zabbix(void *self) {
    struct zabbix *zabbix = self;
    mon_trapper_close(&zabbix->trapper);
    mon_patience_free(&zabbix->patience);
    free(zabbix->host);
    free(zabbix);
}

static void *open_zabbix(const struct mon_settings *settings, const struct mon_backend_settings *backend) {
    struct zabbix *zabbix = calloc(1, sizeof *zabbix);
    (void)settings;
    if (zabbix == NULL) {
        return NULL;
    }
    bool opened = mon_trapper_open(&zabbix->trapper, mon_option_text(backend, "url"));
    zabbix->host = strdup(mon_option_text(backend, "host"));
    zabbix->item_wait = mon_option_number(backend, "item_wait", ITEM_WAIT);
    zabbix->proven = -1;
    if (!opened || zabbix->host == NULL) {
        close_zabbix(zabbix);
        return NULL;
    }
    return zabbix;
}

/* Adds the values of a line, whose moment in nanoseconds is its microseconds and, below them, its number in its process. */
static void add_line(struct mon_zabbix_list *list, size_t place, const char *line, size_t len, const char *host) {
    struct mon_json_document document;
    if (mon_json_parse(&document, line, len)) {
        const struct mon_json *timestamp = mon_json_get(document.root, "timestamp");
        const struct mon_json *seq = mon_json_get(mon_json_get(document.root, "emitter"), "seq");
        uint32_t micros = 0;
        const char *point = timestamp != NULL && timestamp->type == MON_JSON_STRING ? strchr(timestamp->text, '.') : NULL;
        for (size_t i = 1; i <= 6 && point != NULL; i++) {
            bool digit = point[i] >= '0' && point[i] <= '9';
            micros = micros * 10 + (digit ? (uint32_t)(point[i] - '0') : 0U);
            if (!digit) {
                for (; i < 6; i++) {
                    micros *= 10;
                }
                break;
            }
        }
        uint32_t tie = seq != NULL && seq->type == MON_JSON_INTEGER ? (uint32_t)(strtoull(seq->text, NULL, 10) % 1000) : 0;
        mon_zabbix_values(list, place, document.root, host, mon_line_moment(line, len), micros * 1000 + tie);
    }
    mon_json_free(&document);
}

/* ------------------------------------------------------------------------------------------------------------ which are taken */

static const char *key_of(const struct round *round, size_t place, size_t *len) {
    *len = round->list.values[place].key_len;
    return round->list.keys.data + round->list.values[place].key;
}

static bool same_item(const struct round *round, size_t one, size_t other) {
    size_t len, other_len;
    const char *key = key_of(round, one, &len);
    const char *other_key = key_of(round, other, &other_len);
    return len == other_len && memcmp(key, other_key, len) == 0;
}

/* Moves the values of the first half of the items, or of one item the first half of its values, to the front; how many. */
static size_t halve(const struct round *round, size_t *places, size_t count) {
    size_t item[VALUES]; /* of each value: the how manieth item it is of */
    size_t items = 0;
    for (size_t i = 0; i < count; i++) {
        size_t first = 0;
        while (!same_item(round, places[first], places[i])) {
            first++;
        }
        item[i] = first == i ? items++ : item[first];
    }
    if (items == 1) {
        return count / 2;
    }
    size_t behind[VALUES];
    size_t front = 0;
    for (size_t i = 0; i < count; i++) {
        if (item[i] < items / 2) {
            places[front++] = places[i];
        } else {
            behind[i - front] = places[i];
        }
    }
    memcpy(places + front, behind, (count - front) * sizeof *places);
    return front;
}

/* Sends at most VALUES values, and halves of them while the counts say that some failed; false when there is no answer. */
static bool isolate(struct round *round, size_t *places, size_t count) {
    struct mon_buf data = {0};
    struct mon_trapper_counts counts;
    for (size_t i = 0; i < count; i++) {
        const struct mon_zabbix_value *value = &round->list.values[places[i]];
        mon_buf_add(&data, round->list.data.data + value->start, value->len);
    }
    bool answered = mon_trapper_send(&round->zabbix->trapper, &data, count, round->deadline, &counts, round->answer);
    mon_buf_free(&data);
    if (!answered || counts.failed == 0) {
        round->taken += answered ? count : 0;
        return answered;
    }
    if (counts.processed == 0) {
        for (size_t i = 0; i < count; i++) {
            round->failed[places[i]] = true;
        }
        return true;
    }
    size_t half = halve(round, places, count);
    return isolate(round, places, half) && isolate(round, places + half, count - half);
}

/* Sends all values, those of items that failed before apart from the others: so that these alone are halved. */
static bool hand_over(struct round *round) {
    size_t places[VALUES];
    for (int known = 0; known < 2; known++) {
        size_t count = 0;
        for (size_t i = 0; i < round->list.count; i++) {
            size_t len;
            const char *key = key_of(round, i, &len);
            if (mon_patience_knows(&round->zabbix->patience, key, len) == (known == 1)) {
                places[count++] = i;
            }
            if (count == VALUES || (i + 1 == round->list.count && count > 0)) {
                if (!isolate(round, places, count)) {
                    return false;
                }
                count = 0;
            }
        }
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------------ what becomes of the rest */

/* Whether the host takes values at all: else none of them is given up. */
static bool is_proven(struct round *round, double now) {
    struct zabbix *zabbix = round->zabbix;
    if (round->taken > 0 || (zabbix->proven >= 0 && now - zabbix->proven < zabbix->item_wait)) {
        return true;
    }
    struct mon_buf value = {0};
    struct mon_trapper_counts counts = {0};
    mon_buf_text(&value, "{\"host\":");
    mon_text_quote(&value, zabbix->host, strlen(zabbix->host));
    mon_buf_format(&value, ",\"key\":\"trackmate.check\",\"value\":\"%llu\"},", (unsigned long long)(mon_now_micros() / 1000000));
    bool answered = mon_trapper_send(&zabbix->trapper, &value, 1, round->deadline, &counts, round->answer);
    mon_buf_free(&value);
    if (answered && counts.failed > 0) {
        mon_answer_set(round->answer, MON_RETRY, "it takes nothing for the host '%.80s': is it there and enabled, with the template that has the items?",
                       zabbix->host);
    }
    return answered && counts.failed == 0;
}

static void refuse(const struct round *round, size_t place, double patience) {
    const struct zabbix *zabbix = round->zabbix;
    struct mon_buf why = {0};
    size_t len;
    const char *key = key_of(round, place, &len);
    if (patience < 0) {
        mon_buf_format(&why, "Zabbix took no value for %.*s, nor for %d other items of the host '%s'", (int)len, key, MON_FAILING_ITEMS, zabbix->host);
    } else {
        mon_buf_format(&why, "Zabbix took no value for %.*s in %g s: the host '%s' has no such enabled trapper item", (int)len, key, zabbix->item_wait,
                       zabbix->host);
    }
    const char *text = mon_buf_string(&why);
    mon_answer_refuse(round->answer, round->list.values[place].event, text == NULL ? "Zabbix took no value for it" : text);
    mon_buf_free(&why);
}

/* For how long the item of a value that failed has been failing. */
static double failing_for(struct round *round, size_t place, double now) {
    size_t len;
    const char *key = key_of(round, place, &len);
    return mon_patience_failed(&round->zabbix->patience, key, len, now);
}

/* Notes what failed; whether all of it has done so for long enough. The others keep the batch waiting. */
static bool is_over(struct round *round, double now) {
    bool over = true;
    for (size_t i = 0; i < round->list.count; i++) {
        double failing = round->failed[i] ? failing_for(round, i, now) : -1;
        if (failing >= 0 && failing < round->zabbix->item_wait && over) {
            size_t len;
            const char *key = key_of(round, i, &len);
            mon_answer_set(round->answer, MON_RETRY, "it takes no values of %.*s for the host '%.40s' yet: new items come with its CacheUpdateFrequency",
                           (int)(len < 100 ? len : 100), key, round->zabbix->host);
            over = false;
        }
    }
    for (size_t i = 0; i < round->list.count; i++) {
        size_t len;
        const char *key = key_of(round, i, &len);
        if (!round->failed[i]) {
            mon_patience_taken(&round->zabbix->patience, key, len, now);
        }
    }
    return over;
}

/* What was sent is taken, refused, or to be sent again. */
static void judge(struct round *round) {
    double now = mon_monotonic();
    bool some = false;
    for (size_t i = 0; i < round->list.count; i++) {
        some |= round->failed[i];
    }
    round->zabbix->proven = round->taken > 0 ? now : round->zabbix->proven;
    if ((some && !is_proven(round, now)) || !is_over(round, now)) {
        return;
    }
    size_t told = SIZE_MAX; /* the last event that was refused: with its first value that failed */
    for (size_t i = 0; i < round->list.count; i++) {
        if (round->failed[i] && round->list.values[i].event != told) {
            told = round->list.values[i].event;
            refuse(round, i, failing_for(round, i, now));
        }
    }
    mon_answer_set(round->answer, MON_ACCEPTED, "taken");
}

static void send_to_zabbix(void *self, const struct mon_batch *batch, double timeout, struct mon_answer *answer) {
    struct zabbix *zabbix = self;
    struct round round = {.zabbix = zabbix, .deadline = mon_monotonic() + timeout, .answer = answer};
    for (size_t i = 0; i < batch->count; i++) {
        size_t len;
        const char *line = mon_batch_get(batch, i, &len);
        add_line(&round.list, i, line, len, zabbix->host);
    }
    round.failed = calloc(round.list.count + 1, sizeof *round.failed);
    if (round.list.data.failed || round.failed == NULL) {
        mon_answer_set(answer, MON_RETRY, "no memory for a request");
    } else if (hand_over(&round)) {
        judge(&round);
    }
    free(round.failed);
    mon_zabbix_list_free(&round.list);
}

static void interrupt_zabbix(void *self) {
    mon_trapper_interrupt(&((struct zabbix *)self)->trapper);
}

static void forget_zabbix(void *self) {
    mon_trapper_forget(&((struct zabbix *)self)->trapper);
}

const struct mon_backend_type mon_backend_zabbix = {
    "zabbix", open_zabbix, send_to_zabbix, interrupt_zabbix, close_zabbix, forget_zabbix, NULL, true,
};
