#' Stop reporting
#'
#' Delivers what waits, puts on disk what can't be delivered within a second, and ends. The end of the R process does the same.
#' Calling it twice, or before \code{initialize_monitoring}, does no harm.
#'
#' @return \code{NULL}, invisibly.
#' @export
#' @examples
#' close_monitoring()
close_monitoring <- function() {
  client <- package$client
  if (is.null(client)) return(invisible())
  if (client$pid != .Call(mon_pid)) client_in_child(client)
  client_close(client)
  package$last_stats <- client_stats(client)
  package$client <- NULL
  invisible()
}
