package com.wafermonitor.sdk.benchmarks;

import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.Emitter;
import com.wafermonitor.sdk.Stats;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** Emits many events without a pause and prints what became of them, how long it took, and the process's memory. */
public final class ManyEvents {
    private ManyEvents() {}

    /** Arguments: how many events, the sidecar's URL, the spool folder, {@code on_full}. */
    public static void main(String[] arguments) throws IOException {
        long count = Long.parseLong(arguments[0]);
        Emitter emitter = Emitter.create(Config.app("benchmark", "fab1")
                .with("sidecar.url", arguments[1])
                .with("sidecar.spool_dir", arguments[2])
                .with("queue.on_full", arguments[3]));
        long started = System.nanoTime();
        long atTenth = 0;
        for (long n = 0; n < count; n++) {
            emitter.emitEvent(Map.of(
                    "kind", "metric", "name", "chuck", "message", "step done", "entities", Map.of("lot", "L1", "tool", "E1"),
                    "metrics", Map.of("temperature", 21.5, "pressure", 0.3), "attributes", Map.of("n", n)));
            if (n == count / 10) {
                atTenth = resident();
            }
        }
        double seconds = (System.nanoTime() - started) / 1e9;
        long atEnd = resident();
        emitter.close();
        Stats stats = emitter.stats();
        System.out.printf(
                java.util.Locale.ROOT,
                "{\"events\": %d, \"seconds\": %.1f, \"rss_mib_at_a_tenth\": %d, \"rss_mib_at_the_end\": %d, \"sent\": %d, \"spooled\": %d,"
                        + " \"dropped\": %d}%n",
                count, seconds, atTenth, atEnd, stats.sent(), stats.spooled(), stats.dropped());
    }

    private static long resident() throws IOException {
        return Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(line -> line.startsWith("VmRSS"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("[^0-9]", "")) / 1024)
                .findFirst()
                .orElse(-1);
    }
}
