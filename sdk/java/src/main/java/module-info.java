/** Reports what a program does to TrackMate; see {@link com.wafermonitor.sdk.Monitoring}. */
module com.wafermonitor.sdk {
    requires transitive java.net.http;
    requires com.fasterxml.jackson.core;
    requires org.yaml.snakeyaml;
    requires static io.opentelemetry.api;
    requires static io.opentelemetry.context;

    exports com.wafermonitor.sdk;
    exports com.wafermonitor.sdk.backends;

    uses com.wafermonitor.sdk.backends.BackendProvider;

    provides com.wafermonitor.sdk.backends.BackendProvider with
        com.wafermonitor.sdk.backends.SidecarBackend.Provider,
        com.wafermonitor.sdk.backends.FilesystemBackend.Provider,
        com.wafermonitor.sdk.backends.S3Backend.Provider,
        com.wafermonitor.sdk.backends.ElkBackend.Provider,
        com.wafermonitor.sdk.backends.ZabbixBackend.Provider,
        com.wafermonitor.sdk.backends.WebhookBackend.Provider;
}
