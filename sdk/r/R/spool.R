# A folder for what can't be delivered now: one file a batch, written to last, claimed by rename; see SPOOL_FORMAT.md.

SPOOL_NAME <- "^(([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.[0-9]+)\\.([0-9]{20})\\.jsonl)(\\.tmp|\\.claimed-([0-9]+))?$"
OLD_CLAIM <- 3600

new_spool <- function(folder, emitter_id) {
  spool <- new.env(parent = emptyenv())
  spool$folder <- folder
  spool$owner <- sprintf("%s.%d", emitter_id, .Call(mon_pid))
  spool$own <- character()
  spool$lock <- -1L
  spool$claims <- integer()
  spool
}

spool_name <- function(spool, number) sprintf("%s.%020.0f.jsonl", spool$owner, number)

# Put a batch on disk, for good when this returns. Empty text, or what went wrong.
spool_write <- function(spool, batch) {
  name <- spool_name(spool, batch$number)
  trouble <- spool_put(spool, name, batch$body)
  if (!nzchar(trouble)) spool$own <- c(spool$own, name)
  trouble
}

# Keep what was refused where nobody replays it.
spool_set_aside <- function(spool, number, body) spool_put(spool, paste0(spool_name(spool, number), ".refused"), body)

spool_put <- function(spool, name, body) {
  trouble <- spool_be_alive(spool)
  if (nzchar(trouble)) return(trouble)
  path <- file.path(spool$folder, name)
  .Call(mon_write_file, path, paste0(path, ".tmp"), body)
}

# Hold the lock that tells others that this process lives, in a folder that exists. Empty text, or what went wrong.
spool_be_alive <- function(spool) {
  path <- file.path(spool$folder, paste0(spool$owner, ".lock"))
  if (spool$lock >= 0) {
    if (.Call(mon_is_at, spool$lock, path)) return("")
    .Call(mon_close, spool$lock)
    spool$lock <- -1L
  }
  dir.create(spool$folder, recursive = TRUE, showWarnings = FALSE)
  if (!dir.exists(spool$folder)) return("the folder can't be made")
  fd <- .Call(mon_open_lock, path, TRUE)
  if (fd < 0) return("its lock file can't be made")
  spool$lock <- fd
  ""
}

# The end of the owner: what it left may be taken by anybody.
spool_close <- function(spool) {
  if (spool$lock >= 0) {
    unlink(file.path(spool$folder, paste0(spool$owner, ".lock")))
    .Call(mon_close, spool$lock)
    spool$lock <- -1L
  }
}

# Close the handles, but let the locks be: in a forked child, where they are the parent's.
spool_forget <- function(spool) {
  for (fd in c(spool$claims, if (spool$lock >= 0) spool$lock)) .Call(mon_close, fd)
  spool$claims <- integer()
  spool$lock <- -1L
}

# The files that this process wrote and that, as far as it knows, still wait; oldest first.
spool_own <- function(spool) sort(spool$own)

# The files that dead processes left and the claims that dead claimers left, oldest first.
spool_orphans <- function(spool) {
  if (!dir.exists(spool$folder)) return(character())
  all <- list.files(spool$folder, all.files = TRUE, no.. = TRUE)
  found <- regmatches(all, regexec(SPOOL_NAME, all, perl = TRUE))
  names <- all[lengths(found) > 0]
  parts <- found[lengths(found) > 0]
  dead <- list()
  free <- vapply(seq_along(names), function(index) {
    owner <- parts[[index]][3]
    claimer <- parts[[index]][6]
    if (nzchar(claimer)) return(owner == spool$owner || spool_may_be_stale(spool, names[index], as.numeric(claimer)))
    if (owner == spool$owner) return(FALSE)
    if (is.null(dead[[owner]])) dead[[owner]] <<- spool_is_dead(spool, owner)
    dead[[owner]]
  }, NA)
  owners <- unique(vapply(parts, function(part) part[3], ""))
  for (lock in grep("^[0-9a-f-]{36}\\.[0-9]+\\.lock$", all, value = TRUE)) {
    owner <- sub("\\.lock$", "", lock)
    if (owner != spool$owner && !owner %in% owners && spool_is_dead(spool, owner)) unlink(file.path(spool$folder, lock))
  }
  names <- names[free]
  names[order(file.mtime(file.path(spool$folder, names)), names)]
}

spool_is_dead <- function(spool, owner) {
  fd <- .Call(mon_open_lock, file.path(spool$folder, paste0(owner, ".lock")), FALSE)
  if (fd >= 0) .Call(mon_close, fd)
  fd >= 0 || fd == -2L
}

spool_may_be_stale <- function(spool, name, claimer) {
  if (claimer == .Call(mon_pid)) return(TRUE)
  changed <- file.info(file.path(spool$folder, name), extra_cols = FALSE)$ctime
  old <- !is.na(changed) && .Call(mon_now) - as.numeric(changed) > OLD_CLAIM
  old || !.Call(mon_is_alive, as.integer(claimer))
}

# The file, ours to replay; NULL when somebody else has it, or it is gone.
spool_claim <- function(spool, name) {
  spool$own <- setdiff(spool$own, name)
  parts <- regmatches(name, regexec(SPOOL_NAME, name, perl = TRUE))[[1]]
  if (length(parts) == 0) return(NULL)
  path <- file.path(spool$folder, name)
  fd <- .Call(mon_open_lock, path, FALSE)
  if (fd < 0) return(NULL)
  claimed <- file.path(spool$folder, sprintf("%s.claimed-%d", parts[2], .Call(mon_pid)))
  if (!.Call(mon_rename, path, claimed)) {
    .Call(mon_close, fd)
    return(NULL)
  }
  spool$claims <- c(spool$claims, fd)
  data <- readBin(claimed, "raw", file.size(claimed))
  ends <- .Call(mon_lines, data)
  body <- data[seq_len(max(0, ends))] # what follows the last line feed is torn
  empty <- ends[diff(c(0, ends)) == 1]
  if (length(empty)) body <- body[-empty]
  list(path = claimed, base = parts[2], fd = fd, body = body, number = as.numeric(parts[4]), log = substr(parts[2], 1, 36))
}

spool_release <- function(spool, claim, rename_to = NULL) {
  if (is.null(rename_to)) unlink(claim$path) else .Call(mon_rename, claim$path, file.path(spool$folder, rename_to))
  .Call(mon_close, claim$fd)
  spool$claims <- setdiff(spool$claims, claim$fd)
  if (identical(rename_to, claim$base) && startsWith(claim$base, spool$owner)) spool$own <- c(spool$own, claim$base)
}

# Where direct mode keeps what one backend of one program could not take: below the folder, out of the sidecar's sight.
backend_folder <- function(spool_dir, app, backend) {
  name <- substr(gsub("[^A-Za-z0-9_-]", "_", enc2utf8(app$name)), 1, 80)
  digest <- openssl::sha256(c(charToRaw(enc2utf8(app$site_id)), as.raw(0), charToRaw(enc2utf8(app$name))))
  file.path(spool_dir, "direct", sprintf("%s-%s", name, substr(paste(as.character(digest), collapse = ""), 1, 8)), backend)
}
