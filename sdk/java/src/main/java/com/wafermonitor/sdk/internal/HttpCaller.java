package com.wafermonitor.sdk.internal;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.net.ConnectException;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpHeaders;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.UnresolvedAddressException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;

/**
 * Makes HTTP requests over kept connections, each within a deadline for the whole exchange however slowly the answer drips, and leaves
 * neither thread nor socket behind when it is closed.
 *
 * <p>Before Java 21 a client can't be closed: its selector thread ends when the client is garbage. It also ends when it is
 * interrupted, and closes its connections then; it is found as the thread that appeared in our thread group while the client was made.
 */
public final class HttpCaller implements AutoCloseable {
    private static final int LARGEST_ANSWER = 4 * 1024 * 1024;
    private static final long END_MILLIS = 200;
    private static final Object MAKING = new Object();
    private static final MethodHandle SHUTDOWN_NOW = shutdownNow();
    private static final AtomicInteger NUMBER = new AtomicInteger();

    private final boolean direct;
    private final Tls tls;
    private HttpClient client;
    private ExecutorService executor;
    private Set<Thread> selectors = Set.of();
    private CompletableFuture<?> underWay;
    private boolean used;
    private boolean interrupted;

    /** What came back. */
    public record Reply(int status, HttpHeaders headers, byte[] body) {
        /** The value of a header; null when it is not there. */
        public String header(String name) {
            return headers.firstValue(name).orElse(null);
        }

        /** The start of the body in one line, for messages. */
        public String said() {
            String text = new String(body, 0, Math.min(400, body.length), StandardCharsets.UTF_8);
            String line = text.strip().replaceAll("\\s+", " ");
            return line.isEmpty() ? "nothing" : line.substring(0, Math.min(200, line.length()));
        }
    }

    /**
     * @param direct whether to pass by the proxies of the JVM's settings, as for a sidecar on the same host
     * @param tls whom to trust and what to show; null: as the JVM's settings say
     */
    public HttpCaller(boolean direct, Tls tls) {
        this.direct = direct;
        this.tls = tls;
    }

    /**
     * Make a request and wait for the whole answer.
     *
     * @throws IOException when there is none within the time
     */
    public Reply call(HttpRequest.Builder request, Duration timeout) throws IOException {
        long deadline = System.nanoTime() + timeout.toNanos();
        boolean kept = used;
        try {
            return attempt(request, deadline);
        } catch (ConnectException nobodyThere) {
            throw nobodyThere;
        } catch (StaleException stale) {
            if (!kept) {
                throw stale;
            }
            return attempt(request, deadline); // the server had closed the connection that we kept
        }
    }

    /** The connection ended before an answer came. */
    private static final class StaleException extends IOException {
        private static final long serialVersionUID = 1L;

        StaleException(IOException cause) {
            super(describe(cause), cause);
        }
    }

    private Reply attempt(HttpRequest.Builder builder, long deadline) throws IOException {
        long left = deadline - System.nanoTime();
        if (left <= 0) {
            throw new IOException("it did not answer in time");
        }
        HttpRequest request = builder.copy().timeout(Duration.ofNanos(left)).build();
        CompletableFuture<HttpResponse<byte[]>> future;
        synchronized (this) {
            if (interrupted) {
                throw new IOException("the SDK is closing");
            }
            future = client().sendAsync(request, answer -> new Bounded());
            underWay = future;
        }
        try {
            HttpResponse<byte[]> response = future.get(left, TimeUnit.NANOSECONDS);
            used = true;
            return new Reply(response.statusCode(), response.headers(), response.body());
        } catch (ExecutionException error) {
            throw failure(error.getCause());
        } catch (TimeoutException late) {
            throw new IOException("it did not answer in time", late);
        } catch (InterruptedException | java.util.concurrent.CancellationException closing) {
            if (closing instanceof InterruptedException) {
                Thread.currentThread().interrupt();
            }
            throw new IOException("the SDK is closing", closing);
        } finally {
            future.cancel(true);
            synchronized (this) {
                underWay = null;
            }
        }
    }

    private static IOException failure(Throwable cause) {
        Throwable error = cause instanceof CompletionException && cause.getCause() != null ? cause.getCause() : cause;
        if (error instanceof java.net.http.HttpTimeoutException) {
            return new IOException("it did not answer in time", error);
        }
        if (error instanceof ConnectException refused) {
            boolean unknown = refused.getCause() instanceof UnresolvedAddressException
                    || refused.getCause() != null && refused.getCause().getCause() instanceof UnresolvedAddressException;
            ConnectException named = new ConnectException(unknown ? "its host name can't be resolved" : "connection refused");
            named.initCause(error);
            return named;
        }
        if (error instanceof SSLException untrusted) {
            return new IOException(Tls.explained(untrusted), untrusted);
        }
        if (error instanceof IOException broken) {
            String text = String.valueOf(broken.getMessage());
            boolean stale = text.contains("received no bytes") || text.contains("reset") || text.contains("Broken pipe")
                    || text.contains("closed");
            return stale ? new StaleException(broken) : new IOException(describe(broken), broken);
        }
        return new IOException(describe(error), error);
    }

    private static String describe(Throwable error) {
        String text = error.getMessage();
        return text == null ? error.getClass().getSimpleName() : error.getClass().getSimpleName() + ": " + text;
    }

    // ------------------------------------------------------------------------------------------------------- the client

    private HttpClient client() throws IOException {
        if (client == null) {
            SSLContext context = tls == null ? null : tls.context();
            synchronized (MAKING) {
                Set<Thread> before = new HashSet<>(Workers.alive());
                executor = executor();
                HttpClient.Builder builder =
                        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).executor(executor);
                builder.followRedirects(HttpClient.Redirect.NEVER);
                if (direct) {
                    builder.proxy(HttpClient.Builder.NO_PROXY);
                } else if (ProxySelector.getDefault() != null) {
                    builder.proxy(ProxySelector.getDefault());
                }
                if (context != null) {
                    builder.sslContext(context);
                }
                client = Workers.call("monitoring-sdk-http", builder::build);
                Set<Thread> after = new HashSet<>(Workers.alive());
                after.removeAll(before);
                after.removeIf(thread -> !thread.getName().contains("SelectorManager"));
                selectors = after;
            }
        }
        return client;
    }

    private static ExecutorService executor() {
        ThreadPoolExecutor pool = new ThreadPoolExecutor(
                2, 2, 5, TimeUnit.SECONDS, new LinkedBlockingQueue<>(),
                work -> Workers.daemon("monitoring-sdk-http-" + NUMBER.incrementAndGet(), work));
        pool.allowCoreThreadTimeOut(true);
        return pool;
    }

    private static MethodHandle shutdownNow() {
        try {
            return MethodHandles.publicLookup()
                    .findVirtual(HttpClient.class, "shutdownNow", MethodType.methodType(void.class));
        } catch (NoSuchMethodException | IllegalAccessException beforeJava21) {
            return null;
        }
    }

    /** Make a call that is under way in another thread fail soon, and every later one at once. */
    public synchronized void interrupt() {
        interrupted = true;
        if (underWay != null) {
            underWay.cancel(true);
        }
    }

    @Override
    public synchronized void close() {
        interrupt();
        if (client == null) {
            return;
        }
        if (SHUTDOWN_NOW == null) {
            selectors.forEach(Thread::interrupt);
        } else {
            shutdown(client);
        }
        executor.shutdown();
        try {
            for (Thread selector : selectors) {
                selector.join(END_MILLIS); // so that threads and sockets are gone when this returns
            }
            executor.awaitTermination(END_MILLIS, TimeUnit.MILLISECONDS);
        } catch (InterruptedException notNow) {
            Thread.currentThread().interrupt(); // they end all the same
        }
        client = null;
        selectors = Set.of();
    }

    private static void shutdown(HttpClient client) {
        try {
            SHUTDOWN_NOW.invoke(client);
        } catch (Throwable impossible) { // invoke declares it; the method itself declares nothing
            throw new IllegalStateException(impossible);
        }
    }

    // -------------------------------------------------------------------------------------------------------------- parts

    /** A POST of a body. */
    public static HttpRequest.Builder post(URI address, Map<String, String> headers, byte[] body) {
        HttpRequest.Builder request = HttpRequest.newBuilder(address).POST(HttpRequest.BodyPublishers.ofByteArray(body));
        headers.forEach(request::header);
        return request;
    }

    /** The body as bytes, at most so many of them. */
    private static final class Bounded implements HttpResponse.BodySubscriber<byte[]> {
        private final CompletableFuture<byte[]> body = new CompletableFuture<>();
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        private Flow.Subscription subscription;

        @Override
        public CompletionStage<byte[]> getBody() {
            return body;
        }

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription = given;
            given.request(Long.MAX_VALUE);
        }

        @Override
        public void onNext(List<ByteBuffer> buffers) {
            for (ByteBuffer buffer : buffers) {
                byte[] piece = new byte[buffer.remaining()];
                buffer.get(piece);
                bytes.writeBytes(piece);
            }
            if (bytes.size() > LARGEST_ANSWER) {
                subscription.cancel();
                onComplete();
            }
        }

        @Override
        public void onError(Throwable error) {
            body.completeExceptionally(error);
        }

        @Override
        public void onComplete() {
            body.complete(bytes.toByteArray());
        }
    }
}
