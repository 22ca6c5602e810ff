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
        backend.deliver(batch, TIMEOUT);
        backend.close();
        Path whole = folder.resolve(dead + "-00000000000000000007-00000000000000000008.jsonl");
        assertEquals(2, Files.readAllLines(whole).size());
    }
}
