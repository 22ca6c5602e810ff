package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.JsonReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * Some events in the order of their numbers, each a line of JSON in UTF-8 without its line feed. The same batch is the same on every
 * attempt; its emitter and numbers make names that are safe to write twice.
 */
public final class Batch {
    private final List<byte[]> lines;
    private final String emitterId;
    private final long firstSeq;
    private final long lastSeq;

    /**
     * @param lines each event's JSON; not to be changed afterwards
     * @param emitterId the {@code emitter.id} of the events
     * @param firstSeq the {@code emitter.seq} of the first
     * @param lastSeq the {@code emitter.seq} of the last
     */
    public Batch(List<byte[]> lines, String emitterId, long firstSeq, long lastSeq) {
        this.lines = Collections.unmodifiableList(lines);
        this.emitterId = emitterId;
        this.firstSeq = firstSeq;
        this.lastSeq = lastSeq;
    }

    /**
     * The events.
     *
     * @return each a line of JSON without its line feed; not to be changed
     */
    public List<byte[]> lines() {
        return lines;
    }

    /**
     * How many events there are.
     *
     * @return 1 or more
     */
    public int size() {
        return lines.size();
    }

    /**
     * Which process start made them.
     *
     * @return the {@code emitter.id} of the events
     */
    public String emitterId() {
        return emitterId;
    }

    /**
     * The number of the first event.
     *
     * @return its {@code emitter.seq}
     */
    public long firstSeq() {
        return firstSeq;
    }

    /**
     * The number of the last event.
     *
     * @return its {@code emitter.seq}
     */
    public long lastSeq() {
        return lastSeq;
    }

    /**
     * The batch as NDJSON.
     *
     * @return every line with a line feed
     */
    public byte[] body() {
        return bodyOf(lines);
    }

    /**
     * Lines as NDJSON.
     *
     * @param lines JSON without line feeds
     * @return every line with a line feed
     */
    static byte[] bodyOf(List<byte[]> lines) {
        int size = 0;
        for (byte[] line : lines) {
            size += line.length + 1;
        }
        byte[] body = new byte[size];
        int at = 0;
        for (byte[] line : lines) {
            System.arraycopy(line, 0, body, at, line.length);
            at += line.length;
            body[at++] = '\n';
        }
        return body;
    }

    /**
     * The events decoded.
     *
     * @return maps, lists, strings, numbers, booleans and nulls
     */
    public List<Map<?, ?>> events() {
        List<Map<?, ?>> events = new ArrayList<>(lines.size());
        for (byte[] line : lines) {
            try {
                events.add(JsonReader.object(line));
            } catch (IOException error) {
                throw new UncheckedIOException("a line of the batch is not JSON", error);
            }
        }
        return events;
    }

    /**
     * Two batches in place of this one, which has two events or more.
     *
     * @return the first half and the second
     */
    public List<Batch> halves() {
        int middle = lines.size() / 2;
        return List.of(
                new Batch(lines.subList(0, middle), emitterId, firstSeq, seqOf(lines.get(middle - 1), firstSeq)),
                new Batch(lines.subList(middle, lines.size()), emitterId, seqOf(lines.get(middle), firstSeq + middle), lastSeq));
    }

    private static long seqOf(byte[] line, long otherwise) {
        try {
            Object emitter = JsonReader.object(line).get("emitter");
            return emitter instanceof Map<?, ?> map && map.get("seq") instanceof Number seq ? seq.longValue() : otherwise;
        } catch (IOException notJson) {
            return otherwise;
        }
    }

    /**
     * A batch read back from a spool file, which may hold lines of any kind.
     *
     * @param lines the lines
     * @param emitterId the owner of the file
     * @param firstSeq the number in the file's name
     * @return the batch, with the numbers that its lines tell
     */
    public static Batch readBack(List<byte[]> lines, String emitterId, long firstSeq) {
        long first = seqOf(lines.get(0), firstSeq);
        return new Batch(lines, emitterId, first, seqOf(lines.get(lines.size() - 1), first + lines.size() - 1));
    }

    @Override
    public String toString() {
        return "Batch(" + emitterId + ", " + firstSeq + ".." + lastSeq + ", " + size() + " events)";
    }
}
