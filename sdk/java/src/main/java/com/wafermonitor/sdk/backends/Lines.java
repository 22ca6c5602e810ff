package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.JsonReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What backends read in the lines of a batch. */
final class Lines {
    private static final Pattern TIMESTAMP = Pattern.compile("\"timestamp\":\"(\\d{4}-\\d\\d-\\d\\d)T(\\d\\d):[^\"]*Z\"");
    private static final DateTimeFormatter PARTITION = DateTimeFormatter.ofPattern("'date='uuuu-MM-dd'/hour='HH");

    private Lines() {}

    /** Lines that belong into one folder, with their places in the batch. */
    record Part(String partition, List<byte[]> lines, long firstSeq, long lastSeq) {}

    /** The batch by folders, from the events' timestamps in UTC: {@code date=2026-07-01/hour=09}. */
    static List<Part> parts(Batch batch) {
        Map<String, List<Integer>> places = new LinkedHashMap<>();
        for (int i = 0; i < batch.size(); i++) {
            places.computeIfAbsent(partition(batch.lines().get(i)), folder -> new ArrayList<>()).add(i);
        }
        if (places.size() == 1) {
            return List.of(new Part(places.keySet().iterator().next(), batch.lines(), batch.firstSeq(), batch.lastSeq()));
        }
        List<Part> parts = new ArrayList<>();
        places.forEach((partition, of) -> {
            List<byte[]> lines = of.stream().map(batch.lines()::get).toList();
            Batch part = Batch.readBack(lines, batch.emitterId(), batch.firstSeq() + of.get(0));
            parts.add(new Part(partition, lines, part.firstSeq(), part.lastSeq()));
        });
        return parts;
    }

    private static String partition(byte[] line) {
        String text = new String(line, StandardCharsets.ISO_8859_1);
        int place = text.indexOf("\"timestamp\":");
        Matcher found = TIMESTAMP.matcher(text);
        if (place >= 0 && text.indexOf("\"timestamp\":", place + 1) < 0 && found.find(place)) {
            return "date=" + found.group(1) + "/hour=" + found.group(2);
        }
        LocalDateTime moment = moment(line);
        return moment == null ? "date=unknown/hour=00" : PARTITION.format(moment);
    }

    /** The event's timestamp in UTC; null when the line has none that can be read. */
    static LocalDateTime moment(byte[] line) {
        try {
            return JsonReader.object(line).get("timestamp") instanceof String text ? moment(text) : null;
        } catch (IOException notJson) {
            return null;
        }
    }

    static LocalDateTime moment(String timestamp) {
        try {
            String text = timestamp.toUpperCase(Locale.ROOT).replace(' ', 'T');
            return OffsetDateTime.parse(shortened(text)).withOffsetSameInstant(ZoneOffset.UTC).toLocalDateTime();
        } catch (java.time.DateTimeException unreadable) {
            return null;
        }
    }

    /** Without digits below a nanosecond, which Java doesn't read. */
    private static String shortened(String text) {
        return text.replaceFirst("(\\.\\d{9})\\d+", "$1");
    }
}
