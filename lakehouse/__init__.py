"""The hot store and the Delta tables."""
