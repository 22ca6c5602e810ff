"""The embedded PostgreSQL on a port of its own, so that what trackmate.yaml names can be a proxy in front of it."""

import sys
from pathlib import Path

from trackmate.embedded_postgres import run_foreground

if __name__ == "__main__":
    sys.exit(run_foreground(Path(sys.argv[1]), int(sys.argv[2])))
