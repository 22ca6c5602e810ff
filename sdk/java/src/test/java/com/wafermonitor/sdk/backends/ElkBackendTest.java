package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.Problem;
import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.internal.JsonWriter;
import com.wafermonitor.sdk.tck.BackendTck;
import com.wafermonitor.sdk.tck.ScriptedServer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Against a scripted cluster; the conformance suite runs the same backend against a real Elasticsearch. */
class ElkBackendTest extends BackendTck {
    private final Map<String, Map<?, ?>> documents = new ConcurrentHashMap<>();
    private final Map<String, String> indexes = new ConcurrentHashMap<>();
    private final ScriptedServer server = new ScriptedServer(this::answer);

    @AfterEach
    void close() {
        server.close();
    }

    private ScriptedServer.Answer answer(ScriptedServer.Request request) {
        if (request.path().startsWith("/_index_template/")) {
            return ScriptedServer.Answer.of(request.method().equals("GET") ? 404 : 200, "{}");
        }
        List<Object> items = new ArrayList<>();
        String[] lines = new String(request.body(), StandardCharsets.UTF_8).split("\n");
        for (int i = 0; i < lines.length; i += 2) {
            try {
                Map<?, ?> action = (Map<?, ?>) JsonReader.object(lines[i].getBytes(StandardCharsets.UTF_8)).get("create");
                String id = (String) action.get("_id");
                Map<?, ?> document = JsonReader.object(lines[i + 1].getBytes(StandardCharsets.UTF_8));
                boolean isNew = documents.putIfAbsent(id, document) == null;
                indexes.put(id, (String) action.get("_index"));
                items.add(Map.of("create", isNew
                        ? Map.of("status", 201)
                        : Map.of("status", 409, "error", Map.of("type", "version_conflict_engine_exception"))));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
        return ScriptedServer.Answer.of(200, JsonWriter.textOf(Map.of("errors", true, "items", items)));
    }

    private Backend make(Map<String, ?> more) {
        Map<String, Object> config = new LinkedHashMap<>(Map.of("url", server.url(), "username", "u", "password", "hidden"));
        config.putAll(more);
        BackendSettings settings = new BackendSettings("elk", "c", config, Path.of(""));
        Backend backend = new ElkBackend(settings);
        assertEquals(List.of(), settings.problems());
        return backend;
    }

    @Override
    protected Backend make() {
        return make(Map.of());
    }

    @Override
    protected List<Map<?, ?>> readBack() {
        return List.copyOf(documents.values());
    }

    @Override
    protected void takeDown() {
        server.stop();
    }

    @Override
    protected void bringUp() {
        server.start();
    }

    @Test
    void theTemplateIsNotInstalledOrAtEveryBatch() {
        try (Backend backend = make()) {
            backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            backend.deliver(batch(2, 1, Map.of()), TIMEOUT);
        }
        assertEquals(
                List.of("GET /_index_template/trackmate-monitoring", "PUT /_index_template/trackmate-monitoring"),
                server.requests().stream()
                        .filter(request -> request.path().startsWith("/_index"))
                        .map(request -> request.method() + " " + request.path())
                        .toList());
        assertTrue(server.requests().stream().allMatch(request -> "Basic dTpoaWRkZW4=".equals(request.headers().get("authorization"))));
    }

    @Test
    void theIndexTakesTodaysDateInsteadOfTheEvents() {
        try (Backend backend = make(Map.of("index", "monitoring-%Y.%m", "manage_template", false))) {
            backend.deliver(batch(1, 1, Map.of("timestamp", "2026-01-31T23:30:00-08:00")), TIMEOUT);
        }
        assertEquals(List.of("monitoring-2026.02"), List.copyOf(indexes.values()));
    }

    @ParameterizedTest
    @CsvSource({
        "400,mapper_parsing_exception,ACCEPTED,1", "429,es_rejected_execution_exception,RETRY,0",
        "403,cluster_block_exception,KEEP,0", "400,index_closed_exception,KEEP,0", "503,unavailable_shards_exception,RETRY,0"
    })
    void aDocumentsFateIsMisread(int status, String type, Outcome outcome, int rejected) {
        String item = JsonWriter.textOf(Map.of("create", Map.of("status", status, "error", Map.of("type", type, "reason", "why"))));
        try (Backend backend = make(Map.of("manage_template", false))) {
            server.then(ScriptedServer.Answer.of(200, "{\"errors\":true,\"items\":[" + item + "]}"));
            Answer answer = backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            assertEquals(outcome, answer.outcome());
            assertEquals(rejected, answer.rejected().size());
        }
    }

    @ParameterizedTest
    @CsvSource({"401,KEEP", "403,KEEP", "404,KEEP", "413,REFUSED", "429,RETRY", "503,RETRY"})
    void aStatusIsMisreadOrShowsTheSecret(int status, Outcome outcome) {
        try (Backend backend = make(Map.of("manage_template", false))) {
            server.then(ScriptedServer.Answer.of(status, "{\"error\":{\"type\":\"x\",\"reason\":\"because\"}}"));
            Answer answer = backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            assertEquals(outcome, answer.outcome());
            assertFalse(answer.detail().contains("hidden"));
        }
    }

    @Test
    void somethingElseThanElasticsearchIsTakenForIt() {
        try (Backend backend = make(Map.of("manage_template", false))) {
            server.then(ScriptedServer.Answer.of(200, "{}"), ScriptedServer.Answer.of(200, "<html>"));
            assertEquals(Outcome.RETRY, backend.deliver(batch(1, 1, Map.of()), TIMEOUT).outcome());
            assertEquals(Outcome.RETRY, backend.deliver(batch(1, 1, Map.of()), TIMEOUT).outcome());
        }
    }

    @Test
    void aWrongIndexIsFoundByTheClusterOnly() {
        for (String index : List.of("Monitoring", "-x", "a b", "m-%x", "a/b")) {
            Map<String, ?> config = Map.of("url", "http://localhost", "index", index);
            BackendSettings settings = new BackendSettings("elk", "c", config, Path.of(""));
            new ElkBackend(settings).close();
            assertEquals(List.of("c.index"), settings.problems().stream().map(Problem::path).toList(), index);
        }
    }
}
