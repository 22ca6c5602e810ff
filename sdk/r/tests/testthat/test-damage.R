emitter <- "01890a5d-ac96-774b-8cce-0000000000aa"
reason <- "the spool file is damaged here"

event_line <- function(number) {
  charToRaw(enc2utf8(sprintf("{\"event_id\":\"%d\",\"timestamp\":\"2026-07-01T12:00:00Z\",\"kind\":\"log\",\"name\":\"%s\"}", number, "\u00e9")))
}

# What a lane of direct mode needs: a backend that answers as told and takes what it accepts, and a folder with a file of these lines.
damaged_stage <- function(lines, outcomes = character()) {
  stage <- new.env()
  stage$folder <- tempfile("spool")
  dir.create(stage$folder)
  stage$file <- file.path(stage$folder, sprintf("%s.999999.%020.0f.jsonl", emitter, 7))
  writeBin(unlist(lapply(lines, c, as.raw(10))), stage$file)
  stage$outcomes <- outcomes
  stage$taken <- list()
  backend <- list(max_events = 2, keeps_rejected = FALSE, shown = "it", send = function(batch, timeout) {
    outcome <- c(stage$outcomes, "accepted")[1]
    stage$outcomes <- stage$outcomes[-1]
    if (outcome == "accepted") stage$taken <- c(stage$taken, list(batch$body))
    monitoring:::answer(outcome, "not now")
  })
  spool <- monitoring:::new_spool(stage$folder, "01890a5d-ac96-774b-8cce-0000000000bb")
  stage$lane <- monitoring:::new_lane("b", backend, 5, spool, direct = TRUE)
  stage$client <- new.env()
  stage$client$counts <- c(replayed = 0, failed = 0)
  stage$client$closing <- FALSE
  stage
}

replay <- function(stage) {
  stage$lane$next_orphans <- -Inf
  stage$lane$breaker$failures <- 0
  monitoring:::lane_replay(stage$client, stage$lane, monitoring:::effort(1, monitoring:::monotonic() + 20))
}

kept_aside <- function(stage) {
  files <- list.files(stage$folder, pattern = "[.]refused$", full.names = TRUE)
  lapply(unlist(lapply(files, readLines, encoding = "UTF-8")), jsonlite::fromJSON, simplifyVector = FALSE)
}

whole <- function(...) unlist(lapply(list(...), function(number) c(event_line(number), as.raw(10))))

test_that("a damaged line on disk holds up what waits behind it, or is kept aside twice", {
  damaged <- list(
    as.raw(c(0xFF, 0, 0x20, 0x67)), charToRaw("[1]"), charToRaw("\"text\""), charToRaw("7"),
    charToRaw("{\"event_id\":\"3\",\"timesta"), c(event_line(4), charToRaw("}")), c(charToRaw("{\"name\":\""), as.raw(0), charToRaw("\"}"))
  )
  lines <- c(list(event_line(1)), damaged[1:4], list(event_line(2)), damaged[5:7], list(event_line(5)))
  stage <- damaged_stage(lines, c("accepted", "retry"))
  told <- character()
  before <- options(monitoring.log = function(level, text) told <<- c(told, text))
  on.exit(options(before))
  replay(stage)
  expect_true(file.exists(stage$file))
  stage$taken <- list()
  replay(stage)
  expect_equal(unlist(stage$taken), whole(1, 2, 5))
  expect_length(list.files(stage$folder, pattern = "[.]jsonl(|[.]claimed.*)$"), 0)
  letters <- kept_aside(stage)
  expect_equal(vapply(letters, function(letter) letter$reason, ""), rep(reason, 7))
  expect_equal(vapply(letters, function(letter) letter$seq, 0), c(8:11, 13:15))
  expect_equal(charToRaw(letters[[1]]$event), as.raw(c(rep(c(0xEF, 0xBF, 0xBD), 2), 0x20, 0x67)))
  expect_equal(letters[[6]]$event_id, "4")
  expect_equal(stage$client$counts, c(replayed = 3, failed = 7))
  expect_equal(stage$lane$counts[["failed"]], 7)
  expect_length(grep("7 line(s)", told, fixed = TRUE), 1)
})

test_that("a file that has nothing but damage stays, or is sent", {
  stage <- damaged_stage(list(raw(9), raw()))
  replay(stage)
  expect_length(stage$taken, 0)
  expect_length(list.files(stage$folder, pattern = "[.]jsonl(|[.]claimed.*)$"), 0)
  expect_length(kept_aside(stage), 1)
})

test_that("a sidecar does not get what it would keep in quarantine itself", {
  stage <- damaged_stage(list(event_line(1), charToRaw("[1]"), as.raw(c(0, 0))))
  stage$lane$direct <- FALSE
  replay(stage)
  expect_equal(unlist(stage$taken), c(whole(1), charToRaw("[1]\n"), as.raw(c(0, 0, 10))))
  expect_length(kept_aside(stage), 0)
})
