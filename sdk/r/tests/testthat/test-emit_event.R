test_that("vectors, lists and what R lacks in JSON arrive as something else", {
  folder <- start_alone()
  emit_event(
    kind = "log", name = "a", timestamp = as.POSIXct(1.5, origin = "1970-01-01", tz = "UTC"),
    attributes = list(
      one = 1L, some = c(1.5, NA, Inf), kept = I("x"), named = c(a = 1, b = 2), none = NULL, missing = NA_character_, empty = list(),
      object = structure(list(), names = character()), day = as.Date("2026-01-31"), level = factor("high"), flag = c(TRUE, NA),
      frame = data.frame(x = 1:2)
    )
  )
  event <- spooled(folder)[[1]]
  expect_equal(event$timestamp, "1970-01-01T00:00:01.500000Z")
  attributes <- event$attributes
  expect_equal(attributes$some, list(1.5, NULL, NULL))
  expect_equal(attributes$kept, list("x"))
  expect_equal(attributes$named, list(a = 1L, b = 2L))
  expect_true("none" %in% names(attributes) && is.null(attributes$none) && is.null(attributes$missing))
  expect_identical(attributes$empty, list())
  expect_identical(attributes$object, structure(list(), names = character()))
  expect_equal(attributes[c("one", "day", "level")], list(one = 1L, day = "2026-01-31", level = "high"))
  expect_equal(attributes$flag, list(TRUE, NULL))
  expect_equal(attributes$frame, list(x = list(1L, 2L)))
})

test_that("metrics that are no numbers are sent, or not named", {
  folder <- start_alone()
  emit_event(kind = "metric", name = "m", metrics = c(good = 1, bad = NA, worse = Inf))
  event <- spooled(folder)[[1]]
  expect_equal(event$metrics, list(good = 1L))
  expect_equal(event$attributes$dropped_metrics, list("bad", "worse"))
})

test_that("text in other encodings arrives damaged", {
  folder <- start_alone()
  latin <- "caf\xe9"
  Encoding(latin) <- "latin1"
  bytes <- "a\xff\xfeb"
  Encoding(bytes) <- "bytes"
  emit_event(kind = "log", name = latin, message = bytes)
  event <- spooled(folder)[[1]]
  expect_equal(event$name, "caf\u00e9")
  expect_equal(event$message, "a\ufffd\ufffdb")
})

test_that("a mistake is not refused at once with its path", {
  start_alone()
  path_of <- function(...) expect_error(emit_event(...), class = "monitoring_invalid_event")$path
  expect_equal(path_of(kind = "log"), "name")
  expect_equal(path_of(name = "a"), "kind")
  expect_equal(path_of(kind = "log", name = "a", colour = "red"), "colour")
  expect_equal(path_of(kind = "log", name = "a", emitter = list()), "emitter")
  expect_equal(path_of(kind = "log", name = "a", progress = 0.5), "progress")
  expect_equal(path_of(kind = "state", name = "a"), "state")
  expect_equal(path_of(kind = "log", name = "a", entities = list(wafer = 7)), "entities.wafer")
  expect_equal(path_of(kind = "metric", name = "a", metrics = list(t = "hot")), "metrics.t")
  expect_equal(path_of(kind = "log", name = "a", timestamp = "2026-02-30T00:00:00Z"), "timestamp")
  expect_equal(path_of(kind = "log", name = "a", attributes = list(deep = list(f = sum))), "attributes.deep.f")
  expect_equal(path_of("log"), "")
})

test_that("an exact integer of bit64 is rounded", {
  folder <- start_alone()
  exact <- structure(readBin(as.raw(c(1, 0, 0, 0, 0, 0, 0x20, 0)), "double", endian = "little"), class = "integer64")
  emit_event(kind = "log", name = "a", attributes = list(n = exact))
  spooled(folder)
  text <- readLines(list.files(folder, pattern = "jsonl$", full.names = TRUE))
  expect_match(text, "\"n\":9007199254740993}", fixed = TRUE)
})

test_that("the program's own random numbers change", {
  set.seed(1)
  expected <- runif(3)
  set.seed(1)
  folder <- start_alone()
  emit_event(kind = "log", name = "a")
  spooled(folder)
  expect_equal(runif(3), expected)
})

test_that("an event before the start is taken", {
  close_monitoring()
  expect_error(emit_event(kind = "log", name = "a"), class = "monitoring_not_initialized")
})

test_that("trouble with delivery becomes trouble of the program", {
  file.create(folder <- tempfile())
  initialize_monitoring(
    app = c(name = "a", site_id = "s"), sidecar = list(url = "http://127.0.0.1:9", spool_dir = folder), queue__batch_size = 2
  )
  on.exit(close_monitoring())
  expect_silent(withCallingHandlers(
    for (n in 1:10) emit_event(kind = "log", name = "a"),
    condition = function(condition) stop("a handler of the program saw ", class(condition)[1])
  ))
  expect_equal(monitoring_stats()$queued, 10)
})
