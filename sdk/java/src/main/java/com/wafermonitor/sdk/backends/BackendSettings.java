package com.wafermonitor.sdk.backends;

import com.wafermonitor.sdk.Problem;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** The {@code config} block of one backend; whoever reads it gets what is there, and every mistake is kept to be reported. */
public final class BackendSettings {
    private final String name;
    private final String path;
    private final Map<?, ?> config;
    private final List<Problem> problems = new ArrayList<>();
    private final Set<String> asked = new HashSet<>();
    private final List<BackendSettings> blocks = new ArrayList<>();
    private final Path base;

    /**
     * @param name the backend's name
     * @param path where the block stands, such as {@code sdk.direct_backends[0].config}
     * @param config the block
     * @param base the folder that relative paths in it are relative to
     */
    public BackendSettings(String name, String path, Map<?, ?> config, Path base) {
        this.name = name;
        this.path = path;
        this.config = config;
        this.base = base;
    }

    /**
     * The backend's name.
     *
     * @return as configured, else its type
     */
    public String name() {
        return name;
    }

    /**
     * A text that must be there.
     *
     * @param key its key
     * @return the text; empty when it is missing
     */
    public String text(String key) {
        return config.get(key) == null ? missing(key) : text(key, "");
    }

    /**
     * A text that may be left out.
     *
     * @param key its key
     * @param otherwise what stands for it then
     * @return the text
     */
    public String text(String key, String otherwise) {
        asked.add(key);
        Object value = config.get(key);
        if (value == null) {
            return otherwise;
        }
        if (value instanceof String text && !text.isEmpty()) {
            return text;
        }
        problem(key, "expected text, got " + (value instanceof String ? "nothing" : kindOf(value)));
        return otherwise;
    }

    /**
     * A secret that may be left out; like a text, but an empty one counts as left out.
     *
     * @param key its key
     * @return the secret; empty when there is none
     */
    public String secret(String key) {
        return "".equals(config.get(key)) && asked.add(key) ? "" : text(key, "");
    }

    /**
     * An {@code http://} or {@code https://} URL that must be there.
     *
     * @param key its key
     * @return the URL; {@code http://localhost} when there is none
     */
    public URI url(String key) {
        String text = config.get(key) == null ? missing(key) : text(key, "");
        return uri(key, text);
    }

    /**
     * An {@code http://} or {@code https://} URL that may be left out.
     *
     * @param key its key
     * @param otherwise what stands for it then
     * @return the URL
     */
    public URI url(String key, URI otherwise) {
        String text = text(key, "");
        return text.isEmpty() ? otherwise : uri(key, text);
    }

    private URI uri(String key, String text) {
        try {
            URI uri = new URI(text);
            boolean web = "http".equals(uri.getScheme()) || "https".equals(uri.getScheme());
            if (web && uri.getHost() != null && uri.getPort() != 0 && uri.getPort() < 65_536) {
                return uri;
            }
        } catch (URISyntaxException notOne) {
            return badUrl(key, text);
        }
        return badUrl(key, text);
    }

    private URI badUrl(String key, String text) {
        if (!text.isEmpty()) {
            problem(key, "expected a URL such as http://localhost:9200");
        }
        return URI.create("http://localhost");
    }

    /**
     * A folder that must be there; {@code ~} is the user's home.
     *
     * @param key its key
     * @return the absolute path
     */
    public Path folder(String key) {
        return resolved(text(key));
    }

    /**
     * A file that may be left out; {@code ~} is the user's home.
     *
     * @param key its key
     * @return the absolute path; null when it is left out
     */
    public Path file(String key) {
        String text = text(key, "");
        return text.isEmpty() ? null : resolved(text);
    }

    private Path resolved(String text) {
        String home = System.getProperty("user.home");
        return base.resolve(text.equals("~") || text.startsWith("~/") ? home + text.substring(1) : text).toAbsolutePath();
    }

    /**
     * A number above 0 that may be left out.
     *
     * @param key its key
     * @param otherwise what stands for it then
     * @return the number
     */
    public double positive(String key, double otherwise) {
        asked.add(key);
        Object value = config.get(key);
        if (value == null) {
            return otherwise;
        }
        if (value instanceof Number number && number.doubleValue() > 0 && Double.isFinite(number.doubleValue())) {
            return number.doubleValue();
        }
        problem(key, "expected a number above 0, got " + (value instanceof Number ? value : kindOf(value)));
        return otherwise;
    }

    /**
     * A yes or no that may be left out.
     *
     * @param key its key
     * @param otherwise what stands for it then
     * @return the value
     */
    public boolean flag(String key, boolean otherwise) {
        asked.add(key);
        Object value = config.get(key);
        if (value != null && !(value instanceof Boolean)) {
            problem(key, "expected true or false, got " + kindOf(value));
        }
        return value instanceof Boolean flag ? flag : otherwise;
    }

    /**
     * One of several words, that may be left out.
     *
     * @param key its key
     * @param known the words; the first stands for it when it is left out
     * @return the word
     */
    public String choice(String key, List<String> known) {
        String word = text(key, known.get(0));
        if (!known.contains(word)) {
            problem(key, "the Java SDK knows " + String.join(", ", known) + " here; let the sidecar do more");
            return known.get(0);
        }
        return word;
    }

    /**
     * Some whole numbers, that may be left out.
     *
     * @param key its key
     * @return the numbers
     */
    public List<Integer> integers(String key) {
        asked.add(key);
        List<Integer> numbers = new ArrayList<>();
        for (Object entry : config.get(key) instanceof List<?> list ? list : List.of()) {
            if (entry instanceof Integer number) {
                numbers.add(number);
            } else {
                problem(key, "expected whole numbers");
            }
        }
        if (config.get(key) != null && !(config.get(key) instanceof List)) {
            problem(key, "expected a list of whole numbers, got " + kindOf(config.get(key)));
        }
        return numbers;
    }

    /**
     * A block within this one, which may be left out.
     *
     * @param key its key
     * @return the block; its problems are reported with this one's
     */
    public BackendSettings block(String key) {
        asked.add(key);
        Object value = config.get(key);
        if (value != null && !(value instanceof Map)) {
            problem(key, "expected a mapping, got " + kindOf(value));
        }
        BackendSettings block =
                new BackendSettings(name, path + "." + key, value instanceof Map<?, ?> map ? map : Map.of(), base);
        blocks.add(block);
        return block;
    }

    /**
     * The keys of the block.
     *
     * @return as text, sorted; reading them this way counts as knowing them
     */
    public Set<String> keys() {
        Set<String> keys = new TreeSet<>();
        config.keySet().forEach(key -> keys.add(String.valueOf(key)));
        asked.addAll(keys);
        return keys;
    }

    /**
     * Report a mistake.
     *
     * @param key the key that is wrong
     * @param message what was expected there
     */
    public void problem(String key, String message) {
        problems.add(new Problem(path + "." + key, message));
    }

    private String missing(String key) {
        asked.add(key);
        problem(key, "required but missing");
        return "";
    }

    /**
     * Every mistake so far, and every key that nobody asked for.
     *
     * @return the problems
     */
    public List<Problem> problems() {
        List<Problem> all = new ArrayList<>(problems);
        for (Object key : config.keySet()) {
            if (!asked.contains(String.valueOf(key))) {
                all.add(new Problem(
                        path + "." + key, "unknown key; known here: " + String.join(", ", new TreeSet<>(asked))));
            }
        }
        blocks.forEach(block -> all.addAll(block.problems()));
        return all;
    }

    private static String kindOf(Object value) {
        if (value instanceof Map) {
            return "a mapping";
        }
        if (value instanceof List) {
            return "a list";
        }
        return value instanceof String ? "text" : value instanceof Boolean ? "a boolean" : "a number";
    }
}
