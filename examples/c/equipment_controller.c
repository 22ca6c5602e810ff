/* An equipment controller: a simulated etch tool that works through a lot, and reports states, measurements and runs.
 *
 *   cc equipment_controller.c $(pkg-config --cflags --libs monitoring) -lm -o equipment_controller
 *   MONITORING_SDK__APP__NAME=etch-controller MONITORING_SDK__APP__SITE_ID=fab1 ./equipment_controller 3
 *
 * The argument is the number of wafers; every fourth fails. */
#include <math.h>
#include <monitoring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static const char TOOL[] = "ETCH-07";
static volatile sig_atomic_t stopping;

static void on_term(int number) {
    (void)number;
    stopping = 1; /* nothing of the SDK is called here: the loop ends, and main() closes */
}

static void change_state(const char *from, const char *to) {
    mon_event *event = mon_event_new(MON_STATE, TOOL);
    mon_event_entity(event, "tool", TOOL);
    mon_event_state(event, from, to);
    mon_emit(event);
}

/* One step of the recipe; what it emits has the lot, the wafer and the tool of the runs around it. */
static int run_step(const char *name, int wafer, double seconds) {
    mon_context *step = mon_context_begin_with(name, "step", name, NULL);
    for (int sample = 1; sample <= 10; sample++) {
        double t = seconds * sample / 10;
        mon_event *event = mon_event_new(MON_METRIC, "chamber");
        mon_event_metric(event, "pressure_mtorr", 12.25 + 0.1 * sin(t));
        mon_event_metric(event, "temperature", 60 + 2 * (1 - exp(-t)));
        mon_event_integer(event, "sample", sample);
        mon_emit(event);
        mon_context_progress(step, sample / 10.0, NULL, NULL);
    }
    if (wafer > 0 && wafer % 4 == 0) {
        mon_context_fail(step, "RfFault", "reflected power above the limit");
        return -1;
    }
    mon_context_end_ok(step);
    return 0;
}

static int etch_wafer(int wafer) {
    char id[8];
    snprintf(id, sizeof id, "%02d", wafer);
    mon_context *run = mon_context_begin_with("etch-wafer", "wafer", id, "chamber", wafer % 2 == 0 ? "B" : "A", NULL);
    int result = run_step("strike", 0, 1);
    if (result == 0) {
        result = run_step("main-etch", wafer, 30);
    }
    if (result == 0) {
        mon_context_end_ok(run);
    } else {
        mon_context_fail(run, "StepFailed", "the wafer goes to rework");
    }
    return result;
}

int main(int argc, char **argv) {
    int wafers = argc > 1 ? atoi(argv[1]) : 25;
    if (mon_initialize(NULL) != MON_OK) {
        fprintf(stderr, "%s\n", mon_error_message());
        return 2;
    }
    signal(SIGTERM, on_term);
    change_state("standby", "productive");
    mon_context *lot = mon_context_begin_with("lot", "lot", "L2301", "tool", TOOL, "recipe", "OX-12", "hot", "yes", NULL);
    int scrapped = 0;
    int done = 0;
    while (done < wafers && !stopping) {
        scrapped += etch_wafer(++done) != 0;
        mon_context_progress(lot, (double)done / wafers, "wafer done", NULL);
    }
    if (stopping) {
        mon_context_abort(lot, "SIGTERM", "the controller was stopped");
    } else {
        mon_context_end_ok(lot);
    }
    change_state("productive", "standby");
    mon_close();
    mon_counts counts;
    mon_stats(&counts);
    printf("%d wafers, %d for rework; %llu events, %llu dropped\n", done, scrapped, (unsigned long long)counts.emitted,
           (unsigned long long)counts.dropped);
    return 0;
}
