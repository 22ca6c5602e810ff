package com.wafermonitor.sdk;

import com.wafermonitor.sdk.internal.Capture;
import com.wafermonitor.sdk.internal.Cleaning;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * An event that was checked once and never changes: emitting it costs less than emitting a map, and it may be emitted again (each
 * time with an id of its own).
 *
 * <pre>{@code
 * Event event = Event.metric("chuck").entity("tool", "E7").metric("temperature", 21.5).build();
 * Monitoring.emitEvent(event);
 * }</pre>
 */
public final class Event {
    /** The pairs of a plain event, or null. */
    final Object[] plain;

    /** All its fields, checked, when it is not plain; else null. */
    final Map<String, Object> fields;

    private Event(Object[] plain, Map<String, Object> fields) {
        this.plain = plain;
        this.fields = fields;
    }

    /**
     * A metric event.
     *
     * @param name what is measured
     * @return a builder
     */
    public static Builder metric(String name) {
        return of("metric", name);
    }

    /**
     * A log event.
     *
     * @param name the logger
     * @param message text for people
     * @return a builder
     */
    public static Builder log(String name, String message) {
        return of("log", name).field("message", message);
    }

    /**
     * A state event.
     *
     * @param name the state machine, such as a tool
     * @param from the state before; null: not known
     * @param to the state from now on
     * @return a builder
     */
    public static Builder state(String name, String from, String to) {
        return of("state", name).field("state", from == null ? Map.of("to", to) : Map.of("from", from, "to", to));
    }

    /**
     * An event of any kind.
     *
     * @param kind {@code start}, {@code progress}, {@code finish}, {@code error}, {@code metric}, {@code log} or {@code state}
     * @param name the operation, metric, logger or state machine
     * @return a builder
     */
    public static Builder of(String kind, String name) {
        return new Builder().field("kind", kind).field("name", name);
    }

    /**
     * An event out of a map.
     *
     * @param fields as {@link Monitoring#emitEvent(Map)} takes them; copied
     * @return the event
     * @throws InvalidEventException when it breaks the contract
     */
    public static Event of(Map<String, ?> fields) {
        Object[] plain = Capture.plain(fields);
        return plain != null ? new Event(plain, null) : new Event(null, Cleaning.frozen(fields));
    }

    /** Collects the fields of an event. Not for several threads. */
    public static final class Builder {
        private final Map<String, Object> fields = new LinkedHashMap<>();

        private Builder() {}

        /**
         * Set a field of the contract.
         *
         * @param name such as {@code severity}
         * @param value its value
         * @return this
         */
        public Builder field(String name, Object value) {
            fields.put(name, value);
            return this;
        }

        /**
         * Add an entity: what it happened to.
         *
         * @param name such as {@code tool}
         * @param value such as {@code ETCH-07}
         * @return this
         */
        public Builder entity(String name, String value) {
            return into("entities", name, value);
        }

        /**
         * Add a measured value.
         *
         * @param name such as {@code temperature}
         * @param value the value
         * @return this
         */
        public Builder metric(String name, double value) {
            return into("metrics", name, value);
        }

        /**
         * Add data of your own.
         *
         * @param name its name
         * @param value anything that is JSON
         * @return this
         */
        public Builder attribute(String name, Object value) {
            return into("attributes", name, value);
        }

        private Builder into(String table, String name, Object value) {
            Map<String, Object> copy = new LinkedHashMap<>();
            if (fields.get(table) instanceof Map<?, ?> before) {
                before.forEach((key, entry) -> copy.put(String.valueOf(key), entry));
            }
            copy.put(name, value);
            fields.put(table, copy);
            return this;
        }

        /**
         * The event.
         *
         * @return never changes
         * @throws InvalidEventException when it breaks the contract
         */
        public Event build() {
            return Event.of(fields);
        }
    }
}
