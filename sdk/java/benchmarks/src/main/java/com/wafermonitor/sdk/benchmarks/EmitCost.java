package com.wafermonitor.sdk.benchmarks;

import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.Emitter;
import com.wafermonitor.sdk.Event;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.logs.Logger;
import io.opentelemetry.api.logs.Severity;
import io.opentelemetry.exporter.otlp.http.logs.OtlpHttpLogRecordExporter;
import io.opentelemetry.sdk.logs.SdkLoggerProvider;
import io.opentelemetry.sdk.logs.export.BatchLogRecordProcessor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * What one call costs the calling thread, with the receiver up and down. Calls come in bursts of 500 with pauses in which the worker
 * catches up, as a program that works does; only the call is timed. Both hand over the same content: a name, a message, two
 * measurements, two entities, a counter.
 */
@BenchmarkMode(Mode.SampleTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 4)
@Measurement(iterations = 3, time = 5)
@State(Scope.Benchmark)
public class EmitCost {
    private static final int BURST = 500;
    private static final int PAUSE_MILLIS = 20;
    private static final int QUEUE = 100_000;

    /** Whether somebody listens at the address. */
    @Param({"up", "down"})
    public String receiver;

    private int calls;
    private Emitter emitter;
    private SdkLoggerProvider provider;
    private Logger logger;
    private Event built;

    private String url(String property) {
        return receiver.equals("up") ? System.getProperty(property) : "http://127.0.0.1:9";
    }

    /** Start both. */
    @Setup(Level.Trial)
    public void start() throws java.io.IOException {
        Path spool = Files.createTempDirectory(Path.of(System.getProperty("benchmark.folder")), "spool");
        emitter = Emitter.create(Config.app("benchmark", "fab1")
                .with("sidecar.url", url("benchmark.sidecar"))
                .with("sidecar.spool_dir", spool.toString())
                .with("sidecar.retries", 0)
                .with("queue.max_events", QUEUE));
        built = Event.metric("chuck").field("message", "step done").entity("lot", "L1").entity("tool", "E1")
                .metric("temperature", 21.5).metric("pressure", 0.3).attribute("n", 1).build();
        provider = SdkLoggerProvider.builder()
                .addLogRecordProcessor(BatchLogRecordProcessor.builder(OtlpHttpLogRecordExporter.builder()
                                .setEndpoint(url("benchmark.otlp") + "/v1/logs")
                                .setTimeout(Duration.ofSeconds(5))
                                .build())
                        .setScheduleDelay(Duration.ofSeconds(1))
                        .setMaxExportBatchSize(500)
                        .setMaxQueueSize(QUEUE)
                        .build())
                .build();
        logger = provider.get("benchmark");
    }

    /** End both. */
    @TearDown(Level.Trial)
    public void end() {
        emitter.close();
        provider.shutdown().join(5, TimeUnit.SECONDS);
    }

    /** Pause between bursts; not timed. */
    @Setup(Level.Invocation)
    public void pace() throws InterruptedException {
        if (calls++ % BURST == 0) {
            Thread.sleep(PAUSE_MILLIS);
        }
    }

    /** A map as most programs would hand it over; making it is not timed with it. */
    @State(Scope.Thread)
    public static class GivenMap {
        private int number;
        private Map<String, Object> event;

        /** Make it. */
        @Setup(Level.Invocation)
        public void make() {
            event = new HashMap<>();
            event.put("kind", "metric");
            event.put("name", "chuck");
            event.put("message", "step done");
            event.put("entities", Map.of("lot", "L1", "tool", "E1"));
            event.put("metrics", Map.of("temperature", 21.5, "pressure", 0.3));
            event.put("attributes", Map.of("n", number++));
        }
    }

    /** A map that was made before. */
    @Benchmark
    public String map(GivenMap given) {
        return emitter.emitEvent(given.event);
    }

    /** A map, made in the call. */
    @Benchmark
    public String mapMadeHere() {
        return emitter.emitEvent(Map.of(
                "kind", "metric",
                "name", "chuck",
                "message", "step done",
                "entities", Map.of("lot", "L1", "tool", "E1"),
                "metrics", Map.of("temperature", 21.5, "pressure", 0.3),
                "attributes", Map.of("n", calls)));
    }

    /** An immutable event. */
    @Benchmark
    public String event() {
        return emitter.emitEvent(built);
    }

    /** OpenTelemetry's logger, the record made in the call, as its API wants it. */
    @Benchmark
    public void openTelemetry() {
        logger.logRecordBuilder()
                .setSeverity(Severity.INFO)
                .setBody("step done")
                .setAttribute(AttributeKey.stringKey("event.name"), "chuck")
                .setAttribute(AttributeKey.stringKey("lot"), "L1")
                .setAttribute(AttributeKey.stringKey("tool"), "E1")
                .setAttribute(AttributeKey.doubleKey("temperature"), 21.5)
                .setAttribute(AttributeKey.doubleKey("pressure"), 0.3)
                .setAttribute(AttributeKey.longKey("n"), (long) calls)
                .emit();
    }
}
