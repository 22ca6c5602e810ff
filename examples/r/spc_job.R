# A statistics job: control limits of a day's wafers, a run a tool, a progress a lot, a metric a chart, an error for data that
# can't be used.
#
#   Rscript spc_job.R [lots]

library(monitoring)

lots <- as.integer(c(commandArgs(trailingOnly = TRUE), 5)[1])
initialize_monitoring(app = list(name = "spc-job", version = "1.4", site_id = "fab1"))

# Individuals and moving range: limits at 2.66 mean moving ranges (Montgomery, Introduction to Statistical Quality Control).
control_limits <- function(values) {
  if (anyNA(values)) stop("a wafer has no thickness")
  centre <- mean(values)
  c(lower = centre - 2.66 * mean(abs(diff(values))), centre = centre, upper = centre + 2.66 * mean(abs(diff(values))))
}

chart_tool <- function(tool) {
  with_monitored_context("chart", list(tool = tool, recipe = "OX-12", window = "1 day"), {
    limits <- NULL
    for (lot in seq_len(lots)) {
      thickness <- round(rnorm(25, mean = 100, sd = 0.8), 2)
      if (tool == "CVD-03" && lot == lots) thickness[7] <- NA
      limits <- control_limits(thickness)
      outside <- sum(thickness < limits[["lower"]] | thickness > limits[["upper"]])
      emit_event(
        kind = "metric", name = "thickness", entities = list(lot = sprintf("L%04d", lot)), metrics = c(limits, outside = outside)
      )
      report_progress(lot / lots)
    }
    limits
  })
}

set.seed(20260701)
for (tool in c("CVD-01", "CVD-02", "CVD-03")) {
  # The error is reported by the context, and still is the program's to handle.
  tryCatch(chart_tool(tool), error = function(condition) cat(tool, "has no chart:", conditionMessage(condition), "\n"))
}

safe <- isTRUE(as.logical(flush_events(10)))
stats <- monitoring_stats()
cat(sprintf("safe %s, emitted %d, sent %d, on disk %d\n", safe, as.integer(stats$emitted), as.integer(stats$sent), as.integer(stats$spooled)))
