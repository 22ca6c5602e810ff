#' Have everything delivered or on disk
#'
#' Sends what waits, with all configured attempts; then what waits on disk, of this process and of dead ones.
#'
#' @param timeout Seconds.
#' @return \code{TRUE} when all that was emitted is delivered or safe on disk, and nothing was lost; \code{FALSE} otherwise. Its
#'   attribute \code{backends} has the counts of each backend.
#' @section Errors: \code{monitoring_not_initialized}.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' emit_event(kind = "log", name = "hello")
#' isTRUE(as.logical(flush_events()))
#' close_monitoring()
flush_events <- function(timeout = 5) {
  client <- require_client("flush_events")
  structure(client_flush(client, timeout), backends = client_stats(client)$backends)
}
