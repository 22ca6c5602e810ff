# The sidecar: `POST {url}/v1/ingest/events`.

sidecar_backend <- function(url, token) {
  host <- sub("^https?://(\\[[^]]*\\]|[^/:?]*).*$", "\\1", url)
  is_loopback <- host %in% c("localhost", "[::1]") || startsWith(host, "127.")
  address <- paste0(sub("/+$", "", url), "/v1/ingest/events")
  headers <- list(`Content-Type` = "application/x-ndjson")
  if (nzchar(trimws(token))) headers$Authorization <- paste("Bearer", trimws(token))
  list(
    max_events = MAX_BATCH_EVENTS,
    keeps_rejected = TRUE,
    shown = sprintf("the sidecar at %s", sub("//[^/@]*@", "//", url)),
    send = function(batch, timeout) {
      body <- batch$body
      if (!is_loopback && length(body) > 1400) {
        body <- gzipped(body)
        headers$`Content-Encoding` <- "gzip"
      }
      reply <- http_request("POST", address, headers, body, timeout)
      if (is.character(reply)) return(answer("retry", reply))
      judge_sidecar(reply, batch$n)
    },
    close = function() NULL,
    forget = function() NULL,
    tick = function() NULL
  )
}

judge_sidecar <- function(reply, events) {
  detail <- sprintf("it answered %d: %s", reply$status, said(reply$body))
  status <- reply$status
  if (status >= 200 && status < 300) {
    content <- json_of(reply$body)
    if (!is_map(content) || !is_finite(content[["accepted"]])) { # anything may listen on that port
      return(answer("retry", sprintf("it answered %d with something that is no acknowledgement: %s", status, said(reply$body))))
    }
    rejected <- lapply(content[["rejected"]], function(entry) {
      rejection(as.integer(entry[["index"]] %||% -1L) + 1L, entry[["path"]] %||% "", entry[["error"]] %||% "")
    })
    return(answer("accepted", rejected = Filter(function(entry) entry$place >= 1 && entry$place <= events, rejected)))
  }
  if (status %in% c(408, 425, 429) || status >= 500) return(answer("retry", detail, retry_after(reply$headers[["retry-after"]])))
  if (status == 413) return(answer("too_large", detail))
  answer(if (status %in% c(400, 415, 422)) "refused" else "keep", detail)
}
