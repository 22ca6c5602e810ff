package com.wafermonitor.sdk.internal;

import java.time.Clock;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.concurrent.ThreadLocalRandom;

/** When to try again: backoff with jitter, what {@code Retry-After} says, and a circuit breaker. Times are in seconds. */
public final class Retry {
    private static final double FIRST_DELAY = 0.1;
    private static final double LONGEST_DELAY = 5.0;
    private static final double LONGEST_RETRY_AFTER = 3600.0;
    private static final double FIRST_COOLDOWN = 0.5;
    private static final double LONGEST_COOLDOWN = 15.0;
    private static final int DIGITS = 9;

    private Retry() {}

    /** Seconds to wait after the failed attempt of that number (from 0): jitter below an exponential bound. */
    static double backoff(int attempt) {
        double bound = Math.min(LONGEST_DELAY, FIRST_DELAY * Math.pow(2, Math.min(attempt, 16)));
        return bound / 2 + ThreadLocalRandom.current().nextDouble() * bound / 2;
    }

    /** Seconds that a {@code Retry-After} header asks for, as a number or as an HTTP date; 0 when it says nothing readable. */
    public static double after(String header, Clock clock) {
        String text = header == null ? "" : header.strip();
        if (text.isEmpty()) {
            return 0;
        }
        if (text.chars().allMatch(c -> c >= '0' && c <= '9')) {
            return Math.min(Double.parseDouble(text.substring(0, Math.min(DIGITS, text.length()))), LONGEST_RETRY_AFTER);
        }
        try {
            ZonedDateTime moment = ZonedDateTime.parse(text, DateTimeFormatter.RFC_1123_DATE_TIME);
            double seconds = Duration.between(clock.instant(), moment.toInstant()).toMillis() / 1000.0;
            return Math.min(Math.max(0, seconds), LONGEST_RETRY_AFTER);
        } catch (DateTimeException unreadable) {
            return 0;
        }
    }

    /** Keeps a dead receiver from costing more than a probe now and then. Times are nanoseconds of a monotonic clock. */
    static final class Breaker {
        private int failures;
        private long openUntil;

        /** Whether the last attempt succeeded, or there was none. */
        synchronized boolean isClosed() {
            return failures == 0;
        }

        /** Whether to try: always while closed, else one probe when the pause is over. */
        synchronized boolean allows(long now) {
            return failures == 0 || now - openUntil >= 0;
        }

        /** Close; whether it was open. */
        synchronized boolean succeeded() {
            boolean wasOpen = failures > 0;
            failures = 0;
            return wasOpen;
        }

        /** Open for longer than last time, and for at least so many seconds; whether it was closed. */
        synchronized boolean failed(long now, double atLeast) {
            boolean wasClosed = failures == 0;
            double pause = Math.min(LONGEST_COOLDOWN, FIRST_COOLDOWN * Math.pow(2, Math.min(failures, 16)));
            failures++;
            double jittered = pause * (0.75 + ThreadLocalRandom.current().nextDouble() / 2);
            openUntil = now + (long) (Math.max(atLeast, jittered) * 1e9);
            return wasClosed;
        }
    }
}
