# JSON Lines objects in Amazon S3 and compatible stores.
#
#   <prefix>date=2026-07-01/hour=09/<emitter id>.<backend>-<first number>-<last number>.jsonl.gz
#
# The hour is UTC, by the event's own timestamp. A batch delivered twice writes the same objects again.

S3_BUSY <- c("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted")
S3_ADVICE <- c(
  NoSuchBucket = "make the bucket, or set `bucket` (and `region` or `endpoint_url`) to one that exists",
  InvalidAccessKeyId = "the key is not known there: set `credentials.access_key_id` anew",
  SignatureDoesNotMatch = "the secret is wrong: set `credentials.secret_access_key` anew",
  ExpiredToken = "the key is over: set `credentials` anew",
  AccessDenied = "give the key s3:PutObject below the prefix",
  RequestTimeTooSkewed = "this machine's clock is wrong: set it",
  AuthorizationHeaderMalformed = "set `region` to the bucket's",
  PermanentRedirect = "set `region` to the bucket's"
)

BACKENDS$s3 <- list(
  judge = function(config) {
    texts <- c("bucket", "prefix", "format", "compression", "region", "endpoint_url")
    found <- judge_keys(config, c(texts, "credentials", "tls"), texts)
    if (!(config[["format"]] %||% "jsonl") %in% "jsonl") found <- c(found, list(problem("format", "the R SDK writes jsonl; let the sidecar write Parquet")))
    if (!(config[["compression"]] %||% "gzip") %in% c("gzip", "none")) {
      found <- c(found, list(problem("compression", "the R SDK knows gzip and none; let the sidecar write zstd")))
    }
    endpoint <- config[["endpoint_url"]]
    if (is_text(endpoint) && !is_web_address(endpoint)) found <- c(found, list(problem("endpoint_url", "expected a URL such as http://localhost:9000")))
    credentials <- config[["credentials"]] %||% list()
    if (!is_map(credentials)) return(c(found, list(problem("credentials", "expected a mapping"))))
    keys <- c("access_key_id", "secret_access_key", "session_token")
    inner <- judge_keys(credentials, keys, keys)
    found <- c(found, lapply(inner, function(each) problem(paste0("credentials.", each$path), each$message)))
    resolved <- s3_credentials(credentials)
    if (!nzchar(resolved$key) || !nzchar(resolved$secret)) {
      message <- "set both access_key_id and secret_access_key, here or as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
      found <- c(found, list(problem("credentials", message)))
    }
    found
  },
  make = function(entry, settings, emitter_id) s3_backend(entry$name, entry$config, entry$base)
)

s3_credentials <- function(given) {
  text <- function(key) as.character(given[[key]] %||% "")
  if (!nzchar(text("access_key_id")) && !nzchar(text("secret_access_key"))) {
    return(list(
      key = Sys.getenv("AWS_ACCESS_KEY_ID"), secret = Sys.getenv("AWS_SECRET_ACCESS_KEY"), token = Sys.getenv("AWS_SESSION_TOKEN")
    ))
  }
  list(key = text("access_key_id"), secret = text("secret_access_key"), token = text("session_token"))
}

s3_backend <- function(name, config, folder) {
  options <- tls_options(config[["tls"]], folder)
  bucket <- config[["bucket"]]
  region <- config[["region"]] %||% Sys.getenv("AWS_REGION", "us-east-1")
  prefix <- sub("/*$", "/", config[["prefix"]] %||% "events/")
  packed <- (config[["compression"]] %||% "gzip") == "gzip"
  credentials <- s3_credentials(config[["credentials"]] %||% list())
  amazon <- sprintf("s3.%s.amazonaws.com", region)
  base <- if (!is.null(config[["endpoint_url"]])) {
    sprintf("%s/%s/", sub("/+$", "", config[["endpoint_url"]]), bucket)
  } else if (grepl(".", bucket, fixed = TRUE)) {
    sprintf("https://%s/%s/", amazon, bucket)
  } else {
    sprintf("https://%s.%s/", bucket, amazon)
  }
  place <- sub("^https?://([^/]*)/.*$", "\\1", base)
  judge <- function(reply) {
    text <- rawToChar(reply$body[reply$body != as.raw(0)])
    code <- regmatches(text, regexec("<Code>([A-Za-z0-9]+)</Code>", text))[[1]][2]
    told <- if (is.na(code)) "" else paste0(" ", code, ": ", if (code %in% names(S3_ADVICE)) S3_ADVICE[[code]] else said(charToRaw(sub(".*<Message>([^<]{0,300}).*", "\\1", text))))
    detail <- sprintf("bucket '%s' at %s answered %d%s", bucket, place, reply$status, told)
    busy <- reply$status >= 500 || reply$status %in% c(408, 429) || code %in% S3_BUSY
    if (busy) answer("retry", detail, retry_after(reply$headers[["retry-after"]])) else answer("keep", detail)
  }
  list(
    max_events = MAX_BATCH_EVENTS,
    keeps_rejected = FALSE,
    shown = sprintf("bucket '%s' at %s", bucket, place),
    send = function(batch, timeout) {
      deadline <- monotonic() + timeout
      partitions <- batch_partitions(batch)
      for (partition in unique(partitions)) {
        places <- which(partitions == partition)
        numbers <- batch$number + range(places) - 1
        body <- batch_subset(batch, places, 0)$body
        key <- sprintf(
          "%s%s/%s.%s-%020.0f-%020.0f.jsonl%s", prefix, partition, batch$log, name, numbers[1], numbers[2], if (packed) ".gz" else ""
        )
        if (packed) body <- gzipped(body)
        url <- paste0(base, uri_encoded(key, keep_slashes = TRUE))
        headers <- sigv4("PUT", url, body, credentials, region, "s3", .Call(mon_now))
        headers$`Content-Type` <- if (packed) "application/gzip" else "application/x-ndjson"
        reply <- http_request("PUT", url, headers, body, max(0.05, deadline - monotonic()), options)
        if (is.character(reply)) return(answer("retry", sprintf("S3 at %s can't be reached: %s", place, reply)))
        if (reply$status < 200 || reply$status >= 300) return(judge(reply))
      }
      answer("accepted")
    },
    close = function() NULL,
    forget = function() NULL,
    tick = function() NULL
  )
}

# The headers to add for AWS Signature Version 4 (AWS General Reference); the request has no query, and its host is signed too.
sigv4 <- function(method, url, body, credentials, region, service, now) {
  moment <- as.POSIXct(now, origin = "1970-01-01", tz = "UTC")
  time <- format(moment, "%Y%m%dT%H%M%SZ", tz = "UTC")
  day <- substr(time, 1, 8)
  hash <- hex(openssl::sha256(body))
  signed <- list(host = sub("^https?://([^/]*)/.*$", "\\1", url), `x-amz-content-sha256` = hash, `x-amz-date` = time)

  if (nzchar(credentials$token)) signed$`x-amz-security-token` <- credentials$token
  names <- paste(names(signed), collapse = ";")
  lines <- paste0(names(signed), ":", unlist(signed), "\n", collapse = "")
  canonical <- paste0(method, "\n", sub("^https?://[^/]*", "", url), "\n\n", lines, "\n", names, "\n", hash)
  scope <- paste(day, region, service, "aws4_request", sep = "/")
  text <- paste("AWS4-HMAC-SHA256", time, scope, hex(openssl::sha256(charToRaw(canonical))), sep = "\n")
  key <- charToRaw(paste0("AWS4", credentials$secret))
  for (part in c(day, region, service, "aws4_request")) key <- unclass(openssl::sha256(charToRaw(part), key = key))
  signature <- hex(openssl::sha256(charToRaw(text), key = as.raw(key)))
  headers <- signed[names(signed) != "host"]
  headers$Authorization <- sprintf(
    "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", credentials$key, scope, names, signature
  )
  headers
}

hex <- function(hash) paste(format(as.hexmode(as.integer(unclass(hash))), width = 2), collapse = "")

# Text percent-encoded as the signature wants it.
uri_encoded <- function(text, keep_slashes = FALSE) {
  bytes <- charToRaw(enc2utf8(text))
  letters <- rawToChar(bytes, multiple = TRUE)
  plain <- grepl(if (keep_slashes) "^[A-Za-z0-9._~/-]$" else "^[A-Za-z0-9._~-]$", letters, useBytes = TRUE)
  letters[!plain] <- sprintf("%%%02X", as.integer(bytes[!plain]))
  paste(letters, collapse = "")
}
