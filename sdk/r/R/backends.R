# The types of backends of direct mode: `judge` finds what is wrong with a config block, `make` makes one from its settings.

BACKENDS <- list(
  sidecar = list(
    judge = function(config) list(),
    make = function(entry, settings, emitter_id) {
      sidecar_backend(entry$config[["url"]] %||% settings$sidecar$url, entry$config[["token"]] %||% settings$sidecar$token)
    }
  )
)

# What is wrong with keys: unknown ones, and text that is none.
judge_keys <- function(config, known, texts = character()) {
  found <- lapply(setdiff(names(config), known), function(key) {
    problem(key, paste("unknown key;", hint_for(key, known)))
  })
  for (key in intersect(texts, names(config))) {
    value <- config[[key]]
    if (!is.null(value) && !is_text(value)) found <- c(found, list(problem(key, sprintf("expected text, got %s", if (is.list(value)) shown(value) else class(value)[1]))))
  }
  found
}
