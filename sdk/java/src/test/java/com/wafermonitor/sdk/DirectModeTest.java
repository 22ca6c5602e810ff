package com.wafermonitor.sdk;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.tck.Eventually;
import com.wafermonitor.sdk.tck.ScriptedServer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DirectModeTest {
    @TempDir
    Path temp;

    private final ScriptedServer server = new ScriptedServer();

    @AfterEach
    void end() {
        server.close();
    }

    private Map<String, ?> webhook(Map<String, ?> more) {
        Map<String, Object> backend = new java.util.LinkedHashMap<>(Map.of("type", "webhook", "priority", 1));
        backend.put("config", Map.of("url", server.url(), "allow_private", true));
        backend.putAll(more);
        return backend;
    }

    private Map<String, ?> files(Map<String, ?> more) {
        Map<String, Object> backend = new java.util.LinkedHashMap<>(Map.of("type", "filesystem", "priority", 2));
        backend.put("config", Map.of("path", temp.resolve("out").toString()));
        backend.putAll(more);
        return backend;
    }

    private Emitter start(List<?> backends) {
        return Emitter.create(
                Config.app("etcher", "fab1")
                        .with("mode", "direct")
                        .with("sidecar.spool_dir", temp.resolve("spool").toString())
                        .with("sidecar.retries", 0)
                        .with("queue.flush_interval", 0.05)
                        .with("direct_backends", backends),
                Map.of());
    }

    private long written() throws IOException {
        if (!Files.isDirectory(temp.resolve("out"))) {
            return 0;
        }
        try (Stream<Path> found = Files.find(temp.resolve("out"), 4, (path, status) -> path.toString().contains(".jsonl"))) {
            long lines = 0;
            for (Path path : found.toList()) {
                lines += Files.readAllLines(path).size();
            }
            return lines;
        }
    }

    @Test
    void oneBackendTakesWhatAnotherShouldHave() throws Exception {
        try (Emitter emitter = start(List.of(webhook(Map.of()), files(Map.of())))) {
            emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            FlushResult result = emitter.flush(Duration.ofSeconds(30));
            assertTrue(result.flushed());
            assertEquals(List.of("webhook", "filesystem"), List.copyOf(result.backends().keySet()));
            result.backends().values().forEach(counts -> assertEquals(1, counts.sent()));
            assertEquals(1, emitter.stats().sent());
        }
        assertEquals(1, server.accepted().size());
        assertEquals(1, written());
    }

    @Test
    void aFallbackStandsInForAWorkingBackendOrForNone() throws Exception {
        List<?> backends = List.of(webhook(Map.of()), files(Map.of("delivery", "fallback")));
        try (Emitter emitter = start(backends)) {
            emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
            assertEquals(0, emitter.stats().backends().get("filesystem").sent());
            server.stop();
            String id = emitter.emitEvent(Map.of("kind", "log", "name", "b"));
            assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
            assertEquals(1, emitter.stats().backends().get("filesystem").sent());
            assertEquals(1, written());
            server.start();
            Eventually.eventually("the primary to get it later", () -> server.accepted().stream()
                    .anyMatch(event -> id.equals(event.get("event_id"))));
        }
    }

    @Test
    void aBackendOfTheSitesOwnIsNotFound() {
        try (Emitter emitter = start(List.of(Map.of("type", "recorder", "config", Map.of("name", "mine"))))) {
            emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            assertTrue(emitter.flush(Duration.ofSeconds(30)).flushed());
        }
        assertEquals(1, Recorder.Provider.made.get("mine").events.size());
    }

    @Test
    void aMistakeInABackendKillsTheWorkerOrLosesTheBatch() throws Exception {
        try (Emitter emitter = start(List.of(Map.of("type", "recorder", "config", Map.of("name", "broken", "fails", 1))))) {
            String id = emitter.emitEvent(Map.of("kind", "log", "name", "a"));
            Eventually.eventually("the event after the failure", () -> Recorder.Provider.made.get("broken").events.stream()
                    .anyMatch(event -> id.equals(event.get("event_id"))));
        }
    }

    @Test
    void mistakesInBackendsComeOneByOne() {
        List<?> backends = List.of(
                Map.of("type", "s3", "config", Map.of("credentials", Map.of("access_key_id", "a", "secret_access_key", "b"))),
                Map.of("type", "kafka"),
                Map.of("type", "nonsense"),
                Map.of("type", "webhook", "config", Map.of("url", "ftp://x", "colour", "red")),
                Map.of("type", "filesystem", "enabled", false, "config", Map.of("path", "x")));
        ConfigurationException error = assertThrows(ConfigurationException.class, () -> start(backends));
        assertEquals(
                List.of(
                        "sdk.direct_backends[0].config.bucket", "sdk.direct_backends[1].type", "sdk.direct_backends[2].type",
                        "sdk.direct_backends[3].config.colour", "sdk.direct_backends[3].config.url"),
                error.problems().stream().map(Problem::path).toList());
        assertThrows(ConfigurationException.class, () -> start(List.of()));
    }
}
