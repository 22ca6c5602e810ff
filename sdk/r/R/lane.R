# The way to one backend: its attempts, its breaker, its part of the spool folder, its counts.

REPLAY_FILES <- 20
ORPHAN_INTERVAL <- 15
VERDICTS <- c("delivered", "spooled", "rejected", "failed", "dropped") # of several backends, the last counts

new_lane <- function(name, backend, timeout, spool, fallback = FALSE, direct = FALSE) {
  lane <- new.env(parent = emptyenv())
  lane$name <- name
  lane$backend <- backend
  lane$timeout <- timeout
  lane$spool <- spool
  lane$fallback <- fallback
  lane$direct <- direct
  lane$breaker <- new_breaker()
  lane$held <- list()
  lane$error <- NULL
  lane$disk_failing <- FALSE
  lane$counts <- structure(numeric(length(VERDICTS)), names = VERDICTS)
  lane$replayed <- 0
  lane$waiting <- 0
  lane$next_orphans <- -Inf
  lane$has_more <- FALSE
  lane
}

# How much a call may cost: the attempts it may make, when it must be over, the most that one request may take.
effort <- function(attempts = 1, deadline = Inf, cap = Inf) list(attempts = attempts, deadline = deadline, cap = cap)

# Hand a piece of a shipment over, or put it away.
lane_deliver <- function(client, lane, piece, effort) {
  waiting <- lapply(batch_cuts(piece$batch, lane$backend$max_events, MAX_BATCH_BYTES), function(cut) piece_slice(piece, cut))
  on.exit(for (left in waiting) lane_put_away(client, lane, left)) # when the user interrupts
  while (length(waiting)) {
    piece <- waiting[[1]]
    result <- if (breaker_allows(lane$breaker)) lane_send(client, lane, piece$batch, effort) else answer("retry")
    waiting <- waiting[-1]
    divisible <- piece$batch$n > 1
    if (result$outcome == "accepted") {
      lane_accepted(client, lane, piece, result)
    } else if (result$outcome == "too_large" && divisible) {
      middle <- piece$batch$n %/% 2
      waiting <- c(list(piece_slice(piece, c(1, middle)), piece_slice(piece, c(middle + 1, piece$batch$n))), waiting)
    } else if (result$outcome %in% c("refused", "too_large")) {
      lane_refuse(client, lane, piece, lapply(seq_len(piece$batch$n), rejection, "", result$detail))
      log_line("error", sprintf("%s refused %d event(s) for good: %s", lane$backend$shown, piece$batch$n, result$detail))
    } else {
      shipment_failed(lane, piece)
      lane_put_away(client, lane, piece)
    }
  }
}

# The answer to the last of the attempts; the breaker knows of it.
lane_send <- function(client, lane, batch, effort) {
  attempts <- if (breaker_is_closed(lane$breaker)) effort$attempts else 1
  for (attempt in seq_len(attempts)) {
    timeout <- min(lane$timeout, effort$cap, max(0.05, effort$deadline - monotonic()))
    result <- tryCatch(suppressWarnings(lane$backend$send(batch, timeout)), error = function(condition) {
      answer("retry", paste("a mistake in the backend:", conditionMessage(condition)))
    })
    if (!result$outcome %in% c("retry", "keep")) {
      lane$error <- NULL
      if (breaker_succeeded(lane$breaker)) log_line("info", paste(lane$backend$shown, "takes events again"))
      return(result)
    }
    if (result$outcome == "keep" || attempt == attempts) break
    pause <- max(result$after, backoff(attempt))
    if (pause > LONGEST_WAIT || monotonic() + pause > effort$deadline) break
    Sys.sleep(pause)
  }
  lane$error <- result$detail
  if (breaker_failed(lane$breaker, result$after) && !client$closing) {
    where <- if (is.null(lane$spool)) "memory" else lane$spool$folder
    log_line("warning", sprintf("%s does not take events (%s); they wait in %s", lane$backend$shown, result$detail, where))
  }
  result
}

lane_accepted <- function(client, lane, piece, result) {
  rejected <- vapply(result$rejected, function(entry) as.numeric(entry$place), 0)
  taken <- setdiff(seq_len(piece$batch$n), rejected)
  if (length(taken)) shipment_resolve(client, lane, piece, taken, "delivered")
  if (length(rejected)) {
    first <- result$rejected[[1]]
    log_line("warning", sprintf("%s refused %d event(s); the first: %s: %s", lane$backend$shown, length(rejected), first$path, first$error))
    if (lane$backend$keeps_rejected) {
      shipment_resolve(client, lane, piece, rejected, "rejected")
    } else {
      lane_refuse(client, lane, piece, result$rejected)
    }
  }
}

# The backend will never take these events: keep them aside, in direct mode with the reason.
lane_refuse <- function(client, lane, piece, rejections) {
  places <- vapply(rejections, function(entry) as.numeric(entry$place), 0)
  if (!is.null(lane$spool)) {
    body <- if (lane$direct) letters_of(lane$name, piece$batch, rejections) else batch_subset(piece$batch, places, 0)$body
    trouble <- spool_set_aside(lane$spool, piece$batch$number + places[1] - 1, body)
    if (nzchar(trouble)) lane_complain(lane, trouble)
  }
  shipment_resolve(client, lane, piece, places, "failed")
}

# Put a piece on disk; without disk hold it in memory, or `final`ly drop it, counted.
lane_put_away <- function(client, lane, piece, final = FALSE) {
  if (!is.null(lane$spool)) {
    trouble <- spool_write(lane$spool, piece$batch)
    if (!nzchar(trouble)) {
      lane$disk_failing <- FALSE
      return(shipment_resolve(client, lane, piece, seq_len(piece$batch$n), "spooled"))
    }
    lane_complain(lane, trouble)
  }
  if (final) return(lane_drop(client, lane, piece))
  lane$held <- c(lane$held, list(piece))
  if (client$settings$queue$on_full == "block") return(invisible())
  excess <- sum(vapply(lane$held, function(each) each$batch$n, 0)) - client$settings$queue$max_events
  while (excess > 0 && length(lane$held)) {
    oldest <- lane$held[[1]]
    over <- min(excess, oldest$batch$n)
    lane$held <- lane$held[-1]
    excess <- excess - over
    lane_drop(client, lane, piece_slice(oldest, c(1, over)))
    if (over < oldest$batch$n) lane$held <- c(list(piece_slice(oldest, c(over + 1, oldest$batch$n))), lane$held)
  }
}

lane_drop <- function(client, lane, piece) {
  reason <- if (is.null(lane$spool)) "undeliverable" else "spool_failed"
  client$last_reason <- reason
  shipment_resolve(client, lane, piece, seq_len(piece$batch$n), "dropped")
}

# Say that the spool folder fails, once until it works again.
lane_complain <- function(lane, trouble) {
  if (!lane$disk_failing) {
    log_line("error", sprintf("can't write to the spool folder %s: %s; check space and rights", lane$spool$folder, trouble))
  }
  lane$disk_failing <- TRUE
}

# Try what could be put nowhere once more.
lane_retry_held <- function(client, lane, effort) {
  held <- lane$held
  lane$held <- list()
  for (piece in held) lane_deliver(client, lane, piece, effort)
}

# ------------------------------------------------------------------------------------------------------------ replaying

# Send what waits on disk: this process's own files, and those that dead processes left; until one fails.
lane_replay <- function(client, lane, effort, files = REPLAY_FILES) {
  lane$has_more <- FALSE
  if (is.null(lane$spool) || !breaker_allows(lane$breaker)) return(invisible())
  waiting <- spool_own(lane$spool)
  if (monotonic() >= lane$next_orphans) {
    lane$next_orphans <- monotonic() + ORPHAN_INTERVAL
    waiting <- c(setdiff(spool_orphans(lane$spool), waiting), waiting)
  }
  for (done in seq_along(waiting)) {
    if (done > files || monotonic() > effort$deadline) {
      lane$has_more <- TRUE
      lane$next_orphans <- monotonic()
      break
    }
    claim <- spool_claim(lane$spool, waiting[done])
    if (!is.null(claim) && !lane_replay_file(client, lane, claim, effort)) break
  }
}

# Send one file; whether the backend took it or will never do.
lane_replay_file <- function(client, lane, claim, effort) {
  settled <- FALSE
  on.exit(if (!settled) spool_release(lane$spool, claim, claim$base))
  whole <- new_batch(claim$body, claim$number, claim$log)
  damaged <- if (lane$direct) damaged_places(whole) else integer() # what no backend could take
  letters <- if (length(damaged)) letters_of(lane$name, whole, lapply(damaged, rejection, "", "the spool file is damaged here")) else raw()
  whole <- batch_subset(whole, setdiff(seq_len(whole$n), damaged), whole$number)
  waiting <- if (whole$n) batch_cuts(whole, lane$backend$max_events, MAX_BATCH_BYTES)
  taken <- 0
  refused <- 0
  effort$attempts <- 1
  while (length(waiting)) {
    cut <- waiting[[1]]
    batch <- batch_slice(whole, cut[1], cut[2])
    result <- lane_send(client, lane, batch, effort)
    if (result$outcome == "too_large" && batch$n > 1) {
      middle <- cut[1] + batch$n %/% 2 - 1
      waiting <- c(list(c(cut[1], middle), c(middle + 1, cut[2])), waiting[-1])
      next
    }
    if (!result$outcome %in% c("accepted", "refused", "too_large")) return(FALSE)
    rejected <- result$rejected
    if (result$outcome != "accepted") {
      log_line("error", sprintf("%s refused %s for good: %s", lane$backend$shown, claim$base, result$detail))
      if (!lane$direct) { # as a whole, for a person to look at
        settled <- TRUE
        spool_release(lane$spool, claim, paste0(claim$base, ".refused"))
        lane_count_replay(client, lane, taken, whole$n - taken, "failed")
        return(TRUE)
      }
      rejected <- lapply(seq_len(batch$n), rejection, "", result$detail)
    }
    if (length(rejected) && !lane$backend$keeps_rejected) letters <- c(letters, letters_of(lane$name, batch, rejected))
    taken <- taken + batch$n - length(rejected)
    refused <- refused + length(rejected)
    waiting <- waiting[-1]
  }
  if (length(letters)) {
    path <- file.path(lane$spool$folder, paste0(claim$base, ".refused"))
    if (nzchar(.Call(mon_write_file, path, paste0(path, ".tmp"), letters))) return(FALSE)
  }
  settled <- TRUE
  spool_release(lane$spool, claim)
  lane_count_replay(client, lane, taken, refused, if (lane$backend$keeps_rejected) "rejected" else "failed")
  if (length(damaged)) {
    path <- file.path(lane$spool$folder, claim$base)
    log_line("warning", sprintf("%d line(s) of %s are damaged; they are kept in %s.refused", length(damaged), path, path))
    lane_count_replay(client, lane, 0, length(damaged), "failed")
  }
  TRUE
}

# The places of lines that are no JSON object, as after damage to a disk.
damaged_places <- function(batch) which(!vapply(batch_texts(batch), is_object_text, NA, USE.NAMES = FALSE))

lane_count_replay <- function(client, lane, taken, refused, verdict) {
  lane$replayed <- lane$replayed + taken
  client$counts[["replayed"]] <- client$counts[["replayed"]] + taken
  if (refused) {
    lane$counts[[verdict]] <- lane$counts[[verdict]] + refused
    client$counts[[verdict]] <- client$counts[[verdict]] + refused
  }
}

# Dead letters: events that a backend refused for good, with the reason, in the form of the sidecar's.
letters_of <- function(backend, batch, rejections) {
  no_text <- rawToChar(as.raw(c(0xEF, 0xBF, 0xBD))) # U+FFFD; a marked one would be translated where the locale is not UTF-8
  texts <- iconv(batch_texts(batch), "UTF-8", "UTF-8", sub = no_text)
  now <- strftime(as.POSIXct(.Call(mon_now), origin = "1970-01-01"), "%Y-%m-%dT%H:%M:%OS3+00:00", tz = "UTC")
  lines <- vapply(rejections, function(entry) {
    text <- texts[entry$place]
    reason <- if (nzchar(entry$path)) paste0(entry$path, ": ", entry$error) else entry$error
    letter <- list(
      dead_at = now, backend = backend, seq = batch$number + entry$place - 1, event_id = event_id_of(text), reason = reason, event = text
    )
    as.character(jsonlite::toJSON(letter, auto_unbox = TRUE, digits = 15))
  }, "")
  charToRaw(enc2utf8(paste0(lines, "\n", collapse = "")))
}

event_id_of <- function(text) {
  found <- regmatches(text, regexec("\"event_id\": ?\"([^\"]*)\"", text))[[1]]
  if (length(found)) found[2] else NA
}
