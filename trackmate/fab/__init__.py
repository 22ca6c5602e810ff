"""A simulated fab: tools that process lots of wafers and report through the real SDK, for demos and tests."""
