# Checks a configuration against the JSON Schema that all languages share, and names every mistake.

config_schema <- local({
  loaded <- NULL
  function() {
    if (is.null(loaded)) {
      file <- system.file("config.schema.json", package = "monitoring", mustWork = TRUE)
      loaded <<- jsonlite::fromJSON(file, simplifyVector = FALSE)
    }
    loaded
  }
})

is_map <- function(value) is.list(value) && (!is.null(names(value)) || length(value) == 0)
is_array <- function(value) is.list(value) && is.null(names(value))
is_one <- function(value) is.atomic(value) && length(value) == 1 && !is.na(value)
is_text <- function(value) is.character(value) && is_one(value)
is_finite <- function(value) is.numeric(value) && is_one(value) && is.finite(value)

has_type <- function(value, type) {
  switch(type,
    object = is_map(value),
    array = is_array(value),
    string = is_text(value),
    boolean = is.logical(value) && is_one(value),
    null = is.null(value),
    number = is_finite(value),
    integer = is_finite(value) && value == trunc(value),
    FALSE
  )
}

# Every way in which `value` breaks `rules`, as a list of problems.
check_rules <- function(rules, value, path = "", root = rules) {
  if (!is.null(rules[["$ref"]])) {
    for (part in strsplit(sub("^#/", "", rules[["$ref"]]), "/", fixed = TRUE)[[1]]) {
      root_part <- if (exists("node", inherits = FALSE)) node else root
      node <- root_part[[part]]
    }
    rules <- node
  }
  types <- unlist(rules[["type"]])
  if (!is.null(types) && !any(vapply(types, function(type) has_type(value, type), NA))) {
    words <- c(
      object = "a mapping", array = "a list", string = "text", boolean = "true or false", null = "null", number = "a number",
      integer = "an integer"
    )
    return(list(problem(path, sprintf("expected %s, got %s", paste(words[types], collapse = " or "), shown(value)))))
  }
  found <- check_scalar(rules, value, path)
  if (is_map(value) && !is.null(rules[["properties"]])) found <- c(found, check_members(rules, value, path, root))
  if (is_array(value) && !is.null(rules[["items"]])) {
    for (index in seq_along(value)) {
      found <- c(found, check_rules(rules[["items"]], value[[index]], sprintf("%s[%d]", path, index - 1L), root))
    }
  }
  for (part in rules[["allOf"]]) found <- c(found, check_rules(part, value, path, root))
  if (!is.null(rules[["if"]]) && length(check_rules(rules[["if"]], value, path, root)) == 0) {
    found <- c(found, check_rules(rules[["then"]] %||% list(), value, path, root))
  }
  found
}

check_scalar <- function(rules, value, path) {
  found <- list()
  say <- function(...) found <<- c(found, list(problem(path, paste0(...))))
  if (!is.null(rules[["enum"]]) && !(is_text(value) && value %in% unlist(rules[["enum"]]))) {
    say("expected one of ", paste(unlist(rules[["enum"]]), collapse = ", "), ", got ", shown(value))
  }
  if (!is.null(rules[["const"]]) && !identical(as.vector(value), rules[["const"]])) {
    say("expected ", shown(rules[["const"]]), ", got ", shown(value))
  }
  if (is_text(value)) {
    if (!is.null(rules[["pattern"]]) && !grepl(rules[["pattern"]], value, perl = TRUE)) {
      say("expected ", rules[["description"]] %||% paste("text like", rules[["pattern"]]), ", got ", shown(value))
    }
    if (nchar(value) < (rules[["minLength"]] %||% 0)) say("expected at least ", rules[["minLength"]], " character(s)")
    if (nchar(value) > (rules[["maxLength"]] %||% Inf)) {
      say("expected at most ", rules[["maxLength"]], " characters, got ", nchar(value))
    }
  } else if (is_finite(value)) {
    bounds <- list(
      minimum = c("at least", value >= (rules[["minimum"]] %||% -Inf)),
      maximum = c("at most", value <= (rules[["maximum"]] %||% Inf)),
      exclusiveMinimum = c("more than", value > (rules[["exclusiveMinimum"]] %||% -Inf)),
      exclusiveMaximum = c("less than", value < (rules[["exclusiveMaximum"]] %||% Inf))
    )
    for (keyword in names(bounds)) {
      if (bounds[[keyword]][2] == "FALSE") say("expected ", bounds[[keyword]][1], " ", rules[[keyword]], ", got ", shown(value))
    }
  }
  found
}

check_members <- function(rules, value, path, root) {
  found <- list()
  known <- rules[["properties"]]
  for (key in unlist(rules[["required"]])) {
    if (!key %in% names(value)) found <- c(found, list(problem(join(path, key), "required but missing")))
  }
  for (key in names(value)) {
    if (key %in% names(known)) {
      found <- c(found, check_rules(known[[key]], value[[key]], join(path, key), root))
    } else if (identical(rules[["additionalProperties"]], FALSE)) {
      found <- c(found, list(problem(join(path, key), paste("unknown key;", hint_for(key, names(known))))))
    }
  }
  found
}

hint_for <- function(key, known) {
  distances <- utils::adist(key, known)
  close <- known[distances <= pmax(nchar(known), nchar(key)) * 0.4]
  if (length(close)) {
    sprintf("did you mean %s?", known[which.min(distances)])
  } else {
    sprintf("known here: %s", if (length(known)) paste(sort(known), collapse = ", ") else "none")
  }
}

join <- function(path, key) if (nzchar(path)) paste0(path, ".", key) else key

# A value in a message: short, and only its kind where it could hold a secret.
shown <- function(value) {
  if (is.null(value)) return("null")
  if (is_map(value) && length(value)) return("a mapping")
  if (is.list(value)) return("a list")
  if (length(value) != 1) return("a vector")
  text <- if (is.character(value)) encodeString(value, quote = "\"") else tolower(format(value, digits = 15))
  if (nchar(text) > 60) paste0(substr(text, 1, 57), "...") else text
}

# A valid value with the schema's defaults in the places that it leaves out.
with_defaults <- function(rules, value) {
  for (key in names(rules[["properties"]])) {
    inner <- rules[["properties"]][[key]]
    if (!is.null(inner[["properties"]])) {
      value[[key]] <- with_defaults(inner, value[[key]] %||% list())
    } else if (!key %in% names(value) && !is.null(inner[["default"]])) {
      value[[key]] <- inner[["default"]]
    }
  }
  value
}
