"""Programs that the benchmarks measure TrackMate against, built from public packages and kept in the cache."""
