"""Registering files with 20 keys and a replica each: the store against the bare COPY of the same rows."""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bench.__main__ import Measure
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, NewFile, Vocabulary
from lightkeeper.domain.names import Fixity, Lfn
from lightkeeper.store import catalog, postgres, provenance, topology
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

BATCH = 50_000
FILES = {"small": 100_000, "full": 500_000}


def run(scale: str) -> list[Measure]:
    n = FILES[scale]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as home,
        postgres.start(Path(home) / "pg", shared_buffers_mb=512) as server,
    ):
        migrate(server.url)
        database = Database(server.url).open()
        keys = [MetaKey(f"key{k}", KeyType.STRING) for k in range(18)]
        keys += [MetaKey("number", KeyType.INT, KeyLevel.FILE), MetaKey("zenith", KeyType.FLOAT)]
        vocabulary = Vocabulary(keys)
        with database.transaction() as conn:
            topology.put_keys(conn, keys)
            conn.execute("INSERT INTO site (name, kind) VALUES ('A', 'data centre')")
            conn.execute("INSERT INTO storage (site_id, name, driver, root) VALUES (1, 'a', 'posix', '/')")
            activity = provenance.add_activity(conn, name="bench", agent="bench", software={})
        batches = [list(made(start, min(BATCH, n - start))) for start in range(0, n, BATCH)]
        first = timed(database, batches, vocabulary, activity)
        again = timed(database, batches, vocabulary, activity)
        with database.transaction() as conn:
            size = conn.execute(
                "SELECT sum(pg_total_relation_size(t)) FROM unnest(ARRAY['file', 'replica']::regclass[]) t"
            ).fetchone()
        bare = bare_copy(server.url)
        database.close()
    return [
        Measure("register files", n / first, "files/s", 40_000, peer="bare COPY of the same rows", peer_value=n / bare),
        Measure("register the same again", n / again, "files/s"),
        Measure(
            "bytes per file with one replica", float(size[0] if size else 0) / n, "bytes", 550, more_is_better=False
        ),
    ]


def made(start: int, n: int) -> Iterator[NewFile]:
    """Files of runs of 1000, whose 19 shared keys are those of the run."""
    for i in range(start, start + n):
        digest = hashlib.sha256(str(i).encode()).hexdigest()
        shared = {f"key{k}": f"value {k} of run {i // 1000}" for k in range(18)}
        meta = shared | {"number": i, "zenith": 20.0}
        lfn = Lfn(f"/bench/data/run{i // 1000:06d}/TEL001_SDH001_20300102T030405_{i:010d}_TEL_SHOWER_CHUNK000.fits.fz")
        yield NewFile(lfn, Fixity(i, digest, digest[:8]), meta, 1)


def timed(database: Database, batches: list[list[NewFile]], vocabulary: Vocabulary, activity: int) -> float:
    begin = time.perf_counter()
    for files in batches:
        batch = catalog.Batch(files, vocabulary)
        with database.transaction() as conn:
            names = catalog.name(conn, batch)
        with database.transaction() as conn:
            catalog.register(conn, batch, names, activity)
    return time.perf_counter() - begin


def bare_copy(url: str) -> float:
    """The rows of the file table by one COPY into a table with the same three indexes."""
    with psycopg.connect(url) as conn:
        conn.execute("CREATE TABLE bare (LIKE file INCLUDING INDEXES INCLUDING DEFAULTS)")
        conn.commit()
        begin = time.perf_counter()
        with conn.cursor() as out, conn.cursor().copy("COPY file TO STDOUT") as source, psycopg.connect(url) as other:
            with other.cursor().copy("COPY bare FROM STDIN") as target:
                for block in source:
                    target.write(block)
            other.commit()
            out.close()
        return time.perf_counter() - begin
