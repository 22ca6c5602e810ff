test_that("progress has no run, or a wrong one is taken", {
  folder <- start_alone()
  with_monitored_context("etch", list(lot = "L1"), {
    run <- current_run()
    report_progress(0.5, "half")
    report_progress(1 + 1e-12)
    expect_error(report_progress(1.5), class = "monitoring_invalid_event")
  })
  expect_error(report_progress(0.5), class = "monitoring_invalid_event")
  events <- spooled(folder)
  expect_equal(events[[2]][c("kind", "name", "progress", "message", "run_id")], list(
    kind = "progress", name = "etch", progress = 0.5, message = "half", run_id = run$run_id
  ))
  expect_equal(events[[3]]$progress, 1)
})
