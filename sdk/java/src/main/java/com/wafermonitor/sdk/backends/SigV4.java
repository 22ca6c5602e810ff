package com.wafermonitor.sdk.backends;

import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Map;
import java.util.TreeMap;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Signs requests as AWS asks for: Signature Version 4, with the body's hash in the signature (AWS General Reference). */
final class SigV4 {
    private static final String ALGORITHM = "AWS4-HMAC-SHA256";
    private static final String UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("uuuuMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);

    private final String key;
    private final String secret;
    private final String token;
    private final String region;
    private final String service;

    SigV4(String key, String secret, String token, String region, String service) {
        this.key = key;
        this.secret = secret;
        this.token = token;
        this.region = region;
        this.service = service;
    }

    /** The headers to add; the request has no query and no other signed header than its host. */
    Map<String, String> sign(String method, URI address, byte[] body, Instant now) {
        String time = TIME.format(now);
        String day = time.substring(0, 8);
        String hash = hex(sha256(body));
        TreeMap<String, String> signed = new TreeMap<>();
        signed.put("host", host(address));
        signed.put("x-amz-content-sha256", hash);
        signed.put("x-amz-date", time);
        if (!token.isEmpty()) {
            signed.put("x-amz-security-token", token);
        }
        StringBuilder canonical = new StringBuilder(method).append('\n').append(address.getRawPath()).append("\n\n");
        signed.forEach((name, value) -> canonical.append(name).append(':').append(value).append('\n'));
        String names = String.join(";", signed.keySet());
        canonical.append('\n').append(names).append('\n').append(hash);
        String scope = day + "/" + region + "/" + service + "/aws4_request";
        String text = ALGORITHM + "\n" + time + "\n" + scope + "\n" + hex(sha256(utf8(canonical.toString())));
        byte[] signing = utf8("AWS4" + secret);
        for (String part : new String[] {day, region, service, "aws4_request"}) {
            signing = hmac(signing, utf8(part));
        }
        Map<String, String> headers = new TreeMap<>(signed);
        headers.remove("host"); // the client sets it
        headers.put(
                "Authorization",
                ALGORITHM + " Credential=" + key + "/" + scope + ", SignedHeaders=" + names + ", Signature="
                        + hex(hmac(signing, utf8(text))));
        return headers;
    }

    /** The Host header as java.net.http sends it. */
    private static String host(URI address) {
        int usual = "https".equals(address.getScheme()) ? 443 : 80;
        boolean plain = address.getPort() < 0 || address.getPort() == usual;
        return plain ? address.getHost() : address.getHost() + ":" + address.getPort();
    }

    /** Text percent-encoded as the signature wants it. */
    static String encoded(String text, boolean keepSlashes) {
        StringBuilder encoded = new StringBuilder();
        for (byte each : utf8(text)) {
            char c = (char) (each & 0xff);
            if (UNRESERVED.indexOf(c) >= 0 || keepSlashes && c == '/') {
                encoded.append(c);
            } else {
                encoded.append('%').append(HexFormat.of().withUpperCase().toHexDigits(each));
            }
        }
        return encoded.toString();
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }

    static byte[] sha256(byte[] bytes) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** HMAC-SHA256; a key of no bytes counts as one zero byte, which is the same key and one that Java takes. */
    static byte[] hmac(byte[] key, byte[] text) {
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key.length == 0 ? new byte[1] : Arrays.copyOf(key, key.length), "HmacSHA256"));
            return mac.doFinal(text);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
