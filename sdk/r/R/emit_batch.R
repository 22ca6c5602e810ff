#' Report several events
#'
#' As \code{\link{emit_event}} does each; when one is invalid none is taken.
#'
#' @param events A list of events, or a data frame: a row an event, a column a field (\code{metrics.x} is the metric \code{x};
#'   likewise \code{entities.} and \code{attributes.}; \code{NA} leaves the field out).
#' @return The ids of the events, invisibly.
#' @section Errors: As of \code{emit_event}; a path begins with the place of the event, counted from 0: \code{[3].metrics.x}.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' emit_batch(list(list(kind = "log", name = "a"), list(kind = "log", name = "b")))
#' emit_batch(data.frame(kind = "metric", name = "chuck", entities.wafer = c("1", "2"), metrics.bow = c(0.2, 0.3)))
#' close_monitoring()
emit_batch <- function(events) {
  client <- require_client("emit_batch")
  if (is.data.frame(events)) events <- rows_of(events)
  if (!is.list(events) || !is.null(names(events)) && length(events)) {
    invalid_event("", "expected a list of events, or a data frame; use emit_event() for one")
  }
  invisible(client_emit_all(client, events, package$run))
}

rows_of <- function(frame) {
  names <- names(frame)
  parts <- regmatches(names, regexec("^(metrics|entities|attributes)\\.(.+)$", names))
  lapply(seq_len(nrow(frame)), function(row) {
    event <- list()
    for (column in seq_along(names)) {
      value <- frame[[column]][[row]]
      if (is.atomic(value) && length(value) == 1 && is.na(value)) next
      if (is.factor(value)) value <- as.character(value)
      if (length(parts[[column]])) {
        event[[parts[[column]][2]]][[parts[[column]][3]]] <- value
      } else {
        event[[names[column]]] <- value
      }
    }
    lapply(event, function(field) if (is.atomic(field) && !is.null(names(field))) as.list(field) else field)
  })
}
