# A batch: events as the lines that go over the wire or to the disk. `number` is that of the first in the numbering `log`.

MAX_BATCH_EVENTS <- 5000
MAX_BATCH_BYTES <- 1024 * 1024 - 4096

new_batch <- function(body, number, log) {
  ends <- .Call(mon_lines, body)
  list(body = body, ends = ends, n = length(ends), number = number, log = log)
}

batch_starts <- function(batch) c(0, batch$ends[-batch$n])

# The events of these places, under `number` and the following ones.
batch_subset <- function(batch, places, number) {
  if (length(places) == batch$n) return(batch)
  starts <- batch_starts(batch)
  bytes <- unlist(lapply(places, function(place) seq.int(starts[place] + 1, batch$ends[place])))
  new_batch(batch$body[bytes], number, batch$log)
}

batch_slice <- function(batch, from, to) {
  start <- if (from == 1) 0 else batch$ends[from - 1]
  new_batch(batch$body[seq.int(start + 1, batch$ends[to])], batch$number + from - 1, batch$log)
}

# Each event's JSON as text.
batch_texts <- function(batch) {
  body <- batch$body
  body[body == as.raw(0)] <- as.raw(0xFF) # R's text can't hold the one; a line that holds the other is no JSON either
  texts <- strsplit(rawToChar(body), "\n", fixed = TRUE, useBytes = TRUE)[[1]]
  Encoding(texts) <- "UTF-8"
  texts
}

# Whether a line of a batch is a JSON object.
is_object_text <- function(text) {
  validUTF8(text) && grepl("^[ \t\r]*\\{", text) && isTRUE(as.vector(jsonlite::validate(text)))
}

# First and last places of the pieces that keep to these bounds, always the same ones; a single event may be larger.
batch_cuts <- function(batch, max_events, max_bytes) {
  if (batch$n <= max_events && length(batch$body) <= max_bytes) return(list(c(1, batch$n)))
  cuts <- list()
  from <- 1
  starts <- batch_starts(batch)
  for (place in seq_len(batch$n)) {
    if (place > from && (place - from >= max_events || batch$ends[place] - starts[from] > max_bytes)) {
      cuts <- c(cuts, list(c(from, place - 1)))
      from <- place
    }
  }
  c(cuts, list(c(from, batch$n)))
}
