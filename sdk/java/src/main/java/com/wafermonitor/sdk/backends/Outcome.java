package com.wafermonitor.sdk.backends;

/** What became of a batch. */
public enum Outcome {
    /** It is durable there, except for what {@link Answer#rejected} names. */
    ACCEPTED,
    /** Not now: the same batch may be taken later. */
    RETRY,
    /** Not as things are configured (a wrong token, a wrong address): keep it, tell the operator, try seldom. */
    KEEP,
    /** Never: sending it again can't help. */
    REFUSED,
    /** Send it in smaller pieces. */
    TOO_LARGE
}
