package com.wafermonitor.sdk.internal;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/**
 * Holds {@code flock} locks, which Java can't take by itself: its own file locks are those of {@code fcntl}, which nobody who uses
 * {@code flock} sees, and the spool folder is shared with programs in other languages.
 *
 * <p>A small shell holds them: it does as it is told line by line, ignores the terminal's signals, and ends, with its locks, when its
 * input ends, which a killed JVM can't prevent. It is started when the first lock is needed; where there is no shell or no
 * {@code flock} command the answer is UNKNOWN, and {@link Spool} does without.
 */
final class Flock implements AutoCloseable {
    /** What came of an attempt to lock. */
    enum Held {
        /** The lock is ours until released, and the name still leads to the file. */
        YES,
        /** Somebody else has it, or the name leads elsewhere by now. */
        NO,
        /** It can't be told here. */
        UNKNOWN
    }

    /** The lock of the owner, that of the file being replayed, and that of a look at others. */
    enum Slot {
        OWNER(7),
        CLAIM(8),
        PROBE(9);

        private final int descriptor;

        Slot(int descriptor) {
            this.descriptor = descriptor;
        }
    }

    private static final String SCRIPT = String.join(
            "\n",
            "trap '' HUP INT QUIT TERM",
            "command -v flock >/dev/null && echo ready || exit 1",
            "while IFS= read -r op && IFS= read -r fd && IFS= read -r path; do",
            "  if [ \"$op\" = lock ] && [ -r \"$path\" ] && eval \"command exec $fd<\\\"\\$path\\\"\" 2>/dev/null",
            "  then",
            "    if flock -n -x \"$fd\" && [ \"/proc/self/fd/$fd\" -ef \"$path\" ]; then echo yes; else eval \"exec $fd<&-\"; echo no; fi",
            "  else eval \"exec $fd<&-\"; echo no",
            "  fi",
            "done");

    private static final long END_SECONDS = 1;

    private Process shell;
    private Writer to;
    private BufferedReader from;
    private boolean unusable;

    /** Try to take the lock on a file, without waiting. */
    synchronized Held lock(Slot slot, Path path) {
        if (path.toString().indexOf('\n') >= 0) {
            return Held.UNKNOWN;
        }
        String answer = ask("lock", slot, path.toString());
        return answer == null ? Held.UNKNOWN : answer.equals("yes") ? Held.YES : Held.NO;
    }

    /** Let go of a lock. */
    synchronized void release(Slot slot) {
        if (shell != null) {
            ask("release", slot, "");
        }
    }

    private String ask(String operation, Slot slot, String path) {
        if (unusable) {
            return null;
        }
        try {
            if (shell == null) {
                start();
            }
            to.write(operation + "\n" + slot.descriptor + "\n" + path + "\n");
            to.flush();
            String answer = from.readLine();
            if (answer == null) {
                throw new IOException("the shell ended");
            }
            return answer;
        } catch (IOException noShell) { // a container without one, or without the right to start one: do without locks
            unusable = true;
            end();
            return null;
        }
    }

    private void start() throws IOException {
        ProcessBuilder builder = new ProcessBuilder("/bin/sh", "-c", SCRIPT);
        builder.redirectError(ProcessBuilder.Redirect.DISCARD);
        builder.environment().keySet().removeIf(name -> !name.equals("PATH")); // nothing that a shell would read, and no secrets
        shell = builder.start();
        to = shell.outputWriter(StandardCharsets.UTF_8);
        from = new BufferedReader(new InputStreamReader(shell.getInputStream(), StandardCharsets.UTF_8));
        if (!"ready".equals(from.readLine())) {
            throw new IOException("there is no flock command");
        }
    }

    private void end() {
        if (shell == null) {
            return;
        }
        try {
            to.close();
        } catch (IOException alreadyGone) {
            shell.destroyForcibly();
        }
        try {
            if (!shell.waitFor(END_SECONDS, TimeUnit.SECONDS)) {
                shell.destroyForcibly();
            }
            from.close();
        } catch (IOException | InterruptedException late) {
            shell.destroyForcibly();
            if (late instanceof InterruptedException) {
                Thread.currentThread().interrupt();
            }
        }
        shell = null;
    }

    /** Let go of all locks. */
    @Override
    public synchronized void close() {
        end();
        unusable = true;
    }
}
