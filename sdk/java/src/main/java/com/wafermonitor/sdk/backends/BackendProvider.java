package com.wafermonitor.sdk.backends;

/** Makes backends of one type; found by {@link java.util.ServiceLoader}. */
public interface BackendProvider {
    /**
     * The {@code type} in {@code sdk.direct_backends}.
     *
     * @return such as {@code s3}
     */
    String type();

    /**
     * A backend, not yet used. Wrong settings are reported through {@code settings}, all of them at once.
     *
     * @param settings the {@code config} block
     * @return the backend; whatever it is when problems were reported, it is not used
     */
    Backend create(BackendSettings settings);
}
