package com.wafermonitor.sdk;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Backend;
import com.wafermonitor.sdk.backends.BackendProvider;
import com.wafermonitor.sdk.backends.BackendSettings;
import com.wafermonitor.sdk.backends.Batch;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;

/**
 * A backend such as a site would ship: keeps events in memory, after failing as often as it is told, or at every so-manieth call. One that hangs does not come back
 * from a call before it is released, whatever timeout it is given and whoever interrupts it.
 */
public final class Recorder implements Backend {
    final List<Map<?, ?>> events = new CopyOnWriteArrayList<>();
    final CountDownLatch released;
    private final int flaky;
    private final String refuses;
    private int failures;
    private int calls;

    private Recorder(int failures, int flaky, boolean hangs, String refuses) {
        this.refuses = refuses;
        this.failures = failures;
        this.flaky = flaky;
        this.released = new CountDownLatch(hangs ? 1 : 0);
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
            Recorder recorder = new Recorder((int) settings.positive("fails", 0), (int) settings.positive("flaky", Integer.MAX_VALUE), settings.flag("hangs", false), settings.text("refuses", ""));
            made.put(settings.text("name"), recorder);
            return recorder;
        }
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        if (failures-- > 0 || ++calls % flaky == 0) {
            throw new IllegalStateException("a mistake of the site's own");
        }
        try {
            released.await();
        } catch (InterruptedException notByUs) {
            throw new IllegalStateException(notByUs);
        }
        List<Answer.Rejection> refused = new ArrayList<>();
        for (int i = 0; i < batch.size(); i++) {
            Map<?, ?> event = batch.events().get(i);
            if (event.get("name").equals(refuses)) {
                refused.add(new Answer.Rejection(i, "", "not in this house"));
            } else {
                events.add(event);
            }
        }
        return Answer.accepted(refused);
    }

    @Override
    public void close() {}
}
