package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.tck.BackendTck;
import com.wafermonitor.sdk.tck.ScriptedServer;
import com.wafermonitor.sdk.tck.ScriptedServer.Twist;
import java.net.InetAddress;
import java.net.URI;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class SidecarBackendTest extends BackendTck {
    private final ScriptedServer server = new ScriptedServer();

    @AfterEach
    void close() {
        server.close();
    }

    @Override
    protected Backend make() {
        return new SidecarBackend(URI.create(server.url() + "/base/"), "tm_token");
    }

    @Override
    protected List<Map<?, ?>> readBack() {
        return server.accepted();
    }

    @Override
    protected boolean deduplicates() {
        return false; // the server of this test doesn't; every store behind a sidecar does
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
    void theRequestIsNotThatOfTheProtocol() {
        try (Backend backend = make()) {
            backend.deliver(batch(1, 2, Map.of()), TIMEOUT);
        }
        ScriptedServer.Request request = server.requests().get(0);
        assertEquals("POST", request.method());
        assertEquals("/base/v1/ingest/events", request.path());
        assertEquals("application/x-ndjson", request.headers().get("content-type"));
        assertEquals("Bearer tm_token", request.headers().get("authorization"));
        assertEquals("monitoring-sdk-java", request.headers().get("user-agent"));
        assertEquals(null, request.headers().get("content-encoding"));
        assertEquals(null, request.headers().get("upgrade"));
    }

    @Test
    void aLongWayIsWalkedWithoutCompression() throws Exception {
        String here = InetAddress.getLocalHost().getHostName();
        try (ScriptedServer far = new ScriptedServer(); Backend backend =
                new SidecarBackend(URI.create("http://[::ffff:127.0.0.1]:" + far.port()), "")) {
            assertEquals(Outcome.ACCEPTED, backend.deliver(batch(1, 50, Map.of()), TIMEOUT).outcome(), here);
            assertEquals("gzip", far.requests().get(0).headers().get("content-encoding"));
            assertEquals(50, far.accepted().size());
        }
    }

    @ParameterizedTest
    @CsvSource({
        "408,RETRY", "425,RETRY", "429,RETRY", "500,RETRY", "503,RETRY", "413,TOO_LARGE", "400,REFUSED", "415,REFUSED", "422,REFUSED",
        "401,KEEP", "403,KEEP", "404,KEEP", "302,KEEP"
    })
    void aStatusIsMisread(int status, Outcome outcome) {
        server.then(ScriptedServer.Answer.of(status, "{\"error\":{}}"));
        try (Backend backend = make()) {
            assertEquals(outcome, backend.deliver(batch(1, 1, Map.of()), TIMEOUT).outcome());
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "<html>welcome</html>", "[]", "{\"accepted\":\"yes\"}", "{\"accepted\":1.5}", "{"})
    void whateverAnswersTwoHundredIsTakenForASidecar(String body) {
        server.then(ScriptedServer.Answer.of(200, body));
        try (Backend backend = make()) {
            assertEquals(Outcome.RETRY, backend.deliver(batch(1, 1, Map.of()), TIMEOUT).outcome());
        }
    }

    @ParameterizedTest
    @EnumSource(value = Twist.class, names = {"CUT", "CUT_WITHIN", "GARBAGE", "HANG", "DRIP"})
    void aBrokenAnswerThrowsOrCounts(Twist twist) {
        server.then(ScriptedServer.Answer.of(twist), ScriptedServer.Answer.of(twist));
        try (Backend backend = make()) {
            Answer answer = backend.deliver(batch(1, 1, Map.of()), Duration.ofSeconds(1));
            assertEquals(Outcome.RETRY, answer.outcome());
            assertTrue(!answer.detail().isEmpty());
        }
    }

    @Test
    void aConnectionThatTheServerClosedCostsABatchAnAttempt() {
        try (Backend backend = make()) {
            backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            server.stop();
            server.start();
            assertEquals(Outcome.ACCEPTED, backend.deliver(batch(2, 1, Map.of()), TIMEOUT).outcome());
        }
    }

    @Test
    void aNewConnectionIsOpenedForEachRequest() {
        try (Backend backend = make()) {
            for (int i = 1; i < 20; i++) {
                backend.deliver(batch(i, 1, Map.of()), TIMEOUT);
            }
            assertEquals(19, server.requests().size());
            assertEquals(1, server.connections());
        }
    }

    @Test
    void rejectionsAreLost() {
        server.then(ScriptedServer.Answer.of(
                202, "{\"accepted\":1,\"rejected\":[{\"index\":1,\"event_id\":\"x\",\"path\":\"metrics.t\",\"error\":\"expected number\"}]}"));
        try (Backend backend = make()) {
            Answer answer = backend.deliver(batch(1, 2, Map.of()), TIMEOUT);
            assertEquals(List.of(new Answer.Rejection(1, "metrics.t", "expected number")), answer.rejected());
        }
    }

    @Test
    void interruptWaitsForTheServer() throws Exception {
        server.then(ScriptedServer.Answer.of(Twist.HANG));
        Backend backend = make();
        Thread delivering = new Thread(() -> backend.deliver(batch(1, 1, Map.of()), Duration.ofSeconds(60)));
        delivering.start();
        com.wafermonitor.sdk.tck.Eventually.eventually("the request", () -> !server.requests().isEmpty());
        backend.interrupt();
        delivering.join(30_000);
        assertTrue(!delivering.isAlive());
        backend.close();
    }
}
