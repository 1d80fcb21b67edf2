"""What is taken off a queue is never more than was asked for, however the database goes about it.

Where it believes that a table has one row, it looks for the rows that are to be taken once for every row that is really
there, and takes others each time, unless the statement has them looked for first.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from tests.conftest import World

from lightkeeper.store import catalog, jobs, transfers, triggers
from lightkeeper.store.db import Connection

N = 20


@pytest.fixture
def conn(world: World) -> Iterator[Connection]:
    """A transaction over N files at north, taken back afterwards."""
    world.register(*(f"/test/raw/n{n}.plain" for n in range(N)))
    with world.ctx.db.transaction() as conn, conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM unsettled")
        yield conn


def put(conn: Connection, table: str, rows: Sequence[Any], put: Callable[[Sequence[Any]], object]) -> None:
    """Put rows, of which the database believes that there is one."""
    put(rows[:1])
    conn.execute(f"ANALYZE {table}")  # type: ignore[arg-type]
    put(rows[1:])


def files(conn: Connection) -> list[int]:
    return [file_id for (file_id,) in conn.execute("SELECT file_id FROM file ORDER BY 1").fetchall()]


def storage(conn: Connection, name: str) -> int:
    (storage_id,) = conn.execute("SELECT storage_id FROM storage WHERE name = %s", (name,)).fetchone() or (0,)
    return storage_id


def left(conn: Connection, table: str) -> int:
    (n,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)  # type: ignore[arg-type]  # noqa: S608
    return n


def test_a_pilot_gets_no_more_jobs_than_it_wants(conn: Connection):
    queued = "INSERT INTO job_queue (job_id, transformation_id, site_id) SELECT unnest(%s::bigint[]), 1, 0"
    put(conn, "job_queue", list(range(1, N + 1)), lambda ids: conn.execute(queued, (list(ids),)))
    assert len(jobs.take(conn, 1, (-1, 0), 32_767, 1)) == 1
    assert left(conn, "job_queue") == N - 1


def test_no_more_unsettled_files_are_taken_than_fit(conn: Connection):
    put(conn, "unsettled", files(conn), lambda ids: transfers.unsettle(conn, ids))
    assert len(transfers.take_unsettled(conn, 3)) == 3
    assert left(conn, "unsettled") == N - 3


def test_no_more_deliveries_are_claimed_than_fit(conn: Connection):
    mountain = storage(conn, "mountain")
    paths = [f"/test/raw/new{n}.plain" for n in range(N)]
    put(conn, "trigger", paths, lambda some: triggers.accept(conn, mountain, some))
    assert len(triggers.claim(conn, 3, timedelta(minutes=1))) == 3
    assert left(conn, "trigger WHERE lease_until IS NULL") == N - 3


def test_no_more_copies_are_read_again_than_fit(conn: Connection):
    north = storage(conn, "north")
    copies = [(file_id, north) for file_id in files(conn)]
    put(conn, "recheck", copies, lambda some: catalog.recheck(conn, some))
    assert len(catalog.take_recheck(conn, 3)) == 3
    assert left(conn, "recheck") == N - 3
