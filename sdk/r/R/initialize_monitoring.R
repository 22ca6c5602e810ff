#' Start reporting
#'
#' Call it once, at the start of a program. What was running before is closed.
#'
#' @param config The name of a YAML or JSON file, or a list with the key \code{sdk}. By default the file that the environment
#'   variable \code{MONITORING_CONFIG} names, else \file{./monitoring-config.yaml} if it is there.
#' @param ... Settings below \code{sdk}, which win over everything else: \code{app = list(name = "etcher", site_id = "fab1")}, or
#'   stepping into a level, \code{sidecar__url = "http://localhost:17000"}.
#' @return The configuration that is in force, invisibly, without its secrets.
#' @section Errors: A condition of class \code{monitoring_configuration_error} names every mistake; its \code{problems} has them one
#'   by one, each with \code{path} and \code{message}.
#' @export
#' @examples
#' initialize_monitoring(
#'   app = list(name = "etcher", site_id = "fab1"),
#'   sidecar = list(spool_dir = tempfile("spool"), retries = 0)
#' )
#' emit_event(kind = "log", name = "hello")
#' close_monitoring()
initialize_monitoring <- function(config = NULL, ...) {
  settings <- load_config(config, list(...))
  close_monitoring()
  package$client <- new_client(settings)
  invisible(settings[c("mode", "queue", "app")])
}
