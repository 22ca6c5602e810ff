package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import com.wafermonitor.sdk.internal.Retry;
import com.wafermonitor.sdk.internal.Tls;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Writes events as JSON Lines objects to Amazon S3 and compatible stores.
 *
 * <pre>
 * &lt;prefix&gt;date=2026-07-01/hour=09/&lt;emitter id&gt;.&lt;backend&gt;-&lt;first seq&gt;-&lt;last seq&gt;.jsonl.gz
 * </pre>
 *
 * The hour is UTC, by the event's own timestamp. A batch delivered twice writes the same objects again.
 */
public final class S3Backend implements Backend {
    private static final Pattern CODE = Pattern.compile("<Code>([A-Za-z0-9]+)</Code>");
    private static final Pattern MESSAGE = Pattern.compile("<Message>([^<]{1,300})");
    private static final Set<String> BUSY =
            Set.of("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted");
    private static final Map<String, String> ADVICE = Map.of(
            "NoSuchBucket", "make the bucket, or set `bucket` (and `region` or `endpoint_url`) to one that exists",
            "InvalidAccessKeyId", "the key is not known there: set `credentials.access_key_id` anew",
            "SignatureDoesNotMatch", "the secret is wrong: set `credentials.secret_access_key` anew",
            "ExpiredToken", "the key is over: set `credentials` anew",
            "AccessDenied", "give the key s3:PutObject below the prefix",
            "RequestTimeTooSkewed", "this machine's clock is wrong: set it",
            "AuthorizationHeaderMalformed", "set `region` to the bucket's",
            "PermanentRedirect", "set `region` to the bucket's");

    private final String name;
    private final String bucket;
    private final String prefix;
    private final String compression;
    private final URI base;
    private final SigV4 signer;
    private final HttpCaller http;

    /** Makes backends of type {@code s3}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "s3";
        }

        @Override
        public Backend create(BackendSettings settings) {
            return new S3Backend(settings, System.getenv());
        }
    }

    S3Backend(BackendSettings settings, Map<String, String> environment) {
        this.name = settings.name();
        this.bucket = settings.text("bucket");
        String start = settings.text("prefix", "events/");
        this.prefix = start.endsWith("/") ? start : start + "/";
        if (!settings.text("format", "jsonl").equals("jsonl")) {
            settings.problem("format", "the Java SDK writes jsonl; let the sidecar write Parquet");
        }
        this.compression = settings.text("compression", "gzip");
        if (!Set.of("gzip", "none").contains(compression)) {
            settings.problem("compression", "the Java SDK knows gzip and none; let the sidecar write zstd");
        }
        String region = settings.text("region", environment.getOrDefault("AWS_REGION", "us-east-1"));
        URI amazon = URI.create("https://s3." + region + ".amazonaws.com");
        URI endpoint = settings.url("endpoint_url", amazon);
        this.base = endpoint.equals(amazon) && !bucket.contains(".")
                ? URI.create("https://" + safe(bucket) + ".s3." + region + ".amazonaws.com/")
                : URI.create(HttpAnswers.base(endpoint) + "/" + safe(bucket) + "/");
        this.http = new HttpCaller(false, Tls.of(settings));
        BackendSettings credentials = settings.block("credentials");
        String key = credentials.secret("access_key_id");
        String secret = credentials.secret("secret_access_key");
        String token = credentials.secret("session_token");
        if (key.isEmpty() && secret.isEmpty()) {
            key = environment.getOrDefault("AWS_ACCESS_KEY_ID", "");
            secret = environment.getOrDefault("AWS_SECRET_ACCESS_KEY", "");
            token = environment.getOrDefault("AWS_SESSION_TOKEN", "");
        }
        if (key.isEmpty() || secret.isEmpty()) {
            settings.problem("credentials", "set both access_key_id and secret_access_key, here or as AWS_ACCESS_KEY_ID and"
                    + " AWS_SECRET_ACCESS_KEY");
        }
        this.signer = new SigV4(key, secret, token, region, "s3");
    }

    private static String safe(String text) {
        return text.replaceAll("[^A-Za-z0-9._-]", "_");
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        long deadline = System.nanoTime() + timeout.toNanos();
        for (Lines.Part part : Lines.parts(batch)) {
            byte[] body = Batch.bodyOf(part.lines());
            boolean packed = compression.equals("gzip");
            String key = prefix + part.partition() + "/" + safe(batch.emitterId()) + "." + safe(name)
                    + String.format(Locale.ROOT, "-%020d-%020d.jsonl", part.firstSeq(), part.lastSeq()) + (packed ? ".gz" : "");
            String type = packed ? "application/gzip" : "application/x-ndjson";
            Answer answer = put(key, packed ? SidecarBackend.gzip(body) : body, type, deadline);
            if (answer.outcome() != Outcome.ACCEPTED) {
                return answer;
            }
        }
        return Answer.ACCEPTED;
    }

    private Answer put(String key, byte[] body, String type, long deadline) {
        URI address = URI.create(base + SigV4.encoded(key, true));
        HttpRequest.Builder request = HttpRequest.newBuilder(address)
                .PUT(HttpRequest.BodyPublishers.ofByteArray(body))
                .header("Content-Type", type);
        signer.sign("PUT", address, body, Clock.systemUTC().instant()).forEach(request::header);
        try {
            HttpCaller.Reply reply = http.call(request, Duration.ofNanos(deadline - System.nanoTime()));
            return HttpAnswers.isSuccess(reply) ? Answer.ACCEPTED : failed(reply);
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, "S3 at " + base.getAuthority() + " can't be reached: " + error.getMessage());
        }
    }

    /** Nothing that S3 refuses is about an event, so nothing is refused for good. */
    private Answer failed(HttpCaller.Reply reply) {
        String text = new String(reply.body(), StandardCharsets.UTF_8);
        String code = group(CODE, text);
        String told = code.isEmpty() ? "" : " " + code + ": " + ADVICE.getOrDefault(code, group(MESSAGE, text));
        String detail = "bucket '" + bucket + "' at " + base.getAuthority() + " answered " + reply.status() + told;
        int status = reply.status();
        boolean busy = status >= 500 || status == 429 || status == 408 || BUSY.contains(code);
        double after = busy ? Retry.after(reply.header("Retry-After"), Clock.systemUTC()) : 0;
        return new Answer(busy ? Outcome.RETRY : Outcome.KEEP, detail, after, List.of());
    }

    private static String group(Pattern pattern, String text) {
        Matcher found = pattern.matcher(text);
        return found.find() ? found.group(1) : "";
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
