package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.JsonReader;
import com.wafermonitor.sdk.internal.JsonWriter;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Writes metrics, run states, states and log lines to the trapper items of one Zabbix host, in the protocol of {@code zabbix_sender}.
 *
 * <p>The keys are those of TrackMate's sink. Items are made by the host's discovery rules ({@code trackmate.discovery[...]}, in the
 * template of TrackMate's documentation), to which new ones are announced; until the server has taken them up, their values are sent
 * again. Each value has the event's microsecond and a nanosecond of its own, so that one that comes twice stands once.
 */
public final class ZabbixBackend implements Backend {
    private static final int DEFAULT_PORT = 10051;
    private static final Pattern ADDRESS =
            Pattern.compile("(?:[a-z]+://)?(?<host>\\[[0-9A-Fa-f:.]+\\]|[^\\[\\]:/\\s]+)(?::(?<port>\\d{1,5}))?/?");

    /** Values in one request: what zabbix_sender itself sends (its manual page, option -i). */
    private static final int MAX_VALUES = 250;

    private static final int LARGEST_ANSWER = 1024 * 1024;
    private static final Pattern COUNTS = Pattern.compile("processed: (\\d+); failed: (\\d+); total: (\\d+)");
    private static final byte[] HEADER = {'Z', 'B', 'X', 'D', 1};

    private final String host;
    private final String server;
    private final int port;
    private final long patience;
    private final Set<ZabbixItems.Item> announced = new LinkedHashSet<>();
    private final Map<ZabbixItems.Item, Long> failingSince = new HashMap<>();
    private volatile Socket underWay;
    private volatile boolean interrupted;

    /** Makes backends of type {@code zabbix}, with {@code url}, {@code host} and {@code item_wait}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "zabbix";
        }

        @Override
        public Backend create(BackendSettings settings) {
            return new ZabbixBackend(settings);
        }
    }

    private record Value(int place, ZabbixItems.Item item, Map<String, Object> body) {}

    private record Counts(int processed, int failed) {}

    ZabbixBackend(BackendSettings settings) {
        String url = settings.text("url");
        Matcher address = ADDRESS.matcher(url);
        boolean known = address.matches();
        String given = known && address.group("port") != null ? address.group("port") : String.valueOf(DEFAULT_PORT);
        int number = Integer.parseInt(given);
        if (!url.isEmpty() && (!known || number < 1 || number > 65_535)) {
            settings.problem("url", "expected an address such as http://zabbix:10051");
        }
        this.server = known ? address.group("host").replaceAll("[\\[\\]]", "") : "localhost";
        this.port = number;
        this.host = settings.text("host");
        this.patience = (long) (settings.positive("item_wait", 180) * 1e9);
        settings.secret("api_key"); // the sink makes items through the API with it; here discovery does
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        long deadline = System.nanoTime() + timeout.toNanos();
        Map<Integer, String> refused = new TreeMap<>();
        List<Value> values = values(batch, refused);
        try {
            List<Value> failed = handOver(values, deadline);
            if (!failed.isEmpty()) {
                announce(failed, deadline);
            }
            List<Value> waiting = judge(failed, refused);
            if (!waiting.isEmpty()) {
                String key = waiting.get(0).item().key();
                String detail = "Zabbix at " + server + ":" + port + " does not take values of " + key + " for the host '" + host
                        + "' yet: it takes up new items with its next CacheUpdateFrequency";
                return new Answer(Outcome.RETRY, detail);
            }
            List<Answer.Rejection> rejected = new ArrayList<>();
            refused.forEach((place, reason) -> rejected.add(new Answer.Rejection(place, "", reason)));
            return Answer.accepted(rejected);
        } catch (IOException error) {
            return new Answer(Outcome.RETRY, "Zabbix at " + server + ":" + port + ": " + error.getMessage());
        }
    }

    // -------------------------------------------------------------------------------------------------------------- values

    private List<Value> values(Batch batch, Map<Integer, String> refused) {
        List<Value> values = new ArrayList<>();
        Set<String> taken = new HashSet<>();
        List<Map<?, ?>> events = batch.events();
        for (int place = 0; place < events.size(); place++) {
            Map<?, ?> event = events.get(place);
            long wanted = ZabbixItems.nanoseconds(event);
            if (wanted / 1_000_000_000L >= Integer.MAX_VALUE) {
                refused.put(place, "Zabbix keeps seconds in 32 bits, which end on 2038-01-19");
                continue;
            }
            for (ZabbixItems.Reading reading : ZabbixItems.readings(event)) {
                long moment = wanted;
                while (!taken.add(reading.item().key() + "\n" + moment)) {
                    moment++; // of two values with one second and nanosecond Zabbix keeps one
                }
                values.add(new Value(place, reading.item(), body(reading, moment)));
            }
        }
        return values;
    }

    private Map<String, Object> body(ZabbixItems.Reading reading, long moment) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("host", host);
        body.put("key", reading.item().key());
        body.put("value", reading.text());
        body.put("clock", moment / 1_000_000_000L);
        body.put("ns", moment % 1_000_000_000L);
        if (!reading.extra().isEmpty()) {
            body.put("timestamp", moment / 1_000_000_000L);
            body.putAll(reading.extra());
        }
        return body;
    }

    /** Of what was not taken: what is to be sent again; what has been failing for too long is refused. */
    private List<Value> judge(List<Value> failed, Map<Integer, String> refused) {
        long now = System.nanoTime();
        List<Value> waiting = new ArrayList<>();
        for (Value value : failed) {
            long since = failingSince.computeIfAbsent(value.item(), item -> now);
            if (now - since > patience) {
                refused.put(value.place(), "Zabbix took no value for " + value.item().key() + " in "
                        + TimeUnit.NANOSECONDS.toSeconds(patience) + " s: the host '" + host
                        + "' has no such enabled trapper item; link TrackMate's template, which makes items by discovery");
            } else {
                waiting.add(value);
            }
        }
        return waiting;
    }

    /** Tell the host's discovery rules of the items that failed, with all that were told before: they forget the others. */
    private void announce(List<Value> failed, long deadline) throws IOException {
        Set<String> rules = new TreeSet<>();
        failed.forEach(value -> {
            announced.add(value.item());
            rules.add(value.item().rule());
        });
        for (String rule : rules) {
            Set<String> rows = new TreeSet<>();
            announced.stream().filter(item -> item.rule().equals(rule)).forEach(item -> rows.add(JsonWriter.textOf(item.macros())));
            Map<String, Object> body = new LinkedHashMap<>();
            body.put("host", host);
            body.put("key", "trackmate.discovery[" + rule + "]");
            body.put("value", "[" + String.join(",", rows) + "]");
            send(List.of(body), deadline);
        }
    }

    // ------------------------------------------------------------------------------------------------------------ protocol

    private List<Value> handOver(List<Value> values, long deadline) throws IOException {
        List<Value> failed = new ArrayList<>();
        for (int start = 0; start < values.size(); start += MAX_VALUES) {
            List<Value> some = values.subList(start, Math.min(values.size(), start + MAX_VALUES));
            List<Value> lost = isolate(some, deadline);
            some.stream().filter(value -> !lost.contains(value)).forEach(value -> failingSince.remove(value.item()));
            failed.addAll(lost);
        }
        return failed;
    }

    /** Send, and halve by item while the counts say that some failed: the answer doesn't tell which. */
    private List<Value> isolate(List<Value> values, long deadline) throws IOException {
        Counts counts = send(values.stream().map(Value::body).toList(), deadline);
        if (counts.failed == 0) {
            return List.of();
        }
        List<ZabbixItems.Item> items = values.stream().map(Value::item).distinct().toList();
        if (counts.processed == 0 || items.size() == 1) {
            return values;
        }
        Set<ZabbixItems.Item> half = new HashSet<>(items.subList(0, items.size() / 2));
        List<Value> failed = new ArrayList<>();
        failed.addAll(isolate(values.stream().filter(value -> half.contains(value.item())).toList(), deadline));
        failed.addAll(isolate(values.stream().filter(value -> !half.contains(value.item())).toList(), deadline));
        return failed;
    }

    private Counts send(List<Map<String, Object>> values, long deadline) throws IOException {
        Map<String, Object> request = new LinkedHashMap<>();
        request.put("request", "sender data");
        request.put("data", values);
        Map<?, ?> answer = exchange(JsonWriter.bytesOf(request), deadline);
        Matcher counts = COUNTS.matcher(String.valueOf(answer.get("info")));
        if (!"success".equals(answer.get("response")) || !counts.find()) {
            throw new IOException("it refuses the request (" + answer.get("info") + "): is it an active server or proxy?");
        }
        Counts told = new Counts(Integer.parseInt(counts.group(1)), Integer.parseInt(counts.group(2)));
        if (told.processed + told.failed != values.size()) {
            throw new IOException("it counts " + told.processed + " processed and " + told.failed + " failed values of "
                    + values.size() + ": that doesn't add up, so they are sent again");
        }
        return told;
    }

    private Map<?, ?> exchange(byte[] body, long deadline) throws IOException {
        try (Socket socket = new Socket()) {
            underWay = socket;
            if (interrupted) {
                throw new IOException("the SDK is closing");
            }
            socket.connect(new InetSocketAddress(server, port), left(deadline));
            ByteBuffer packet = ByteBuffer.allocate(HEADER.length + 8 + body.length).order(ByteOrder.LITTLE_ENDIAN);
            packet.put(HEADER).putLong(body.length).put(body);
            socket.getOutputStream().write(packet.array());
            byte[] head = read(socket, HEADER.length + 8, deadline);
            long length = ByteBuffer.wrap(head, HEADER.length, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
            if (!Arrays.equals(head, 0, HEADER.length, HEADER, 0, HEADER.length) || length < 0 || length > LARGEST_ANSWER) {
                throw new IOException("what listens there does not answer like Zabbix: `url` must name the port for values of a"
                        + " server or proxy, usually 10051");
            }
            return JsonReader.object(read(socket, (int) length, deadline));
        } catch (java.net.SocketTimeoutException late) {
            throw new IOException("it did not answer in time", late);
        } finally {
            underWay = null;
        }
    }

    private static byte[] read(Socket socket, int length, long deadline) throws IOException {
        byte[] bytes = new byte[length];
        int at = 0;
        while (at < length) {
            socket.setSoTimeout(left(deadline));
            int count = socket.getInputStream().read(bytes, at, length - at);
            if (count < 0) {
                String said = new String(bytes, 0, at, StandardCharsets.ISO_8859_1).strip();
                throw new IOException("it ended the connection before its answer was whole (" + said.length() + " bytes)");
            }
            at += count;
        }
        return bytes;
    }

    private static int left(long deadline) throws IOException {
        long millis = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
        if (millis <= 0) {
            throw new IOException("it did not answer in time");
        }
        return (int) Math.min(millis, Integer.MAX_VALUE);
    }

    @Override
    public void interrupt() {
        interrupted = true;
        Socket socket = underWay;
        if (socket != null) {
            try {
                socket.close();
            } catch (IOException alreadyClosed) {
                return; // which was wanted
            }
        }
    }

    @Override
    public void close() {
        interrupt();
    }
}
