"""Disks that are small, so that they can be full: a tmpfs of some megabytes. Only root can mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Disk:
    """A mounted disk."""

    at: Path

    @property
    def ballast(self) -> Path:
        return self.at / ".ballast"

    def fill(self, leave: int = 0) -> None:
        """Leave `leave` bytes, or a little less."""
        with suppress(OSError), self.ballast.open("ab", buffering=0) as file:
            room = self._room() - leave
            while room > 0:
                room -= file.write(b"\xaa" * min(room, 1 << 20))

    def free(self) -> None:
        """Give the room back."""
        self.ballast.unlink(missing_ok=True)

    def _room(self) -> int:
        found = os.statvfs(self.at)
        return found.f_bavail * found.f_frsize


@contextmanager
def small_disk(at: Path, megabytes: float) -> Iterator[Disk]:
    """A disk of that size, mounted at a folder that is made."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    at.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {tried.stderr.strip()}")
    try:
        yield Disk(at)
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)
