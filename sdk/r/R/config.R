# Where the configuration comes from: defaults, then a file, then the environment, then arguments; later wins.

DEFAULT_FILE <- "monitoring-config.yaml"
ENVIRONMENT <- "MONITORING_SDK__"
VARIABLE <- "\\$\\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\\}"
LONGEST_TIMEOUT <- 86400
BACKEND_TIMEOUT <- 30

# The merged configuration as settings. `config` is the name of a file or a list with the key `sdk`; `overrides` are keys
# below `sdk`, where `sidecar__url` steps into a level. Raises monitoring_configuration_error with every mistake.
load_config <- function(config = NULL, overrides = list(), environment = Sys.getenv()) {
  problems <- new.env()
  problems$found <- list()
  merged <- named_list()
  file <- config_file(config, environment)
  if (!is.null(file)) {
    document <- interpolated(read_config(file), environment, "", problems)
    merged <- merged_maps(merged, anchored(document, file))
  }
  for (name in sort(grep(paste0("^", ENVIRONMENT), names(environment), value = TRUE))) {
    path <- c("sdk", strsplit(tolower(substring(name, nchar(ENVIRONMENT) + 1L)), "__", fixed = TRUE)[[1]])
    text <- environment[[name]]
    merged <- set_at(merged, path, if (is_text_setting(path)) text else typed(text))
  }
  if (is.list(config)) merged <- merged_maps(merged, interpolated(normal(config), environment, "", problems))
  for (key in names(overrides)) {
    path <- c("sdk", strsplit(key, "__", fixed = TRUE)[[1]])
    merged <- set_at(merged, path, interpolated(normal(overrides[[key]]), environment, paste(path, collapse = "."), problems))
  }
  base <- if (is.null(file)) NULL else dirname(absolute_path(file))
  checked_config(merged, file %||% "configuration", problems$found, base)
}

checked_config <- function(document, source, problems, base) {
  found <- c(problems, check_rules(config_schema(), document), check_sidecar_url(document), check_backends(document))
  if (length(found)) {
    paths <- vapply(found, function(each) each$path, "")
    found <- found[!duplicated(paths)] # of several at one place, the first explains the others
    configuration_error(source, found[order(vapply(found, function(each) each$path, ""))])
  }
  settings_of(with_defaults(config_schema(), document)[["sdk"]], base)
}

check_sidecar_url <- function(document) {
  sdk <- document[["sdk"]]
  url <- if (is_map(sdk) && is_map(sdk[["sidecar"]])) sdk[["sidecar"]][["url"]]
  if (!is_text(url) || !grepl("^https?://", url) || is_web_address(url)) return(list())
  list(problem("sdk.sidecar.url", sprintf("expected a URL such as http://localhost:17000, got \"%s\"", url)))
}

is_web_address <- function(url) {
  found <- regmatches(url, regexec("^https?://(\\[[0-9A-Fa-f:.]+\\]|[^/:?#@\\[]+)(?::([0-9]+))?([/?].*)?$", url, perl = TRUE))[[1]]
  length(found) > 0 && (!nzchar(found[3]) || (as.numeric(found[3]) > 0 && as.numeric(found[3]) < 65536))
}

# What a schema can't tell of the backends of direct mode.
check_backends <- function(document) {
  sdk <- document[["sdk"]]
  if (!is_map(sdk) || !identical(sdk[["mode"]], "direct")) return(list())
  entries <- sdk[["direct_backends"]] %||% list()
  if (!is_array(entries)) return(list())
  usable <- vapply(entries, function(entry) is_map(entry) && is_text(entry[["type"]]) && is_enabled(entry), NA)
  if (!any(usable)) {
    return(list(problem("sdk.direct_backends", "expected at least one backend that is enabled, since sdk.mode is direct")))
  }
  found <- list()
  names <- character()
  for (index in which(usable)) {
    entry <- entries[[index]]
    path <- sprintf("sdk.direct_backends[%d]", index - 1L)
    name <- as.character(entry[["name"]] %||% entry[["type"]])
    if (name %in% names) {
      found <- c(found, list(problem(paste0(path, ".name"), sprintf("'%s' is there already; give one of them another `name`", name))))
    }
    names <- c(names, name)
    better <- vapply(entries[usable], function(other) priority_of(other) < priority_of(entry), NA)
    if (identical(entry[["delivery"]], "fallback") && !any(better)) {
      message <- "a fallback needs an enabled backend with a lower `priority` number to stand in for"
      found <- c(found, list(problem(paste0(path, ".delivery"), message)))
    }
    maker <- BACKENDS[[entry[["type"]]]]
    if (is.null(maker)) {
      message <- sprintf("the R SDK delivers to %s; let the sidecar deliver to '%s'", paste(names(BACKENDS), collapse = ", "), entry[["type"]])
      found <- c(found, list(problem(paste0(path, ".type"), message)))
    } else if (is_map(entry[["config"]] %||% list())) {
      found <- c(found, lapply(maker$judge(entry[["config"]] %||% list()), function(each) {
        problem(paste0(path, ".config.", each$path), each$message)
      }))
    }
  }
  found
}

is_enabled <- function(entry) isTRUE(entry[["enabled"]] %||% TRUE)
priority_of <- function(entry) if (is_finite(entry[["priority"]])) entry[["priority"]] else 100

settings_of <- function(sdk, base) {
  sidecar <- sdk[["sidecar"]]
  sidecar$timeout <- min(sidecar$timeout, LONGEST_TIMEOUT)
  sidecar$spool_dir <- absolute_path(sidecar$spool_dir)
  queue <- sdk[["queue"]]
  queue$flush_interval <- min(queue$flush_interval, LONGEST_TIMEOUT)
  app <- sdk[["app"]]
  if (!is.null(app[["version"]])) app[["version"]] <- version_text(app[["version"]])
  entries <- if (sdk[["mode"]] == "direct") Filter(is_enabled, sdk[["direct_backends"]]) else list()
  entries <- entries[order(vapply(entries, priority_of, 0))]
  backends <- lapply(entries, function(entry) {
    usual <- if (entry[["type"]] == "sidecar") sidecar$timeout else BACKEND_TIMEOUT
    list(
      name = entry[["name"]] %||% entry[["type"]], type = entry[["type"]], priority = priority_of(entry),
      fallback = identical(entry[["delivery"]], "fallback"), timeout = min(entry[["timeout"]] %||% usual, LONGEST_TIMEOUT),
      config = entry[["config"]] %||% list(), base = base %||% getwd()
    )
  })
  list(mode = sdk[["mode"]], sidecar = sidecar, queue = queue, app = app, backends = backends)
}

# A version that YAML took for a number, as text again.
version_text <- function(version) {
  if (is.character(version)) return(as.vector(version))
  if (isTRUE(attr(version, "fraction")) && version == trunc(version)) return(sprintf("%.1f", version))
  format(as.vector(version), digits = 15)
}

# ----------------------------------------------------------------------------------------------------------------- file

# The file to read; one that was named must exist, the default one need not.
config_file <- function(config, environment) {
  if (!is.null(config) && !is.list(config)) {
    if (!is_text(config)) configuration_error("configuration", list(problem("", "expected the name of a file, or a list with the key `sdk`")))
    return(config)
  }
  named <- environment["MONITORING_CONFIG"]
  if (!is.na(named) && nzchar(named)) return(unname(named))
  if (file.exists(DEFAULT_FILE) && !dir.exists(DEFAULT_FILE)) DEFAULT_FILE
}

read_config <- function(file) {
  wrong <- function(message) configuration_error(file, list(problem("", message)))
  if (!file.exists(file)) wrong("there is no such file; check the argument of initialize_monitoring() or MONITORING_CONFIG")
  text <- tryCatch(
    paste(suppressWarnings(readLines(file, encoding = "UTF-8")), collapse = "\n"),
    error = function(condition) wrong(paste("can't be read:", conditionMessage(condition)))
  )
  content <- tryCatch(
    parsed_yaml(text),
    error = function(condition) wrong(paste("not valid YAML or JSON:", gsub("\\s+", " ", conditionMessage(condition))))
  )
  if (is.null(content)) return(named_list())
  if (!is_map(content)) wrong("expected a mapping at the top, got a list or a value")
  content
}

# YAML in which `${VAR}` needs no quotes, though its braces would mean something else inside `{...}`.
parsed_yaml <- function(text) {
  places <- gregexpr(VARIABLE, text, perl = TRUE)
  variables <- regmatches(text, places)[[1]]
  regmatches(text, places) <- list(sprintf("\ue000%d\ue001", seq_along(variables)))
  show <- function(value) {
    if (is.list(value)) return(replaced(value, lapply(value, show)))
    if (!is_text(value)) return(value)
    hidden <- gregexpr("\ue000[0-9]+\ue001", value)
    if (hidden[[1]][1] == -1) return(value)
    numbers <- as.integer(gsub("[^0-9]", "", regmatches(value, hidden)[[1]]))
    regmatches(value, hidden) <- list(variables[numbers])
    value
  }
  show(typed(text))
}

# YAML as lists: mappings have names, arrays have none, whatever is in them.
typed <- function(text) {
  handlers <- list(
    map = function(x) structure(as.list(x), names = names(x) %||% character()),
    seq = function(x) unname(as.list(x)),
    "float#fix" = function(x) structure(as.numeric(x), fraction = TRUE),
    "float#exp" = function(x) as.numeric(x)
  )
  yaml::yaml.load(text, handlers = handlers, eval.expr = FALSE)
}

# Make a relative spool folder relative to the file that names it, not to wherever the program was started.
anchored <- function(document, file) {
  sdk <- document[["sdk"]]
  folder <- if (is_map(sdk) && is_map(sdk[["sidecar"]])) sdk[["sidecar"]][["spool_dir"]]
  if (is_text(folder) && nzchar(folder)) {
    document[["sdk"]][["sidecar"]][["spool_dir"]] <- absolute_path(folder, dirname(absolute_path(file)))
  }
  document
}

absolute_path <- function(path, base = getwd()) {
  path <- path.expand(path)
  if (startsWith(path, "/")) path else file.path(base, path)
}

# -------------------------------------------------------------------------------------------------------------- merging

named_list <- function() structure(list(), names = character())

replaced <- function(value, by) {
  names(by) <- names(value)
  by
}

# What a program handed over as lists, with vectors as arrays or mappings.
normal <- function(value) {
  if (is.list(value)) return(replaced(value, lapply(value, normal)))
  if (is.factor(value)) value <- as.character(value)
  if (is.atomic(value) && (!is.null(names(value)) || length(value) > 1 || inherits(value, "AsIs"))) return(as.list(unclass(value)))
  value
}

interpolated <- function(value, environment, path, problems) {
  if (is.list(value)) {
    if (identical(value[["enabled"]], FALSE) && !is.null(names(value))) problems <- new.env() # nobody needs what it holds
    keys <- names(value)
    inner <- lapply(seq_along(value), function(index) {
      place <- if (is.null(keys)) sprintf("%s[%d]", path, index - 1L) else join(path, keys[index])
      interpolated(value[[index]], environment, place, problems)
    })
    return(replaced(value, inner))
  }
  if (!is_text(value)) return(value)
  places <- gregexpr(VARIABLE, value, perl = TRUE)
  if (places[[1]][1] == -1) return(value)
  texts <- vapply(regmatches(value, places)[[1]], function(variable) {
    parts <- regmatches(variable, regexec(VARIABLE, variable, perl = TRUE))[[1]]
    if (parts[2] %in% names(environment)) return(environment[[parts[2]]])
    if (grepl(":-", variable, fixed = TRUE)) return(parts[3])
    message <- sprintf("environment variable %s is not set and has no default (write ${%s:-default})", parts[2], parts[2])
    problems$found <- c(problems$found, list(problem(path, message)))
    ""
  }, "")
  regmatches(value, places) <- list(unname(texts))
  value
}

is_text_setting <- function(path) {
  node <- config_schema()
  for (part in path) node <- node[["properties"]][[part]] %||% list()
  identical(node[["type"]], "string")
}

set_at <- function(tree, path, value) {
  for (part in rev(path)) value <- structure(list(value), names = part)
  merged_maps(tree, value)
}

# `other` over `tree`, level by level; a list without names replaces.
merged_maps <- function(tree, other) {
  for (key in names(other)) {
    if (is_map(tree[[key]]) && is_map(other[[key]]) && length(tree[[key]]) && !is.null(names(other[[key]]))) {
      tree[[key]] <- merged_maps(tree[[key]], other[[key]])
    } else {
      tree[key] <- list(other[[key]])
    }
  }
  tree
}
