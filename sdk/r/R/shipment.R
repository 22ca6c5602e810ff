# A batch on its way to every backend that shall have it, and what became of each of its events.

new_shipment <- function(client, batch) {
  shipment <- new.env(parent = emptyenv())
  shipment$batch <- batch
  shipment$worst <- integer(batch$n)
  shipment$left <- 1 # whoever ships holds it open
  shipment$failed <- list()
  client$in_flight <- client$in_flight + batch$n
  shipment
}

# The events of these places for one backend, under numbers of their own when they are not neighbours.
shipment_piece <- function(client, shipment, lane, places) {
  shipment$left <- shipment$left + length(places)
  lane$waiting <- lane$waiting + length(places)
  whole <- length(places) == shipment$batch$n
  number <- if (whole) shipment$batch$number else take_numbers(client, length(places))
  list(shipment = shipment, places = places, batch = batch_subset(shipment$batch, places, number))
}

piece_slice <- function(piece, cut) {
  if (cut[1] == 1 && cut[2] == piece$batch$n) return(piece)
  list(shipment = piece$shipment, places = piece$places[cut[1]:cut[2]], batch = batch_slice(piece$batch, cut[1], cut[2]))
}

shipment_failed <- function(lane, piece) {
  shipment <- piece$shipment
  shipment$failed[[lane$name]] <- union(shipment$failed[[lane$name]], piece$places)
}

# The backend is done with the events of these places of the piece.
shipment_resolve <- function(client, lane, piece, places, verdict) {
  shipment <- piece$shipment
  rank <- match(verdict, VERDICTS) - 1L
  at <- piece$places[places]
  shipment$worst[at] <- pmax(shipment$worst[at], rank)
  lane$counts[[verdict]] <- lane$counts[[verdict]] + length(at)
  lane$waiting <- lane$waiting - length(at)
  shipment_less(client, shipment, length(at))
}

shipment_less <- function(client, shipment, events) {
  shipment$left <- shipment$left - events
  if (shipment$left > 0) return(invisible())
  client$in_flight <- client$in_flight - shipment$batch$n
  counts <- tabulate(shipment$worst + 1L, length(VERDICTS))
  client$counts[VERDICTS] <- client$counts[VERDICTS] + counts
  dropped <- counts[length(VERDICTS)]
  if (dropped) client$unreported[[client$last_reason]] <- (client$unreported[[client$last_reason]] %||% 0) + dropped
  if (dropped) client$dropped_by_reason[[client$last_reason]] <- (client$dropped_by_reason[[client$last_reason]] %||% 0) + dropped
  invisible()
}

# Hand a batch to every backend in order of priority, and what they could not take to those that stand in for them.
ship <- function(client, batch, effort) {
  shipment <- new_shipment(client, batch)
  on.exit({
    shipment_less(client, shipment, 1)
    .Call(mon_settled)
  })
  for (lane in client$lanes) {
    places <- seq_len(batch$n)
    if (lane$fallback) {
      better <- client$lanes[vapply(client$lanes, function(other) other$priority < lane$priority, NA)]
      places <- Reduce(intersect, lapply(better, function(other) shipment$failed[[other$name]] %||% integer()))
    }
    if (length(places)) lane_deliver(client, lane, shipment_piece(client, shipment, lane, sort(places)), effort)
  }
}
