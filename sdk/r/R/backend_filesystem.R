# JSON Lines in the layout of TrackMate's sink of that name.
#
#   <path>/date=2026-07-01/hour=09/<log>-<first number>.jsonl.open            grows
#   <path>/date=2026-07-01/hour=09/<log>-<first number>-<last number>.jsonl   complete, never touched again
#   <path>/.state/<log>.json                                                  what the files hold, for certain
#   <path>/.state/<log>.lock                                                  its owner holds an exclusive flock on it
#
# The state is the truth: numbers that it covers are passed over when they come again, and what a crash left beyond the recorded
# length is cut off. Whoever writes to the folder next completes the files of owners that are dead.

TIDY_INTERVAL <- 60
STALE_STATE <- 30 * 86400
LOCK_PATIENCE <- 2

BACKENDS$filesystem <- list(
  judge = function(config) {
    found <- judge_keys(config, c("path", "format", "rotate_size_mb", "rotate_seconds"))
    if (identical(config[["format"]], "parquet")) {
      found <- c(found, list(problem("format", "the R SDK writes jsonl; let the sidecar write Parquet")))
    }
    found
  },
  make = function(entry, settings, emitter_id) {
    filesystem_backend(
      absolute_path(entry$config[["path"]], entry$base), emitter_id, (entry$config[["rotate_size_mb"]] %||% 100) * 1048576,
      entry$config[["rotate_seconds"]] %||% 60
    )
  }
)

filesystem_backend <- function(root, own_log, rotate_bytes, rotate_seconds) {
  own <- NULL
  in_doubt <- FALSE
  next_tidying <- 0
  free <- function() {
    if (!is.null(own)) .Call(mon_close, own$fd)
    own <<- NULL
  }
  list(
    max_events = MAX_BATCH_EVENTS,
    keeps_rejected = FALSE,
    shown = paste("the folder", root),
    send = function(batch, timeout) {
      tryCatch({
        if (batch$log == own_log) {
          if (is.null(own)) own <<- log_open(root, own_log, LOCK_PATIENCE)
          log_append(own, batch)
          log_rotate(own, rotate_bytes, rotate_seconds)
        } else {
          log <- log_open(root, batch$log, LOCK_PATIENCE)
          on.exit(.Call(mon_close, log$fd))
          log_append(log, batch)
          log_rotate(log, 0, 0)
        }
        answer("accepted")
      }, monitoring_disk_error = function(condition) {
        in_doubt <<- TRUE
        free()
        answer("retry", conditionMessage(condition))
      })
    },
    tick = function() {
      if (.Call(mon_now) < next_tidying) return(invisible())
      next_tidying <<- .Call(mon_now) + min(TIDY_INTERVAL, rotate_seconds)
      tryCatch({
        if (!is.null(own)) log_rotate(own, rotate_bytes, rotate_seconds)
        log_tidy(root, own_log)
      }, monitoring_disk_error = function(condition) free()) # the next batch meets the same disk and reports it
    },
    close = function() {
      if (!is.null(own)) {
        tryCatch({
          log_rotate(own, 0, 0)
          if (!in_doubt) log_remove(own)
        }, monitoring_disk_error = function(condition) NULL) # then the next process that writes here completes them
      }
      free()
    },
    forget = free
  )
}

disk_error <- function(root, trouble) {
  raise("monitoring_disk_error", sprintf("can't write to %s: %s; check space and rights, or change `path`", root, trouble))
}

# The files of one log, whose lock is ours.
log_open <- function(root, name, patience = 0) {
  log <- new.env(parent = emptyenv())
  log$root <- root
  log$name <- name
  log$lock <- file.path(root, ".state", paste0(name, ".lock"))
  log$state <- file.path(root, ".state", paste0(name, ".json"))
  dir.create(dirname(log$state), recursive = TRUE, showWarnings = FALSE)
  deadline <- monotonic() + patience
  while ((log$fd <- .Call(mon_open_lock, log$lock, TRUE)) == -1L && monotonic() < deadline) Sys.sleep(0.01)
  if (log$fd < 0) disk_error(root, if (log$fd == -1L) "another process writes for the same program" else "its .state folder can't be made")
  tryCatch(log_load(log), error = function(condition) {
    .Call(mon_close, log$fd)
    disk_error(root, sprintf("%s can't be read (%s); move it away", log$state, conditionMessage(condition)))
  })
  log
}

# Read the state, cut the growing files to what it records, and remove those that it doesn't know.
log_load <- function(log) {
  state <- list(covered = list(), open = list())
  if (file.exists(log$state)) state <- jsonlite::fromJSON(log$state, simplifyVector = FALSE)
  log$covered <- lapply(state$covered, function(range) as.numeric(unlist(range)))
  log$open <- lapply(state$open, function(file) lapply(file, as.numeric))
  known <- character()
  for (partition in names(log$open)) {
    path <- log_growing(log, partition, log$open[[partition]]$first)
    known <- c(known, path)
    size <- log$open[[partition]]$size
    if (file.exists(path) && file.size(path) > size) .Call(mon_append_file, path, size, raw())
  }
  here <- Sys.glob(file.path(log$root, "date=*", "hour=*", paste0(log$name, "-*.jsonl.open")))
  unlink(setdiff(here, known))
}

log_growing <- function(log, partition, first) {
  file.path(log$root, partition, sprintf("%s-%020.0f.jsonl.open", log$name, first))
}

# Append what of the batch is not there yet; afterwards its numbers count as covered.
log_append <- function(log, batch) {
  numbers <- batch$number + seq_len(batch$n) - 1
  fresh <- !vapply(numbers, function(number) any(vapply(log$covered, function(range) range[1] <= number && number <= range[2], NA)), NA)
  open <- log$open
  if (any(fresh)) {
    partitions <- batch_partitions(batch)
    for (partition in unique(partitions[fresh])) {
      places <- which(fresh & partitions == partition)
      body <- batch_subset(batch, places, 0)$body
      file <- open[[partition]] %||% list(first = numbers[places[1]], last = 0, size = 0, since = .Call(mon_now))
      path <- log_growing(log, partition, file$first)
      dir.create(dirname(path), recursive = TRUE, showWarnings = FALSE)
      size <- if (file.exists(path)) min(file.size(path), file$size) else 0
      trouble <- .Call(mon_append_file, path, size, body)
      if (!nzchar(trouble) && file$last == 0) trouble <- .Call(mon_sync_folder, path)
      if (nzchar(trouble)) disk_error(log$root, trouble)
      file$size <- size + length(body)
      file$last <- max(file$last, numbers[places[length(places)]])
      open[[partition]] <- file
    }
  }
  log_store(log, range_added(log$covered, numbers[1], numbers[batch$n]), open)
}

# Complete the growing files that are large or old enough.
log_rotate <- function(log, rotate_bytes, rotate_seconds) {
  now <- .Call(mon_now)
  done <- Filter(function(partition) {
    file <- log$open[[partition]]
    file$size >= rotate_bytes || now - file$since >= rotate_seconds
  }, names(log$open))
  for (partition in done) {
    file <- log$open[[partition]]
    complete <- file.path(log$root, partition, sprintf("%s-%020.0f-%020.0f.jsonl", log$name, file$first, file$last))
    .Call(mon_rename, log_growing(log, partition, file$first), complete)
    .Call(mon_sync_folder, complete)
  }
  if (length(done)) log_store(log, log$covered, log$open[setdiff(names(log$open), done)])
}

log_store <- function(log, covered, open) {
  ranges <- paste(vapply(covered, function(range) sprintf("[%.0f,%.0f]", range[1], range[2]), ""), collapse = ",")
  files <- vapply(names(open), function(partition) {
    file <- open[[partition]]
    sprintf("\"%s\":{\"first\":%.0f,\"last\":%.0f,\"size\":%.0f,\"since\":%.6f}", partition, file$first, file$last, file$size, file$since)
  }, "")
  text <- sprintf("{\"covered\":[%s],\"open\":{%s}}", ranges, paste(files, collapse = ","))
  trouble <- .Call(mon_write_file, log$state, paste0(log$state, ".tmp"), charToRaw(text))
  if (nzchar(trouble)) disk_error(log$root, trouble)
  log$covered <- covered
  log$open <- open
}

# Complete what dead processes left growing, and forget them in the end.
log_tidy <- function(root, own_log) {
  for (lock in Sys.glob(file.path(root, ".state", "*.lock"))) {
    name <- sub("\\.lock$", "", basename(lock))
    if (name == own_log) next
    log <- tryCatch(log_open(root, name), monitoring_disk_error = function(condition) NULL)
    if (is.null(log)) next
    log_rotate(log, 0, 0)
    changed <- file.mtime(log$state)
    if (is.na(changed) || .Call(mon_now) - as.numeric(changed) > STALE_STATE) log_remove(log)
    .Call(mon_close, log$fd)
  }
}

log_remove <- function(log) unlink(c(log$state, log$lock))

# Closed ranges in order, none touching the next, with one more put in.
range_added <- function(ranges, first, last) {
  touching <- vapply(ranges, function(range) range[2] >= first - 1 && range[1] <= last + 1, NA)
  merged <- range(c(first, last, unlist(ranges[touching])))
  all <- c(ranges[!touching], list(merged))
  all[order(vapply(all, function(range) range[1], 0))]
}

# The folder of each event, from its timestamp in UTC: `date=2026-07-01/hour=09`.
batch_partitions <- function(batch) {
  texts <- batch_texts(batch)
  found <- regmatches(texts, regexec("\"timestamp\": ?\"([^\"]*)\"", texts))
  vapply(found, function(parts) utc_hour(if (length(parts)) parts[2] else ""), "")
}

utc_hour <- function(timestamp) {
  if (grepl("^[0-9-]{10}T[0-9]{2}.*Z$", timestamp)) {
    return(sprintf("date=%s/hour=%s", substr(timestamp, 1, 10), substr(timestamp, 12, 13)))
  }
  moment <- utc_moment(timestamp)
  if (is.na(moment)) "date=unknown/hour=00" else format(moment, "date=%Y-%m-%d/hour=%H", tz = "UTC")
}

utc_moment <- function(timestamp) {
  text <- sub(" ", "T", toupper(timestamp), fixed = TRUE)
  moment <- as.POSIXct(substr(text, 1, 19), format = "%Y-%m-%dT%H:%M:%S", tz = "UTC")
  offset <- regmatches(text, regexec("([+-])([0-9]{2}):([0-9]{2})$", text))[[1]]
  if (length(offset)) {
    seconds <- (as.numeric(offset[3]) * 60 + as.numeric(offset[4])) * 60
    moment <- moment - if (offset[2] == "-") -seconds else seconds
  }
  moment
}
