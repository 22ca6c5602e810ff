package com.wafermonitor.sdk.internal;

import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;

/**
 * UUIDs of version 7 (RFC 9562) at a fraction of a microsecond: the millisecond (48 bits), what is random in this source (42 bits),
 * and the caller's number (32 bits).
 */
public final class Ids {
    private static final byte[] HEX = "0123456789abcdef".getBytes(StandardCharsets.ISO_8859_1);
    private static final SecureRandom RANDOM = new SecureRandom();

    /** An id with the millisecond and the number still zero. */
    private final byte[] template;

    public Ids() {
        byte[] digits = new byte[11];
        RANDOM.nextBytes(digits);
        byte[] text = "00000000-0000-7000-8000-000000000000".getBytes(StandardCharsets.ISO_8859_1);
        int[] places = {15, 16, 17, 20, 21, 22, 24, 25, 26, 27};
        for (int i = 0; i < places.length; i++) {
            text[places[i]] = HEX[digits[i] & 15];
        }
        text[19] = HEX[8 + (digits[10] & 3)];
        template = text;
    }

    /** The id for a millisecond since 1970 and a number that no other call has. */
    String of(long millis, long number) {
        byte[] text = template.clone();
        write(text, millis, number);
        return new String(text, StandardCharsets.ISO_8859_1);
    }

    private static void write(byte[] text, long millis, long number) {
        for (int i = 0, shift = 44; i < 13; i++) {
            if (i != 8) {
                text[i] = HEX[(int) (millis >>> shift) & 15];
                shift -= 4;
            }
        }
        for (int i = 28, shift = 28; i < 36; i++, shift -= 4) {
            text[i] = HEX[(int) (number >>> shift) & 15];
        }
    }

    /** A single UUIDv7 of this moment. */
    public static String uuid7() {
        return new Ids().of(System.currentTimeMillis(), RANDOM.nextInt() & 0xffffffffL);
    }
}
