"""What an operator switches on a storage by hand, how far a storage is from being empty, and its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from lightkeeper.store.db import notify, row, rows


@dataclass(frozen=True, slots=True)
class Switch:
    """Something that was switched by hand, and why."""

    operation: str
    is_on: bool
    since: datetime
    why: str


def switches(conn: Connection, storage_id: int) -> list[Switch]:
    """What is switched by hand on a storage."""
    return rows(
        conn,
        Switch,
        "SELECT operation, is_on, since, why FROM storage_switch WHERE storage_id = %(storage)s ORDER BY operation",
        storage=storage_id,
    )


def switch(conn: Connection, storage_id: int, wanted: Mapping[str, bool | None], why: str) -> None:
    """Switch these operations on or off; None: as the topology says."""
    back = [operation for operation, is_on in wanted.items() if is_on is None]
    conn.execute("DELETE FROM storage_switch WHERE storage_id = %s AND operation = ANY(%s)", (storage_id, back))
    given = {operation: is_on for operation, is_on in wanted.items() if is_on is not None}
    conn.execute(
        """
        INSERT INTO storage_switch AS w (storage_id, operation, is_on, why)
        SELECT %(storage)s, operation, is_on, %(why)s
          FROM unnest(%(operations)s::text[], %(values)s::boolean[]) AS n (operation, is_on)
        ON CONFLICT (storage_id, operation) DO UPDATE
           SET is_on = excluded.is_on, why = excluded.why,
               since = CASE WHEN w.is_on = excluded.is_on THEN w.since ELSE now() END
        """,
        {"storage": storage_id, "why": why, "operations": list(given), "values": list(given.values())},
    )


def drop_agreed(conn: Connection) -> None:
    """Take back the switches that the topology document has come to say too."""
    conn.execute(
        """
        DELETE FROM storage_switch w
         USING storage s
         WHERE s.storage_id = w.storage_id
           AND w.is_on = CASE w.operation WHEN 'read' THEN s.can_read WHEN 'write' THEN s.can_write
                                          WHEN 'delete' THEN s.can_delete ELSE s.draining END
        """
    )


def unsettle_copies(conn: Connection, storage_id: int) -> int:
    """Have every file with a copy on a storage, or one that waits to be made there, compared with what it is owed."""
    n = conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT file_id FROM replica WHERE storage_id = %(storage)s
         UNION
        SELECT file_id FROM transfer WHERE target_id = %(storage)s AND state = 'Waiting'
         ORDER BY 1
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        {"storage": storage_id},
    ).rowcount
    notify(conn, "unsettled")
    return n


@dataclass(frozen=True, slots=True)
class Left:
    """What is still on a storage: copies, their bytes; copies of files that lie verified at two other data centres at
    least; transfers that bring copies of its files elsewhere, or to it; deletions that were approved."""

    files: int
    bytes: int
    elsewhere: int
    going: int
    coming: int
    deleting: int


def left(conn: Connection, storage_id: int) -> Left:
    """How far a storage is from being empty."""
    found = row(
        conn,
        Left,
        """
        WITH here AS MATERIALIZED (
            SELECT r.file_id, f.size,
                   (SELECT count(DISTINCT v.site_id) FROM verified_copy v
                     WHERE v.file_id = r.file_id AND v.storage_id <> %(storage)s) AS centres
              FROM replica r JOIN file f USING (file_id)
             WHERE r.storage_id = %(storage)s)
        SELECT (SELECT count(*) FROM here) AS files,
               (SELECT coalesce(sum(size), 0) FROM here)::bigint AS bytes,
               (SELECT count(*) FROM here WHERE centres >= 2) AS elsewhere,
               (SELECT count(*) FROM transfer t JOIN here USING (file_id)
                 WHERE t.state IN ('Waiting', 'Running') AND t.target_id <> %(storage)s) AS going,
               (SELECT count(*) FROM transfer t
                 WHERE t.state IN ('Waiting', 'Running') AND t.target_id = %(storage)s) AS coming,
               (SELECT count(*) FROM intent WHERE storage_id = %(storage)s AND state = 'Approved') AS deleting
        """,
        storage=storage_id,
    )
    return found or Left(0, 0, 0, 0, 0, 0)


def retire(conn: Connection, storage_id: int) -> None:
    """The storage is never used again. Its name and what went over it stay known."""
    conn.execute("DELETE FROM storage_switch WHERE storage_id = %s", (storage_id,))
    conn.execute(
        "UPDATE storage SET enabled = false, ingest = false, retired = now() WHERE storage_id = %s", (storage_id,)
    )
