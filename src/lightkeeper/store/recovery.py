"""Times during which the catalogue is behind its storages, and nothing may be deleted."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from lightkeeper.store.db import row, rows, value


@dataclass(frozen=True, slots=True)
class Recovery:
    """A time of recovery. `ended`: None while it is under way."""

    recovery_id: int
    began: datetime
    ended: datetime | None
    why: str
    end_why: str


def begin(conn: Connection, why: str) -> bool:
    """Nothing is deleted from now on. Waits for deletions that are being carried out. False when it was so already."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('recovery'))")
    return (
        conn.execute("INSERT INTO recovery (why) VALUES (%s) ON CONFLICT DO NOTHING RETURNING recovery_id", (why,))
        .rowcount
        == 1
    )  # fmt: skip


def end(conn: Connection, why: str) -> bool:
    """Things may be deleted again. False when they might already."""
    return conn.execute("UPDATE recovery SET ended = now(), end_why = %s WHERE ended IS NULL", (why,)).rowcount == 1


def last(conn: Connection) -> Recovery | None:
    """The recovery that is under way, or the last one."""
    return row(
        conn,
        Recovery,
        "SELECT recovery_id, began, ended, why, end_why FROM recovery ORDER BY ended IS NULL DESC, began DESC LIMIT 1",
    )


def forbids_deletion(conn: Connection) -> bool:
    """Whether a recovery is under way. When not, none begins until this transaction ends: ask in the transaction that
    approves or carries out a deletion."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('recovery'))")
    return value(conn, "SELECT recovery_id FROM recovery WHERE ended IS NULL") is not None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How far a storage is known again. `compared`: its listing was compared since the recovery began; `unread`: copies
    that were reported, or doubted, and are still to be read."""

    storage_id: int
    storage: str
    enabled: bool
    compared: datetime | None
    dark: int
    lost: int
    unread: int


def reconciled(conn: Connection) -> list[Reconciled]:
    """How far each storage is known again since the last recovery began, by name."""
    return rows(
        conn,
        Reconciled,
        """
        SELECT s.storage_id, s.name AS storage, s.enabled, c.ended AS compared, coalesce(c.n_dark, 0) AS dark,
               coalesce(c.n_lost, 0) AS lost,
               (SELECT count(*) FROM replica r
                 WHERE r.storage_id = s.storage_id AND r.verified_at < r.written_at AND r.state = 'Available')
             + (SELECT count(*) FROM replica r WHERE r.storage_id = s.storage_id AND r.state = 'Suspect')
             + (SELECT count(*) FROM recheck q WHERE q.storage_id = s.storage_id) AS unread
          FROM storage s
          LEFT JOIN comparison c ON c.storage_id = s.storage_id AND c.ended IS NOT NULL
                AND c.began >= (SELECT max(began) FROM recovery)
         ORDER BY s.name
        """,
    )
