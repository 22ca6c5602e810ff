package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.Problem;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.regex.Pattern;

/**
 * Checks a configuration against the JSON Schema that all languages share, and names every mistake. It knows the part of JSON Schema
 * 2020-12 that {@code config.schema.json} uses; a test holds it against the schema.
 */
public final class Schema {
    /** Every keyword understood here. */
    public static final List<String> KEYWORDS = List.of(
            "$schema", "$id", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "pattern", "minLength",
            "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "properties", "required",
            "additionalProperties", "items", "allOf", "if", "then");

    private static final int SHOWN = 60;

    private final Map<?, ?> root;

    Schema(Map<?, ?> root) {
        this.root = root;
    }

    /** The schema of the configuration. */
    public static Map<?, ?> ofConfiguration() {
        try (InputStream in = Schema.class.getResourceAsStream("config.schema.json")) {
            return JsonReader.object(in.readAllBytes());
        } catch (IOException broken) {
            throw new UncheckedIOException("the jar of the SDK is damaged", broken);
        }
    }

    /** Every way in which a value breaks the rules. */
    List<Problem> check(Object value) {
        List<Problem> problems = new ArrayList<>();
        check(root, value, "", problems);
        return problems;
    }

    /** A valid value with the schema's defaults in the places that it leaves out. */
    static Map<String, Object> withDefaults(Map<?, ?> rules, Map<?, ?> value) {
        Map<String, Object> full = new LinkedHashMap<>();
        value.forEach((key, entry) -> full.put(String.valueOf(key), entry));
        map(rules.get("properties")).forEach((key, entry) -> {
            Map<?, ?> inner = map(entry);
            String name = (String) key;
            if (inner.containsKey("properties")) {
                full.put(name, withDefaults(inner, map(full.get(name))));
            } else if (!full.containsKey(name) && inner.containsKey("default")) {
                full.put(name, inner.get("default"));
            }
        });
        return full;
    }

    static Map<?, ?> map(Object value) {
        return value instanceof Map<?, ?> map ? map : Map.of();
    }

    private static List<?> list(Object value) {
        return value instanceof List<?> list ? list : List.of();
    }

    private void check(Map<?, ?> given, Object value, String path, List<Problem> problems) {
        Map<?, ?> rules = given.get("$ref") instanceof String reference ? resolve(reference) : given;
        if (rules.containsKey("type")) {
            List<?> wanted = rules.get("type") instanceof List<?> several ? several : List.of(rules.get("type"));
            if (wanted.stream().noneMatch(name -> is(value, (String) name))) {
                String names = String.join(" or ", wanted.stream().map(String::valueOf).toList());
                problems.add(new Problem(path, "expected " + names + ", got " + shown(value)));
                return;
            }
        }
        checkScalar(rules, value, path, problems);
        if (value instanceof Map<?, ?> map) {
            checkObject(rules, map, path, problems);
        } else if (value instanceof List<?> items) {
            for (int i = 0; i < items.size(); i++) {
                check(map(rules.get("items")), items.get(i), path + "[" + i + "]", problems);
            }
        }
        list(rules.get("allOf")).forEach(part -> check(map(part), value, path, problems));
        if (rules.containsKey("if")) {
            List<Problem> against = new ArrayList<>();
            check(map(rules.get("if")), value, path, against);
            if (against.isEmpty()) {
                check(map(rules.get("then")), value, path, problems);
            }
        }
    }

    private static void checkScalar(Map<?, ?> rules, Object value, String path, List<Problem> problems) {
        if (rules.containsKey("enum") && !list(rules.get("enum")).contains(value)) {
            String names = String.join(", ", list(rules.get("enum")).stream().map(String::valueOf).toList());
            problems.add(new Problem(path, "expected one of " + names + ", got " + shown(value)));
        }
        if (rules.containsKey("const") && !rules.get("const").equals(value)) {
            problems.add(new Problem(path, "expected " + rules.get("const") + ", got " + shown(value)));
        }
        if (value instanceof String text) {
            if (rules.get("pattern") instanceof String pattern && !Pattern.compile(pattern).matcher(text).find()) {
                Object hint = rules.get("description") == null ? "text like " + pattern : rules.get("description");
                problems.add(new Problem(path, "expected " + hint + ", got " + shown(value)));
            }
            int length = text.codePointCount(0, text.length());
            if (rules.get("minLength") instanceof Integer least && length < least) {
                problems.add(new Problem(path, "expected at least " + least + " character(s)"));
            }
            if (rules.get("maxLength") instanceof Integer most && length > most) {
                problems.add(new Problem(path, "expected at most " + most + " characters, got " + length));
            }
        } else if (is(value, "number")) {
            double number = ((Number) value).doubleValue();
            bound(rules, "minimum", "at least", value, path, problems, limit -> number >= limit);
            bound(rules, "maximum", "at most", value, path, problems, limit -> number <= limit);
            bound(rules, "exclusiveMinimum", "more than", value, path, problems, limit -> number > limit);
            bound(rules, "exclusiveMaximum", "less than", value, path, problems, limit -> number < limit);
        }
    }

    private static void bound(
            Map<?, ?> rules, String keyword, String words, Object value, String path, List<Problem> problems,
            java.util.function.DoublePredicate kept) {
        if (rules.get(keyword) instanceof Number limit && !kept.test(limit.doubleValue())) {
            problems.add(new Problem(path, "expected " + words + " " + limit + ", got " + shown(value)));
        }
    }

    private void checkObject(Map<?, ?> rules, Map<?, ?> value, String path, List<Problem> problems) {
        Map<?, ?> known = map(rules.get("properties"));
        for (Object key : list(rules.get("required"))) {
            if (!value.containsKey(key)) {
                problems.add(new Problem(join(path, (String) key), "required but missing"));
            }
        }
        value.forEach((key, entry) -> {
            String name = String.valueOf(key);
            if (known.containsKey(key)) {
                check(map(known.get(key)), entry, join(path, name), problems);
            } else if (Boolean.FALSE.equals(rules.get("additionalProperties"))) {
                TreeSet<String> names = new TreeSet<>();
                known.keySet().forEach(each -> names.add((String) each));
                String close = CloseMatch.closest(name, names);
                String hint = close == null ? "known here: " + String.join(", ", names) : "did you mean " + close + "?";
                problems.add(new Problem(join(path, name), "unknown key; " + hint));
            }
        });
    }

    private static boolean is(Object value, String name) {
        return switch (name) {
            case "object" -> value instanceof Map;
            case "array" -> value instanceof List;
            case "string" -> value instanceof String;
            case "boolean" -> value instanceof Boolean;
            case "null" -> value == null;
            case "number" -> value instanceof Number number && Double.isFinite(number.doubleValue());
            case "integer" -> is(value, "number")
                    && (value instanceof BigInteger
                            || value instanceof Integer
                            || value instanceof Long
                            || new BigDecimal(value.toString()).stripTrailingZeros().scale() <= 0);
            default -> throw new IllegalArgumentException("unknown type " + name);
        };
    }

    private Map<?, ?> resolve(String reference) {
        Object node = root;
        for (String part : reference.substring(2).split("/")) {
            node = map(node).get(part);
        }
        return map(node);
    }

    private static String join(String path, String key) {
        return path.isEmpty() ? key : path + "." + key;
    }

    /** A value in a message: short, and only its kind where it could hold a secret. */
    static String shown(Object value) {
        if (value instanceof Map) {
            return "a mapping";
        }
        if (value instanceof List) {
            return "a list";
        }
        String text = value instanceof String || value == null || value instanceof Boolean || value instanceof Number
                ? JsonWriter.textOf(value)
                : '"' + value.toString() + '"';
        return text.length() <= SHOWN ? text : text.substring(0, SHOWN - 3) + "...";
    }
}
