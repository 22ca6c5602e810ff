"""The append-only log on disk that every acknowledged event is in."""
