package com.wafermonitor.sdk;

/**
 * One mistake in a configuration.
 *
 * @param path its dotted path, such as {@code sdk.queue.batch_size}; empty: the whole
 * @param message what was expected there
 */
public record Problem(String path, String message) implements Comparable<Problem> {
    @Override
    public int compareTo(Problem other) {
        int byPath = path.compareTo(other.path);
        return byPath != 0 ? byPath : message.compareTo(other.message);
    }

    @Override
    public String toString() {
        return path.isEmpty() ? message : path + ": " + message;
    }
}
