# Any HTTP endpoint: events as JSON Lines, as a JSON array, or one a request.
#
# Every request has an `Idempotency-Key` that is the same when the same events are sent again. With a `secret`, the header
# `X-TrackMate-Signature` is `v1=` and the HMAC-SHA256, in hex, of the header `X-TrackMate-Timestamp` (seconds since 1970), a dot and
# the body as it was sent.

WEBHOOK_TYPES <- c(ndjson = "application/x-ndjson", array = "application/json", event = "application/json")
WEBHOOK_RESERVED <- c(
  "host", "content-length", "content-encoding", "transfer-encoding", "connection", "idempotency-key", "x-trackmate-signature",
  "x-trackmate-timestamp"
)
# Statuses 4xx that are about the endpoint, the credential or the moment; all others are about what was sent.
WEBHOOK_TRY_AGAIN <- c(401:411, 415, 421, 423:426, 429, 451)
WEBHOOK_SOON <- c(408, 409, 423, 424, 425, 429)

BACKENDS$webhook <- list(
  judge = function(config) {
    known <- c(
      "url", "method", "body", "headers", "secret", "max_events", "parallel", "success", "compression", "allow_private",
      "connect_timeout", "read_timeout", "tls"
    )
    found <- judge_keys(config, known, "secret")
    if (is_text(config[["url"]]) && (!is_web_address(config[["url"]]) || grepl("#", config[["url"]], fixed = TRUE))) {
      found <- c(found, list(problem("url", "expected an http:// or https:// address without a name, a password or a # in it")))
    }
    if (identical(config[["body"]], "template")) found <- c(found, list(problem("body", "the R SDK knows ndjson, array and event; let the sidecar fill templates")))
    headers <- if (is_map(config[["headers"]])) config[["headers"]] else list()
    for (name in names(headers)) {
      value <- headers[[name]]
      sound <- is_text(value) && grepl("^[ -~]*$", value) && !grepl("${", value, fixed = TRUE)
      if (!sound || tolower(name) %in% WEBHOOK_RESERVED || !grepl("^[A-Za-z0-9_-]+$", name)) {
        found <- c(found, list(problem(paste0("headers.", name), "expected a header of your own, in one line of ASCII without placeholders")))
      }
    }
    found
  },
  make = function(entry, settings, emitter_id) webhook_backend(entry$config, entry$base)
)

webhook_backend <- function(config, folder) {
  url <- config[["url"]]
  place <- sub("^(https?://[^/?]*).*$", "\\1", url) # its path and query are shown nowhere: many a service has its key in them
  form <- config[["body"]] %||% "ndjson"
  secret <- config[["secret"]] %||% ""
  success <- unlist(config[["success"]])
  secrets <- c(sub("^https?://[^/?]*", "", url), secret, unlist(config[["headers"]]), sub("^.* ", "", unlist(config[["headers"]])))
  options <- tls_options(config[["tls"]], folder)
  request <- function(batch) {
    body <- switch(form,
      event = batch$body[-length(batch$body)],
      array = {
        joined <- batch$body
        joined[batch$ends] <- charToRaw(",")
        c(charToRaw("["), joined[-length(joined)], charToRaw("]"))
      },
      batch$body
    )
    key <- if (form == "event") {
      event_id_of(batch_texts(batch))
    } else {
      start <- charToRaw(sprintf("%s %.0f %.0f ", batch$log, batch$number, batch$number + batch$n - 1))
      substr(hex(openssl::sha256(c(start, batch$body))), 1, 32)
    }
    headers <- list(`Content-Type` = WEBHOOK_TYPES[[form]], `Idempotency-Key` = key)
    for (name in names(config[["headers"]])) {
      headers <- headers[tolower(names(headers)) != tolower(name)]
      headers[[name]] <- config[["headers"]][[name]]
    }
    if (identical(config[["compression"]], "gzip")) {
      body <- gzipped(body)
      headers$`Content-Encoding` <- "gzip"
    }
    if (nzchar(secret)) {
      time <- sprintf("%.0f", floor(.Call(mon_now)))
      signature <- openssl::sha256(c(charToRaw(paste0(time, ".")), body), key = charToRaw(enc2utf8(secret)))
      headers$`X-TrackMate-Timestamp` <- time
      headers$`X-TrackMate-Signature` <- paste0("v1=", hex(signature))
    }
    list(body = body, headers = headers)
  }
  list(
    max_events = if (form == "event") 1 else config[["max_events"]] %||% 100,
    keeps_rejected = FALSE,
    shown = place,
    send = function(batch, timeout) {
      pinned <- if (isTRUE(config[["allow_private"]])) list() else public_address(url)
      if (is.character(pinned)) return(answer("keep", sprintf("%s: %s", place, pinned)))
      made <- request(batch)
      reply <- http_request(config[["method"]] %||% "POST", url, made$headers, made$body, timeout, c(options, pinned))
      if (is.character(reply)) return(answer("retry", sprintf("%s: %s", place, reply)))
      status <- reply$status
      if (if (length(success)) status %in% success else status >= 200 && status < 300) return(answer("accepted"))
      detail <- sprintf("%s answered %d: %s", place, status, said(reply$body, secrets))
      after <- retry_after(reply$headers[["retry-after"]])
      if (status >= 500 || status %in% WEBHOOK_SOON) return(answer("retry", detail, after))
      if (status < 400 || status %in% WEBHOOK_TRY_AGAIN) return(answer("keep", detail, after))
      if (batch$n > 1) return(answer("too_large", detail)) # halved until the culprits stand alone
      answer("accepted", rejected = list(rejection(1, "", detail)))
    },
    close = function() NULL,
    forget = function() NULL,
    tick = function() NULL
  )
}

# Options that pin the connection to an address of the host that anybody may use; a text when it has none.
public_address <- function(url) {
  host <- gsub("^https?://(\\[[^]]*\\]|[^/:?]*).*$", "\\1", url)
  port <- sub("^https?://(?:\\[[^]]*\\]|[^/:?]*):([0-9]+).*$", "\\1", url, perl = TRUE)
  if (!grepl("^[0-9]+$", port)) port <- if (startsWith(url, "https:")) "443" else "80"
  bare <- gsub("[][]", "", host)
  addresses <- if (grepl(":", bare, fixed = TRUE) || grepl("^[0-9.]+$", bare)) bare else curl::nslookup(bare, multiple = TRUE, error = FALSE)
  if (is.null(addresses)) return("its name can't be resolved")
  private <- paste0(
    "^(0\\.|10\\.|127\\.|169\\.254\\.|192\\.168\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|100\\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\\.",
    "|2(2[4-9]|[34][0-9]|5[0-5])\\.|::|f[cd]|fe[89ab]|ff|64:ff9b)"
  )
  public <- addresses[!grepl(private, tolower(addresses))]
  if (!length(public)) return("is an address of this host or of a private network: set `allow_private: true` if that is meant")
  if (bare %in% public) list() else list(resolve = sprintf("%s:%s:%s", host, port, paste(public, collapse = ",")))
}
