"""Copies over a link of 100 Mbit/s to a WebDAV server in a network of its own: how much of the link is used, whether a
rate of ours is kept, and how soon an urgent file goes.

The link is a pair of network interfaces held to its rate by `tc tbf`. What goes over it is counted by the kernel, with
all headers, four times a second. The peer is `curl`, which sends the same bytes in one file and verifies nothing. Needs
root, ip, tc, curl and rclone.
"""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.__main__ import Measure
from bench.bookkeeping import _Silent
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile, Vocabulary
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.settings import Settings
from lightkeeper.steps import replicate, topology, transfer
from lightkeeper.store import catalog, postgres, provenance
from lightkeeper.store import topology as places
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate
from lightkeeper.testing.observatory import PlainObservatory

LINK = 100e6 / 8
OURS = "5 MB/s"
SIZE = 8 << 20
HEADERS = 1514 / 1448
"""Bytes on the link for each of a file: Ethernet, IP and TCP."""
FILES = {"small": 16, "full": 60}
TOPOLOGY = """
version: 1
sites: {Near: {}, Far: {}}
storages:
  near: {site: Near, root: "ROOT/near"}
  far: {site: Far, driver: webdav, root: "URL"}
links:
  - {from: Near, to: Far, max_transfers: 4RATE}
policies:
  raw: {files: {level: 0}, copies: 2}
"""


def run(scale: str) -> list[Measure]:
    from tests.engines.netns import network

    with tempfile.TemporaryDirectory(prefix="bench-") as folder, network() as net:
        home, device = Path(folder), f"{net.name}a"
        (home / "near").mkdir()
        (home / "far").mkdir()
        limit = ["rate", "100mbit", "burst", "32kb", "latency", "50ms"]
        subprocess.run(["tc", "qdisc", "add", "dev", device, "root", "tbf", *limit], check=True)
        serve = ["rclone", "serve", "webdav", str(home / "far"), "--addr", f"{net.address}:8080"]
        server = subprocess.Popen(net.command(*serve, "--config", os.devnull), stderr=subprocess.DEVNULL)
        url = f"http://{net.address}:8080"
        try:
            until(lambda: subprocess.run(["curl", "-sf", url], capture_output=True, check=False).returncode == 0)
            n = FILES[scale]
            whole = home / "whole"
            whole.write_bytes(os.urandom(SIZE) * (n // 2))
            begin = time.perf_counter()
            subprocess.run(["curl", "-sf", "-T", str(whole), f"{url}/whole"], check=True)
            plain = whole.stat().st_size / (time.perf_counter() - begin)
            with world(home, url) as ctx:
                topology.apply(ctx, document(home, url, ""))
                register(ctx, home, "full", n)
                with counted(device) as rates:
                    seconds, _ = moved(ctx, urgent=False)
                used = n * SIZE / seconds
                highest = max(rates)
                topology.apply(ctx, document(home, url, f', max_rate: "{OURS}"'))
                register(ctx, home, "ours", n)
                with counted(device) as paced:
                    seconds, waited = moved(ctx, urgent=True)
                kept = n * SIZE / seconds
        finally:
            server.terminate()
            server.wait()
    ours = 5e6
    one_file = SIZE / ours * 4  # four go at once and share the rate
    return [
        Measure(
            "link of 100 Mbit/s, files read back", used / 1e6, "MB/s", 0.95 * plain / 1e6, True, "curl", plain / 1e6
        ),
        Measure(
            "highest quarter of a second on it", highest / 1e6, "MB/s", 1.02 * LINK / 1e6, False, "link", LINK / 1e6
        ),
        Measure("with our limit of 5 MB/s", kept / 1e6, "MB/s", 0.95 * ours / 1e6, True, "our limit", ours / 1e6),
        Measure(
            "highest five seconds on it, with headers",
            max(mean(paced[i : i + 20]) for i in range(max(1, len(paced) - 20))) / 1e6,
            "MB/s",
            1.05 * ours * HEADERS / 1e6,
            False,
            "our limit and headers",
            ours * HEADERS / 1e6,
        ),
        Measure("an urgent file is there after", waited, "s", 2 * one_file, False, "one file's time", one_file),
        Measure("load of the machine at the end", os.getloadavg()[0], "processes"),
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def document(home: Path, url: str, rate: str) -> str:
    return TOPOLOGY.replace("ROOT", str(home)).replace("URL", url).replace("RATE", rate)


@contextmanager
def world(home: Path, url: str) -> Iterator[Context]:
    drivers = {"posix": PosixStorage, "webdav": WebdavStorage}
    with postgres.start(home / "pg", shared_buffers_mb=64) as server:
        migrate(server.url)
        database = Database(server.url).open()
        ctx = Context(database, Settings(home=home), _Silent(), drivers, StreamMover(), {}, (PlainObservatory(),))
        with database.transaction() as conn:
            places.put_keys(conn, ctx.metadata_keys)
        topology.apply(ctx, document(home, url, ""))
        yield ctx
        database.close()


def register(ctx: Context, home: Path, folder: str, n: int) -> None:
    near = PosixStorage("near", home / "near")
    with ctx.db.transaction() as conn:
        storage_id = next(s.storage_id for s in places.storages(conn) if s.name == "near")
        activity = provenance.add_activity(conn, name="bench", agent="bench", software={})
        keys = Vocabulary(ctx.metadata_keys)
    files = []
    for i in range(n):
        content, name = os.urandom(SIZE), f"/bench/{folder}/f{i:03}"
        near.write(name, [content])
        meta = {"level": 0, "night": "2030-01-02"}
        files.append(NewFile(parse_lfn(name), fixity_of([content]), meta, storage_id))
    batch = catalog.Batch(files, keys)
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        catalog.register(conn, batch, names, activity)


def moved(ctx: Context, *, urgent: bool) -> tuple[float, float]:
    """Seconds until everything is there, and those that the last in the queue took once it had become urgent."""
    until_done(lambda: replicate.settle(ctx))
    threads = [threading.Thread(target=until_done, args=(lambda: transfer.carry_out(ctx),)) for _ in range(4)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    waited = 0.0
    if urgent:
        time.sleep(5)
        with ctx.db.transaction() as conn:
            last = "(SELECT max(transfer_id) FROM transfer WHERE state = 'Waiting')"
            row = conn.execute(
                f"UPDATE transfer SET priority = 0 WHERE transfer_id = {last} RETURNING transfer_id"  # noqa: S608
            ).fetchone()
        asked = time.perf_counter()
        done = "SELECT state = 'Done' FROM transfer WHERE transfer_id = %s"
        while row and waited == 0.0:
            time.sleep(0.05)
            with ctx.db.transaction() as conn:
                if (conn.execute(done, row).fetchone() or (False,))[0]:
                    waited = time.perf_counter() - asked
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin, waited


@contextmanager
def counted(device: str) -> Iterator[list[float]]:
    """Bytes per second over a device in each quarter of a second."""
    counter = Path(f"/sys/class/net/{device}/statistics/tx_bytes")
    rates: list[float] = []
    over = threading.Event()

    def count() -> None:
        at, bytes_then = time.perf_counter(), int(counter.read_text())
        while not over.wait(0.25):
            now, bytes_now = time.perf_counter(), int(counter.read_text())
            rates.append((bytes_now - bytes_then) / (now - at))
            at, bytes_then = now, bytes_now

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield rates
    finally:
        over.set()
        thread.join()


def until_done(duty: Callable[[], int]) -> None:
    while duty():
        pass


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
