package com.wafermonitor.sdk.internal;

import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;

/** The active OpenTelemetry span, when the program brings opentelemetry-api along; never a reason to need it. */
public final class Tracing {
    private static final boolean PRESENT = isPresent();

    private Tracing() {}

    private static boolean isPresent() {
        try {
            Class.forName("io.opentelemetry.api.trace.Span", false, Tracing.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException | LinkageError notThere) {
            return false;
        }
    }

    /** Trace id and span id of the active span, in hexadecimal; null when there is none. */
    public static String[] active() {
        return PRESENT ? OfOpenTelemetry.active() : null;
    }

    /** Loaded only when the classes that it names are there. */
    private static final class OfOpenTelemetry {
        static String[] active() {
            SpanContext context = Span.current().getSpanContext();
            return context.isValid() ? new String[] {context.getTraceId(), context.getSpanId()} : null;
        }
    }
}
