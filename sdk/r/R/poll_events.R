#' Send what is due
#'
#' R has no second thread: a batch that has become old enough is sent by the next call of the SDK. A program that works for long
#' without reporting anything calls this now and then. It makes one request of at most a second.
#'
#' @return Whether anything was due, invisibly.
#' @export
#' @examples
#' poll_events()
poll_events <- function() {
  client <- package$client
  if (is.null(client) || client$closed || client$pid != .Call(mon_pid)) return(invisible(FALSE))
  due <- .Call(mon_is_due, client$emitter)
  if (due) client_relieve(client)
  invisible(due)
}
