#' Report how far the run is
#'
#' @param progress From 0 to 1.
#' @param message A line of text, or \code{NULL}.
#' @param run The run; by default the one that the code is in.
#' @return The event's id, invisibly.
#' @section Errors: \code{monitoring_invalid_event}, also outside of any run; \code{monitoring_not_initialized}.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' with_monitored_context("lot", list(lot = "L1"), for (wafer in 1:5) report_progress(wafer / 5))
#' close_monitoring()
report_progress <- function(progress, message = NULL, run = current_run()) {
  client <- require_client("report_progress")
  if (!inherits(run, "monitoring_run")) invalid_event("run_id", "report_progress() needs a run: call it inside a monitored context")
  if (is_finite(progress) && progress > 1 && progress <= 1 + 1e-9) progress <- 1
  event <- list(kind = "progress", name = run$name, progress = progress)
  if (!is.null(message)) event$message <- message
  invisible(client_emit(client, event, run))
}
