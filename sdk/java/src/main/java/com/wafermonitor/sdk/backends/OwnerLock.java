package com.wafermonitor.sdk.backends;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.OpenOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * A file by whose lock other Java programs see that the process of a log lives; the lock ends with the process, however that ends.
 *
 * <p>It is Java's own kind of lock, of {@code fcntl}: it needs no helper, but a process loses it when it closes any handle of the file.
 * So a file that somebody in this process has locked is never opened a second time.
 */
final class OwnerLock {
    private static final Set<Path> HERE = ConcurrentHashMap.newKeySet();

    /** Handles of files that another copy of this class has locked. */
    private static final List<FileChannel> NEVER_CLOSED = Collections.synchronizedList(new ArrayList<>());

    private final Path file;
    private final FileChannel channel;

    private OwnerLock(Path file, FileChannel channel) {
        this.file = file;
        this.channel = channel;
    }

    /** Tell that this process lives; null where files can't be locked, and when another backend of this process tells it already. */
    static OwnerLock hold(Path file) throws IOException {
        Files.createDirectories(file.getParent());
        if (!HERE.add(file)) {
            return null;
        }
        Path aside = file.resolveSibling(file.getFileName() + ".tmp");
        OwnerLock lock = null;
        try {
            lock = locked(file, aside, StandardOpenOption.CREATE);
            if (lock == null) {
                Files.deleteIfExists(aside);
            } else {
                Files.move(aside, file, StandardCopyOption.ATOMIC_MOVE); // nobody ever sees it without its lock
            }
            return lock;
        } catch (IOException error) {
            if (lock != null) {
                lock.channel.close();
                lock = null;
            }
            throw error;
        } finally {
            if (lock == null) {
                HERE.remove(file);
            }
        }
    }

    /** The lock of a process that has ended, held from now on; null while the process lives, and when it can't be told. */
    static OwnerLock ofTheDead(Path file) throws IOException {
        if (!HERE.add(file)) {
            return null;
        }
        OwnerLock lock = null;
        boolean isOthers = false;
        try {
            lock = locked(file, file);
        } catch (NoSuchFileException | AccessDeniedException notOurs) {
            return null;
        } catch (OverlappingFileLockException otherCopy) {
            isOthers = true;
        } finally {
            if (lock == null && !isOthers) {
                HERE.remove(file);
            }
        }
        return lock;
    }

    private static OwnerLock locked(Path file, Path at, OpenOption... more) throws IOException {
        Set<OpenOption> options = new HashSet<>(List.of(more));
        options.addAll(List.of(StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS));
        FileChannel channel = FileChannel.open(at, options);
        FileLock lock = null;
        try {
            lock = channel.tryLock();
        } catch (OverlappingFileLockException otherCopy) {
            NEVER_CLOSED.add(channel);
            throw otherCopy;
        } catch (IOException noLocksHere) { // as on some network file systems: there age has to tell
            lock = null;
        }
        if (lock == null) {
            channel.close();
            return null;
        }
        return new OwnerLock(file, channel);
    }

    /** Whether the name still leads to a lock. */
    boolean isThere() {
        return Files.exists(file, LinkOption.NOFOLLOW_LINKS);
    }

    /** Let go of the lock, with the file unless something is left to be done for its process. */
    void release(boolean isAllDone) {
        try (channel) {
            if (isAllDone) {
                Files.deleteIfExists(file);
            }
        } catch (IOException stillThere) { // without its lock: the next that looks removes it
            return;
        } finally {
            HERE.remove(file);
        }
    }
}
