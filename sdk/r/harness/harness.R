# Does with the SDK what it is told on standard input and says on standard output what came of it; see conformance/HARNESS.md.

library <- Sys.getenv("MONITORING_R_LIBRARY")
if (nzchar(library)) invisible(loadNamespace("monitoring", lib.loc = c(library, .libPaths())))
sdk <- asNamespace("monitoring")

input <- file("stdin", "r", blocking = TRUE)

say <- function(answer) {
  text <- jsonlite::toJSON(answer, auto_unbox = TRUE, digits = NA, null = "null")
  writeLines(enc2utf8(as.character(text)), stdout(), useBytes = TRUE)
  flush(stdout())
}

# The next command; NULL at the end of the input.
heard <- function() {
  line <- readLines(input, 1L, encoding = "UTF-8", warn = FALSE)
  if (length(line) == 0) return(NULL)
  jsonlite::fromJSON(line, simplifyVector = FALSE)
}

# Values that JSON lacks.
meant <- function(value) {
  if (!is.list(value)) return(value)
  if (length(value) == 1 && !is.null(names(value))) {
    if (names(value) == "$float") return(as.numeric(c(nan = NaN, inf = Inf, "-inf" = -Inf)[[value[[1]]]]))
    if (names(value) == "$bytes") return(rawToChar(jsonlite::base64_dec(value[[1]])))
    if (names(value) == "$surrogate") {
      code <- strtoi(value[[1]], 16L)
      return(rawToChar(as.raw(c(bitwOr(0xE0L, code %/% 4096L), bitwOr(0x80L, (code %/% 64L) %% 64L), bitwOr(0x80L, code %% 64L)))))
    }
  }
  result <- lapply(value, meant)
  names(result) <- names(value)
  result
}

error_of <- function(condition) {
  kinds <- c(monitoring_configuration_error = "config", monitoring_invalid_event = "event", monitoring_not_initialized = "state")
  kind <- kinds[intersect(names(kinds), class(condition))]
  error <- list(kind = if (length(kind)) kind[[1]] else "other", message = conditionMessage(condition))
  if (!is.null(condition$path)) error$path <- condition$path
  if (!is.null(condition$problems)) error$problems <- condition$problems
  error
}

counts <- function(stats) {
  names <- c("emitted", "sent", "spooled", "replayed", "rejected", "failed", "dropped", "queued")
  if (is.null(stats)) structure(as.list(numeric(length(names))), names = names) else stats[names]
}

repeated <- function(event, times) {
  slowest <- 0
  for (number in seq_len(times) - 1L) {
    event$attributes$n <- number
    began <- proc.time()[["elapsed"]]
    sdk$emit_event(event)
    slowest <- max(slowest, proc.time()[["elapsed"]] - began)
  }
  list(slowest_us = slowest * 1e6)
}

idle <- function(seconds) {
  end <- proc.time()[["elapsed"]] + seconds
  while (proc.time()[["elapsed"]] < end) {
    Sys.sleep(0.02)
    sdk$poll_events()
  }
  list()
}

forked <- function(commands) {
  job <- parallel::mcparallel(lapply(commands, function(command) {
    tryCatch(c(list(ok = TRUE), done(command)), error = function(condition) list(ok = FALSE, error = error_of(condition)))
  }))
  answers <- parallel::mccollect(job)[[1]]
  list(answers = answers, status = if (inherits(answers, "try-error")) 1L else 0L)
}

done <- function(command) {
  switch(command$do,
    initialize = {
      sdk$initialize_monitoring(if (is.null(command$config)) command$file else command$config)
      list()
    },
    emit_event = list(event_id = sdk$emit_event(meant(command$event))),
    emit_batch = list(event_ids = as.list(sdk$emit_batch(meant(command$events)))),
    "repeat" = repeated(meant(command$event), command$times),
    progress = list(event_id = sdk$report_progress(command$progress, command$message)),
    flush = {
      flushed <- sdk$flush_events(command$timeout)
      list(flushed = isTRUE(as.logical(flushed)), backends = attr(flushed, "backends"))
    },
    stats = list(stats = counts(sdk$monitoring_stats())),
    sleep = {
      Sys.sleep(command$seconds)
      list()
    },
    idle = idle(command$seconds),
    fork = forked(command$commands),
    close = {
      sdk$close_monitoring()
      list()
    },
    resources = list(threads = length(list.files("/proc/self/task")), files = length(list.files("/proc/self/fd"))),
    stop("unknown command ", command$do)
  )
}

crash <- function(how) {
  switch(how,
    kill = tools::pskill(Sys.getpid(), 9L),
    abort = tools::pskill(Sys.getpid(), 6L),
    exit = quit("no", 0L),
    exception = stop("nobody catches this")
  )
  repeat Sys.sleep(1)
}

answered <- function(command, result) say(c(list(id = command$id), result))

# Carry out commands until the input ends or a context is left; how it was left.
carry_out <- function() {
  while (!is.null(command <- heard())) {
    if (command$do == "crash") crash(command$how)
    if (command$do == "finish") return(list(left = "finish", command = command))
    if (command$do == "error") {
      stop(structure(class = c(command$type, "error", "condition"), list(message = command$message, call = NULL, command = command)))
    }
    if (command$do == "context_start") {
      within(command)
      next
    }
    answered(command, tryCatch(c(list(ok = TRUE), done(command)), error = function(condition) list(ok = FALSE, error = error_of(condition))))
  }
  list(left = "end")
}

# Commands inside of a monitored context. An error that a `crash` raised goes on to the top.
within <- function(command) {
  entered <- FALSE
  ending <- withCallingHandlers(
    withRestarts(
      sdk$with_monitored_context(command$name, meant(command$metadata), {
        entered <- TRUE
        answered(command, list(ok = TRUE, run_id = sdk$current_run()$run_id))
        carry_out()
      }),
      not_entered = function(condition) list(left = "never", condition = condition)
    ),
    monitoring_error = function(condition) if (!entered) invokeRestart("not_entered", condition)
  )
  if (ending$left == "never") answered(command, list(ok = FALSE, error = error_of(ending$condition)))
  if (ending$left == "finish") answered(ending$command, list(ok = TRUE))
}

# The outermost of what catches a context's failure: it came through when it is seen here.
guarded <- within
within <- function(command) {
  ended <- tryCatch(guarded(command), error = function(condition) condition)
  if (!inherits(ended, "error")) return(invisible())
  if (is.null(ended$command)) stop(ended)
  answered(ended$command, list(ok = TRUE, raised = TRUE))
}

capabilities <- c(
  "sidecar", "direct", "nan", "bytes", "fork", "backend:sidecar", "backend:filesystem", "backend:s3", "backend:elk", "backend:webhook"
)
say(list(harness = 1L, language = "r", version = "0.1.0", capabilities = as.list(capabilities)))
invisible(carry_out())
