import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.Context;
import com.wafermonitor.sdk.Event;
import com.wafermonitor.sdk.FlushResult;
import com.wafermonitor.sdk.Monitoring;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;

/**
 * Watches several tools on a thread each, in direct mode: the events go to JSON Lines files, without a sidecar. Shows events that are
 * built once, SEMI E10 states, and a run that is carried to other threads.
 *
 * <pre>
 * make sdk-java
 * java -cp 'build/sdk/java/*:build/sdk/java/lib/*' examples/java/ToolStates.java /tmp/tool-states
 * </pre>
 */
public final class ToolStates {
    private static final List<String> STATES = List.of("standby", "productive", "unscheduled_down", "engineering", "standby");

    private ToolStates() {}

    public static void main(String[] arguments) throws InterruptedException, ExecutionException {
        Path folder = Path.of(arguments.length > 0 ? arguments[0] : "tool-states");
        Monitoring.initialize(Config.app("tool-states", "fab1")
                .with("mode", "direct")
                .with("sidecar.spool_dir", folder.resolve("spool").toString())
                .with("direct_backends", List.of(Map.of("type", "filesystem", "config", Map.of("path", folder.toString())))));
        ExecutorService pool = Executors.newFixedThreadPool(4);
        try (Context shift = Monitoring.monitoredContext("shift", Map.of("operator", "shift-a"))) {
            List<Callable<Integer>> watches = IntStream.rangeClosed(1, 4)
                    .mapToObj(number -> Monitoring.carry(() -> watch("ETCH-0" + number)))
                    .toList();
            int changes = 0;
            for (var watched : pool.invokeAll(watches)) {
                changes += watched.get();
            }
            shift.set("changes", changes);
        } finally {
            pool.shutdown();
        }
        FlushResult result = Monitoring.flush(Duration.ofSeconds(10));
        System.out.println("flushed " + result.flushed() + ", written " + result.backends().get("filesystem").sent());
        Monitoring.close();
    }

    private static int watch(String tool) {
        Event alive = Event.metric("heartbeat").entity("tool", tool).metric("up", 1).build();
        for (int i = 1; i < STATES.size(); i++) {
            Monitoring.emitEvent(Event.state(tool, STATES.get(i - 1), STATES.get(i)).entity("tool", tool).build());
            Monitoring.emitEvent(alive);
        }
        return STATES.size() - 1;
    }
}
