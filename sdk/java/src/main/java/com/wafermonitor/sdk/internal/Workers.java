package com.wafermonitor.sdk.internal;

import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.function.Supplier;

/** The SDK's threads: daemons in a group of their own, so that what they start can be found again. */
final class Workers {
    private static final ThreadGroup GROUP = new ThreadGroup(root(), "monitoring-sdk");

    private Workers() {}

    private static ThreadGroup root() {
        ThreadGroup group = Thread.currentThread().getThreadGroup();
        while (group.getParent() != null) {
            group = group.getParent();
        }
        return group;
    }

    static Thread daemon(String name, Runnable work) {
        Thread thread = new Thread(GROUP, work, name);
        thread.setDaemon(true);
        thread.setContextClassLoader(Workers.class.getClassLoader()); // not that of the program's caller, which may be unloaded
        return thread;
    }

    /** Have a thread of the group do something, so that the threads which that starts are of the group. */
    static <T> T call(String name, Supplier<T> work) {
        FutureTask<T> task = new FutureTask<>(work::get);
        Thread thread = daemon(name, task);
        thread.start();
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    return task.get();
                } catch (InterruptedException later) {
                    interrupted = true;
                }
            }
        } catch (ExecutionException error) {
            throw new IllegalStateException(error.getCause());
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** The threads that are alive in the group. */
    static List<Thread> alive() {
        Thread[] threads = new Thread[GROUP.activeCount() + 16];
        int count = GROUP.enumerate(threads);
        return List.of(Arrays.copyOf(threads, count));
    }
}
