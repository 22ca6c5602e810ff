package com.wafermonitor.sdk.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.backends.Batch;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Many threads on one queue: what goes in comes out once, or is counted as dropped. */
@Timeout(value = 100, unit = TimeUnit.SECONDS)
class EventQueueTest {
    private static final int EMITTERS = 8;
    private static final int EVENTS = 5_000;
    private static final int MAX_EVENTS = 200;

    private final Counts counts = new Counts();
    private final Set<Long> out = new ConcurrentSkipListSet<>();
    private final AtomicLong twice = new AtomicLong();
    private final AtomicLong deepest = new AtomicLong();
    private final AtomicBoolean emitting = new AtomicBoolean(true);

    /** With whoever takes as fast as it can, and with one who lets the queue run full; now and then an event is large. */
    @ParameterizedTest
    @CsvSource({
        "spool,false", "spool,true", "drop_oldest,false", "drop_oldest,true", "block,false", "block,true"
    })
    void anEventIsLostUncountedOrComesOutTwice(String onFull, boolean slow) throws Exception {
        EventQueue queue = new EventQueue(new Settings.Queue(MAX_EVENTS, 50, 1.0, onFull), counts, true, new EventQueue.Attendant() {
            @Override
            public void overflow() {
                return; // the takers take all the time
            }

            @Override
            public void late() {
                throw new AssertionError("nothing comes late here");
            }
        });
        ExecutorService pool = Executors.newFixedThreadPool(EMITTERS + 3);
        try {
            List<Future<?>> takers = List.of(
                    pool.submit(() -> take(queue, slow)), pool.submit(() -> take(queue, slow)), pool.submit(() -> look(queue)));
            List<Future<?>> emitters = new ArrayList<>();
            CountDownLatch start = new CountDownLatch(EMITTERS);
            for (int i = 0; i < EMITTERS; i++) {
                emitters.add(pool.submit(() -> emit(queue, start)));
            }
            for (Future<?> each : emitters) {
                each.get();
            }
            emitting.set(false);
            for (Future<?> each : takers) {
                each.get();
            }
        } finally {
            pool.shutdownNow();
        }
        long emitted = (long) EMITTERS * EVENTS;
        Map<String, Long> dropped = counts.takeUnreported();
        long lost = dropped.values().stream().mapToLong(Long::longValue).sum();
        assertEquals(0, twice.get(), "events that came out twice");
        assertEquals(emitted, out.size() + lost, "what went in: " + out.size() + " out, " + dropped);
        assertEquals(emitted, queue.mark());
        assertEquals(0, queue.depth());
        assertTrue(queue.awaitDone(emitted, System.nanoTime(), () -> {}), "all is out of memory");
        assertEquals(emitted, counts.snapshot(queue.mark(), queue.depth(), Map.of()).emitted());
        if (onFull.equals("block")) {
            assertEquals(Map.of(), dropped, "whoever blocks loses nothing");
        } else {
            assertTrue(Set.of("queue_full").containsAll(dropped.keySet()), dropped.toString());
        }
        assertTrue(deepest.get() <= MAX_EVENTS + EMITTERS, "bounded: " + deepest.get());
    }

    private Void emit(EventQueue queue, CountDownLatch start) throws InterruptedException {
        start.countDown();
        start.await();
        byte[] large = ("\"kind\":\"log\",\"name\":\"" + "x".repeat(EventQueue.LARGE_TEXT) + "\"}").getBytes(StandardCharsets.UTF_8);
        for (int i = 0; i < EVENTS; i++) {
            boolean isLarge = i % 500 == 0;
            Object fields = isLarge ? large : new Object[] {"kind", "log", "name", "a"};
            queue.put(new Entry(fields, null, null, false, null, null));
        }
        return null;
    }

    private Void take(EventQueue queue, boolean slow) throws InterruptedException {
        while (emitting.get() || queue.size() > 0) {
            int limit = ThreadLocalRandom.current().nextInt(1, 100);
            List<Parcel> parcels = queue.take(limit, (entries, first) -> {
                for (int i = 1; i < entries.size(); i++) {
                    if (entries.get(i).seq <= entries.get(i - 1).seq) {
                        throw new AssertionError("out of order");
                    }
                }
                List<byte[]> lines = entries.stream().map(entry -> new byte[] {'{', '}'}).toList();
                entries.forEach(entry -> {
                    if (!out.add(entry.seq)) {
                        twice.incrementAndGet();
                    }
                });
                Batch batch = new Batch(lines, "e", entries.get(0).seq, entries.get(entries.size() - 1).seq);
                return List.of(new Parcel(batch, first, List.of(), Map.of()));
            });
            for (Parcel parcel : parcels) {
                queue.settle(parcel, () -> {});
                queue.settle(parcel, twice::incrementAndGet); // somebody else, who comes later
            }
            if (slow) {
                Thread.sleep(1);
            } else if (parcels.isEmpty()) {
                queue.awaitWork(TimeUnit.MILLISECONDS.toNanos(2));
            }
        }
        return null;
    }

    /** What other threads look at meanwhile must hold at any moment. */
    private Void look(EventQueue queue) {
        long last = 0;
        while (emitting.get()) {
            deepest.accumulateAndGet(queue.size(), Math::max);
            long mark = queue.mark();
            if (mark < last) {
                throw new AssertionError("the mark went back");
            }
            last = mark;
        }
        return null;
    }
}
