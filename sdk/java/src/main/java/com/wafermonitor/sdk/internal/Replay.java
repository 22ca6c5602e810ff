package com.wafermonitor.sdk.internal;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** Sends what waits on disk for one backend, a few files at a time: this process's own files, and those that dead ones left. */
final class Replay {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** How often to look for what others left. */
    private static final long ORPHAN_INTERVAL = TimeUnit.SECONDS.toNanos(15);

    private static final int FILES_AT_ONCE = 20;

    private final Lane lane;
    private final Counts counts;
    private long nextOrphans = System.nanoTime();

    /** Whether the last run ended before all files were looked at. */
    private boolean more;

    Replay(Lane lane, Counts counts) {
        this.lane = lane;
        this.counts = counts;
    }

    boolean hasMore() {
        return more;
    }

    /** Send files until one fails, if the breaker allows: a receiver that is down is thereby probed with one file. */
    void run(BooleanSupplier mustStop, BooleanSupplier closing) {
        more = false;
        if (!lane.allows()) {
            return;
        }
        List<Path> waiting = new ArrayList<>();
        try {
            long now = System.nanoTime();
            if (now - nextOrphans >= 0) {
                nextOrphans = now + ORPHAN_INTERVAL;
                waiting.addAll(lane.spool.orphans());
            }
            waiting.addAll(lane.spool.own());
            int done = 0;
            for (Path path : waiting) {
                if (done++ == FILES_AT_ONCE || mustStop.getAsBoolean() || closing.getAsBoolean()) {
                    more = !closing.getAsBoolean();
                    nextOrphans = now;
                    return;
                }
                Spool.Claim claim = lane.spool.claim(path);
                if (claim != null && !sendFile(claim)) {
                    return;
                }
            }
        } catch (IOException | UncheckedIOException error) {
            LOGGER.log(Level.WARNING, "monitoring-sdk: can''t replay from {0} now: {1}", lane.spool.folder(), error);
        }
    }

    /** Send one file; whether the receiver took it or will never do. */
    private boolean sendFile(Spool.Claim claim) throws IOException {
        ReplayedFile file = new ReplayedFile(lane, claim);
        if (!file.send()) {
            return false;
        }
        counts.addReplayed(file.tally);
        lane.addReplayed(file.tally);
        return true;
    }
}
