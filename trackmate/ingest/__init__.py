"""Loading data that exists already: rows of files become events with stable ids, sent through the sidecar."""
