package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.ConfigurationException;
import com.wafermonitor.sdk.Problem;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.yaml.snakeyaml.LoaderOptions;
import org.yaml.snakeyaml.Yaml;
import org.yaml.snakeyaml.constructor.SafeConstructor;
import org.yaml.snakeyaml.error.YAMLException;

/**
 * Where the configuration comes from: defaults, then a file, then the environment, then arguments; later wins.
 *
 * <p>The file is the one that {@code MONITORING_CONFIG} names, else {@code ./monitoring-config.yaml} if it is there; YAML or JSON. In
 * the environment, {@code MONITORING_SDK__SIDECAR__URL} sets {@code sdk.sidecar.url}. All mistakes are reported at once.
 */
public final class ConfigLoader {
    private static final String DEFAULT_FILE = "monitoring-config.yaml";
    private static final String FILE_VARIABLE = "MONITORING_CONFIG";
    private static final String ENVIRONMENT = "MONITORING_SDK__";
    private static final Pattern VARIABLE = Pattern.compile("\\$\\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\\}");
    private static final Pattern HIDDEN = Pattern.compile("\ue000([0-9]+)\ue001");

    private final Map<String, String> environment;
    private final Map<?, ?> schema = Schema.ofConfiguration();
    private final List<Problem> problems = new ArrayList<>();
    private final Map<String, Object> merged = new LinkedHashMap<>();

    public ConfigLoader(Map<String, String> environment) {
        this.environment = environment;
    }

    /**
     * The merged configuration.
     *
     * @param named the file that the program names, or null
     * @param document the document that the program gives, with the key {@code sdk}, or null
     * @param overrides dotted keys below {@code sdk}
     * @throws ConfigurationException with every mistake
     */
    public Settings load(Path named, Map<?, ?> document, Map<String, ?> overrides) {
        Path file = document == null ? file(named) : fileOfEnvironment();
        if (file != null) {
            Map<String, Object> content = copy(interpolated(read(file), ""));
            anchor(content, file);
            merge(merged, content);
        }
        new TreeMap<>(environment).forEach((name, text) -> {
            if (name.startsWith(ENVIRONMENT)) {
                String[] steps = ("sdk__" + name.substring(ENVIRONMENT.length()).toLowerCase(Locale.ROOT)).split("__");
                set(merged, steps, isText(steps) ? text : typed(text));
            }
        });
        if (document != null) {
            merge(merged, copy(interpolated(document, "")));
        }
        overrides.forEach((key, value) -> {
            String[] steps = ("sdk." + key).split("\\.");
            set(merged, steps, interpolated(value, "sdk." + key));
        });
        return checked(file);
    }

    private Settings checked(Path file) {
        String source = file == null ? "configuration" : file.toString();
        Path base = file == null ? Path.of("").toAbsolutePath() : file.toAbsolutePath().getParent();
        problems.addAll(new Schema(schema).check(merged));
        Targets targets = new Targets(Schema.map(merged.get("sdk")), base);
        List<Problem> all = new ArrayList<>(targets.allowed(problems));
        all.addAll(targets.check());
        if (!all.isEmpty()) {
            Map<String, Problem> first = new TreeMap<>();
            all.forEach(problem -> first.putIfAbsent(problem.path(), problem)); // of several at one place the first explains
            throw new ConfigurationException(source, List.copyOf(first.values()));
        }
        Map<?, ?> sdk = Schema.map(Schema.withDefaults(schema, merged).get("sdk"));
        return targets.settings(sdk);
    }

    // -------------------------------------------------------------------------------------------------------------- file

    /** The file to read; one that was named must exist, the default one need not. */
    private Path file(Path named) {
        return named != null ? named : fileOfEnvironment();
    }

    private Path fileOfEnvironment() {
        String name = environment.getOrDefault(FILE_VARIABLE, "");
        if (!name.isEmpty()) {
            try {
                return Path.of(name);
            } catch (InvalidPathException noPath) {
                throw wrong(name, "is not a file name");
            }
        }
        Path file = Path.of(DEFAULT_FILE);
        return Files.isRegularFile(file) ? file : null;
    }

    private static ConfigurationException wrong(String file, String message) {
        return new ConfigurationException(file, List.of(new Problem("", message)));
    }

    private Map<?, ?> read(Path file) {
        Object content;
        try {
            content = parsed(Files.readString(file));
        } catch (NoSuchFileException missing) {
            throw wrong(file.toString(), "there is no such file; check the argument of initialize() or MONITORING_CONFIG");
        } catch (YAMLException | java.nio.charset.MalformedInputException garbled) {
            String text = String.valueOf(garbled.getMessage()).replaceAll("\\s+", " ");
            throw wrong(file.toString(), "not valid YAML or JSON: " + text);
        } catch (IOException unreadable) {
            throw wrong(file.toString(), "can't be read: " + unreadable);
        }
        if (content == null) {
            return Map.of();
        }
        if (content instanceof Map<?, ?> map) {
            return map;
        }
        throw wrong(file.toString(), "expected a mapping at the top, got " + Cleaning.typeName(content));
    }

    /** YAML in which {@code ${VAR}} needs no quotes, though its braces would mean something else inside {@code {...}}. */
    private static Object parsed(String text) {
        List<String> variables = new ArrayList<>();
        String hidden = VARIABLE.matcher(text).replaceAll(found -> {
            variables.add(found.group());
            return "\ue000" + (variables.size() - 1) + "\ue001";
        });
        return shown(yaml().load(hidden), variables);
    }

    private static Yaml yaml() {
        LoaderOptions options = new LoaderOptions();
        return new Yaml(new SafeConstructor(options));
    }

    private static Object shown(Object value, List<String> variables) {
        if (value instanceof Map<?, ?> map) {
            Map<String, Object> copy = new LinkedHashMap<>();
            map.forEach((key, entry) -> copy.put(String.valueOf(shown(key, variables)), shown(entry, variables)));
            return copy;
        }
        if (value instanceof List<?> list) {
            return list.stream().map(entry -> shown(entry, variables)).collect(ArrayList::new, List::add, List::addAll);
        }
        if (value instanceof String text) {
            return HIDDEN.matcher(text).replaceAll(found ->
                    Matcher.quoteReplacement(variables.get(Integer.parseInt(found.group(1)))));
        }
        return value;
    }

    /** Make a relative spool folder relative to the file that names it, not to wherever the program was started. */
    private static void anchor(Map<String, Object> document, Path file) {
        if (document.get("sdk") instanceof Map<?, ?> sdk && sdk.get("sidecar") instanceof Map<?, ?> sidecar) {
            if (sidecar.get("spool_dir") instanceof String folder && !folder.isEmpty()) {
                Path anchored = file.toAbsolutePath().getParent().resolve(expanded(folder));
                set(document, new String[] {"sdk", "sidecar", "spool_dir"}, anchored.toString());
            }
        }
    }

    /** A path in which {@code ~} is the user's home. */
    static Path expanded(String path) {
        return path.equals("~") || path.startsWith("~/")
                ? Path.of(System.getProperty("user.home") + path.substring(1))
                : Path.of(path);
    }

    // ------------------------------------------------------------------------------------------------------- interpolation

    /** A copy of a value with {@code ${VAR}} and {@code ${VAR:-default}} replaced in every string. */
    private Object interpolated(Object value, String path) {
        return interpolated(value, path, problems);
    }

    private Object interpolated(Object value, String path, List<Problem> found) {
        if (value instanceof Map<?, ?> map) {
            // Nobody needs what a backend holds that is not enabled.
            List<Problem> noted = Boolean.FALSE.equals(map.get("enabled")) ? new ArrayList<>() : found;
            Map<String, Object> copy = new LinkedHashMap<>();
            map.forEach((key, entry) ->
                    copy.put(String.valueOf(key), interpolated(entry, path.isEmpty() ? key.toString() : path + "." + key, noted)));
            return copy;
        }
        if (value instanceof Iterable<?> items && !(value instanceof Path)) {
            List<Object> copy = new ArrayList<>();
            items.forEach(item -> copy.add(interpolated(item, path + "[" + copy.size() + "]", found)));
            return copy;
        }
        if (!(value instanceof CharSequence || value instanceof Path)) {
            return value;
        }
        return VARIABLE.matcher(value.toString()).replaceAll(variable -> {
            String name = variable.group(1);
            String otherwise = variable.group(2);
            if (environment.containsKey(name)) {
                return Matcher.quoteReplacement(environment.get(name));
            }
            if (otherwise == null) {
                found.add(new Problem(
                        path, "environment variable " + name + " is not set and has no default (write ${" + name + ":-default})"));
                return "";
            }
            return Matcher.quoteReplacement(otherwise);
        });
    }

    // ------------------------------------------------------------------------------------------------------------- merging

    private boolean isText(String[] steps) {
        Map<?, ?> node = schema;
        for (String step : steps) {
            node = Schema.map(Schema.map(node.get("properties")).get(step));
        }
        return "string".equals(node.get("type"));
    }

    /** An environment variable's text as YAML reads it: a number, a boolean, a list. */
    private static Object typed(String text) {
        try {
            return shown(yaml().load(text), List.of());
        } catch (YAMLException plainText) {
            return text;
        }
    }

    @SuppressWarnings("unchecked") // maps of ours have text as keys: copy() made them
    private static Map<String, Object> copy(Object map) {
        return (Map<String, Object>) map;
    }

    private static void set(Map<String, Object> tree, String[] steps, Object value) {
        Map<String, Object> inner = tree;
        for (int i = 0; i < steps.length - 1; i++) {
            if (!(inner.get(steps[i]) instanceof Map)) {
                inner.put(steps[i], new LinkedHashMap<>());
            }
            inner = copy(inner.get(steps[i]));
        }
        Map<String, Object> last = new LinkedHashMap<>();
        last.put(steps[steps.length - 1], value);
        merge(inner, last);
    }

    /** Put one tree over another, level by level; a list replaces a list. */
    private static void merge(Map<String, Object> tree, Map<String, Object> other) {
        other.forEach((key, value) -> {
            if (tree.get(key) instanceof Map && value instanceof Map) {
                merge(copy(tree.get(key)), copy(value));
            } else {
                tree.put(key, value);
            }
        });
    }
}
