package com.wafermonitor.sdk;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.tck.Eventually;
import com.wafermonitor.sdk.tck.ScriptedServer;
import com.wafermonitor.sdk.tck.ScriptedServer.Answer;
import com.wafermonitor.sdk.tck.ScriptedServer.Twist;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.TraceFlags;
import io.opentelemetry.api.trace.TraceState;
import io.opentelemetry.context.Scope;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

@SuppressWarnings("try") // closing twice is what is tested
class MonitoringTest {
    private static final Path VECTORS = Path.of(System.getProperty("trackmate.vectors", "../../contract/vectors"));

    @TempDir
    Path temp;

    private final ScriptedServer server = new ScriptedServer();
    private Emitter emitter;

    private Config config() {
        return Config.app("etcher", "fab1")
                .with("sidecar.url", server.url())
                .with("sidecar.spool_dir", temp.resolve("spool").toString())
                .with("queue.flush_interval", 0.05);
    }

    private Emitter start(Config config) {
        emitter = Emitter.create(config, Map.of());
        return emitter;
    }

    @BeforeEach
    void start() {
        start(config());
    }

    @AfterEach
    void end() {
        emitter.close();
        server.close();
    }

    private Map<?, ?> arrived(String eventId) throws Exception {
        Eventually.eventually("the event " + eventId, () -> find(eventId) != null);
        return find(eventId);
    }

    private Map<?, ?> find(String eventId) {
        return server.accepted().stream().filter(event -> eventId.equals(event.get("event_id"))).findFirst().orElse(null);
    }

    private List<Map<?, ?>> all(String name) {
        assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
        return server.accepted().stream().filter(event -> name.equals(event.get("name"))).toList();
    }

    // --------------------------------------------------------------------------------------------------------------- events

    static Stream<Map<?, ?>> valid() throws IOException {
        return vectors("valid.jsonl").filter(vector -> !((Map<?, ?>) vector.get("event")).containsKey("emitter"));
    }

    static Stream<Map<?, ?>> invalid() throws IOException {
        return vectors("invalid.jsonl").filter(vector -> {
            String error = (String) vector.get("error");
            String path = (String) vector.get("path");
            boolean filled = error.equals("required field is missing")
                    && Set.of("event_id", "timestamp", "site_id", "app").contains(path);
            boolean mended = error.contains("U+0000") || error.contains("of UTF-8");
            return vector.get("event") instanceof Map && !filled && !mended && !path.contains("emitter");
        });
    }

    private static Stream<Map<?, ?>> vectors(String name) throws IOException {
        List<Map<?, ?>> vectors = new ArrayList<>();
        for (String line : Files.readAllLines(VECTORS.resolve(name))) {
            vectors.add(JsonReader.object(line.getBytes(java.nio.charset.StandardCharsets.UTF_8)));
        }
        return vectors.stream();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> fields(Object map) {
        return (Map<String, Object>) map;
    }

    @ParameterizedTest
    @MethodSource("valid")
    void aValidVectorIsRefusedOrChanged(Map<?, ?> vector) throws Exception {
        Map<String, Object> expected = fields(vector.get("event"));
        for (String id : List.of(emitter.emitEvent(expected), emitter.emitEvent(Event.of(expected)))) {
            Map<String, Object> arrived = new HashMap<>(fields(arrived(id)));
            arrived.remove("emitter");
            assertEquals(new HashMap<>(expected), arrived);
        }
    }

    @ParameterizedTest
    @MethodSource("invalid")
    void anInvalidVectorIsTakenOrBlamedOnAnotherPlace(Map<?, ?> vector) {
        InvalidEventException error =
                assertThrows(InvalidEventException.class, () -> emitter.emitEvent(fields(vector.get("event"))));
        assertEquals(vector.get("path") + ": " + vector.get("error"), error.path() + ": " + error.error());
        assertEquals(0, emitter.stats().emitted());
    }

    @Test
    void theSdkLeavesOutWhatTheContractRequires() throws Exception {
        Map<?, ?> event = arrived(emitter.emitEvent(Map.of("kind", "log", "name", "a")));
        assertEquals(
                Set.of("event_id", "timestamp", "emitter", "site_id", "app", "kind", "name"), new HashSet<>(event.keySet()));
        assertEquals(Map.of("id", emitter.id(), "seq", 1), event.get("emitter"));
        Instant moment = Instant.parse((String) event.get("timestamp"));
        assertTrue(Duration.between(moment, Instant.now()).abs().toSeconds() < 60);
    }

    @Test
    void whatTheCallerChangesAfterwardsChangesTheEvent() throws Exception {
        Map<String, Object> metrics = new HashMap<>(Map.of("t", 1));
        Map<String, Object> attributes = new HashMap<>(Map.of("a", 1));
        List<Object> deep = new ArrayList<>(List.of(1));
        Map<String, Object> event = new HashMap<>(Map.of("kind", "metric", "name", "a", "metrics", metrics, "attributes", attributes));
        String plain = emitter.emitEvent(event);
        attributes.put("deep", deep);
        String nested = emitter.emitEvent(event);
        Event built = Event.of(event);
        event.put("name", "changed");
        metrics.put("t", 2);
        attributes.clear();
        deep.clear();
        for (String id : List.of(plain, nested, emitter.emitEvent(built))) {
            assertEquals("a", arrived(id).get("name"));
            assertEquals(Map.of("t", 1), arrived(id).get("metrics"));
        }
        assertEquals(Map.of("a", 1, "deep", List.of(1)), arrived(nested).get("attributes"));
    }

    @Test
    void whatMayBeMendedIsRefused() throws Exception {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("kind", "metric");
        event.put("name", "a");
        event.put("metrics", Map.of("nan", Double.NaN, "inf", Float.POSITIVE_INFINITY, "ok", 1));
        event.put("message", "ü".repeat(5000));
        event.put("attributes", Map.of("nan", Double.NaN));
        event.put("entities", Map.of("lot", "a\ud800b\0c"));
        Map<?, ?> arrived = arrived(emitter.emitEvent(event));
        assertEquals(Map.of("ok", 1), arrived.get("metrics"));
        assertEquals("ü".repeat(4096), arrived.get("message"));
        Map<String, Object> attributes = fields(arrived.get("attributes"));
        assertEquals(Set.of("nan", "inf"), new HashSet<>((List<?>) attributes.get("dropped_metrics")));
        assertEquals(true, attributes.get("truncated"));
        assertNull(attributes.get("nan"));
        assertEquals(Map.of("lot", "a\ufffdb\ufffdc"), arrived.get("entities"));
    }

    @Test
    void aBatchIsTakenInPart() {
        InvalidEventException error = assertThrows(InvalidEventException.class, () -> emitter.emitBatch(List.of(
                Map.of("kind", "log", "name", "a"), Map.of("kind", "log", "name", "b", "metrics", Map.of("t", "hot")))));
        assertEquals("[1].metrics.t", error.path());
        assertEquals(0, emitter.stats().emitted());
        assertEquals(2, emitter.emitBatch(Collections.nCopies(2, Map.of("kind", "log", "name", "a"))).size());
    }

    @Test
    void anEventThatIsTooLargeIsTaken() {
        Map<String, ?> event = Map.of("kind", "log", "name", "a", "attributes", Map.of("x", "y".repeat(256 * 1024)));
        assertEquals("", assertThrows(InvalidEventException.class, () -> emitter.emitEvent(event)).path());
    }

    @Test
    void theActiveSpanIsNotSeen() throws Exception {
        SpanContext span = SpanContext.create(
                "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", TraceFlags.getSampled(), TraceState.getDefault());
        String plain;
        String nested;
        try (Scope scope = Span.wrap(span).makeCurrent()) {
            assertNotNull(scope);
            plain = emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            nested = emitter.emitEvent(Map.of("kind", "log", "name", "a", "attributes", Map.of("deep", List.of(1))));
        }
        for (String id : List.of(plain, nested)) {
            assertEquals(span.getTraceId(), arrived(id).get("trace_id"));
            assertEquals(span.getSpanId(), arrived(id).get("span_id"));
        }
        assertNull(arrived(emitter.emitEvent(Map.of("kind", "log", "name", "a"))).get("trace_id"));
    }

    @Test
    void idsOfManyThreadsRepeatOrNumbersHaveGaps() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        try {
            for (int i = 0; i < 8; i++) {
                pool.submit(() -> {
                    for (int n = 0; n < 500; n++) {
                        emitter.emitEvent(Map.of("kind", "log", "name", "many"));
                    }
                });
            }
        } finally {
            pool.shutdown();
            assertTrue(pool.awaitTermination(60, java.util.concurrent.TimeUnit.SECONDS));
        }
        List<Map<?, ?>> events = all("many");
        assertEquals(4000, events.stream().map(event -> event.get("event_id")).distinct().count());
        List<Object> numbers = events.stream().map(event -> fields(event.get("emitter")).get("seq")).toList();
        assertEquals(java.util.stream.IntStream.rangeClosed(1, 4000).boxed().toList(), numbers);
        List<String> ids = events.stream().map(event -> (String) event.get("event_id")).toList();
        assertEquals(ids.stream().sorted().toList(), ids);
    }

    // ------------------------------------------------------------------------------------------------------------- contexts

    @Test
    void aRunEndsWithoutItsStory() {
        String runId;
        try (Context run = emitter.monitoredContext("etch", Map.of("lot", "L1", "wafer", 7, "note", "hot"))) {
            runId = run.runId();
            run.metric("temperature", 21.5);
            run.progress(0.5, "half");
            run.set("scrapped", 2);
            try (Context inner = emitter.monitoredContext("step", Map.of("entities", Map.of("robot", "R2")));
                    Context bound = inner.bind(Map.of("slot", 3))) {
                assertSame(bound, Monitoring.currentContext());
                emitter.emitEvent(Map.of("kind", "log", "name", "inside", "entities", Map.of("lot", "own")));
            }
            assertSame(run, Monitoring.currentContext());
        }
        assertNull(Monitoring.currentContext());
        List<Map<?, ?>> etch = all("etch");
        assertEquals(List.of("start", "progress", "finish"), etch.stream().map(event -> event.get("kind")).toList());
        etch.forEach(event -> assertEquals(runId, event.get("run_id")));
        etch.forEach(event -> assertEquals(Map.of("lot", "L1", "wafer", "7"), event.get("entities")));
        assertEquals(Map.of("note", "hot"), etch.get(0).get("attributes"));
        assertEquals(Map.of("note", "hot", "scrapped", 2), etch.get(2).get("attributes"));
        assertEquals("ok", etch.get(2).get("status"));
        assertTrue(((Number) etch.get(2).get("duration_ms")).doubleValue() >= 0);
        Map<?, ?> inside = all("inside").get(0);
        assertEquals(runId, inside.get("parent_run_id"));
        assertEquals(Map.of("lot", "own", "wafer", "7", "robot", "R2", "slot", "3"), inside.get("entities"));
        assertEquals(runId, all("step").get(0).get("parent_run_id"));
    }

    @Test
    void anExceptionIsHiddenOrForgotten() {
        Monitoring.initialize(config().with("app.instance_id", "x"));
        try {
            IOException thrown = new IOException("pump tripped");
            assertSame(thrown, assertThrows(IOException.class, () -> Monitoring.monitoredContext("etch", Map.of(), run -> {
                throw thrown;
            })));
            assertEquals(5, Monitoring.<Integer, RuntimeException>monitoredCall("sum", Map.of(), run -> 5));
            assertThrows(InterruptedException.class, () -> Monitoring.monitoredContext("wait", Map.of(), run -> {
                throw new InterruptedException();
            }));
            assertTrue(Monitoring.flush(Duration.ofSeconds(30)).flushed());
        } finally {
            Monitoring.close();
        }
        Map<?, ?> failed = all("etch").get(1);
        assertEquals("error", failed.get("kind"));
        assertEquals("failed", failed.get("status"));
        Map<String, Object> error = fields(failed.get("error"));
        assertEquals("java.io.IOException", error.get("type"));
        assertEquals("pump tripped", error.get("message"));
        assertTrue(((String) error.get("stack")).contains("MonitoringTest"));
        assertEquals("ok", all("sum").get(1).get("status"));
        assertEquals("aborted", all("wait").get(1).get("status"));
        assertEquals("finish", all("wait").get(1).get("kind"));
    }

    @Test
    void failIsForgottenAtTheEndOfTryWithResources() {
        try (Context run = emitter.monitoredContext("etch", Map.of())) {
            run.fail(new Broken());
        }
        try (Context run = emitter.monitoredContext("given up", Map.of())) {
            run.abort("no more wafers");
            run.close();
        }
        assertEquals("failed", all("etch").get(1).get("status"));
        assertTrue(((String) fields(all("etch").get(1).get("error")).get("message")).startsWith("(its text can't be had"));
        assertEquals(2, all("given up").size());
        assertEquals("aborted", all("given up").get(1).get("status"));
    }

    private static final class Broken extends RuntimeException {
        private static final long serialVersionUID = 1L;

        @Override
        public String getMessage() {
            throw new IllegalStateException("even this fails");
        }
    }

    @Test
    void aRunFollowsIntoAThreadThatNobodyCarriedItTo() throws Exception {
        ExecutorService pool = Executors.newSingleThreadExecutor();
        try (Context run = emitter.monitoredContext("etch", Map.of())) {
            String alone = pool.submit(() -> emitter.emitEvent(Map.of("kind", "log", "name", "a"))).get();
            String carried =
                    pool.submit(Monitoring.carry(() -> emitter.emitEvent(Map.of("kind", "log", "name", "a")))).get();
            Context[] seen = new Context[1];
            pool.submit(Monitoring.carry((Runnable) () -> seen[0] = Monitoring.currentContext())).get();
            assertSame(run, seen[0]);
            assertNull(pool.submit(Monitoring::currentContext).get());
            assertNull(arrived(alone).get("run_id"));
            assertEquals(run.runId(), arrived(carried).get("run_id"));
        } finally {
            pool.shutdownNow();
        }
    }

    @Test
    void metadataOfTheWrongKindIsTaken() {
        assertEquals("entities.lot", assertThrows(
                InvalidEventException.class, () -> emitter.monitoredContext("a", Map.of("lot", 1.5))).path());
        assertEquals("metadata.entities", assertThrows(
                InvalidEventException.class, () -> emitter.monitoredContext("a", Map.of("entities", 1))).path());
        assertNull(Monitoring.currentContext());
    }

    // ------------------------------------------------------------------------------------------------------------- delivery

    @Test
    void aRetryChangesTheEvents() {
        emitter.close();
        server.then(Answer.of(503, "", "Retry-After", "0"), Answer.of(429, ""), Answer.of(Twist.LOSE));
        start(config().with("queue.flush_interval", 60));
        emitter.emitBatch(Collections.nCopies(3, Map.of("kind", "log", "name", "again")));
        all("again");
        assertEquals(4, server.requests().size());
        assertEquals(1, server.requests().stream().map(request -> new String(request.body(), java.nio.charset.StandardCharsets.UTF_8)).distinct().count());
        assertEquals(3, emitter.stats().sent());
    }

    @ParameterizedTest
    @ValueSource(ints = {401, 403, 404})
    void aWrongTokenLosesEvents(int status) throws Exception {
        server.then(Answer.of(status, "{}"));
        emitter.emitEvent(Map.of("kind", "log", "name", "kept"));
        Eventually.eventually("the event to arrive from the spool", () -> !all("kept").isEmpty());
        Eventually.eventually("its count", () -> emitter.stats().replayed() == 1);
        assertEquals(1, emitter.stats().spooled());
    }

    @Test
    void aBatchThatIsTooLargeIsLost() {
        emitter.close();
        server.then(Answer.of(413, "{}"), Answer.of(413, "{}"));
        start(config().with("queue.flush_interval", 60));
        emitter.emitBatch(Collections.nCopies(8, Map.of("kind", "log", "name", "large")));
        assertEquals(8, all("large").size());
        assertEquals(List.of(8, 4, 2, 2, 4), server.requests().stream().map(request -> request.events().size()).toList());
    }

    @Test
    void aRefusedBatchIsSentForEverOrForgotten() throws Exception {
        server.then(Answer.of(400, "{}"));
        emitter.emitEvent(Map.of("kind", "log", "name", "refused"));
        Eventually.eventually("the refusal", () -> emitter.stats().failed() == 1);
        try (Stream<Path> files = Files.list(temp.resolve("spool"))) {
            assertEquals(1, files.filter(file -> file.toString().endsWith(".jsonl.refused")).count());
        }
        emitter.emitEvent(Map.of("kind", "log", "name", "next"));
        assertEquals(1, all("next").size());
        assertEquals(0, all("refused").size());
    }

    @Test
    void theNextProcessLeavesWhatTheLastCouldNotSend() throws Exception {
        server.stop();
        String id = emitter.emitEvent(Map.of("kind", "log", "name", "left"));
        emitter.close();
        assertEquals(1, emitter.stats().spooled());
        try (Stream<Path> files = Files.list(temp.resolve("spool"))) {
            String name = emitter.id() + "." + ProcessHandle.current().pid() + ".00000000000000000001.jsonl";
            assertEquals(List.of(name), files.map(file -> file.getFileName().toString()).toList());
        }
        server.start();
        start(config());
        arrived(id);
        Eventually.eventually("an empty folder", () -> {
            try (Stream<Path> files = Files.list(temp.resolve("spool"))) {
                return files.noneMatch(file -> file.toString().contains(".jsonl"));
            }
        });
    }

    @Test
    void aLivingOwnersFileIsTaken() throws Exception {
        Path spool = Files.createDirectories(temp.resolve("spool"));
        String owner = "01890a5d-ac96-774b-8cce-0000000007d1.1";
        Path lock = Files.createFile(spool.resolve(owner + ".lock"));
        Process holder = new ProcessBuilder("/bin/sh", "-c", "exec 9<\"$0\"; flock -x 9; echo held; read x", lock.toString()).start();
        try {
            assertEquals('h', holder.getInputStream().read());
            Path file = spool.resolve(owner + ".00000000000000000001.jsonl");
            Files.writeString(file, "{\"event_id\":\"theirs\",\"kind\":\"log\",\"name\":\"theirs\"}\n");
            emitter.close();
            start(config());
            emitter.emitEvent(Map.of("kind", "log", "name", "mine"));
            all("mine");
            assertTrue(Files.exists(file));
            holder.getOutputStream().close();
            holder.waitFor();
            emitter.close();
            start(config());
            arrived("theirs");
        } finally {
            holder.destroyForcibly();
        }
    }

    @Test
    void closeTakesAsLongAsAHungSidecarWants() throws Exception {
        server.then(Answer.of(Twist.HANG));
        emitter.emitEvent(Map.of("kind", "log", "name", "hung"));
        Eventually.eventually("the request", () -> !server.requests().isEmpty());
        long started = System.nanoTime();
        emitter.close();
        assertTrue(Duration.ofNanos(System.nanoTime() - started).toSeconds() < 20); // not the 30 of a request with its retries
        assertEquals(1, emitter.stats().spooled());
        assertEquals(0, emitter.stats().queued());
    }

    @Test
    void aFullQueueLosesEventsInSilence() {
        emitter.close();
        server.stop();
        start(config().with("queue.max_events", 10).with("queue.on_full", "drop_oldest").with("queue.flush_interval", 3600));
        for (int i = 0; i < 100; i++) {
            emitter.emitEvent(Map.of("kind", "log", "name", "full"));
        }
        emitter.close();
        Stats stats = emitter.stats();
        assertTrue(stats.dropped() > 0);
        assertEquals(Map.of("queue_full", stats.dropped()), stats.droppedByReason());
        assertEquals(stats.emitted(), stats.sent() + stats.spooled() + stats.dropped());
        server.start();
        start(config());
        assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
    }

    @Test
    void aThreadOrASocketIsLeftBehind() throws Exception {
        emitter.close();
        Set<Thread> before = Thread.getAllStackTraces().keySet();
        for (int i = 0; i < 5; i++) {
            start(config());
            emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
            emitter.close();
        }
        Eventually.eventually("the threads to end", () -> Thread.getAllStackTraces().keySet().stream()
                .allMatch(thread -> before.contains(thread) || thread.getName().equals("scripted-server")));
    }

    // -------------------------------------------------------------------------------------------------------------- misuse

    @Test
    void misuseGoesUnnoticed() {
        emitter.close();
        emitter.close();
        assertThrows(NotInitializedException.class, () -> emitter.emitEvent(Map.of("kind", "log", "name", "a")));
        assertThrows(NotInitializedException.class, () -> emitter.flush(Duration.ZERO));
        assertThrows(NotInitializedException.class, () -> Monitoring.emitEvent(Map.of("kind", "log", "name", "a")));
        assertThrows(InvalidEventException.class, () -> start(config()).emitEvent((Map<String, ?>) null));
        assertFalse(Monitoring.stats().emitted() < 0);
    }

    @Test
    void mistakesInTheConfigurationComeOneByOne() {
        Config wrong = Config.of(Map.of("sdk", Map.of(
                        "sidecar", Map.of("timeout", "fast", "token", "tm_${NO_SUCH_VARIABLE}", "retires", 3),
                        "app", Map.of("site_id", "fab1"))))
                .with("queue.batch_size", 0);
        ConfigurationException error = assertThrows(ConfigurationException.class, () -> Emitter.create(wrong, Map.of()));
        assertEquals(
                List.of(
                        "sdk.app.name: required but missing",
                        "sdk.queue.batch_size: expected at least 1, got 0",
                        "sdk.sidecar.retires: unknown key; did you mean retries?",
                        "sdk.sidecar.timeout: expected number, got \"fast\"",
                        "sdk.sidecar.token: environment variable NO_SUCH_VARIABLE is not set and has no default"
                                + " (write ${NO_SUCH_VARIABLE:-default})"),
                error.problems().stream().map(Problem::toString).toList());
    }

    @Test
    void theOrderOfSourcesIsAnother() throws IOException {
        Path file = temp.resolve("c.yaml");
        Files.writeString(file, "sdk:\n  sidecar: {url: ${URL}, spool_dir: ./spool, retries: 1}\n  queue: {batch_size: 7}\n"
                + "  app: {name: file, site_id: s, version: 1.5}\n");
        Map<String, String> environment = Map.of(
                "URL", "http://a:1", "MONITORING_SDK__SIDECAR__RETRIES", "2", "MONITORING_SDK__QUEUE__BATCH_SIZE", "8");
        var settings = Config.fromFile(file).with("queue.batch_size", 9).load(environment);
        assertEquals("http://a:1", settings.sidecar().url());
        assertEquals(2, settings.sidecar().retries());
        assertEquals(9, settings.queue().batchSize());
        assertEquals("1.5", settings.app().version());
        assertEquals(temp.resolve("spool"), settings.sidecar().spoolDir().normalize());
    }
}
