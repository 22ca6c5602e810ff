package com.wafermonitor.sdk;

import java.util.List;

/** The configuration is wrong; the message names every mistake, and {@link #problems} has them one by one. */
public final class ConfigurationException extends MonitoringException {
    private static final long serialVersionUID = 1L;

    /** Where the configuration comes from. */
    private final String source;

    private final transient List<Problem> problems;

    /**
     * @param source where the configuration comes from: the name of a file, or {@code configuration}
     * @param problems every mistake
     */
    public ConfigurationException(String source, List<Problem> problems) {
        super(text(source, problems));
        this.source = source;
        this.problems = List.copyOf(problems);
    }

    private static String text(String source, List<Problem> problems) {
        StringBuilder text = new StringBuilder(source).append(": ");
        text.append(problems.size() == 1 ? "1 problem" : problems.size() + " problems");
        problems.forEach(problem -> text.append("\n  ").append(problem));
        return text.toString();
    }

    /**
     * Where the configuration comes from.
     *
     * @return the name of a file, or {@code configuration}
     */
    public String source() {
        return source;
    }

    /**
     * Every mistake.
     *
     * @return in the order of their paths; empty after deserialization
     */
    public List<Problem> problems() {
        return problems == null ? List.of() : problems;
    }
}
