# Nobody listens: what is emitted is found in the spool folder, as it would have been sent.
start_alone <- function(..., env = parent.frame()) {
  folder <- tempfile("spool")
  initialize_monitoring(list(sdk = list(
    app = list(name = "etcher", site_id = "fab1"),
    sidecar = list(url = "http://127.0.0.1:9", retries = 0, spool_dir = folder)
  )), ...)
  do.call(on.exit, list(quote(close_monitoring()), TRUE), envir = env)
  folder
}

spooled <- function(folder) {
  if (!is.null(monitoring_stats())) try(flush_events(2), silent = TRUE)
  files <- sort(list.files(folder, pattern = "[.]jsonl$", full.names = TRUE))
  lapply(unlist(lapply(files, readLines, encoding = "UTF-8")), jsonlite::fromJSON, simplifyVector = FALSE)
}

fields <- function(events, name) vapply(events, function(event) as.character(event[[name]]), "")

options(monitoring.log = function(level, text) NULL)
