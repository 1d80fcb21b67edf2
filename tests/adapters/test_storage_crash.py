"""Killed or without power at any system call: a file is absent or complete, and what was acknowledged stays.

Killing alone does not find a forgotten fsync, since the kernel lives on; the power-loss matrix does. It uses
an ext4 image on a loop device with direct I/O and a long commit interval: what lies in the image's file when
the process is killed is what lies on the disk when the power goes.
"""

import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.testing.storage_conformance import all_files, content, sizes

WORK = Path(__file__).with_name("storage_work.py")
work = runpy.run_path(str(WORK))
A, STATES, STEPS = work["A"], work["STATES"], work["STEPS"]

CALLS = (
    "write",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "link",
)


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"strace is not allowed here: {tried.stderr.strip()}")


@dataclass
class Tally:
    """What a matrix showed."""

    points: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.wrong)} wrong of {self.points}: {self.wrong[:5]}"


def run_until(call: str, number: int, fault: str, root: Path, variant: str = "safe") -> tuple[bool, int, str]:
    """Do the work with `fault` at the `number`-th `call`: did it go through, steps acknowledged, stderr."""
    inject = f"inject={call}:{fault}:when={number}"
    tracer = ("strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    program = (sys.executable, "-B", "-E", "-s", str(WORK), str(root), variant)
    ended = subprocess.run([*tracer, *program], capture_output=True, text=True, check=False)
    return ended.returncode == 0, ended.stdout.count("+"), ended.stderr


def seen(storage: PosixStorage) -> dict[str, str]:
    """Path and letter of every file; a partial one shows as what it is."""
    found = {}
    for path in sizes(storage):
        whole = content(storage, path)
        letter = whole[:1].decode(errors="replace")
        found[path] = letter if whole == b"".join(work["chunks"](letter)) else f"partial: {len(whole)} bytes"
    return found


def judge(tally: Tally, point: str, storage: PosixStorage, acknowledged: int) -> int | None:
    """The state the storage is in, if it is one of the two that are allowed; noted if not."""
    tally.points += 1
    found = seen(storage)
    for state in (acknowledged, acknowledged + 1):
        if state < len(STATES) and found == STATES[state]:
            return state
    tally.wrong.append(f"{point} after {acknowledged} steps: {found}")
    return None


def fresh(root: Path) -> PosixStorage:
    root.mkdir()
    return PosixStorage("disk", root)


def test_killed_at_any_system_call_a_file_is_absent_or_complete_and_the_work_can_go_on(tmp_path):
    tally = Tally()
    for call in CALLS:
        number, through = 0, False
        while not through:
            number += 1
            storage = fresh(tmp_path / f"{call}-{number}")
            through, acknowledged, _ = run_until(call, number, "signal=SIGKILL", storage.root)
            state = judge(tally, f"{call} {number}", storage, acknowledged)
            if state is not None:
                for step in STEPS[state:]:
                    step(storage)
                make_old(storage)
                storage.probe()
                assert all_files(storage) == sizes(storage)
                assert seen(storage) == STATES[-1]
    assert tally.points > 50
    assert not tally.wrong, str(tally)


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("write", "ENOSPC", "Unavailable: storage disk is full"),
        ("write", "EIO", "Unavailable: storage disk cannot write"),
        ("fsync", "EIO", "Unavailable: storage disk cannot"),
        ("fsync", "EDQUOT", "Unavailable: storage disk is full"),
        ("renameat", "EIO", "Unavailable: storage disk cannot"),
        ("mkdirat", "EACCES", "Refused: storage disk cannot"),
    ],
)
def test_a_failing_system_call_raises_and_leaves_no_temporary_file(tmp_path, call, error, code):
    tally = Tally()
    for number in range(1, 7):
        storage = fresh(tmp_path / str(number))
        through, acknowledged, stderr = run_until(call, number, f"error={error}", storage.root)
        if through:
            break
        if "storage_work.py" in stderr and "os.write(1" in stderr.rpartition("storage_work.py")[2]:
            continue  # the acknowledgement itself failed, not the storage
        assert code in stderr
        judge(tally, f"{call} {number}", storage, acknowledged)
        assert all_files(storage) == sizes(storage)
    assert tally.points > 1
    assert not tally.wrong, str(tally)


def make_old(storage: PosixStorage) -> None:
    for path in sizes(storage, "/.lightkeeper"):
        os.utime(storage.local_path(path), (time.time() - 7200, time.time() - 7200))


# --- power loss --------------------------------------------------------------------------------------------
def run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[str]:
    """The image's file system, on a loop device that keeps nothing back; tells the device."""
    at.mkdir(exist_ok=True)
    device = run("losetup", "--direct-io=on", "--find", "--show", image)
    try:
        run("mount", "-t", "ext4", "-o", "commit=300", device, at)
        try:
            yield device
        finally:
            run("umount", at)
    finally:
        run("losetup", "--detach", device)


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """An image with an empty file system."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image")
    image = tmp_path / "blank"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    try:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        with mounted(image, tmp_path / "trial") as device:
            direct = run("losetup", "--noheadings", "--output", "DIO", device)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 image on a loop device here: {getattr(error, 'stderr', error)}")
    if direct != "1":
        pytest.skip("the loop device has no direct I/O here: it would keep back what a disk has")
    return image


def without_power(blank: Path, call: str, number: int, variant: str, tally: Tally) -> bool:
    """Cut the power at the `number`-th `call` and look at the disk afterwards: had the work gone through?"""
    alive, dead = blank.with_name("alive"), blank.with_name("dead")
    shutil.copyfile(blank, alive)
    at = blank.with_name("mnt")
    with mounted(alive, at):
        through, acknowledged, _ = run_until(call, number, "signal=SIGKILL", at, variant)
        shutil.copyfile(alive, dead)
    with mounted(dead, at):
        judge(tally, f"{variant}, power lost at {call} {number}", PosixStorage("disk", at), acknowledged)
    return through


def power_loss_matrix(blank: Path, variant: str) -> Tally:
    tally = Tally()
    for call in CALLS:
        number = 1
        while not without_power(blank, call, number, variant, tally):
            number += 1
    return tally


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_when_the_power_goes_a_file_is_absent_or_complete_and_the_acknowledged_stays(blank, capsys):
    tally = power_loss_matrix(blank, "safe")
    with capsys.disabled():
        print(f"\npower loss, as it is: {tally}")
    assert tally.points > 50
    assert not tally.wrong, str(tally)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_power_loss_matrix_finds_a_storage_without_fsync(blank, capsys):
    tally = power_loss_matrix(blank, "unsafe")
    with capsys.disabled():
        print(f"\npower loss, without fsync: {tally}")
    assert len(tally.wrong) > tally.points // 4, str(tally)
