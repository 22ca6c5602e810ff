package com.wafermonitor.sdk;

/**
 * Base of every exception that the SDK throws. All of them tell of misuse, none of a sidecar that can't be reached.
 *
 * <pre>
 * MonitoringException
 * ├── ConfigurationException      what is configured is wrong; {@code problems()} lists everything that is
 * ├── NotInitializedException     called before {@code initialize}, or after {@code close}
 * └── InvalidEventException       an event that breaks the contract; {@code path()} says where
 * </pre>
 */
public class MonitoringException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /**
     * @param message what happened, where, and what to do
     */
    public MonitoringException(String message) {
        super(message);
    }
}
