package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import com.wafermonitor.sdk.internal.Retry;
import com.wafermonitor.sdk.internal.Tls;
import java.io.IOException;
import java.net.InetAddress;
import java.net.URI;
import java.net.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/**
 * Sends events to any HTTP endpoint, as TrackMate's sink of that name does without its templates: as JSON Lines, as a JSON array, or
 * each alone. What comes twice has the same {@code Idempotency-Key}. With a {@code secret} every request is signed: the header
 * {@code X-TrackMate-Signature} is {@code v1=} and the HMAC-SHA256, in hexadecimal, of the header {@code X-TrackMate-Timestamp}
 * (seconds since 1970), a dot and the body as it was sent.
 */
public final class WebhookBackend implements Backend {
    private static final Set<String> RESERVED = Set.of(
            "host", "content-length", "content-encoding", "transfer-encoding", "connection", "expect", "upgrade", "idempotency-key",
            "x-trackmate-signature", "x-trackmate-timestamp");

    /** Statuses 4xx that are about the endpoint, the credential or the moment; all others are about what was sent. */
    private static final Set<Integer> TRY_AGAIN = Set.of(
            401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 415, 421, 423, 424, 425, 426, 429, 451);

    private static final Set<Integer> SOON = Set.of(408, 409, 423, 424, 425, 429);
    private static final Map<String, String> TYPES = Map.of(
            "ndjson", "application/x-ndjson", "array", "application/json", "event", "application/json");

    private final URI address;
    private final String method;
    private final String form;
    private final String secret;
    private final int maxEvents;
    private final boolean packed;
    private final boolean allowPrivate;
    private final List<Integer> success;
    private final Map<String, String> headers = new LinkedHashMap<>();
    private final Clock clock;
    private final HttpCaller http;

    /** Makes backends of type {@code webhook}. */
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
        this.clock = clock;
        this.address = settings.url("url");
        if (address.getRawUserInfo() != null || address.getRawFragment() != null) {
            settings.problem("url", "expected an address without a name, a password or a # in it");
        }
        this.method = settings.choice("method", List.of("POST", "PUT", "PATCH"));
        this.form = settings.choice("body", List.of("ndjson", "array", "event"));
        this.secret = settings.secret("secret");
        this.maxEvents = form.equals("event") ? 1 : (int) Math.max(1, settings.positive("max_events", 100));
        this.packed = settings.choice("compression", List.of("none", "gzip")).equals("gzip");
        this.allowPrivate = settings.flag("allow_private", false);
        this.success = settings.integers("success");
        this.http = new HttpCaller(false, Tls.of(settings));
        headers.put("Content-Type", TYPES.get(form));
        headers.put("User-Agent", "monitoring-sdk-java");
        BackendSettings given = settings.block("headers");
        for (String name : given.keys()) {
            String value = given.text(name);
            boolean clean = name.matches("[A-Za-z0-9!#$%&'*+.^_`|~-]+") && value.chars().allMatch(c -> c >= ' ' && c <= '~');
            if (RESERVED.contains(name.toLowerCase(Locale.ROOT)) || !clean || value.contains("${")) {
                given.problem(name, "expected a header of your own, in one line of ASCII without placeholders");
            } else {
                headers.keySet().removeIf(name::equalsIgnoreCase);
                headers.put(name, value);
            }
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        long deadline = System.nanoTime() + timeout.toNanos();
        List<Answer.Rejection> rejected = new ArrayList<>();
        for (int from = 0; from < batch.size(); from += maxEvents) {
            Answer failure = send(batch, from, Math.min(batch.size(), from + maxEvents), deadline, rejected);
            if (failure != null) {
                return failure;
            }
        }
        return Answer.accepted(rejected);
    }

    /** Send events until each is taken or refused; null, or why some were not. */
    private Answer send(Batch batch, int from, int to, long deadline, List<Answer.Rejection> rejected) {
        HttpCaller.Reply reply;
        try {
            if (!allowPrivate) {
                checkPublic();
            }
            reply = http.call(request(batch.lines().subList(from, to)), Duration.ofNanos(deadline - System.nanoTime()));
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, place() + ": " + error.getMessage());
        }
        int status = reply.status();
        if (success.isEmpty() ? HttpAnswers.isSuccess(reply) : success.contains(status)) {
            return null;
        }
        if (status < 400 || status >= 500 || TRY_AGAIN.contains(status)) {
            boolean soon = status >= 500 || SOON.contains(status);
            double after = Retry.after(reply.header("Retry-After"), clock);
            String detail = place() + " answered " + status;
            return new Answer(soon ? Outcome.RETRY : Outcome.KEEP, detail, after, List.of());
        }
        if (to - from == 1) {
            rejected.add(new Answer.Rejection(from, "", "it answered " + status));
            return null;
        }
        int middle = (from + to) / 2;
        Answer failure = send(batch, from, middle, deadline, rejected);
        return failure != null ? failure : send(batch, middle, to, deadline, rejected);
    }

    private HttpRequest.Builder request(List<byte[]> lines) {
        byte[] body = Batch.bodyOf(lines);
        String key = HexFormat.of().formatHex(SigV4.sha256(body)).substring(0, 32);
        if (form.equals("array")) {
            String text = new String(body, 0, body.length - 1, StandardCharsets.UTF_8);
            body = ("[" + text.replace('\n', ',') + "]").getBytes(StandardCharsets.UTF_8);
        } else if (form.equals("event")) {
            body = lines.get(0);
        }
        HttpRequest.Builder request = HttpRequest.newBuilder(address);
        headers.forEach(request::header);
        request.header("Idempotency-Key", key);
        if (packed) {
            body = SidecarBackend.gzip(body);
            request.header("Content-Encoding", "gzip");
        }
        if (!secret.isEmpty()) {
            String time = Long.toString(clock.instant().getEpochSecond());
            request.header("X-TrackMate-Timestamp", time);
            request.header("X-TrackMate-Signature", "v1=" + signature(time, body));
        }
        return request.method(method, HttpRequest.BodyPublishers.ofByteArray(body));
    }

    /** The address without its path and query, since many a service has its key in them. */
    private String place() {
        return address.getScheme() + "://" + address.getHost() + (address.getPort() < 0 ? "" : ":" + address.getPort());
    }

    private void checkPublic() throws IOException {
        for (InetAddress each : InetAddress.getAllByName(address.getHost())) {
            byte[] bytes = each.getAddress();
            boolean shared = bytes.length == 4 && bytes[0] == 100 && (bytes[1] & 0xc0) == 64;
            boolean unique = bytes.length == 16 && (bytes[0] & 0xfe) == 0xfc;
            if (each.isLoopbackAddress() || each.isAnyLocalAddress() || each.isLinkLocalAddress() || each.isSiteLocalAddress()
                    || each.isMulticastAddress() || shared || unique) {
                throw new IOException("is an address of this host or of a private network: set `allow_private: true` if that is meant");
            }
        }
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
