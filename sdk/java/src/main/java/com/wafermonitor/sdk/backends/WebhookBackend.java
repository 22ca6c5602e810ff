package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/**
 * Posts each batch as NDJSON to any HTTP endpoint; an answer of 2xx takes it. With a {@code secret} the request carries
 * {@code X-TrackMate-Timestamp} (Unix seconds) and {@code X-TrackMate-Signature}, which is {@code sha256=} and the HMAC-SHA256, in
 * hexadecimal, of the timestamp, a dot and the body. What comes twice has the same {@code Idempotency-Key}.
 */
public final class WebhookBackend implements Backend {
    private static final Set<String> OURS = Set.of("content-type", "content-length", "host", "connection", "expect", "upgrade");

    private final URI address;
    private final String secret;
    private final Map<String, String> headers = new LinkedHashMap<>();
    private final Clock clock;
    private final HttpCaller http = new HttpCaller(false);

    /** Makes backends of type {@code webhook}, with {@code url}, {@code secret} and {@code headers}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "webhook";
        }

        @Override
        public Backend create(BackendSettings settings) {
            return new WebhookBackend(settings, Clock.systemUTC());
        }
    }

    WebhookBackend(BackendSettings settings, Clock clock) {
        this.address = settings.url("url");
        this.secret = settings.secret("secret");
        this.clock = clock;
        settings.flag("allow_private", true); // for the sidecar, which takes addresses from operators; a program names its own
        headers.put("Content-Type", "application/x-ndjson");
        headers.put("User-Agent", "monitoring-sdk-java");
        BackendSettings given = settings.block("headers");
        for (String name : new TreeSet<>(given.keys())) {
            String value = given.text(name);
            boolean clean = name.matches("[A-Za-z0-9!#$%&'*+.^_`|~-]+") && value.chars().allMatch(c -> c >= ' ' && c != 127);
            if (OURS.contains(name.toLowerCase(java.util.Locale.ROOT)) || !clean) {
                given.problem(name, "can't be set: expected a header of your own, in one line of text");
            } else {
                headers.put(name, value);
            }
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        byte[] body = batch.body();
        Map<String, String> with = new LinkedHashMap<>(headers);
        with.put("Idempotency-Key", batch.emitterId() + "-" + batch.firstSeq() + "-" + batch.lastSeq());
        if (!secret.isEmpty()) {
            String time = Long.toString(clock.instant().getEpochSecond());
            with.put("X-TrackMate-Timestamp", time);
            with.put("X-TrackMate-Signature", "sha256=" + signature(time, body));
        }
        try {
            HttpCaller.Reply reply = http.call(HttpCaller.post(address, with, body), timeout);
            return HttpAnswers.isSuccess(reply)
                    ? Answer.ACCEPTED
                    : HttpAnswers.failed(reply, place() + " answered " + reply.status() + ": " + reply.said());
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, place() + " can't be reached: " + error.getMessage());
        }
    }

    /** The address without what may be secret in it. */
    private String place() {
        return address.getScheme() + "://" + address.getHost() + (address.getPort() < 0 ? "" : ":" + address.getPort());
    }

    private String signature(String time, byte[] body) {
        byte[] start = (time + ".").getBytes(StandardCharsets.UTF_8);
        byte[] text = new byte[start.length + body.length];
        System.arraycopy(start, 0, text, 0, start.length);
        System.arraycopy(body, 0, text, start.length, body.length);
        return HexFormat.of().formatHex(SigV4.hmac(secret.getBytes(StandardCharsets.UTF_8), text));
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
