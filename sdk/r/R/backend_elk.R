# Documents in Elasticsearch: bulk requests with `op_type=create` and the event's id as the document's, so that an event delivered
# twice stands once. The index template is that of TrackMate's sink.

ELK_READABLE <- "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
ELK_PLACE_IS_WRONG <- c("index_closed_exception", "invalid_index_name_exception", "validation_exception")
ELK_TEMPLATE_NAMES <- c("%Y" = "yyyy", "%m" = "mm", "%d" = "dd", "%H" = "hh", "%G" = "gggg", "%V" = "ww")

BACKENDS$elk <- list(
  judge = function(config) {
    texts <- c("index", "username", "password", "api_key")
    found <- judge_keys(config, c("url", texts, "manage_template", "request_bytes", "connect_timeout", "read_timeout", "tls"), texts)
    for (url in unlist(config[["url"]])) {
      if (!is_text(url) || !is_web_address(url)) found <- c(found, list(problem("url", "expected a URL such as http://localhost:9200")))
    }
    index <- config[["index"]] %||% "monitoring"
    if (is_text(index)) {
      bare <- gsub("%[YmdHGV]", "0", index)
      if (!grepl("^[^-_+A-Z\\\\/*?\"<>| ,#:%][^A-Z\\\\/*?\"<>| ,#:%]{0,254}$", bare)) {
        found <- c(found, list(problem("index", "expected a name in lower case such as monitoring or monitoring-%Y.%m (%Y %m %d %H %G %V)")))
      }
    }
    if (nzchar(config[["api_key"]] %||% "") && nzchar(config[["username"]] %||% "")) {
      found <- c(found, list(problem("api_key", "set either `api_key` or `username` and `password`, not both")))
    }
    found
  },
  make = function(entry, settings, emitter_id) elk_backend(entry$config, entry$base)
)

elk_backend <- function(config, folder) {
  base <- sub("/+$", "", unlist(config[["url"]])[1])
  index <- config[["index"]] %||% "monitoring"
  options <- tls_options(config[["tls"]], folder)
  headers <- list(`Content-Type` = "application/x-ndjson")
  if (nzchar(config[["api_key"]] %||% "")) {
    headers$Authorization <- paste("ApiKey", config[["api_key"]])
  } else if (nzchar(config[["username"]] %||% "")) {
    pair <- paste0(config[["username"]], ":", config[["password"]] %||% "")
    headers$Authorization <- paste("Basic", openssl::base64_encode(charToRaw(enc2utf8(pair))))
  }
  prepared <- identical(config[["manage_template"]], FALSE)
  failed <- function(reply, divisible) {
    detail <- sprintf("%s answered %d: %s", base, reply$status, elk_told(reply))
    if (reply$status %in% c(400, 413)) return(answer(if (divisible) "too_large" else "refused", detail))
    if (reply$status %in% c(408, 429) || reply$status >= 500) return(answer("retry", detail, retry_after(reply$headers[["retry-after"]])))
    advice <- switch(as.character(reply$status),
      "401" = ". The credential is missing, wrong or expired: set `username` and `password`, or `api_key`, anew",
      "403" = ". Give this user or API key create_doc and auto_configure on the index",
      ". Does `url` name a cluster?"
    )
    answer("keep", paste0(detail, advice))
  }
  # Install the index template, unless this version of it or a later one is there; NULL when all is well.
  prepare <- function(deadline) {
    name <- index
    for (directive in names(ELK_TEMPLATE_NAMES)) name <- gsub(directive, ELK_TEMPLATE_NAMES[[directive]], name, fixed = TRUE)
    address <- sprintf("%s/_index_template/trackmate-%s", base, uri_encoded(name))
    template <- jsonlite::fromJSON(system.file("elk-template.json", package = "monitoring", mustWork = TRUE), simplifyVector = FALSE)
    template$index_patterns <- list(gsub("%[YmdHGV]", "*", index))
    reply <- http_request("GET", address, headers[names(headers) == "Authorization"], NULL, max(0.05, deadline - monotonic()), options)
    if (is.character(reply)) return(answer("retry", sprintf("%s can't be reached: %s", base, reply)))
    there <- if (reply$status == 200) json_of(reply$body)$index_templates[[1]]$index_template$version
    if (reply$status == 404 || reply$status == 200 && (there %||% -1) < template$version) {
      json <- headers
      json$`Content-Type` <- "application/json"
      body <- charToRaw(enc2utf8(as.character(jsonlite::toJSON(template, auto_unbox = TRUE, null = "null"))))
      reply <- http_request("PUT", address, json, body, max(0.05, deadline - monotonic()), options)
      if (is.character(reply)) return(answer("retry", sprintf("%s can't be reached: %s", base, reply)))
    }
    if (reply$status >= 200 && reply$status < 300) return(NULL)
    failure <- failed(reply, FALSE)
    if (failure$outcome == "refused") failure <- answer("keep", paste("the index template can't be installed:", failure$detail))
    failure
  }
  list(
    max_events = MAX_BATCH_EVENTS,
    keeps_rejected = FALSE,
    shown = paste("Elasticsearch at", base),
    send = function(batch, timeout) {
      deadline <- monotonic() + timeout
      if (!prepared) {
        failure <- prepare(deadline)
        if (!is.null(failure)) return(failure)
        prepared <<- TRUE
      }
      address <- paste0(base, "/_bulk?filter_path=errors,items.*.status,items.*.error")
      reply <- http_request("POST", address, headers, elk_body(batch, index), max(0.05, deadline - monotonic()), options)
      if (is.character(reply)) return(answer("retry", sprintf("%s can't be reached: %s", base, reply)))
      if (reply$status < 200 || reply$status >= 300) return(failed(reply, batch$n > 1))
      elk_judge(base, reply, batch$n)
    },
    close = function() NULL,
    forget = function() NULL,
    tick = function() NULL
  )
}

elk_body <- function(batch, index) {
  texts <- batch_texts(batch)
  found <- regmatches(texts, regexec("\"timestamp\": ?\"([^\"]*)\"", texts))
  times <- vapply(found, function(parts) if (length(parts)) parts[2] else "", "")
  for (place in which(!grepl(ELK_READABLE, times))) { # a small t or z, which the contract allows and Elasticsearch does not read
    moment <- sub(" ", "T", toupper(times[place]), fixed = TRUE)
    texts[place] <- sub(times[place], sub("([.][0-9]{9})[0-9]+", "\\1", moment), texts[place], fixed = TRUE)
  }
  names <- if (grepl("%", index, fixed = TRUE)) {
    vapply(times, function(time) format(utc_moment(time), index, tz = "UTC"), "")
  } else {
    rep(index, batch$n)
  }
  actions <- sprintf("{\"create\":{\"_index\":\"%s\",\"_id\":\"%s\"}}", names, vapply(texts, event_id_of, "", USE.NAMES = FALSE))
  charToRaw(enc2utf8(paste0(actions, "\n", texts, "\n", collapse = "")))
}

elk_judge <- function(base, reply, events) {
  items <- json_of(reply$body)[["items"]]
  if (length(items) != events) {
    return(answer("retry", sprintf("%s does not answer for each of %d documents: is it Elasticsearch?", base, events)))
  }
  rejected <- list()
  for (place in seq_along(items)) {
    result <- items[[place]][["create"]]
    status <- result[["status"]] %||% 0
    type <- result[["error"]][["type"]] %||% ""
    if (status %in% c(200, 201) || status == 409 && type == "version_conflict_engine_exception") next
    reason <- elk_reason(result[["error"]])
    if (status == 400 && !type %in% ELK_PLACE_IS_WRONG && !grepl("write index", reason, fixed = TRUE)) {
      rejected <- c(rejected, list(rejection(place, "", paste0(type, ": ", reason))))
    } else {
      soon <- status == 429 && type != "cluster_block_exception" || status >= 500
      return(answer(if (soon) "retry" else "keep", sprintf("%s does not take a document now: %s: %s", base, type, reason)))
    }
  }
  answer("accepted", rejected = rejected)
}

elk_reason <- function(error) {
  reasons <- character()
  for (level in 1:4) {
    if (!is.list(error)) break
    reasons <- unique(c(reasons, as.character(error[["reason"]])))
    error <- error[["caused_by"]]
  }
  substr(paste(reasons, collapse = ": "), 1, 500)
}

elk_told <- function(reply) {
  error <- json_of(reply$body)
  error <- if (is_map(error)) error[["error"]]
  reason <- elk_reason(error)
  if (nzchar(reason)) reason else said(reply$body)
}
