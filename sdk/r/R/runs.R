# Runs: what happens between the start and the end of a monitored context, and how it is reported.

ENTITY_NAMES <- c("lot", "wafer", "tool", "chamber", "recipe", "step", "product", "operator")
LONGEST_ERROR <- 8000
LONGEST_STACK <- 32000

# The first three members are what C reads: ids and entities.
new_run <- function(name, entities, attributes, parent) {
  inherited <- if (is.null(parent)) character() else parent$entities
  entities <- c(inherited[setdiff(names(inherited), names(entities))], entities)
  structure(class = "monitoring_run", list(
    run_id = .Call(mon_uuid), parent_run_id = if (is.null(parent)) "" else parent$run_id,
    entities = if (length(entities)) entities else structure(character(), names = character()),
    name = name, attributes = attributes, started = monotonic(), pid = .Call(mon_pid), outer = parent,
    note = new.env(parent = emptyenv())
  ))
}

#' @export
print.monitoring_run <- function(x, ...) {
  cat(sprintf("<run '%s' %s>\n", x$name, x$run_id))
  invisible(x)
}

# Begin a run inside the active one, make it the active one, and report it.
start_run <- function(name, metadata, verb) {
  client <- require_client(verb)
  split <- split_metadata(metadata)
  checked <- .Call(mon_mend, list(kind = "start", name = name, entities = split$entities, attributes = split$attributes))
  if (is.list(checked)) invalid_event(checked[[1]], checked[[2]])
  texts <- vapply(split$entities, function(value) enc2utf8(as.character(value)), "")
  run <- new_run(name, texts, split$attributes, package$run)
  client_emit(client, c(list(kind = "start", name = name), attributes_field(split$attributes)), run)
  package$run <- run
  package$open[[run$run_id]] <- run
  run
}

attributes_field <- function(attributes) if (length(attributes)) list(attributes = attributes)

split_metadata <- function(metadata) {
  if (is.null(metadata)) metadata <- list()
  if (is.atomic(metadata)) metadata <- as.list(metadata)
  if (!is.list(metadata) || length(metadata) && is.null(names(metadata))) {
    invalid_event("metadata", sprintf("expected a list with names such as list(lot = \"L1\"), got %s", class(metadata)[1]))
  }
  own <- as.list(metadata[["entities"]])
  entities <- metadata[names(metadata) %in% ENTITY_NAMES]
  entities <- lapply(c(entities[setdiff(names(entities), names(own))], own), function(value) {
    whole <- is_finite(value) && value == trunc(value) && abs(value) < 1e15 # wafer 7 is as good as wafer "7"
    if (whole) format(value, scientific = FALSE) else value
  })
  list(
    entities = if (length(entities)) entities else named_list(),
    attributes = metadata[!names(metadata) %in% c(ENTITY_NAMES, "entities")]
  )
}

# Report the end, and make the run around it the active one. Never raises: an error of ours would hide the program's own.
end_run <- function(run, status = "ok", error = NULL) {
  if (identical(package$run$run_id, run$run_id)) package$run <- run$outer
  package$open[[run$run_id]] <- NULL
  if (run$pid != .Call(mon_pid)) return(invisible()) # a forked child leaves its parent's run, which is the parent's to end
  client <- package$client
  if (is.null(client) || client$closed) {
    log_line("warning", sprintf("the run %s of %s ended after close_monitoring(); its end is not reported", run$run_id, run$name))
    return(invisible())
  }
  event <- list(
    kind = if (status == "failed") "error" else "finish", name = run$name, status = status,
    duration_ms = round((monotonic() - run$started) * 1000, 3)
  )
  if (!is.null(error)) event$error <- error
  if (status == "aborted") event$severity <- "warning"
  tryCatch(
    client_emit(client, c(event, attributes_field(run$attributes)), run),
    monitoring_error = function(condition) {
      tryCatch(
        client_emit(client, c(event, list(attributes = list(truncated = TRUE))), run),
        monitoring_error = function(condition) log_line("error", paste("can't report the end of a run:", conditionMessage(condition)))
      )
    }
  )
  invisible()
}

# At the end of the process: R leaves it in the middle of its functions, be it by an error that nobody caught or by quit().
abort_open <- function(type, message) {
  for (run in rev(package$open)) {
    if (is.null(run$note$error)) {
      end_run(run, "aborted", list(type = type, message = message))
    } else {
      end_run(run, "failed", run$note$error)
    }
  }
}

# A condition as the event's `error`, whatever the condition's own methods do.
describe_condition <- function(condition, calls = list()) {
  message <- tryCatch(paste(conditionMessage(condition), collapse = "\n"), error = function(broken) "(its message can't be had)")
  classes <- class(condition)
  list(
    type = substr(if (length(classes)) classes[1] else "condition", 1, 256),
    message = shortened(as.character(message), LONGEST_ERROR),
    stack = shortened(stack_text(condition, calls), LONGEST_STACK)
  )
}

stack_text <- function(condition, calls) {
  machinery <- c(".handleSimpleError", "h", "withCallingHandlers", "doWithOneRestart", "withOneRestart", "withRestarts", "doTryCatch")
  lines <- vapply(calls, function(call) {
    head <- call[[1]]
    if (is.name(head) && as.character(head) %in% machinery) return("")
    tryCatch(paste(substr(deparse(call, nlines = 1L)[1], 1, 200)), error = function(broken) "(a call that can't be shown)")
  }, "")
  lines <- lines[nzchar(lines)]
  raised <- conditionCall(condition)
  if (!is.null(raised)) lines <- c(lines, paste("in", substr(deparse(raised, nlines = 1L)[1], 1, 200)))
  paste(if (length(lines)) lines else "at top level", collapse = "\n")
}

# Head and tail of a text that is too long.
shortened <- function(text, longest) {
  if (nchar(text, "bytes") <= longest) return(text)
  half <- longest %/% 4
  letters <- nchar(text, allowNA = TRUE)
  if (is.na(letters) || letters <= 2 * half) return(text)
  sprintf("%s\n... %d characters left out ...\n%s", substr(text, 1, half), letters - 2L * half, substr(text, letters - half + 1, letters))
}
