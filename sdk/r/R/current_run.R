#' The run that the code is in
#'
#' @return A run, with its \code{run_id}, \code{parent_run_id} (empty text: none), \code{name} and \code{entities}; \code{NULL} outside.
#' @export
#' @examples
#' current_run()
current_run <- function() package$run
