package com.wafermonitor.sdk.tck;

import com.wafermonitor.sdk.internal.JsonReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.zip.GZIPInputStream;

/** A real HTTP server whose next answers are scripted; without a script it answers as {@code otherwise} says. */
public final class ScriptedServer implements AutoCloseable {
    /** One request that the server read. */
    public record Request(String method, String path, Map<String, String> headers, byte[] raw, byte[] body) {
        /** The lines of the body as events. */
        public List<Map<?, ?>> events() {
            List<Map<?, ?>> events = new ArrayList<>();
            for (String line : new String(body, StandardCharsets.UTF_8).split("\n")) {
                try {
                    events.add(JsonReader.object(line.getBytes(StandardCharsets.UTF_8)));
                } catch (IOException error) {
                    throw new UncheckedIOException(line, error);
                }
            }
            return events;
        }
    }

    /** How to answer one request. */
    public record Answer(int status, Map<String, String> headers, String body, Twist twist) {
        /** An ordinary answer. */
        public static Answer of(int status, String body) {
            return new Answer(status, Map.of(), body, Twist.NONE);
        }

        /** An answer with a header. */
        public static Answer of(int status, String body, String header, String value) {
            return new Answer(status, Map.of(header, value), body, Twist.NONE);
        }

        /** No proper answer. */
        public static Answer of(Twist twist) {
            return new Answer(202, Map.of(), "{\"accepted\":1}", twist);
        }
    }

    /** What goes wrong with an answer. */
    public enum Twist {
        NONE,
        /** No answer until the server is closed. */
        HANG,
        /** The connection ends without an answer. */
        CUT,
        /** The connection ends within the answer. */
        CUT_WITHIN,
        /** The answer comes byte by byte, slowly. */
        DRIP,
        /** What comes is no HTTP. */
        GARBAGE,
        /** The request is acknowledged, and the acknowledgement lost. */
        LOSE
    }

    private final List<Request> requests = new CopyOnWriteArrayList<>();
    private final List<Map<?, ?>> accepted = new CopyOnWriteArrayList<>();
    private final Deque<Answer> script = new ArrayDeque<>();
    private final CountDownLatch released = new CountDownLatch(1);
    private final List<Socket> sockets = new CopyOnWriteArrayList<>();
    private final Function<Request, Answer> otherwise;
    private ServerSocket server;
    private Thread accepting;
    private final AtomicInteger connections = new AtomicInteger();
    private int port;

    /** A sidecar that accepts everything. */
    public ScriptedServer() {
        this(request -> Answer.of(202, "{\"accepted\":" + request.events().size() + ",\"rejected\":[]}"));
    }

    /** A server with answers of the test's own. */
    public ScriptedServer(Function<Request, Answer> otherwise) {
        this.otherwise = otherwise;
        start();
    }

    /** Listen, on the same port as before. */
    public void start() {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (true) {
            try {
                server = new ServerSocket();
                server.setReuseAddress(true);
                server.bind(new java.net.InetSocketAddress(InetAddress.getLoopbackAddress(), port), 64);
                port = server.getLocalPort();
                break;
            } catch (IOException stillInUse) { // the one before is closed when its accept has ended
                if (System.nanoTime() - deadline > 0) {
                    throw new UncheckedIOException(stillInUse);
                }
                Thread.onSpinWait();
            }
        }
        ServerSocket listening = server;
        accepting = daemon(() -> accept(listening));
    }

    /** Go away: connections are refused until {@link #start}. */
    public void stop() {
        try {
            server.close();
            accepting.join(); // until then the port may still take connections
            for (Socket socket : sockets) {
                socket.close();
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** Answer the next requests like this. */
    public void then(Answer... answers) {
        synchronized (script) {
            script.addAll(List.of(answers));
        }
    }

    public String url() {
        return "http://127.0.0.1:" + port;
    }

    public int port() {
        return port;
    }

    /** How many connections were made. */
    public int connections() {
        return connections.get();
    }

    public List<Request> requests() {
        return requests;
    }

    /** The events of the requests that were answered by 2xx. */
    public List<Map<?, ?>> accepted() {
        return accepted;
    }

    @Override
    public void close() {
        released.countDown();
        stop();
    }

    private static Thread daemon(Runnable work) {
        Thread thread = new Thread(work, "scripted-server");
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private void accept(ServerSocket listening) {
        while (!listening.isClosed()) {
            try {
                Socket socket = listening.accept();
                sockets.add(socket);
                connections.incrementAndGet();
                daemon(() -> serve(socket));
            } catch (IOException closed) {
                return;
            }
        }
    }

    private void serve(Socket socket) {
        try (socket) {
            socket.setTcpNoDelay(true);
            InputStream in = new java.io.BufferedInputStream(socket.getInputStream());
            Request request;
            while ((request = read(in)) != null) {
                Answer answer;
                synchronized (script) {
                    answer = script.pollFirst();
                }
                if (answer == null && request.raw.length > 0 && request.raw[0] == '[') {
                    answer = Answer.of(200, "");
                } else if (answer == null) {
                    answer = otherwise.apply(request);
                }
                boolean takes = answer.status >= 200 && answer.status < 300
                        && (answer.twist == Twist.NONE || answer.twist == Twist.LOSE);
                if (takes && new String(request.body, StandardCharsets.UTF_8).startsWith("{")) {
                    accepted.addAll(request.events());
                }
                requests.add(request);
                if (!write(socket.getOutputStream(), answer)) {
                    return;
                }
            }
        } catch (IOException | UncheckedIOException | InterruptedException gone) {
            return;
        } finally {
            sockets.remove(socket);
        }
    }

    private boolean write(OutputStream out, Answer answer) throws IOException, InterruptedException {
        byte[] body = answer.body.getBytes(StandardCharsets.UTF_8);
        StringBuilder head = new StringBuilder("HTTP/1.1 " + answer.status + " Scripted\r\nContent-Length: " + body.length + "\r\n");
        answer.headers.forEach((name, value) -> head.append(name).append(": ").append(value).append("\r\n"));
        byte[] text = (head + "\r\n" + answer.body).getBytes(StandardCharsets.UTF_8);
        switch (answer.twist) {
            case NONE -> out.write(text);
            case HANG -> {
                released.await(60, TimeUnit.SECONDS);
                return false;
            }
            case CUT, LOSE -> {
                return false;
            }
            case CUT_WITHIN -> {
                out.write(text, 0, text.length - 4);
                return false;
            }
            case DRIP -> {
                for (byte each : text) {
                    out.write(each);
                    out.flush();
                    if (released.await(100, TimeUnit.MILLISECONDS)) {
                        return false;
                    }
                }
            }
            default -> {
                out.write("SSH-2.0-something else\r\n".getBytes(StandardCharsets.UTF_8));
                return false;
            }
        }
        out.flush();
        return true;
    }

    private static Request read(InputStream in) throws IOException {
        String line = line(in);
        if (line.isEmpty()) {
            return null;
        }
        String[] start = line.split(" ");
        Map<String, String> headers = new LinkedHashMap<>();
        String header;
        while (!(header = line(in)).isEmpty()) {
            int colon = header.indexOf(':');
            headers.put(header.substring(0, colon).toLowerCase(Locale.ROOT), header.substring(colon + 1).strip());
        }
        byte[] raw = in.readNBytes(Integer.parseInt(headers.getOrDefault("content-length", "0")));
        byte[] body = "gzip".equals(headers.get("content-encoding"))
                ? new GZIPInputStream(new ByteArrayInputStream(raw)).readAllBytes()
                : raw;
        return new Request(start[0], start[1], headers, raw, body);
    }

    private static String line(InputStream in) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        int c;
        while ((c = in.read()) >= 0 && c != '\n') {
            if (c != '\r') {
                line.write(c);
            }
        }
        return line.toString(StandardCharsets.UTF_8);
    }
}
