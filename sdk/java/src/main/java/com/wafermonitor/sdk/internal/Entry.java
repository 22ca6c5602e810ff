package com.wafermonitor.sdk.internal;

/** An event in the queue, not yet JSON. */
final class Entry {
    /** Its number in this process; given under the queue's lock, so that the order of numbers is the order of sending. */
    long seq;

    /** When it was emitted, in microseconds since 1970. */
    long micros;

    /** The millisecond in its id, which never goes back though the clock may. */
    long idMillis;

    /** Its own fields: pairs of a plain event, or the JSON of all its fields but the three above, without the opening brace. */
    final Object captured;

    /** The run that it belongs to, for a plain event; null when there is none or its JSON is made. */
    final RunScope run;

    /** The id that the program gave; null when the SDK makes it. */
    final String givenId;

    /** Whether the program gave the timestamp. */
    final boolean hasTime;

    /** The active trace of a plain event, or null. */
    final String traceId;

    final String spanId;

    Entry(Object captured, RunScope run, String givenId, boolean hasTime, String traceId, String spanId) {
        this.captured = captured;
        this.run = run;
        this.givenId = givenId;
        this.hasTime = hasTime;
        this.traceId = traceId;
        this.spanId = spanId;
    }

    /** Bytes of an entry that counts for the queue's bound in bytes, else 0. */
    int large() {
        return captured instanceof byte[] text && text.length > EventQueue.LARGE_TEXT ? text.length : 0;
    }
}
