package com.wafermonitor.sdk.backends;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;

/**
 * Writes JSON Lines in the layout of TrackMate's sink of that name.
 *
 * <pre>
 * date=2026-07-01/hour=09/&lt;emitter id&gt;-&lt;first seq&gt;.jsonl.open           grows
 * date=2026-07-01/hour=09/&lt;emitter id&gt;-&lt;first seq&gt;-&lt;last seq&gt;.jsonl     complete, never touched again
 * .state/&lt;emitter id&gt;.owner                                            locked while its process lives
 * </pre>
 *
 * Folders go by the event's timestamp in UTC. What is accepted is synced. A file is completed when it is large or old enough and at the
 * end; one that a dead process left growing is completed by the next that starts there, or by one that runs, within a minute. (Where
 * nothing tells whether its process lives, nothing must have been added for ten minutes.) A batch that comes from disk has a complete
 * file of its own, under the same name however often it comes.
 */
public final class FilesystemBackend implements Backend {
    private static final double MEBIBYTE = 1024 * 1024;
    private static final int MOST_OPEN = 48;

    private final Path root;
    private final double rotateBytes;
    private final long rotateNanos;
    private final Map<String, Growing> growing = new LinkedHashMap<>();
    private String own = "";
    private final TreeMap<Long, Long> covered = new TreeMap<>();
    private final Leftovers leftovers;
    private OwnerLock lock;

    /** Makes backends of type {@code filesystem}, with {@code path}, {@code rotate_size_mb} and {@code rotate_seconds}. */
    public static final class Provider implements BackendProvider {
        /** For {@link java.util.ServiceLoader}. */
        public Provider() {}

        @Override
        public String type() {
            return "filesystem";
        }

        @Override
        public Backend create(BackendSettings settings) {
            if (!settings.text("format", "jsonl").equals("jsonl")) {
                settings.problem("format", "the Java SDK writes jsonl; let the sidecar write Parquet");
            }
            return new FilesystemBackend(
                    settings.folder("path"), settings.positive("rotate_size_mb", 100), settings.positive("rotate_seconds", 60));
        }
    }

    /** A file that grows: what of it is certain. */
    private static final class Growing {
        private final Path path;
        private final long first;
        private final long since = System.nanoTime();
        private long last;
        private long size;

        Growing(Path path, long first) {
            this.path = path;
            this.first = first;
        }
    }

    /**
     * @param root the folder; made when it is missing
     * @param rotateSizeMb a file is completed when it has grown to this many MiB
     * @param rotateSeconds a file is completed when its first batch is this old
     */
    public FilesystemBackend(Path root, double rotateSizeMb, double rotateSeconds) {
        this.root = root;
        this.leftovers = new Leftovers(root);
        this.rotateBytes = rotateSizeMb * MEBIBYTE;
        this.rotateNanos = (long) (rotateSeconds * 1e9);
    }

    @Override
    public void start(String emitterId) {
        own = emitterId;
    }

    @Override
    public Answer deliver(Batch batch, Duration timeout) {
        try {
            boolean isOwn = batch.emitterId().equals(own);
            if (isOwn && isCovered(batch)) {
                return Answer.ACCEPTED;
            }
            if (isOwn && (covered.isEmpty() || batch.firstSeq() > covered.lastEntry().getValue())) {
                append(Lines.parts(batch));
            } else {
                for (Lines.Part part : Lines.parts(batch)) {
                    writeWhole(part, batch.emitterId());
                }
            }
            if (isOwn) {
                cover(batch.firstSeq(), batch.lastSeq());
            }
            rotate(false);
            return Answer.ACCEPTED;
        } catch (IOException | UncheckedIOException error) {
            undo();
            return new Answer(Outcome.RETRY, "can't write to " + root + ": " + explained(error));
        }
    }

    // -------------------------------------------------------------------------------------------------------------- writing

    /** Append all parts of a batch, or none: sizes count only when all are synced. */
    private void append(List<Lines.Part> parts) throws IOException {
        Map<Growing, Long> sizes = new LinkedHashMap<>();
        for (Lines.Part part : parts) {
            Growing file = growing.get(part.partition());
            boolean isNew = file == null || !Files.exists(file.path); // a person or a program may have taken it
            if (isNew) {
                live();
                Path folder = madeFolder(part.partition());
                file = new Growing(folder.resolve(numbered(own, part.firstSeq()) + Leftovers.OPEN), part.firstSeq());
                growing.put(part.partition(), file);
            }
            sizes.put(file, write(file.path, file.size, Batch.bodyOf(part.lines())));
            if (isNew) {
                sync(file.path.getParent());
            }
        }
        sizes.forEach((file, size) -> file.size = size);
        parts.forEach(part -> growing.get(part.partition()).last = part.lastSeq());
    }

    /** See to it that no other process takes what grows here for left behind. */
    private void live() throws IOException {
        if (lock != null && !lock.isThere()) {
            lock.release(true);
            lock = null;
        }
        if (lock == null) {
            lock = OwnerLock.hold(leftovers.owner(own));
        }
    }

    private boolean isCovered(Batch batch) {
        Map.Entry<Long, Long> range = covered.floorEntry(batch.firstSeq());
        return range != null && range.getValue() >= batch.lastSeq();
    }

    private void cover(long first, long last) {
        Map.Entry<Long, Long> before = covered.floorEntry(first);
        if (before != null && before.getValue() == first - 1) {
            covered.put(before.getKey(), last);
        } else {
            covered.put(first, last);
        }
    }

    /** Put data into a file at a place, where it then ends, and sync it; the size. */
    private static long write(Path path, long place, byte[] data) throws IOException {
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.WRITE, StandardOpenOption.CREATE)) {
            channel.truncate(place);
            channel.position(place);
            ByteBuffer rest = ByteBuffer.wrap(data);
            while (rest.hasRemaining()) {
                channel.write(rest);
            }
            channel.force(true);
            return place + data.length;
        }
    }

    private void writeWhole(Lines.Part part, String log) throws IOException {
        Path folder = madeFolder(part.partition());
        String name = numbered(log, part.firstSeq()) + numbered("", part.lastSeq());
        Path aside = folder.resolve(name + ".writing");
        write(aside, 0, Batch.bodyOf(part.lines()));
        Files.move(aside, folder.resolve(name + ".jsonl"), StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        sync(folder);
    }

    private static String numbered(String name, long number) {
        return String.format(Locale.ROOT, "%s-%020d", name, number);
    }

    private Path madeFolder(String partition) throws IOException {
        Path folder = root.resolve(partition);
        if (!Files.isDirectory(folder)) {
            Files.createDirectories(folder);
            for (Path above = folder.getParent(); above.startsWith(root); above = above.getParent()) {
                sync(above);
            }
        }
        return folder;
    }

    private static void sync(Path folder) throws IOException {
        try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
            channel.force(true);
        }
    }

    /** After a failure: nothing half written stays, for the batch comes again. */
    private void undo() {
        for (Growing file : new ArrayList<>(growing.values())) {
            try {
                if (file.size == 0) {
                    growing.values().remove(file);
                    Files.deleteIfExists(file.path);
                } else if (Files.size(file.path) > file.size) {
                    try (FileChannel channel = FileChannel.open(file.path, StandardOpenOption.WRITE)) {
                        channel.truncate(file.size);
                    }
                }
            } catch (IOException stillFailing) {
                continue; // the next append to it cuts it
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------------ rotation

    private void rotate(boolean everything) throws IOException {
        List<String> done = new ArrayList<>();
        int surplus = growing.size() - MOST_OPEN;
        for (Map.Entry<String, Growing> entry : growing.entrySet()) {
            Growing file = entry.getValue();
            boolean old = System.nanoTime() - file.since >= rotateNanos;
            if (everything || old || file.size >= rotateBytes || surplus-- > 0) {
                complete(file.path, own, file.first, file.last);
                done.add(entry.getKey());
            }
        }
        growing.keySet().removeAll(done);
    }

    /** Give a growing file its final name. */
    static void complete(Path path, String log, long first, long last) throws IOException {
        try {
            String name = numbered(log, first) + numbered("", last) + ".jsonl";
            Files.move(path, path.resolveSibling(name), StandardCopyOption.ATOMIC_MOVE);
            sync(path.getParent());
        } catch (NoSuchFileException taken) {
            return; // by a person or a program that collects files
        }
    }

    @Override
    public void idle() {
        try {
            rotate(false);
            leftovers.tidy(own);
        } catch (IOException error) {
            return; // tried again soon; the next batch meets the same disk and reports it
        }
    }

    private static String explained(Exception error) {
        String reason = String.valueOf(error.getMessage());
        if (error instanceof FileSystemException named && named.getReason() != null) {
            reason = named.getReason();
        }
        if (reason.contains("No space left")) {
            return "the disk is full: make room, or point `path` to another disk";
        }
        if (error instanceof AccessDeniedException || reason.contains("Permission denied")) {
            return "permission denied: let the user of this process write there, or change `path`";
        }
        if (reason.contains("Read-only")) {
            return "the file system is read-only: mount it for writing, or change `path`";
        }
        if (error instanceof java.nio.file.FileAlreadyExistsException || reason.contains("Not a directory")) {
            return "a part of `path` is a file, not a folder: change `path`";
        }
        return reason;
    }

    @Override
    public void close() {
        boolean isAllDone = false;
        try {
            rotate(true);
            isAllDone = true;
        } catch (IOException error) { // the next process that starts there completes them
            growing.clear();
        }
        if (lock != null) {
            lock.release(isAllDone);
            lock = null;
        }
    }
}
