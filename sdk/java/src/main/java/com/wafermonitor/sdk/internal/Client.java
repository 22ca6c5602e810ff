package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.InvalidEventException;
import com.wafermonitor.sdk.Stats;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Stamps events and puts them on the queue; everything slow is behind it. */
public final class Client {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** How long {@code close} goes on sending, in seconds; what is left then goes to disk, so that a process ends within two. */
    private static final double CLOSE_GRACE = 1.0;

    private static final String DROPPED_NAME = "sdk.dropped";

    private final Ids ids = new Ids();
    private final String emitterId = Ids.uuid7();
    private final Map<String, Object> origin = new LinkedHashMap<>();
    private final Delivery delivery;

    public Client(Settings settings) {
        Map<String, Object> app = new LinkedHashMap<>();
        app.put("name", settings.app().name());
        if (settings.app().version() != null) {
            app.put("version", settings.app().version());
        }
        if (settings.app().instanceId() != null) {
            app.put("instance_id", settings.app().instanceId());
        }
        origin.put("site_id", settings.app().siteId());
        origin.put("app", app);
        delivery = Delivery.of(settings, new Encoder(ids, emitterId, origin), this::reportOfDrops);
        delivery.start();
    }

    public String emitterId() {
        return emitterId;
    }

    // ------------------------------------------------------------------------------------------------------------ emitting

    /** Take one event, of the run if any; its id. */
    public String emit(Map<?, ?> event, RunScope run) {
        Object[] plain = Capture.plain(event);
        return plain != null ? emitPlain(plain, run) : put(prepare(Cleaning.clean(event), run));
    }

    /** Take an event that {@link Capture#plain} made. */
    public String emitPlain(Object[] plain, RunScope run) {
        return put(entry(plain, run));
    }

    /** Take an event that {@link Cleaning#clean} made. */
    public String emitClean(Map<String, Object> fields, RunScope run) {
        return put(prepare(fields, run));
    }

    /** Take all of the events, or none when one of them is invalid; their ids. */
    public List<String> emitAll(Iterable<? extends Map<?, ?>> events, RunScope run) {
        List<Entry> prepared = new ArrayList<>();
        for (Map<?, ?> event : events) {
            try {
                Object[] plain = Capture.plain(event);
                prepared.add(plain != null ? entry(plain, run) : prepare(Cleaning.clean(event), run));
            } catch (InvalidEventException error) {
                String place = "[" + prepared.size() + "]";
                throw new InvalidEventException(error.path().isEmpty() ? place : place + "." + error.path(), error.error());
            }
        }
        List<String> given = new ArrayList<>(prepared.size());
        prepared.forEach(entry -> given.add(put(entry)));
        return given;
    }

    private static Entry entry(Object[] plain, RunScope run) {
        String[] trace = Tracing.active();
        return trace == null
                ? new Entry(plain, run, null, false, null, null)
                : new Entry(plain, run, null, false, trace[0], trace[1]);
    }

    /** Prepare an event that is nested, large, or brings fields that the SDK would fill in. */
    private Entry prepare(Map<String, Object> fields, RunScope run) {
        Map<String, Object> all = new LinkedHashMap<>(origin);
        if (run != null) {
            all.putAll(run.fields());
            if (fields.containsKey("run_id")) {
                all.remove("parent_run_id");
            }
        }
        String[] trace = Tracing.active();
        if (trace != null && !fields.containsKey("trace_id") && !fields.containsKey("span_id")) {
            all.put("trace_id", trace[0]);
            all.put("span_id", trace[1]);
        }
        Object ofRun = all.get("entities");
        all.putAll(fields);
        if (ofRun instanceof Map<?, ?> outer && fields.get("entities") instanceof Map<?, ?> own) {
            Map<Object, Object> merged = new LinkedHashMap<>(outer);
            merged.putAll(own);
            all.put("entities", merged);
        }
        byte[] text = JsonWriter.bytesOf(all);
        if (text.length + Limits.HEAD_BYTES > Limits.MAX_EVENT_BYTES) {
            throw new InvalidEventException(
                    "",
                    "the event has more than " + Limits.MAX_EVENT_BYTES + " bytes; keep large data elsewhere and send its address");
        }
        return new Entry(text, null, (String) fields.get("event_id"), fields.containsKey("timestamp"), null, null);
    }

    private String put(Entry entry) {
        delivery.queue.put(entry);
        return entry.givenId != null ? entry.givenId : ids.of(entry.idMillis, entry.seq);
    }

    /** The event that tells of events that were lost. */
    private Entry reportOfDrops(Map<String, Long> drops) {
        long lost = drops.values().stream().mapToLong(Long::longValue).sum();
        Object[] metrics = new Object[drops.size() * 2];
        int at = 0;
        for (Map.Entry<String, Long> drop : drops.entrySet()) {
            metrics[at++] = drop.getKey();
            metrics[at++] = drop.getValue();
        }
        String message = lost + " event(s) of this process were lost before they reached their destination";
        Object[] fields = {
            "kind", "metric", "name", DROPPED_NAME, "severity", "warning", "message", message, "metrics", metrics
        };
        return new Entry(fields, null, null, false, null, null);
    }

    // ------------------------------------------------------------------------------------------------------------- the end

    public boolean flush(double seconds) {
        return delivery.flush(seconds);
    }

    public Stats stats() {
        return delivery.stats();
    }

    public Map<String, Stats.BackendStats> backendStats() {
        return delivery.backendStats();
    }

    /** Flush, and put on disk what can't be sent soon. Calling it twice does no harm. */
    public void close() {
        if (!delivery.close(CLOSE_GRACE)) {
            return;
        }
        Stats stats = stats();
        LOGGER.log(
                stats.dropped() > 0 || stats.failed() > 0 ? Level.WARNING : Level.INFO,
                () -> String.format(
                        "monitoring-sdk: closed; emitted=%d sent=%d spooled=%d replayed=%d rejected=%d failed=%d dropped=%d queued=%d",
                        stats.emitted(), stats.sent(), stats.spooled(), stats.replayed(), stats.rejected(), stats.failed(),
                        stats.dropped(), stats.queued()));
    }
}
