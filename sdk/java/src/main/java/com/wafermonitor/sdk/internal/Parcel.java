package com.wafermonitor.sdk.internal;

import com.wafermonitor.sdk.backends.Batch;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A batch on its way to every backend that shall have it; `ordinal` is the place of its first event in the order of taking. */
final class Parcel {
    final long ordinal;
    final int size;

    /** Bytes of all its lines. */
    final long bytes;

    /** In the order of their backends' priority. */
    final Share[] shares;

    /** Drops that this parcel reports. */
    final Map<String, Long> report;

    /** Guarded by the queue. */
    boolean settled;

    private volatile String whyDropped;

    Parcel(Batch batch, long ordinal, List<Lane> lanes, Map<String, Long> report) {
        this.ordinal = ordinal;
        this.size = batch.size();
        this.bytes = batch.lines().stream().mapToLong(line -> line.length).sum();
        this.report = report;
        this.shares = lanes.stream().map(lane -> new Share(lane, this, batch)).toArray(Share[]::new);
    }

    /** Whether nothing of it is still to be done. */
    boolean isDone() {
        for (Share share : shares) {
            if (!share.isDone()) {
                return false;
            }
        }
        return true;
    }

    /** The shares whose turn it is now: a fallback's comes when every backend before it has failed, and never when one has not. */
    synchronized List<Share> due() {
        List<Share> due = new ArrayList<>(shares.length);
        boolean isReached = false;
        boolean isOpen = false;
        for (Share share : shares) {
            boolean fallback = share.lane.target.fallback();
            if (!share.offered && fallback && isReached) {
                share.skip();
            } else if (!share.offered && !(fallback && isOpen)) {
                share.offered = true;
                due.add(share);
            }
            isReached |= share.isDone() && !share.failed;
            isOpen |= !share.isDone() && !share.failed;
        }
        return due;
    }

    /** Note why events of it are lost. */
    void dropped(String why) {
        whyDropped = why;
    }

    /** Why events of it were lost, the last time. */
    String whyDropped() {
        return whyDropped;
    }

    /** What became of its events: each counts where it fared worst. */
    Counts.Tally worst() {
        Counts.Tally worst = new Counts.Tally();
        for (Share share : shares) {
            synchronized (share) {
                worst.dropped = Math.max(worst.dropped, share.tally.dropped);
                worst.failed = Math.max(worst.failed, share.tally.failed);
                worst.spooled = Math.max(worst.spooled, share.tally.spooled);
                worst.rejected = Math.max(worst.rejected, share.tally.rejected);
            }
        }
        long left = size - worst.dropped;
        worst.failed = Math.min(worst.failed, left);
        left -= worst.failed;
        worst.spooled = Math.min(worst.spooled, left);
        left -= worst.spooled;
        worst.rejected = Math.min(worst.rejected, left);
        worst.sent = left - worst.rejected;
        return worst;
    }

    /** One backend's part in it: what it still has to get, and what became of the rest. */
    static final class Share {
        final Lane lane;
        final Parcel parcel;

        /** The backend could not take it, or refused it. */
        volatile boolean failed;

        /** It has been handed to the lane; guarded by the parcel. */
        private boolean offered;

        final ArrayDeque<Batch> pending = new ArrayDeque<>();
        final Counts.Tally tally = new Counts.Tally();

        Share(Lane lane, Parcel parcel, Batch batch) {
            this.lane = lane;
            this.parcel = parcel;
            pending.add(batch);
        }

        synchronized boolean isDone() {
            return pending.isEmpty();
        }

        /** Its batch while nobody has tried to deliver it; null afterwards. */
        synchronized Batch whole() {
            return failed || pending.size() != 1 ? null : pending.peekFirst();
        }

        synchronized Batch next() {
            return pending.peekFirst();
        }

        synchronized List<Batch> all() {
            return List.copyOf(pending);
        }

        /** Take a batch off the list; whether the caller is the first to be done with it. */
        synchronized boolean finish(Batch batch) {
            return pending.remove(batch);
        }

        synchronized void split(Batch batch) {
            if (pending.remove(batch)) {
                List<Batch> halves = batch.halves();
                pending.addFirst(halves.get(1));
                pending.addFirst(halves.get(0));
            }
        }

        /** Nothing of it is needed here. */
        synchronized void skip() {
            pending.clear();
        }
    }
}
