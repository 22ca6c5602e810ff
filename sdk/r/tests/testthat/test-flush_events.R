test_that("flush says that all is safe though nothing could be kept", {
  initialize_monitoring(app = c(name = "a", site_id = "s"), sidecar = list(url = "http://127.0.0.1:9", retries = 0, enable_spooling = FALSE))
  emit_event(kind = "log", name = "a")
  expect_false(isTRUE(as.logical(flush_events(0.1))))
  close_monitoring()
  expect_equal(monitoring_stats()$dropped, 1)
  expect_equal(monitoring_stats()$dropped_by_reason, list(undeliverable = 1))
})

test_that("spool files break the format of all languages", {
  folder <- start_alone()
  emit_batch(list(list(kind = "log", name = "a"), list(kind = "log", name = "b")))
  expect_true(isTRUE(as.logical(flush_events())))
  files <- list.files(folder)
  expect_match(files, "^[0-9a-f-]{36}[.][0-9]+([.]00000000000000000001[.]jsonl|[.]lock)$")
  expect_length(files, 2)
  close_monitoring()
  expect_length(list.files(folder, pattern = "lock$"), 0)
})

test_that("a process takes its own locks for those of the dead", {
  folder <- start_alone()
  emit_event(kind = "log", name = "a")
  flush_events()
  spool <- monitoring:::new_spool(folder, "01890a5d-ac96-774b-8cce-0000000000aa")
  expect_length(monitoring:::spool_orphans(spool), 0)
  unlink(list.files(folder, pattern = "lock$", full.names = TRUE))
  expect_length(monitoring:::spool_orphans(spool), 1)
})
