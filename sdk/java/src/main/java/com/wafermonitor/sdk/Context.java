package com.wafermonitor.sdk;

import com.wafermonitor.sdk.internal.Cleaning;
import com.wafermonitor.sdk.internal.Ids;
import com.wafermonitor.sdk.internal.RunScope;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A run that is under way. Everything emitted on the same thread until {@link #close} belongs to it: it gets the run's id, its
 * parent's id and its entities.
 *
 * <p>{@code close()} reports the end. Since try-with-resources can't see the exception that leaves its block, the end is {@code ok}
 * unless {@link #fail} or {@link #abort} was called before. Where exceptions are to be seen, use the form that takes the block itself,
 * {@link Monitoring#monitoredContext(String, Map, Body)}:
 *
 * <pre>{@code
 * Monitoring.monitoredContext("etch", Map.of("lot", "L1"), run -> etch(run));   // an exception is reported, and comes through
 *
 * try (Context run = Monitoring.monitoredContext("etch", Map.of("lot", "L1"))) {
 *     try {
 *         etch(run);
 *     } catch (PumpException error) {
 *         run.fail(error);
 *         throw error;
 *     }
 * }
 * }</pre>
 */
public final class Context implements AutoCloseable {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** Names that are entities wherever metadata is given; a site's own go under {@code entities}. */
    private static final Set<String> ENTITIES =
            Set.of("lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator");

    private static final ThreadLocal<Context> ACTIVE = new ThreadLocal<>();
    private static final AtomicLong NUMBERS = new AtomicLong();
    private static final int LONGEST_TYPE = 256;
    private static final int LONGEST_ERROR = 8_000;
    private static final int LONGEST_STACK = 32_000;
    private static final double ROUNDING = 1e-9;

    private final Run run;
    private final RunScope scope;
    private final boolean ends;
    private Context outer;

    private Context(Run run, RunScope scope, boolean ends) {
        this.run = run;
        this.scope = scope;
        this.ends = ends;
    }

    /**
     * A block of code in a run.
     *
     * @param <E> what it may throw
     */
    @FunctionalInterface
    public interface Body<E extends Exception> {
        /**
         * Do the work.
         *
         * @param run the run
         * @throws E as the work does
         */
        void run(Context run) throws E;
    }

    /**
     * A block of code in a run that has a result.
     *
     * @param <T> the result
     * @param <E> what it may throw
     */
    @FunctionalInterface
    public interface Call<T, E extends Exception> {
        /**
         * Do the work.
         *
         * @param run the run
         * @return the result
         * @throws E as the work does
         */
        T call(Context run) throws E;
    }

    static Context start(Emitter emitter, String name, Map<String, ?> metadata) {
        Map<String, Object> entities = new LinkedHashMap<>();
        Map<String, Object> attributes = new LinkedHashMap<>();
        split(name, metadata, entities, attributes);
        Context parent = ACTIVE.get();
        Map<String, String> all = new LinkedHashMap<>(parent == null ? Map.of() : parent.scope.entities);
        entities.forEach((key, value) -> all.put(key, (String) value));
        RunScope scope = new RunScope(Ids.uuid7(), parent == null ? null : parent.scope.runId, Map.copyOf(all));
        Run run = new Run(emitter, name, attributes, scope);
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("kind", "start");
        event.put("name", name);
        if (!attributes.isEmpty()) {
            event.put("attributes", attributes);
        }
        emitter.client("monitoredContext").emit(event, scope);
        emitter.opened(run);
        Context context = new Context(run, scope, true);
        context.activate();
        return context;
    }

    /** The entities and the attributes that stand in metadata, checked. */
    private static void split(
            String name, Map<String, ?> metadata, Map<String, Object> entities, Map<String, Object> attributes) {
        Map<String, Object> given = new LinkedHashMap<>(metadata == null ? Map.of() : metadata);
        Object own = given.remove("entities");
        if (own != null && !(own instanceof Map)) {
            throw new InvalidEventException(
                    "metadata.entities", "expected a map such as Map.of(\"robot\", \"R2\"), got " + own.getClass().getName());
        }
        given.forEach((key, value) -> (ENTITIES.contains(key) ? entities : attributes).put(key, value));
        if (own instanceof Map<?, ?> map) {
            map.forEach((key, value) -> entities.put(String.valueOf(key), value));
        }
        entities.replaceAll((key, value) -> text(value));
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("kind", "start");
        event.put("name", name);
        event.put("entities", entities);
        event.put("attributes", attributes);
        Map<String, Object> checked = Cleaning.frozen(event);
        replace(entities, checked.get("entities"));
        replace(attributes, checked.get("attributes"));
    }

    private static void replace(Map<String, Object> target, Object source) {
        target.clear();
        ((Map<?, ?>) source).forEach((key, value) -> target.put((String) key, value));
    }

    /** Whole numbers as text: wafer 7 is as good as wafer "7". */
    private static Object text(Object value) {
        boolean whole = value instanceof Integer || value instanceof Long || value instanceof Short || value instanceof Byte
                || value instanceof java.math.BigInteger;
        return whole ? value.toString() : value;
    }

    // ----------------------------------------------------------------------------------------------------------- reporting

    /**
     * The id of the run.
     *
     * @return a UUID
     */
    public String runId() {
        return scope.runId;
    }

    /**
     * The entities that every event inside gets, with those of the outer runs.
     *
     * @return unmodifiable
     */
    public Map<String, String> entities() {
        return scope.entities;
    }

    /**
     * Report how far it is.
     *
     * @param fraction from 0 to 1
     * @return the event's id
     */
    public String progress(double fraction) {
        return progress(fraction, null);
    }

    /**
     * Report how far it is.
     *
     * @param fraction from 0 to 1
     * @param message text for people; null: none
     * @return the event's id
     */
    public String progress(double fraction, String message) {
        Map<String, Object> event = event("progress", run.name);
        event.put("progress", fraction > 1 && fraction <= 1 + ROUNDING ? 1.0 : fraction);
        if (message != null) {
            event.put("message", message);
        }
        return emit(event);
    }

    /**
     * Report a measured value.
     *
     * @param name such as {@code temperature}
     * @param value the value
     * @return the event's id
     */
    public String metric(String name, double value) {
        return metrics(name, Map.of(name, value));
    }

    /**
     * Report several measured values.
     *
     * @param name what is measured, such as {@code chuck}
     * @param values by their names
     * @return the event's id
     */
    public String metrics(String name, Map<String, ? extends Number> values) {
        Map<String, Object> event = event("metric", name);
        event.put("metrics", values);
        return emit(event);
    }

    /**
     * Report a line of text.
     *
     * @param message the text
     * @return the event's id
     */
    public String log(String message) {
        return log("info", message);
    }

    /**
     * Report a line of text.
     *
     * @param severity {@code debug}, {@code info}, {@code warning}, {@code error} or {@code critical}
     * @param message the text
     * @return the event's id
     */
    public String log(String severity, String message) {
        Map<String, Object> event = event("log", run.name);
        event.put("severity", severity);
        event.put("message", message);
        return emit(event);
    }

    /**
     * Add an attribute to the event that will end the run.
     *
     * @param name its name
     * @param value anything that is JSON; copied
     * @return this
     * @throws InvalidEventException for what isn't JSON
     */
    public Context set(String name, Object value) {
        Map<String, Object> attribute = new LinkedHashMap<>();
        attribute.put(name, value);
        Map<String, Object> event = event("log", run.name);
        event.put("attributes", attribute);
        run.set(name, ((Map<?, ?>) Cleaning.frozen(event).get("attributes")).get(name));
        return this;
    }

    /**
     * The same run with more entities, active on this thread until it is closed; closing it does not end the run.
     *
     * <pre>{@code
     * try (Context wafer = run.bind(Map.of("wafer", "7"))) {
     *     wafer.metric("temperature", 21.5);
     * }
     * }</pre>
     *
     * @param entities such as {@code wafer}; whole numbers become text
     * @return the narrower context
     */
    public Context bind(Map<String, ?> entities) {
        Map<String, Object> texts = new LinkedHashMap<>();
        entities.forEach((key, value) -> texts.put(key, text(value)));
        Map<String, Object> event = event("log", "bind");
        event.put("entities", texts);
        Map<String, String> all = new LinkedHashMap<>(scope.entities);
        ((Map<?, ?>) Cleaning.frozen(event).get("entities")).forEach((key, value) -> all.put((String) key, (String) value));
        RunScope narrower = new RunScope(scope.runId, scope.parentRunId, Map.copyOf(all));
        Context context = new Context(run, narrower, false);
        context.activate();
        return context;
    }

    private static Map<String, Object> event(String kind, String name) {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("kind", kind);
        event.put("name", name);
        return event;
    }

    private String emit(Map<String, Object> event) {
        return run.emitter.client("Context").emit(event, scope);
    }

    // -------------------------------------------------------------------------------------------------------------- the end

    /**
     * Say that the run failed; {@link #close} will report it with the error's type, message and stack. Interruption and cancellation
     * are no failures: such a run is reported as aborted.
     *
     * @param error why
     */
    public void fail(Throwable error) {
        run.failure = error;
    }

    /**
     * Say that the run was given up without an error; {@link #close} will report it as aborted.
     *
     * @param reason why
     */
    public void abort(String reason) {
        run.aborted = reason;
    }

    /** Report the end of the run, and make the run around it active again. Calling it twice does no harm. */
    @Override
    public void close() {
        deactivate();
        if (ends) {
            run.end();
        }
    }

    // -------------------------------------------------------------------------------------------------------- the active run

    private void activate() {
        outer = ACTIVE.get();
        ACTIVE.set(this);
    }

    private void deactivate() {
        if (ACTIVE.get() == this) {
            set(outer);
        }
    }

    /** Make a context the active one of this thread; null: none. Returns the one before. */
    static Context set(Context context) {
        Context before = ACTIVE.get();
        if (context == null) {
            ACTIVE.remove(); // leaves nothing in a thread of somebody's pool
        } else {
            ACTIVE.set(context);
        }
        return before;
    }

    static Context active() {
        return ACTIVE.get();
    }

    static RunScope activeScope() {
        Context active = ACTIVE.get();
        return active == null ? null : active.scope;
    }

    @Override
    public String toString() {
        return "Context(" + run.name + ", " + scope.runId + ")";
    }

    /** What all contexts of one run share. */
    static final class Run {
        private final Emitter emitter;
        private final String name;
        private final Map<String, Object> attributes;
        private final RunScope scope;
        private final long started = System.nanoTime();
        private final long number = NUMBERS.incrementAndGet();
        private final AtomicBoolean ended = new AtomicBoolean();
        private volatile Throwable failure;
        private volatile String aborted;

        Run(Emitter emitter, String name, Map<String, Object> attributes, RunScope scope) {
            this.emitter = emitter;
            this.name = name;
            this.attributes = new LinkedHashMap<>(attributes);
            this.scope = scope;
        }

        long number() {
            return number;
        }

        synchronized void set(String key, Object value) {
            attributes.put(key, value);
        }

        /** Never throws: at the end of a block, an error of ours would hide the program's own. */
        void end() {
            Map<String, Object> event = event("finish", name);
            event.put("status", "ok");
            Throwable error = failure;
            if (error instanceof InterruptedException || error instanceof CancellationException) {
                event.put("status", "aborted");
                event.put("severity", "warning");
                event.put("error", describe(error));
            } else if (error != null) {
                event.put("kind", "error");
                event.put("status", "failed");
                event.put("error", describe(error));
            } else if (aborted != null) {
                event.put("status", "aborted");
                event.put("severity", "warning");
                event.put("error", Map.of("type", "Aborted", "message", aborted));
            }
            report(event);
        }

        /** Report that the process is about to die in the middle of the run. */
        void abort(String type, String message) {
            Map<String, Object> event = event("finish", name);
            event.put("status", "aborted");
            event.put("severity", "warning");
            event.put("error", Map.of("type", type, "message", message));
            report(event);
        }

        private void report(Map<String, Object> event) {
            if (!ended.compareAndSet(false, true)) {
                return;
            }
            emitter.ended(this);
            if (!emitter.isOpen()) {
                LOGGER.log(
                        Level.WARNING,
                        "monitoring-sdk: the run {0} of {1} ended after close(); its end is not reported",
                        scope.runId,
                        name);
                return;
            }
            event.put("duration_ms", Math.round((System.nanoTime() - started) / 1e3) / 1e3);
            synchronized (this) {
                if (!attributes.isEmpty()) {
                    event.put("attributes", new LinkedHashMap<>(attributes));
                }
            }
            try {
                try {
                    emitter.client("Context").emit(event, scope);
                } catch (InvalidEventException tooLarge) { // together: the end matters more than what was set
                    event.put("attributes", Map.of("truncated", true));
                    emitter.client("Context").emit(event, scope);
                }
            } catch (MonitoringException error) {
                LOGGER.log(Level.ERROR, "monitoring-sdk: can't report the end of the run " + scope.runId + " of " + name, error);
            }
        }

        /** A throwable as the event's {@code error}, whatever its own methods do. */
        private static Map<String, String> describe(Throwable error) {
            String type = error.getClass().getName();
            String message;
            String stack;
            try {
                message = error.getLocalizedMessage() == null ? "" : error.getLocalizedMessage();
                StringWriter text = new StringWriter();
                error.printStackTrace(new PrintWriter(text));
                stack = text.toString();
            } catch (RuntimeException | Error broken) { // one that can't be shown must not hide the one it is
                message = "(its text can't be had: " + broken.getClass().getName() + ")";
                stack = "";
            }
            return Map.of(
                    "type", type.substring(0, Math.min(LONGEST_TYPE, type.length())),
                    "message", Cleaning.cut(message, LONGEST_ERROR),
                    "stack", Cleaning.cut(stack, LONGEST_STACK));
        }
    }
}
