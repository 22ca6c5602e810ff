package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Batch;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AccessDeniedException;
import java.nio.file.DirectoryStream;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The folder for what can't be delivered now: one file a batch, written aside, synced, renamed, claimed by rename; the format is
 * described in {@code SPOOL_FORMAT.md}, and all languages share it.
 */
final class Spool {
    private static final Pattern NAME = Pattern.compile(
            "(?<base>(?<owner>(?<emitter>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\\.[0-9]+)\\.(?<seq>[0-9]{20})\\.jsonl)"
                    + "(?:(?<torn>\\.tmp)|\\.claimed-(?<claimer>[0-9]{1,18}))?");
    private static final Pattern LOCK = Pattern.compile("(?<owner>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.[0-9]+)\\.lock");

    /** Milliseconds after which a claim whose flock is free is stale, whatever its process id says. */
    private static final long OLD_CLAIM = 3_600_000;

    private final Path folder;
    private final String emitterId;
    private final String owner;
    private final long pid = ProcessHandle.current().pid();
    private final Set<String> own = new TreeSet<>();
    private final Flock flock = new Flock();
    private boolean alive;
    private boolean closed;

    Spool(Path folder, String emitterId) {
        this.folder = folder;
        this.emitterId = emitterId;
        this.owner = emitterId + "." + pid;
    }

    Path folder() {
        return folder;
    }

    // ------------------------------------------------------------------------------------------------------------ writing

    /** Put a batch on disk, for good when this returns. */
    synchronized void write(Batch batch) throws IOException {
        String name = nameOf(batch);
        write(name, batch.body());
        own.add(name);
    }

    /** Keep what was refused where nobody replays it; the file is named after whoever numbered the events. */
    synchronized void setAside(Letters letters) throws IOException {
        write(String.format(Locale.ROOT, "%s.%d.%020d.jsonl.refused", letters.emitterId(), pid, letters.firstSeq()), letters.body());
    }

    private String nameOf(Batch batch) {
        return String.format(Locale.ROOT, "%s.%020d.jsonl", owner, batch.firstSeq());
    }

    private void write(String name, byte[] data) throws IOException {
        beAlive();
        Path path = folder.resolve(name);
        Path aside = folder.resolve(name + ".tmp");
        // A second time when somebody took the unfinished file: without flock we may have seemed dead.
        for (int attempt = 0; ; attempt++) {
            Files.deleteIfExists(aside);
            try {
                writeSynced(aside, data);
                Files.move(aside, path, java.nio.file.StandardCopyOption.ATOMIC_MOVE);
                break;
            } catch (NoSuchFileException taken) {
                if (attempt > 0) {
                    throw taken;
                }
                Files.createDirectories(folder);
            } catch (IOException error) {
                deleteQuietly(aside, error);
                throw error;
            }
        }
        sync(folder);
    }

    private static void deleteQuietly(Path path, IOException because) {
        try {
            Files.deleteIfExists(path);
        } catch (IOException also) {
            because.addSuppressed(also);
        }
    }

    private static void writeSynced(Path path, byte[] data) throws IOException {
        try (FileChannel channel = FileChannel.open(
                path, StandardOpenOption.WRITE, StandardOpenOption.CREATE_NEW, LinkOption.NOFOLLOW_LINKS)) {
            ByteBuffer rest = ByteBuffer.wrap(data);
            while (rest.hasRemaining()) {
                channel.write(rest);
            }
            channel.force(true);
        }
    }

    /** Make the names in a folder durable. */
    static void sync(Path folder) throws IOException {
        try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
            channel.force(true);
        }
    }

    /** Hold the lock that tells others that this process lives, in a folder that exists. */
    private void beAlive() throws IOException {
        Path lock = folder.resolve(owner + ".lock");
        if (alive && Files.exists(lock, LinkOption.NOFOLLOW_LINKS)) {
            return;
        }
        flock.release(Flock.Slot.OWNER);
        Files.createDirectories(folder);
        Flock.Held held = Flock.Held.NO;
        for (int attempt = 0; attempt < 10 && held == Flock.Held.NO && !closed; attempt++) {
            try {
                Files.createFile(lock);
            } catch (FileAlreadyExistsException fromBefore) {
                alive = false;
            }
            held = flock.lock(Flock.Slot.OWNER, lock); // NO: somebody just looks whether it is held, or tidied it away
        }
        alive = true;
    }

    /** The end of the owner: what it left may be taken by anybody. */
    synchronized void close() {
        closed = true;
        if (alive) {
            deleteQuietly(folder.resolve(owner + ".lock"), new IOException("unused"));
            alive = false;
        }
        flock.close();
    }

    // ---------------------------------------------------------------------------------------------------------- replaying

    /** The files that this process wrote and that, as far as it knows, still wait; oldest first. */
    synchronized List<Path> own() {
        return own.stream().map(folder::resolve).toList();
    }

    private record Found(Path path, FileTime modified) {}

    /** The files that dead processes left and the claims that dead claimers left, oldest first. */
    synchronized List<Path> orphans() throws IOException {
        List<Path> names = new ArrayList<>();
        try (DirectoryStream<Path> entries = Files.newDirectoryStream(folder)) {
            entries.forEach(names::add);
        } catch (NoSuchFileException | NotDirectoryException nothingThere) {
            return List.of();
        }
        Map<String, Boolean> dead = new HashMap<>();
        List<Found> found = new ArrayList<>();
        for (Path path : names) {
            Matcher name = NAME.matcher(path.getFileName().toString());
            if (!name.matches()) {
                continue;
            }
            try {
                BasicFileAttributes status =
                        Files.readAttributes(path, BasicFileAttributes.class, LinkOption.NOFOLLOW_LINKS);
                if (status.isRegularFile() && isFree(name, path, status, dead)) {
                    found.add(new Found(path, status.lastModifiedTime()));
                }
            } catch (NoSuchFileException | AccessDeniedException notOurs) {
                continue;
            }
        }
        tidy(names, dead);
        found.sort(Comparator.comparing(Found::modified).thenComparing(Found::path));
        return found.stream().map(Found::path).toList();
    }

    private boolean isFree(Matcher name, Path path, BasicFileAttributes status, Map<String, Boolean> dead) throws IOException {
        String of = name.group("owner");
        if (name.group("claimer") != null) {
            return of.equals(owner) || mayBeStale(name.group("claimer"), path);
        }
        if (of.equals(owner) || !dead.computeIfAbsent(of, this::isDead)) {
            return false;
        }
        // Without flock a living owner may seem dead; its complete files may be taken all the same, but not what it is writing.
        boolean certain = name.group("torn") == null || flockWorks || !Files.exists(folder.resolve(of + ".lock"));
        return certain || System.currentTimeMillis() - status.lastModifiedTime().toMillis() > OLD_CLAIM;
    }

    private boolean flockWorks = true;

    private boolean isDead(String of) {
        Path lock = folder.resolve(of + ".lock");
        if (!Files.exists(lock, LinkOption.NOFOLLOW_LINKS)) {
            return true;
        }
        if (!Files.isReadable(lock) || Files.isSymbolicLink(lock)) {
            return false; // another user's: not ours to take over
        }
        Flock.Held held = flock.lock(Flock.Slot.PROBE, lock);
        flock.release(Flock.Slot.PROBE);
        flockWorks = held != Flock.Held.UNKNOWN;
        return flockWorks ? held == Flock.Held.YES : !isProcess(of.substring(of.lastIndexOf('.') + 1));
    }

    private static boolean isProcess(String pid) {
        return ProcessHandle.of(Long.parseLong(pid)).isPresent();
    }

    private boolean mayBeStale(String claimer, Path path) throws IOException {
        FileTime changed = (FileTime) Files.getAttribute(path, "unix:ctime", LinkOption.NOFOLLOW_LINKS);
        return claimer.equals(Long.toString(pid))
                || System.currentTimeMillis() - changed.toMillis() > OLD_CLAIM
                || !isProcess(claimer);
    }

    /** Remove the locks of dead owners that left nothing, so that they don't pile up. */
    private void tidy(List<Path> names, Map<String, Boolean> dead) {
        Set<String> left = new HashSet<>();
        for (Path path : names) {
            Matcher name = NAME.matcher(path.getFileName().toString());
            if (name.matches()) {
                left.add(name.group("owner"));
            }
        }
        for (Path path : names) {
            Matcher lock = LOCK.matcher(path.getFileName().toString());
            if (lock.matches() && !lock.group("owner").equals(owner) && !left.contains(lock.group("owner"))) {
                if (dead.computeIfAbsent(lock.group("owner"), this::isDead) && flockWorks) {
                    deleteQuietly(path, new IOException("unused"));
                }
            }
        }
    }

    /** The file, ours to replay; null when somebody else has it, or it is gone. */
    synchronized Claim claim(Path path) throws IOException {
        own.remove(path.getFileName().toString());
        Matcher name = NAME.matcher(path.getFileName().toString());
        if (!name.matches() || closed) {
            return null;
        }
        Path base = folder.resolve(name.group("base"));
        Path claimed = folder.resolve(name.group("base") + ".claimed-" + pid);
        try {
            if (flock.lock(Flock.Slot.CLAIM, path) == Flock.Held.NO) {
                return null;
            }
            Files.move(path, claimed, java.nio.file.StandardCopyOption.ATOMIC_MOVE);
            byte[] data = Files.readAllBytes(claimed);
            return new Claim(claimed, base, unpack(data, name.group("emitter"), Long.parseLong(name.group("seq"))));
        } catch (NoSuchFileException | AccessDeniedException notOurs) {
            flock.release(Flock.Slot.CLAIM);
            return null;
        } catch (IOException error) {
            flock.release(Flock.Slot.CLAIM);
            throw error;
        }
    }

    /** The whole lines of a file as batches within the limits of a request; what follows the last line feed is torn. */
    static List<Batch> unpack(byte[] data, String emitterId, long firstSeq) {
        List<Batch> batches = new ArrayList<>();
        List<byte[]> lines = new ArrayList<>();
        int size = 0;
        int start = 0;
        for (int i = 0; i < data.length; i++) {
            if (data[i] != '\n') {
                continue;
            }
            int length = i - start;
            boolean full = size + length >= Limits.MAX_BATCH_BYTES || lines.size() >= Limits.MAX_BATCH_EVENTS;
            if (full && !lines.isEmpty()) {
                batches.add(Batch.readBack(lines, emitterId, firstSeq));
                lines = new ArrayList<>();
                size = 0;
            }
            if (length > 0) {
                lines.add(java.util.Arrays.copyOfRange(data, start, i));
                size += length + 1;
            }
            start = i + 1;
        }
        if (!lines.isEmpty()) {
            batches.add(Batch.readBack(lines, emitterId, firstSeq));
        }
        return batches;
    }

    /** A spool file that is ours to replay. */
    final class Claim {
        private final Path path;
        private final Path base;
        private final List<Batch> batches;

        private Claim(Path path, Path base, List<Batch> batches) {
            this.path = path;
            this.base = base;
            this.batches = batches;
        }

        String name() {
            return path.getFileName().toString();
        }

        List<Batch> batches() {
            return batches;
        }

        /** Its events are delivered: delete it. */
        void done() throws IOException {
            Files.deleteIfExists(path);
            flock.release(Flock.Slot.CLAIM);
        }

        /** Let it wait for another try. */
        void giveBack() throws IOException {
            rename(base);
            String name = base.getFileName().toString();
            if (name.startsWith(emitterId)) {
                synchronized (Spool.this) {
                    own.add(name);
                }
            }
        }

        /** Keep letters beside it, in place of those from an earlier try: they stay when it is gone. */
        void keep(byte[] letters) throws IOException {
            synchronized (Spool.this) {
                write(base.getFileName() + ".refused", letters);
            }
        }

        /** Keep it aside for a person to look at. */
        void refuse() throws IOException {
            rename(base.resolveSibling(base.getFileName() + ".refused"));
        }

        private void rename(Path target) throws IOException {
            try {
                Files.move(path, target, java.nio.file.StandardCopyOption.ATOMIC_MOVE);
            } catch (NoSuchFileException taken) {
                return; // by one who took us for dead: it is in good hands
            } finally {
                flock.release(Flock.Slot.CLAIM);
            }
        }
    }
}
