package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.BackendSettings;
import java.io.IOException;
import java.io.InputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.cert.CertPathBuilderException;
import java.security.cert.CertPathValidatorException;
import java.security.cert.Certificate;
import java.security.cert.CertificateException;
import java.security.cert.CertificateExpiredException;
import java.security.cert.CertificateFactory;
import java.security.cert.CertificateNotYetValidException;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLException;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509ExtendedTrustManager;

/** A backend's {@code tls} block: whose certificates are trusted in place of the JVM's, and which one this side shows. */
public final class Tls {
    private static final Pattern KEY = Pattern.compile("-----BEGIN ([A-Z ]*)PRIVATE KEY-----([^-]+)-----END");

    private final Path authorities;
    private final boolean verify;
    private final Path certificate;
    private final Path key;

    private Tls(Path authorities, boolean verify, Path certificate, Path key) {
        this.authorities = authorities;
        this.verify = verify;
        this.certificate = certificate;
        this.key = key;
    }

    /** What the block {@code tls} of a backend says; null when it says nothing, and the JVM's settings hold. */
    public static Tls of(BackendSettings backend) {
        BackendSettings block = backend.block("tls");
        Path certificate = block.file("cert_file");
        Path key = block.file("key_file");
        if (key != null && certificate == null) {
            block.problem("cert_file", "required but missing, since there is a `key_file`");
        }
        Tls tls = new Tls(block.file("ca_file"), block.flag("verify", true), certificate, key == null ? certificate : key);
        return tls.authorities == null && tls.verify && certificate == null ? null : tls;
    }

    /**
     * A context that does so.
     *
     * @throws IOException when a file can't be used; the message names it
     */
    SSLContext context() throws IOException {
        try {
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(certificate == null ? null : shown(), verify ? trusted() : new TrustManager[] {new Everybody()}, null);
            return context;
        } catch (GeneralSecurityException impossible) {
            throw new IOException("this JVM can't do TLS: " + impossible.getMessage(), impossible);
        }
    }

    // ---------------------------------------------------------------------------------------------------------- the files

    private TrustManager[] trusted() throws GeneralSecurityException, IOException {
        if (authorities == null) {
            return null; // the JVM's
        }
        KeyStore store = emptyStore();
        for (Certificate each : certificates("tls.ca_file", authorities)) {
            store.setCertificateEntry("authority-" + store.size(), each);
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        return factory.getTrustManagers();
    }

    private KeyManager[] shown() throws GeneralSecurityException, IOException {
        Certificate[] chain = certificates("tls.cert_file", certificate);
        KeyStore store = emptyStore();
        store.setKeyEntry("own", privateKey(chain[0].getPublicKey()), new char[0], chain);
        KeyManagerFactory factory = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        factory.init(store, new char[0]);
        return factory.getKeyManagers();
    }

    private static KeyStore emptyStore() throws GeneralSecurityException, IOException {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        return store;
    }

    private static Certificate[] certificates(String setting, Path file) throws IOException {
        try (InputStream text = Files.newInputStream(file)) {
            Certificate[] found =
                    CertificateFactory.getInstance("X.509").generateCertificates(text).toArray(new Certificate[0]);
            if (found.length > 0) {
                return found;
            }
            throw unusable(setting, file, "there is no certificate in it", null);
        } catch (NoSuchFileException missing) {
            throw unusable(setting, file, "there is no such file", missing);
        } catch (CertificateException garbage) {
            throw unusable(setting, file, "expected certificates in PEM", garbage);
        }
    }

    private PrivateKey privateKey(PublicKey other) throws IOException {
        String text;
        try {
            text = Files.readString(key, StandardCharsets.ISO_8859_1);
        } catch (NoSuchFileException missing) {
            throw unusable("tls.key_file", key, "there is no such file", missing);
        }
        Matcher found = KEY.matcher(text);
        if (!found.find() || found.group(1).startsWith("ENCRYPTED") || found.group(2).contains(":")) {
            throw unusable("tls.key_file", key, "expected a private key in PEM, without a passphrase", null);
        }
        try {
            byte[] der = Base64.getMimeDecoder().decode(found.group(2));
            byte[] wrapped = found.group(1).isEmpty() ? der : inPkcs8(der, other);
            return KeyFactory.getInstance(other.getAlgorithm()).generatePrivate(new PKCS8EncodedKeySpec(wrapped));
        } catch (GeneralSecurityException | IllegalArgumentException wrong) {
            throw unusable("tls.key_file", key, "expected the private key of the certificate", wrong);
        }
    }

    private static IOException unusable(String setting, Path file, String why, Exception cause) {
        return new IOException(setting + " " + file + " can't be used: " + why, cause);
    }

    /** A key in its algorithm's own form (RSA, EC), which Java does not read, in the form that it does: RFC 5958. */
    static byte[] inPkcs8(byte[] key, PublicKey other) {
        byte[] spki = other.getEncoded(); // begins with what says algorithm and parameters, as PKCS #8 does
        int start = contents(spki, 0);
        byte[] algorithm = Arrays.copyOfRange(spki, start, contents(spki, start) + length(spki, start));
        return der(0x30, new byte[] {2, 1, 0}, algorithm, der(4, key));
    }

    /** Where the contents of the element at that place begin. */
    static int contents(byte[] der, int at) {
        return at + 2 + (der[at + 1] < 0 ? der[at + 1] & 0x7F : 0);
    }

    /** How many bytes the contents of the element at that place have. */
    static int length(byte[] der, int at) {
        if (der[at + 1] >= 0) {
            return der[at + 1];
        }
        int length = 0;
        for (int i = at + 2; i < contents(der, at); i++) {
            length = length << 8 | der[i] & 0xFF;
        }
        return length;
    }

    private static byte[] der(int tag, byte[]... parts) {
        int length = Arrays.stream(parts).mapToInt(part -> part.length).sum();
        byte[] head = length < 0x80
                ? new byte[] {(byte) tag, (byte) length}
                : length < 0x100
                        ? new byte[] {(byte) tag, (byte) 0x81, (byte) length}
                        : new byte[] {(byte) tag, (byte) 0x82, (byte) (length >> 8), (byte) length}; // no key has 64 KiB
        byte[] whole = Arrays.copyOf(head, head.length + length);
        int at = head.length;
        for (byte[] part : parts) {
            System.arraycopy(part, 0, whole, at, part.length);
            at += part.length;
        }
        return whole;
    }

    /** Trusts whoever answers, under any name: that is what {@code verify: false} asks for. */
    private static final class Everybody extends X509ExtendedTrustManager {
        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type) {}

        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}

        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type) {}

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }

    // ----------------------------------------------------------------------------------------------------------- messages

    /** Why a handshake failed, and what to do. */
    static String explained(SSLException error) {
        String certificate = null;
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            String text = String.valueOf(cause.getMessage());
            if (cause instanceof CertificateExpiredException) {
                return "its TLS certificate has expired (" + text + "): renew it there, or set this machine's clock right";
            }
            if (cause instanceof CertificateNotYetValidException) {
                return "its TLS certificate is not valid yet (" + text + "): set the clocks of both machines right";
            }
            if (cause instanceof CertPathBuilderException || cause instanceof CertPathValidatorException) {
                certificate = "its TLS certificate is not trusted (" + text + "): if it is the right server, put its authority into"
                        + " the JVM's trust store, or name it in tls.ca_file";
            } else if (cause instanceof CertificateException && text.startsWith("No ")) {
                certificate = "its TLS certificate is for another name (" + text + "): use a name that the certificate holds";
            }
        }
        return certificate != null ? certificate : "TLS fails: " + error.getMessage();
    }
}
