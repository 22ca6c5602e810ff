"""rsyslog with a queue on disk: Debian's package, unpacked into the cache and installed nowhere.

Debian 12 packages no omhttp, so events come and go as lines over TCP. Neither side acknowledges them: what is on its way when a
connection breaks is lost, which neither the sidecar nor the collector lets happen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.services.base import CACHE, Service, cache_lock, free_port, port_open

PACKAGES = ("rsyslog", "libestr0", "libfastjson4", "liblognorm5")
"""The program, and those of its libraries that a Debian without it doesn't have."""

BATCH = 1024
"""Messages that leave the queue together; with `sync` it notes where it is as often as that."""

CONFIG = """\
global(workDirectory="{folder}" maxMessageSize="64k")
main_queue(
  queue.type="Disk"
  queue.filename="main"
  queue.size="100000000"
  queue.maxFileSize="64m"
  queue.dequeueBatchSize="{batch}"
  queue.checkpointInterval="{checkpoint}"
  queue.syncQueueFiles="{sync}"
  queue.timeoutEnqueue="600000"
)
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="line" type="string" string="%msg%")
action(type="omfwd" target="127.0.0.1" port="{to}" protocol="tcp" template="line" action.resumeRetryCount="-1")
"""


def unpacked() -> Path:
    """The folder that holds the packages' files; a few seconds to make the first time. Raises RuntimeError when it can't be."""
    with cache_lock("rsyslog-bookworm") as target:
        if not target.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="rsyslog-", dir=CACHE))
            try:
                _download(folder)
                for package in folder.glob("*.deb"):
                    subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
                (folder / "root").rename(target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return target


def _download(folder: Path) -> None:
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The lists may be missing or stale, as in a fresh container.
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"apt-get download {' '.join(PACKAGES)} failed; this needs Debian 12:\n{done.stderr[-2000:]}"
        raise RuntimeError(message)


class Rsyslog(Service):
    """One on a core of its own that takes lines on `port` and passes them on to the port `to`; its queue is in `queue`."""

    name = "rsyslog"

    def __init__(self, *, core: int, to: int, queue: Path, sync: bool) -> None:
        super().__init__()
        self.core = core
        self.to = to
        self.queue = queue
        self.sync = sync
        self.port = free_port()

    def start(self) -> Self:
        root = unpacked()
        (libraries,) = (root / "usr/lib").glob("*-linux-gnu")
        config = self.folder / "rsyslog.conf"
        sync, checkpoint = ("on", BATCH) if self.sync else ("off", 0)
        config.write_text(
            CONFIG.format(folder=self.queue, port=self.port, to=self.to, sync=sync, batch=BATCH, checkpoint=checkpoint)
        )
        command: list[str | Path] = [
            "taskset", "-c", str(self.core), root / "usr/sbin/rsyslogd", "-n", "-C",
            "-f", config, "-i", self.folder / "rsyslogd.pid", "-M", libraries / "rsyslog",
        ]  # fmt: skip
        self.spawn(command, ready=lambda: port_open(self.port), env={"LD_LIBRARY_PATH": str(libraries)})
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


if __name__ == "__main__":
    sys.stdout.write(f"{unpacked()}\n")
