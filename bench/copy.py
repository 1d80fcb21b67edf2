"""Copying with read-back: the mover against the slower of the disk and the hash in the same run."""

import os
import tempfile
import time
from pathlib import Path

from bench.__main__ import Measure
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.fixity import CHUNK, fixity_of

BYTES = {"small": 256 << 20, "full": 2 << 30}
SMALL_FILES = {"small": 200, "full": 2000}


def run(scale: str) -> list[Measure]:
    n = BYTES[scale]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in ("a", "b"):
            (Path(folder) / name).mkdir()
        source, target = PosixStorage("a", Path(folder) / "a"), PosixStorage("b", Path(folder) / "b")
        block = os.urandom(CHUNK)
        written = clock(lambda: source.write("/big", (block for _ in range(n // CHUNK))))
        hashed = clock(lambda: fixity_of(block for _ in range(n // CHUNK)))
        copied = clock(lambda: StreamMover().copy(source, "/big", target, "/big", lambda _: None))
        limit = (
            n / (written + max(hashed, 1e-9)) / 1e6
        )  # each byte is written once and hashed once, one after the other
        small = SMALL_FILES[scale]
        for i in range(small):
            source.write(f"/small/{i}", [block])
        many = clock(
            lambda: [
                StreamMover().copy(source, f"/small/{i}", target, f"/small/{i}", lambda _: None) for i in range(small)
            ]
        )
    big_rate = n / copied / 1e6
    return [
        Measure("copy one large file, read back", big_rate, "MB/s", 0.8 * limit, peer="write + hash", peer_value=limit),
        Measure(
            "copy files of 1 MB, read back",
            small * CHUNK / many / 1e6,
            "MB/s",
            0.7 * big_rate,
            peer="one large file",
            peer_value=big_rate,
        ),
    ]


def clock(work: object) -> float:
    begin = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - begin
