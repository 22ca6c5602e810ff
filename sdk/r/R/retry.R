# When to try again: backoff with jitter, what `Retry-After` says, and a circuit breaker. Times are seconds of a monotonic clock.

FIRST_DELAY <- 0.1
LONGEST_DELAY <- 5
LONGEST_RETRY_AFTER <- 3600
FIRST_COOLDOWN <- 0.5
LONGEST_COOLDOWN <- 15
LONGEST_WAIT <- 10 # a receiver that asks for a longer pause is left alone: its batch goes to disk meanwhile

monotonic <- function() .Call(mon_monotonic)

# From 0 to 1, without R's generator: a program's own random numbers stay as they are.
jitter <- function() sum(as.integer(.Call(mon_random, 2L)) * c(1, 256)) / 65536

backoff <- function(attempt) {
  bound <- min(LONGEST_DELAY, FIRST_DELAY * 2^min(attempt - 1, 16))
  bound / 2 + jitter() * bound / 2
}

# Seconds that a `Retry-After` header asks for, as a number or as an HTTP date; 0 when it says nothing readable.
retry_after <- function(header, now = .Call(mon_now)) {
  if (is.null(header)) return(0)
  text <- trimws(header)
  if (grepl("^[0-9]+$", text)) return(min(as.numeric(substr(text, 1, 9)), LONGEST_RETRY_AFTER))
  moment <- curl::parse_date(text)
  if (is.na(moment)) 0 else min(max(0, as.numeric(moment) - now), LONGEST_RETRY_AFTER)
}

new_breaker <- function() {
  breaker <- new.env(parent = emptyenv())
  breaker$failures <- 0
  breaker$open_until <- 0
  breaker
}

breaker_is_closed <- function(breaker) breaker$failures == 0
breaker_allows <- function(breaker) breaker$failures == 0 || monotonic() >= breaker$open_until

# Close; whether it was open.
breaker_succeeded <- function(breaker) {
  was_open <- breaker$failures > 0
  breaker$failures <- 0
  was_open
}

# Open for longer than last time, and for `at_least` seconds; whether it was closed.
breaker_failed <- function(breaker, at_least = 0) {
  was_closed <- breaker$failures == 0
  pause <- min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2^min(breaker$failures, 16))
  breaker$failures <- breaker$failures + 1
  breaker$open_until <- monotonic() + max(at_least, pause * (0.75 + jitter() / 2))
  was_closed
}
