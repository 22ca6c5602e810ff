package com.wafermonitor.sdk.internal;

import java.util.Map;

/**
 * Copies an event on the caller's thread, and leaves its JSON to the worker.
 *
 * <p>Nearly every event is plain: strings, boxed numbers and booleans, nothing nested in {@code attributes}, far from every limit.
 * {@link #plain} finds that out while it copies, in a few hundred nanoseconds. What is not plain goes through {@link Cleaning}, which
 * names the mistake or mends what may be mended, and is encoded on the spot, since only that tells whether it is JSON and how large it
 * is.
 */
public final class Capture {
    // An event within these is below 256 KiB even when every character needs an escape of six bytes.
    private static final int PLAIN_ENTRIES = 24;
    private static final int PLAIN_MESSAGE = 2048;
    private static final int PLAIN_TEXT = 256;

    private static final int KIND = 1;
    private static final int NAME = 2;
    private static final int END_FIELD = 4;
    private static final int PROGRESS = 8;

    private Capture() {}

    /** Keys and values in turn, tables as arrays in arrays, of an event that is surely valid and small; null: look closer. */
    public static Object[] plain(Map<?, ?> event) {
        if (event == null) {
            return null;
        }
        int size = event.size();
        if (size > 12) {
            return null;
        }
        Object[] copy = new Object[size * 2];
        int at = 0;
        int seen = 0;
        String kind = null;
        for (Map.Entry<?, ?> entry : event.entrySet()) {
            if (at == copy.length || !(entry.getKey() instanceof String field)) {
                return null;
            }
            Object value = entry.getValue();
            switch (field) {
                case "kind" -> {
                    kind = value instanceof String text ? text : null;
                    seen |= KIND;
                }
                case "name" -> {
                    if (!isText(value, Limits.MAX_TEXT)) {
                        return null;
                    }
                    seen |= NAME;
                }
                case "message" -> {
                    if (!(value instanceof String text) || text.length() > PLAIN_MESSAGE) {
                        return null;
                    }
                }
                case "severity" -> {
                    if (!Cleaning.SEVERITIES.contains(value == null ? "" : value)) {
                        return null;
                    }
                }
                case "status" -> {
                    if (!Cleaning.STATUSES.contains(value == null ? "" : value)) {
                        return null;
                    }
                    seen |= END_FIELD;
                }
                case "duration_ms" -> {
                    if (!isNumber(value) || !(((Number) value).doubleValue() >= 0)) {
                        return null;
                    }
                    seen |= END_FIELD;
                }
                case "progress" -> {
                    if (!isNumber(value) || !(((Number) value).doubleValue() >= 0 && ((Number) value).doubleValue() <= 1)) {
                        return null;
                    }
                    seen |= PROGRESS;
                }
                case "entities" -> value = value instanceof Map<?, ?> map ? entities(map) : null;
                case "metrics" -> value = value instanceof Map<?, ?> map ? metrics(map) : null;
                case "attributes" -> value = value instanceof Map<?, ?> map ? attributes(map) : null;
                default -> {
                    return null;
                }
            }
            if (value == null) {
                return null;
            }
            copy[at++] = field;
            copy[at++] = value;
        }
        return at == copy.length && fits(kind, seen) ? copy : null;
    }

    private static boolean fits(String kind, int seen) {
        if (kind == null || (seen & NAME) == 0) {
            return false;
        }
        return switch (kind) {
            case "metric", "log", "start" -> (seen & (END_FIELD | PROGRESS)) == 0;
            case "finish", "error" -> (seen & PROGRESS) == 0;
            case "progress" -> (seen & END_FIELD) == 0;
            default -> false;
        };
    }

    // Three loops alike on purpose: the JIT keeps the types of maps and values apart for each. With one loop for all three tables `plain`
    // took 120 ns in place of 80 for the event of benchmarks/emit_cost_java.

    private static Object[] entities(Map<?, ?> map) {
        int size = map.size();
        if (size > PLAIN_ENTRIES) {
            return null;
        }
        Object[] copy = new Object[size * 2];
        int at = 0;
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            if (at == copy.length || !isText(entry.getKey(), Limits.MAX_TEXT) || !isText(entry.getValue(), Limits.MAX_TEXT)) {
                return null;
            }
            copy[at++] = entry.getKey();
            copy[at++] = entry.getValue();
        }
        return at == copy.length ? copy : null;
    }

    private static Object[] metrics(Map<?, ?> map) {
        int size = map.size();
        if (size > PLAIN_ENTRIES) {
            return null;
        }
        Object[] copy = new Object[size * 2];
        int at = 0;
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            if (at == copy.length || !isText(entry.getKey(), Limits.MAX_TEXT) || !isNumber(entry.getValue())) {
                return null;
            }
            copy[at++] = entry.getKey();
            copy[at++] = entry.getValue();
        }
        return at == copy.length ? copy : null;
    }

    private static Object[] attributes(Map<?, ?> map) {
        int size = map.size();
        if (size > PLAIN_ENTRIES) {
            return null;
        }
        Object[] copy = new Object[size * 2];
        int at = 0;
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            if (at == copy.length || !(entry.getKey() instanceof String key) || key.length() > PLAIN_TEXT) {
                return null;
            }
            Object value = entry.getValue();
            boolean isPlain = value == null
                    || value instanceof Boolean
                    || (value instanceof String text ? text.length() <= PLAIN_TEXT : isNumber(value));
            if (!isPlain) {
                return null;
            }
            copy[at++] = key;
            copy[at++] = value;
        }
        return at == copy.length ? copy : null;
    }

    private static boolean isText(Object value, int longest) {
        return value instanceof String text && !text.isEmpty() && text.length() <= longest;
    }

    /** A number that can't change any more and has a JSON form. */
    private static boolean isNumber(Object value) {
        if (value instanceof Double number) {
            return number - number == 0.0; // infinity and NaN, less themselves, are NaN
        }
        return value instanceof Integer
                || value instanceof Long
                || value instanceof Float number && number - number == 0.0f
                || value instanceof Short
                || value instanceof Byte;
    }
}
