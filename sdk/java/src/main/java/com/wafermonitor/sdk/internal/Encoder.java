package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Batch;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Makes lines of JSON from the entries of the queue. */
final class Encoder {
    private static final byte[] EVENT_ID = Cleaning.utf8("{\"event_id\":\"");
    private static final byte[] TIMESTAMP = Cleaning.utf8("\",\"timestamp\":");

    private final Ids ids;
    private final String emitterId;
    private final byte[] emitterHead;

    /** The text of site and app, with a comma at the end. */
    private final byte[] origin;

    Encoder(Ids ids, String emitterId, Map<String, Object> origin) {
        this.ids = ids;
        this.emitterId = emitterId;
        this.emitterHead = Cleaning.utf8("\"emitter\":{\"id\":\"" + emitterId + "\",\"seq\":");
        byte[] text = JsonWriter.bytesOf(origin);
        text[text.length - 1] = ',';
        this.origin = java.util.Arrays.copyOfRange(text, 1, text.length);
    }

    String emitterId() {
        return emitterId;
    }

    /** The entries as batches that keep to the limits of a request. */
    List<Batch> pack(List<Entry> entries) {
        List<Batch> batches = new ArrayList<>();
        List<byte[]> lines = new ArrayList<>(entries.size());
        Timestamps.Stamper stamper = new Timestamps.Stamper();
        JsonWriter out = new JsonWriter(1024);
        long first = 0;
        long last = 0;
        int size = 0;
        for (Entry entry : entries) {
            byte[] line = line(entry, out, stamper);
            boolean full = size + line.length >= Limits.MAX_BATCH_BYTES || lines.size() >= Limits.MAX_BATCH_EVENTS;
            if (full && !lines.isEmpty()) {
                batches.add(new Batch(lines, emitterId, first, last));
                lines = new ArrayList<>();
                size = 0;
            }
            if (lines.isEmpty()) {
                first = entry.seq;
            }
            last = entry.seq;
            lines.add(line);
            size += line.length + 1;
        }
        if (!lines.isEmpty()) {
            batches.add(new Batch(lines, emitterId, first, last));
        }
        return batches;
    }

    private byte[] line(Entry entry, JsonWriter out, Timestamps.Stamper stamper) {
        out.reset();
        if (entry.givenId == null) {
            out.raw(EVENT_ID).ascii(ids.of(entry.idMillis, entry.seq));
            if (entry.hasTime) {
                out.ascii("\",");
            } else {
                out.raw(TIMESTAMP);
                stamper.write(out, entry.micros);
                out.raw(',');
            }
        } else {
            out.raw('{');
            if (!entry.hasTime) {
                out.ascii("\"timestamp\":");
                stamper.write(out, entry.micros);
                out.raw(',');
            }
        }
        out.raw(emitterHead).number(entry.seq).ascii("},");
        if (entry.captured instanceof byte[] text) {
            out.raw(text, 1, text.length - 1);
        } else {
            plain((Object[]) entry.captured, entry, out);
        }
        return out.toBytes();
    }

    private void plain(Object[] fields, Entry entry, JsonWriter out) {
        out.raw(origin);
        Object[] own = fields;
        if (entry.run != null) {
            int entities = entry.run.entities.isEmpty() ? -1 : indexOfEntities(fields);
            out.raw(entities < 0 ? entry.run.head : entry.run.idsHead);
            if (entities >= 0) {
                own = fields.clone();
                own[entities + 1] = merged(entry.run.entities, (Object[]) fields[entities + 1]);
            }
        }
        if (entry.traceId != null) {
            out.ascii("\"trace_id\":\"").ascii(entry.traceId).ascii("\",\"span_id\":\"").ascii(entry.spanId).ascii("\",");
        }
        out.pairs(own, own.length);
        out.close('}');
    }

    private static int indexOfEntities(Object[] fields) {
        for (int i = 0; i < fields.length; i += 2) {
            if (fields[i].equals("entities")) {
                return i;
            }
        }
        return -1;
    }

    /** The run's entities with the event's own over them. */
    private static Map<String, Object> merged(Map<String, String> ofRun, Object[] own) {
        Map<String, Object> all = new LinkedHashMap<>(ofRun);
        for (int i = 0; i < own.length; i += 2) {
            all.put((String) own[i], own[i + 1]);
        }
        return all;
    }
}
