test_that("the end of the function is not the end of the run", {
  folder <- start_alone()
  measure <- function(early) {
    local_monitored_context("measure", list(wafer = 1))
    if (early) return("early")
    emit_event(kind = "log", name = "inside")
    "late"
  }
  expect_equal(measure(TRUE), "early")
  expect_equal(measure(FALSE), "late")
  events <- spooled(folder)
  expect_equal(fields(events, "kind"), c("start", "finish", "start", "log", "finish"))
  expect_equal(fields(events[c(2, 5)], "status"), c("ok", "ok"))
  expect_null(current_run())
})

test_that("an error leaves the run open or without its message", {
  folder <- start_alone()
  fail <- function() {
    local_monitored_context("measure")
    stop("no plasma")
  }
  expect_error(fail(), "no plasma")
  event <- spooled(folder)[[2]]
  expect_equal(c(event$kind, event$status), c("error", "failed"))
  expect_match(event$error$message, "no plasma")
})

test_that("the user's own on.exit is lost", {
  start_alone()
  order <- character()
  work <- function() {
    on.exit(order <<- c(order, "own"))
    local_monitored_context("work")
    NULL
  }
  work()
  expect_equal(order, "own")
})
