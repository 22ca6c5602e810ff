/* The routines that R may call. */
#include "emitter.h"
#include <R_ext/Rdynload.h>
#include <R_ext/Visibility.h>

#define ROUTINE(name, arguments) {#name, (DL_FUNC)&name, arguments}

static const R_CallMethodDef ROUTINES[] = {
    ROUTINE(mon_emitter, 3), ROUTINE(mon_emitter_id, 1), ROUTINE(mon_emit, 3), ROUTINE(mon_emit_all, 3), ROUTINE(mon_is_due, 1),
    ROUTINE(mon_depth, 1), ROUTINE(mon_take, 3), ROUTINE(mon_mend, 1), ROUTINE(mon_now, 0),
    ROUTINE(mon_monotonic, 0), ROUTINE(mon_random, 1), ROUTINE(mon_uuid, 0), ROUTINE(mon_pid, 0), ROUTINE(mon_lines, 1),
    ROUTINE(mon_gzip, 2), ROUTINE(mon_open_lock, 2), ROUTINE(mon_is_at, 2), ROUTINE(mon_close, 1), ROUTINE(mon_write_file, 3),
    ROUTINE(mon_watch, 4), ROUTINE(mon_unwatch, 0), ROUTINE(mon_in_hand, 3), ROUTINE(mon_settled, 0),
    ROUTINE(mon_append_file, 3), ROUTINE(mon_sync_folder, 1), ROUTINE(mon_rename, 2), ROUTINE(mon_is_alive, 1), {NULL, NULL, 0}
};

attribute_visible void R_init_monitoring(DllInfo *dll)
{
    R_registerRoutines(dll, NULL, ROUTINES, NULL, NULL);
    R_useDynamicSymbols(dll, FALSE);
    R_forceSymbols(dll, TRUE);
}
