package com.wafermonitor.sdk;

import java.util.Map;

/**
 * What a flush achieved.
 *
 * @param flushed whether all that was emitted before is delivered or on disk
 * @param backends the counts of each backend since {@code initialize}, by its name
 */
public record FlushResult(boolean flushed, Map<String, Stats.BackendStats> backends) {}
