"""Nothing acknowledged is lost, invented or altered: the whole chain under kills, full disks and bad networks."""
