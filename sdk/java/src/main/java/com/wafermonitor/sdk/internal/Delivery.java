package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.Stats;
import com.wafermonitor.sdk.backends.Batch;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * One process's way from its queue to its receivers, on threads of its own: what a sidecar's and direct mode's have in common.
 *
 * <p>A worker cuts batches and passes them on. All threads are daemons: they never keep a process alive; {@link #close} gives them a
 * deadline, and does itself what they have not done by then.
 */
abstract class Delivery implements EventQueue.Attendant {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** How long interrupted threads have to put their batches on disk before {@link #close} does it. */
    static final long INTERRUPT_GRACE = TimeUnit.MILLISECONDS.toNanos(400);

    /** How long a thread rests after a mistake, in seconds. */
    static final double AFTER_MISTAKE = 1.0;

    final EventQueue queue;
    final Settings settings;
    final Counts counts = new Counts();
    final Lane.Closing closing = new Lane.Closing();
    final List<Lane> lanes;
    final Thread worker;
    private final Encoder encoder;
    private final Function<Map<String, Long>, Entry> report;
    private volatile boolean flushAsked;

    Delivery(Settings settings, Encoder encoder, Function<Map<String, Long>, Entry> report, String worker) {
        this.settings = settings;
        this.encoder = encoder;
        this.report = report;
        boolean spooling = settings.sidecar().enableSpooling();
        this.lanes = settings.targets().stream()
                .sorted(Comparator.comparingInt(Settings.Target::priority))
                .map(target -> new Lane(
                        target,
                        settings.sidecar(),
                        spooling ? new Spool(settings.sidecar().spoolDir().resolve(target.folder()), encoder.emitterId()) : null,
                        closing))
                .toList();
        this.queue = new EventQueue(settings.queue(), counts, spooling, this);
        this.worker = Workers.daemon(worker, this::run);
    }

    /** The way that the settings ask for; not started. */
    static Delivery of(Settings settings, Encoder encoder, Function<Map<String, Long>, Entry> report) {
        return settings.mode().equals("direct")
                ? new DirectDelivery(settings, encoder, report)
                : new SidecarDelivery(settings, encoder, report);
    }

    // ---------------------------------------------------------------------------------------------- called by the program

    void start() {
        lanes.forEach(lane -> lane.target.backend().start(encoder.emitterId()));
        worker.start();
    }

    @Override
    public void late() {
        putAwayQueue();
    }

    /** Wait until everything emitted before this call is delivered or on disk; whether that came to pass in time. */
    boolean flush(double seconds) {
        long deadline = System.nanoTime() + (long) (seconds * 1e9);
        try {
            return queue.awaitDone(queue.mark(), deadline, () -> flushAsked = true);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    Stats stats() {
        return counts.snapshot(queue.mark(), queue.depth(), backendStats());
    }

    Map<String, Stats.BackendStats> backendStats() {
        Map<String, Stats.BackendStats> all = new LinkedHashMap<>();
        lanes.forEach(lane -> all.put(lane.target.name(), lane.stats(waiting(lane))));
        return all;
    }

    /** Events in memory that a backend has still to get. */
    abstract long waiting(Lane lane);

    /** Send what can be sent within so many seconds, put the rest on disk, and end; false when that was begun before. */
    boolean close(double grace) {
        synchronized (this) {
            if (closing.isOn()) {
                return false;
            }
            closing.deadline = System.nanoTime() + (long) (grace * 1e9);
            closing.latch.countDown();
        }
        queue.close();
        boolean interrupted = Thread.interrupted(); // the program's own matter: the events are sent or written all the same
        try {
            end();
        } catch (InterruptedException notNow) {
            interrupted = true; // what follows takes no long time
        }
        queue.inHand().forEach(this::putAway);
        putAwayQueue();
        lanes.forEach(lane -> lane.target.backend().close());
        lanes.stream().filter(lane -> lane.spool != null).forEach(lane -> lane.spool.close());
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        return true;
    }

    /** See to it that the threads end: by themselves before the deadline, or interrupted soon after it. */
    abstract void end() throws InterruptedException;

    /** Whether a thread has ended, within so many nanoseconds. */
    static boolean joined(Thread thread, long nanos) throws InterruptedException {
        if (thread == null || thread == Thread.currentThread()) {
            return true;
        }
        TimeUnit.NANOSECONDS.timedJoin(thread, Math.max(1_000_000, nanos));
        return !thread.isAlive();
    }

    // ----------------------------------------------------------------------------------------------------------- the worker

    private void run() {
        long interval = (long) (settings.queue().flushInterval() * 1e9);
        long due = System.nanoTime() + interval;
        while (!closing.isOn()) {
            try {
                queue.awaitWork(Math.min(due - System.nanoTime(), longestPause()));
                boolean everything = flushAsked || System.nanoTime() - due >= 0;
                flushAsked = false;
                if (everything) {
                    due = System.nanoTime() + interval;
                }
                round(everything);
            } catch (InterruptedException stranger) { // nobody of ours interrupts this thread: go on
                Thread.interrupted();
            } catch (RuntimeException | Error mistake) { // whatever it is, the events that come later need a worker
                LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK; it goes on", mistake);
                closing.await(AFTER_MISTAKE);
            }
        }
        try {
            finish();
        } catch (RuntimeException | Error mistake) { // close() does what is left
            LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK while closing", mistake);
        }
    }

    /** How many nanoseconds may pass between two rounds though there is no event. */
    abstract long longestPause();

    /** Pass on what is due: all full batches, with `everything` also the rest. */
    abstract void round(boolean everything);

    /** The worker's last round, when closing has begun. */
    abstract void finish();

    /** Up to so many events off the queue, in hand from now on. */
    final List<Parcel> take(int limit) {
        return queue.take(limit, (entries, first) -> {
            List<Parcel> parcels = new ArrayList<>();
            long ordinal = first;
            for (Batch batch : encoder.pack(entries)) {
                parcels.add(new Parcel(batch, ordinal, lanes, Map.of()));
                ordinal += batch.size();
            }
            return parcels;
        });
    }

    /** An event that tells of what was lost, so that the gap in the numbers is explained; null when nothing was. */
    final Parcel takeReport() {
        Map<String, Long> drops = counts.takeUnreported();
        if (drops.isEmpty()) {
            return null;
        }
        counts.addReport();
        return queue.report(report.apply(drops), encoder, lanes, drops);
    }

    /** Nobody has to do with a parcel any more. */
    final void settle(Parcel parcel) {
        queue.settle(parcel, () -> {
            Counts.Tally worst = parcel.worst();
            counts.add(worst);
            if (worst.dropped > 0) {
                counts.unreport(parcel.report);
                counts.drop(parcel.whyDropped(), worst.dropped);
            }
        });
    }

    // --------------------------------------------------------------------------------------------------------- putting away

    /** At the end: put what is pending of a parcel on disk, and drop what can't be put there. */
    final void putAway(Parcel parcel) {
        boolean kept = false;
        for (Parcel.Share share : parcel.shares) {
            if (share.lane.target.fallback() && kept) {
                share.skip();
            }
            share.lane.putAway(List.of(share), share.lane.reason());
            kept |= share.isDone();
        }
        settle(parcel);
    }

    private void putAwayQueue() {
        List<Parcel> parcels;
        while (!(parcels = take(Limits.MAX_BATCH_EVENTS)).isEmpty()) {
            parcels.forEach(this::putAway);
        }
    }
}
