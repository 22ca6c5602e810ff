package com.wafermonitor.sdk;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Backend;
import com.wafermonitor.sdk.backends.BackendProvider;
import com.wafermonitor.sdk.backends.BackendSettings;
import com.wafermonitor.sdk.backends.Batch;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;

/** A backend such as a site would ship: keeps events in memory, after failing as often as it is told. */
public final class Recorder implements Backend {
    final List<Map<?, ?>> events = new CopyOnWriteArrayList<>();
    private int failures;

    private Recorder(int failures) {
        this.failures = failures;
    }

    /** Found through META-INF/services. */
    public static final class Provider implements BackendProvider {
        /** For ServiceLoader. */
        public Provider() {}

        static final Map<String, Recorder> made = new ConcurrentHashMap<>();

        @Override
        public String type() {
            return "recorder";
        }

        @Override
        public Backend create(BackendSettings settings) {
            Recorder recorder = new Recorder((int) settings.positive("fails", 0));
            made.put(settings.text("name"), recorder);
            return recorder;
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        if (failures-- > 0) {
            throw new IllegalStateException("a mistake of the site's own");
        }
        events.addAll(batch.events());
        return Answer.ACCEPTED;
    }

    @Override
    public void close() {}
}
