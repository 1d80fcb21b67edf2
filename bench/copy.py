"""Copies of one large file and of many small ones between two directories, against the limits of disk and hash.

Every byte is read once, written once, read back from the disk and summed up. The limits are measured in the same run,
on the same disk, around the copies, with large requests that pass by the cache: writing, reading and hashing, each
alone. Source and target lie on one disk here, which reads every byte twice and writes it once: that is what the disk
can do of it. What else runs on the machine slows all of them, so the load is told too.
"""

import mmap
import os
import statistics
import tempfile
from pathlib import Path

from bench.__main__ import Measure, timed
from lightkeeper.adapters.mover_stream import BLOCK, StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.fixity import CHUNK, fixity_of
from lightkeeper.ports import Copy

BYTES = {"small": 256 << 20, "full": 2 << 30}
SMALL_FILES = {"small": 500, "full": 10_000}
ROUNDS = {"small": 1, "full": 3}
TOGETHER = 200


def run(scale: str) -> list[Measure]:
    size = BYTES[scale]
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        home = Path(folder)
        for name in ("a", "b"):
            (home / name).mkdir()
        source, target = PosixStorage("a", home / "a"), PosixStorage("b", home / "b")
        block = os.urandom(CHUNK)
        source.write("/big", (block for _ in range(size // CHUNK)))
        for i in range(SMALL_FILES[scale]):
            source.write(f"/small/{i}", [block])
        for _ in range(ROUNDS[scale]):
            for what, work in (
                ("write", lambda: write_alone(home / "limit", size)),
                ("read", lambda: read_alone(home / "limit")),
                ("hash", lambda: fixity_of(block for _ in range(size // CHUNK))),
                ("copy", lambda: carry(source, target, ["/big"], size)),
            ):
                rates.setdefault(what, []).append(size / timed(work) / 1e6)
            target.delete("/new/big")
        names = [f"/small/{i}" for i in range(SMALL_FILES[scale])]
        small = len(names) * CHUNK / timed(lambda: carry(source, target, names, CHUNK)) / 1e6
    rate = {what: statistics.median(measured) for what, measured in rates.items()}
    disk = 1 / (2 / rate["read"] + 1 / rate["write"])
    slower = min(disk, rate["hash"])
    large = rate["copy"]
    load = os.getloadavg()[0]
    return [
        Measure("write alone, past the cache", rate["write"], "MB/s"),
        Measure("read alone, past the cache", rate["read"], "MB/s"),
        Measure("SHA-256 and Adler-32 alone", rate["hash"], "MB/s"),
        Measure("read, write, read back alone", disk, "MB/s"),
        Measure("copy one large file, read back", large, "MB/s", 0.8 * slower, True, "slower of disk, hash", slower),
        Measure(
            "copy files of 1 MB, read back, renamed",
            small,
            "MB/s",
            0.7 * rate["copy"],
            True,
            "large file",
            rate["copy"],
        ),
        Measure("load of the machine at the end", load, "processes"),
    ]


def carry(source: PosixStorage, target: PosixStorage, names: list[str], size: int) -> None:
    """As the transfer step does: many at once, then their names."""
    for start in range(0, len(names), TOGETHER):
        some = names[start : start + TOGETHER]
        copies = [Copy(source, name, target, f"/arrivals{name}", size) for name in some]
        assert all(ended.error is None for ended in StreamMover().carry(copies))
        assert not any(target.rename_all([(f"/arrivals{name}", f"/new{name}") for name in some]))


def write_alone(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    block = mmap.mmap(-1, BLOCK)
    block.write(os.urandom(BLOCK))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    for _ in range(size // BLOCK):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)


def read_alone(path: Path) -> None:
    block = mmap.mmap(-1, BLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    while os.readv(fd, [block]):
        pass
    os.close(fd)
