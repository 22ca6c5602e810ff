# The conditions that the package raises: all of them tell of misuse, none of a sidecar that can't be reached.
#
# monitoring_error
#   monitoring_configuration_error   what is configured is wrong; `problems` lists everything that is
#   monitoring_not_initialized       called before initialize_monitoring(), or after close_monitoring()
#   monitoring_invalid_event         an event that breaks the contract; `path` says where

raise <- function(class, message, ..., call = NULL) {
  stop(structure(class = c(class, "monitoring_error", "error", "condition"), list(message = message, call = call, ...)))
}

not_initialized <- function(verb) {
  raise(
    "monitoring_not_initialized",
    sprintf("%s() needs a running SDK: call initialize_monitoring() first, and close_monitoring() only at the end", verb)
  )
}

invalid_event <- function(path, error) {
  message <- if (nzchar(path)) sprintf("invalid event: %s: %s", path, error) else sprintf("invalid event: %s", error)
  raise("monitoring_invalid_event", message, path = path, error = error)
}

configuration_error <- function(source, problems) {
  lines <- vapply(problems, function(problem) {
    if (nzchar(problem$path)) paste0(problem$path, ": ", problem$message) else problem$message
  }, "")
  count <- if (length(problems) == 1) "1 problem" else sprintf("%d problems", length(problems))
  raise(
    "monitoring_configuration_error",
    paste0(source, ": ", count, paste0("\n  ", lines, collapse = "")),
    source = source, problems = problems
  )
}

problem <- function(path, message) list(path = path, message = message)

# A line on standard error, past every handler of the program: trouble with delivery must not become trouble of the program.
# `options(monitoring.log = function(level, text) ...)` takes it elsewhere.
log_line <- function(level, text) {
  own <- getOption("monitoring.log")
  if (is.function(own)) {
    tryCatch(own(level, text), error = function(condition) NULL)
  } else if (level != "info") {
    cat("monitoring: ", text, "\n", file = stderr(), sep = "")
  }
  invisible()
}

`%||%` <- function(value, otherwise) if (is.null(value)) otherwise else value
