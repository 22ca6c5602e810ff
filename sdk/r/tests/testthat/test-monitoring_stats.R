test_that("the counts do not add up", {
  start_alone()
  for (n in 1:7) emit_event(kind = "log", name = "a")
  expect_equal(monitoring_stats()$queued, 7)
  flush_events()
  stats <- monitoring_stats()
  expect_equal(stats$emitted, stats$sent + stats$rejected + stats$spooled + stats$failed + stats$dropped + stats$queued)
  expect_equal(stats$backends$sidecar$spooled, 7)
})
