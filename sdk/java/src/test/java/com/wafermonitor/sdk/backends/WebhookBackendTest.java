package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import com.wafermonitor.sdk.Problem;
import com.wafermonitor.sdk.tck.BackendTck;
import com.wafermonitor.sdk.tck.ScriptedServer;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class WebhookBackendTest extends BackendTck {
    private final ScriptedServer server = new ScriptedServer();

    @AfterEach
    void close() {
        server.close();
    }

    private Backend make(Map<String, ?> more) {
        Map<String, Object> config = new java.util.LinkedHashMap<>(more);
        config.put("url", server.url() + "/hook?key=hidden");
        config.putIfAbsent("allow_private", true);
        BackendSettings settings = new BackendSettings("webhook", "c", config, Path.of(""));
        Backend backend = new WebhookBackend(settings, Clock.fixed(Instant.ofEpochSecond(1_700_000_000), ZoneOffset.UTC));
        assertEquals(List.of(), settings.problems());
        return backend;
    }

    @Override
    protected Backend make() {
        return make(Map.of());
    }

    @Override
    protected List<Map<?, ?>> readBack() {
        return server.accepted();
    }

    @Override
    protected boolean deduplicates() {
        return false; // the receiver can, by Idempotency-Key and event_id
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
    void theSignatureIsNotThatOfTimestampAndBody() throws Exception {
        try (Backend backend = make(Map.of("secret", "s3cret", "headers", Map.of("X-Site", "fab1")))) {
            backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
        }
        ScriptedServer.Request request = server.requests().get(0);
        byte[] text = ("1700000000." + new String(request.raw(), java.nio.charset.StandardCharsets.UTF_8))
                .getBytes(java.nio.charset.StandardCharsets.UTF_8);
        javax.crypto.Mac mac = javax.crypto.Mac.getInstance("HmacSHA256");
        mac.init(new javax.crypto.spec.SecretKeySpec("s3cret".getBytes(java.nio.charset.StandardCharsets.UTF_8), "HmacSHA256"));
        String expected = "v1=" + java.util.HexFormat.of().formatHex(mac.doFinal(text));
        assertEquals(expected, request.headers().get("x-trackmate-signature"));
        assertEquals("1700000000", request.headers().get("x-trackmate-timestamp"));
        assertEquals("fab1", request.headers().get("x-site"));
    }

    @Test
    void aPrivateAddressIsTakenUnasked() {
        try (Backend backend = make(Map.of("allow_private", false))) {
            Answer answer = backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            assertEquals(Outcome.RETRY, answer.outcome());
            assertEquals(0, server.requests().size());
        }
    }

    @Test
    void theBodyIsAnother() throws Exception {
        for (String body : List.of("array", "event")) {
            server.requests().clear();
            try (Backend backend = make(Map.of("body", body, "method", "PUT"))) {
                backend.deliver(batch(1, 3, Map.of()), TIMEOUT);
            }
            Object sent = com.wafermonitor.sdk.internal.JsonReader.read(server.requests().get(0).raw());
            assertEquals(body.equals("array"), sent instanceof List<?> list && list.size() == 3);
            assertEquals(body.equals("array") ? 1 : 3, server.requests().size());
            assertEquals("PUT", server.requests().get(0).method());
        }
    }

    @Test
    void oneBadEventTakesItsBatchAlong() {
        Batch batch = batch(1, 4, Map.of());
        try (Backend backend = make()) {
            server.then(ScriptedServer.Answer.of(422, ""), ScriptedServer.Answer.of(200, ""), ScriptedServer.Answer.of(422, ""),
                    ScriptedServer.Answer.of(422, ""));
            Answer answer = backend.deliver(batch, TIMEOUT);
            assertEquals(Outcome.ACCEPTED, answer.outcome());
            assertEquals(List.of(2), answer.rejected().stream().map(Answer.Rejection::index).toList());
        }
    }

    @Test
    void aSecretShowsInAnError() {
        server.then(ScriptedServer.Answer.of(500, "no"), ScriptedServer.Answer.of(ScriptedServer.Twist.CUT));
        try (Backend backend = make(Map.of("secret", "s3cret"))) {
            for (int i = 0; i < 2; i++) {
                String detail = backend.deliver(batch(1, 1, Map.of()), TIMEOUT).detail();
                assertFalse(detail.contains("s3cret") || detail.contains("hidden"), detail);
            }
        }
    }

    @Test
    void aHeaderOfTheProtocolCanBeReplaced() {
        Map<String, ?> config = Map.of("url", "http://localhost", "headers", Map.of("Host", "x", "a b", "x"));
        BackendSettings settings = new BackendSettings("webhook", "c", config, Path.of(""));
        new WebhookBackend(settings, Clock.systemUTC()).close();
        assertEquals(List.of("c.headers.Host", "c.headers.a b"), settings.problems().stream().map(Problem::path).toList());
    }
}
