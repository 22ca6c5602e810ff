package com.wafermonitor.sdk.backends;

import java.util.List;

/**
 * What a backend has to say about a batch.
 *
 * @param outcome what became of it
 * @param detail why, for the operator; holds no secret
 * @param retryAfter seconds to wait before the next attempt; 0 when the backend doesn't say
 * @param rejected the events of an accepted batch that were not taken, and never will be
 */
public record Answer(Outcome outcome, String detail, double retryAfter, List<Rejection> rejected) {
    /** All of the batch was taken. */
    public static final Answer ACCEPTED = new Answer(Outcome.ACCEPTED, "", 0, List.of());

    /**
     * An answer without more to say.
     *
     * @param outcome what became of the batch
     * @param detail why
     */
    public Answer(Outcome outcome, String detail) {
        this(outcome, detail, 0, List.of());
    }

    /**
     * A batch that was taken but for some of its events.
     *
     * @param rejected those
     * @return the answer
     */
    public static Answer accepted(List<Rejection> rejected) {
        return rejected.isEmpty() ? ACCEPTED : new Answer(Outcome.ACCEPTED, "", 0, List.copyOf(rejected));
    }

    /**
     * One event that was not taken.
     *
     * @param index its place in the batch, from 0
     * @param path the dotted path of the mistake; empty: the event as a whole
     * @param error what was expected there
     */
    public record Rejection(int index, String path, String error) {}
}
