package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Batch;
import com.wafermonitor.sdk.backends.Outcome;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;

/** A file from disk on its way to its receiver; in direct mode what nobody will ever take of it is kept beside it, as letters. */
final class ReplayedFile {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    private static final String DAMAGED = "the spool file is damaged here";

    private final Lane lane;
    private final Spool.Claim claim;
    private final ArrayDeque<Batch> waiting = new ArrayDeque<>();
    private final ByteArrayOutputStream kept = new ByteArrayOutputStream();
    private long damaged;

    /** What became of its events, once it is done. */
    final Counts.Tally tally = new Counts.Tally();

    ReplayedFile(Lane lane, Spool.Claim claim) {
        this.lane = lane;
        this.claim = claim;
    }

    /** Send it; whether the receiver took it or will never do. If not it waits for another try, with nothing counted. */
    boolean send() throws IOException {
        for (Batch batch : claim.batches()) {
            if (!lane.isDirect()) {
                waiting.add(batch); // the sidecar keeps what is no event in quarantine
            } else if (!sift(batch)) {
                return givenBack();
            }
        }
        Batch batch;
        while ((batch = waiting.pollFirst()) != null) {
            Answer answer = lane.send(batch, 1);
            if (answer.outcome() == Outcome.TOO_LARGE && batch.size() > 1) {
                List<Batch> halves = batch.halves();
                waiting.addFirst(halves.get(1));
                waiting.addFirst(halves.get(0));
            } else if (answer.outcome() == Outcome.REFUSED || answer.outcome() == Outcome.TOO_LARGE) {
                noteRefusal(batch, answer);
                if (!lane.isDirect()) {
                    tally.failed += waiting.stream().mapToLong(Batch::size).sum();
                    claim.refuse();
                    return true;
                }
                if (!lane.isKept(Letters.of(lane.target.name(), batch, answer.detail()), this::keep)) {
                    return givenBack();
                }
            } else if (answer.outcome() != Outcome.ACCEPTED) {
                return givenBack();
            } else {
                lane.noteRejections(batch, answer, this::keep);
                Counts.Tally taken = lane.taken(batch, answer);
                tally.sent += taken.sent;
                tally.rejected += taken.rejected;
                tally.failed += taken.failed;
            }
        }
        claim.done();
        if (damaged > 0) {
            LOGGER.log(
                    Level.WARNING,
                    "monitoring-sdk: {0} is damaged: {1} line(s) are no events, kept as *.refused in {2}",
                    claim.name(),
                    damaged,
                    lane.spool.folder());
        }
        return true;
    }

    private boolean givenBack() throws IOException {
        claim.giveBack();
        return false;
    }

    /** Line up the events of a batch; lines that are none, which no backend could take, are kept aside. Whether they are. */
    private boolean sift(Batch batch) {
        List<byte[]> events = new ArrayList<>();
        List<Answer.Rejection> others = new ArrayList<>();
        long first = batch.firstSeq();
        for (int place = 0; place < batch.size(); place++) {
            byte[] line = batch.lines().get(place);
            if (!JsonReader.isObject(line)) {
                others.add(new Answer.Rejection(place, "", DAMAGED));
            } else {
                first = events.isEmpty() ? batch.firstSeq() + place : first;
                events.add(line);
            }
        }
        if (others.isEmpty()) {
            waiting.add(batch);
            return true;
        }
        if (!events.isEmpty()) {
            waiting.add(Batch.readBack(events, batch.emitterId(), first));
        }
        damaged += others.size();
        tally.failed += others.size();
        return lane.isKept(Letters.of(lane.target.name(), batch, others), this::keep);
    }

    private void noteRefusal(Batch batch, Answer answer) {
        LOGGER.log(
                Level.ERROR,
                "monitoring-sdk: {0} refused {1} for good: {2}",
                lane.target.description(),
                claim.name(),
                answer.detail());
        tally.failed += batch.size();
    }

    /** One file for all letters of this one, so that a second try leaves nothing twice. */
    private void keep(Letters letters) throws IOException {
        kept.writeBytes(letters.body());
        claim.keep(kept.toByteArray());
    }
}
