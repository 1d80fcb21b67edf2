"""Files of 2 GB from one XRootD server to another by third-party copy, read back, against plain `xrdcp --tpc`.

One alone, and four in two streams, as a link carries them: one is read back while the next is under way, since a server
does not let a file be read before it is written to its end. `xrdcp` copies the four one after the other, or two at a
time, and verifies nothing. Both servers run on this machine and share its disk and processors with everything else.
Needs the packages xrootd-server and xrootd-client.
"""

import os
import statistics
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.__main__ import Measure, timed
from lightkeeper.adapters.mover_tpc import TpcMover
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.fixity import CHUNK
from lightkeeper.ports import Copy

BYTES = {"small": 256 << 20, "full": 2 << 30}
ROUNDS = {"small": 1, "full": 3}
TOGETHER, STREAMS = 4, 2


def run(scale: str) -> list[Measure]:
    from tests.engines.xrootd import xrootd

    size = BYTES[scale]
    rates: dict[str, list[float]] = {}
    with xrootd(tpc=True) as one, xrootd(tpc=True) as two:
        source, target = XrootdStorage("one", one.url()), XrootdStorage("two", two.url())
        block = os.urandom(CHUNK)
        source.write("/big", (block for _ in range(size // CHUNK)))
        mover = TpcMover()

        def plain(number: int) -> None:
            xrdcp(source.address("/big"), target.address(f"/plain{number}"))
            target.delete(f"/plain{number}")

        def ours(number: int) -> None:
            (ended,) = mover.carry([Copy(source, "/big", target, f"/ours{number}", size)])
            assert ended.error is None, ended.error
            target.delete(f"/ours{number}")

        for _ in range(ROUNDS[scale]):
            for what, copy, files, streams in (
                ("plain", plain, 1, 1),
                ("ours", ours, 1, 1),
                ("plain one by one", plain, TOGETHER, 1),
                ("plain in streams", plain, TOGETHER, STREAMS),
                ("ours in streams", ours, TOGETHER, STREAMS),
            ):
                seconds = timed(lambda copy=copy, files=files, streams=streams: carried(copy, files, streams))
                rates.setdefault(what, []).append(files * size / seconds / 1e6)
    rate = {what: statistics.median(seen) for what, seen in rates.items()}
    return [
        Measure(
            "one third-party copy, read back",
            rate["ours"],
            "MB/s",
            0.9 * rate["plain"],
            peer="xrdcp --tpc, unverified",
            peer_value=rate["plain"],
        ),
        Measure(
            f"{TOGETHER} third-party copies in {STREAMS} streams, read back",
            rate["ours in streams"],
            "MB/s",
            0.9 * rate["plain one by one"],
            peer="xrdcp --tpc, one by one",
            peer_value=rate["plain one by one"],
        ),
        Measure(
            "the same against as many at once",
            rate["ours in streams"],
            "MB/s",
            peer=f"xrdcp --tpc, {STREAMS} at once",
            peer_value=rate["plain in streams"],
        ),
        Measure("load of the machine at the end", os.getloadavg()[0], "processes"),
    ]


def carried(copy: Callable[[int], None], files: int, streams: int) -> None:
    """Copy so many files, so many at a time."""
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(copy, range(files)))


def xrdcp(source: str, target: str) -> None:
    subprocess.run(["xrdcp", "--force", "--silent", "--tpc", "only", source, target], check=True)
