#' Report the rest of a function as a run
#'
#' As \code{\link{with_monitored_context}}, from here to the end of the function that calls it. R does not tell the end of a function
#' which condition it is left by, so of an error the report has the message that R kept last, and no calls; where that matters, use
#' \code{with_monitored_context}.
#'
#' @inheritParams with_monitored_context
#' @param .local_envir The frame whose end is the run's end.
#' @return The run, invisibly.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' measure <- function(wafer) {
#'   local_monitored_context("measure", list(wafer = wafer))
#'   emit_event(kind = "metric", name = "bow", metrics = c(bow = 0.2))
#' }
#' measure(7)
#' close_monitoring()
local_monitored_context <- function(name, metadata = list(), .local_envir = parent.frame()) {
  if (identical(.local_envir, globalenv())) {
    raise("monitoring_usage_error", "local_monitored_context() needs a function whose end it can wait for; use with_monitored_context()")
  }
  run <- start_run(name, metadata, "local_monitored_context")
  run$note$last <- geterrmessage()
  run$note$mark <- new.env()
  ending <- bquote(.(end_local_run)(.(run), base::returnValue(.(run$note$mark))))
  do.call(base::on.exit, list(ending, TRUE, FALSE), envir = .local_envir)
  invisible(run)
}

end_local_run <- function(run, value) {
  if (!identical(value, run$note$mark)) return(end_run(run))
  message <- geterrmessage()
  told <- if (identical(message, run$note$last)) "the function was left by an error or a jump" else sub("^Error[^:]*: |\n$", "", message)
  end_run(run, "failed", list(type = "error", message = shortened(sub("\n$", "", told), LONGEST_ERROR)))
}
