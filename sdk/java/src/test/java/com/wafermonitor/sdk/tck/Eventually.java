package com.wafermonitor.sdk.tck;

import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;

/** Waits on conditions with a deadline. */
public final class Eventually {
    private static final long SECONDS = 30;

    private Eventually() {}

    /** Wait until a condition holds; fail when it does not within half a minute. */
    public static void eventually(String what, Callable<Boolean> condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS);
        while (!condition.call()) {
            if (System.nanoTime() - deadline > 0) {
                throw new AssertionError("waited " + SECONDS + " s in vain for " + what);
            }
            Thread.sleep(5);
        }
    }
}
