package com.wafermonitor.sdk.internal;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads JSON into maps, lists, strings, numbers, booleans and nulls. */
public final class JsonReader {
    private static final int DEEPEST = 200;
    private static final JsonFactory FACTORY = JsonFactory.builder()
            .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(DEEPEST).build())
            .build();

    /** For a look only: numbers and names may be as long as they like, as nothing is made of them. */
    private static final JsonFactory ANY_LENGTH = JsonFactory.builder()
            .streamReadConstraints(StreamReadConstraints.builder()
                    .maxNestingDepth(DEEPEST)
                    .maxNumberLength(Integer.MAX_VALUE)
                    .maxNameLength(Integer.MAX_VALUE)
                    .maxStringLength(Integer.MAX_VALUE)
                    .build())
            .build();

    private JsonReader() {}

    /** Whether a text is one object, in UTF-8 without a mistake. */
    static boolean isObject(byte[] text) {
        try (JsonParser parser = ANY_LENGTH.createParser(
                StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(text)).toString())) {
            boolean isObject = parser.nextToken() == JsonToken.START_OBJECT;
            parser.skipChildren();
            return isObject && parser.nextToken() == null;
        } catch (IOException notJson) {
            return false;
        }
    }

    /**
     * The value in a text.
     *
     * @throws IOException when it is not JSON, or more than one value
     */
    public static Object read(byte[] text) throws IOException {
        try (JsonParser parser = FACTORY.createParser(text)) {
            parser.nextToken();
            Object value = value(parser);
            if (parser.nextToken() != null) {
                throw new IOException("there is more after the value");
            }
            return value;
        }
    }

    /** The object in a text; an IOException when it is something else. */
    public static Map<?, ?> object(byte[] text) throws IOException {
        if (read(text) instanceof Map<?, ?> map) {
            return map;
        }
        throw new IOException("expected an object");
    }

    private static Object value(JsonParser parser) throws IOException {
        JsonToken token = parser.currentToken();
        if (token == null) {
            throw new IOException("expected a value, got nothing");
        }
        return switch (token) {
            case START_OBJECT -> {
                Map<String, Object> map = new LinkedHashMap<>();
                while (parser.nextToken() != JsonToken.END_OBJECT) {
                    String name = parser.currentName();
                    parser.nextToken();
                    map.put(name, value(parser));
                }
                yield map;
            }
            case START_ARRAY -> {
                List<Object> list = new ArrayList<>();
                while (parser.nextToken() != JsonToken.END_ARRAY) {
                    list.add(value(parser));
                }
                yield list;
            }
            case VALUE_STRING -> parser.getText();
            case VALUE_NUMBER_INT, VALUE_NUMBER_FLOAT -> parser.getNumberValue();
            case VALUE_TRUE -> Boolean.TRUE;
            case VALUE_FALSE -> Boolean.FALSE;
            case VALUE_NULL -> null;
            default -> throw new IOException("expected a value, got " + token);
        };
    }
}
