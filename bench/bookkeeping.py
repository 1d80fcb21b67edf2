"""Bookkeeping of copies without a byte: what is owed is decided, transfers are claimed and recorded.

Embedded PostgreSQL with fsync on; two data centres and an observatory, as the planner and the movers see them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.__main__ import Measure, timed
from bench.register import made
from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.instance import _Silent
from lightkeeper.settings import Settings
from lightkeeper.steps import replicate, rules, topology, transfer
from lightkeeper.store import catalog, postgres, provenance, transfers
from lightkeeper.store import topology as places
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

FILES = {"small": 50_000, "full": 500_000}
BATCH = 50_000
CLAIMS = 2000
TOPOLOGY = """
sites:
  Mountain: {kind: observatory}
  North: {}
  South: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain"}
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
links:
  - {from: Mountain, to: North, max_transfers: MOST}
  - {from: Mountain, to: South, max_transfers: MOST}
policies:
  raw: {files: {key0: {"!=": "none"}}, copies: 2, free_on_site: true}
"""


def run(scale: str) -> list[Measure]:
    n = FILES[scale]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        postgres.start(Path(folder) / "pg", shared_buffers_mb=512) as server,
    ):
        migrate(server.url)
        database = Database(server.url).open()
        ctx = context(database, Path(folder))
        keys = [MetaKey(f"key{k}", KeyType.STRING) for k in range(18)]
        keys += [MetaKey("number", KeyType.INT, KeyLevel.FILE), MetaKey("zenith", KeyType.FLOAT)]
        with database.transaction() as conn:
            places.put_keys(conn, keys)
            activity = provenance.add_activity(conn, name="bench", agent="bench", software={})
        for name in ("mountain", "north", "south"):
            (Path(folder) / name).mkdir()
        document = TOPOLOGY.replace("ROOT", folder)
        topology.apply(ctx, document.replace("MOST", "32000"))
        register(database, keys, activity, n)
        planned = timed(lambda: until_done(lambda: replicate.settle(ctx)))
        idle = timed(lambda: until_done(lambda: replicate.settle(ctx)))
        told = timed(lambda: rules.find(ctx))
        recorded = timed(lambda: record(ctx))
        topology.apply(ctx, document.replace("MOST", "1"))
        while transfer.claim(ctx):
            pass
        full = timed(lambda: [transfer.claim(ctx) for _ in range(20)]) / 20
        until_done(lambda: replicate.settle(ctx))
        database.close()
    return [
        Measure("decide what is owed", n / planned, "files/s", 500_000 / 30),
        Measure("the same when nothing changed", idle, "s", 1, more_is_better=False),
        Measure(f"how far a rule on {n:,} files is", told, "s", 1, more_is_better=False),
        Measure("claim and record transfers", CLAIMS / recorded, "transfers/s", 2000),
        Measure(f"a claim when all links are full, {n - CLAIMS:,} waiting", full * 1e3, "ms"),
    ]


def context(database: Database, home: Path) -> Context:
    from lightkeeper.adapters.mover_stream import StreamMover
    from lightkeeper.adapters.storage_posix import PosixStorage

    settings = Settings(home=home)
    return Context(database, settings, _Silent(), {"posix": PosixStorage}, StreamMover(), {}, ())


def register(database: Database, keys: list[MetaKey], activity: int, n: int) -> None:
    for start in range(0, n, BATCH):
        batch = catalog.Batch(list(made(start, min(BATCH, n - start))), Vocabulary(keys))
        with database.transaction() as conn:
            names = catalog.name(conn, batch)
        with database.transaction() as conn:
            catalog.register(conn, batch, names, activity)


def record(ctx: Context) -> None:
    """Claim streams of transfers and record them as arrived."""
    done = 0
    while done < CLAIMS:
        stream = transfer.claim(ctx)
        with ctx.db.transaction() as conn:
            transfers.still_ours(conn, stream)
            transfers.arrived(conn, stream, 1.0)
        done += len(stream)


def until_done(duty: Callable[[], int]) -> None:
    while duty():
        pass
