test_that("a mistake is reported alone though there are several", {
  condition <- expect_error(
    initialize_monitoring(list(sdk = list(mode = "sideways", queue = list(batch_size = "many"), app = list(name = "a")))),
    class = "monitoring_configuration_error"
  )
  expect_setequal(vapply(condition$problems, function(each) each$path, ""), c("sdk.mode", "sdk.queue.batch_size", "sdk.app.site_id"))
  expect_match(conditionMessage(condition), "3 problems")
})

test_that("settings of arguments do not win over those of the document", {
  folder <- start_alone(app__name = "other")
  emit_event(kind = "log", name = "a")
  expect_equal(spooled(folder)[[1]]$app$name, "other")
})

test_that("variables, lists and numbers of a file are not read as they are meant", {
  file <- tempfile(fileext = ".yaml")
  writeLines(c(
    "sdk:", "  app: {name: ${NO_SUCH_NAME:-etcher}, version: 1.0, site_id: fab1}", "  sidecar: {spool_dir: spool}",
    "  mode: direct", "  direct_backends:",
    "    - {type: filesystem, config: {path: out}}",
    "    - {type: webhook, priority: 200, config: {url: 'http://h/x', success: [202]}}",
    "    - {type: elk, enabled: false, config: {url: '${NO_SUCH_URL}'}}"
  ), file)
  settings <- monitoring:::load_config(file)
  expect_equal(settings$app$name, "etcher")
  expect_equal(settings$app$version, "1.0")
  expect_equal(settings$sidecar$spool_dir, file.path(dirname(file), "spool"))
  expect_equal(vapply(settings$backends, function(entry) entry$name, ""), c("filesystem", "webhook"))
  expect_equal(settings$backends[[2]]$config$success, list(202L))
})

test_that("a type of backend that R has not is taken", {
  condition <- expect_error(initialize_monitoring(list(sdk = list(
    mode = "direct", app = c(name = "a", site_id = "s"), direct_backends = list(list(type = "zabbix", config = list(url = "http://z")))
  ))), class = "monitoring_configuration_error")
  expect_equal(condition$problems[[1]]$path, "sdk.direct_backends[0].type")
  expect_match(condition$problems[[1]]$message, "sidecar")
})

test_that("a code in a configuration file is run", {
  file <- tempfile(fileext = ".yaml")
  writeLines("sdk: {app: {name: !expr stop('ran'), site_id: s}}", file)
  expect_false(grepl("ran$", tryCatch(monitoring:::load_config(file)$app$name, error = conditionMessage)))
})
