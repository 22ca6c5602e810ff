package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.Problem;
import com.wafermonitor.sdk.backends.Backend;
import com.wafermonitor.sdk.backends.BackendProvider;
import com.wafermonitor.sdk.backends.BackendSettings;
import com.wafermonitor.sdk.backends.SidecarBackend;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.TreeMap;
import java.util.regex.Pattern;

/** Finds and makes the backends that a configuration names: the sidecar, or those of direct mode. */
final class Targets {
    private static final double LONGEST_TIMEOUT = 86_400;
    private static final double USUAL_TIMEOUT = 30;
    private static final int DEFAULT_PRIORITY = 100;
    private static final Pattern TYPE = Pattern.compile("sdk\\.direct_backends\\[([0-9]+)\\]\\.type");
    private static final Pattern NAME = Pattern.compile("[a-z0-9_-]{1,64}");

    private final Map<?, ?> sdk;
    private final Path base;
    private final Map<String, BackendProvider> providers = new TreeMap<>();
    private final Map<Integer, Backend> made = new LinkedHashMap<>();

    Targets(Map<?, ?> sdk, Path base) {
        this.sdk = sdk;
        this.base = base;
        if ("direct".equals(sdk.get("mode"))) {
            load(ServiceLoader.load(BackendProvider.class, Thread.currentThread().getContextClassLoader()));
            load(ServiceLoader.load(BackendProvider.class, Targets.class.getClassLoader()));
        }
    }

    private void load(ServiceLoader<BackendProvider> loader) {
        loader.forEach(provider -> providers.putIfAbsent(provider.type(), provider));
    }

    private List<?> entries() {
        return sdk.get("direct_backends") instanceof List<?> list ? list : List.of();
    }

    /** The problems without those that other jars solve, by bringing a backend of that type. */
    List<Problem> allowed(List<Problem> problems) {
        List<Problem> left = new ArrayList<>();
        for (Problem problem : problems) {
            var place = TYPE.matcher(problem.path());
            Object type = place.matches() ? Schema.map(entries().get(Integer.parseInt(place.group(1)))).get("type") : null;
            if (!(type instanceof String name && providers.containsKey(name))) {
                left.add(problem);
            }
        }
        return left;
    }

    /** What a schema can't tell: makes the backends that are enabled, and says what is wrong with them. */
    List<Problem> check() {
        List<Problem> problems = new ArrayList<>(checkUrl());
        if (!"direct".equals(sdk.get("mode"))) {
            return problems;
        }
        Map<String, Integer> names = new LinkedHashMap<>();
        List<?> entries = entries();
        for (int i = 0; i < entries.size(); i++) {
            Map<?, ?> entry = Schema.map(entries.get(i));
            if (entry.get("type") instanceof String type && isEnabled(entry)) {
                String path = "sdk.direct_backends[" + i + "]";
                String name = nameOf(entry);
                Integer first = names.putIfAbsent(name, i);
                if (first != null) {
                    problems.add(new Problem(
                            path + ".name",
                            "'" + name + "' is sdk.direct_backends[" + first + "] already; give one of them another `name`"));
                }
                if ("fallback".equals(entry.get("delivery")) && standsInForNobody(entry)) {
                    problems.add(new Problem(
                            path + ".delivery",
                            "a fallback needs an enabled backend with a lower `priority` number to stand in for"));
                }
                problems.addAll(make(i, type, entry, path));
            }
        }
        if (names.isEmpty() && !(sdk.containsKey("direct_backends") && !(sdk.get("direct_backends") instanceof List))) {
            problems.add(new Problem(
                    "sdk.direct_backends", "expected at least one backend that is enabled, since sdk.mode is direct"));
        }
        return problems;
    }

    private boolean standsInForNobody(Map<?, ?> fallback) {
        return entries().stream()
                .map(Schema::map)
                .noneMatch(other -> isEnabled(other) && priority(other) < priority(fallback));
    }

    private List<Problem> make(int place, String type, Map<?, ?> entry, String path) {
        BackendProvider provider = providers.get(type);
        if (provider == null) {
            String message = "the Java SDK has no backend of type '" + type + "'; it has " + String.join(", ", providers.keySet())
                    + ". Let the sidecar write there, or add a jar with a BackendProvider";
            return List.of(new Problem(path + ".type", message));
        }
        Map<?, ?> config = Schema.map(entry.get("config"));
        BackendSettings settings = new BackendSettings(nameOf(entry), path + ".config", config, base);
        made.put(place, provider.create(settings));
        return settings.problems();
    }

    private static boolean isEnabled(Map<?, ?> entry) {
        return !Boolean.FALSE.equals(entry.get("enabled"));
    }

    private static String nameOf(Map<?, ?> entry) {
        Object name = entry.get("name");
        return name instanceof String text && NAME.matcher(text).matches() ? text : String.valueOf(entry.get("type"));
    }

    private static int priority(Map<?, ?> entry) {
        return entry.get("priority") instanceof Number number ? number.intValue() : DEFAULT_PRIORITY;
    }

    /** What is wrong with the host or the port of the sidecar's URL, which a pattern can't tell. */
    private List<Problem> checkUrl() {
        Object url = Schema.map(sdk.get("sidecar")).get("url");
        if (!(url instanceof String text) || !(text.startsWith("http://") || text.startsWith("https://"))) {
            return List.of();
        }
        return sidecarUri(text) != null
                ? List.of()
                : List.of(new Problem(
                        "sdk.sidecar.url", "expected a URL such as http://localhost:17000, got " + Schema.shown(text)));
    }

    private static URI sidecarUri(String text) {
        try {
            URI uri = new URI(text);
            boolean sound = uri.getHost() != null && !uri.getHost().isEmpty() && uri.getPort() != 0 && uri.getPort() < 65_536;
            return sound ? uri : null;
        } catch (URISyntaxException notOne) {
            return null;
        }
    }

    // ------------------------------------------------------------------------------------------------------------ settings

    /** The settings of a checked document with its defaults. */
    Settings settings(Map<?, ?> full) {
        Map<?, ?> sidecar = Schema.map(full.get("sidecar"));
        Map<?, ?> queue = Schema.map(full.get("queue"));
        Map<?, ?> app = Schema.map(full.get("app"));
        Settings.Sidecar way = new Settings.Sidecar(
                text(sidecar, "url"),
                Math.min(number(sidecar, "timeout").doubleValue(), LONGEST_TIMEOUT),
                number(sidecar, "retries").intValue(),
                (Boolean) sidecar.get("enable_spooling"),
                ConfigLoader.expanded(text(sidecar, "spool_dir")).toAbsolutePath(),
                text(sidecar, "token"));
        Settings.App program = new Settings.App(
                text(app, "name"), text(app, "site_id"), versionOf(app.get("version")), text(app, "instance_id"));
        boolean direct = "direct".equals(full.get("mode"));
        return new Settings(
                text(full, "mode"),
                way,
                new Settings.Queue(
                        number(queue, "max_events").intValue(),
                        number(queue, "batch_size").intValue(),
                        Math.min(number(queue, "flush_interval").doubleValue(), LONGEST_TIMEOUT),
                        text(queue, "on_full")),
                program,
                direct ? backends(program, way) : List.of(sidecar(way)));
    }

    private static Settings.Target sidecar(Settings.Sidecar way) {
        Backend backend = new SidecarBackend(sidecarUri(way.url()), way.token());
        return new Settings.Target("sidecar", "the sidecar at " + way.url(), backend, 1, false, way.timeout(), "");
    }

    private List<Settings.Target> backends(Settings.App app, Settings.Sidecar way) {
        List<Settings.Target> targets = new ArrayList<>();
        made.forEach((place, backend) -> {
            Map<?, ?> entry = Schema.map(entries().get(place));
            String name = nameOf(entry);
            boolean fallback = "fallback".equals(entry.get("delivery"));
            String description = "the backend " + name;
            double usual = "sidecar".equals(entry.get("type")) ? way.timeout() : USUAL_TIMEOUT;
            double timeout = entry.get("timeout") instanceof Number given ? given.doubleValue() : usual;
            targets.add(new Settings.Target(
                    name, description, backend, priority(entry), fallback, Math.min(timeout, LONGEST_TIMEOUT), folder(app, name)));
        });
        return targets;
    }

    /** Where direct mode keeps what a backend of a program could not take: below the spool folder, out of the sidecar's sight. */
    private static String folder(Settings.App app, String backend) {
        String name = app.name().replaceAll("[^A-Za-z0-9_-]", "_");
        byte[] text = (app.siteId() + "\0" + app.name()).getBytes(StandardCharsets.UTF_8);
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(text);
            String hex = HexFormat.of().formatHex(digest, 0, 4);
            return "direct/" + name.substring(0, Math.min(80, name.length())) + "-" + hex + "/" + backend;
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static String text(Map<?, ?> map, String key) {
        return (String) map.get(key);
    }

    private static Number number(Map<?, ?> map, String key) {
        return (Number) map.get(key);
    }

    private static String versionOf(Object version) {
        return version == null ? null : version.toString();
    }
}
