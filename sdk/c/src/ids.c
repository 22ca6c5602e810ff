/* UUIDs of version 7, and the clocks. */
#define _GNU_SOURCE
#include "ids.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static const char DIGITS[] = "0123456789abcdef";

void mon_random(void *bytes, size_t len) {
    if (getrandom(bytes, len, 0) != (ssize_t)len) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t state = (uint64_t)now.tv_nsec ^ ((uint64_t)getpid() << 32) ^ (uint64_t)now.tv_sec;
        for (size_t i = 0; i < len; i++) { /* xorshift: unlike those of others, though foretellable */
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((unsigned char *)bytes)[i] = (unsigned char)(state >> 24);
        }
    }
}

void mon_id_source_init(struct mon_id_source *source) {
    unsigned char bytes[6];
    mon_random(bytes, sizeof bytes);
    char hex[12];
    for (size_t i = 0; i < sizeof bytes; i++) {
        hex[2 * i] = DIGITS[bytes[i] >> 4];
        hex[2 * i + 1] = DIGITS[bytes[i] & 15];
    }
    char *at = source->tail;
    *at++ = '-';
    *at++ = '7';
    memcpy(at, hex, 3);
    at += 3;
    *at++ = '-';
    *at++ = "89ab"[bytes[1] & 3];
    memcpy(at, hex + 4, 3);
    at += 3;
    *at++ = '-';
    memcpy(at, hex + 7, 4);
    at += 4;
    *at = '\0';
}

void mon_id_write(const struct mon_id_source *source, char id[MON_ID_SIZE], uint64_t millis, uint64_t number) {
    for (size_t i = 0; i < 12; i++) {
        id[i < 8 ? i : i + 1] = DIGITS[(millis >> (44 - 4 * i)) & 15];
    }
    id[8] = '-';
    memcpy(id + 13, source->tail, 15);
    for (size_t i = 0; i < 8; i++) {
        id[28 + i] = DIGITS[(number >> (28 - 4 * i)) & 15];
    }
    id[36] = '\0';
}

void mon_id_new(char id[MON_ID_SIZE]) {
    struct mon_id_source source;
    uint32_t number;
    mon_id_source_init(&source);
    mon_random(&number, sizeof number);
    mon_id_write(&source, id, mon_now_micros() / 1000, number);
}

uint64_t mon_now_micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

double mon_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

struct timespec mon_moment(double monotonic) {
    return (struct timespec){.tv_sec = (time_t)monotonic, .tv_nsec = (long)((monotonic - (double)(time_t)monotonic) * 1e9)};
}
