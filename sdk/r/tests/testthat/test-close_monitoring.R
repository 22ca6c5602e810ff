test_that("closing twice, or before the start, fails", {
  close_monitoring()
  start_alone()
  expect_null(close_monitoring())
  expect_null(close_monitoring())
})

test_that("what is held in memory grows without a bound, or its loss is not told", {
  initialize_monitoring(
    app = c(name = "a", site_id = "s"), queue = list(max_events = 20, batch_size = 10, on_full = "drop_oldest"),
    sidecar = list(url = "http://127.0.0.1:9", retries = 0, enable_spooling = FALSE)
  )
  for (n in 1:100) emit_event(kind = "log", name = "a")
  stats <- monitoring_stats()
  expect_lte(stats$queued, 30)
  expect_equal(stats$emitted, stats$dropped + stats$queued)
  close_monitoring()
  expect_equal(monitoring_stats()$queued, 0)
})
