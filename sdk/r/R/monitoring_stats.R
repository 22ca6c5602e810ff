#' What became of the events
#'
#' @return A list of counts since \code{initialize_monitoring}, or since the process was forked; after \code{close_monitoring} the
#'   last word of what was closed; \code{NULL} before. Each event that was \code{emitted} is in exactly one of \code{sent},
#'   \code{rejected}, \code{spooled}, \code{failed}, \code{dropped} and \code{queued}; \code{replayed} counts on top of that what was
#'   delivered from disk. \code{dropped_by_reason} and \code{backends} tell more.
#' @export
#' @examples
#' monitoring_stats()
monitoring_stats <- function() {
  client <- package$client
  if (is.null(client)) return(package$last_stats)
  if (!client$closed && client$pid != .Call(mon_pid)) client_in_child(client)
  client_stats(client)
}
