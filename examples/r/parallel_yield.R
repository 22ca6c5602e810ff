# Yield of many wafers on all cores: forked workers report under the run of their parent, each as an emitter of its own, straight
# to files.
#
#   Rscript parallel_yield.R FOLDER [wafers]

library(monitoring)

arguments <- commandArgs(trailingOnly = TRUE)
wafers <- as.integer(c(arguments[-1], 12)[1])
initialize_monitoring(
  mode = "direct",
  app = list(name = "parallel-yield", site_id = "fab1"),
  sidecar = list(spool_dir = file.path(arguments[1], "spool")),
  direct_backends = list(list(type = "filesystem", config = list(path = file.path(arguments[1], "events"))))
)

yield_of <- function(wafer) {
  local_monitored_context("wafer", list(wafer = wafer))
  set.seed(wafer)
  good <- rbinom(1, 600, 0.93)
  emit_event(kind = "metric", name = "yield", metrics = c(good = good, fraction = good / 600))
  good / 600
}

with_monitored_context("lot", list(lot = "L2301", product = "P7"), {
  yields <- unlist(parallel::mclapply(seq_len(wafers), yield_of, mc.cores = 2))
  emit_event(kind = "metric", name = "lot_yield", metrics = c(mean = mean(yields), worst = min(yields)))
})
close_monitoring()
cat(sprintf("%d wafers, mean yield %.3f\n", length(yields), mean(yields)))
