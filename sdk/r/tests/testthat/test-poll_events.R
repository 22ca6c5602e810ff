test_that("what is old enough stays in memory", {
  folder <- start_alone(queue__flush_interval = 0.01)
  emit_event(kind = "log", name = "a")
  deadline <- Sys.time() + 30
  while (!poll_events() && Sys.time() < deadline) Sys.sleep(0.01)
  expect_equal(monitoring_stats()$spooled, 1)
})

test_that("poll before the start is misuse", {
  close_monitoring()
  expect_false(poll_events())
})
