package com.wafermonitor.sdk.backends;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Gives the files that processes left growing in a folder their final names, once those have ended. */
final class Leftovers {
    static final String OPEN = ".jsonl.open";
    private static final Pattern OPEN_NAME = Pattern.compile("(?<log>.+)-(?<first>[0-9]{20})\\.jsonl\\.open");
    private static final String OWNER = ".owner";

    private static final long INTERVAL = TimeUnit.SECONDS.toNanos(60);

    /** When nothing tells who writes to a file, it counts as nobody's after this time without a change. */
    private static final long ABANDONED = TimeUnit.MINUTES.toNanos(10);

    private static final int TAIL = 1024 * 1024;
    private static final int LONGEST_TAIL = 64 * TAIL;

    private final Path root;
    private final Path states;
    private long next = System.nanoTime();
    private long nextAbandoned = next;

    Leftovers(Path root) {
        this.root = root.toAbsolutePath().normalize();
        this.states = this.root.resolve(".state");
    }

    /** By whose lock others see whether a log's process lives. */
    Path owner(String log) {
        return states.resolve(log + OWNER);
    }

    /**
     * Look for such files, if it is time to.
     *
     * @param own the log of this process, which lives
     */
    void tidy(String own) throws IOException {
        long now = System.nanoTime();
        if (now - next < 0) {
            return;
        }
        next = now + INTERVAL;
        Map<String, OwnerLock> dead = new HashMap<>();
        Set<String> left = new HashSet<>();
        try {
            for (Path owner : in(states, "*" + OWNER)) {
                OwnerLock lock = OwnerLock.ofTheDead(owner);
                if (lock != null) {
                    String name = owner.getFileName().toString();
                    String log = name.substring(0, name.length() - OWNER.length());
                    dead.put(log, lock);
                    left.add(log);
                }
            }
            if (!dead.isEmpty() || now - nextAbandoned >= 0) {
                nextAbandoned = now + ABANDONED;
                completeAll(own, left);
            }
        } finally {
            dead.forEach((log, lock) -> lock.release(!left.contains(log)));
        }
    }

    /** Complete what those logs left, and what is abandoned; the logs of which something could not be completed stay in the set. */
    private void completeAll(String own, Set<String> dead) throws IOException {
        Set<String> failed = new HashSet<>();
        IOException failure = null;
        for (Path path : growing()) {
            Matcher name = OPEN_NAME.matcher(path.getFileName().toString());
            if (!name.matches()) {
                continue;
            }
            String log = name.group("log");
            try {
                if (dead.contains(log) || !log.equals(own) && isAbandoned(path, log)) {
                    complete(path, log, Long.parseLong(name.group("first")));
                }
            } catch (NoSuchFileException taken) { // by another process that looks, or by a person
                continue;
            } catch (IOException error) { // it holds up no other
                failed.add(log);
                failure = error;
            }
        }
        dead.retainAll(failed);
        if (failure != null) {
            throw failure;
        }
    }

    private List<Path> growing() throws IOException {
        List<Path> found = new ArrayList<>();
        for (Path date : in(root, "date=*")) {
            for (Path hour : in(date, "hour=*")) {
                found.addAll(in(hour, "*" + OPEN));
            }
        }
        return found;
    }

    /** Whether a file without an owner's lock, and without a state that another language's SDK keeps, has not changed for long. */
    private boolean isAbandoned(Path path, String log) throws IOException {
        return !Files.exists(owner(log), LinkOption.NOFOLLOW_LINKS)
                && !Files.exists(states.resolve(log + ".json"))
                && System.currentTimeMillis() - Files.getLastModifiedTime(path).toMillis() > TimeUnit.NANOSECONDS.toMillis(ABANDONED);
    }

    private static void complete(Path path, String log, long first) throws IOException {
        byte[] line = cut(path);
        if (line != null) {
            FilesystemBackend.complete(path, log, first, Batch.readBack(List.of(line), log, first).lastSeq());
        } else if (Files.size(path) <= LONGEST_TAIL) {
            Files.deleteIfExists(path); // nothing in it was ever whole
        }
    }

    /** The last whole line of a file, which ends after it from now on; null when there is none. */
    private static byte[] cut(Path path) throws IOException {
        try (FileChannel channel = FileChannel.open(
                path, StandardOpenOption.READ, StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS)) {
            long size = channel.size();
            for (int length = TAIL; ; length *= 2) {
                long start = Math.max(0, size - length);
                byte[] tail = read(channel, start, (int) (size - start));
                int end = lastLineFeed(tail, tail.length);
                int before = lastLineFeed(tail, Math.max(0, end));
                if (before < 0 && start > 0 && length < LONGEST_TAIL) {
                    continue;
                }
                if (end >= 0 && end + 1 < tail.length) {
                    channel.truncate(start + end + 1);
                    channel.force(true);
                }
                return end < 0 ? null : Arrays.copyOfRange(tail, before + 1, end);
            }
        }
    }

    private static byte[] read(FileChannel channel, long start, int length) throws IOException {
        ByteBuffer tail = ByteBuffer.allocate(length);
        long place = start;
        int count;
        while (tail.hasRemaining() && (count = channel.read(tail, place)) > 0) {
            place += count;
        }
        return Arrays.copyOf(tail.array(), tail.position());
    }

    private static int lastLineFeed(byte[] text, int before) {
        int place = before - 1;
        while (place >= 0 && text[place] != '\n') {
            place--;
        }
        return place;
    }

    /** What a folder holds; nothing when it is none. */
    private static List<Path> in(Path folder, String glob) throws IOException {
        List<Path> found = new ArrayList<>();
        try (DirectoryStream<Path> entries = Files.newDirectoryStream(folder, glob)) {
            entries.forEach(found::add);
        } catch (NoSuchFileException | NotDirectoryException nothing) {
            return List.of();
        } catch (DirectoryIteratorException error) {
            throw error.getCause();
        }
        return found;
    }
}
