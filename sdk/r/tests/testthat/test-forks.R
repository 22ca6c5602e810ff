test_that("what forked workers emit is lost, or sent twice", {
  folder <- start_alone()
  emit_event(kind = "log", name = "parent")
  ids <- parallel::mclapply(1:4, function(n) {
    with_monitored_context("work", list(wafer = n), emit_event(kind = "log", name = "child"))
  }, mc.cores = 2)
  expect_length(unique(unlist(ids)), 4)
  job <- parallel::mcparallel(emit_event(kind = "log", name = "job"))
  parallel::mccollect(job)
  events <- spooled(folder)
  names <- table(fields(events, "name"))
  expect_equal(as.list(names), list(child = 4L, job = 1L, parent = 1L, work = 8L))
  expect_length(unique(vapply(events, function(event) event$emitter$id, "")), 4)
  expect_length(unique(fields(events, "event_id")), 14)
})

test_that("workers of a cluster lose what they emit", {
  folder <- tempfile("spool")
  cluster <- parallel::makeCluster(2)
  parallel::clusterExport(cluster, "folder", environment())
  parallel::clusterEvalQ(cluster, {
    monitoring::initialize_monitoring(
      app = c(name = "a", site_id = "s"), sidecar = list(url = "http://127.0.0.1:9", retries = 0, spool_dir = folder)
    )
    NULL
  })
  parallel::parLapply(cluster, 1:10, function(n) monitoring::emit_event(kind = "log", name = "worker"))
  parallel::stopCluster(cluster)
  deadline <- Sys.time() + 30
  count <- function() length(unlist(lapply(list.files(folder, pattern = "jsonl$", full.names = TRUE), readLines)))
  while (count() < 10 && Sys.time() < deadline) Sys.sleep(0.05)
  expect_equal(count(), 10)
})
