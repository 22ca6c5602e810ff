test_that("a run that ends well is told otherwise, or its value is lost", {
  folder <- start_alone()
  value <- withVisible(with_monitored_context("etch", list(lot = "L1", wafer = 7, note = "x"), invisible(42)))
  expect_equal(value, list(value = 42, visible = FALSE))
  events <- spooled(folder)
  expect_equal(fields(events, "kind"), c("start", "finish"))
  expect_equal(events[[2]]$status, "ok")
  expect_equal(events[[2]]$entities, list(lot = "L1", wafer = "7"))
  expect_equal(events[[2]]$attributes, list(note = "x"))
  expect_null(current_run())
})

test_that("an error comes through changed, or is not told with its calls", {
  folder <- start_alone()
  original <- structure(class = c("chamber_timeout", "error", "condition"), list(message = "no plasma", call = NULL, pressure = 3))
  ignite_plasma <- function() stop(original)
  seen <- tryCatch(with_monitored_context("etch", expr = ignite_plasma()), error = identity)
  expect_identical(seen, original)
  event <- spooled(folder)[[2]]
  expect_equal(event$kind, "error")
  expect_equal(event$status, "failed")
  expect_equal(event$error$type, "chamber_timeout")
  expect_equal(event$error$message, "no plasma")
  expect_match(event$error$stack, "ignite_plasma()", fixed = TRUE)
})

test_that("an error that the block itself catches fails the run", {
  folder <- start_alone()
  with_monitored_context("etch", expr = {
    try(stop("caught"), silent = TRUE)
    tryCatch(log(-1), warning = function(condition) NULL)
  })
  expect_equal(spooled(folder)[[2]]$status, "ok")
})

test_that("warnings and messages are touched", {
  start_alone()
  expect_warning(value <- with_monitored_context("etch", expr = {
    warning("hm")
    1
  }), "hm")
  expect_equal(value, 1)
  expect_message(with_monitored_context("etch", expr = message("hello")), "hello")
})

test_that("an interrupt does not abort the run", {
  folder <- start_alone()
  interrupt <- structure(class = c("interrupt", "condition"), list())
  tryCatch(with_monitored_context("etch", expr = {
    signalCondition(interrupt)
  }), interrupt = function(condition) NULL)
  event <- spooled(folder)[[2]]
  expect_equal(c(event$kind, event$status, event$severity), c("finish", "aborted", "warning"))
})

test_that("return() out of the block fails the run", {
  folder <- start_alone()
  leave <- function() {
    with_monitored_context("etch", expr = return("early"))
    "late"
  }
  expect_equal(leave(), "early")
  expect_equal(spooled(folder)[[2]]$status, "ok")
})

test_that("nested runs do not name their parent or lose their entities", {
  folder <- start_alone()
  with_monitored_context("lot", list(lot = "L1", step = "main"), {
    outer <- current_run()
    with_monitored_context("wafer", c(wafer = "07"), {
      emit_event(kind = "log", name = "inside", entities = c(step = "over"))
    })
    emit_event(kind = "log", name = "between", run_id = "01890a5d-ac96-774b-8cce-000000000002")
  })
  events <- spooled(folder)
  expect_equal(fields(events, "name"), c("lot", "wafer", "inside", "wafer", "between", "lot"))
  expect_equal(events[[3]]$parent_run_id, outer$run_id)
  expect_equal(events[[3]]$entities[order(names(events[[3]]$entities))], list(lot = "L1", step = "over", wafer = "07"))
  expect_null(events[[5]]$parent_run_id)
  expect_null(events[[6]]$parent_run_id)
})

test_that("a wrong name or metadata is noticed only inside", {
  start_alone()
  touched <- FALSE
  expect_error(with_monitored_context("", expr = touched <- TRUE), class = "monitoring_invalid_event")
  expect_error(with_monitored_context("etch", list("L1"), touched <- TRUE), class = "monitoring_invalid_event")
  expect_error(with_monitored_context("etch", list(lot = TRUE), touched <- TRUE), class = "monitoring_invalid_event")
  expect_false(touched)
})
