package com.wafermonitor.sdk;

/** An event was handed over before {@code initialize} was called, or after {@code close}. */
public final class NotInitializedException extends MonitoringException {
    private static final long serialVersionUID = 1L;

    /**
     * @param call the call that needs a running SDK
     */
    public NotInitializedException(String call) {
        super(call + " needs a running SDK: call Monitoring.initialize() first, and close() only at the end");
    }
}
