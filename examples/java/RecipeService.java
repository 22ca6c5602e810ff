import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.Context;
import com.wafermonitor.sdk.Monitoring;
import com.wafermonitor.sdk.Stats;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * A recipe service: works through the steps of a recipe for each wafer of a lot, and reports what it does in nested runs, with
 * measurements, progress and errors.
 *
 * <pre>
 * make sdk-java
 * java -cp 'build/sdk/java/*:build/sdk/java/lib/*' examples/java/RecipeService.java 5
 * </pre>
 *
 * Without a sidecar it runs just as well: what it reports waits in the spool folder, and goes out when a sidecar is there.
 */
public final class RecipeService {
    private record Step(String name, double watts, double seconds) {}

    private static final List<Step> RECIPE =
            List.of(new Step("stabilise", 0, 0.004), new Step("main-etch", 850, 0.01), new Step("over-etch", 400, 0.006));

    /** An arc in the chamber. */
    static final class ArcException extends Exception {
        private static final long serialVersionUID = 1L;

        ArcException(String message) {
            super(message);
        }
    }

    private final Random random = new Random(7);

    public static void main(String[] arguments) {
        int wafers = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 5;
        Monitoring.initialize(Config.app("recipe-service", "fab1"));
        new RecipeService().run("L2301", wafers);
        Monitoring.close();
        Stats stats = Monitoring.stats();
        System.out.println("emitted " + stats.emitted() + ", sent " + stats.sent() + ", on disk " + stats.spooled());
    }

    private void run(String lot, int wafers) {
        int scrapped = 0;
        Map<String, ?> metadata = Map.of("lot", lot, "tool", "ETCH-07", "recipe", "OX-12", "priority", "hot");
        try (Context run = Monitoring.monitoredContext("lot", metadata)) {
            for (int wafer = 1; wafer <= wafers; wafer++) {
                try {
                    etch(wafer);
                } catch (ArcException arc) {
                    scrapped++; // the wafer's run has reported it
                }
                run.progress((double) wafer / wafers, "wafer " + wafer);
            }
            run.set("scrapped", scrapped);
        }
    }

    /** One wafer is one run inside the run of its lot; an exception that leaves it is its end. */
    private void etch(int wafer) throws ArcException {
        Monitoring.monitoredContext("wafer", Map.of("wafer", wafer), run -> {
            for (Step step : RECIPE) {
                Monitoring.monitoredContext("step", Map.of("step", step.name()), inner -> perform(step, wafer, inner));
            }
        });
    }

    private void perform(Step step, int wafer, Context run) throws ArcException {
        pause(step.seconds());
        run.metrics("chamber", Map.of("rf_power", step.watts() + random.nextGaussian(), "pressure", 0.3 + random.nextGaussian() / 200));
        if (wafer == 3 && step.name().equals("main-etch")) {
            run.log("warning", "reflected power rises");
            throw new ArcException("arc at " + step.watts() + " W");
        }
    }

    private static void pause(double seconds) {
        try {
            Thread.sleep((long) (seconds * 1000));
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }
}
