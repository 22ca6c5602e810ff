package com.wafermonitor.sdk.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Backend;
import com.wafermonitor.sdk.backends.Batch;
import com.wafermonitor.sdk.backends.Outcome;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What becomes of a file on disk, with damage and without. */
class ReplayedFileTest {
    private static final String DEAD = "01890a5d-ac96-774b-bcce-b302099a8057";
    private static final String DAMAGED = "the spool file is damaged here";
    private static final byte[] GARBAGE = {(byte) 0xff, 0, ' ', 'x'};

    @TempDir
    Path folder;

    private final Scripted backend = new Scripted();
    private Spool spool;

    /** Answers as it is told, else takes what it gets. */
    private static final class Scripted implements Backend {
        final ArrayDeque<Answer> answers = new ArrayDeque<>();
        final List<String> got = new ArrayList<>();
        final List<String> asked = new ArrayList<>();

        @Override
        public Answer deliver(Batch batch, Duration timeout) {
            asked.add(batch.firstSeq() + ".." + batch.lastSeq());
            Answer answer = answers.isEmpty() ? Answer.ACCEPTED : answers.removeFirst();
            if (answer.outcome() == Outcome.ACCEPTED) {
                batch.lines().forEach(line -> got.add(new String(line, StandardCharsets.UTF_8)));
            }
            return answer;
        }

        @Override
        public void close() {}
    }

    @AfterEach
    void end() {
        spool.close();
    }

    private static byte[] event(long number) {
        return ("{\"event_id\":\"e" + number + "\",\"emitter\":{\"seq\":" + number + "}}").getBytes(StandardCharsets.UTF_8);
    }

    private static List<String> events(long... numbers) {
        return java.util.Arrays.stream(numbers).mapToObj(number -> new String(event(number), StandardCharsets.UTF_8)).toList();
    }

    private static Path named(Path folder, String suffix) {
        return folder.resolve(DEAD + ".7.00000000000000000005.jsonl" + suffix);
    }

    /** A file of a dead process, ours to replay. */
    private ReplayedFile file(Lane lane, byte[]... lines) throws IOException {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        for (byte[] line : lines) {
            text.writeBytes(line);
            text.write('\n');
        }
        Files.write(named(folder, ""), text.toByteArray());
        return claimed(lane);
    }

    private ReplayedFile claimed(Lane lane) throws IOException {
        return new ReplayedFile(lane, spool.claim(named(folder, "")));
    }

    private Lane lane(String part) {
        spool = new Spool(folder, "01890a5d-ac96-774b-bcce-b302099a8058");
        Settings.Target target = new Settings.Target("a", "the backend a", backend, 1, false, 1.0, part);
        return new Lane(target, null, spool, new Lane.Closing());
    }

    private Lane direct() {
        return lane("direct/program/a");
    }

    private List<String> left() throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.map(each -> each.getFileName().toString()).filter(name -> !name.endsWith(".lock")).sorted().toList();
        }
    }

    private List<Map<?, ?>> letters() throws IOException {
        assertEquals(List.of(named(folder, ".refused").getFileName().toString()), left());
        List<Map<?, ?>> letters = new ArrayList<>();
        for (String line : Files.readAllLines(named(folder, ".refused"))) {
            letters.add(JsonReader.object(line.getBytes(StandardCharsets.UTF_8)));
        }
        return letters;
    }

    private static List<Object> all(List<Map<?, ?>> letters, String field) {
        return letters.stream().<Object>map(letter -> letter.get(field)).toList();
    }

    @Test
    void aDamagedLineReachesTheBackendOrIsLost() throws Exception {
        ReplayedFile file = file(direct(), event(5), GARBAGE, "[1]".getBytes(StandardCharsets.UTF_8), event(8));
        assertTrue(file.send());
        assertEquals(events(5, 8), backend.got);
        assertEquals(List.of("5..8"), backend.asked);
        List<Map<?, ?>> letters = letters();
        assertEquals(List.of("\ufffd\ufffd x", "[1]"), all(letters, "event"));
        assertEquals(List.of(DAMAGED, DAMAGED), all(letters, "reason"));
        assertEquals(List.of("a", "a"), all(letters, "backend"));
        assertEquals("[6, 7]", all(letters, "seq").toString());
        assertTrue(letters.get(0).containsKey("event_id") && letters.get(0).containsKey("dead_at"));
        assertEquals(List.of(2L, 2L), List.of(file.tally.sent, file.tally.failed));
    }

    @Test
    void damageAtTheStartShiftsTheNumbers() throws Exception {
        assertTrue(file(direct(), GARBAGE, event(6), event(7)).send());
        assertEquals(List.of("6..7"), backend.asked);
        assertEquals("[5]", all(letters(), "seq").toString());
    }

    @Test
    void aFileOfNothingButDamageIsTriedForEver() throws Exception {
        assertTrue(file(direct(), GARBAGE, "{\"half\":".getBytes(StandardCharsets.UTF_8), "{} {}".getBytes(StandardCharsets.UTF_8)).send());
        assertEquals(List.of(), backend.asked);
        assertEquals(3, letters().size());
    }

    @Test
    void aSecondTryKeepsOrCountsItTwice() throws Exception {
        Lane lane = direct();
        backend.answers.add(new Answer(Outcome.RETRY, "it is down"));
        ReplayedFile first = file(lane, GARBAGE, event(6));
        assertFalse(first.send());
        assertEquals(0, lane.stats(0).failed());
        ReplayedFile second = claimed(lane);
        assertTrue(second.send());
        assertEquals(1, letters().size());
        assertEquals(List.of(1L, 1L), List.of(second.tally.sent, second.tally.failed));
    }

    @Test
    void whatCanNotBeKeptAsideIsLost() throws Exception {
        Path inTheWay = Files.createDirectories(named(folder, ".refused"));
        Files.createFile(inTheWay.resolve("something"));
        Lane lane = direct();
        assertFalse(file(lane, GARBAGE, event(6)).send());
        backend.answers.add(new Answer(Outcome.REFUSED, "400"));
        assertFalse(file(lane, event(6)).send());
        assertTrue(Files.exists(named(folder, "")), "the file waits");
        Files.delete(inTheWay.resolve("something"));
        Files.delete(inTheWay);
        backend.answers.add(new Answer(Outcome.REFUSED, "400"));
        assertTrue(claimed(lane).send());
        assertEquals(events(6), all(letters(), "event"));
    }

    @Test
    void aRefusedFileIsKeptWithoutReasonsOrOverItsDamage() throws Exception {
        backend.answers.add(new Answer(Outcome.TOO_LARGE, "413"));
        backend.answers.add(new Answer(Outcome.REFUSED, "it answered 400"));
        backend.answers.add(Answer.accepted(List.of(new Answer.Rejection(0, "name", "too long"))));
        ReplayedFile file = file(direct(), event(5), GARBAGE, event(7), event(8));
        assertTrue(file.send());
        List<Map<?, ?>> letters = letters();
        assertEquals(List.of(DAMAGED, "it answered 400", "name: too long"), all(letters, "reason"));
        assertEquals("[6, 5, 7]", all(letters, "seq").toString());
        assertEquals(events(5).get(0), letters.get(1).get("event"));
        assertEquals("e5", letters.get(1).get("event_id"));
        assertEquals(List.of(1L, 3L), List.of(file.tally.sent, file.tally.failed));
    }

    @Test
    void anEventWithLongNumbersAndNamesTakenForDamage() throws Exception {
        String digits = "9".repeat(5000);
        String long_ = "{\"attributes\":{\"" + "n".repeat(60_000) + "\":" + digits + ",\"m\":0." + digits + "}}";
        assertTrue(file(direct(), long_.getBytes(StandardCharsets.UTF_8)).send());
        assertEquals(List.of(long_), backend.got);
        assertEquals(List.of(), left());
    }

    @Test
    void aFileForTheSidecarIsKeptInAnotherForm() throws Exception {
        Lane lane = lane("");
        backend.answers.add(new Answer(Outcome.REFUSED, "it answered 400"));
        ReplayedFile file = file(lane, event(5), event(6));
        assertTrue(file.send());
        assertEquals(List.of(named(folder, ".refused").getFileName().toString()), left());
        assertEquals(events(5, 6), Files.readAllLines(named(folder, ".refused")));
        assertEquals(2, file.tally.failed);
    }
}
