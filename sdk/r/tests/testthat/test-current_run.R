test_that("a run is shown with nothing that helps", {
  start_alone()
  with_monitored_context("etch", expr = expect_output(print(current_run()), "<run 'etch' [0-9a-f-]{36}>"))
  expect_null(current_run())
})
