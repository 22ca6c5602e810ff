package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.InvalidEventException;
import java.time.DateTimeException;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Date;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** RFC 3339 timestamps: those that a program gives, and those that the SDK makes. */
final class Timestamps {
    private static final Pattern RFC_3339 = Pattern.compile(
            "([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))");
    private static final DateTimeFormatter MICROSECONDS = DateTimeFormatter.ofPattern("uuuu-MM-dd'T'HH:mm:ss.SSSSSS'Z'");
    private static final String EXPECTED = "expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z";

    private Timestamps() {}

    /** The text of a timestamp that a program gives: a text, or a date with a time zone. */
    static String checked(String path, Object value) {
        LocalDateTime moment;
        String text;
        Instant instant = instant(value);
        if (instant != null) {
            moment = LocalDateTime.ofInstant(instant, ZoneOffset.UTC);
            text = MICROSECONDS.format(moment);
        } else if (value instanceof LocalDateTime) {
            throw new InvalidEventException(path, "expected a date with a time zone, such as Instant.now()");
        } else {
            text = Cleaning.text(path, value);
            moment = utc(text);
            if (moment == null) {
                throw new InvalidEventException(path, EXPECTED);
            }
        }
        if (moment.getYear() < 1970 || moment.getYear() > 2099) {
            throw new InvalidEventException(path, "expected a moment from 1970 to 2099, got year " + moment.getYear());
        }
        return text;
    }

    private static Instant instant(Object value) {
        if (value instanceof Instant instant) {
            return instant;
        }
        if (value instanceof OffsetDateTime moment) {
            return moment.toInstant();
        }
        if (value instanceof ZonedDateTime moment) {
            return moment.toInstant();
        }
        return value instanceof Date date ? date.toInstant() : null;
    }

    /** The moment of a text, in UTC; its own local time where UTC would leave the calendar of four digits; null: no timestamp. */
    static LocalDateTime utc(String text) {
        Matcher found = RFC_3339.matcher(text);
        if (!found.matches()) {
            return null;
        }
        try {
            int[] part = new int[7];
            for (int i = 1; i <= 6; i++) {
                part[i] = Integer.parseInt(found.group(i));
            }
            if (part[1] < 1) {
                return null;
            }
            int nanos = found.group(7) == null ? 0 : Integer.parseInt((found.group(7) + "000000000").substring(0, 9));
            LocalDateTime local = LocalDateTime.of(part[1], part[2], part[3], part[4], part[5], part[6], nanos);
            if (found.group(8) == null) {
                return local;
            }
            int hours = Integer.parseInt(found.group(9));
            int minutes = Integer.parseInt(found.group(10));
            if (hours > 23 || minutes > 59) {
                return null;
            }
            long offset = (hours * 60L + minutes) * ("-".equals(found.group(8)) ? -1 : 1);
            LocalDateTime moment = local.minusMinutes(offset);
            return moment.getYear() < 1 || moment.getYear() > 9999 ? local : moment;
        } catch (DateTimeException | NumberFormatException notADate) {
            return null;
        }
    }

    /** Writes the microseconds since 1970 as text, and remembers the second. Not for several threads. */
    static final class Stamper {
        private long second = Long.MIN_VALUE;
        private String head = "";

        void write(JsonWriter out, long micros) {
            long whole = Math.floorDiv(micros, 1_000_000L);
            if (whole != second) {
                head = DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(LocalDateTime.ofEpochSecond(whole, 0, ZoneOffset.UTC));
                second = whole;
            }
            int fraction = (int) Math.floorMod(micros, 1_000_000L);
            out.raw('"').ascii(head).raw('.');
            for (int unit = 100_000; unit > 0; unit /= 10) {
                out.raw('0' + fraction / unit % 10);
            }
            out.raw('Z').raw('"');
        }
    }
}
