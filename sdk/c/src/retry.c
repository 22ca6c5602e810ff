/* When to try again. */
#include "retry.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

static const double FIRST_DELAY = 0.1;
static const double LONGEST_DELAY = 5;
static const double LONGEST_RETRY_AFTER = 3600;
static const double FIRST_COOLDOWN = 0.5;
static const double LONGEST_COOLDOWN = 15;

double mon_random_next(struct mon_random *random) {
    uint64_t state = random->state == 0 ? 0x9E3779B97F4A7C15ULL : random->state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    random->state = state;
    return (double)(state >> 11) / 9007199254740992.0;
}

static double doubled(double first, unsigned times, double longest) {
    double bound = first * (double)(1U << (times < 16 ? times : 16));
    return bound < longest ? bound : longest;
}

double mon_backoff(unsigned attempt, struct mon_random *random) {
    double bound = doubled(FIRST_DELAY, attempt, LONGEST_DELAY);
    return bound / 2 + mon_random_next(random) * bound / 2;
}

static bool month_of(const char *name, unsigned *month) {
    static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    for (unsigned i = 0; i < 12; i++) {
        if (strncmp(names + 3 * i, name, 3) == 0) {
            *month = i + 1;
            return true;
        }
    }
    return false;
}

/* The three forms of RFC 9110. */
static bool parse_date(const char *text, int64_t *moment) {
    unsigned day, year, hour, minute, second, month;
    char name[16] = "";
    if (sscanf(text, "%*3[A-Za-z], %2u %3[A-Za-z] %4u %2u:%2u:%2u", &day, name, &year, &hour, &minute, &second) != 6 &&
        sscanf(text, "%*9[A-Za-z], %2u-%3[A-Za-z]-%4u %2u:%2u:%2u", &day, name, &year, &hour, &minute, &second) != 6 &&
        sscanf(text, "%*3[A-Za-z] %3[A-Za-z] %2u %2u:%2u:%2u %4u", name, &day, &hour, &minute, &second, &year) != 6) {
        return false;
    }
    if (!month_of(name, &month) || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60) {
        return false;
    }
    if (year < 100) {
        year += year < 70 ? 2000 : 1900;
    }
    *moment = mon_seconds_of(year, month, day, hour, minute, second);
    return true;
}

double mon_retry_after(const char *header, size_t len, time_t now) {
    char text[64];
    while (len > 0 && (header[0] == ' ' || header[0] == '\t')) {
        header++;
        len--;
    }
    while (len > 0 && (header[len - 1] == ' ' || header[len - 1] == '\t' || header[len - 1] == '\r' || header[len - 1] == '\n')) {
        len--;
    }
    if (len == 0 || len >= sizeof text) {
        return -1;
    }
    memcpy(text, header, len);
    text[len] = '\0';
    double seconds;
    if (strspn(text, "0123456789") == len) {
        seconds = 0;
        for (size_t i = 0; i < len && seconds < 1e9; i++) {
            seconds = seconds * 10 + (text[i] - '0');
        }
    } else {
        int64_t moment;
        if (!parse_date(text, &moment)) {
            return -1;
        }
        seconds = (double)(moment - (int64_t)now);
    }
    return seconds < 0 ? 0 : seconds > LONGEST_RETRY_AFTER ? LONGEST_RETRY_AFTER : seconds;
}

bool mon_breaker_allows(const struct mon_breaker *breaker, double now) {
    return breaker->failures == 0 || now >= breaker->open_until;
}

bool mon_breaker_succeeded(struct mon_breaker *breaker) {
    bool was_open = breaker->failures > 0;
    breaker->failures = 0;
    return was_open;
}

bool mon_breaker_failed(struct mon_breaker *breaker, double now, double at_least, struct mon_random *random) {
    bool was_closed = breaker->failures == 0;
    double pause = doubled(FIRST_COOLDOWN, breaker->failures, LONGEST_COOLDOWN) * (0.75 + mon_random_next(random) / 2);
    breaker->failures += breaker->failures < 1000;
    breaker->open_until = now + (pause > at_least ? pause : at_least);
    return was_closed;
}
