package com.wafermonitor.sdk.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.wafermonitor.sdk.backends.Batch;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.CyclicBarrier;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What is put on disk for one backend. */
class LaneTest {
    private static final String EMITTER = "01890a5d-ac96-774b-bcce-b302099a8057";

    @TempDir
    Path temp;

    private static Batch batch(int first, int last) {
        List<byte[]> lines = Stream.iterate(first, number -> number <= last, number -> number + 1)
                .map(number -> ("{\"emitter\":{\"seq\":" + number + "}}").getBytes(StandardCharsets.UTF_8))
                .toList();
        return new Batch(lines, EMITTER, first, last);
    }

    @Test
    void theEndWritesAPartOverTheWholeThatASlowLaneHasWritten() throws Exception {
        for (int round = 0; round < 60; round++) {
            Path folder = temp.resolve(String.valueOf(round));
            Settings.Target target = new Settings.Target("a", "the backend a", null, 1, false, 1.0, "");
            Lane lane = new Lane(target, null, new Spool(folder, EMITTER), new Lane.Closing());
            List<Parcel.Share> shares = Stream.of(batch(1, 20), batch(21, 30), batch(31, 31))
                    .map(each -> new Parcel(each, each.firstSeq(), List.of(lane), Map.of()).shares[0])
                    .toList();
            CyclicBarrier together = new CyclicBarrier(2);
            Thread slow = new Thread(() -> {
                try {
                    together.await();
                } catch (Exception broken) {
                    throw new IllegalStateException(broken);
                }
                lane.putAway(shares, "");
            });
            slow.start();
            together.await();
            shares.forEach(share -> lane.putAway(List.of(share), ""));
            slow.join();
            lane.spool.close();
            TreeSet<String> kept = new TreeSet<>();
            try (Stream<Path> files = Files.list(folder)) {
                for (Path file : files.filter(each -> each.toString().endsWith(".jsonl")).toList()) {
                    kept.addAll(Files.readAllLines(file));
                }
            }
            assertEquals(31, kept.size(), "round " + round);
            assertEquals(31, lane.stats(0).spooled());
        }
    }
}
