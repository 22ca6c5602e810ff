package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Backend;
import java.nio.file.Path;
import java.util.List;

/** A whole, valid configuration. Times are in seconds. */
public record Settings(String mode, Sidecar sidecar, Queue queue, App app, List<Target> targets) {

    /** How to reach the sidecar, and where to keep what it can't take now. */
    public record Sidecar(String url, double timeout, int retries, boolean enableSpooling, Path spoolDir, String token) {
        @Override
        public String toString() {
            return "Sidecar(" + url + ")"; // never the token
        }
    }

    /** The queue between the program and the worker. */
    public record Queue(int maxEvents, int batchSize, double flushInterval, String onFull) {}

    /** Which program reports, and from where. */
    public record App(String name, String siteId, String version, String instanceId) {}

    /** A backend, not yet used, and which part of the events it gets. `folder` is its own within the spool folder; empty: all. */
    public record Target(String name, String description, Backend backend, int priority, boolean fallback, double timeout, String folder) {}
}
