package com.wafermonitor.sdk.internal;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * Direct mode: moves events from the queue to every backend, each on a lane with a thread of its own.
 *
 * <p>The dispatcher cuts batches and hands them to the lanes; it never waits for a backend (but for a slow one with {@code on_full:
 * block}), so the queue runs empty whatever they do. A batch counts as in memory until every lane is done with it.
 */
final class DirectDelivery extends Delivery {
    /** How often to look whether a call hangs. */
    private static final long LONGEST_PAUSE = TimeUnit.SECONDS.toNanos(1);

    private final Map<Lane, LaneWorker> workers = new LinkedHashMap<>();

    DirectDelivery(Settings settings, Encoder encoder, Function<Map<String, Long>, Entry> report) {
        super(settings, encoder, report, "monitoring-sdk-dispatcher");
        lanes.forEach(lane -> workers.put(lane, new LaneWorker(lane, settings.queue(), counts, closing, this::advance)));
    }

    @Override
    void start() {
        super.start();
        workers.values().forEach(LaneWorker::start);
    }

    /** The dispatcher is what makes room. */
    @Override
    public void overflow() {
        queue.wakeSender();
    }

    @Override
    long waiting(Lane lane) {
        return workers.get(lane).depth();
    }

    @Override
    void end() throws InterruptedException {
        try {
            joined(worker, closing.deadline - System.nanoTime());
            end(false); // first those that others stand in for
            end(true);
        } finally { // nobody's patience ends before the lanes know
            workers.values().forEach(LaneWorker::end);
        }
        List<LaneWorker> hung = workers.values().stream().filter(LaneWorker::isAlive).toList();
        hung.forEach(LaneWorker::interrupt);
        long last = System.nanoTime() + INTERRUPT_GRACE;
        for (LaneWorker each : hung) {
            each.joined(last - System.nanoTime());
        }
    }

    private void end(boolean fallbacks) throws InterruptedException {
        List<LaneWorker> some = workers.values().stream()
                .filter(each -> each.lane.target.fallback() == fallbacks)
                .toList();
        some.forEach(LaneWorker::end);
        for (LaneWorker each : some) {
            each.joined(closing.deadline - System.nanoTime());
        }
    }

    // ------------------------------------------------------------------------------------------------------ the dispatcher

    @Override
    long longestPause() {
        return LONGEST_PAUSE;
    }

    @Override
    void round(boolean everything) {
        workers.values().forEach(LaneWorker::check);
        int size = settings.queue().batchSize();
        long due = 0;
        if (everything) {
            workers.values().forEach(LaneWorker::wake);
            dispatchReport();
            due = queue.size();
        }
        while (!closing.isOn() && (queue.size() >= size || due > 0)) {
            int taken = dispatch(size);
            due = taken == 0 ? 0 : due - taken;
        }
    }

    /** Hand everything to the lanes, which know how much time is left. */
    @Override
    void finish() {
        dispatchReport();
        while (dispatch(settings.queue().batchSize()) > 0) {
            continue;
        }
    }

    private void dispatchReport() {
        Parcel report = takeReport();
        if (report != null) {
            advance(report);
        }
    }

    /** Hand out up to so many events; how many it were. */
    private int dispatch(int limit) {
        List<Parcel> parcels = take(limit);
        parcels.forEach(this::advance);
        return parcels.stream().mapToInt(parcel -> parcel.size).sum();
    }

    /** Something has become of a parcel: hand it to whose turn it is now, and let go of it when all are done. */
    private void advance(Parcel parcel) {
        parcel.due().forEach(share -> workers.get(share.lane).offer(share));
        if (parcel.isDone()) {
            settle(parcel);
        }
    }
}
