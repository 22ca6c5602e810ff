package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.InvalidEventException;
import java.io.File;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.URI;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.temporal.TemporalAccessor;
import java.util.Arrays;
import java.util.Date;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;

/**
 * Writes JSON as UTF-8 and mends what the contract lets an SDK mend: U+0000 and lone surrogates become U+FFFD, NaN and infinities
 * become null. Jackson's own generator throws for the former and writes strings of the latter, hence this one.
 */
public final class JsonWriter {
    private static final byte[] HEX = "0123456789abcdef".getBytes(StandardCharsets.ISO_8859_1);
    private static final byte[] REPLACEMENT = {(byte) 0xef, (byte) 0xbf, (byte) 0xbd};
    private static final BigInteger TOO_LONG = BigInteger.TEN.pow(Limits.MAX_INTEGER_DIGITS);

    private byte[] buffer;
    private int size;

    public JsonWriter(int capacity) {
        buffer = new byte[capacity];
    }

    public int size() {
        return size;
    }

    public void reset() {
        size = 0;
    }

    public byte[] toBytes() {
        return Arrays.copyOf(buffer, size);
    }

    /** The JSON text of one value, as the contract has it. */
    public static byte[] bytesOf(Object value) {
        JsonWriter writer = new JsonWriter(512);
        writer.value(value, "", 1);
        return writer.toBytes();
    }

    public static String textOf(Object value) {
        return new String(bytesOf(value), StandardCharsets.UTF_8);
    }

    // ------------------------------------------------------------------------------------------------------- raw pieces

    public JsonWriter raw(byte[] bytes) {
        return raw(bytes, 0, bytes.length);
    }

    public JsonWriter raw(byte[] bytes, int from, int length) {
        reserve(length);
        System.arraycopy(bytes, from, buffer, size, length);
        size += length;
        return this;
    }

    public JsonWriter raw(int character) {
        reserve(1);
        buffer[size++] = (byte) character;
        return this;
    }

    /** Text that needs no escaping and is ASCII. */
    @SuppressWarnings("deprecation") // getBytes(int, int, byte[], int): the one copy without an encoder, and the text is ASCII
    public JsonWriter ascii(String text) {
        int length = text.length();
        reserve(length);
        text.getBytes(0, length, buffer, size);
        size += length;
        return this;
    }

    public JsonWriter number(long number) {
        return ascii(Long.toString(number));
    }

    public JsonWriter string(String text) {
        int length = text.length();
        reserve(length * 6 + 2);
        byte[] out = buffer;
        int at = size;
        out[at++] = '"';
        for (int i = 0; i < length; i++) {
            char c = text.charAt(i);
            if (c < 0x80) {
                if (c >= ' ' && c != '"' && c != '\\') {
                    out[at++] = (byte) c;
                } else {
                    at = escaped(out, at, c);
                }
            } else if (c < 0x800) {
                out[at++] = (byte) (0xc0 | c >> 6);
                out[at++] = (byte) (0x80 | c & 0x3f);
            } else if (!Character.isSurrogate(c)) {
                out[at++] = (byte) (0xe0 | c >> 12);
                out[at++] = (byte) (0x80 | c >> 6 & 0x3f);
                out[at++] = (byte) (0x80 | c & 0x3f);
            } else if (Character.isHighSurrogate(c) && i + 1 < length && Character.isLowSurrogate(text.charAt(i + 1))) {
                int point = Character.toCodePoint(c, text.charAt(++i));
                out[at++] = (byte) (0xf0 | point >> 18);
                out[at++] = (byte) (0x80 | point >> 12 & 0x3f);
                out[at++] = (byte) (0x80 | point >> 6 & 0x3f);
                out[at++] = (byte) (0x80 | point & 0x3f);
            } else {
                at = replaced(out, at);
            }
        }
        out[at++] = '"';
        size = at;
        return this;
    }

    private static int escaped(byte[] out, int place, char c) {
        int at = place;
        if (c == 0) {
            return replaced(out, at);
        }
        out[at++] = '\\';
        switch (c) {
            case '"', '\\' -> out[at++] = (byte) c;
            case '\n' -> out[at++] = 'n';
            case '\r' -> out[at++] = 'r';
            case '\t' -> out[at++] = 't';
            case '\b' -> out[at++] = 'b';
            case '\f' -> out[at++] = 'f';
            default -> {
                out[at++] = 'u';
                out[at++] = '0';
                out[at++] = '0';
                out[at++] = HEX[c >> 4];
                out[at++] = HEX[c & 15];
            }
        }
        return at;
    }

    private static int replaced(byte[] out, int at) {
        System.arraycopy(REPLACEMENT, 0, out, at, REPLACEMENT.length);
        return at + REPLACEMENT.length;
    }

    private void reserve(int more) {
        if (buffer.length - size < more) {
            buffer = Arrays.copyOf(buffer, Math.max(buffer.length * 2, size + more));
        }
    }

    // ----------------------------------------------------------------------------------------------------------- values

    /** The pairs of an array (key, value, key, value …) as the inside of an object, each with a comma after it. */
    void pairs(Object[] pairs, int length) {
        for (int i = 0; i < length; i += 2) {
            string((String) pairs[i]).raw(':');
            Object entry = pairs[i + 1];
            if (entry instanceof Object[] table) {
                raw('{').pairs(table, table.length);
                close('}');
            } else {
                value(entry, "", 2);
            }
            raw(',');
        }
    }

    /** End an object or array: in place of the last comma, or after nothing. */
    void close(int bracket) {
        if (buffer[size - 1] == ',') {
            size--;
        }
        raw(bracket);
    }

    /**
     * Any value of the language that has a JSON form.
     *
     * @param path its dotted place, for errors
     * @param depth how deep it stands, the event being 1
     * @throws InvalidEventException when it is not JSON, nests too deep or is too long an integer
     */
    void value(Object value, String path, int depth) {
        if (value == null) {
            ascii("null");
        } else if (value instanceof String text) {
            string(text);
        } else if (value instanceof Number number) {
            number(number, path);
        } else if (value instanceof Boolean flag) {
            ascii(flag ? "true" : "false");
        } else if (value instanceof Map<?, ?> map) {
            object(map, path, depth);
        } else if (value instanceof Iterable<?> items && !(value instanceof Path)) {
            array(items, path, depth);
        } else if (value.getClass().isArray()) {
            array(boxed(value), path, depth);
        } else if (value instanceof Optional<?> optional) {
            value(optional.orElse(null), path, depth);
        } else if (value instanceof Enum<?> constant) {
            string(constant.name());
        } else if (value instanceof Date date) {
            string(date.toInstant().toString());
        } else if (hasText(value)) {
            string(value.toString());
        } else {
            throw new InvalidEventException(path, "expected JSON, got " + value.getClass().getName() + "; convert it first");
        }
    }

    private static boolean hasText(Object value) {
        return value instanceof CharSequence
                || value instanceof Character
                || value instanceof UUID
                || value instanceof TemporalAccessor
                || value instanceof Path
                || value instanceof File
                || value instanceof URI
                || value instanceof URL;
    }

    private static Iterable<Object> boxed(Object array) {
        Object[] items = new Object[Array.getLength(array)];
        for (int i = 0; i < items.length; i++) {
            items[i] = Array.get(array, i);
        }
        return Arrays.asList(items);
    }

    private void number(Number number, String path) {
        if (number instanceof Double || number instanceof Float) {
            ascii(Double.isFinite(number.doubleValue()) ? number.toString() : "null");
        } else if (number instanceof BigInteger whole) {
            if (whole.abs().compareTo(TOO_LONG) >= 0) {
                throw new InvalidEventException(path, "integer of more than " + Limits.MAX_INTEGER_DIGITS + " digits");
            }
            ascii(whole.toString());
        } else if (number instanceof BigDecimal decimal) {
            if (!Double.isFinite(decimal.doubleValue())) {
                throw new InvalidEventException(path, "number " + decimal + " is beyond a double");
            }
            ascii(decimal.toString());
        } else {
            ascii(Long.toString(number.longValue()));
        }
    }

    private void object(Map<?, ?> map, String path, int depth) {
        deeper(path, depth);
        raw('{');
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            Object key = entry.getKey();
            boolean scalar = key == null || key instanceof Number || key instanceof Boolean || key instanceof Character;
            if (!(scalar || key instanceof CharSequence || key instanceof Enum<?> || key instanceof UUID)) {
                throw new InvalidEventException(path, "expected keys that are text, got " + key.getClass().getName());
            }
            String name = String.valueOf(key);
            string(name).raw(':');
            value(entry.getValue(), path.isEmpty() ? name : path + "." + name, depth + 1);
            raw(',');
        }
        close('}');
    }

    private void array(Iterable<?> items, String path, int depth) {
        deeper(path, depth);
        raw('[');
        int index = 0;
        for (Object item : items) {
            value(item, path + "." + index++, depth + 1);
            raw(',');
        }
        close(']');
    }

    private static void deeper(String path, int depth) {
        if (depth > Limits.MAX_DEPTH) {
            int dot = path.indexOf('.');
            String field = dot < 0 ? path : path.substring(0, dot);
            throw new InvalidEventException(field, "nests deeper than " + Limits.MAX_DEPTH + " levels");
        }
    }
}
