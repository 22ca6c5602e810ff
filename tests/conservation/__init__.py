"""Nothing acknowledged is lost, nothing is invented, nothing is altered: the whole chain under kills, full disks and bad networks."""
