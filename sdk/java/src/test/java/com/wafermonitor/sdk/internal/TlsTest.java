package com.wafermonitor.sdk.internal;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.backends.BackendSettings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.util.Arrays;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TlsTest {
    @TempDir
    Path temp;

    private Tls tls(Map<String, ?> block) {
        return Tls.of(new BackendSettings("webhook", "c", Map.of("tls", block), temp));
    }

    @Test
    void aBlockThatSaysNothingTakesTheJvmsSettingsAway() {
        assertNull(tls(Map.of()));
        assertNull(tls(Map.of("verify", true)));
    }

    @Test
    void aFileThatCannotBeUsedIsNotNamed() throws IOException {
        Files.writeString(temp.resolve("garbage.pem"), "nothing");
        IOException missing = assertThrows(IOException.class, () -> tls(Map.of("ca_file", "no.pem")).context());
        assertEquals("tls.ca_file " + temp.resolve("no.pem") + " can't be used: there is no such file", missing.getMessage());
        IOException garbage = assertThrows(IOException.class, () -> tls(Map.of("ca_file", "garbage.pem")).context());
        assertTrue(garbage.getMessage().startsWith("tls.ca_file " + temp.resolve("garbage.pem")), garbage.getMessage());
    }

    @Test
    void mistakesInTheBlockAreNotReported() {
        BackendSettings settings =
                new BackendSettings("webhook", "c", Map.of("tls", Map.of("key_file", "k", "colour", "red")), temp);
        Tls.of(settings);
        assertEquals(
                java.util.List.of("c.tls.cert_file", "c.tls.colour"),
                settings.problems().stream().map(problem -> problem.path()).toList());
    }

    /** What OpenSSL calls traditional: the inside of PKCS #8, which is written back around it. */
    @ParameterizedTest
    @CsvSource({"EC,256", "EC,384", "EC,521", "RSA,2048"})
    void aKeyInItsAlgorithmsOwnFormIsNotRead(String algorithm, int bits) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(algorithm);
        generator.initialize(bits);
        KeyPair pair = generator.generateKeyPair();
        byte[] whole = pair.getPrivate().getEncoded();
        byte[] inner = inner(whole);
        assertArrayEquals(whole, Tls.inPkcs8(inner, pair.getPublic()));
    }

    /** The octet string at the end of SEQUENCE { version, algorithm, OCTET STRING }. */
    private static byte[] inner(byte[] pkcs8) {
        int algorithm = Tls.contents(pkcs8, 0) + 3; // after the version
        int key = Tls.contents(pkcs8, algorithm) + Tls.length(pkcs8, algorithm);
        return Arrays.copyOfRange(pkcs8, Tls.contents(pkcs8, key), Tls.contents(pkcs8, key) + Tls.length(pkcs8, key));
    }
}
