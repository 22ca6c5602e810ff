package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.internal.HttpCaller;
import com.wafermonitor.sdk.internal.Retry;
import java.net.URI;
import java.time.Clock;
import java.util.Set;

/** What an HTTP status means for a batch: the same reading for every backend that speaks HTTP. */
final class HttpAnswers {
    private static final Set<Integer> RETRY = Set.of(408, 425, 429);
    private static final Set<Integer> REFUSED = Set.of(400, 415, 422);

    private HttpAnswers() {}

    /** The answer to a request that did not succeed. */
    static Answer failed(HttpCaller.Reply reply, String detail) {
        int status = reply.status();
        if (RETRY.contains(status) || status >= 500) {
            double after = Retry.after(reply.header("Retry-After"), Clock.systemUTC());
            return new Answer(Outcome.RETRY, detail, after, java.util.List.of());
        }
        if (status == 413) {
            return new Answer(Outcome.TOO_LARGE, detail);
        }
        return new Answer(REFUSED.contains(status) ? Outcome.REFUSED : Outcome.KEEP, detail);
    }

    static boolean isSuccess(HttpCaller.Reply reply) {
        return reply.status() >= 200 && reply.status() < 300;
    }

    static boolean isLoopback(URI address) {
        String host = address.getHost();
        return host.equals("localhost") || host.equals("[::1]") || host.startsWith("127.");
    }

    /** A URL without a slash at the end, and without user, query and fragment. */
    static String base(URI address) {
        String path = address.getRawPath() == null ? "" : address.getRawPath();
        String port = address.getPort() < 0 ? "" : ":" + address.getPort();
        return address.getScheme() + "://" + address.getHost() + port + path.replaceAll("/+$", "");
    }
}
