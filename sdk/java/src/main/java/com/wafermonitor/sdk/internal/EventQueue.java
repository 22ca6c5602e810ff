package com.wafermonitor.sdk.internal;

import java.time.Instant;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/** The bounded queue between the program's threads and the workers, and what is in a worker's hands. */
final class EventQueue {
    /** Events with more bytes than this are bounded by their sum too; smaller ones by their number alone. */
    static final int LARGE_TEXT = 4096;

    private static final long LARGE_SUM = 32L * 1024 * 1024;
    private static final int FEW = 16;

    /** How long an emit waits for the disk when the queue is full and {@code on_full} is {@code spool}. */
    private static final long PATIENCE = TimeUnit.SECONDS.toNanos(1);

    /** Who empties the queue. */
    interface Attendant {
        /** The queue is nearly full: put some of it on disk. */
        void overflow();

        /** An event came after the end: put it on disk. */
        void late();
    }

    /** Makes parcels of entries, of which the first has that ordinal. */
    @FunctionalInterface
    interface Packing {
        List<Parcel> pack(List<Entry> entries, long ordinal);
    }

    private final Settings.Queue settings;
    private final Counts counts;
    private final String onFull;
    private final Attendant attendant;
    private final int highWater;
    private final int wakeAt;

    private final ReentrantLock lock = new ReentrantLock();
    private final Condition work = lock.newCondition();
    private final Condition space = lock.newCondition();
    private final ArrayDeque<Entry> entries = new ArrayDeque<>();

    /** Taken before `lock` where both are. */
    private final ReentrantLock hands = new ReentrantLock();

    private final Condition settled = hands.newCondition();
    private final TreeMap<Long, Parcel> inHand = new TreeMap<>();
    private long seq;
    private long idMillis;
    private long large;
    private long taken;
    private long reports;
    private boolean idle;
    private boolean wanted;
    private boolean closed;

    /** Set while the spool folder can't be written: then nobody waits for it. */
    volatile boolean diskFailing;

    EventQueue(Settings.Queue settings, Counts counts, boolean spooling, Attendant attendant) {
        this.settings = settings;
        this.counts = counts;
        this.onFull = settings.onFull().equals("spool") && !spooling ? "drop_oldest" : settings.onFull();
        this.attendant = attendant;
        this.highWater = Math.max(1, settings.maxEvents() * 3 / 4);
        this.wakeAt = Math.min(settings.batchSize(), highWater);
    }

    // ----------------------------------------------------------------------------------------------- the program's side

    /** Number, stamp and add an entry. */
    void put(Entry entry) {
        int bytes = entry.large();
        boolean near;
        boolean late;
        lock.lock();
        try {
            stamp(entry);
            entries.addLast(entry);
            large += bytes;
            int waiting = entries.size();
            if (idle && (waiting >= wakeAt || bytes > 0)) {
                wake();
            }
            near = waiting >= highWater || large >= LARGE_SUM / 2;
            late = closed;
        } finally {
            lock.unlock();
        }
        if (late) {
            attendant.late();
        } else if (near) {
            makeRoom();
        }
    }

    private void stamp(Entry entry) {
        Instant now = Instant.now();
        entry.seq = ++seq;
        entry.micros = now.getEpochSecond() * 1_000_000L + now.getNano() / 1000;
        long millis = entry.micros / 1000;
        if (millis > idMillis) {
            idMillis = millis;
        }
        entry.idMillis = idMillis;
    }

    /** An entry of the SDK's own that tells of drops; it never waits in the queue. */
    Parcel report(Entry entry, Encoder encoder, List<Lane> lanes, Map<String, Long> drops) {
        hands.lock();
        try {
            stampAlone(entry);
            // Its ordinal is its own, below those of the queue: nothing that came from the program shifts.
            Parcel parcel = new Parcel(encoder.pack(List.of(entry)).get(0), -(++reports), lanes, drops);
            inHand.put(parcel.ordinal, parcel);
            return parcel;
        } finally {
            hands.unlock();
        }
    }

    private void stampAlone(Entry entry) {
        lock.lock();
        try {
            stamp(entry);
        } finally {
            lock.unlock();
        }
    }

    private void makeRoom() {
        if (onFull.equals("spool")) {
            attendant.overflow();
        }
        if (!isFull()) {
            return;
        }
        long deadline = System.nanoTime() + PATIENCE;
        boolean interrupted = false;
        lock.lock();
        try {
            while (isFull() && !closed) {
                if (onFull.equals("drop_oldest")) {
                    dropOldest("queue_full");
                } else if (onFull.equals("spool") && (diskFailing || System.nanoTime() - deadline > 0)) {
                    dropOldest(diskFailing ? "spool_failed" : "queue_full");
                } else {
                    wake();
                    try {
                        space.await(20, TimeUnit.MILLISECONDS);
                    } catch (InterruptedException notNow) {
                        interrupted = true; // the program's own matter: it learns of it when emit returns
                        dropOldest("queue_full");
                    }
                }
            }
        } finally {
            lock.unlock();
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private boolean isFull() {
        lock.lock();
        try {
            return entries.size() > settings.maxEvents() || large > LARGE_SUM;
        } finally {
            lock.unlock();
        }
    }

    private void dropOldest(String reason) {
        long dropped = 0;
        while (!entries.isEmpty() && isFull()) {
            large -= entries.pollFirst().large();
            taken++;
            dropped++;
        }
        if (dropped > 0) {
            counts.drop(reason, dropped);
        }
    }

    // --------------------------------------------------------------------------------------------------- the workers' side

    private void wake() {
        wanted = true;
        idle = false;
        work.signal();
    }

    /** Have the sender look at the queue now. */
    void wakeSender() {
        lock.lock();
        try {
            wake();
        } finally {
            lock.unlock();
        }
    }

    /** Wait until there is a batch, somebody wakes the sender, or so many nanoseconds have passed. */
    void awaitWork(long nanos) throws InterruptedException {
        lock.lock();
        try {
            long left = nanos;
            while (!wanted && !closed && entries.size() < wakeAt && left > 0) {
                idle = true;
                left = work.awaitNanos(left);
            }
            idle = false;
            wanted = false;
        } finally {
            lock.unlock();
        }
    }

    /** Nobody attends to the queue any more: each later event does so itself. */
    void close() {
        lock.lock();
        try {
            closed = true;
            work.signalAll();
            space.signalAll();
        } finally {
            lock.unlock();
        }
    }

    int size() {
        lock.lock();
        try {
            return entries.size();
        } finally {
            lock.unlock();
        }
    }

    /** Up to so many of the oldest entries as parcels in the caller's hands. */
    List<Parcel> take(int limit, Packing pack) {
        hands.lock(); // held while encoding: who takes next takes what comes next; emitting threads don't need it
        try {
            List<Entry> some = new ArrayList<>(Math.min(limit, 512));
            long ordinal = poll(limit, some);
            List<Parcel> parcels = some.isEmpty() ? List.of() : pack.pack(some, ordinal);
            parcels.forEach(parcel -> inHand.put(parcel.ordinal, parcel));
            return parcels;
        } finally {
            hands.unlock();
        }
    }

    private long poll(int limit, List<Entry> into) {
        lock.lock();
        try {
            long ordinal = taken;
            int count = Math.min(limit, entries.size());
            long bytes = 0;
            for (int i = 0; i < count; i++) {
                Entry entry = entries.pollFirst();
                bytes += entry.large();
                into.add(entry);
            }
            large -= bytes;
            taken += count;
            space.signalAll();
            return ordinal;
        } finally {
            lock.unlock();
        }
    }

    /** Be done with a parcel, which is then out of memory: count it, unless somebody else was first. */
    void settle(Parcel parcel, Runnable count) {
        hands.lock();
        try {
            if (!parcel.settled) {
                parcel.settled = true;
                count.run(); // before anybody who waits for it looks at the counts
                inHand.remove(parcel.ordinal);
                settled.signalAll();
            }
        } finally {
            hands.unlock();
        }
    }

    /** The parcels that were taken and are not settled, oldest first. */
    List<Parcel> inHand() {
        hands.lock();
        try {
            return new ArrayList<>(inHand.values());
        } finally {
            hands.unlock();
        }
    }

    /** The ordinal after the newest event. */
    long mark() {
        lock.lock();
        try {
            return taken + entries.size();
        } finally {
            lock.unlock();
        }
    }

    /** Wait until every event below that ordinal is out of memory; whether it came about before the deadline of the clock. */
    boolean awaitDone(long mark, long deadline, Runnable ask) throws InterruptedException {
        hands.lock();
        try {
            while (!isDone(mark)) {
                long left = deadline - System.nanoTime();
                if (left <= 0 || isClosed()) {
                    return false;
                }
                ask.run();
                wakeSender();
                settled.awaitNanos(Math.min(left, TimeUnit.MILLISECONDS.toNanos(20)));
            }
            return true;
        } finally {
            hands.unlock();
        }
    }

    private boolean isDone(long mark) {
        Map.Entry<Long, Parcel> oldest = inHand.ceilingEntry(0L);
        return (oldest == null ? takenSoFar() : oldest.getKey()) >= mark;
    }

    private long takenSoFar() {
        lock.lock();
        try {
            return taken;
        } finally {
            lock.unlock();
        }
    }

    private boolean isClosed() {
        lock.lock();
        try {
            return closed;
        } finally {
            lock.unlock();
        }
    }

    /** How many entries to take for the queue to come down to half its bounds; large ones come down a few at a time. */
    int excess() {
        lock.lock();
        try {
            int many = entries.size() - settings.maxEvents() / 2;
            return many > 0 || large > LARGE_SUM / 2 ? Math.max(many, FEW) : 0;
        } finally {
            lock.unlock();
        }
    }

    /** Events in memory. */
    long depth() {
        hands.lock();
        try {
            return size() + inHand.values().stream().mapToLong(parcel -> parcel.size).sum();
        } finally {
            hands.unlock();
        }
    }
}
