#' Report a block of code as a run
#'
#' Emits \code{start}, evaluates \code{expr}, then emits \code{finish}; or, when an error leaves the block, \code{error} with the
#' condition's class, message and calls. The condition goes on as it is: same object, same handlers, same traceback. Warnings and
#' messages are not touched. A user's interrupt ends the run as \code{aborted}. Leaving the block by \code{return()}, \code{break} or
#' a restart is an ordinary end. Runs nest: every event inside carries the run's id, its parent's, and the entities of all of them.
#'
#' @param name The name of the operation.
#' @param metadata A list or vector with names. \code{lot}, \code{wafer}, \code{tool}, \code{chamber}, \code{recipe}, \code{step},
#'   \code{product}, \code{operator} and what stands under \code{entities} are entities (whole numbers become text); all else is
#'   attributes of the run's start and end.
#' @param expr The code.
#' @return What \code{expr} returns, visible or not as it does.
#' @section Errors: \code{monitoring_invalid_event} for a wrong name or metadata, \code{monitoring_not_initialized}; both before
#'   \code{expr} is touched.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' with_monitored_context("etch", list(lot = "L1", tool = "E7", recipe = "OX-12"), {
#'   report_progress(0.5, "half the wafer")
#'   emit_event(kind = "metric", name = "chuck", metrics = c(temperature = 21.5))
#' })
#' close_monitoring()
with_monitored_context <- function(name, metadata = list(), expr) {
  run <- start_run(name, metadata, "with_monitored_context")
  completed <- FALSE
  on.exit({
    if (completed || is.null(run$note$error)) {
      end_run(run)
    } else {
      end_run(run, if (isTRUE(run$note$interrupted)) "aborted" else "failed", run$note$error)
    }
  })
  result <- withVisible(withCallingHandlers(
    expr,
    error = function(condition) {
      # The frames of the handler itself are no part of the story.
      run$note$error <- describe_condition(condition, utils::head(sys.calls(), -1L))
    },
    interrupt = function(condition) {
      run$note$interrupted <- TRUE
      run$note$error <- list(type = "interrupt", message = "the user interrupted the run")
    }
  ))
  completed <- TRUE
  if (result$visible) result$value else invisible(result$value)
}
