package com.wafermonitor.sdk.backends;

import java.time.Duration;

/**
 * Takes batches, one at a time, from one thread. Making a backend does no I/O.
 *
 * <p>Delivering a batch twice must leave one copy wherever the receiver allows.
 */
public interface Backend extends AutoCloseable {
    /**
     * Called once, before the first batch.
     *
     * @param emitterId the {@code emitter.id} of the events of this process; batches of others come from disk
     */
    default void start(String emitterId) {}

    /**
     * Hand over a batch. Never throws for trouble with delivery: the answer tells.
     *
     * @param batch the events
     * @param timeout the time that the attempt may take as a whole
     * @return what became of it
     */
    Answer deliver(Batch batch, Duration timeout);

    /** Make a {@code deliver} that is under way in another thread return soon; nothing is delivered after this. */
    default void interrupt() {}

    /** Called now and then from the delivering thread while there is nothing to deliver, for what is due by age. */
    default void idle() {}

    /** Let go of connections, files and threads. Calling it twice does no harm. */
    @Override
    void close();
}
