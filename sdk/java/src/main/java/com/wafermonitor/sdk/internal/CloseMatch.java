package com.wafermonitor.sdk.internal;

import java.util.Collection;

/** Finds what was probably meant by a misspelt name: Ratcliff and Obershelp's likeness, as Python's difflib has it. */
final class CloseMatch {
    private static final double ENOUGH = 0.6;

    private CloseMatch() {}

    /** The most alike of the known names; null when none is alike. */
    static String closest(String word, Collection<String> known) {
        String best = null;
        double most = ENOUGH;
        for (String name : known) {
            double likeness = 2.0 * common(name, word) / (name.length() + word.length());
            if (likeness > most || likeness == most && (best == null || name.compareTo(best) > 0)) {
                best = name;
                most = likeness;
            }
        }
        return best;
    }

    private static int common(String one, String other) {
        int length = 0;
        int start = 0;
        int place = 0;
        for (int i = 0; i < one.length(); i++) {
            for (int j = 0; j < other.length(); j++) {
                int run = 0;
                while (i + run < one.length() && j + run < other.length() && one.charAt(i + run) == other.charAt(j + run)) {
                    run++;
                }
                if (run > length) {
                    length = run;
                    start = i;
                    place = j;
                }
            }
        }
        if (length == 0) {
            return 0;
        }
        return length
                + common(one.substring(0, start), other.substring(0, place))
                + common(one.substring(start + length), other.substring(place + length));
    }
}
