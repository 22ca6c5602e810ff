#' Report what programs do to TrackMate
#'
#' Three lines report a run with its start, its end and what was measured in it:
#'
#' \preformatted{
#' initialize_monitoring(app = list(name = "etcher", site_id = "fab1"))
#' with_monitored_context("etch", list(lot = "L1", tool = "E7"), {
#'   emit_event(kind = "metric", name = "chuck", metrics = c(temperature = 21.5))
#' })
#' }
#'
#' @keywords internal
"_PACKAGE"

# What is one a process: the client, the one that was closed last, the open runs, the run that the code is in.
package <- new.env(parent = emptyenv())
package$client <- NULL
package$last_stats <- NULL
package$open <- list()
package$run <- NULL
package$loaded_in <- -1L

.onLoad <- function(libname, pkgname) {
  package$loaded_in <- .Call(mon_pid)
}

require_client <- function(verb) {
  client <- package$client
  if (is.null(client) || client$closed) not_initialized(verb)
  client
}
