"""Deletions without a byte: on-site copies of files with two copies elsewhere are decided, checked again under lock and
recorded, as the worker does it; only the unlink of each file is left out.

Embedded PostgreSQL with fsync on, an observatory and two data centres.
"""

import tempfile
from pathlib import Path

from bench.__main__ import Measure, timed
from bench.bookkeeping import TOPOLOGY, context, register, until_done
from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, StorageElement
from lightkeeper.steps import delete, replicate, topology
from lightkeeper.store import postgres, provenance
from lightkeeper.store import topology as places
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

FILES = {"small": 20_000, "full": 200_000}


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
        topology.apply(ctx, TOPOLOGY.replace("ROOT", folder).replace("MOST", "32000"))
        register(database, keys, activity, n)
        with database.transaction() as conn:
            (mountain,) = (s for s in places.storages(conn) if s.name == "mountain")
            conn.execute("""
                INSERT INTO replica (file_id, storage_id)
                SELECT file_id, storage_id FROM file, storage ON CONFLICT DO NOTHING
            """)
        decided = timed(lambda: until_done(lambda: replicate.settle(ctx)))
        carried_out = timed(lambda: until_done(lambda: _chunk(ctx, mountain)))
        database.close()
    return [
        Measure("decide which copies go, with evidence", n / decided, "files/s"),
        Measure("check it again under lock and record it", n / carried_out, "files/s"),
        Measure("both together", n / (decided + carried_out), "files/s", 2000),
    ]


def _chunk(ctx: Context, element: StorageElement) -> int:
    """What `delete` does with a chunk, without its unlinks."""
    intents, against = delete._begin(ctx, element)
    delete._record(ctx, intents, [])
    return len(intents) + len(against)
