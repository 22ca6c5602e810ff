package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.internal.JsonWriter;
import com.wafermonitor.sdk.internal.Retry;
import com.wafermonitor.sdk.internal.Tls;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * Writes events as documents to Elasticsearch: bulk requests with {@code op_type=create} and the event's id as the document's, so that
 * an event delivered twice stands once. Installs the same index template as TrackMate's sink, unless {@code manage_template} is false.
 */
public final class ElkBackend implements Backend {
    private static final Pattern READABLE_TIME = Pattern.compile(
            "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d{1,9})?(Z|[+-]\\d\\d:\\d\\d)");
    private static final Pattern INDEX = Pattern.compile("[^-_+A-Z\\\\/*?\"<>| ,#:%][^A-Z\\\\/*?\"<>| ,#:]{0,254}");
    private static final Pattern DIRECTIVE = Pattern.compile("%(.?)");
    private static final Map<String, String> DIRECTIVES =
            Map.of("Y", "uuuu", "m", "MM", "d", "dd", "H", "HH", "G", "YYYY", "V", "ww");
    private static final Map<String, String> TEMPLATE_NAMES =
            Map.of("Y", "yyyy", "m", "mm", "d", "dd", "H", "hh", "G", "gggg", "V", "ww");
    private static final Set<String> PLACE_IS_WRONG =
            Set.of("index_closed_exception", "invalid_index_name_exception", "validation_exception");

    private final String base;
    private final String index;
    private final Map<String, String> headers = new LinkedHashMap<>();
    private final HttpCaller http;
    private boolean prepared;

    /** Makes backends of type {@code elk}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "elk";
        }

        @Override
        public Backend create(BackendSettings settings) {
            return new ElkBackend(settings);
        }
    }

    ElkBackend(BackendSettings settings) {
        this.base = HttpAnswers.base(settings.url("url"));
        this.index = settings.text("index", "monitoring");
        boolean directivesKnown = DIRECTIVE.matcher(index).results().allMatch(found -> DIRECTIVES.containsKey(found.group(1)));
        if (!directivesKnown || !INDEX.matcher(DIRECTIVE.matcher(index).replaceAll("0")).matches()) {
            settings.problem(
                    "index", "expected a name in lower case such as monitoring or monitoring-%Y.%m (%Y %m %d %H %G %V)");
        }
        this.prepared = !settings.flag("manage_template", true);
        String user = settings.secret("username");
        String password = settings.secret("password");
        String apiKey = settings.secret("api_key");
        if (!apiKey.isEmpty() && !user.isEmpty()) {
            settings.problem("api_key", "set either `api_key` or `username` and `password`, not both");
        }
        this.http = new HttpCaller(false, Tls.of(settings));
        headers.put("Content-Type", "application/x-ndjson");
        if (!apiKey.isEmpty()) {
            headers.put("Authorization", "ApiKey " + apiKey);
        } else if (!user.isEmpty()) {
            byte[] pair = (user + ":" + password).getBytes(StandardCharsets.UTF_8);
            headers.put("Authorization", "Basic " + Base64.getEncoder().encodeToString(pair));
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        long deadline = System.nanoTime() + timeout.toNanos();
        try {
            if (!prepared) {
                Answer failure = prepare(deadline);
                if (failure != null) {
                    return failure;
                }
                prepared = true;
            }
            HttpRequest.Builder request =
                    HttpCaller.post(URI.create(base + "/_bulk?filter_path=errors,items.*.status,items.*.error"), headers, body(batch));
            HttpCaller.Reply reply = http.call(request, left(deadline));
            return HttpAnswers.isSuccess(reply) ? judged(batch, reply) : failed(reply, batch.size() > 1);
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, base + " can't be reached: " + error.getMessage());
        }
    }

    private static Duration left(long deadline) {
        return Duration.ofNanos(deadline - System.nanoTime());
    }

    // ------------------------------------------------------------------------------------------------------------- request

    private byte[] body(Batch batch) {
        JsonWriter out = new JsonWriter(batch.size() * 600);
        for (byte[] line : batch.lines()) {
            Map<?, ?> event = read(line);
            String timestamp = String.valueOf(event.get("timestamp"));
            Map<String, Object> action = new LinkedHashMap<>();
            action.put("_index", indexOf(Lines.moment(timestamp)));
            action.put("_id", event.get("event_id"));
            out.raw(JsonWriter.bytesOf(Map.of("create", action))).raw('\n');
            out.raw(READABLE_TIME.matcher(timestamp).matches() ? line : readable(event, timestamp)).raw('\n');
        }
        return out.toBytes();
    }

    private static Map<?, ?> read(byte[] line) {
        try {
            return JsonReader.object(line);
        } catch (IOException notJson) {
            return Map.of(); // Elasticsearch refuses it, with its reason
        }
    }

    /** The event with its timestamp as Elasticsearch reads it. */
    private static byte[] readable(Map<?, ?> event, String timestamp) {
        LocalDateTime moment = Lines.moment(timestamp);
        Map<Object, Object> copy = new LinkedHashMap<>(event);
        copy.put("timestamp", moment == null ? timestamp : DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(moment) + "Z");
        return JsonWriter.bytesOf(copy);
    }

    private String indexOf(LocalDateTime moment) {
        if (moment == null || index.indexOf('%') < 0) {
            return index;
        }
        return DIRECTIVE.matcher(index).replaceAll(found -> {
            String pattern = DIRECTIVES.get(found.group(1));
            return switch (pattern) {
                case "ww" -> String.format("%02d", moment.get(java.time.temporal.IsoFields.WEEK_OF_WEEK_BASED_YEAR));
                case "YYYY" -> String.valueOf(moment.get(java.time.temporal.IsoFields.WEEK_BASED_YEAR));
                default -> DateTimeFormatter.ofPattern(pattern).format(moment);
            };
        });
    }

    // -------------------------------------------------------------------------------------------------------------- answer

    private Answer judged(Batch batch, HttpCaller.Reply reply) throws IOException {
        Map<?, ?> answer = JsonReader.object(reply.body());
        if (!(answer.get("items") instanceof List<?> items) || items.size() != batch.size()) {
            return new Answer(
                    Outcome.RETRY, base + " does not answer for each of " + batch.size() + " documents: is it Elasticsearch?");
        }
        List<Answer.Rejection> rejected = new ArrayList<>();
        for (int i = 0; i < items.size(); i++) {
            Map<?, ?> result = map(map(items.get(i)).get("create"));
            Map<?, ?> error = map(result.get("error"));
            String type = String.valueOf(error.get("type"));
            int status = result.get("status") instanceof Number number ? number.intValue() : 0;
            boolean there = status == 409 && type.equals("version_conflict_engine_exception");
            if (status == 200 || status == 201 || there) {
                continue;
            }
            String reason = reasonOf(error);
            if (status == 400 && !PLACE_IS_WRONG.contains(type) && !reason.contains("write index")) {
                rejected.add(new Answer.Rejection(i, "", type + ": " + reason));
            } else {
                Outcome outcome = status == 429 && !type.equals("cluster_block_exception") || status >= 500
                        ? Outcome.RETRY
                        : Outcome.KEEP;
                return new Answer(outcome, base + " does not take a document now: " + type + ": " + reason);
            }
        }
        return Answer.accepted(rejected);
    }

    private static String reasonOf(Map<?, ?> error) {
        StringBuilder text = new StringBuilder();
        Map<?, ?> level = error;
        for (int i = 0; i < 4 && !level.isEmpty(); i++) {
            Object reason = level.get("reason");
            if (reason != null && text.indexOf(reason.toString()) < 0) {
                text.append(text.length() == 0 ? "" : ": ").append(reason);
            }
            level = map(level.get("caused_by"));
        }
        return text.substring(0, Math.min(500, text.length()));
    }

    private static Map<?, ?> map(Object value) {
        return value instanceof Map<?, ?> map ? map : Map.of();
    }

    private Answer failed(HttpCaller.Reply reply, boolean divisible) {
        int status = reply.status();
        String detail = base + " answered " + status + ": " + told(reply);
        if (status == 413 || status == 400) {
            return new Answer(divisible ? Outcome.TOO_LARGE : Outcome.REFUSED, detail);
        }
        if (status == 429 || status == 408 || status >= 500) {
            return new Answer(Outcome.RETRY, detail, Retry.after(reply.header("Retry-After"), Clock.systemUTC()), List.of());
        }
        String advice = switch (status) {
            case 401 -> ". The credential is missing, wrong or expired: set `username` and `password`, or `api_key`, anew";
            case 403 -> ". Give this user or API key create_doc and auto_configure on the index";
            default -> ". Does `url` name a cluster?";
        };
        return new Answer(Outcome.KEEP, detail + advice);
    }

    private static String told(HttpCaller.Reply reply) {
        try {
            String reason = reasonOf(map(JsonReader.object(reply.body()).get("error")));
            return reason.isEmpty() ? reply.said() : reason;
        } catch (IOException notElasticsearch) {
            return reply.said();
        }
    }

    // ------------------------------------------------------------------------------------------------------------ template

    /** Install the index template, unless this version of it or a later one is there; null when all is well. */
    private Answer prepare(long deadline) throws IOException {
        Map<Object, Object> template = new LinkedHashMap<>(template());
        template.put("index_patterns", List.of(DIRECTIVE.matcher(index).replaceAll("*")));
        String name = "trackmate-" + DIRECTIVE.matcher(index).replaceAll(found -> TEMPLATE_NAMES.get(found.group(1)));
        URI address = URI.create(base + "/_index_template/" + SigV4.encoded(name, false));
        HttpRequest.Builder asking = HttpRequest.newBuilder(address).GET();
        headers.forEach(asking::header);
        HttpCaller.Reply found = http.call(asking, left(deadline));
        if (found.status() == 404 || HttpAnswers.isSuccess(found) && versionIn(found) < versionOf(template)) {
            HttpRequest.Builder putting =
                    HttpRequest.newBuilder(address).PUT(HttpRequest.BodyPublishers.ofByteArray(JsonWriter.bytesOf(template)));
            headers.forEach((key, value) -> putting.header(key, key.equals("Content-Type") ? "application/json" : value));
            found = http.call(putting, left(deadline));
        }
        if (HttpAnswers.isSuccess(found)) {
            return null;
        }
        Answer failure = failed(found, false);
        return failure.outcome() == Outcome.REFUSED
                ? new Answer(Outcome.KEEP, "the index template can't be installed: " + failure.detail())
                : failure;
    }

    private static int versionIn(HttpCaller.Reply reply) throws IOException {
        Object templates = JsonReader.object(reply.body()).get("index_templates");
        Object first = templates instanceof List<?> list && !list.isEmpty() ? list.get(0) : null;
        return versionOf(map(map(first).get("index_template")));
    }

    private static int versionOf(Map<?, ?> template) {
        return template.get("version") instanceof Number number ? number.intValue() : -1;
    }

    private static Map<?, ?> template() {
        try (InputStream in = ElkBackend.class.getResourceAsStream("elk-template.json")) {
            return JsonReader.object(in.readAllBytes());
        } catch (IOException broken) {
            throw new UncheckedIOException("the jar of the SDK is damaged", broken);
        }
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
