"""Auditing a storage: its copies are read again, its listing is compared, manifests tell of it, and the catalogue is
made again from those. The limits: hashing in memory on one core, and listing alone."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.__main__ import Measure
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import Fixity, Lfn
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, compare, manifests, recovery, topology
from lightkeeper.store import catalog, postgres, provenance
from lightkeeper.store import topology as topology_store
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate
from lightkeeper.testing.observatory import PlainObservatory

LISTED = {"small": 50_000, "full": 500_000}
READ = {"small": 8, "full": 40}
"""Files of 64 MiB that are read again."""
LARGE = 64 << 20
TEN_PETABYTES = 10e15
TOPOLOGY = """
version: 1
sites: {North: {}}
storages:
  many: {site: North, root: "HOME/many", scrub: {rate: 100000 MB/s}}
  large: {site: North, root: "HOME/large", scrub: {rate: 100000 MB/s}}
"""


class Quiet:
    """No log."""

    def info(self, event: str, **facts: Any) -> None: ...

    warning = error = info


def run(scale: str) -> list[Measure]:
    n = LISTED[scale]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as home,
        postgres.start(Path(home) / "pg", shared_buffers_mb=512) as server,
    ):
        world = _world(Path(home), server.url)
        lines = [*_scrub(world, Path(home), READ[scale]), *_many(world, Path(home), n)]
        world.db.close()
        with postgres.start(Path(home) / "pg2", shared_buffers_mb=512) as other:
            (Path(home) / "many" / ".lightkeeper" / "storage").unlink()
            (Path(home) / "large" / ".lightkeeper" / "storage").unlink()
            fresh = _world(Path(home), other.url)
            took = _timed(lambda: recovery.rebuild(fresh, "many"))
            lines.append(Measure("rows made again from manifests", n / took, "copies/s"))
            fresh.db.close()
    return lines


def _world(home: Path, url: str) -> Context:
    migrate(url)
    database = Database(url).open()
    ctx = Context(
        db=database,
        settings=Settings(home=home),
        log=Quiet(),
        storage_drivers={"posix": PosixStorage},
        mover=StreamMover(),
        executors={},
        observatories=(PlainObservatory(),),
    )
    with database.transaction() as conn:
        topology_store.put_keys(conn, ctx.metadata_keys)
    for name in ("many", "large"):
        (home / name).mkdir(exist_ok=True)
    topology.apply(ctx, TOPOLOGY.replace("HOME", str(home)))
    return ctx


def _scrub(ctx: Context, home: Path, n: int) -> list[Measure]:
    block = os.urandom(LARGE)
    fixity = fixity_of([block])
    storage = PosixStorage("large", home / "large")
    for i in range(n):
        storage.write(f"/bench/large/n{i:03}", [block])
    _register(ctx, [(Lfn(f"/bench/large/n{i:03}"), fixity) for i in range(n)], "large")
    audit.begin_scrub(ctx, "large")

    def whole_pass() -> None:
        while audit.scrub(ctx):
            pass

    begin = time.perf_counter()
    core = _cpu(whole_pass)
    took = time.perf_counter() - begin
    ours = n * LARGE / core
    hashing = _cpu(lambda: [fixity_of([block]) for _ in range(4)])
    only_sha256 = _cpu(lambda: [hashlib.sha256(block) for _ in range(4)])
    days = TEN_PETABYTES / ours / 86400
    return [
        Measure("scrub, one storage", n * LARGE / took / 1e6, "MB/s"),
        Measure(
            "scrub, for each core",
            ours / 1e6,
            "MB/s",
            peer="sha256 + adler32 in memory",
            peer_value=4 * LARGE / hashing / 1e6,
        ),
        Measure("sha256 alone in memory", 4 * LARGE / only_sha256 / 1e6, "MB/s"),
        Measure("days for 10 PB, one core", days, "days"),
        Measure("cores for 10 PB in 90 days", days / 90, "cores"),
    ]


def _many(ctx: Context, home: Path, n: int) -> list[Measure]:
    content = b"x"
    fixity = fixity_of([content])
    lfns = [Lfn(f"/bench/many/run{i // 1000:04}/TEL001_SDH001_20300102T030405_{i:010}.fits.fz") for i in range(n)]
    for i, lfn in enumerate(lfns):
        path = home / "many" / lfn[1:]
        if i % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(content)
    registered = _timed(lambda: _register(ctx, [(lfn, fixity) for lfn in lfns], "many"))
    with ctx.db.transaction() as conn:
        conn.execute("UPDATE manifest_due SET since = now() - interval '1 h'")
        conn.execute("ANALYZE")
        element = next(s for s in topology_store.storages(conn) if s.name == "many")

    def tell() -> None:
        while manifests.write(ctx, element):
            pass

    told = _timed(tell)
    size = next(one.bytes for one in manifests.progress(ctx) if one.storage == "many")
    listing = _timed(lambda: sum(1 for _ in PosixStorage("many", home / "many").list()))
    compared = _timed(lambda: compare.compare(ctx, "many"))
    checked = _timed(lambda: manifests.faults(ctx, element, 10))
    return [
        Measure("register, with what manifests are due", n / registered, "files/s"),
        Measure("manifests written and read back", n / told, "copies/s"),
        Measure("bytes of manifest for each copy", size / n, "bytes"),
        Measure("manifests checked against the catalogue", n / checked, "copies/s"),
        Measure(
            f"compare the listing of {n} files",
            compared,
            "s",
            60 * n / 500_000,
            more_is_better=False,
            peer="listing alone",
            peer_value=listing,
        ),
    ]


def _register(ctx: Context, files: list[tuple[Lfn, Fixity]], storage: str) -> None:
    with ctx.db.transaction() as conn:
        vocabulary = topology_store.vocabulary(conn)
        where = next(s.storage_id for s in topology_store.storages(conn) if s.name == storage)
        activity = provenance.add_activity(conn, name="bench", agent="bench", software={})
    for first in range(0, len(files), 50_000):
        meta = {"night": "2030-01-02", "level": 0, "kind": "bench"}
        part = [NewFile(lfn, fixity, meta, where) for lfn, fixity in files[first : first + 50_000]]
        batch = catalog.Batch(part, vocabulary)
        with ctx.db.transaction() as conn:
            names = catalog.name(conn, batch)
        with ctx.db.transaction() as conn:
            catalog.register(conn, batch, names, activity)
    with ctx.db.transaction() as conn:
        conn.execute("ALTER TABLE replica DISABLE TRIGGER USER")  # the past is made up: no state changes
        conn.execute("UPDATE replica SET verified_at = now() - interval '1 h', written_at = now() - interval '2 h'")
        conn.execute("UPDATE replica SET state_since = now() - interval '2 h'")
        conn.execute("ALTER TABLE replica ENABLE TRIGGER USER")


def _cpu(act: Callable[[], object]) -> float:
    """Seconds of a core, whatever else the machine is at."""
    begin = time.process_time()
    act()
    return time.process_time() - begin


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin
