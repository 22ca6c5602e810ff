package com.wafermonitor.sdk.internal;

import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.function.Function;

/**
 * Sidecar mode: moves events from the queue to the sidecar, or to disk when it can't be reached.
 *
 * <p>The sender sends, retries, and replays what waits on disk. The spiller, started when the queue first nears its bound, writes
 * batches to disk while the sender is busy with a slow receiver.
 */
final class SidecarDelivery extends Delivery {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    private final Lane lane = lanes.get(0);
    private final Replay replay = lane.spool == null ? null : new Replay(lane, counts);
    private final List<Parcel> held = new ArrayList<>();
    private final Semaphore spills = new Semaphore(0);
    private Thread spiller;

    SidecarDelivery(Settings settings, Encoder encoder, Function<Map<String, Long>, Entry> report) {
        super(settings, encoder, report, "monitoring-sdk-sender");
    }

    @Override
    public synchronized void overflow() {
        if (spiller == null && !closing.isOn()) {
            spiller = Workers.daemon("monitoring-sdk-spiller", this::runSpiller);
            spiller.start();
        }
        if (spills.availablePermits() == 0) {
            spills.release();
        }
    }

    @Override
    long waiting(Lane any) {
        return queue.depth();
    }

    @Override
    void end() throws InterruptedException {
        spills.release();
        if (!joined(worker, closing.deadline - System.nanoTime())) {
            lane.target.backend().interrupt();
            joined(worker, INTERRUPT_GRACE);
        }
        joined(spiller, INTERRUPT_GRACE);
    }

    // ----------------------------------------------------------------------------------------------------------- the sender

    @Override
    long longestPause() {
        return replay != null && replay.hasMore() ? 0 : Long.MAX_VALUE;
    }

    @Override
    void round(boolean everything) {
        int size = settings.queue().batchSize();
        long due = 0;
        if (everything) {
            retryHeld();
            deliverReport();
            due = queue.size();
        }
        while (!closing.isOn() && (queue.size() >= size || due > 0)) {
            // What goes to disk anyway goes there in few files.
            List<Parcel> parcels = take(lane.allows() ? size : Limits.MAX_BATCH_EVENTS);
            due = parcels.isEmpty() ? 0 : due - parcels.stream().mapToLong(parcel -> parcel.size).sum();
            parcels.forEach(this::deliver);
        }
        if (replay != null && !closing.isOn()) {
            replay.run(() -> queue.size() >= size, closing::isOn);
        }
        lane.target.backend().idle();
    }

    private void deliverReport() {
        Parcel report = takeReport();
        if (report != null) {
            deliver(report);
        }
    }

    /** Send a parcel; what could be put nowhere is held in memory, within bounds. */
    private void deliver(Parcel parcel) {
        lane.deliver(parcel.shares[0]);
        queue.diskFailing = lane.diskFailing;
        settleOrHold(parcel);
    }

    private void settleOrHold(Parcel parcel) {
        if (parcel.isDone()) {
            settle(parcel);
            return;
        }
        synchronized (held) {
            held.add(parcel);
            long excess = held.stream().mapToLong(each -> each.size).sum() - settings.queue().maxEvents();
            while (excess > 0 && !held.isEmpty()) {
                Parcel oldest = held.remove(0);
                excess -= oldest.size;
                putAway(oldest);
            }
        }
    }

    /** Try what could be put nowhere once more, until the first that fails again. */
    private void retryHeld() {
        List<Parcel> waiting = takeHeld();
        for (int i = 0; i < waiting.size(); i++) {
            deliver(waiting.get(i));
            if (!waiting.get(i).isDone()) {
                synchronized (held) {
                    held.addAll(waiting.subList(i + 1, waiting.size()));
                }
                return;
            }
        }
    }

    private List<Parcel> takeHeld() {
        synchronized (held) {
            List<Parcel> waiting = new ArrayList<>(held);
            held.clear();
            return waiting;
        }
    }

    /** Send what the deadline allows; the rest goes to disk. */
    @Override
    void finish() {
        takeHeld().forEach(this::putAway);
        deliverReport();
        List<Parcel> parcels;
        while (isTimeLeft() && !(parcels = take(settings.queue().batchSize())).isEmpty()) {
            for (Parcel parcel : parcels) {
                if (isTimeLeft()) {
                    deliver(parcel);
                } else {
                    putAway(parcel);
                }
            }
        }
    }

    private boolean isTimeLeft() {
        return closing.deadline - System.nanoTime() > 0 && lane.breaker.isClosed();
    }

    // ---------------------------------------------------------------------------------------------------------- the spiller

    private void runSpiller() {
        while (!closing.isOn()) {
            spills.acquireUninterruptibly();
            try {
                spill();
            } catch (RuntimeException | Error mistake) { // the queue needs a spiller later too
                LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK; it goes on", mistake);
            }
        }
    }

    /** Bring the queue down to half its bounds. */
    private void spill() {
        int excess;
        while (!closing.isOn() && (excess = queue.excess()) > 0) {
            for (Parcel parcel : take(Math.min(Limits.MAX_BATCH_EVENTS, excess))) {
                lane.putAway(List.of(parcel.shares[0]), "");
                settleOrHold(parcel);
            }
            queue.diskFailing = lane.diskFailing;
            if (queue.diskFailing) {
                return;
            }
        }
    }
}
