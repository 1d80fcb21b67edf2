"""Disks that are small, so that they can be full: a tmpfs of some megabytes. Only root can mount one."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
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


class PoweredDisk:
    """A disk whose power can be cut: what was not synced is gone then, because the kernel kept it. It is an ext4 image
    on a loop device with direct I/O and a long commit interval: what lies in the image's file is what lies on the disk.
    """

    def __init__(self, at: Path, image: Path, megabytes: int = 32) -> None:
        self.at = at
        self._image = image
        self._device = ""
        at.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        try:
            run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no ext4 image on a loop device here: {getattr(error, 'stderr', error)}")
        if run("losetup", "--noheadings", "--output", "DIO", self._device) != "1":
            self.close()
            pytest.skip("the loop device has no direct I/O here: it would keep back what a disk has")

    def sync(self) -> None:
        """Everything so far is on the disk."""
        run("sync", "--file-system", self.at)

    def cut_power(self, leave: Callable[[], object] = lambda: None) -> None:
        """Forget what was not synced, and mount again what is left. Whoever uses it must `leave` it for that."""
        left = self._image.with_name("left")
        shutil.copyfile(self._image, left)
        leave()
        self.close()
        left.replace(self._image)
        self._mount()

    def close(self) -> None:
        """Unmount."""
        if self._device:
            run("umount", self.at)
            run("losetup", "--detach", self._device)
            self._device = ""

    def _mount(self) -> None:
        self._device = run("losetup", "--direct-io=on", "--find", "--show", self._image)
        run("mount", "-t", "ext4", "-o", "commit=300", self._device, self.at)


def run(*command: str | Path) -> str:
    """What a command prints; raises when it fails."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()
