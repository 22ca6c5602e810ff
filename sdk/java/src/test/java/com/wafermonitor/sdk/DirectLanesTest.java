package com.wafermonitor.sdk;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.tck.Eventually;
import com.wafermonitor.sdk.tck.ScriptedServer;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Direct mode with backends that don't keep pace with each other. */
@Timeout(value = 100, unit = TimeUnit.SECONDS)
class DirectLanesTest {
    private static final int TOO_LONG = 600;

    @TempDir
    Path temp;

    /** Accepts connections, reads requests, and never answers. */
    private final ScriptedServer mute = new ScriptedServer(request -> ScriptedServer.Answer.of(ScriptedServer.Twist.HANG));

    @AfterEach
    void end() {
        mute.close();
        Recorder.Provider.made.values().forEach(recorder -> recorder.released.countDown());
    }

    private Map<String, ?> hung(double timeout) {
        return Map.of(
                "type", "webhook", "priority", 1, "timeout", timeout, "config", Map.of("url", mute.url(), "allow_private", true));
    }

    private Map<String, ?> files(String delivery) {
        return Map.of(
                "type", "filesystem", "priority", 2, "delivery", delivery, "config", Map.of("path", temp.resolve("out").toString()));
    }

    private static Map<String, ?> recorder(String name, int priority, Map<String, ?> more) {
        Map<String, Object> config = new java.util.HashMap<>(more);
        config.put("name", name);
        return Map.of("type", "recorder", "name", name, "priority", priority, "timeout", 0.2, "config", config);
    }

    private Emitter start(Map<String, ?> queue, boolean spooling, Object... backends) {
        Config config = Config.app("etcher", "fab1")
                .with("mode", "direct")
                .with("sidecar.spool_dir", temp.resolve("spool").toString())
                .with("sidecar.enable_spooling", spooling)
                .with("sidecar.retries", 0)
                .with("queue.flush_interval", 0.05)
                .with("direct_backends", List.of(backends));
        for (Map.Entry<String, ?> setting : queue.entrySet()) {
            config = config.with("queue." + setting.getKey(), setting.getValue());
        }
        return Emitter.create(config, Map.of());
    }

    private static Set<String> emit(Emitter emitter, int count) {
        Set<String> ids = new TreeSet<>();
        for (int i = 0; i < count; i++) {
            ids.add(emitter.emitEvent(Map.of("kind", "log", "name", "etch-" + i)));
        }
        return ids;
    }

    /** The ids of the events in the files of a folder; a file may be renamed meanwhile, or end in half a line. */
    private static List<String> idsIn(Path folder) throws IOException {
        while (true) {
            try (Stream<Path> found = Files.isDirectory(folder) ? Files.walk(folder) : Stream.of()) {
                List<String> ids = new ArrayList<>();
                for (Path path : found.filter(each -> each.toString().contains(".jsonl")).toList()) {
                    String text = Files.readString(path);
                    for (String line : text.substring(0, text.lastIndexOf('\n') + 1).lines().toList()) {
                        ids.add((String) JsonReader.object(line.getBytes(StandardCharsets.UTF_8)).get("event_id"));
                    }
                }
                return ids;
            } catch (NoSuchFileException | java.io.UncheckedIOException renamed) {
                continue;
            }
        }
    }

    private List<String> spooled(String backend) throws IOException {
        try (Stream<Path> programs = Files.list(temp.resolve("spool/direct"))) {
            return idsIn(programs.findFirst().orElseThrow().resolve(backend));
        }
    }

    private void eventuallyWritten(Set<String> ids) throws Exception {
        Eventually.eventually("every event in the files", () -> ids.equals(new TreeSet<>(idsIn(temp.resolve("out")))));
    }

    @Test
    void aHungBackendCostsTheOthersItsTimeout() throws Exception {
        Set<String> ids;
        try (Emitter emitter = start(Map.of(), true, hung(TOO_LONG), files("always"))) {
            ids = emit(emitter, 1200);
            eventuallyWritten(ids);
            Eventually.eventually("the hung one's share in memory", () -> waiting(emitter, "webhook") == 1200);
            assertFalse(emitter.flush(Duration.ofMillis(50)).flushed(), "one backend still has to get them");
            assertEquals(1200, emitter.stats().queued());
            assertEquals(0, waiting(emitter, "filesystem"));
        }
        assertEquals(ids, new TreeSet<>(spooled("webhook")), "the rest waits on disk");
        assertEquals(List.of(), spooled("filesystem"));
    }

    private static long waiting(Emitter emitter, String backend) {
        return emitter.stats().backends().get(backend).waiting();
    }

    @Test
    void aHungBackendFillsTheMemoryOrIsGivenToItsStandIn() throws Exception {
        Set<String> ids = new TreeSet<>();
        try (Emitter emitter = start(Map.of("max_events", 200, "batch_size", 10), true, hung(TOO_LONG), recorder("stand-by", 3, Map.of()))) {
            for (int round = 0; round < 20; round++) {
                ids.addAll(emit(emitter, 100));
                Eventually.eventually("the other to have all", () -> Recorder.Provider.made.get("stand-by").events.size() == ids.size());
                assertTrue(waiting(emitter, "webhook") <= 220, "bounded: " + emitter.stats());
            }
            assertTrue(emitter.stats().backends().get("webhook").spooled() >= 1700, emitter.stats().toString());
        }
        assertEquals(ids, new TreeSet<>(spooled("webhook")));
    }

    @Test
    void whatIsOnDiskOnlyBecauseABackendIsSlowGoesToItsFallbackToo() throws Exception {
        try (Emitter emitter = start(Map.of("max_events", 100, "batch_size", 10), true, hung(TOO_LONG), files("fallback"))) {
            emit(emitter, 90);
            emit(emitter, 90);
            Eventually.eventually("some on disk", () -> emitter.stats().backends().get("webhook").spooled() > 0);
            assertEquals(0, emitter.stats().backends().get("filesystem").sent());
        }
        assertEquals(180, new TreeSet<>(spooled("webhook")).size());
        assertEquals(List.of(), idsIn(temp.resolve("out")));
    }

    @Test
    void aFallbackNeverGetsWhatAHungBackendTakesNoMore() throws Exception {
        try (Emitter emitter = start(Map.of(), true, hung(0.2), files("fallback"))) {
            Set<String> ids = emit(emitter, 30);
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
            assertEquals(ids, new TreeSet<>(idsIn(temp.resolve("out"))));
            assertEquals(30, emitter.stats().backends().get("webhook").spooled());
            assertTrue(emitter.stats().backends().get("webhook").lastError().contains("did not answer in time"));
            assertEquals(30, emitter.stats().spooled(), "each counts where it fared worst");
        }
    }

    @Test
    void withoutSpoolingAFallbackGetsTheFirstBatchOnly() throws Exception {
        try (Emitter emitter = start(Map.of("batch_size", 10), false, hung(0.2), files("fallback"))) {
            Set<String> ids = emit(emitter, 50);
            eventuallyWritten(ids);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"drop_oldest", "block"})
    void aHungBackendLosesEventsOfItsNeighbours(String onFull) throws Exception {
        Set<String> ids = new TreeSet<>();
        double timeout = onFull.equals("block") ? 0.5 : TOO_LONG;
        Map<String, ?> queue = Map.of("max_events", 100, "batch_size", 10, "on_full", onFull);
        try (Emitter emitter = start(queue, true, hung(timeout), files("always"))) {
            for (int round = 0; round < 6; round++) {
                ids.addAll(emit(emitter, 90));
                eventuallyHas(ids);
            }
            if (onFull.equals("drop_oldest")) {
                Stats stats = emitter.stats();
                assertTrue(stats.backends().get("webhook").dropped() >= 400, stats.toString());
                assertEquals(Set.of("queue_full"), stats.droppedByReason().keySet());
            }
        }
        if (onFull.equals("block")) {
            assertTrue(new TreeSet<>(spooled("webhook")).containsAll(ids), "what waits must not be dropped");
        }
    }

    private void eventuallyHas(Set<String> ids) throws Exception {
        Eventually.eventually("every event in the files", () -> idsIn(temp.resolve("out")).containsAll(ids));
    }

    @Test
    void aCallThatNeverReturnsKeepsFlushWaitingOrTheEventsInMemory() throws Exception {
        Set<String> ids;
        try (Emitter emitter = start(Map.of("batch_size", 10), true, recorder("never", 1, Map.of("hangs", true)), files("always"))) {
            ids = emit(emitter, 25);
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed(), "what it holds goes to disk");
            ids.addAll(emit(emitter, 5));
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed(), "and what comes after it");
            assertEquals(ids, new TreeSet<>(spooled("never")));
            assertTrue(emitter.stats().backends().get("never").lastError().contains("hangs"));
            assertEquals(30, emitter.stats().spooled());
            assertEquals(ids, new TreeSet<>(idsIn(temp.resolve("out"))));
            Recorder.Provider.made.get("never").released.countDown();
            Eventually.eventually("the replay", () -> {
                List<String> got = new ArrayList<>();
                Recorder.Provider.made.get("never").events.forEach(event -> got.add((String) event.get("event_id")));
                return got.containsAll(ids);
            });
        }
    }

    @Test
    void anEventThatABackendRefusesIsKeptNowhere() throws Exception {
        Set<String> ids;
        try (Emitter emitter = start(Map.of(), true, recorder("picky", 1, Map.of("refuses", "etch-3")), files("always"))) {
            ids = emit(emitter, 10);
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
            Stats.BackendStats counts = emitter.stats().backends().get("picky");
            assertEquals(List.of(9L, 1L, 0L), List.of(counts.sent(), counts.failed(), counts.rejected()));
            assertEquals(1, emitter.stats().failed());
        }
        try (Stream<Path> found = Files.walk(temp.resolve("spool"))) {
            Path refused = found.filter(each -> each.toString().endsWith(".jsonl.refused")).findFirst().orElseThrow();
            Map<?, ?> letter = JsonReader.object(Files.readString(refused).strip().getBytes(StandardCharsets.UTF_8));
            assertEquals("not in this house", letter.get("reason"));
            assertEquals("picky", letter.get("backend"));
            Map<?, ?> event = JsonReader.object(((String) letter.get("event")).getBytes(StandardCharsets.UTF_8));
            assertEquals("etch-3", event.get("name"));
            assertEquals(event.get("event_id"), letter.get("event_id"));
            assertTrue(ids.contains(letter.get("event_id")));
        }
    }

    /** What is kept aside for good, whichever backend refused it. */
    private List<Map<?, ?>> letters() throws IOException {
        List<Map<?, ?>> letters = new ArrayList<>();
        try (Stream<Path> found = Files.walk(temp.resolve("spool"))) {
            for (Path refused : found.filter(each -> each.toString().endsWith(".jsonl.refused")).toList()) {
                for (String line : Files.readAllLines(refused)) {
                    letters.add(JsonReader.object(line.getBytes(StandardCharsets.UTF_8)));
                }
            }
        }
        return letters;
    }

    @Test
    void aBatchThatABackendRefusesAsAWholeIsKeptWithoutTheReasonOrInAnotherForm() throws Exception {
        Set<String> ids;
        try (ScriptedServer strict = new ScriptedServer(request -> ScriptedServer.Answer.of(400, "not in this house"));
                Emitter emitter = start(
                        Map.of(),
                        true,
                        Map.of("type", "sidecar", "config", Map.of("url", strict.url())),
                        files("always"))) {
            ids = emit(emitter, 10);
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
            assertEquals(10, emitter.stats().backends().get("sidecar").failed());
            assertEquals(ids, new TreeSet<>(idsIn(temp.resolve("out"))));
        }
        Set<Object> kept = new TreeSet<>();
        for (Map<?, ?> letter : letters()) {
            assertEquals(List.of("dead_at", "backend", "seq", "event_id", "reason", "event"), List.copyOf(letter.keySet()));
            assertEquals("sidecar", letter.get("backend"));
            assertTrue(((String) letter.get("reason")).contains("400"), letter.toString());
            Map<?, ?> event = JsonReader.object(((String) letter.get("event")).getBytes(StandardCharsets.UTF_8));
            assertEquals(event.get("event_id"), letter.get("event_id"));
            assertEquals(((Map<?, ?>) event.get("emitter")).get("seq"), letter.get("seq"));
            kept.add(letter.get("event_id"));
        }
        assertEquals(ids, kept);
    }

    @Test
    void aDamagedLineOnDiskIsDeliveredOrHoldsUpWhatWaitsBehindIt() throws Exception {
        try (Emitter emitter = start(Map.of(), true, hung(0.05), files("always"))) { // only to know the folder
            emit(emitter, 1);
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
        }
        Path program;
        try (Stream<Path> programs = Files.list(temp.resolve("spool/direct"))) {
            program = programs.findFirst().orElseThrow();
        }
        String file = "01890a5d-ac96-774b-8cce-000000000001.7.%020d.jsonl";
        String event = "{\"event_id\":\"e%1$d\",\"timestamp\":\"2026-07-01T12:00:00Z\",\"name\":\"x\",\"emitter\":{\"seq\":%1$d}}\n";
        for (String backend : List.of("filesystem", "keeper")) {
            Path folder = Files.createDirectories(program.resolve(backend));
            Files.writeString(folder.resolve(String.format(file, 1)), String.format(event, 1) + "\0 garbage\n[1]\n" + String.format(event, 4));
            Files.writeString(folder.resolve(String.format(file, 5)), "\0\0\0\n");
            Files.writeString(folder.resolve(String.format(file, 6)), String.format(event, 6));
        }
        try (Emitter emitter = start(Map.of(), true, recorder("keeper", 1, Map.of()), files("always"))) {
            for (String backend : List.of("filesystem", "keeper")) {
                Eventually.eventually("all of it to be done by " + backend, () -> {
                    Stats.BackendStats counts = emitter.stats().backends().get(backend);
                    return counts.replayed() == 3 && counts.failed() == 3;
                });
            }
            assertEquals(6, emitter.stats().failed());
        }
        assertTrue(idsIn(temp.resolve("out")).containsAll(List.of("e1", "e4", "e6")));
        assertFalse(Files.exists(temp.resolve("out/date=unknown")), "damage in the files of a site");
        assertEquals(3, Recorder.Provider.made.get("keeper").events.size());
        List<Object> kept = letters().stream().<Object>map(letter -> letter.get("event")).sorted().toList();
        assertEquals(List.of("[1]", "[1]", "\ufffd garbage", "\ufffd garbage", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd"), kept);
        assertTrue(letters().stream().allMatch(letter -> "the spool file is damaged here".equals(letter.get("reason"))));
    }

    @Test
    void whatADeadProcessLeftGrowingWaitsForABatch() throws Exception {
        String dead = "01890a5d-ac96-774b-8cce-0000000007d1";
        Path hour = Files.createDirectories(temp.resolve("out/date=2026-07-01/hour=09"));
        Files.writeString(hour.resolve(dead + "-00000000000000000007.jsonl.open"), "{\"event_id\":\"e7\",\"emitter\":{\"seq\":7}}\n");
        Files.createFile(Files.createDirectories(temp.resolve("out/.state")).resolve(dead + ".owner"));
        Path whole = hour.resolve(dead + "-00000000000000000007-00000000000000000007.jsonl");
        try (Emitter emitter = start(Map.of(), true, files("always"))) {
            Eventually.eventually("its final name", () -> Files.exists(whole));
            assertEquals(0, emitter.stats().emitted());
        }
    }

    @Test
    void aThreadThatIsInterruptedLeavesLanesBehindWhenItCloses() throws Exception {
        Set<Thread> before = Thread.getAllStackTraces().keySet();
        Emitter emitter = start(Map.of(), true, hung(TOO_LONG), recorder("there", 3, Map.of()), files("always"));
        Set<String> ids = emit(emitter, 10);
        Thread.currentThread().interrupt();
        emitter.close();
        assertTrue(Thread.interrupted(), "whoever interrupted it is still heard");
        Eventually.eventually("the threads to end", () -> Thread.getAllStackTraces().keySet().stream()
                .allMatch(thread -> before.contains(thread) || !thread.getName().startsWith("monitoring-sdk")));
        assertEquals(ids, new TreeSet<>(spooled("webhook")));
        assertEquals(ids, new TreeSet<>(idsIn(temp.resolve("out"))));
    }

    @Test
    void aLaneLeavesItsThreadBehind() throws Exception {
        Set<Thread> before = Thread.getAllStackTraces().keySet();
        try (Emitter emitter = start(Map.of(), true, hung(TOO_LONG), recorder("there", 3, Map.of()), files("always"))) {
            emit(emitter, 10);
            Eventually.eventually("a call under way", () -> mute.requests().size() == 1);
        }
        Eventually.eventually("the threads to end", () -> Thread.getAllStackTraces().keySet().stream()
                .allMatch(thread -> before.contains(thread) || !thread.getName().startsWith("monitoring-sdk")));
    }

    @Test
    void backendsThatFailNowAndThenLoseAnEventOrCountItTwice() throws Exception {
        Set<String> ids = new TreeSet<>();
        try (Emitter emitter = start(
                Map.of("batch_size", 7), true, recorder("often", 1, Map.of("fails", 2)), recorder("once", 2, Map.of("fails", 1)), files("always"))) {
            for (int round = 0; round < 10; round++) {
                ids.addAll(emit(emitter, 50));
                assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
            }
            Stats stats = emitter.stats();
            assertEquals(500, stats.emitted());
            assertEquals(500, stats.sent() + stats.spooled());
            stats.backends().forEach((name, counts) -> assertEquals(500, counts.sent() + counts.spooled(), name));
            for (String name : List.of("often", "once")) {
                Eventually.eventually("the replay of " + name, () -> {
                    Set<Object> got = new TreeSet<>();
                    Recorder.Provider.made.get(name).events.forEach(event -> got.add(event.get("event_id")));
                    return got.equals(ids);
                });
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"spool", "block"})
    void manyThreadsAndBackendsThatFailNowAndThenLoseAnEvent(String onFull) throws Exception {
        Set<String> ids = new java.util.concurrent.ConcurrentSkipListSet<>();
        int maxEvents = onFull.equals("block") ? 300 : 4001; // no thread waits for longer than a second for a disk that is slow
        Map<String, ?> queue = Map.of("max_events", maxEvents, "batch_size", 20, "on_full", onFull);
        Stats stats;
        try (Emitter emitter = start(
                queue, true, recorder("third", 1, Map.of("flaky", 3)), recorder("tenth", 2, Map.of("flaky", 10)), files("always"))) {
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 8; i++) {
                threads.add(new Thread(() -> ids.addAll(emit(emitter, 500))));
            }
            threads.forEach(Thread::start);
            for (Thread thread : threads) {
                thread.join();
            }
            assertTrue(emitter.flush(Duration.ofSeconds(60)).flushed());
            stats = emitter.stats();
        }
        assertEquals(4000, ids.size());
        assertEquals(0, stats.dropped(), stats.toString());
        assertEquals(4000, stats.sent() + stats.spooled());
        stats.backends().forEach((name, counts) -> assertEquals(4000, counts.sent() + counts.spooled(), name));
        for (String name : List.of("third", "tenth")) {
            Set<Object> there = new TreeSet<>(spooled(name));
            Recorder.Provider.made.get(name).events.forEach(event -> there.add(event.get("event_id")));
            assertEquals(ids, there, name);
        }
        Set<String> written = new TreeSet<>(spooled("filesystem"));
        written.addAll(idsIn(temp.resolve("out")));
        assertEquals(ids, written);
    }
}
