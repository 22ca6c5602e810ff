"""What TrackMate costs, measured beside what it would replace; each module prints JSON."""
