package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.InvalidEventException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.regex.Pattern;

/**
 * The whole truth about an event that is not plain: names the first mistake, or mends what the contract lets an SDK mend.
 *
 * <p>Mended: NaN and infinities (metrics are left out and named in the attribute {@code dropped_metrics}; in attributes they become
 * null), text that is not valid Unicode and U+0000 (each such character becomes U+FFFD, by {@link JsonWriter}), a message over 8 KiB
 * (cut, with the attribute {@code truncated}), numbers of other kinds, dates, paths and the like.
 */
public final class Cleaning {
    static final List<String> KINDS = List.of("start", "progress", "finish", "error", "metric", "log", "state");
    static final List<String> STATUSES = List.of("ok", "failed", "aborted");
    static final List<String> SEVERITIES = List.of("debug", "info", "warning", "error", "critical");
    private static final List<String> ENDS = List.of("finish", "error");
    private static final Map<String, List<String>> KINDS_OF_FIELD = Map.of(
            "status", ENDS, "duration_ms", ENDS, "error", ENDS, "progress", List.of("progress"), "state", List.of("state"));

    /** Every field that a program may give, in the order of the contract. */
    static final List<String> FIELDS = List.of(
            "event_id", "timestamp", "kind", "name", "site_id", "app", "run_id", "parent_run_id", "entities", "status", "severity",
            "message", "progress", "duration_ms", "state", "metrics", "error", "trace_id", "span_id", "attributes");

    private static final Set<String> KNOWN = Set.copyOf(FIELDS);
    private static final Pattern UUID_TEXT = Pattern.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}");
    private static final Pattern TRACE_ID = Pattern.compile("[0-9a-f]{32}");
    private static final Pattern SPAN_ID = Pattern.compile("[0-9a-f]{16}");
    private static final BigInteger TOO_LONG = BigInteger.TEN.pow(Limits.MAX_INTEGER_DIGITS);
    private static final String OWN_DATA = "unknown field; put data of your own under 'attributes'";

    private Cleaning() {}

    /**
     * A valid copy of an event; only its attributes may still hold what is no JSON.
     *
     * @throws InvalidEventException for the first mistake
     */
    public static Map<String, Object> clean(Map<?, ?> given) {
        if (given == null) {
            throw new InvalidEventException("", "expected a map such as Map.of(\"kind\", \"log\", \"name\", \"etch\"), got null");
        }
        for (String field : List.of("kind", "name")) {
            if (!given.containsKey(field)) {
                throw new InvalidEventException(field, "required field is missing");
            }
        }
        String kind = choice("kind", given.get("kind"), KINDS);
        checkFields(given, kind);
        Map<String, Object> copy = new LinkedHashMap<>();
        given.forEach((field, value) -> copy.put((String) field, field((String) field, value)));
        leaveOutMetrics(copy);
        shorten(copy);
        return copy;
    }

    /** The same, of which nothing can change any more: all of it is JSON. */
    public static Map<String, Object> frozen(Map<?, ?> given) {
        try {
            Map<String, Object> copy = new LinkedHashMap<>();
            JsonReader.object(JsonWriter.bytesOf(clean(given))).forEach((field, value) -> copy.put((String) field, value));
            return Collections.unmodifiableMap(copy);
        } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
        }
    }

    // ------------------------------------------------------------------------------------------------------------ fields

    private static void checkFields(Map<?, ?> event, String kind) {
        for (Object key : event.keySet()) {
            String field = String.valueOf(key);
            List<String> kinds = KINDS_OF_FIELD.get(field);
            if (kinds != null && !kinds.contains(kind)) {
                throw new InvalidEventException(
                        field, "is only allowed on kind " + String.join(" or ", kinds) + ", not on " + kind);
            }
            if (key instanceof String && KNOWN.contains(field)) {
                continue;
            }
            if (field.equals("emitter")) {
                throw new InvalidEventException(field, "is made by the SDK; leave it out");
            }
            String close = CloseMatch.closest(field, FIELDS);
            throw new InvalidEventException(field, close == null ? OWN_DATA : "unknown field; did you mean '" + close + "'?");
        }
        if (kind.equals("state") && !event.containsKey("state")) {
            throw new InvalidEventException("state", "required field is missing");
        }
    }

    private static Object field(String field, Object value) {
        return switch (field) {
            case "event_id", "run_id", "parent_run_id" -> uuid(field, value);
            case "timestamp" -> Timestamps.checked(field, value);
            case "kind" -> choice(field, value, KINDS);
            case "status" -> choice(field, value, STATUSES);
            case "severity" -> choice(field, value, SEVERITIES);
            case "name" -> shortText(field, value, Limits.MAX_TEXT);
            case "site_id" -> shortText(field, value, Limits.MAX_SITE);
            case "app" -> struct(field, value, List.of("name"), List.of("name", "version", "instance_id"), List.of());
            case "state" -> struct(field, value, List.of("to"), List.of("to", "from"), List.of());
            case "error" -> struct(field, value, List.of("type", "message"), List.of("type"), List.of("message", "stack"));
            case "entities" -> table(field, value, (path, entry) -> shortText(path, entry, Limits.MAX_TEXT));
            case "metrics" -> table(field, value, Cleaning::number);
            case "message" -> text(field, value);
            case "progress" -> progress(field, value);
            case "duration_ms" -> duration(field, value);
            case "trace_id" -> hex(field, value, TRACE_ID, 32);
            case "span_id" -> hex(field, value, SPAN_ID, 16);
            default -> attributes(field, value);
        };
    }

    private static String choice(String path, Object value, List<String> choices) {
        String text = text(path, value instanceof Enum<?> constant ? constant.name().toLowerCase(java.util.Locale.ROOT) : value);
        if (!choices.contains(text)) {
            throw new InvalidEventException(path, "expected one of " + String.join(", ", choices) + ", got '" + text + "'");
        }
        return text;
    }

    static String text(String path, Object value) {
        if (value instanceof CharSequence text) {
            return text.toString();
        }
        throw new InvalidEventException(path, "expected string, got " + typeName(value));
    }

    static String shortText(String path, Object value, int longest) {
        String text = text(path, value);
        if (text.isEmpty()) {
            throw new InvalidEventException(path, "expected at least 1 character(s)");
        }
        if (text.length() > longest && text.codePointCount(0, text.length()) > longest) {
            throw new InvalidEventException(path, "expected at most " + longest + " character(s)");
        }
        return text;
    }

    private static String uuid(String path, Object value) {
        String text = value instanceof UUID ? value.toString() : text(path, value);
        if (!UUID_TEXT.matcher(text).matches()) {
            throw new InvalidEventException(
                    path, "expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057");
        }
        return text;
    }

    private static String hex(String path, Object value, Pattern pattern, int digits) {
        String text = text(path, value);
        if (!pattern.matcher(text).matches()) {
            throw new InvalidEventException(path, "expected " + digits + " lower-case hexadecimal digits");
        }
        return text;
    }

    private static Number number(String path, Object value) {
        if (!(value instanceof Number number)) {
            throw new InvalidEventException(path, "expected number, got " + typeName(value));
        }
        BigInteger whole = number instanceof BigInteger big ? big : null;
        if (whole != null && whole.abs().compareTo(TOO_LONG) >= 0) {
            throw new InvalidEventException(path, "expected a number of at most " + Limits.MAX_INTEGER_DIGITS + " digits");
        }
        return number instanceof BigDecimal decimal ? (Number) decimal.doubleValue() : number;
    }

    private static Number progress(String path, Object value) {
        Number number = number(path, value);
        if (!(number.doubleValue() >= 0)) {
            throw new InvalidEventException(path, "expected a number not below 0");
        }
        if (number.doubleValue() > 1) {
            throw new InvalidEventException(path, "expected a number not above 1");
        }
        return number;
    }

    private static Number duration(String path, Object value) {
        Number number = number(path, value);
        if (!(number.doubleValue() >= 0 && number.doubleValue() < Double.POSITIVE_INFINITY)) {
            throw new InvalidEventException(path, "expected a number not below 0");
        }
        return number;
    }

    @FunctionalInterface
    private interface Check {
        Object of(String path, Object value);
    }

    private static Map<String, Object> table(String path, Object value, Check check) {
        Map<String, Object> copy = new LinkedHashMap<>();
        for (Map.Entry<?, ?> entry : object(path, value).entrySet()) {
            Object key = entry.getKey();
            int length = key instanceof String text ? text.codePointCount(0, text.length()) : 0;
            if (length == 0 || length > Limits.MAX_TEXT) {
                throw new InvalidEventException(path, "expected keys of 1 to " + Limits.MAX_TEXT + " characters");
            }
            copy.put((String) key, check.of(path + "." + key, entry.getValue()));
        }
        return copy;
    }

    private static Map<String, Object> struct(
            String path, Object value, List<String> required, List<String> shorts, List<String> longs) {
        Map<?, ?> given = object(path, value);
        for (String field : required) {
            if (!given.containsKey(field)) {
                throw new InvalidEventException(path + "." + field, "required field is missing");
            }
        }
        Map<String, Object> copy = new LinkedHashMap<>();
        for (Object key : given.keySet()) {
            if (!(key instanceof String field) || !(shorts.contains(field) || longs.contains(field))) {
                throw new InvalidEventException(path + "." + key, OWN_DATA);
            }
        }
        given.forEach((key, entry) -> {
            String place = path + "." + key;
            String text = shorts.contains((String) key) ? shortText(place, entry, Limits.MAX_TEXT) : text(place, entry);
            copy.put((String) key, text);
        });
        return copy;
    }

    private static Map<?, ?> object(String path, Object value) {
        if (value instanceof Map<?, ?> map) {
            return map;
        }
        throw new InvalidEventException(path, "expected object, got " + typeName(value));
    }

    private static Map<Object, Object> attributes(String path, Object value) {
        return new LinkedHashMap<>(object(path, value));
    }

    static String typeName(Object value) {
        if (value == null) {
            return "null";
        }
        if (value instanceof Boolean) {
            return "boolean";
        }
        if (value instanceof CharSequence) {
            return "string";
        }
        if (value instanceof Number) {
            return value instanceof Double || value instanceof Float || value instanceof BigDecimal ? "number" : "integer";
        }
        if (value instanceof Map) {
            return "object";
        }
        return value instanceof Iterable || value.getClass().isArray() ? "array" : value.getClass().getName();
    }

    // ----------------------------------------------------------------------------------------------------------- mending

    /** Leave out metrics that are no numbers in JSON, and say so. */
    private static void leaveOutMetrics(Map<String, Object> event) {
        if (!(event.get("metrics") instanceof Map<?, ?> metrics)) {
            return;
        }
        List<Object> dropped = new ArrayList<>();
        metrics.forEach((name, number) -> {
            if (number instanceof Number value && !Double.isFinite(value.doubleValue())) {
                dropped.add(name);
            }
        });
        if (!dropped.isEmpty()) {
            Map<Object, Object> kept = new LinkedHashMap<>(metrics);
            kept.keySet().removeAll(dropped);
            event.put("metrics", kept);
            addAttribute(event, "dropped_metrics", dropped);
        }
    }

    /** Cut a message that is too long, between two characters, and say so. */
    private static void shorten(Map<String, Object> event) {
        if (event.get("message") instanceof String message && message.length() * 3 > Limits.MAX_MESSAGE_BYTES) {
            int bytes = 0;
            int place = 0;
            while (place < message.length()) {
                int point = message.codePointAt(place);
                boolean mended = point == 0 || point >= 0xd800 && point <= 0xdfff;
                bytes += mended ? 3 : utf8Length(point);
                if (bytes > Limits.MAX_MESSAGE_BYTES) {
                    event.put("message", message.substring(0, place));
                    addAttribute(event, "truncated", true);
                    return;
                }
                place += Character.charCount(point);
            }
        }
    }

    private static int utf8Length(int point) {
        if (point < 0x80) {
            return 1;
        }
        return point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    }

    private static void addAttribute(Map<String, Object> event, String name, Object value) {
        Map<Object, Object> attributes =
                event.get("attributes") instanceof Map<?, ?> own ? new LinkedHashMap<>(own) : new LinkedHashMap<>();
        attributes.put(name, value);
        event.put("attributes", attributes);
    }

    /** Head and tail of a text that is too long, measured in characters. */
    public static String cut(String text, int longest) {
        if (text.length() <= longest) {
            return text;
        }
        int half = longest / 2;
        return text.substring(0, half)
                + "\n... "
                + (text.length() - 2 * half)
                + " characters left out ...\n"
                + text.substring(text.length() - half);
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
