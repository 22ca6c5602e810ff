package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.Stats;
import com.wafermonitor.sdk.backends.Answer;
import com.wafermonitor.sdk.backends.Batch;
import com.wafermonitor.sdk.backends.Outcome;
import com.wafermonitor.sdk.backends.SidecarBackend;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** The way to one backend: its attempts, its breaker, its part of the spool folder, its counts. */
final class Lane {
    private static final Logger LOGGER = System.getLogger("com.wafermonitor.sdk");

    /** A receiver that asks for a longer pause than this is left alone: its batch goes to disk meanwhile. In seconds. */
    private static final double LONGEST_WAIT = 10.0;

    /** How much longer than its timeout a call may take before nobody counts on its return any more. */
    private static final long HUNG_AFTER = TimeUnit.SECONDS.toNanos(2);

    /** What the end of the SDK means for the lanes. */
    static final class Closing {
        final CountDownLatch latch = new CountDownLatch(1);
        volatile long deadline;

        boolean isOn() {
            return latch.getCount() == 0;
        }

        /** Wait; whether closing has begun. */
        boolean await(double seconds) {
            try {
                return latch.await((long) (seconds * 1e9), TimeUnit.NANOSECONDS);
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
                return true;
            }
        }
    }

    final Settings.Target target;
    final Spool spool;
    final Retry.Breaker breaker = new Retry.Breaker();
    private final Settings.Sidecar settings;
    private final Closing closing;
    private final Counts.Tally counts = new Counts.Tally();
    private long replayed;
    private volatile String lastError = "";
    volatile boolean diskFailing;
    private volatile long returnBy;
    private volatile boolean calling;

    Lane(Settings.Target target, Settings.Sidecar settings, Spool spool, Closing closing) {
        this.target = target;
        this.settings = settings;
        this.spool = spool;
        this.closing = closing;
    }

    boolean allows() {
        return breaker.allows(System.nanoTime());
    }

    // ---------------------------------------------------------------------------------------------------------- delivering

    /** Hand over what is pending of a share, or put it away; what can't be put away stays pending. */
    void deliver(Parcel.Share share) {
        Batch batch;
        while ((batch = share.next()) != null) {
            if (!allows()) {
                share.failed = true;
                if (!putAway(share, batch, "")) {
                    return;
                }
                continue;
            }
            Answer answer = send(batch, breaker.isClosed() ? 1 + settings.retries() : 1);
            if (answer.outcome() == Outcome.ACCEPTED) {
                accepted(share, batch, answer);
            } else if (answer.outcome() == Outcome.TOO_LARGE && batch.size() > 1) {
                share.split(batch);
            } else if (answer.outcome() == Outcome.REFUSED || answer.outcome() == Outcome.TOO_LARGE) {
                share.failed = true;
                refused(share, batch, answer);
            } else {
                share.failed = true;
                if (!putAway(share, batch, "")) {
                    return;
                }
            }
        }
    }

    /** The answer to the last of up to so many attempts; the breaker knows of it. */
    Answer send(Batch batch, int attempts) {
        for (int attempt = 0; ; attempt++) {
            Answer answer = attempt(batch);
            if (answer.outcome() != Outcome.RETRY && answer.outcome() != Outcome.KEEP) {
                lastError = answer.outcome() == Outcome.ACCEPTED ? "" : answer.detail();
                if (breaker.succeeded()) {
                    LOGGER.log(Level.INFO, "monitoring-sdk: {0} takes events again", target.description());
                }
                return answer;
            }
            lastError = answer.detail();
            double pause = Math.max(answer.retryAfter(), Retry.backoff(attempt));
            boolean last = answer.outcome() == Outcome.KEEP || attempt + 1 >= attempts || pause > LONGEST_WAIT;
            if (last || closing.await(pause)) {
                failed(answer);
                return answer;
            }
        }
    }

    private void failed(Answer answer) {
        if (breaker.failed(System.nanoTime(), answer.retryAfter()) && !closing.isOn()) {
            LOGGER.log(
                    Level.WARNING,
                    "monitoring-sdk: {0} does not take events ({1}); they wait in {2}",
                    target.description(),
                    answer.detail(),
                    spool == null ? "memory" : spool.folder());
        }
    }

    private Answer attempt(Batch batch) {
        double timeout = target.timeout();
        if (closing.isOn()) {
            timeout = Math.min(timeout, Math.max(0.05, (closing.deadline - System.nanoTime()) / 1e9));
        }
        returnBy = System.nanoTime() + (long) (timeout * 1e9) + HUNG_AFTER;
        calling = true;
        try {
            return target.backend().deliver(batch, Duration.ofNanos((long) (timeout * 1e9)));
        } catch (RuntimeException | Error mistake) { // backends come from outside too, and no batch may be lost with a mistake in one
            LOGGER.log(Level.ERROR, "monitoring-sdk: a mistake in the backend " + target.name(), mistake);
            return new Answer(Outcome.RETRY, mistake.toString());
        } finally {
            calling = false;
        }
    }

    /** Whether a call is under way that should have returned long ago. */
    boolean hangs() {
        return calling && System.nanoTime() - returnBy > 0;
    }

    void noteHung() {
        Answer answer = new Answer(Outcome.RETRY, "it hangs: a call does not return, though its time is over");
        lastError = answer.detail();
        failed(answer);
    }

    private void accepted(Parcel.Share share, Batch batch, Answer answer) {
        noteRejections(batch, answer, letters -> spool.setAside(letters)); // first kept, then counted
        finish(share, batch, taken(batch, answer));
    }

    /** How the events of an accepted batch count. */
    Counts.Tally taken(Batch batch, Answer answer) {
        Counts.Tally tally = new Counts.Tally();
        int rejected = answer.rejected().size();
        tally.rejected = keepsRejected() ? rejected : 0;
        tally.failed = rejected - tally.rejected;
        tally.sent = batch.size() - rejected;
        return tally;
    }

    private boolean keepsRejected() {
        return target.backend() instanceof SidecarBackend;
    }

    /** Where letters go. */
    interface Keeper {
        void keep(Letters letters) throws IOException;
    }

    /** Keep the rejected events of a batch aside, unless the receiver does so, and say why the first was. */
    void noteRejections(Batch batch, Answer answer, Keeper keeper) {
        if (answer.rejected().isEmpty()) {
            return;
        }
        String where = keepsRejected() ? " and keeps them in quarantine" : " for good";
        if (!keepsRejected() && spool != null && isKept(Letters.of(target.name(), batch, answer.rejected()), keeper)) {
            where += ", kept as *.refused in " + spool.folder();
        }
        Answer.Rejection first = answer.rejected().get(0);
        LOGGER.log(
                Level.WARNING,
                "monitoring-sdk: {0} refused {1} event(s){2}; the first: {3}",
                target.description(),
                answer.rejected().size(),
                where,
                Letters.reason(first));
    }

    /** Keep letters aside; whether that was possible. */
    boolean isKept(Letters letters, Keeper keeper) {
        try {
            keeper.keep(letters);
            diskFailing = false;
            return true;
        } catch (IOException | UncheckedIOException error) {
            complain(error);
            return false;
        }
    }

    /** Whether this is a backend of direct mode, where all that is refused is kept as letters. */
    boolean isDirect() {
        return !target.folder().isEmpty();
    }

    /** The receiver will never take this batch: keep it aside. */
    private void refused(Parcel.Share share, Batch batch, Answer answer) {
        LOGGER.log(
                Level.ERROR,
                "monitoring-sdk: {0} refused a batch of {1} event(s) for good: {2}",
                target.description(),
                batch.size(),
                answer.detail());
        if (spool != null) {
            isKept(isDirect() ? Letters.of(target.name(), batch, answer.detail()) : Letters.raw(batch), spool::setAside);
        }
        Counts.Tally tally = new Counts.Tally();
        tally.failed = batch.size();
        finish(share, batch, tally);
    }

    // ------------------------------------------------------------------------------------------------------ the last resort

    /**
     * Put what is pending of shares on disk: several, which then follow each other and were never tried, in one file. What can't be
     * put there is dropped for that reason, unless it is empty: then it stays pending. Whether all is gone.
     */
    boolean putAway(List<Parcel.Share> shares, String atTheEnd) {
        if (spool == null) {
            return putAwayEach(shares, atTheEnd);
        }
        // The end puts away what a slow lane is about to put away: the second finds it done, and writes no part over the whole.
        synchronized (spool) {
            if (shares.size() > 1 && shares.stream().noneMatch(Parcel.Share::isDone) && written(joined(shares))) {
                shares.forEach(share -> share.all().forEach(batch -> spooled(share, batch)));
                return true;
            }
            return putAwayEach(shares, atTheEnd);
        }
    }

    private boolean putAwayEach(List<Parcel.Share> shares, String atTheEnd) {
        boolean gone = true;
        for (Parcel.Share share : shares) {
            for (Batch batch : share.all()) {
                gone &= putAway(share, batch, atTheEnd);
            }
        }
        return gone;
    }

    private static Batch joined(List<Parcel.Share> shares) {
        List<Batch> batches = shares.stream().flatMap(share -> share.all().stream()).toList();
        List<byte[]> lines = batches.stream().flatMap(batch -> batch.lines().stream()).toList();
        Batch first = batches.get(0);
        return new Batch(lines, first.emitterId(), first.firstSeq(), batches.get(batches.size() - 1).lastSeq());
    }

    private boolean putAway(Parcel.Share share, Batch batch, String atTheEnd) {
        if (spool != null && written(batch)) {
            spooled(share, batch);
            return true;
        }
        if (atTheEnd.isEmpty()) {
            return false;
        }
        drop(share, batch, atTheEnd);
        return true;
    }

    private boolean written(Batch batch) {
        try {
            spool.write(batch);
            diskFailing = false;
            return true;
        } catch (IOException | UncheckedIOException error) {
            complain(error);
            return false;
        }
    }

    private void spooled(Parcel.Share share, Batch batch) {
        Counts.Tally tally = new Counts.Tally();
        tally.spooled = batch.size();
        finish(share, batch, tally);
    }

    /** Give up what is pending of a share for good. */
    void drop(Parcel.Share share, String why) {
        share.all().forEach(batch -> drop(share, batch, why));
    }

    private void drop(Parcel.Share share, Batch batch, String why) {
        share.parcel.dropped(why); // before anybody can see that it is done
        Counts.Tally tally = new Counts.Tally();
        tally.dropped = batch.size();
        finish(share, batch, tally);
    }

    /** Why something is dropped here. */
    String reason() {
        return spool == null ? "undeliverable" : "spool_failed";
    }

    /** Say that the spool folder fails, once until it works again. */
    private void complain(Exception error) {
        if (!diskFailing) {
            LOGGER.log(
                    Level.ERROR,
                    "monitoring-sdk: can''t write to the spool folder {0}: {1}; check space and rights",
                    spool.folder(),
                    error);
        }
        diskFailing = true;
    }

    // -------------------------------------------------------------------------------------------------------------- counts

    /** Be done with a batch and count it, unless somebody else was first. */
    private boolean finish(Parcel.Share share, Batch batch, Counts.Tally tally) {
        synchronized (share) { // whoever sees that it is done finds it counted
            if (!share.finish(batch)) {
                return false;
            }
            plus(share.tally, tally);
            synchronized (counts) {
                plus(counts, tally);
            }
            return true;
        }
    }

    private static void plus(Counts.Tally sum, Counts.Tally tally) {
        sum.sent += tally.sent;
        sum.rejected += tally.rejected;
        sum.spooled += tally.spooled;
        sum.failed += tally.failed;
        sum.dropped += tally.dropped;
    }

    void addReplayed(Counts.Tally tally) {
        synchronized (counts) {
            replayed += tally.sent;
            counts.rejected += tally.rejected;
            counts.failed += tally.failed;
        }
    }

    /**
     * The counts now.
     *
     * @param waiting events in memory for this backend
     */
    Stats.BackendStats stats(long waiting) {
        synchronized (counts) {
            return new Stats.BackendStats(
                    counts.sent, counts.rejected, counts.spooled, replayed, counts.failed, counts.dropped, waiting, lastError);
        }
    }
}
