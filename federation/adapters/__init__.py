"""Reading other systems as Arrow batches of events."""
