package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Batch;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;

/**
 * One backend's thread in direct mode, and what the backend has still to get: bounded, and in order.
 *
 * <p>It shares nothing with its neighbours but the batches' bytes. Whatever its backend does (refuse, hang, never return), what that
 * can't take in time goes to the lane's own folder, and from there to this backend alone.
 */
final class LaneWorker {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    private static final long LARGE_SUM = 32L * 1024 * 1024;
    private static final long TICK = TimeUnit.SECONDS.toNanos(1);
    private static final long POLL = TimeUnit.MILLISECONDS.toNanos(5);

    final Lane lane;
    private final Settings.Queue limits;
    private final Lane.Closing closing;
    private final Consumer<Parcel> progress;
    private final Replay replay;
    private final Thread thread;

    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final ArrayDeque<Parcel.Share> waiting = new ArrayDeque<>();
    private List<Parcel.Share> inHand = List.of();
    private long events;
    private long bytes;
    private boolean signalled;
    private boolean ending;

    /** Nobody takes anything off `waiting` any more: the thread has ended, or a call does not return. */
    private boolean ended;

    private boolean stuck;

    /**
     * @param progress told of a parcel after the lane has done something with its share
     */
    LaneWorker(Lane lane, Settings.Queue limits, Counts counts, Lane.Closing closing, Consumer<Parcel> progress) {
        this.lane = lane;
        this.limits = limits;
        this.closing = closing;
        this.progress = progress;
        this.replay = lane.spool == null ? null : new Replay(lane, counts);
        this.thread = Workers.daemon("monitoring-sdk-" + lane.target.name(), this::run);
    }

    // -------------------------------------------------------------------------------------------- called by other threads

    void start() {
        thread.start();
    }

    /** Take a share to be delivered. */
    void offer(Parcel.Share share) {
        boolean away;
        lock.lock();
        try {
            away = ended || stuck;
            if (!away) {
                append(share);
                wake();
            }
        } finally {
            lock.unlock();
        }
        if (away) {
            giveUp(List.of(share));
        }
        makeRoom();
    }

    /** Have the thread look at what there is now. */
    void wake() {
        lock.lock();
        try {
            signalled = true;
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /** Stop counting on a call that does not return: what it holds, and what waits behind it, goes to disk. */
    void check() {
        List<Parcel.Share> stranded;
        lock.lock();
        try {
            if (stuck || !lane.hangs()) {
                return;
            }
            stuck = true;
            stranded = new ArrayList<>(inHand);
            stranded.addAll(waiting);
            waiting.clear();
            events = 0;
            bytes = 0;
        } finally {
            lock.unlock();
        }
        lane.noteHung();
        stranded.forEach(share -> giveUp(List.of(share)));
    }

    /** Deliver what can be delivered until the deadline of closing, and end. */
    void end() {
        lock.lock();
        try {
            ending = true;
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /** Events in memory for this backend. */
    long depth() {
        lock.lock();
        try {
            return events + inHand.stream().mapToLong(share -> share.parcel.size).sum();
        } finally {
            lock.unlock();
        }
    }

    boolean isAlive() {
        return thread.isAlive();
    }

    boolean joined(long nanos) throws InterruptedException {
        return Delivery.joined(thread, nanos);
    }

    /** Have a call that is under way return soon. */
    void interrupt() {
        lane.target.backend().interrupt();
    }

    // ---------------------------------------------------------------------------------------------------------- the bounds

    /** Bring what waits for a slow backend back into its bounds, as {@code on_full} says. */
    private void makeRoom() {
        if (limits.onFull().equals("block")) {
            awaitRoom();
        }
        boolean spooling = lane.spool != null && !limits.onFull().equals("drop_oldest");
        boolean isOver = isOver(1);
        while (isOver && isOver(spooling ? 2 : 1)) {
            List<Parcel.Share> oldest = next(spooling);
            if (oldest.isEmpty()) {
                return;
            }
            if (!spooling || !lane.putAway(oldest, "")) {
                String slow = lane.breaker.isClosed() ? "queue_full" : "undeliverable";
                oldest.forEach(share -> lane.drop(share, spooling ? "spool_failed" : slow));
            }
            oldest.forEach(share -> progress.accept(share.parcel));
        }
    }

    private void awaitRoom() {
        lock.lock();
        try {
            while (isOver(1) && lane.breaker.isClosed() && !closing.isOn() && !stuck && !lane.hangs()) {
                changed.awaitNanos(POLL);
            }
        } catch (InterruptedException stranger) { // nobody of ours interrupts a thread: go on
            Thread.interrupted();
        } finally {
            lock.unlock();
        }
    }

    /** Whether more waits than this part of what may. */
    private boolean isOver(int part) {
        lock.lock();
        try {
            return events > limits.maxEvents() / part || bytes > LARGE_SUM / part;
        } finally {
            lock.unlock();
        }
    }

    private void append(Parcel.Share share) {
        waiting.addLast(share);
        events += share.parcel.size;
        bytes += share.parcel.bytes;
    }

    /** The oldest share; if asked for, with its neighbours, as far as they make one file. None: nothing waits. */
    private List<Parcel.Share> next(boolean neighbours) {
        lock.lock();
        try {
            List<Parcel.Share> taken = new ArrayList<>();
            long many = 0;
            long large = 0;
            Parcel.Share share;
            while ((share = waiting.peekFirst()) != null) {
                many += share.parcel.size;
                large += share.parcel.bytes;
                if (!taken.isEmpty()) {
                    Batch last = taken.get(taken.size() - 1).whole();
                    Batch batch = share.whole();
                    boolean fits = many <= Limits.MAX_BATCH_EVENTS && large <= Limits.MAX_BATCH_BYTES;
                    boolean follows = last != null && batch != null && batch.firstSeq() == last.lastSeq() + 1;
                    if (!neighbours || !fits || !follows) {
                        break;
                    }
                }
                waiting.removeFirst();
                events -= share.parcel.size;
                bytes -= share.parcel.bytes;
                taken.add(share);
            }
            changed.signalAll();
            return taken;
        } finally {
            lock.unlock();
        }
    }

    // ---------------------------------------------------------------------------------------------------------- the thread

    private void run() {
        while (!isEnding()) {
            safely(() -> {
                await();
                round();
            });
        }
        safely(this::round);
        lock.lock();
        try {
            ended = true;
        } finally {
            lock.unlock();
        }
        safely(this::putAwayAll);
    }

    private void safely(Runnable step) {
        try {
            step.run();
        } catch (RuntimeException | Error mistake) { // whatever it is, the events that come later need a lane
            LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the SDK; the backend " + lane.target.name() + " goes on", mistake);
            closing.await(Delivery.AFTER_MISTAKE);
        }
    }

    private boolean isEnding() {
        lock.lock();
        try {
            return ending;
        } finally {
            lock.unlock();
        }
    }

    private void await() {
        if (replay != null && replay.hasMore()) {
            return;
        }
        lock.lock();
        try {
            long left = Math.min(TICK, (long) (limits.flushInterval() * 1e9));
            while (!signalled && !ending && left > 0) {
                left = changed.awaitNanos(left);
            }
            signalled = false;
        } catch (InterruptedException stranger) { // nobody of ours interrupts this thread: go on
            Thread.interrupted();
        } finally {
            lock.unlock();
        }
    }

    private void round() {
        boolean works = true;
        while (works && !isLate()) {
            List<Parcel.Share> some = next(!lane.allows());
            if (some.isEmpty()) {
                break;
            }
            works = lane.allows() && some.size() == 1 ? deliver(some) : giveUp(some);
        }
        if (!works) {
            tellStandbys();
        }
        lane.target.backend().idle();
        if (replay != null && !closing.isOn()) {
            replay.run(this::hasWork, closing::isOn);
        }
    }

    /** What waits in memory for a backend that does not work, because it can't be put on disk, is for whoever stands in. */
    private void tellStandbys() {
        List<Parcel.Share> behind;
        lock.lock();
        try {
            behind = waiting.stream().filter(share -> !share.failed).toList();
        } finally {
            lock.unlock();
        }
        behind.forEach(share -> share.failed = true);
        behind.forEach(share -> progress.accept(share.parcel));
    }

    private boolean isLate() {
        return closing.isOn() && System.nanoTime() - closing.deadline >= 0;
    }

    private boolean hasWork() {
        lock.lock();
        try {
            return ending || !waiting.isEmpty();
        } finally {
            lock.unlock();
        }
    }

    /** Deliver one share, or put it away; whether it is gone. */
    private boolean deliver(List<Parcel.Share> one) {
        Parcel.Share share = one.get(0);
        lock.lock();
        try {
            inHand = one;
        } finally {
            lock.unlock();
        }
        lane.deliver(share);
        lock.lock();
        try {
            inHand = List.of();
            stuck = false;
            if (!share.isDone()) {
                putBack(one);
            }
        } finally {
            lock.unlock();
        }
        progress.accept(share.parcel);
        return share.isDone();
    }

    /** The backend does not take these now: put them on disk; what can't be put there waits again. Whether they are gone. */
    private boolean giveUp(List<Parcel.Share> some) {
        some.forEach(share -> share.failed = true);
        boolean gone;
        lock.lock();
        try {
            gone = ended;
        } finally {
            lock.unlock();
        }
        if (!lane.putAway(some, gone ? lane.reason() : "")) {
            lock.lock();
            try {
                putBack(some);
            } finally {
                lock.unlock();
            }
        }
        some.forEach(share -> progress.accept(share.parcel));
        return some.stream().allMatch(Parcel.Share::isDone);
    }

    private void putBack(List<Parcel.Share> some) {
        for (int i = some.size() - 1; i >= 0; i--) {
            Parcel.Share share = some.get(i);
            if (!share.isDone()) {
                waiting.addFirst(share);
                events += share.parcel.size;
                bytes += share.parcel.bytes;
            }
        }
    }

    /** At the end: put on disk what there was no time to deliver. */
    private void putAwayAll() {
        List<Parcel.Share> some;
        while (!(some = next(true)).isEmpty()) {
            lane.putAway(some, lane.reason());
            some.forEach(share -> progress.accept(share.parcel));
        }
    }
}
