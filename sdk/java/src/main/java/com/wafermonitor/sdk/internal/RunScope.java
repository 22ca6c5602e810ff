package com.wafermonitor.sdk.internal;

import java.util.LinkedHashMap;
import java.util.Map;

/** What a run gives to every event inside it: its ids and its entities. Immutable. */
public final class RunScope {
    public final String runId;
    public final String parentRunId;
    public final Map<String, String> entities;

    /** The text of the ids, with a comma at the end. */
    final byte[] idsHead;

    /** The text of ids and entities, with a comma at the end. */
    final byte[] head;

    public RunScope(String runId, String parentRunId, Map<String, String> entities) {
        this.runId = runId;
        this.parentRunId = parentRunId;
        this.entities = entities;
        JsonWriter out = new JsonWriter(256);
        out.ascii("\"run_id\":\"").ascii(runId).ascii("\",");
        if (parentRunId != null) {
            out.ascii("\"parent_run_id\":\"").ascii(parentRunId).ascii("\",");
        }
        idsHead = out.toBytes();
        if (!entities.isEmpty()) {
            out.ascii("\"entities\":");
            out.value(entities, "entities", 2);
            out.raw(',');
        }
        head = out.toBytes();
    }

    /** The ids and entities as fields of an event. */
    Map<String, Object> fields() {
        Map<String, Object> fields = new LinkedHashMap<>();
        fields.put("run_id", runId);
        if (parentRunId != null) {
            fields.put("parent_run_id", parentRunId);
        }
        if (!entities.isEmpty()) {
            fields.put("entities", entities);
        }
        return fields;
    }
}
