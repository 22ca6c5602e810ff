package com.wafermonitor.sdk;

import com.wafermonitor.sdk.internal.ConfigLoader;
import com.wafermonitor.sdk.internal.Settings;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * What {@link Monitoring#initialize(Config)} starts with: a file or a document, and settings that win over everything else. Immutable;
 * nothing is read before {@code initialize}.
 *
 * <p>Later wins: defaults, the file (the one named here, else the one that {@code MONITORING_CONFIG} names, else
 * {@code ./monitoring-config.yaml} if it is there), the environment ({@code MONITORING_SDK__SIDECAR__URL}), and what is given here.
 */
public final class Config {
    private final Path file;
    private final Map<?, ?> document;
    private final Map<String, Object> overrides;

    private Config(Path file, Map<?, ?> document, Map<String, Object> overrides) {
        this.file = file;
        this.document = document;
        this.overrides = overrides;
    }

    /**
     * The file and the environment alone.
     *
     * @return a configuration without settings of its own
     */
    public static Config fromEnvironment() {
        return new Config(null, null, Map.of());
    }

    /**
     * A YAML or JSON file.
     *
     * @param file its name; it must exist when the SDK is initialized
     * @return a configuration without settings of its own
     */
    public static Config fromFile(Path file) {
        return new Config(file, null, Map.of());
    }

    /**
     * A document as it would stand in the file.
     *
     * @param document a map with the key {@code sdk}
     * @return a configuration without further settings
     */
    public static Config of(Map<String, ?> document) {
        return new Config(null, document, Map.of());
    }

    /**
     * The two settings that every program needs.
     *
     * @param name {@code sdk.app.name}: which program it is
     * @param siteId {@code sdk.app.site_id}: where it runs
     * @return a configuration with these
     */
    public static Config app(String name, String siteId) {
        return fromEnvironment().with("app.name", name).with("app.site_id", siteId);
    }

    /**
     * The same with one more setting.
     *
     * @param key its path below {@code sdk}, such as {@code sidecar.url} or {@code queue.batch_size}; also a whole level, such as
     *     {@code direct_backends}
     * @param value text, number, boolean, list or map
     * @return another configuration
     */
    public Config with(String key, Object value) {
        Map<String, Object> more = new LinkedHashMap<>(overrides);
        more.put(key, value);
        return new Config(file, document, more);
    }

    /** Read it all. */
    Settings load(Map<String, String> environment) {
        return new ConfigLoader(environment).load(file, document, overrides);
    }
}
