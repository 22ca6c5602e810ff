"""Start one service so that it is told to stop when its supervisor dies, however that dies: `child.py SUPERVISOR COMMAND...`.

Run as a plain file by a bare interpreter, before anything else is loaded; it then becomes the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and become the command."""
    supervisor, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit(f"the supervisor (process {supervisor}) is gone: not starting {command[0]}")
    os.execvp(command[0], command)  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main()
