package com.wafermonitor.sdk.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.InvalidEventException;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.URI;
import java.nio.file.Path;
import java.time.Clock;
import java.time.Instant;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class EncodingTest {
    @Test
    void textIsEscapedWrongly() throws IOException {
        StringBuilder all = new StringBuilder();
        for (int c = 1; c < 0x3000; c++) {
            all.append((char) c);
        }
        all.append("😀\uffff");
        assertEquals(all.toString(), JsonReader.read(JsonWriter.bytesOf(all.toString())));
    }

    @Test
    void whatIsNoUnicodeReachesTheWire() {
        assertEquals("\"a\ufffdb\"", JsonWriter.textOf("a\0b"));
        assertEquals("\"\ufffd\"", JsonWriter.textOf("\udc00"));
        assertEquals("\"\ufffdx\"", JsonWriter.textOf("\ud800x"));
    }

    @Test
    void aValueWithAJsonFormIsRefused() {
        assertEquals("[1,2]", JsonWriter.textOf(new int[] {1, 2}));
        assertEquals("[\"a\",null]", JsonWriter.textOf(new Object[] {"a", null}));
        assertEquals("[1,2]", JsonWriter.textOf(new java.util.TreeSet<>(Set.of(2, 1))));
        assertEquals("\"SECONDS\"", JsonWriter.textOf(TimeUnit.SECONDS));
        assertEquals("\"/a/b\"", JsonWriter.textOf(Path.of("/a/b")));
        assertEquals("\"http://a\"", JsonWriter.textOf(URI.create("http://a")));
        assertEquals("\"1970-01-01T00:00:00Z\"", JsonWriter.textOf(Instant.EPOCH));
        assertEquals("\"1970-01-01T00:00:00Z\"", JsonWriter.textOf(new java.util.Date(0)));
        assertEquals("1E+30", JsonWriter.textOf(new BigDecimal("1E+30")));
        assertEquals("1000000000000000000000000000000", JsonWriter.textOf(BigInteger.TEN.pow(30)));
        assertEquals("[null,null,0.1,null]", JsonWriter.textOf(
                Arrays.asList(Double.NaN, Double.POSITIVE_INFINITY, 0.1f, Optional.empty())));
        assertEquals("{\"1\":true,\"null\":\"c\"}", JsonWriter.textOf(new java.util.LinkedHashMap<Object, Object>() {
            private static final long serialVersionUID = 1L;

            {
                put(1, true);
                put(null, 'c');
            }
        }));
    }

    @Test
    void whatIsNoJsonIsTaken() {
        assertThrows(InvalidEventException.class, () -> JsonWriter.bytesOf(new Object()));
        assertThrows(InvalidEventException.class, () -> JsonWriter.bytesOf(Map.of(List.of(), 1)));
        assertThrows(InvalidEventException.class, () -> JsonWriter.bytesOf(BigInteger.TEN.pow(308)));
        assertThrows(InvalidEventException.class, () -> JsonWriter.bytesOf(new BigDecimal("1E+400")));
        List<Object> cycle = new ArrayList<>();
        cycle.add(cycle);
        assertThrows(InvalidEventException.class, () -> JsonWriter.bytesOf(cycle));
    }

    @Test
    void idsRepeatOrGoBack() {
        Ids source = new Ids();
        Set<String> seen = new HashSet<>();
        String last = "";
        for (long i = 1; i <= 10_000; i++) {
            String id = source.of(1_700_000_000_000L + i / 100, i);
            assertTrue(seen.add(id) && id.compareTo(last) > 0, id);
            last = id;
        }
        UUID id = UUID.fromString(last);
        assertEquals(7, id.version());
        assertEquals(2, id.variant());
        assertEquals(1_700_000_000_100L, id.getMostSignificantBits() >>> 16);
        assertEquals(100, java.util.stream.Stream.generate(Ids::uuid7).limit(100).distinct().count());
    }

    @Test
    void aTimestampIsWrittenWrongly() {
        Timestamps.Stamper stamper = new Timestamps.Stamper();
        for (Map.Entry<Long, String> each : Map.of(
                        0L, "1970-01-01T00:00:00.000000Z", 1L, "1970-01-01T00:00:00.000001Z",
                        1_767_225_600_123_456L, "2026-01-01T00:00:00.123456Z").entrySet()) {
            JsonWriter out = new JsonWriter(64);
            stamper.write(out, each.getKey());
            assertEquals('"' + each.getValue() + '"', new String(out.toBytes(), java.nio.charset.StandardCharsets.UTF_8));
        }
    }

    @Test
    void aLikelyNameIsNotSuggested() {
        assertEquals("severity", CloseMatch.closest("sevrity", Cleaning.FIELDS));
        assertNull(CloseMatch.closest("temperature", Cleaning.FIELDS));
        assertEquals("batch_size", CloseMatch.closest("batchsize", List.of("batch_size", "on_full")));
    }

    @Test
    void retryAfterIsMisread() {
        Clock clock = Clock.fixed(Instant.parse("2026-01-31T12:00:00Z"), ZoneOffset.UTC);
        assertEquals(7, Retry.after(" 7 ", clock));
        assertEquals(90, Retry.after("Sat, 31 Jan 2026 12:01:30 GMT", clock));
        assertEquals(0, Retry.after("Sat, 31 Jan 2026 11:00:00 GMT", clock));
        assertEquals(3600, Retry.after("999999999999999999999", clock));
        for (String nothing : new String[] {null, "", "soon", "-1", "1.5"}) {
            assertEquals(0, Retry.after(nothing, clock));
        }
    }

    @Test
    void theSchemaUsesAKeywordThatNobodyChecks() {
        assertEquals(Set.of(), unknown(Schema.ofConfiguration()));
    }

    private static Set<String> unknown(Map<?, ?> rules) {
        Set<String> found = new HashSet<>();
        rules.forEach((key, value) -> {
            if (!Schema.KEYWORDS.contains(key)) {
                found.add((String) key);
            }
            if (key.equals("properties") || key.equals("$defs")) {
                ((Map<?, ?>) value).values().forEach(inner -> found.addAll(unknown((Map<?, ?>) inner)));
            } else if (value instanceof Map<?, ?> inner && !key.equals("default")) {
                found.addAll(unknown(inner));
            } else if (key.equals("allOf")) {
                ((List<?>) value).forEach(inner -> found.addAll(unknown((Map<?, ?>) inner)));
            }
        });
        return found;
    }
}
