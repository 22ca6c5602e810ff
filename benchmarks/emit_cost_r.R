# What one emit_event() costs the caller in R, beside a bare JSON+append loop; see emit_cost_r.py, which starts the server.
#
#   Rscript emit_cost_r.R LIBRARY URL-THAT-ANSWERS URL-WHERE-NOBODY-IS CALLS EVENTS-FOR-MEMORY

arguments <- commandArgs(trailingOnly = TRUE)
invisible(loadNamespace("monitoring", lib.loc = c(arguments[1], .libPaths())))
sdk <- asNamespace("monitoring")
calls <- as.integer(arguments[4])
many <- as.integer(arguments[5])
folder <- tempfile("bench")
dir.create(folder)
options(monitoring.log = function(level, text) NULL)

now <- function() .Call(sdk$mon_monotonic)

event_of <- function(n) {
  list(
    kind = "metric", name = "chuck", message = "temperature in range", entities = list(tool = "E7", lot = "L1"),
    metrics = list(temperature = 21.5, pressure = 3.25), attributes = list(n = n)
  )
}

timed <- function(emit) {
  took <- numeric(calls)
  for (n in seq_len(calls)) {
    event <- event_of(n)
    began <- now()
    emit(event)
    took[n] <- now() - began
  }
  idle <- vapply(seq_len(10000), function(n) {
    began <- now()
    now() - began
  }, 0)
  list(
    median_us = (stats::median(took) - stats::median(idle)) * 1e6, p99_us = stats::quantile(took, 0.99)[[1]] * 1e6,
    mean_us = mean(took) * 1e6, slowest_us = max(took) * 1e6
  )
}

start <- function(url) {
  sdk$initialize_monitoring(
    app = list(name = "bench", site_id = "fab1"), sidecar = list(url = url, retries = 0, spool_dir = file.path(folder, "spool"))
  )
}

resident_kib <- function() {
  status <- readLines("/proc/self/status")
  as.numeric(gsub("[^0-9]", "", grep("^VmRSS", status, value = TRUE)))
}

start(arguments[2])
for (n in 1:2000) sdk$emit_event(event_of(n)) # what is compiled and loaded once
up <- timed(sdk$emit_event)
sdk$close_monitoring()

start(arguments[3])
down <- timed(sdk$emit_event)
sdk$close_monitoring()

file <- file(file.path(folder, "bare.jsonl"), "a")
bare <- timed(function(event) writeLines(jsonlite::toJSON(event, auto_unbox = TRUE), file))
close(file)

start(arguments[2])
invisible(gc())
event <- event_of(0)
for (n in seq_len(many %/% 10)) sdk$emit_event(event)
before <- resident_kib()
for (n in seq_len(many - many %/% 10)) sdk$emit_event(event)
after <- resident_kib()
stats <- sdk$monitoring_stats()
sdk$close_monitoring()

cat(jsonlite::toJSON(list(
  unit = "microseconds on the caller's thread", calls = calls, sidecar_up = up, sidecar_down = down, bare_json_append = bare,
  ratio_of_medians = up$median_us / bare$median_us,
  memory = list(events = many, rss_after_a_tenth_kib = before, rss_after_all_kib = after, sent = stats$sent, dropped = stats$dropped)
), auto_unbox = TRUE, digits = 6), "\n")
