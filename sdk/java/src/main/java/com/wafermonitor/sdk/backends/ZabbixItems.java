package com.wafermonitor.sdk.backends;

import java.nio.charset.StandardCharsets;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.zip.CRC32;

/**
 * What Zabbix gets of an event: keys and values, as TrackMate's sink has them.
 *
 * <pre>
 * trackmate.metric[site,app,name,metric,tool]    trackmate.run.state[site,app,name,tool]     1 running, 2 ok, 3 failed, 4 aborted
 * trackmate.run.progress[site,app,name,tool]     trackmate.run.duration[site,app,name,tool]  in percent, in seconds
 * trackmate.state[site,app,name,tool]            trackmate.log[site,app]
 * </pre>
 */
final class ZabbixItems {
    private static final Pattern UNPRINTABLE = Pattern.compile("[\\x00-\\x1f\\x7f]|%(?=[0-9A-F]{2})|\\\\$");
    private static final Pattern NEEDS_QUOTES = Pattern.compile("^[\" \\[]|[,\\]]");
    private static final Map<String, Integer> SEVERITIES =
            Map.of("debug", 10, "info", 1, "warning", 2, "error", 4, "critical", 9);
    private static final Map<String, Integer> STATES = Map.of("ok", 2, "failed", 3, "aborted", 4);
    private static final int LONGEST_TEXT = 65_535;
    private static final int LONGEST_SOURCE = 64;
    private static final int LONGEST_SUBJECT = 230;

    private ZabbixItems() {}

    /**
     * One item of the host.
     *
     * @param prefix what its key begins with
     * @param rule the parameter of the discovery rule that makes it
     * @param values what stands in the key's brackets, by name
     */
    record Item(String prefix, String rule, Map<String, String> values) {
        String key() {
            return prefix + "[" + values.values().stream().map(ZabbixItems::quoted).collect(Collectors.joining(",")) + "]";
        }

        /** The item as one row of low-level discovery. */
        Map<String, String> macros() {
            Map<String, String> macros = new LinkedHashMap<>();
            values.forEach((name, value) -> macros.put("{#" + name.toUpperCase(Locale.ROOT) + "}", printable(value)));
            macros.put("{#SUBJECT}", subject());
            return macros;
        }

        private String subject() {
            List<String> parts = new ArrayList<>();
            String named = List.of("metric", "name").stream()
                    .filter(values::containsKey)
                    .map(values::get)
                    .collect(Collectors.joining(" of "));
            parts.add(named);
            parts.add(values.getOrDefault("tool", "").isEmpty() ? "" : "on " + values.get("tool"));
            parts.add("(" + values.get("site") + ", " + values.get("app") + ")");
            String subject = parts.stream().filter(part -> !part.isEmpty()).collect(Collectors.joining(" "));
            return subject.substring(0, subject.offsetByCodePoints(0, Math.min(LONGEST_SUBJECT, subject.codePointCount(0, subject.length()))));
        }
    }

    /** One value for one item; `extra` is what a log item takes besides. */
    record Reading(Item item, String text, Map<String, Object> extra) {}

    /** Every value that Zabbix gets of an event; none when it carries neither number, state nor text. */
    static List<Reading> readings(Map<?, ?> event) {
        String kind = text(event, "kind");
        String name = text(event, "name");
        String app = text(map(event.get("app")), "name");
        String site = text(event, "site_id");
        String tool = text(map(event.get("entities")), "tool");
        List<Reading> found = new ArrayList<>();
        int state = runState(event, kind);
        if (state > 0) {
            found.add(reading("trackmate.run.state", "run", of(site, app, name, null, tool), Integer.toString(state)));
        }
        if (event.get("progress") instanceof Number progress) {
            String percent = compact(progress.doubleValue() * 100);
            found.add(reading("trackmate.run.progress", "run", of(site, app, name, null, tool), percent));
        }
        if (event.get("duration_ms") instanceof Number duration) {
            String seconds = Double.toString(duration.doubleValue() / 1000);
            found.add(reading("trackmate.run.duration", "run", of(site, app, name, null, tool), seconds));
        }
        if (kind.equals("state")) {
            String to = storable(text(map(event.get("state")), "to"));
            found.add(reading("trackmate.state", "state", of(site, app, name, null, tool), to));
        }
        map(event.get("metrics")).forEach((metric, value) -> found.add(reading(
                "trackmate.metric", "metric", of(site, app, name, (String) metric, tool),
                Double.toString(((Number) value).doubleValue()))));
        String line = logText(event, kind, name);
        if (line != null) {
            Map<String, Object> extra = new LinkedHashMap<>();
            String source = storable(name);
            extra.put("source", source.substring(0, source.offsetByCodePoints(0, Math.min(LONGEST_SOURCE, source.codePointCount(0, source.length())))));
            String severity = event.get("severity") instanceof String own ? own : kind.equals("error") ? "error" : "info";
            extra.put("severity", SEVERITIES.getOrDefault(severity, 1));
            Map<String, String> values = new LinkedHashMap<>();
            values.put("site", site);
            values.put("app", app);
            found.add(new Reading(new Item("trackmate.log", "log", values), line, extra));
        }
        return found;
    }

    private static Map<String, String> of(String site, String app, String name, String metric, String tool) {
        Map<String, String> values = new LinkedHashMap<>();
        values.put("site", site);
        values.put("app", app);
        values.put("name", name);
        if (metric != null) {
            values.put("metric", metric);
        }
        values.put("tool", tool);
        return values;
    }

    private static Reading reading(String prefix, String rule, Map<String, String> values, String text) {
        return new Reading(new Item(prefix, rule, values), text, Map.of());
    }

    private static int runState(Map<?, ?> event, String kind) {
        String status = text(event, "status");
        return switch (kind) {
            case "start" -> 1;
            case "finish" -> STATES.getOrDefault(status, 2);
            case "error" -> event.containsKey("run_id") ? STATES.getOrDefault(status, 3) : 0;
            default -> 0;
        };
    }

    private static String logText(Map<?, ?> event, String kind, String name) {
        Map<?, ?> error = map(event.get("error"));
        boolean speaks = kind.equals("log") || kind.equals("error") || event.containsKey("message") || !error.isEmpty();
        if (!speaks) {
            return null;
        }
        Map<String, String> named = new LinkedHashMap<>();
        Map<String, String> entities = new TreeMap<>();
        map(event.get("entities")).forEach((key, value) -> entities.put((String) key, String.valueOf(value)));
        named.putAll(entities);
        named.put("event_id", text(event, "event_id"));
        if (event.containsKey("run_id")) {
            named.put("run_id", text(event, "run_id"));
        }
        String message = event.get("message") instanceof String said ? ": " + said : "";
        StringBuilder text = new StringBuilder(name).append(message).append(" [");
        text.append(named.entrySet().stream().map(each -> each.getKey() + "=" + each.getValue()).collect(Collectors.joining(", ")));
        text.append(']');
        if (!error.isEmpty()) {
            text.append('\n').append(text(error, "type")).append(": ").append(text(error, "message"));
            if (error.containsKey("stack")) {
                text.append('\n').append(text(error, "stack"));
            }
        }
        return storable(text.toString());
    }

    /** Unix time of an event in nanoseconds: its microseconds, and below them what tells events of one microsecond apart. */
    static long nanoseconds(Map<?, ?> event) {
        LocalDateTime moment = Lines.moment(text(event, "timestamp"));
        if (moment == null) {
            return 0;
        }
        long micros = moment.toEpochSecond(ZoneOffset.UTC) * 1_000_000L + moment.getNano() / 1000;
        long tie;
        if (map(event.get("emitter")).get("seq") instanceof Number seq) {
            tie = seq.longValue();
        } else {
            CRC32 checksum = new CRC32();
            checksum.update(text(event, "event_id").getBytes(StandardCharsets.UTF_8));
            tie = checksum.getValue();
        }
        return micros * 1000 + tie % 1000;
    }

    /** A parameter without what a key can't hold: control characters and a last backslash become %XX, and so does such a %. */
    private static String printable(String text) {
        return UNPRINTABLE.matcher(text).replaceAll(found -> {
            int character = found.group().charAt(0);
            return String.format(Locale.ROOT, "%%%02X", character);
        });
    }

    private static String quoted(String value) {
        String text = printable(value);
        return NEEDS_QUOTES.matcher(text).find() ? '"' + text.replace("\"", "\\\"") + '"' : text;
    }

    /** Text as Zabbix keeps it whole: no NUL, at which it would end, and no more bytes than it takes, with a word on the rest. */
    private static String storable(String text) {
        String clean = text.replace('\0', '\ufffd');
        byte[] data = clean.getBytes(StandardCharsets.UTF_8);
        if (data.length <= LONGEST_TEXT) {
            return clean;
        }
        String mark = "… (" + data.length + " bytes in all)";
        int end = LONGEST_TEXT - mark.getBytes(StandardCharsets.UTF_8).length;
        while (end > 0 && (data[end] & 0xc0) == 0x80) {
            end--;
        }
        return new String(data, 0, end, StandardCharsets.UTF_8) + mark;
    }

    /** Twelve significant digits, without zeros at the end. */
    private static String compact(double number) {
        return new java.math.BigDecimal(number)
                .round(new java.math.MathContext(12))
                .stripTrailingZeros()
                .toPlainString();
    }

    private static Map<?, ?> map(Object value) {
        return value instanceof Map<?, ?> map ? map : Map.of();
    }

    private static String text(Map<?, ?> map, String key) {
        return map.get(key) == null ? "" : map.get(key).toString();
    }
}
