package com.wafermonitor.sdk.backends;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.tck.BackendTck;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class FilesystemBackendTest extends BackendTck {
    @TempDir
    Path temp;

    private Path root() {
        return temp.resolve("out");
    }

    @Override
    protected Backend make() {
        return new FilesystemBackend(root(), 100, 60);
    }

    @Override
    protected List<Map<?, ?>> readBack() throws IOException {
        List<Map<?, ?>> events = new ArrayList<>();
        for (Path file : files()) {
            for (String line : Files.readAllLines(file)) {
                events.add(event(line.getBytes(java.nio.charset.StandardCharsets.UTF_8)));
            }
        }
        return events;
    }

    private List<Path> files() throws IOException {
        if (!Files.isDirectory(root())) {
            return List.of();
        }
        try (Stream<Path> found = Files.find(root(), 4, (path, status) -> path.getFileName().toString().contains(".jsonl"))) {
            return found.sorted().toList();
        }
    }

    private List<String> names() throws IOException {
        return files().stream().map(path -> root().relativize(path).toString()).toList();
    }

    @Override
    protected void takeDown() throws IOException {
        Files.writeString(root(), "a file where the folder should be");
    }

    @Override
    protected void bringUp() throws IOException {
        Files.delete(root());
    }

    @Test
    void theLayoutIsAnother() throws IOException {
        Backend backend = make();
        Batch batch = batch(1, 2, Map.of());
        backend.start(batch.emitterId());
        backend.deliver(batch, TIMEOUT);
        String start = "date=2026-07-01/hour=09/" + batch.emitterId() + "-00000000000000000001";
        assertEquals(List.of(start + ".jsonl.open"), names());
        backend.deliver(batch(3, 2, Map.of()), TIMEOUT);
        backend.close();
        assertEquals(List.of(start + "-00000000000000000004.jsonl"), names());
    }

    @Test
    void aFileGrowsForEver() throws IOException {
        Backend backend = new FilesystemBackend(root(), 0.0001, 60);
        Batch batch = batch(1, 1, Map.of());
        backend.start(batch.emitterId());
        backend.deliver(batch, TIMEOUT);
        backend.deliver(batch(2, 1, Map.of()), TIMEOUT);
        assertTrue(names().stream().allMatch(name -> name.endsWith(".jsonl")), names()::toString);
        backend.close();
    }

    @Test
    void whatADeadProcessLeftStaysIncomplete() throws IOException {
        Path folder = Files.createDirectories(root().resolve("date=2026-07-01/hour=09"));
        String dead = "01890a5d-ac96-774b-8cce-0000000007d1";
        Path left = folder.resolve(dead + "-00000000000000000007.jsonl.open");
        Files.writeString(left, "{\"emitter\":{\"id\":\"" + dead + "\",\"seq\":7}}\n{\"emitter\":{\"id\":\"" + dead
                + "\",\"seq\":8}}\n{\"torn");
        Files.setLastModifiedTime(left, FileTime.from(Instant.now().minusSeconds(3600)));
        Backend backend = make();
        Batch batch = batch(1, 1, Map.of());
        backend.start(batch.emitterId());
        backend.idle();
        Path whole = folder.resolve(dead + "-00000000000000000007-00000000000000000008.jsonl");
        assertEquals(2, Files.readAllLines(whole).size());
        backend.close();
    }

    /** Another process: delivers one batch, says so, and lives until it is killed. */
    static final class Other {
        public static void main(String[] arguments) throws IOException {
            Backend backend = new FilesystemBackend(Path.of(arguments[0]), 100, 3600);
            backend.start(OTHER);
            String line = "{\"timestamp\":\"2026-07-01T09:00:00Z\",\"emitter\":{\"id\":\"" + OTHER + "\",\"seq\":7}}";
            Batch batch = new Batch(List.of(line.getBytes(java.nio.charset.StandardCharsets.UTF_8)), OTHER, 7, 7);
            System.out.println(backend.deliver(batch, TIMEOUT).outcome());
            System.in.read();
        }
    }

    private static final String OTHER = "01890a5d-ac96-774b-8cce-0000000007d2";
    private static final String OTHERS_FILE = "date=2026-07-01/hour=09/" + OTHER + "-00000000000000000007";

    @Test
    void whatAKilledProcessLeftGrowsOnOrALivingOneLosesItsFile() throws Exception {
        Path java = Path.of(System.getProperty("java.home"), "bin", "java");
        String path = System.getProperty("surefire.test.class.path", System.getProperty("java.class.path"));
        Process other = new ProcessBuilder(java.toString(), "-XX:TieredStopAtLevel=1", "-cp", path, Other.class.getName(), root().toString())
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        try {
            assertEquals("ACCEPTED", other.inputReader().readLine());
            Files.setLastModifiedTime(root().resolve(OTHERS_FILE + ".jsonl.open"), FileTime.from(Instant.now().minusSeconds(3600)));
            look();
            assertEquals(List.of(OTHERS_FILE + ".jsonl.open"), names(), "it lives, whatever the file's age");
        } finally {
            other.destroyForcibly().waitFor();
        }
        look();
        assertEquals(List.of(OTHERS_FILE + "-00000000000000000007.jsonl"), names(), "it is dead, however young the file");
        assertEquals(List.of(), states());
    }

    /** What a process does that starts here and has nothing to deliver. */
    private void look() {
        Backend backend = make();
        backend.start("01890a5d-ac96-774b-8cce-0000000007d3");
        backend.idle();
        backend.close();
    }

    private List<Path> states() throws IOException {
        try (Stream<Path> found = Files.list(root().resolve(".state"))) {
            return found.toList();
        }
    }

    @Test
    void aNeighbourInThisProcessIsTakenForDead() throws Exception {
        Backend backend = make();
        Batch batch = batch(1, 1, Map.of());
        backend.start(batch.emitterId());
        backend.deliver(batch, TIMEOUT);
        List<String> before = names();
        Files.setLastModifiedTime(files().get(0), FileTime.from(Instant.now().minusSeconds(3600)));
        look();
        assertEquals(before, names());
        Process other = new ProcessBuilder("true").start(); // a child must not be taken for a holder of the lock either
        assertEquals(0, other.waitFor());
        backend.close();
        assertEquals(List.of(), states());
    }

    @Test
    void aFileThatSomebodyTakesAwayLeavesAHoleInTheNext() throws Exception {
        Backend backend = make();
        Batch batch = batch(1, 1, Map.of());
        backend.start(batch.emitterId());
        backend.deliver(batch, TIMEOUT);
        Files.move(files().get(0), temp.resolve("taken"));
        backend.deliver(batch(2, 1, Map.of()), TIMEOUT);
        backend.close();
        assertEquals(List.of("date=2026-07-01/hour=09/" + batch.emitterId() + "-00000000000000000002-00000000000000000002.jsonl"), names());
        assertEquals(1, readBack().size());
    }

    @Test
    void oneFileThatCanNotBeCompletedHoldsUpTheOthersOrIsForgotten() throws Exception {
        Path hour = Files.createDirectories(root().resolve("date=2026-07-01/hour=09"));
        Path states = Files.createDirectories(root().resolve(".state"));
        String line = "{\"emitter\":{\"seq\":1}}\n";
        String end = "-00000000000000000001";
        for (String dead : List.of("a", "b")) {
            Files.writeString(hour.resolve(dead + end + ".jsonl.open"), line.repeat(100_000) + "torn");
            Files.createFile(states.resolve(dead + ".owner"));
        }
        Path inTheWay = Files.createDirectories(hour.resolve("a" + end + end + ".jsonl/folder"));
        look();
        assertTrue(Files.exists(hour.resolve("a" + end + ".jsonl.open")));
        assertEquals(100_000, Files.readAllLines(hour.resolve("b" + end + end + ".jsonl")).size());
        assertEquals(List.of(states.resolve("a.owner")), states());
        Files.delete(inTheWay);
        Files.delete(inTheWay.getParent());
        look();
        assertEquals(line.length() * 100_000L, Files.size(hour.resolve("a" + end + end + ".jsonl")));
        assertEquals(List.of(), states());
    }
}
