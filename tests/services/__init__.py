"""The real servers that tests talk to: one module a service."""
