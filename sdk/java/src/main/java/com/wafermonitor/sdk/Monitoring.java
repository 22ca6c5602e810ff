package com.wafermonitor.sdk;

import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;

/**
 * The calls of the SDK: one {@link Emitter} a process, made by {@code initialize}.
 *
 * <p>At the end of the JVM what is queued is sent or put on disk, within two seconds; {@link #close} does it at once. All calls are
 * safe from any thread.
 */
public final class Monitoring {
    private static final Duration FLUSH_TIMEOUT = Duration.ofSeconds(5);

    private static volatile Emitter emitter;
    private static volatile Stats lastStats = Stats.NONE;

    private Monitoring() {}

    /**
     * Start with the file and the environment alone.
     *
     * @throws ConfigurationException that names every mistake
     */
    public static void initialize() {
        initialize(Config.fromEnvironment());
    }

    /**
     * Start with a YAML or JSON file.
     *
     * @param file its name
     * @throws ConfigurationException that names every mistake
     */
    public static void initialize(Path file) {
        initialize(Config.fromFile(file));
    }

    /**
     * Start with a document as it would stand in the file.
     *
     * @param document a map with the key {@code sdk}
     * @throws ConfigurationException that names every mistake
     */
    public static void initialize(Map<String, ?> document) {
        initialize(Config.of(document));
    }

    /**
     * Read the configuration and start. A second call closes what the first started, and starts anew.
     *
     * @param config what to start with
     * @throws ConfigurationException that names every mistake
     */
    public static synchronized void initialize(Config config) {
        close();
        emitter = Emitter.create(config);
    }

    private static Emitter running(String call) {
        Emitter running = emitter;
        if (running == null) {
            throw new NotInitializedException(call);
        }
        return running;
    }

    /**
     * Report one event; see {@link Emitter#emitEvent(Map)}.
     *
     * <pre>{@code
     * Monitoring.emitEvent(Map.of("kind", "metric", "name", "chuck", "metrics", Map.of("temperature", 21.5)));
     * }</pre>
     *
     * @param event its fields, at least {@code kind} and {@code name}; may be changed afterwards
     * @return its {@code event_id}
     * @throws InvalidEventException when it breaks the contract
     * @throws NotInitializedException without {@code initialize}
     */
    public static String emitEvent(Map<String, ?> event) {
        return running("emitEvent").emitEvent(event);
    }

    /**
     * Report one event that was built before.
     *
     * @param event the event
     * @return its {@code event_id}
     * @throws NotInitializedException without {@code initialize}
     */
    public static String emitEvent(Event event) {
        return running("emitEvent").emitEvent(event);
    }

    /**
     * Report several events. When one is invalid none is taken.
     *
     * @param events as {@link #emitEvent(Map)} takes each
     * @return their ids
     * @throws InvalidEventException whose path begins with the place of the event, such as {@code [3].metrics.temperature}
     * @throws NotInitializedException without {@code initialize}
     */
    public static List<String> emitBatch(Iterable<? extends Map<String, ?>> events) {
        return running("emitBatch").emitBatch(events);
    }

    /**
     * Begin a run, for try-with-resources; see {@link Context} for how its end comes about.
     *
     * @param name what is done
     * @return the run, active on this thread until it is closed
     */
    public static Context monitoredContext(String name) {
        return monitoredContext(name, Map.of());
    }

    /**
     * Begin a run, for try-with-resources; see {@link Context} for how its end comes about.
     *
     * @param name what is done
     * @param metadata {@code lot}, {@code wafer}, {@code tool}, {@code chamber}, {@code recipe}, {@code step}, {@code product} and
     *     {@code operator} are entities, as is what stands in a map under {@code entities}; everything in the run has them. All else
     *     becomes attributes of the run's start and end
     * @return the run, active on this thread until it is closed
     * @throws InvalidEventException for a wrong name or metadata
     * @throws NotInitializedException without {@code initialize}
     */
    public static Context monitoredContext(String name, Map<String, ?> metadata) {
        return running("monitoredContext").monitoredContext(name, metadata);
    }

    /**
     * Do something as a run. An exception is reported with type, message and stack, and comes through.
     *
     * @param <E> what the work may throw
     * @param name what is done
     * @param metadata as above
     * @param body the work
     * @throws E as the work does
     */
    public static <E extends Exception> void monitoredContext(String name, Map<String, ?> metadata, Context.Body<E> body)
            throws E {
        Monitoring.<Void, E>monitoredCall(name, metadata, run -> {
            body.run(run);
            return null;
        });
    }

    /**
     * Do something that has a result as a run. An exception is reported with type, message and stack, and comes through.
     *
     * @param <T> the result
     * @param <E> what the work may throw
     * @param name what is done
     * @param metadata as above
     * @param body the work
     * @return its result
     * @throws E as the work does
     */
    public static <T, E extends Exception> T monitoredCall(String name, Map<String, ?> metadata, Context.Call<T, E> body)
            throws E {
        try (Context run = monitoredContext(name, metadata)) {
            try {
                return body.call(run);
            } catch (Throwable error) {
                run.fail(error);
                throw error;
            }
        }
    }

    /**
     * The run that the calling thread is in.
     *
     * @return null when there is none
     */
    public static Context currentContext() {
        return Context.active();
    }

    /**
     * Work to be done on another thread as if from here: inside the run that is active now. Threads start without a run.
     *
     * @param work the work
     * @return the same, for an executor
     */
    public static Runnable carry(Runnable work) {
        Context here = Context.active();
        return () -> {
            Context before = Context.set(here);
            try {
                work.run();
            } finally {
                Context.set(before);
            }
        };
    }

    /**
     * The same for work that has a result.
     *
     * @param <T> the result
     * @param work the work
     * @return the same, for an executor
     */
    public static <T> Callable<T> carry(Callable<T> work) {
        Context here = Context.active();
        return () -> {
            Context before = Context.set(here);
            try {
                return work.call();
            } finally {
                Context.set(before);
            }
        };
    }

    /**
     * Wait until all that was emitted is delivered or safe on disk, at most five seconds.
     *
     * @return whether that came about, and the counts of each backend
     * @throws NotInitializedException without {@code initialize}
     */
    public static FlushResult flush() {
        return flush(FLUSH_TIMEOUT);
    }

    /**
     * Wait until all that was emitted is delivered or safe on disk.
     *
     * @param timeout how long to wait at most
     * @return whether that came about, and the counts of each backend
     * @throws NotInitializedException without {@code initialize}
     */
    public static FlushResult flush(Duration timeout) {
        return running("flush").flush(timeout);
    }

    /**
     * What became of the events since {@code initialize}.
     *
     * @return the counts; after {@code close} the last word
     */
    public static Stats stats() {
        Emitter running = emitter;
        return running == null ? lastStats : running.stats();
    }

    /** Send what is queued, put on disk what can't be sent within a second, and end. Does nothing when nothing runs. */
    public static synchronized void close() {
        Emitter running = emitter;
        if (running != null) {
            emitter = null;
            running.close();
            lastStats = running.stats();
        }
    }
}
