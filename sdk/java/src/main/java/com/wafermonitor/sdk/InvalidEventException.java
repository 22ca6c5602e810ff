package com.wafermonitor.sdk;

/** An event breaks the contract: {@link #path} is the dotted place of the first mistake, {@link #error} what was expected there. */
public final class InvalidEventException extends MonitoringException {
    private static final long serialVersionUID = 1L;

    /** The dotted place of the mistake. */
    private final String path;

    /** What was expected there. */
    private final String error;

    /**
     * @param path the dotted place of the mistake, such as {@code metrics.temperature}; empty: the event as a whole
     * @param error what was expected there
     */
    public InvalidEventException(String path, String error) {
        super("invalid event: " + (path.isEmpty() ? error : path + ": " + error));
        this.path = path;
        this.error = error;
    }

    /**
     * The dotted place of the first mistake.
     *
     * @return such as {@code metrics.temperature}, in a batch {@code [3].metrics.temperature}; empty: the event as a whole
     */
    public String path() {
        return path;
    }

    /**
     * What was expected there.
     *
     * @return a sentence without the path
     */
    public String error() {
        return error;
    }
}
