#' Report one event
#'
#' The SDK adds id, timestamp, site, app, emitter and the run that the code is in. An event waits in memory until a batch is full or
#' old enough, which later calls notice; such a call makes one request of at most a second.
#'
#' @param event A list of fields, at least \code{kind} (\code{start}, \code{progress}, \code{finish}, \code{error}, \code{metric},
#'   \code{log} or \code{state}) and \code{name}. Vectors with names are objects, vectors of one element are plain values
#'   (\code{I()} keeps them arrays), \code{NA} and \code{NULL} are null, dates and times are text.
#' @param ... Fields, in place of a list or over it.
#' @return The event's id, invisibly.
#' @section Errors: \code{monitoring_invalid_event} with the \code{path} of the first mistake, \code{monitoring_not_initialized};
#'   never anything for trouble with delivery.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' emit_event(kind = "metric", name = "chuck", entities = c(tool = "E7"), metrics = c(temperature = 21.5))
#' emit_event(list(kind = "state", name = "E7", state = list(from = "standby", to = "productive")))
#' close_monitoring()
emit_event <- function(event, ...) {
  client <- package$client
  if (is.null(client) || client$closed) not_initialized("emit_event")
  if (...length()) event <- if (missing(event)) list(...) else laid_over(event, list(...))
  invisible(client_emit(client, event, package$run))
}

laid_over <- function(event, fields) {
  if (!is.list(event)) invalid_event("", sprintf("expected a list of fields, got %s", class(event)[1]))
  c(event[setdiff(names(event), names(fields))], fields)
}
