package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import com.wafermonitor.sdk.internal.JsonReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.GZIPOutputStream;

/** Delivers to {@code POST {url}/v1/ingest/events} of a sidecar. */
public final class SidecarBackend implements Backend {
    private static final String INGEST_PATH = "/v1/ingest/events";

    /** Bytes that fit into one packet anyway. */
    private static final int WORTH_COMPRESSING = 1400;

    private final URI address;
    private final boolean compress;
    private final Map<String, String> headers = new LinkedHashMap<>();
    private final HttpCaller http = new HttpCaller(true, null);

    /** Makes backends of type {@code sidecar}, with {@code url} and {@code token}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "sidecar";
        }

        @Override
        public Backend create(BackendSettings settings) {
            return new SidecarBackend(settings.url("url", URI.create("http://localhost:17000")), settings.secret("token"));
        }
    }

    /**
     * @param url where the sidecar listens; may have a path
     * @param token what it asks for; empty: nothing
     */
    public SidecarBackend(URI url, String token) {
        this.address = URI.create(HttpAnswers.base(url) + INGEST_PATH);
        this.compress = !HttpAnswers.isLoopback(url);
        headers.put("Content-Type", "application/x-ndjson");
        headers.put("User-Agent", "monitoring-sdk-java");
        if (!token.isBlank()) {
            headers.put("Authorization", "Bearer " + token.strip());
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        byte[] body = batch.body();
        Map<String, String> with = headers;
        if (compress && body.length > WORTH_COMPRESSING) {
            byte[] packed = gzip(body);
            if (packed.length < body.length) {
                body = packed;
                with = new LinkedHashMap<>(headers);
                with.put("Content-Encoding", "gzip");
            }
        }
        try {
            return judge(http.call(HttpCaller.post(address, with, body), timeout));
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, error.getMessage());
        }
    }

    static byte[] gzip(byte[] body) {
        ByteArrayOutputStream packed = new ByteArrayOutputStream(body.length / 4 + 64);
        try (GZIPOutputStream out = new GZIPOutputStream(packed)) {
            out.write(body);
        } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
        }
        return packed.toByteArray();
    }

    private static Answer judge(HttpCaller.Reply reply) {
        String detail = "it answered " + reply.status() + ": " + reply.said();
        if (!HttpAnswers.isSuccess(reply)) {
            return HttpAnswers.failed(reply, detail);
        }
        Map<?, ?> answer;
        try {
            answer = JsonReader.object(reply.body());
        } catch (IOException notJson) {
            answer = Map.of();
        }
        // Only an answer that says what it accepted is one: anything may listen on that port.
        if (!(answer.get("accepted") instanceof Integer)) {
            return new Answer(Outcome.RETRY, detail.replaceFirst(": ", " with something that is no acknowledgement: "));
        }
        List<Answer.Rejection> rejected = new ArrayList<>();
        if (answer.get("rejected") instanceof List<?> entries) {
            for (Object entry : entries) {
                if (entry instanceof Map<?, ?> map) {
                    int index = map.get("index") instanceof Integer place ? place : -1;
                    rejected.add(new Answer.Rejection(index, text(map.get("path")), text(map.get("error"))));
                }
            }
        }
        return Answer.accepted(rejected);
    }

    private static String text(Object value) {
        return value == null ? "" : value.toString();
    }

    @Override
    public void interrupt() {
        http.interrupt();
    }

    @Override
    public void close() {
        http.close();
    }
}
