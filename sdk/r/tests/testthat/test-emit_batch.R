test_that("one wrong event does not refuse its batch", {
  folder <- start_alone()
  condition <- expect_error(
    emit_batch(list(list(kind = "log", name = "a"), list(kind = "metric", name = "b", metrics = list(t = "hot")))),
    class = "monitoring_invalid_event"
  )
  expect_equal(condition$path, "[1].metrics.t")
  expect_length(emit_batch(list(list(kind = "log", name = "c"))), 1)
  expect_length(emit_batch(list()), 0)
  events <- spooled(folder)
  expect_equal(fields(events, "name"), "c")
  expect_equal(events[[1]]$emitter$seq, 1)
})

test_that("the rows of a data frame are other events", {
  folder <- start_alone()
  emit_batch(data.frame(
    kind = "metric", name = "chuck", entities.wafer = c("1", "2"), metrics.bow = c(0.25, NA), stringsAsFactors = TRUE
  ))
  events <- spooled(folder)
  expect_equal(events[[1]]$entities, list(wafer = "1"))
  expect_equal(events[[1]]$metrics, list(bow = 0.25))
  expect_null(events[[2]]$metrics)
})
