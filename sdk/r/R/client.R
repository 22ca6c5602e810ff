# The SDK of one process: takes events, and moves them to where they shall go within the calls of the program.

CLOSE_GRACE <- 1 # seconds
CALL_TIMEOUT <- 1 # the most that one request within emit_event() may take, in seconds

new_client <- function(settings) {
  client <- new.env(parent = emptyenv())
  client$settings <- settings
  client_begin(client)
  reg.finalizer(client, client_finalize, onexit = TRUE)
  client
}

# Begin an emitter: at the start, and anew in a forked child, where what was queued is the parent's.
client_begin <- function(client) {
  settings <- client$settings
  app <- settings$app
  fields <- app[intersect(c("name", "version", "instance_id"), names(app))]
  client$pid <- .Call(mon_pid)
  client$emitter <- .Call(
    mon_emitter, sprintf("\"site_id\":%s,", json_text(app$site_id)),
    sprintf("\"app\":{%s},", paste0("\"", names(fields), "\":", vapply(fields, json_text, ""), collapse = ",")),
    as.numeric(c(min(settings$queue$batch_size, settings$queue$max_events), MAX_BATCH_BYTES, settings$queue$flush_interval))
  )
  client$emitter_id <- .Call(mon_emitter_id, client$emitter)
  client$direct <- settings$mode == "direct"
  client$lanes <- if (client$direct) direct_lanes(client) else list(sidecar_lane(client))
  client$counts <- structure(numeric(length(VERDICTS) + 1), names = c(VERDICTS, "replayed"))
  client$dropped_by_reason <- list()
  client$unreported <- list()
  client$last_reason <- "undeliverable"
  client$in_flight <- 0
  client$next_number <- 1
  client$busy <- FALSE
  client$closing <- FALSE
  client$closed <- FALSE
  client$unguarded <- FALSE
  client_watch(client)
}

# Have what is in memory written to disk when SIGTERM ends R.
client_watch <- function(client) {
  spools <- Filter(Negate(is.null), lapply(client$lanes, function(lane) if (!lane$fallback) lane$spool))
  folders <- vapply(spools, function(spool) spool$folder, "")
  starts <- vapply(spools, function(spool) file.path(spool$folder, paste0(spool$owner, ".")), "")
  .Call(mon_watch, client$emitter, folders, starts, client$direct)
}

json_text <- function(text) as.character(jsonlite::toJSON(enc2utf8(as.character(text)), auto_unbox = TRUE))

sidecar_lane <- function(client) {
  sidecar <- client$settings$sidecar
  spool <- if (sidecar$enable_spooling) new_spool(sidecar$spool_dir, client$emitter_id)
  new_lane("sidecar", sidecar_backend(sidecar$url, sidecar$token), sidecar$timeout, spool)
}

direct_lanes <- function(client) {
  settings <- client$settings
  lapply(settings$backends, function(entry) {
    folder <- backend_folder(settings$sidecar$spool_dir, settings$app, entry$name)
    spool <- if (settings$sidecar$enable_spooling) new_spool(folder, client$emitter_id)
    lane <- new_lane(
      entry$name, BACKENDS[[entry$type]]$make(entry, settings, client$emitter_id), entry$timeout, spool, entry$fallback,
      direct = TRUE
    )
    lane$priority <- entry$priority
    lane
  })
}

# After a fork: let go of what is the parent's, and be an emitter of one's own.
client_in_child <- function(client) {
  for (lane in client$lanes) {
    if (!is.null(lane$spool)) spool_forget(lane$spool)
    lane$backend$forget()
  }
  client_begin(client)
  package$open <- list()
  guard_child(client)
}

# The first of so many numbers that nobody else has.
take_numbers <- function(client, events) {
  first <- client$next_number
  client$next_number <- first + events
  first
}

client_emit <- function(client, event, run) {
  id <- .Call(mon_emit, client$emitter, event, run)
  if (is.null(id)) {
    client_in_child(client)
    id <- .Call(mon_emit, client$emitter, event, run)
  }
  if (is.list(id)) invalid_event(id[[1]], id[[2]])
  if (client$unguarded || .Call(mon_is_due, client$emitter)) client_relieve(client)
  id
}

client_emit_all <- function(client, events, run) {
  ids <- .Call(mon_emit_all, client$emitter, events, run)
  if (is.null(ids)) {
    client_in_child(client)
    ids <- .Call(mon_emit_all, client$emitter, events, run)
  }
  if (is.list(ids)) {
    place <- sprintf("[%d]", ids[[3]])
    invalid_event(if (nzchar(ids[[1]])) paste0(place, ".", ids[[1]]) else place, ids[[2]])
  }
  if (client$unguarded || .Call(mon_is_due, client$emitter)) client_relieve(client)
  ids
}

client_depth <- function(client) .Call(mon_depth, client$emitter)[1] + client$in_flight

# What an emit does when something is due: one attempt with a short timeout, then the disk.
client_relieve <- function(client) {
  client_pump(client, effort(cap = CALL_TIMEOUT))
  if (client$settings$queue$on_full != "block" || client$busy) return(invisible())
  while (client_depth(client) >= client$settings$queue$max_events) {
    client_pump(client, effort(1 + client$settings$sidecar$retries))
    if (client_depth(client) >= client$settings$queue$max_events) Sys.sleep(0.05)
  }
}

# Send all that waits, as far as the effort goes. Raises nothing for trouble with delivery.
client_pump <- function(client, effort) {
  if (client$busy) return(invisible())
  client$busy <- TRUE
  on.exit(client$busy <- FALSE)
  tryCatch(client_round(client, effort), error = function(condition) {
    log_line("error", paste("a mistake in the SDK; it goes on:", conditionMessage(condition)))
  })
  invisible()
}

client_round <- function(client, effort) {
  for (lane in client$lanes) if (length(lane$held)) lane_retry_held(client, lane, effort)
  client_report_drops(client)
  while (monotonic() < effort$deadline) {
    down <- !any(vapply(client$lanes, function(lane) breaker_allows(lane$breaker), NA))
    batch <- client_take(client, if (down) MAX_BATCH_EVENTS else client$settings$queue$batch_size)
    if (is.null(batch)) break
    ship(client, batch, effort)
  }
  if (client$closing) return(invisible())
  until <- effort
  if (is.finite(effort$cap)) until$deadline <- min(effort$deadline, monotonic() + effort$cap)
  for (lane in client$lanes) {
    lane_replay(client, lane, until)
    lane$backend$tick()
  }
}

client_take <- function(client, events) {
  taken <- .Call(mon_take, client$emitter, as.numeric(events), MAX_BATCH_BYTES)
  if (is.null(taken)) return(NULL)
  number <- if (client$direct) take_numbers(client, taken[[2]]) else taken[[3]]
  .Call(mon_in_hand, taken[[1]], number, client$next_number)
  new_batch(taken[[1]], number, client$emitter_id)
}

# Tell of what was lost by an event of its own, once there is a way, so that the gap in the numbers is explained.
client_report_drops <- function(client) {
  drops <- client$unreported
  if (!length(drops) || !any(vapply(client$lanes, function(lane) breaker_allows(lane$breaker), NA))) return(invisible())
  client$unreported <- list()
  total <- sum(unlist(drops))
  .Call(mon_emit, client$emitter, list(
    kind = "metric", name = "sdk.dropped", severity = "warning", metrics = drops,
    message = sprintf("%d event(s) of this process were lost before they reached %s", as.integer(total), client$lanes[[1]]$backend$shown)
  ), NULL)
}

# Wait until all that was emitted is delivered or on disk; whether it was so within `timeout` seconds, and nothing was lost.
client_flush <- function(client, timeout) {
  if (client$pid != .Call(mon_pid)) client_in_child(client)
  deadline <- monotonic() + timeout
  lost <- client$counts[["dropped"]]
  repeat {
    client_pump(client, effort(1 + client$settings$sidecar$retries, deadline))
    more <- any(vapply(client$lanes, function(lane) lane$has_more, NA))
    if (client_depth(client) == 0 && !more || monotonic() >= deadline) break
    if (client_depth(client) > 0) Sys.sleep(0.02)
  }
  client_depth(client) == 0 && client$counts[["dropped"]] == lost
}

client_stats <- function(client) {
  depth <- .Call(mon_depth, client$emitter)
  counts <- as.list(client$counts)
  list(
    emitted = depth[2], sent = counts$delivered, spooled = counts$spooled, replayed = counts$replayed, rejected = counts$rejected,
    failed = counts$failed, dropped = counts$dropped, queued = depth[1] + client$in_flight, dropped_by_reason = client$dropped_by_reason,
    backends = structure(lapply(client$lanes, lane_result), names = vapply(client$lanes, function(lane) lane$name, ""))
  )
}

lane_result <- function(lane) {
  counts <- as.list(lane$counts)
  list(
    delivered = counts$delivered, spooled = counts$spooled, failed = counts$failed + counts$rejected, dropped = counts$dropped,
    waiting = lane$waiting, replayed = lane$replayed, error = lane$error
  )
}

# Deliver what is queued, put on disk what can't be delivered within a second, and end.
client_close <- function(client) {
  if (client$closed) return(invisible())
  client$closed <- TRUE
  client$closing <- TRUE
  client$busy <- FALSE
  client_pump(client, effort(1 + client$settings$sidecar$retries, monotonic() + CLOSE_GRACE))
  tryCatch(client_put_all_away(client), error = function(condition) {
    log_line("error", paste("a mistake in the SDK while closing:", conditionMessage(condition)))
  })
  .Call(mon_unwatch)
  stats <- client_stats(client)
  names <- c("emitted", "sent", "spooled", "replayed", "rejected", "failed", "dropped", "queued")
  log_line(
    if (stats$dropped || stats$failed) "warning" else "info",
    paste("closed;", paste0(names, "=", format(unlist(stats[names]), trim = TRUE, scientific = FALSE), collapse = " "))
  )
}

client_put_all_away <- function(client) {
  while (!is.null(batch <- client_take(client, MAX_BATCH_EVENTS))) {
    shipment <- new_shipment(client, batch)
    for (lane in client$lanes) {
      if (lane$fallback) next
      piece <- shipment_piece(client, shipment, lane, seq_len(batch$n))
      for (cut in batch_cuts(batch, lane$backend$max_events, MAX_BATCH_BYTES)) lane_put_away(client, lane, piece_slice(piece, cut), final = TRUE)
    }
    shipment_less(client, shipment, 1)
  }
  for (lane in client$lanes) {
    held <- lane$held
    lane$held <- list()
    for (piece in held) lane_put_away(client, lane, piece, final = TRUE)
    lane$backend$close()
    if (!is.null(lane$spool)) spool_close(lane$spool)
  }
}

# At the end of the process. A forked child that never emitted has nothing to do here.
client_finalize <- function(client) {
  if (client$closed || client$pid != .Call(mon_pid)) return(invisible())
  abort_open("end of the process", "the process ended in the middle of the run")
  client_close(client)
}

# A child that R's parallel package forked ends without R's own end: have what it emits delivered when its task is done.
# Where no task is in sight, each event is sent at once.
guard_child <- function(client) {
  functions <- lapply(seq_len(sys.nframe()), sys.function)
  forking <- which(vapply(functions, function(each) {
    is.function(each) && identical(environmentName(topenv(environment(each) %||% baseenv())), "parallel")
  }, NA))
  tasks <- which(vapply(functions, identical, NA, base::try))
  task <- tasks[tasks > min(c(forking, Inf))]
  if (length(task)) {
    do.call(base::on.exit, list(bquote(.(client_finish_task)(.(client))), TRUE), envir = sys.frame(task[1]))
  } else {
    client$unguarded <- TRUE
  }
}

client_finish_task <- function(client) {
  if (!client$closed) client_close(client)
}
