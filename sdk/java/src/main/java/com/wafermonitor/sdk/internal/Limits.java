package com.wafermonitor.sdk.internal;

/** The numbers of the contract that the SDK must keep to. */
public final class Limits {
    public static final int MAX_EVENT_BYTES = 256 * 1024;
    public static final int MAX_MESSAGE_BYTES = 8 * 1024;
    public static final int MAX_BATCH_EVENTS = 5_000;

    /** A request stays below 1 MiB, though the sidecar takes 10: a failed one costs less, and memory stays bounded. */
    public static final int MAX_BATCH_BYTES = 1024 * 1024 - 4096;

    /** How deep objects and arrays may nest in one event, the event itself being level 1. */
    public static final int MAX_DEPTH = 64;

    /** Digits of an integer that a double can still express. */
    public static final int MAX_INTEGER_DIGITS = 308;

    /** Characters of names, entity values and the like. */
    public static final int MAX_TEXT = 256;

    public static final int MAX_SITE = 64;

    /** What the worker puts before an event's own fields (ids, timestamp, emitter), at most. */
    public static final int HEAD_BYTES = 220;

    private Limits() {}
}
