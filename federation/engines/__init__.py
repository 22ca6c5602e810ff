"""SQL engines behind one face."""
