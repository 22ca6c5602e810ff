/**
 * Report what a program does, in three lines, without the program ever feeling it.
 *
 * <pre>{@code
 * Monitoring.initialize(Config.app("etcher", "fab1"));
 * try (Context run = Monitoring.monitoredContext("etch", Map.of("lot", "L1", "tool", "E7"))) {
 *     run.metric("temperature", 21.5);
 * }
 * }</pre>
 */
package com.wafermonitor.sdk;
