test_that("files have another layout than TrackMate's sink", {
  folder <- tempfile("out")
  initialize_monitoring(
    mode = "direct", app = c(name = "a", site_id = "s"), sidecar = list(spool_dir = tempfile("spool")),
    direct_backends = list(list(type = "filesystem", config = list(path = folder)))
  )
  emit_batch(list(
    list(kind = "log", name = "a", timestamp = "2026-07-01T09:59:59Z"),
    list(kind = "log", name = "b", timestamp = "2026-07-01T10:30:00.5+01:00"),
    list(kind = "log", name = "c", timestamp = "2026-07-01T10:00:00Z")
  ))
  expect_true(isTRUE(as.logical(flush_events())))
  expect_length(list.files(folder, pattern = "[.]open$", recursive = TRUE), 2)
  close_monitoring()
  files <- list.files(folder, recursive = TRUE, all.files = TRUE)
  expect_match(files, "^date=2026-07-01/hour=(09/[0-9a-f-]{36}-0{19}1-0{19}2|10/[0-9a-f-]{36}-0{19}3-0{19}3)[.]jsonl$")
  expect_length(files, 2)
})

test_that("a batch that comes again stands twice, or what a crash left stays", {
  folder <- tempfile("out")
  log <- "01890a5d-ac96-774b-8cce-0000000000aa"
  line <- function(n) sprintf("{\"event_id\":\"%d\",\"timestamp\":\"2026-07-01T09:00:00Z\"}\n", n)
  batch <- monitoring:::new_batch(charToRaw(paste0(line(1), line(2))), 1, log)
  write_once <- function() {
    backend <- monitoring:::filesystem_backend(folder, log, 1e9, 1e9)
    expect_equal(backend$send(batch, 5)$outcome, "accepted")
    backend$forget()
  }
  write_once()
  file <- list.files(folder, pattern = "open$", recursive = TRUE, full.names = TRUE)
  cat("torn", file = file, append = TRUE)
  write_once()
  expect_equal(readLines(file), sub("\n", "", c(line(1), line(2))))
})

test_that("a signed request lacks what Amazon asks for", {
  signed <- monitoring:::sigv4(
    "GET", "https://examplebucket.s3.amazonaws.com/test.txt", raw(),
    list(key = "AKIAIOSFODNN7EXAMPLE", secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", token = ""), "us-east-1", "s3", 1369353600
  )
  expect_equal(signed$`x-amz-date`, "20130524T000000Z")
  expect_equal(signed$`x-amz-content-sha256`, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  expect_match(signed$Authorization, "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=[0-9a-f]{64}$")
  expect_equal(monitoring:::uri_encoded("a b/\u00e9=~", keep_slashes = TRUE), "a%20b/%C3%A9%3D~")
})

test_that("a webhook goes to an address of this host though nobody allowed it", {
  expect_match(monitoring:::public_address("http://127.0.0.1:8080/x"), "allow_private")
  expect_match(monitoring:::public_address("http://[::1]/x"), "allow_private")
  expect_match(monitoring:::public_address("http://10.1.2.3/x"), "allow_private")
  expect_equal(monitoring:::public_address("http://93.184.216.34/x"), list())
})

test_that("what Elasticsearch says of each document is misread", {
  items <- '{"items":[{"create":{"status":201}},{"create":{"status":409,"error":{"type":"version_conflict_engine_exception"}}},
    {"create":{"status":400,"error":{"type":"document_parsing_exception","reason":"bad"}}}]}'
  result <- monitoring:::elk_judge("e", list(body = charToRaw(items)), 3)
  expect_equal(result$outcome, "accepted")
  expect_equal(vapply(result$rejected, function(entry) entry$place, 0L), 3L)
  busy <- monitoring:::elk_judge("e", list(body = charToRaw('{"items":[{"create":{"status":429,"error":{"type":"x"}}}]}')), 1)
  expect_equal(busy$outcome, "retry")
})

test_that("a cluster without a password can't be asked for its template", {
  backend <- monitoring:::elk_backend(list(url = "http://127.0.0.1:9"), ".")
  batch <- monitoring:::new_batch(charToRaw("{\"event_id\":\"1\",\"timestamp\":\"2026-07-01T09:00:00Z\"}\n"), 1, "log")
  result <- backend$send(batch, 5)
  expect_equal(result$outcome, "retry")
  expect_match(result$detail, "can't be reached")
})

test_that("gzip can't be unpacked by others", {
  data <- charToRaw(strrep("event ", 1000))
  file <- tempfile()
  writeBin(monitoring:::gzipped(data), file)
  connection <- gzfile(file, "rb")
  on.exit(close(connection))
  expect_equal(readBin(connection, "raw", 10000), data)
})
