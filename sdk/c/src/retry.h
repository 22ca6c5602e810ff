/* When to try again: backoff with jitter, what Retry-After says, and a circuit breaker. Times are in seconds. */
#ifndef MON_RETRY_H
#define MON_RETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct mon_random { /* spreads retries, keeps no secret */
    uint64_t state;
};

/* From 0 to below 1. */
double mon_random_next(struct mon_random *random);

/* How long to wait after the failed attempt number `attempt` (from 0). */
double mon_backoff(unsigned attempt, struct mon_random *random);

/* What a Retry-After header asks for, as a number or an HTTP date; below 0 when it says nothing readable. */
double mon_retry_after(const char *header, size_t len, time_t now);

/* Keeps a dead destination from costing more than a probe now and then. */
struct mon_breaker {
    unsigned failures;
    double open_until;
};

bool mon_breaker_allows(const struct mon_breaker *breaker, double now);
/* Closes; whether it was open. */
bool mon_breaker_succeeded(struct mon_breaker *breaker);
/* Opens for longer than last time, and for `at_least`; whether it was closed. */
bool mon_breaker_failed(struct mon_breaker *breaker, double now, double at_least, struct mon_random *random);

#endif
