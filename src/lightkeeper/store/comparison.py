"""A storage's listing beside the catalogue's replicas there, and the dark files that it showed."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection
from psycopg.rows import class_row

from lightkeeper.ports import Entry
from lightkeeper.store.catalog import Stored
from lightkeeper.store.db import row, rows, value
from lightkeeper.store.scrub import prepare


# --- when ------------------------------------------------------------------------------------------------------
def due(conn: Connection, every: timedelta) -> set[int]:
    """Storages that were compared, or taken up, so long ago."""
    prepare(conn)
    found = conn.execute("SELECT storage_id FROM comparison WHERE began <= now() - %s", (every,)).fetchall()
    return {storage_id for (storage_id,) in found}


@contextmanager
def alone(session: Connection, storage_id: int) -> Generator[bool]:
    """Whether nobody else compares this storage, for as long as the block takes."""
    query = "SELECT pg_try_advisory_lock(hashtext('comparison'), %s)"
    ours = bool((session.execute(query, (storage_id,)).fetchone() or (False,))[0])
    try:
        yield ours
    finally:
        if ours:
            session.execute("SELECT pg_advisory_unlock(hashtext('comparison'), %s)", (storage_id,))


# --- the listing -----------------------------------------------------------------------------------------------
def begin_listing(session: Connection) -> None:
    """Make room for a listing; it goes when the session ends."""
    session.execute("""
        CREATE TEMP TABLE listed (
            size bigint, modified double precision, directory text COLLATE "C", name text COLLATE "C")
    """)


def add_listed(session: Connection, entries: Iterable[Entry]) -> None:
    """Take a block of a listing in."""
    with session.cursor().copy("COPY listed (size, modified, directory, name) FROM STDIN") as copy:
        for entry in entries:
            directory, _, name = entry.path.rpartition("/")
            copy.write_row((entry.size, entry.modified, directory, name))


@dataclass(frozen=True, slots=True)
class Difference:
    """A path where listing and catalogue differ: `size` bytes lie there, or nothing; `file_id` should, or nothing."""

    path: str
    size: int | None
    modified: float | None
    file_id: int | None
    known_size: int | None
    sha256: str | None
    young: bool


def differences(
    session: Connection, storage_id: int, *, ingest: bool, began: datetime, oldest: datetime
) -> Generator[list[Difference]]:
    """Where a listing that began then differs from the catalogue, a block at a time.

    Lost: a copy that is Available, and was written, verified and moved before the listing began, is not listed with
    its size. Dark: a file is listed whose path is no replica's here, in whatever state. It is young when it was
    modified after `oldest`. On a storage that takes deliveries a file of a name that the catalogue does not know, or
    knows with another size, is a delivery to come; so is one that a trigger announces.
    """
    session.execute("ANALYZE listed")
    with session.cursor("difference", row_factory=class_row(Difference), withhold=True) as cursor:
        cursor.execute(
            """
            SELECT coalesce(l.directory || '/' || l.name, k.directory || '/' || k.name) AS path, l.size, l.modified,
                   k.file_id, k.size AS known_size, encode(k.sha256, 'hex') AS sha256,
                   coalesce(to_timestamp(l.modified) > %(oldest)s, false) AS young
              FROM (SELECT r.*, d.path AS directory, f.name, f.size, f.sha256
                      FROM replica r
                      JOIN file f USING (file_id)
                      JOIN directory d USING (dir_id)
                     WHERE r.storage_id = %(storage)s) k
              FULL JOIN listed l ON l.directory = k.directory AND l.name = k.name
             WHERE CASE WHEN k.file_id IS NOT NULL THEN
                       k.state = 'Available' AND l.size IS DISTINCT FROM k.size
                       AND greatest(k.written_at, k.verified_at, k.state_since) < %(began)s
                   WHEN %(ingest)s THEN
                       EXISTS (SELECT FROM directory d JOIN file f USING (dir_id)
                                WHERE d.path = l.directory AND f.name = l.name AND f.size = l.size)
                       AND NOT EXISTS (SELECT FROM trigger t
                                        WHERE t.storage_id = %(storage)s AND t.path = l.directory || '/' || l.name
                                          AND t.state = 'Accepted')
                   ELSE true END
             ORDER BY 1
            """,
            {"storage": storage_id, "ingest": ingest, "began": began, "oldest": oldest},
        )
        while block := cursor.fetchmany(200):
            yield block


# --- dark files ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Dark:
    """A file that lies on a storage and is not in the catalogue. `modified` by the storage's clock."""

    path: str
    size: int
    modified: datetime
    first_seen: datetime
    last_seen: datetime


def note_dark(conn: Connection, storage_id: int, found: Sequence[Difference]) -> list[str]:
    """Record those of these files that are dark still: nobody has registered them or brings them. The caller holds
    their names. Returns their paths."""
    parts = [one.path.rpartition("/") for one in found]
    noted = conn.execute(
        """
        INSERT INTO dark_file AS dark (storage_id, path, size, modified)
        SELECT %(storage)s, directory || '/' || name, size, to_timestamp(modified)
          FROM unnest(%(directories)s::text[], %(names)s::text[], %(sizes)s::bigint[], %(modified)s::float8[])
               AS w (directory, name, size, modified)
         WHERE NOT EXISTS (
               SELECT FROM directory d JOIN file f USING (dir_id)
                JOIN replica r ON r.file_id = f.file_id AND r.storage_id = %(storage)s
                WHERE d.path = w.directory AND f.name = w.name)
           AND NOT EXISTS (
               SELECT FROM directory d JOIN file f USING (dir_id)
                JOIN transfer t ON t.file_id = f.file_id AND t.target_id = %(storage)s
                WHERE d.path = w.directory AND f.name = w.name AND t.state IN ('Waiting', 'Running'))
        ON CONFLICT (storage_id, path) DO UPDATE
           SET size = excluded.size, modified = excluded.modified, last_seen = now(),
               first_seen = CASE WHEN (dark.size, dark.modified) = (excluded.size, excluded.modified)
                            THEN dark.first_seen ELSE now() END
     RETURNING path
        """,
        {
            "storage": storage_id,
            "directories": [directory for directory, _, _ in parts],
            "names": [name for _, _, name in parts],
            "sizes": [one.size for one in found],
            "modified": [one.modified for one in found],
        },
    ).fetchall()
    return [path for (path,) in noted]


def why_not_dark(conn: Connection, storage_id: int, path: str) -> str:
    """Why a file on a storage is not dark, or not any more; empty when it is. The caller holds its name and, when there
    is one, the row of its file, so that it stays so until the transaction ends."""
    directory, _, name = path.rpartition("/")
    return (
        value(
            conn,
            """
            SELECT CASE WHEN r.file_id IS NOT NULL THEN 'the catalogue has a copy there, ' || r.state
                        WHEN t.transfer_id IS NOT NULL THEN 'a transfer brings it' END
              FROM directory d
              JOIN file f USING (dir_id)
              LEFT JOIN replica r ON r.file_id = f.file_id AND r.storage_id = %(storage)s
              LEFT JOIN transfer t ON t.file_id = f.file_id AND t.target_id = %(storage)s
                                  AND t.state IN ('Waiting', 'Running')
             WHERE d.path = %(directory)s AND f.name = %(name)s
             LIMIT 1
            """,
            storage=storage_id,
            directory=directory,
            name=name,
        )
        or ""
    )


def dark(conn: Connection, storage_id: int, limit: int | None = None, after: str = "") -> list[Dark]:
    """Dark files of a storage by path, those after a path."""
    return rows(
        conn,
        Dark,
        """
        SELECT path, size, modified, first_seen, last_seen
          FROM dark_file
         WHERE storage_id = %(storage)s AND path > %(after)s
         ORDER BY path
         LIMIT %(limit)s
        """,
        storage=storage_id,
        after=after,
        limit=limit,
    )


def dark_at(conn: Connection, storage_id: int, path: str) -> Dark | None:
    """What the last comparison saw at a path, if it was dark; locked."""
    return row(
        conn,
        Dark,
        """
        SELECT path, size, modified, first_seen, last_seen
          FROM dark_file
         WHERE storage_id = %(storage)s AND path = %(path)s
           FOR UPDATE
        """,
        storage=storage_id,
        path=path,
    )


def dark_no_more(conn: Connection, storage_id: int, path: str) -> None:
    """A file is not there any more, or is in the catalogue."""
    conn.execute("DELETE FROM dark_file WHERE storage_id = %s AND path = %s", (storage_id, path))


def note_deleted(conn: Connection, storage_id: int, path: str, size: int, why: str) -> None:
    """A line of history: a dark file was deleted."""
    conn.execute(
        """
        INSERT INTO history (kind, id, part, source, target, why)
        VALUES ('dark file', %(storage)s, %(storage)s, 'Dark', 'Deleted', %(path)s || ', ' || %(size)s || ' bytes: ' ||
                %(why)s)
        """,
        {"storage": storage_id, "path": path, "size": str(size), "why": why},
    )


# --- results ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Counts:
    """A comparison in numbers. `young`: not in the catalogue, and not old enough to be called dark. `unnamed`: names
    that are no text."""

    listed: int
    bytes: int
    young: int
    unnamed: int
    dark: int
    dark_bytes: int
    lost: int


def completed(conn: Connection, storage_id: int, began: datetime, counts: Counts) -> None:
    """Keep the result of a comparison that came to its end; dark files that it did not see are dark no more."""
    conn.execute("DELETE FROM dark_file WHERE storage_id = %s AND last_seen < %s", (storage_id, began))
    conn.execute(
        """
        UPDATE comparison
           SET began = %(began)s, ended = now(), n_listed = %(listed)s, n_bytes = %(bytes)s, n_young = %(young)s,
               n_unnamed = %(unnamed)s, n_dark = %(dark)s, n_dark_bytes = %(dark_bytes)s, n_lost = %(lost)s
         WHERE storage_id = %(storage)s
        """,
        {
            "storage": storage_id,
            "began": began,
            "listed": counts.listed,
            "bytes": counts.bytes,
            "young": counts.young,
            "unnamed": counts.unnamed,
            "dark": counts.dark,
            "dark_bytes": counts.dark_bytes,
            "lost": counts.lost,
        },
    )


def stored(storage_id: int, lost: Difference) -> Stored:
    """The copy that should lie where a difference is."""
    return Stored(lost.file_id or 0, storage_id, lost.path, lost.known_size or 0, lost.sha256 or "")
