"""Writing to other systems: one module a destination, one registry."""
