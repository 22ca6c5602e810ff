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
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * Moves events from the queue to the backends, or to disk when one can't be reached, on threads of its own.
 *
 * <p>The sender cuts batches, sends them, retries, and replays what waits on disk. The spiller, started when the queue first nears
 * its bound, writes batches to disk while the sender is busy with a slow receiver. Both are daemons: they never keep a process alive;
 * {@link #close} gives them a deadline, and does itself what they have not done by then.
 */
final class Delivery implements EventQueue.Attendant {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** How long an interrupted sender has to put its batch on disk before {@link #close} does it. */
    private static final long INTERRUPT_GRACE = TimeUnit.MILLISECONDS.toNanos(400);

    private static final double AFTER_MISTAKE = 1.0;

    final EventQueue queue;
    private final Settings settings;
    private final Encoder encoder;
    private final Function<Map<String, Long>, Entry> report;
    private final Counts counts = new Counts();
    private final Lane.Closing closing = new Lane.Closing();
    private final List<Lane> lanes;
    private final List<Replay> replays = new ArrayList<>();
    private final List<Parcel> held = new ArrayList<>();
    private final Semaphore spills = new Semaphore(0);
    private final Thread sender;
    private Thread spiller;
    private volatile boolean flushAsked;

    Delivery(Settings settings, Encoder encoder, Function<Map<String, Long>, Entry> report) {
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
        if (spooling) {
            lanes.forEach(lane -> replays.add(new Replay(lane, counts)));
        }
        this.queue = new EventQueue(settings.queue(), counts, spooling, this);
        this.sender = Workers.daemon("monitoring-sdk-sender", this::run);
    }

    // ---------------------------------------------------------------------------------------------- called by the program

    void start() {
        lanes.forEach(lane -> lane.target.backend().start(encoder.emitterId()));
        sender.start();
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
        lanes.forEach(lane -> all.put(lane.target.name(), lane.stats()));
        return all;
    }

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
        spills.release();
        boolean interrupted = false;
        try {
            if (!joined(sender, closing.deadline - System.nanoTime())) {
                lanes.forEach(lane -> lane.target.backend().interrupt());
                joined(sender, INTERRUPT_GRACE);
            }
            joined(spiller, INTERRUPT_GRACE);
        } catch (InterruptedException notNow) {
            interrupted = true; // what follows takes no long time
        }
        for (Parcel parcel : queue.inHand()) {
            putAway(parcel, true);
        }
        putAwayQueue();
        lanes.forEach(lane -> lane.target.backend().close());
        lanes.stream().filter(lane -> lane.spool != null).forEach(lane -> lane.spool.close());
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        return true;
    }

    private static boolean joined(Thread thread, long nanos) throws InterruptedException {
        if (thread == null || thread == Thread.currentThread()) {
            return true;
        }
        TimeUnit.NANOSECONDS.timedJoin(thread, Math.max(1_000_000, nanos));
        return !thread.isAlive();
    }

    // ----------------------------------------------------------------------------------------------------------- the sender

    private void run() {
        long interval = (long) (settings.queue().flushInterval() * 1e9);
        long due = System.nanoTime() + interval;
        while (!closing.isOn()) {
            try {
                if (replays.stream().noneMatch(Replay::hasMore)) {
                    queue.awaitWork(due - System.nanoTime());
                }
                boolean everything = flushAsked || System.nanoTime() - due >= 0;
                flushAsked = false;
                if (everything) {
                    due = System.nanoTime() + interval;
                }
                round(everything);
            } catch (InterruptedException stranger) { // nobody of ours interrupts this thread: go on
                Thread.interrupted();
            } catch (RuntimeException | Error mistake) { // whatever it is, the events that come later need a sender
                LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK; it goes on", mistake);
                closing.await(AFTER_MISTAKE);
            }
        }
        finish();
    }

    /** Send what is due: all full batches, with `everything` also the rest; then what waits on disk. */
    private void round(boolean everything) {
        int size = settings.queue().batchSize();
        long due = 0;
        if (everything) {
            retryHeld();
            reportDrops();
            due = queue.size();
        }
        while (!closing.isOn() && (queue.size() >= size || due > 0)) {
            // What goes to disk anyway goes there in few files.
            List<Parcel> parcels = take(lanes.stream().anyMatch(Lane::allows) ? size : Limits.MAX_BATCH_EVENTS);
            due = parcels.isEmpty() ? 0 : due - parcels.stream().mapToLong(parcel -> parcel.size).sum();
            parcels.forEach(this::deliver);
        }
        for (Replay replay : replays) {
            if (!closing.isOn()) {
                replay.run(() -> queue.size() >= size, closing::isOn);
            }
        }
        lanes.forEach(lane -> lane.target.backend().idle());
    }

    private List<Parcel> take(int limit) {
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

    /** Tell of what was lost by an event of its own, so that the gap in the numbers is explained. */
    private void reportDrops() {
        Map<String, Long> drops = counts.takeUnreported();
        if (!drops.isEmpty()) {
            counts.addReport();
            deliver(queue.report(report.apply(drops), encoder, lanes, drops));
        }
    }

    /** Hand a parcel to every backend that shall have it; what could be put nowhere is held in memory, within bounds. */
    private void deliver(Parcel parcel) {
        boolean reached = false;
        for (Parcel.Share share : parcel.shares) {
            boolean needed = !share.lane.target.fallback() || !reached;
            if (!needed) {
                share.skip();
            } else if (!share.isDone()) {
                share.lane.deliver(share);
            }
            reached |= share.isDelivered();
        }
        queue.diskFailing = lanes.stream().anyMatch(lane -> lane.diskFailing);
        if (parcel.isDone()) {
            settle(parcel);
        } else {
            hold(parcel);
        }
    }

    private void settle(Parcel parcel) {
        queue.settle(parcel, () -> {
            Counts.Tally worst = parcel.worst();
            counts.add(worst);
            if (worst.dropped > 0) {
                counts.unreport(parcel.report);
                counts.drop(reasonOf(parcel), worst.dropped);
            }
        });
    }

    private static String reasonOf(Parcel parcel) {
        return parcel.shares[0].lane.reason();
    }

    private void hold(Parcel parcel) {
        synchronized (held) {
            held.add(parcel);
            long excess = held.stream().mapToLong(each -> each.size).sum() - settings.queue().maxEvents();
            while (excess > 0 && !held.isEmpty()) {
                Parcel oldest = held.remove(0);
                excess -= oldest.size;
                drop(oldest);
            }
        }
    }

    private void drop(Parcel parcel) {
        for (Parcel.Share share : parcel.shares) {
            share.all().forEach(batch -> share.lane.putAway(share, batch, share.lane.reason()));
        }
        settle(parcel);
    }

    /** Try what could be put nowhere once more, until the first that fails again. */
    private void retryHeld() {
        List<Parcel> waiting;
        synchronized (held) {
            waiting = new ArrayList<>(held);
            held.clear();
        }
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

    // --------------------------------------------------------------------------------------------------------- putting away

    /** Put what is pending of a parcel on disk; with `atTheEnd`, what can't be is dropped. */
    private void putAway(Parcel parcel, boolean atTheEnd) {
        boolean kept = false;
        for (Parcel.Share share : parcel.shares) {
            if (share.lane.target.fallback() && kept) {
                share.skip();
            }
            for (Batch batch : share.all()) {
                share.lane.putAway(share, batch, atTheEnd ? share.lane.reason() : "");
            }
            kept |= share.isDone();
        }
        if (parcel.isDone()) {
            settle(parcel);
        } else {
            hold(parcel);
        }
    }

    private void putAwayQueue() {
        List<Parcel> parcels;
        while (!(parcels = take(Limits.MAX_BATCH_EVENTS)).isEmpty()) {
            parcels.forEach(parcel -> putAway(parcel, true));
        }
    }

    /** The sender's last round: send what the deadline allows, the rest goes to disk. */
    private void finish() {
        try {
            List<Parcel> waiting;
            synchronized (held) {
                waiting = new ArrayList<>(held);
                held.clear();
            }
            waiting.forEach(parcel -> putAway(parcel, true));
            reportDrops();
            List<Parcel> parcels;
            while (isTimeLeft() && !(parcels = take(settings.queue().batchSize())).isEmpty()) {
                for (Parcel parcel : parcels) {
                    if (isTimeLeft()) {
                        deliver(parcel);
                    } else {
                        putAway(parcel, true);
                    }
                }
            }
        } catch (RuntimeException | Error mistake) { // close() does what is left
            LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK while closing", mistake);
        }
    }

    private boolean isTimeLeft() {
        return closing.deadline - System.nanoTime() > 0 && lanes.stream().anyMatch(lane -> lane.breaker.isClosed());
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
                putAway(parcel, false);
            }
            queue.diskFailing = lanes.stream().anyMatch(lane -> lane.diskFailing);
            if (queue.diskFailing) {
                return;
            }
        }
    }
}
