"""A file of 2 GB from one XRootD server to another by third-party copy, read back, against plain `xrdcp --tpc`.

Both servers run on this machine and share its disk and processors with everything else; `xrdcp` verifies nothing. Needs
the packages xrootd-server and xrootd-client.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable

from bench.__main__ import Measure
from lightkeeper.adapters.mover_tpc import TpcMover
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.fixity import CHUNK
from lightkeeper.ports import Copy

BYTES = {"small": 256 << 20, "full": 2 << 30}
ROUNDS = {"small": 1, "full": 3}


def run(scale: str) -> list[Measure]:
    from tests.engines.xrootd import xrootd

    size = BYTES[scale]
    plain: list[float] = []
    ours: list[float] = []
    with xrootd(tpc=True) as one, xrootd(tpc=True) as two:
        source, target = XrootdStorage("one", one.url()), XrootdStorage("two", two.url())
        block = os.urandom(CHUNK)
        source.write("/big", (block for _ in range(size // CHUNK)))
        copy = Copy(source, "/big", target, "/ours", size)
        for _ in range(ROUNDS[scale]):
            plain.append(size / clock(lambda: xrdcp(source.address("/big"), target.address("/plain"))) / 1e6)
            target.delete("/plain")
            ours.append(size / clock(lambda: carry(copy)) / 1e6)
            target.delete("/ours")
    rate, peer = statistics.median(ours), statistics.median(plain)
    return [
        Measure("third-party copy, read back", rate, "MB/s", 0.9 * peer, True, "xrdcp --tpc, unverified", peer),
        Measure("load of the machine at the end", os.getloadavg()[0], "processes"),
    ]


def xrdcp(source: str, target: str) -> None:
    subprocess.run(["xrdcp", "--force", "--silent", "--tpc", "only", source, target], check=True)


def carry(copy: Copy) -> None:
    (ended,) = TpcMover().carry([copy])
    assert ended.error is None, ended.error


def clock(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
