"""How storages are told apart, and how far the re-reading of their copies has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from psycopg import Connection

from lightkeeper.store.catalog import Stored
from lightkeeper.store.db import row, rows, value, values

WINDOW = 20_000
"""Replicas of all storages that are looked through at once for those of one."""


def prepare(conn: Connection) -> None:
    """Have a row for every storage, from the moment it is taken up."""
    conn.execute("INSERT INTO storage_audit (storage_id) SELECT storage_id FROM storage ON CONFLICT DO NOTHING")
    conn.execute("INSERT INTO comparison (storage_id) SELECT storage_id FROM storage ON CONFLICT DO NOTHING")


# --- markers ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Marker:
    """What a storage is known by; `marked`: since when it lies there."""

    marker: UUID
    marked: datetime | None


def marker(conn: Connection, storage_id: int) -> Marker:
    """The marker of a storage."""
    found = row(conn, Marker, "SELECT marker, marked FROM storage_audit WHERE storage_id = %(id)s", id=storage_id)
    if found is None:
        prepare(conn)
        return marker(conn, storage_id)
    return found


def set_marked(conn: Connection, storage_id: int, *, marked: bool) -> None:
    """Note that the marker lies on the storage, or that it is not known to."""
    conn.execute(
        "UPDATE storage_audit SET marked = CASE WHEN %s THEN now() END WHERE storage_id = %s", (marked, storage_id)
    )


def oldest_copies(conn: Connection, storage_id: int, limit: int) -> list[Stored]:
    """The copies that should lie on a storage, files that were registered first."""
    return rows(
        conn,
        Stored,
        """
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM replica r
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE r.storage_id = %(storage)s AND r.state IN ('Available', 'Suspect')
         ORDER BY r.file_id
         LIMIT %(limit)s
        """,
        storage=storage_id,
        limit=limit,
    )


# --- schedules -------------------------------------------------------------------------------------------------
def put_schedule(conn: Connection, storage: str, every: timedelta | None, rate: int | None) -> None:
    """Have a storage's copies read so; None: as the settings say."""
    prepare(conn)
    conn.execute(
        """
        UPDATE storage_audit SET every = %s, rate = %s
          FROM storage WHERE storage.storage_id = storage_audit.storage_id AND storage.name = %s
        """,
        (every, rate, storage),
    )


def schedules(conn: Connection) -> dict[int, tuple[timedelta | None, int | None]]:
    """How the copies of each storage are read, by its id."""
    found = conn.execute("SELECT storage_id, every, rate FROM storage_audit").fetchall()
    return {storage_id: (every, rate) for storage_id, every, rate in found}


# --- passes ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Piece:
    """The turn to read on in a pass: ours until the lease ends."""

    storage_id: int
    epoch: int
    pass_id: int
    after_id: int
    began: datetime
    not_before: datetime
    now: datetime


def begin_pass(conn: Connection, storage_id: int, every: timedelta) -> bool:
    """Begin a pass if the last one began so long ago and none is under way."""
    return bool(
        values(
            conn,
            """
            WITH due AS (
                UPDATE storage_audit a
                   SET began = now(), not_before = now()
                 WHERE a.storage_id = %(id)s AND a.began <= now() - %(every)s
                   AND NOT EXISTS (SELECT FROM scrub_pass p WHERE p.storage_id = a.storage_id AND p.ended IS NULL)
                RETURNING a.storage_id)
            INSERT INTO scrub_pass (storage_id)
            SELECT storage_id FROM due
            ON CONFLICT DO NOTHING
            RETURNING storage_id
            """,
            id=storage_id,
            every=every,
        )
    )


def claim(conn: Connection, storage_id: int, lease: timedelta) -> Piece | None:
    """The next turn of the pass that is under way on a storage; None when there is none, when somebody reads there, or
    when what was read has not been paid for yet."""
    return row(
        conn,
        Piece,
        """
        UPDATE storage_audit a
           SET lease_until = now() + %(lease)s, epoch = a.epoch + 1
          FROM scrub_pass p
         WHERE a.storage_id = %(id)s AND p.storage_id = a.storage_id AND p.ended IS NULL
           AND a.not_before <= now() AND coalesce(a.lease_until < now(), true)
     RETURNING a.storage_id, a.epoch, p.pass_id, p.after_id, p.began, a.not_before, now() AS now
        """,
        id=storage_id,
        lease=lease,
    )


def keep(conn: Connection, piece: Piece, lease: timedelta) -> bool:
    """Keep the turn ours; False when somebody took it over."""
    return (
        conn.execute(
            "UPDATE storage_audit SET lease_until = now() + %s WHERE storage_id = %s AND epoch = %s",
            (lease, piece.storage_id, piece.epoch),
        ).rowcount
        == 1
    )


def give_back(conn: Connection, piece: Piece, not_before: datetime, trouble: str = "") -> bool:
    """End a turn: the next one is not before the given time. False, and nothing is changed, when somebody took it."""
    return (
        conn.execute(
            """
            UPDATE storage_audit
               SET lease_until = NULL, not_before = %s, trouble = %s
             WHERE storage_id = %s AND epoch = %s
            """,
            (not_before, trouble, piece.storage_id, piece.epoch),
        ).rowcount
        == 1
    )


def window(conn: Connection, piece: Piece) -> int | None:
    """The last file that is looked at in a turn; None when there is no later one: the pass is over."""
    return value(
        conn,
        """
        SELECT max(file_id)
          FROM (SELECT file_id FROM replica WHERE file_id > %(after)s ORDER BY file_id LIMIT %(window)s) w
        """,
        after=piece.after_id,
        window=WINDOW,
    )


def copies_due(conn: Connection, piece: Piece, last: int, limit: int) -> list[Stored]:
    """The next Available copies of a pass, of files up to `last`; those verified since it began are left out."""
    return rows(
        conn,
        Stored,
        """
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM replica r
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE r.file_id > %(after)s AND r.file_id <= %(last)s
           AND r.storage_id = %(storage)s AND r.state = 'Available' AND r.verified_at < %(began)s
         ORDER BY r.file_id
         LIMIT %(limit)s
        """,
        after=piece.after_id,
        last=last,
        storage=piece.storage_id,
        began=piece.began,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a turn: copies of files up to `after_id` were dealt with."""

    after_id: int
    read: int
    size: int
    unread: int
    faults: int


def advance(conn: Connection, piece: Piece, done: Done) -> None:
    """Move a pass on."""
    conn.execute(
        """
        UPDATE scrub_pass
           SET after_id = %(after)s, n_read = n_read + %(read)s, n_bytes = n_bytes + %(size)s,
               n_unread = n_unread + %(unread)s, n_faults = n_faults + %(faults)s,
               n_passed = n_passed + (SELECT count(*) FROM replica
                                       WHERE file_id > %(before)s AND file_id <= %(after)s AND storage_id = %(storage)s)
         WHERE pass_id = %(id)s
        """,
        {
            "id": piece.pass_id,
            "storage": piece.storage_id,
            "before": piece.after_id,
            "after": done.after_id,
            "read": done.read,
            "size": done.size,
            "unread": done.unread,
            "faults": done.faults,
        },
    )


def end_pass(conn: Connection, piece: Piece) -> None:
    """Every copy was dealt with."""
    conn.execute("UPDATE scrub_pass SET ended = now() WHERE pass_id = %s", (piece.pass_id,))


def verified(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> None:
    """Available copies of these files were read back now and are in order."""
    conn.execute(
        """
        UPDATE replica SET verified_at = now()
         WHERE file_id = ANY(%s) AND storage_id = %s AND state = 'Available'
        """,
        (list(file_ids), storage_id),
    )


# --- reports ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Progress:
    """A storage with its pass under way, or the last one, or none; and when every copy had been read last."""

    storage_id: int
    storage: str
    files: int
    bytes: int
    marked: datetime | None
    last_began: datetime
    not_before: datetime
    trouble: str
    pass_id: int | None
    began: datetime | None
    ended: datetime | None
    n_passed: int
    n_read: int
    n_bytes: int
    n_unread: int
    n_faults: int
    complete: datetime | None


def progress(conn: Connection) -> list[Progress]:
    """How far the re-reading of each storage has come, by name."""
    prepare(conn)
    return rows(
        conn,
        Progress,
        """
        SELECT s.storage_id, s.name AS storage, coalesce(c.n_files, 0) AS files, coalesce(c.n_bytes, 0) AS bytes,
               a.marked, a.began AS last_began, a.not_before, a.trouble, p.pass_id, p.began, p.ended,
               coalesce(p.n_passed, 0) AS n_passed, coalesce(p.n_read, 0) AS n_read,
               coalesce(p.n_bytes, 0) AS n_bytes, coalesce(p.n_unread, 0) AS n_unread,
               coalesce(p.n_faults, 0) AS n_faults,
               (SELECT max(ended) FROM scrub_pass o WHERE o.storage_id = s.storage_id) AS complete
          FROM storage s
          JOIN storage_audit a USING (storage_id)
          LEFT JOIN storage_count c USING (storage_id)
          LEFT JOIN LATERAL (SELECT * FROM scrub_pass o
                              WHERE o.storage_id = s.storage_id ORDER BY pass_id DESC LIMIT 1) p ON true
         ORDER BY s.name
        """,
    )
