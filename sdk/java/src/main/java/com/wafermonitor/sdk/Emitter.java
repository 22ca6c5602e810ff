package com.wafermonitor.sdk;

import com.wafermonitor.sdk.internal.Client;
import java.time.Duration;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Takes events from a program and sees to it that they arrive. Most programs use the one behind {@link Monitoring}; one that wants
 * several, or none that is static, makes its own. Safe for use by many threads.
 */
public final class Emitter implements AutoCloseable {
    private enum State {
        OPEN,
        /** The JVM is shutting down: what still comes goes to disk. */
        ENDING,
        CLOSED
    }

    private final Client client;
    private final Set<Context.Run> open = ConcurrentHashMap.newKeySet();
    private final Thread hook;
    private volatile State state = State.OPEN;

    private Emitter(Client client) {
        this.client = client;
        this.hook = new Thread(this::end, "monitoring-sdk-shutdown");
        hook.setContextClassLoader(null);
    }

    /**
     * Read the configuration and start.
     *
     * @param config what to start with
     * @return an emitter; close it at the end
     * @throws ConfigurationException that names every mistake
     */
    public static Emitter create(Config config) {
        return create(config, System.getenv());
    }

    static Emitter create(Config config, Map<String, String> environment) {
        Emitter emitter = new Emitter(new Client(config.load(environment)));
        try {
            Runtime.getRuntime().addShutdownHook(emitter.hook);
        } catch (IllegalStateException shuttingDown) {
            emitter.state = State.ENDING;
            emitter.client.close();
        }
        return emitter;
    }

    /**
     * Report one event, given as a map; at least {@code kind} and {@code name}. The SDK adds id, timestamp, site, app, emitter, the run
     * that the code is in, and the OpenTelemetry span. Costs about a microsecond, never waits for the network, and never throws for
     * trouble with delivery. The map may be changed afterwards.
     *
     * @param event its fields
     * @return its {@code event_id}
     * @throws InvalidEventException when it breaks the contract
     * @throws NotInitializedException after {@link #close}
     */
    public String emitEvent(Map<String, ?> event) {
        return client("emitEvent").emit(event, Context.activeScope());
    }

    /**
     * Report one event that was built before.
     *
     * @param event the event
     * @return the {@code event_id} that it got this time
     * @throws NotInitializedException after {@link #close}
     */
    public String emitEvent(Event event) {
        Client running = client("emitEvent");
        return event.plain != null
                ? running.emitPlain(event.plain, Context.activeScope())
                : running.emitClean(event.fields, Context.activeScope());
    }

    /**
     * Report several events. When one is invalid none is taken.
     *
     * @param events as {@link #emitEvent(Map)} takes each
     * @return their ids
     * @throws InvalidEventException whose path begins with the place of the event, such as {@code [3].metrics.temperature}
     * @throws NotInitializedException after {@link #close}
     */
    public List<String> emitBatch(Iterable<? extends Map<String, ?>> events) {
        return client("emitBatch").emitAll(events, Context.activeScope());
    }

    /**
     * Begin a run; see {@link Monitoring#monitoredContext(String, Map)}.
     *
     * @param name what is done
     * @param metadata entities and attributes
     * @return the run, active on this thread until it is closed
     */
    public Context monitoredContext(String name, Map<String, ?> metadata) {
        client("monitoredContext");
        return Context.start(this, name, metadata);
    }

    /**
     * Wait until all that was emitted is delivered or safe on disk.
     *
     * @param timeout how long to wait at most
     * @return whether that came about, and the counts of each backend
     * @throws NotInitializedException after {@link #close}
     */
    public FlushResult flush(Duration timeout) {
        Client running = client("flush");
        boolean flushed = running.flush(timeout.toNanos() / 1e9);
        return new FlushResult(flushed, running.backendStats());
    }

    /**
     * What became of the events so far.
     *
     * @return the counts; after {@link #close} the last word
     */
    public Stats stats() {
        return client.stats();
    }

    /**
     * The {@code emitter.id} of all its events.
     *
     * @return a UUID
     */
    public String id() {
        return client.emitterId();
    }

    /** Send what is queued, put on disk what can't be sent within a second, and end. Calling it twice does no harm. */
    @Override
    public void close() {
        state = State.CLOSED;
        client.close();
        try {
            Runtime.getRuntime().removeShutdownHook(hook);
        } catch (IllegalStateException shuttingDown) {
            return; // the hook finds everything done
        }
    }

    boolean isOpen() {
        return state != State.CLOSED;
    }

    Client client(String call) {
        if (state == State.CLOSED) {
            throw new NotInitializedException(call);
        }
        return client;
    }

    void opened(Context.Run run) {
        open.add(run);
    }

    void ended(Context.Run run) {
        open.remove(run);
    }

    /** At the end of the JVM: the runs that are under way die with it, the innermost first. */
    private void end() {
        if (state == State.OPEN) {
            state = State.ENDING;
            open.stream()
                    .sorted(Comparator.comparingLong(Context.Run::number).reversed())
                    .forEach(run -> run.abort("Shutdown", "the JVM shut down in the middle of the run"));
        }
        client.close();
    }
}
