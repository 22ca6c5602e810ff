/**
 * Where events go: the backends of direct mode, and what a site implements to ship one of its own.
 *
 * <p>A backend of your own is a class that implements {@link com.wafermonitor.sdk.backends.Backend}, made by a
 * {@link com.wafermonitor.sdk.backends.BackendProvider} that {@link java.util.ServiceLoader} finds: name it in
 * {@code META-INF/services/com.wafermonitor.sdk.backends.BackendProvider} or in a {@code provides} of your module. The jar with
 * the classifier {@code tck} holds the tests that every backend must pass.
 */
package com.wafermonitor.sdk.backends;
