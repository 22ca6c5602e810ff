package com.wafermonitor.sdk.tck;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Backend;
import com.wafermonitor.sdk.backends.Batch;
import com.wafermonitor.sdk.backends.Outcome;
import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.internal.JsonWriter;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/**
 * What every backend must pass. A backend's own tests extend this class, and say how to make one, how to read back what arrived, and
 * how to take the receiver down and up again.
 */
public abstract class BackendTck {
    protected static final Duration TIMEOUT = Duration.ofSeconds(30);

    private final String emitterId = UUID.randomUUID().toString();
    private final List<Backend> opened = new ArrayList<>();
    private Set<Thread> before = Set.of();

    /** A backend that writes to the receiver. */
    protected abstract Backend make() throws Exception;

    /** Every event that arrived, as often as it did, as the receiver has it. */
    protected abstract List<Map<?, ?>> readBack() throws Exception;

    /** Take the receiver down. */
    protected abstract void takeDown() throws Exception;

    /** Bring it up again. */
    protected abstract void bringUp() throws Exception;

    /** Whether a batch that is delivered twice stands once. */
    protected boolean deduplicates() {
        return true;
    }

    /** Whether `readBack` gives events as they were sent. */
    protected boolean keepsWholeEvents() {
        return true;
    }

    @BeforeEach
    final void noteThreads() {
        before = new HashSet<>(Thread.getAllStackTraces().keySet());
    }

    @AfterEach
    final void closeAll() {
        opened.forEach(Backend::close);
    }

    private Backend open() throws Exception {
        Backend backend = make();
        backend.start(emitterId);
        opened.add(backend);
        return backend;
    }

    /** A batch of log events with numbers from `first`. */
    protected final Batch batch(long first, int count, Map<String, ?> fields) {
        List<byte[]> lines = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            Map<String, Object> event = new LinkedHashMap<>();
            event.put("event_id", new UUID(0x01890a5dac96774bL, 0x8cce000000000000L + (emitterId.hashCode() & 0xffffffL) * 100_000 + first + i).toString());
            event.put("timestamp", "2026-07-01T09:00:00.000001Z");
            event.put("emitter", Map.of("id", emitterId, "seq", first + i));
            event.put("site_id", "fab1");
            event.put("app", Map.of("name", "tck"));
            event.put("kind", "log");
            event.put("name", "tck");
            event.putAll(fields);
            lines.add(JsonWriter.bytesOf(event));
        }
        return new Batch(lines, emitterId, first, first + count - 1);
    }

    private static Set<Object> ids(List<Map<?, ?>> events) {
        return events.stream().map(event -> event.get("event_id")).collect(Collectors.toSet());
    }

    private static void assertAccepted(Answer answer) {
        assertEquals(Outcome.ACCEPTED, answer.outcome(), answer::detail);
        assertEquals(List.of(), answer.rejected());
    }

    private List<Map<?, ?>> arrived(Batch... batches) throws Exception {
        Set<Object> wanted = new HashSet<>();
        for (Batch batch : batches) {
            wanted.addAll(ids(batch.events()));
        }
        Eventually.eventually("the events to arrive", () -> ids(readBack()).containsAll(wanted));
        return readBack().stream().filter(event -> wanted.contains(event.get("event_id"))).toList();
    }

    @Test
    void anEventIsLostOrChanged() throws Exception {
        Batch batch = batch(1, 3, Map.of("message", "grüße 😀 \"quoted\" \\ \t", "attributes", Map.of("deep", List.of(1, Map.of("a", true)))));
        assertAccepted(open().deliver(batch, TIMEOUT));
        List<Map<?, ?>> arrived = arrived(batch);
        assertEquals(3, arrived.size());
        if (keepsWholeEvents()) {
            assertEquals(sorted(batch.events()), sorted(arrived));
        }
    }

    private static List<String> sorted(List<Map<?, ?>> events) {
        return events.stream().map(event -> canonical(event).toString()).sorted().toList();
    }

    private static Object canonical(Object value) {
        if (value instanceof Map<?, ?> map) {
            Map<String, Object> sorted = new java.util.TreeMap<>();
            map.forEach((key, entry) -> sorted.put((String) key, canonical(entry)));
            return sorted;
        }
        return value instanceof List<?> list ? list.stream().map(BackendTck::canonical).toList() : value;
    }

    @Test
    void aBatchDeliveredTwiceStandsTwice() throws Exception {
        Backend backend = open();
        Batch first = batch(1, 5, Map.of());
        Batch second = batch(6, 5, Map.of());
        for (Batch batch : List.of(first, second, second)) {
            assertAccepted(backend.deliver(batch, TIMEOUT));
        }
        backend.close();
        if (deduplicates()) {
            assertEquals(10, arrived(first, second).size());
        }
    }

    @Test
    void aBatchFromDiskStandsTwice() throws Exception {
        Batch own = batch(1, 4, Map.of());
        String dead = UUID.randomUUID().toString();
        Batch left = new Batch(own.lines(), dead, 1, 4);
        for (int process = 0; process < 2; process++) {
            Backend backend = open();
            assertAccepted(backend.deliver(left, TIMEOUT));
            backend.close();
        }
        if (deduplicates()) {
            assertEquals(4, arrived(own).size());
        }
    }

    @Test
    void eventsOfDifferentHoursHinderEachOther() throws Exception {
        Batch now = batch(1, 2, Map.of());
        Batch late = batch(3, 2, Map.of("timestamp", "2026-01-31T23:30:00.5+05:30"));
        List<byte[]> lines = new ArrayList<>(now.lines());
        lines.addAll(late.lines());
        assertAccepted(open().deliver(new Batch(lines, now.emitterId(), 1, 4), TIMEOUT));
        assertEquals(4, arrived(now, late).size());
    }

    @Test
    void aLargeBatchIsCutOff() throws Exception {
        Batch batch = batch(1, 2000, Map.of("attributes", Map.of("text", "x".repeat(200))));
        assertAccepted(open().deliver(batch, TIMEOUT));
        assertEquals(2000, arrived(batch).size());
    }

    @Test
    void aReceiverThatIsDownLosesEventsOrThrows() throws Exception {
        Backend backend = open();
        takeDown();
        Batch batch = batch(1, 3, Map.of());
        Answer answer = backend.deliver(batch, Duration.ofSeconds(2));
        assertTrue(answer.outcome() == Outcome.RETRY || answer.outcome() == Outcome.KEEP, answer::toString);
        assertNotEquals("", answer.detail());
        bringUp();
        Eventually.eventually("the receiver to take events again",
                () -> backend.deliver(batch, TIMEOUT).outcome() == Outcome.ACCEPTED);
        assertTrue(ids(arrived(batch)).containsAll(ids(batch.events())));
    }

    @Test
    void closingTwiceOrUnusedDoesHarm() throws Exception {
        Backend unused = open();
        unused.interrupt();
        unused.close();
        unused.close();
        assertEquals(List.of(), readBack());
    }

    @Test
    void aThreadIsLeftBehind() throws Exception {
        Backend backend = open();
        assertAccepted(backend.deliver(batch(1, 1, Map.of()), TIMEOUT));
        backend.close();
        Eventually.eventually("the backend's threads to end", () -> Thread.getAllStackTraces().keySet().stream()
                .filter(thread -> !before.contains(thread))
                .noneMatch(thread -> thread.getName().contains("HttpClient") || thread.getName().contains("monitoring-sdk")));
    }

    /** A line of JSON as a map. */
    protected static Map<?, ?> event(byte[] line) throws IOException {
        return JsonReader.object(line);
    }
}
