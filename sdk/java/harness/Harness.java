import com.wafermonitor.sdk.Config;
import com.wafermonitor.sdk.ConfigurationException;
import com.wafermonitor.sdk.Context;
import com.wafermonitor.sdk.FlushResult;
import com.wafermonitor.sdk.InvalidEventException;
import com.wafermonitor.sdk.Monitoring;
import com.wafermonitor.sdk.NotInitializedException;
import com.wafermonitor.sdk.Stats;
import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.internal.JsonWriter;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;

/** The Java SDK's harness: does what it is told by JSON Lines (sdk/conformance/HARNESS.md). */
public final class Harness {
    private static final List<String> CAPABILITIES = List.of(
            "sidecar", "direct", "threads", "background", "int64", "bytes", "nan",
            "backend:sidecar", "backend:filesystem", "backend:s3", "backend:elk", "backend:zabbix", "backend:webhook");

    private final Map<String, Context> contexts = new LinkedHashMap<>();

    private Harness() {}

    /** Answers until the end of the input. */
    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        out.println(JsonWriter.textOf(answer(
                "harness", 1, "language", "java", "version", "0.1.0", "capabilities", CAPABILITIES)));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Harness harness = new Harness();
        String line;
        while ((line = in.readLine()) != null) {
            Map<?, ?> command = JsonReader.object(line.getBytes(StandardCharsets.UTF_8));
            Map<String, Object> said = new LinkedHashMap<>();
            if (command.containsKey("id")) {
                said.put("id", command.get("id"));
            }
            said.putAll(harness.answerTo(command));
            out.println(JsonWriter.textOf(said));
        }
    }

    private Map<String, Object> answerTo(Map<?, ?> command) throws Exception {
        try {
            Map<String, Object> answer = answer("ok", true);
            answer.putAll(run(command));
            return answer;
        } catch (ConfigurationException error) {
            List<Object> problems = new ArrayList<>();
            error.problems().forEach(problem -> problems.add(answer("path", problem.path(), "message", problem.message())));
            return failed("kind", "config", "message", error.getMessage(), "problems", problems);
        } catch (InvalidEventException error) {
            return failed("kind", "event", "path", error.path(), "message", error.error());
        } catch (NotInitializedException error) {
            return failed("kind", "state", "message", error.getMessage());
        }
    }

    private Map<String, Object> run(Map<?, ?> command) throws Exception {
        switch ((String) command.get("do")) {
            case "initialize" -> {
                if (command.get("file") != null) {
                    Monitoring.initialize(Path.of((String) command.get("file")));
                } else if (command.get("config") != null) {
                    Monitoring.initialize(Config.of(map(command.get("config"))));
                } else {
                    Monitoring.initialize();
                }
            }
            case "emit_event" -> {
                return answer("event_id", Monitoring.emitEvent(map(value(command.get("event")))));
            }
            case "emit_batch" -> {
                List<Map<String, Object>> events = new ArrayList<>();
                ((List<?>) value(command.get("events"))).forEach(event -> events.add(map(event)));
                return answer("event_ids", Monitoring.emitBatch(events));
            }
            case "repeat" -> {
                return answer("slowest_us", repeat(command, Map.of()));
            }
            case "threads" -> {
                return answer("slowest_us", threads(command));
            }
            case "context_start" -> {
                Map<String, Object> metadata = command.get("metadata") == null ? null : map(value(command.get("metadata")));
                Context context = Monitoring.monitoredContext((String) command.get("name"), metadata);
                contexts.put((String) command.get("context"), context);
                return answer("run_id", context.runId());
            }
            case "progress" -> {
                Context context = contexts.get(command.get("context"));
                double fraction = ((Number) value(command.get("progress"))).doubleValue();
                return answer("event_id", context.progress(fraction, (String) command.get("message")));
            }
            case "finish" -> contexts.remove(command.get("context")).close();
            case "error" -> {
                return answer("raised", fails(contexts.remove(command.get("context")), command));
            }
            case "flush" -> {
                return flush(((Number) command.get("timeout")).doubleValue());
            }
            case "stats" -> {
                Stats stats = Monitoring.stats();
                return answer("stats", answer(
                        "emitted", stats.emitted(), "sent", stats.sent(), "spooled", stats.spooled(),
                        "replayed", stats.replayed(), "rejected", stats.rejected(), "failed", stats.failed(),
                        "dropped", stats.dropped(), "queued", stats.queued()));
            }
            case "sleep", "idle" -> Thread.sleep((long) (((Number) command.get("seconds")).doubleValue() * 1000));
            case "close" -> Monitoring.close();
            case "resources" -> {
                return answer("threads", count("/proc/self/task"), "files", count("/proc/self/fd") - 1);
            }
            case "crash" -> crash((String) command.get("how"));
            default -> {
                Map<String, Object> error = failed("kind", "other", "message", "no such command: " + command.get("do"));
                return error;
            }
        }
        return Map.of();
    }

    private static boolean fails(Context context, Map<?, ?> command) throws Exception {
        Throwable failure = Failure.of((String) command.get("type"), (String) command.get("message"));
        try (context) {
            try {
                throw failure;
            } catch (Throwable error) {
                context.fail(error);
                throw error;
            }
        } catch (Throwable error) {
            return error == failure;
        }
    }

    private static Map<String, Object> flush(double seconds) {
        FlushResult result = Monitoring.flush(Duration.ofNanos((long) (seconds * 1e9)));
        Map<String, Object> backends = new LinkedHashMap<>();
        result.backends().forEach((name, counts) -> backends.put(name, answer(
                "delivered", counts.sent(), "spooled", counts.spooled(), "failed", counts.failed() + counts.rejected())));
        return answer("flushed", result.flushed(), "backends", backends);
    }

    private static double repeat(Map<?, ?> command, Map<String, ?> attributes) {
        Map<String, Object> event = map(value(command.get("event")));
        long slowest = 0;
        int times = ((Number) command.get("times")).intValue();
        for (int number = 0; number < times; number++) {
            Map<String, Object> own = new LinkedHashMap<>();
            if (event.get("attributes") instanceof Map<?, ?> given) {
                own.putAll(map(given));
            }
            own.putAll(attributes);
            own.put("n", number);
            Map<String, Object> mine = new LinkedHashMap<>(event);
            mine.put("attributes", own);
            long started = System.nanoTime();
            Monitoring.emitEvent(mine);
            slowest = Math.max(slowest, System.nanoTime() - started);
        }
        return slowest / 1000.0;
    }

    private static double threads(Map<?, ?> command) throws InterruptedException {
        AtomicLong slowest = new AtomicLong();
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < ((Number) command.get("threads")).intValue(); i++) {
            Map<String, Integer> attributes = Map.of("thread", i);
            threads.add(new Thread(() -> {
                long took = (long) (repeat(command, attributes) * 1000);
                slowest.accumulateAndGet(took, Math::max);
            }));
        }
        threads.forEach(Thread::start);
        for (Thread thread : threads) {
            thread.join();
        }
        return slowest.get() / 1000.0;
    }

    private static int count(String folder) {
        String[] entries = new File(folder).list();
        return entries == null ? -1 : entries.length;
    }

    private static void crash(String how) throws Exception {
        switch (how) {
            case "exit" -> System.exit(0);
            case "exception" -> throw new IllegalStateException("as the suite wants");
            default -> {
                String signal = how.equals("kill") ? "KILL" : "ABRT";
                new ProcessBuilder("/bin/sh", "-c", "kill -" + signal + " " + ProcessHandle.current().pid()).start().waitFor();
                Thread.sleep(60_000);
            }
        }
    }

    // -------------------------------------------------------------------------------------------------------------- values

    private static Map<String, Object> answer(Object... pairs) {
        Map<String, Object> answer = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            answer.put((String) pairs[i], pairs[i + 1]);
        }
        return answer;
    }

    private static Map<String, Object> failed(Object... error) {
        return answer("ok", false, "error", answer(error));
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(Object value) {
        return (Map<String, Object>) value;
    }

    /** A value of the protocol as one of Java's. */
    private static Object value(Object value) {
        if (value instanceof List<?> list) {
            List<Object> copy = new ArrayList<>();
            list.forEach(entry -> copy.add(value(entry)));
            return copy;
        }
        if (value instanceof Map<?, ?> map) {
            if (map.size() == 1 && map.get("$float") instanceof String text) {
                return switch (text) {
                    case "nan" -> Double.NaN;
                    case "inf" -> Double.POSITIVE_INFINITY;
                    default -> Double.NEGATIVE_INFINITY;
                };
            }
            if (map.size() == 1 && map.get("$bytes") instanceof String text) {
                return escaped(Base64.getDecoder().decode(text));
            }
            if (map.size() == 1 && map.get("$surrogate") instanceof String text) {
                return String.valueOf((char) Integer.parseInt(text, 16));
            }
            Map<String, Object> copy = new LinkedHashMap<>();
            map.forEach((key, entry) -> copy.put((String) key, value(entry)));
            return copy;
        }
        return value;
    }

    /** Bytes as text, each byte that is no UTF-8 as a lone surrogate. */
    private static String escaped(byte[] bytes) {
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder();
        ByteBuffer in = ByteBuffer.wrap(bytes);
        CharBuffer out = CharBuffer.allocate(bytes.length + 1);
        while (true) {
            CoderResult result = decoder.decode(in, out, true);
            if (!result.isError()) {
                return out.flip().toString();
            }
            for (int i = 0; i < result.length(); i++) {
                out.put((char) (0xdc00 + (in.get() & 0xff)));
            }
        }
    }

    /** Makes an exception whose class has the name that the suite wants. */
    private static final class Failure extends ClassLoader {
        static Throwable of(String type, String message) throws Exception {
            byte[] code = subclass(type.replace('.', '/'), "java/lang/RuntimeException");
            Class<?> made = new Failure().defineClass(type, code, 0, code.length);
            return (Throwable) made.getConstructor(String.class).newInstance(message);
        }

        /** The class file of a class with one constructor, which takes a text and hands it on. */
        private static byte[] subclass(String name, String superclass) throws IOException {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            DataOutputStream out = new DataOutputStream(bytes);
            out.writeInt(0xCAFEBABE);
            out.writeInt(52); // Java 8: needs no stack map for a method without branches
            out.writeShort(10);
            utf8(out, name); // 1
            out.write(new byte[] {7, 0, 1}); // 2: this class
            utf8(out, superclass); // 3
            out.write(new byte[] {7, 0, 3}); // 4: its superclass
            utf8(out, "<init>"); // 5
            utf8(out, "(Ljava/lang/String;)V"); // 6
            out.write(new byte[] {12, 0, 5, 0, 6}); // 7: name and type of the constructor
            out.write(new byte[] {10, 0, 4, 0, 7}); // 8: the superclass's constructor
            utf8(out, "Code"); // 9
            out.write(new byte[] {0, 0x21, 0, 2, 0, 4, 0, 0, 0, 0, 0, 1}); // public; no interfaces, no fields, one method
            out.write(new byte[] {0, 1, 0, 5, 0, 6, 0, 1, 0, 9, 0, 0, 0, 18, 0, 2, 0, 2, 0, 0, 0, 6});
            out.write(new byte[] {0x2a, 0x2b, (byte) 0xb7, 0, 8, (byte) 0xb1}); // aload_0, aload_1, invokespecial, return
            out.write(new byte[] {0, 0, 0, 0, 0, 0}); // no handlers, no attributes of the code; none of the class
            return bytes.toByteArray();
        }

        private static void utf8(DataOutputStream out, String text) throws IOException {
            out.writeByte(1);
            out.writeUTF(text);
        }
    }
}
