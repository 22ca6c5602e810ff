"""A small file system of its own, for what a full or a read-only disk does."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A tmpfs of this size (such as 4m) on `folder` where this user may mount one; says whether it could."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:  # a machine without `mount`
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            # Lazily: a process that died may hold it for a moment longer.
            subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a small disk: `size=20m`, `ro`, `rw`."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the file system that holds `folder` to its last byte, and free it again."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
            except OSError:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * 512)
        yield
    finally:
        ballast.unlink(missing_ok=True)
