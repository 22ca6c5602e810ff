package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.Stats;
import java.util.Map;
import java.util.TreeMap;

/** Counts from several threads, so that no number contradicts another. */
final class Counts {
    private long reports;
    private long sent;
    private long rejected;
    private long spooled;
    private long replayed;
    private long failed;
    private final Map<String, Long> dropped = new TreeMap<>();
    private Map<String, Long> unreported = new TreeMap<>();

    synchronized void add(Tally tally) {
        sent += tally.sent;
        rejected += tally.rejected;
        spooled += tally.spooled;
        failed += tally.failed;
    }

    synchronized void addReplayed(Tally tally) {
        replayed += tally.sent;
        rejected += tally.rejected;
        failed += tally.failed;
    }

    synchronized void addReport() {
        reports++;
    }

    /** Count lost events; they stay to be reported. */
    synchronized void drop(String reason, long events) {
        dropped.merge(reason, events, Long::sum);
        unreported.merge(reason, events, Long::sum);
    }

    /** The drops since the last call, by reason; whoever takes them reports them, or hands them to {@link #unreport}. */
    synchronized Map<String, Long> takeUnreported() {
        Map<String, Long> taken = unreported;
        unreported = new TreeMap<>();
        return taken;
    }

    /** Note drops whose report is not on its way. */
    synchronized void unreport(Map<String, Long> drops) {
        drops.forEach((reason, events) -> unreported.merge(reason, events, Long::sum));
    }

    synchronized Stats snapshot(long received, long queued, Map<String, Stats.BackendStats> backends) {
        long lost = dropped.values().stream().mapToLong(Long::longValue).sum();
        return new Stats(
                received + reports, sent, rejected, spooled, replayed, failed, lost, queued, Map.copyOf(dropped), backends);
    }

    /** Events by what became of them. */
    static final class Tally {
        long sent;
        long rejected;
        long spooled;
        long failed;
        long dropped;
    }
}
