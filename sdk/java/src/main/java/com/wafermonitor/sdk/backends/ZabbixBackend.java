package com.wafermonitor.sdk.backends;
/** x. */
public final class ZabbixBackend implements Backend {
    /** x. */
    public static final class Provider implements BackendProvider {
        /** x. */
        public Provider() {}
        @Override public String type() { return "zabbix"; }
        @Override public Backend create(BackendSettings settings) { return null; }
    }
    private ZabbixBackend() {}
    @Override public Answer deliver(Batch b, java.time.Duration t) { return null; }
    @Override public void close() {}
}
