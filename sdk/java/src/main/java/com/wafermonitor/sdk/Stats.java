package com.wafermonitor.sdk;

import java.util.Map;

/**
 * What became of the events of one {@link Emitter}. Every event that was emitted is in exactly one of sent, rejected, spooled,
 * failed, dropped and queued; in direct mode an event counts where it fared worst.
 *
 * @param emitted taken from the program
 * @param sent acknowledged without a stay on disk
 * @param rejected refused by the receiver one by one; the sidecar keeps them in quarantine with the reason
 * @param spooled written to the spool folder
 * @param replayed acknowledged out of the spool folder, be it this process's or a dead one's; counts on top of the others
 * @param failed refused for good (by a sidecar as a whole batch, by others one by one too), and kept aside in the spool folder where there is one
 * @param dropped lost: the sum of {@code droppedByReason}
 * @param queued in memory now
 * @param droppedByReason {@code queue_full}, {@code spool_failed} (the spool folder can't be written) or {@code undeliverable}
 *     (there is no spool folder)
 * @param backends the same for each backend, by its name; in sidecar mode there is one, {@code sidecar}
 */
public record Stats(
        long emitted,
        long sent,
        long rejected,
        long spooled,
        long replayed,
        long failed,
        long dropped,
        long queued,
        Map<String, Long> droppedByReason,
        Map<String, BackendStats> backends) {

    /** Nothing has happened yet. */
    public static final Stats NONE = new Stats(0, 0, 0, 0, 0, 0, 0, 0, Map.of(), Map.of());

    /**
     * What became of the events that were meant for one backend.
     *
     * @param sent acknowledged without a stay on disk
     * @param rejected refused one by one by a sidecar, which keeps them
     * @param spooled written to this backend's part of the spool folder
     * @param replayed acknowledged out of the spool folder
     * @param failed refused for good
     * @param dropped lost
     * @param waiting in memory now
     * @param lastError why the last attempt failed; empty when it didn't
     */
    public record BackendStats(
            long sent, long rejected, long spooled, long replayed, long failed, long dropped, long waiting, String lastError) {}
}
