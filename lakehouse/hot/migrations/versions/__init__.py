"""The versions of the hot store's schema, oldest first."""
