"""Reads of copies that failed: noted, counted, and forgotten when the copy is in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection

from lightkeeper.store.db import notify, row, rows


@dataclass(frozen=True, slots=True)
class FailedRead:
    """Somebody could not read a copy. `reader`: 'job 12', 'get', 'transfer 3', 'scrub'."""

    file_id: int
    storage_id: int
    reader: str
    why: str


@dataclass(frozen=True, slots=True)
class Failures:
    """How often a copy failed, and how many files failed on its storage lately; with this failure."""

    of_copy: int
    files: int


def note(conn: Connection, read: FailedRead, window: timedelta) -> Failures:
    """Note a failed read."""
    conn.execute(
        "INSERT INTO read_failure (file_id, storage_id, reader, why) VALUES (%s, %s, %s, %s)",
        (read.file_id, read.storage_id, read.reader, read.why[:2000]),
    )
    found = row(
        conn,
        Failures,
        """
        SELECT (SELECT count(*) FROM read_failure
                 WHERE storage_id = %(storage)s AND file_id = %(file)s)::int AS of_copy,
               (SELECT count(DISTINCT file_id) FROM read_failure
                 WHERE storage_id = %(storage)s AND at > now() - %(window)s)::int AS files
        """,
        storage=read.storage_id,
        file=read.file_id,
        window=window,
    )
    return found or Failures(1, 1)


def unread(conn: Connection, replicas: Sequence[tuple[int, int]]) -> None:
    """These copies, named by (file, storage), count for no deletion until they were read again, which is done soon."""
    conn.execute(
        """
        UPDATE replica r SET verified_at = 'epoch'
          FROM unnest(%s::bigint[], %s::smallint[]) AS w (file_id, storage_id)
         WHERE r.file_id = w.file_id AND r.storage_id = w.storage_id AND r.state = 'Available'
        """,
        ([file_id for file_id, _ in replicas], [storage_id for _, storage_id in replicas]),
    )
    notify(conn, "recheck")


def forget(conn: Connection, replica: tuple[int, int]) -> None:
    """A copy was read again: what failed before says nothing any more. So do failures of long ago."""
    conn.execute("DELETE FROM read_failure WHERE file_id = %s AND storage_id = %s", replica)
    conn.execute("DELETE FROM read_failure WHERE at < now() - interval '30 days'")


@dataclass(frozen=True, slots=True)
class Suspicious:
    """A copy that failed to be read, and was not read in order since."""

    storage: str
    lfn: str
    state: str
    failures: int
    first: datetime
    last: datetime
    readers: list[str]
    why: str


def suspicious(conn: Connection, storage_id: int | None, limit: int) -> list[Suspicious]:
    """Copies that failed to be read, on a storage or on any, those that failed most first."""
    return rows(
        conn,
        Suspicious,
        """
        SELECT s.name AS storage, d.path || '/' || f.name AS lfn, coalesce(r.state::text, 'gone') AS state, w.failures,
               w.first, w.last, w.readers, w.why
          FROM (SELECT storage_id, file_id, count(*)::int AS failures, min(at) AS first, max(at) AS last,
                       array_agg(DISTINCT split_part(reader, ' ', 1)) AS readers,
                       (array_agg(why ORDER BY at DESC))[1] AS why
                  FROM read_failure
                 WHERE %(storage)s::smallint IS NULL OR storage_id = %(storage)s
                 GROUP BY 1, 2) w
          JOIN storage s USING (storage_id)
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          LEFT JOIN replica r ON r.file_id = w.file_id AND r.storage_id = w.storage_id
         ORDER BY w.failures DESC, w.last DESC, lfn
         LIMIT %(limit)s
        """,
        storage=storage_id,
        limit=limit,
    )


def in_doubt(conn: Connection, many: int, window: timedelta) -> dict[int, int]:
    """Storages on which so many files failed to be read lately: how many, by id."""
    found = conn.execute(
        """
        SELECT storage_id, count(DISTINCT file_id)::int
          FROM read_failure
         WHERE at > now() - %s
         GROUP BY storage_id
        HAVING count(DISTINCT file_id) >= %s
        """,
        (window, many),
    ).fetchall()
    return dict(found)
