# One HTTP request within a deadline, without redirects and proxies, over the connection that curl keeps.

USER_AGENT <- "monitoring-sdk-r"

# What the server answered: status, headers by lower-case name, body; or one text that says why there is no answer.
http_request <- function(method, url, headers, body, timeout, options = list()) {
  handle <- curl::new_handle()
  milliseconds <- max(1L, as.integer(min(timeout * 1000, 2e9)))
  curl::handle_setopt(handle,
    url = url, customrequest = method, timeout_ms = milliseconds, connecttimeout_ms = milliseconds, followlocation = FALSE,
    nosignal = TRUE, noproxy = "*", http_version = 2L, useragent = USER_AGENT, accept_encoding = NULL
  )
  if (!is.null(body)) curl::handle_setopt(handle, post = TRUE, postfieldsize = length(body), postfields = body, customrequest = method)
  if (.Call(mon_pid) != package$loaded_in) curl::handle_setopt(handle, fresh_connect = TRUE, forbid_reuse = TRUE) # not the parent's
  curl::handle_setopt(handle, .list = c(options, if (is.null(options$cainfo)) authorities()))
  curl::handle_setheaders(handle, .list = c(headers, list(Expect = "")))
  answer <- tryCatch(curl::curl_fetch_memory(url, handle), error = function(condition) conditionMessage(condition))
  if (is.character(answer)) return(if (grepl("imed? ?out", answer)) "it did not answer in time" else answer)
  list(status = answer$status_code, headers = curl::parse_headers_list(answer$headers), body = answer$content)
}

# Whom to trust in place of curl's own list: a variable that the other languages read by OpenSSL, and libcurl does not.
authorities <- function() {
  file <- Sys.getenv("SSL_CERT_FILE")
  if (nzchar(file)) list(cainfo = file)
}

# A `tls` block as options of curl.
tls_options <- function(tls, folder) {
  if (!length(tls)) return(list())
  file <- function(key) if (!is.null(tls[[key]])) absolute_path(tls[[key]], folder)
  options <- list(cainfo = file("ca_file"), sslcert = file("cert_file"), sslkey = file("key_file"))
  if (identical(tls[["verify"]], FALSE)) options <- c(options, list(ssl_verifypeer = FALSE, ssl_verifyhost = 0L))
  Filter(Negate(is.null), options)
}

# The beginning of what a server said, on one line.
said <- function(body, secrets = character()) {
  text <- rawToChar(body[body != as.raw(0)][seq_len(min(400, sum(body != as.raw(0))))])
  text <- iconv(text, "UTF-8", "UTF-8", sub = "?")
  text <- trimws(gsub("\\s+", " ", text))
  for (secret in secrets[nchar(secrets) >= 6]) text <- gsub(secret, "***", text, fixed = TRUE)
  if (nzchar(text)) substr(text, 1, 200) else "nothing"
}

json_of <- function(body) {
  text <- rawToChar(body[body != as.raw(0)])
  Encoding(text) <- "UTF-8"
  tryCatch(jsonlite::fromJSON(text, simplifyVector = FALSE), error = function(condition) NULL)
}

gzipped <- function(body) .Call(mon_gzip, memCompress(body, "gzip"), body)

# What a receiver has to say about a batch. `outcome`: accepted (but for the places in `rejected`), retry (not now), keep (not as
# things are configured), refused (never), too_large (in smaller pieces). `after` is in seconds.
answer <- function(outcome, detail = "", after = 0, rejected = list()) {
  list(outcome = outcome, detail = detail, after = after, rejected = rejected)
}

rejection <- function(place, path, error) list(place = place, path = path, error = error)
