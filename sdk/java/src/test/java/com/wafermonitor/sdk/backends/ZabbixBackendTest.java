package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.tck.BackendTck;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Against a trapper that keeps a value for each key, second and nanosecond, as Zabbix does. */
class ZabbixBackendTest extends BackendTck {
    private final Map<String, Map<?, ?>> values = new ConcurrentHashMap<>();
    private final List<String> discovered = new CopyOnWriteArrayList<>();
    private final Set<String> unknown = ConcurrentHashMap.newKeySet();
    private ServerSocket server;
    private int port;

    @BeforeEach
    void listen() throws IOException {
        bringUp();
    }

    @AfterEach
    void close() throws IOException {
        server.close();
    }

    @Override
    protected Backend make() {
        Map<String, ?> config = Map.of("url", "http://127.0.0.1:" + port, "host", "wafer-monitor", "item_wait", 0.001);
        BackendSettings settings = new BackendSettings("zabbix", "c", config, Path.of(""));
        Backend backend = new ZabbixBackend(settings);
        assertEquals(List.of(), settings.problems());
        return backend;
    }

    @Override
    protected List<Map<?, ?>> readBack() {
        List<Map<?, ?>> events = new ArrayList<>();
        for (Map<?, ?> value : values.values()) {
            Matcher id = Pattern.compile("event_id=([0-9a-f-]{36})").matcher(value.get("value").toString());
            if (id.find()) {
                events.add(Map.of("event_id", id.group(1)));
            }
        }
        return events;
    }

    @Override
    protected boolean keepsWholeEvents() {
        return false;
    }

    @Override
    protected void takeDown() throws IOException {
        server.close();
    }

    @Override
    protected void bringUp() throws IOException {
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (true) {
            ServerSocket listening = new ServerSocket();
            listening.setReuseAddress(true);
            try {
                listening.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), port));
                port = listening.getLocalPort();
                server = listening;
                break;
            } catch (IOException stillInUse) {
                listening.close();
                if (System.nanoTime() - deadline > 0) {
                    throw stillInUse;
                }
            }
        }
        ServerSocket listening = server;
        Thread thread = new Thread(() -> {
            while (!listening.isClosed()) {
                try (Socket socket = listening.accept()) {
                    serve(socket);
                } catch (IOException | UncheckedIOException gone) {
                    continue;
                }
            }
        }, "trapper");
        thread.setDaemon(true);
        thread.start();
    }

    private void serve(Socket socket) throws IOException {
        byte[] head = socket.getInputStream().readNBytes(13);
        int length = (int) ByteBuffer.wrap(head, 5, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
        Map<?, ?> request = JsonReader.object(socket.getInputStream().readNBytes(length));
        int failed = 0;
        List<?> data = (List<?>) request.get("data");
        for (Object entry : data) {
            Map<?, ?> value = (Map<?, ?>) entry;
            String key = (String) value.get("key");
            if (key.startsWith("trackmate.discovery")) {
                discovered.add(key + " " + value.get("value"));
            } else if (unknown.contains(key)) {
                failed++;
            } else {
                values.put(key + "|" + value.get("clock") + "|" + value.get("ns"), value);
            }
        }
        String info = "processed: " + (data.size() - failed) + "; failed: " + failed + "; total: " + data.size() + "; seconds spent: 0.1";
        byte[] body = ("{\"response\":\"success\",\"info\":\"" + info + "\"}").getBytes(StandardCharsets.UTF_8);
        ByteBuffer answer = ByteBuffer.allocate(13 + body.length).order(ByteOrder.LITTLE_ENDIAN);
        answer.put(new byte[] {'Z', 'B', 'X', 'D', 1}).putLong(body.length).put(body);
        socket.getOutputStream().write(answer.array());
    }

    private Map<String, String> byKey() {
        Map<String, String> found = new LinkedHashMap<>();
        values.values().forEach(value -> found.put((String) value.get("key"), (String) value.get("value")));
        return found;
    }

    @Test
    void aValueGoesToAnotherKey() {
        try (Backend backend = make()) {
            Map<String, ?> fields = Map.of(
                    "kind", "finish", "name", "etch", "status", "aborted", "duration_ms", 1500, "entities", Map.of("tool", "E,7"),
                    "metrics", Map.of("t", 21.5));
            assertEquals(Outcome.ACCEPTED, backend.deliver(batch(1, 1, fields), TIMEOUT).outcome());
            backend.deliver(batch(2, 1, Map.of("kind", "state", "name", "E7", "state", Map.of("to", "productive"))), TIMEOUT);
            backend.deliver(batch(3, 1, Map.of("kind", "progress", "name", "etch", "progress", 0.255)), TIMEOUT);
        }
        assertEquals(
                Map.of(
                        "trackmate.run.state[fab1,tck,etch,\"E,7\"]", "4",
                        "trackmate.run.duration[fab1,tck,etch,\"E,7\"]", "1.5",
                        "trackmate.metric[fab1,tck,etch,t,\"E,7\"]", "21.5",
                        "trackmate.state[fab1,tck,E7,]", "productive",
                        "trackmate.run.progress[fab1,tck,etch,]", "25.5"),
                byKey());
    }

    @Test
    void twoValuesOfOneMicrosecondBecomeOne() {
        try (Backend backend = make()) {
            backend.deliver(batch(1, 1500, Map.of("kind", "metric", "metrics", Map.of("t", 1))), TIMEOUT);
        }
        assertEquals(1500, values.size());
    }

    @Test
    void aNewItemIsNotAnnouncedOrItsValueLost() {
        unknown.add("trackmate.metric[fab1,tck,tck,new,]");
        try (Backend backend = make()) {
            Batch batch = batch(1, 1, Map.of("kind", "metric", "metrics", Map.of("known", 1, "new", 2)));
            Answer answer = backend.deliver(batch, TIMEOUT);
            assertEquals(Outcome.RETRY, answer.outcome());
            assertEquals(1, discovered.size());
            assertTrue(discovered.get(0).startsWith("trackmate.discovery[metric] ["), discovered::toString);
            assertTrue(discovered.get(0).contains("\"{#METRIC}\":\"new\""), discovered::toString);
            unknown.clear();
            assertEquals(Answer.ACCEPTED, backend.deliver(batch, TIMEOUT));
        }
        assertEquals(2, values.size());
    }

    @Test
    void anItemThatNeverComesHoldsUpEverything() throws Exception {
        unknown.add("trackmate.metric[fab1,tck,tck,never,]");
        try (Backend backend = make()) {
            Batch batch = batch(1, 1, Map.of("kind", "metric", "metrics", Map.of("never", 1)));
            com.wafermonitor.sdk.tck.Eventually.eventually("the event to be rejected", () -> {
                Answer answer = backend.deliver(batch, TIMEOUT);
                return answer.outcome() == Outcome.ACCEPTED && answer.rejected().size() == 1;
            });
        }
    }

    @Test
    void somethingElseThanZabbixIsTakenForIt() throws IOException {
        server.close();
        try (com.wafermonitor.sdk.tck.ScriptedServer web = new com.wafermonitor.sdk.tck.ScriptedServer()) {
            Map<String, ?> config = Map.of("url", "http://127.0.0.1:" + web.port(), "host", "h");
            try (Backend backend = new ZabbixBackend(new BackendSettings("zabbix", "c", config, Path.of("")))) {
                Answer answer = backend.deliver(batch(1, 1, Map.of()), java.time.Duration.ofSeconds(2));
                assertEquals(Outcome.RETRY, answer.outcome());
            }
        }
    }
}
