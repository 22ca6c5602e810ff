package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Batch;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/** Dead letters: events that a backend refused for good, each a line with the reason, in the form of the sidecar's. */
record Letters(String emitterId, long firstSeq, byte[] body) {
    /** Those of all events of a batch that is refused as a whole. */
    static Letters of(String backend, Batch batch, String why) {
        return of(backend, batch, IntStream.range(0, batch.size()).mapToObj(place -> new Answer.Rejection(place, "", why)).toList());
    }

    /** None: a batch as it is, which is how what the sidecar refused as a whole is kept. */
    static Letters raw(Batch batch) {
        return new Letters(batch.emitterId(), batch.firstSeq(), batch.body());
    }

    /** Those of a batch's events that these rejections are about, one or more. */
    static Letters of(String backend, Batch batch, List<Answer.Rejection> rejections) {
        String now = Instant.now().truncatedTo(ChronoUnit.MILLIS).toString();
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        long first = -1;
        for (Answer.Rejection rejection : rejections) {
            byte[] line = batch.lines().get(rejection.index());
            Map<?, ?> event = read(line);
            long number = event.get("emitter") instanceof Map<?, ?> emitter && emitter.get("seq") instanceof Number given
                    ? given.longValue()
                    : batch.firstSeq() + rejection.index();
            first = first < 0 ? number : first;
            Map<String, Object> letter = new LinkedHashMap<>();
            letter.put("dead_at", now);
            letter.put("backend", backend);
            letter.put("seq", number);
            letter.put("event_id", event.get("event_id"));
            letter.put("reason", reason(rejection));
            letter.put("event", new String(line, StandardCharsets.UTF_8));
            body.writeBytes(JsonWriter.bytesOf(letter));
            body.write('\n');
        }
        return new Letters(batch.emitterId(), first, body.toByteArray());
    }

    /** Why an event was refused, with the place in it where that is known. */
    static String reason(Answer.Rejection rejection) {
        return rejection.path().isEmpty() ? rejection.error() : rejection.path() + ": " + rejection.error();
    }

    private static Map<?, ?> read(byte[] line) {
        try {
            return JsonReader.object(line);
        } catch (IOException notJson) {
            return Map.of(); // that is what it is refused for
        }
    }
}
