package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.Problem;
import com.wafermonitor.sdk.tck.BackendTck;
import com.wafermonitor.sdk.tck.ScriptedServer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.zip.GZIPInputStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Against a store that keeps objects and checks nothing; the conformance suite runs the same backend against a real S3 server. */
class S3BackendTest extends BackendTck {
    private final Map<String, byte[]> objects = new ConcurrentSkipListMap<>();
    private final ScriptedServer server = new ScriptedServer(request -> {
        objects.put(request.path(), request.raw());
        return ScriptedServer.Answer.of(200, "");
    });

    @AfterEach
    void close() {
        server.close();
    }

    private Map<String, Object> config() {
        Map<String, Object> config = new LinkedHashMap<>();
        config.put("bucket", "events");
        config.put("region", "eu-central-1");
        config.put("prefix", "fab 1/");
        config.put("endpoint_url", server.url());
        config.put("credentials", Map.of("access_key_id", "AKID", "secret_access_key", "hidden"));
        return config;
    }

    @Override
    protected Backend make() {
        return new S3Backend(new BackendSettings("s3", "c", config(), Path.of("")), Map.of());
    }

    @Override
    protected List<Map<?, ?>> readBack() throws IOException {
        List<Map<?, ?>> events = new ArrayList<>();
        for (byte[] object : objects.values()) {
            byte[] plain = new GZIPInputStream(new ByteArrayInputStream(object)).readAllBytes();
            for (String line : new String(plain, StandardCharsets.UTF_8).split("\n")) {
                events.add(event(line.getBytes(StandardCharsets.UTF_8)));
            }
        }
        return events;
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
    void theKeyIsAnother() {
        Batch batch = batch(1, 2, Map.of());
        try (Backend backend = make()) {
            backend.deliver(batch, TIMEOUT);
        }
        assertEquals(
                List.of("/events/fab%201/date%3D2026-07-01/hour%3D09/" + batch.emitterId()
                        + ".s3-00000000000000000001-00000000000000000002.jsonl.gz"),
                List.copyOf(objects.keySet()));
    }

    /** What is signed and in which form; that the signature itself is right, the conformance suite's real S3 server says. */
    @Test
    void somethingElseIsSigned() {
        SigV4 signer = new SigV4(
                "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "", "us-east-1", "s3");
        Map<String, String> headers = signer.sign(
                "GET", URI.create("https://examplebucket.s3.amazonaws.com/test.txt"), new byte[0], Instant.parse("2013-05-24T00:00:00Z"));
        assertEquals("20130524T000000Z", headers.get("x-amz-date"));
        assertEquals("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", headers.get("x-amz-content-sha256"));
        assertTrue(headers.get("Authorization").startsWith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
                + "aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature="));
    }

    @ParameterizedTest
    @CsvSource({
        "503,SlowDown,RETRY", "400,RequestTimeout,RETRY", "500,InternalError,RETRY", "404,NoSuchBucket,KEEP",
        "403,SignatureDoesNotMatch,KEEP", "400,ExpiredToken,KEEP", "301,PermanentRedirect,KEEP"
    })
    void anErrorIsMisreadOrShowsTheSecret(int status, String code, Outcome outcome) {
        server.then(ScriptedServer.Answer.of(status, "<Error><Code>" + code + "</Code><Message>m</Message></Error>"));
        try (Backend backend = make()) {
            Answer answer = backend.deliver(batch(1, 1, Map.of()), TIMEOUT);
            assertEquals(outcome, answer.outcome());
            assertTrue(answer.detail().contains(code));
            assertFalse(answer.detail().contains("hidden"));
        }
    }

    @Test
    void aMistakeInTheConfigurationIsNotNamed() {
        Map<String, Object> config = config();
        config.remove("bucket");
        config.put("credentials", Map.of("access_key_id", "AKID"));
        config.put("compression", "zstd");
        config.put("bukket", "x");
        config.put("region", 3);
        BackendSettings settings = new BackendSettings("s3", "c", config, Path.of(""));
        new S3Backend(settings, Map.of()).close();
        assertEquals(
                List.of("c.bucket", "c.bukket", "c.compression", "c.credentials", "c.region"),
                settings.problems().stream().map(Problem::path).sorted().toList());
    }

    @Test
    void theEnvironmentGivesNoCredentials() {
        Map<String, Object> config = config();
        config.remove("credentials");
        BackendSettings settings = new BackendSettings("s3", "c", config, Path.of(""));
        new S3Backend(settings, Map.of("AWS_ACCESS_KEY_ID", "a", "AWS_SECRET_ACCESS_KEY", "b")).close();
        assertEquals(List.of(), settings.problems());
    }
}
