"""Approved deletions: intents with their evidence, from approval to the end of the replica."""

from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.policy import FileCopies
from lightkeeper.domain.states import Intent
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transfers import copies_of, count_replica, unsettle
from lightkeeper.store.transitions import move, move_replicas


def add_intent(
    conn: Connection, file: FileCopies, storage_id: int, policy_id: int | None, actor: str, why: str
) -> int | None:
    """Approve a deletion with its evidence, the verified copies elsewhere. The caller holds the file's row lock and
    has checked `may_free`, or that the file is Removed. None when one is approved already."""
    row_ = conn.execute(
        """
        INSERT INTO intent (file_id, storage_id, policy_id, removal, actor, why, evidence)
        SELECT %(file)s, %(storage)s, %(policy)s, %(removal)s, %(actor)s, %(why)s, jsonb_build_object(
               'sha256', (SELECT encode(sha256, 'hex') FROM file WHERE file_id = %(file)s),
               'copies', (SELECT jsonb_agg(jsonb_build_object(
                                 'storage', s.name, 'site', site.name, 'verified_at', c.verified_at) ORDER BY s.name)
                            FROM verified_copy c
                            JOIN storage s USING (storage_id)
                            JOIN site ON site.site_id = s.site_id
                           WHERE c.file_id = %(file)s AND c.storage_id <> %(storage)s))
        ON CONFLICT DO NOTHING
     RETURNING intent_id
        """,
        {
            "file": file.file_id,
            "storage": storage_id,
            "policy": policy_id,
            "removal": file.removed,
            "actor": actor,
            "why": why,
        },
    ).fetchone()
    notify(conn, "intent")
    return row_[0] if row_ else None


@dataclass(frozen=True, slots=True)
class OpenIntent:
    """An approved deletion that has not been carried out."""

    intent_id: int
    file_id: int
    storage_id: int
    path: str
    copies: int
    removal: bool


def open_intents(conn: Connection, limit: int) -> list[OpenIntent]:
    """Approved deletions, oldest first; `copies` is what their policy asks for."""
    return rows(
        conn,
        OpenIntent,
        """
        SELECT i.intent_id, i.file_id, i.storage_id, d.path || '/' || f.name AS path, coalesce(p.copies, 2) AS copies,
               i.removal
          FROM intent i
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          LEFT JOIN policy p USING (policy_id)
         WHERE i.state = 'Approved'
         ORDER BY i.intent_id
         LIMIT %(limit)s
        """,
        limit=limit,
    )


def lock_intent(conn: Connection, intent: OpenIntent) -> bool:
    """Lock an intent's row if it is still open."""
    return bool(
        values(
            conn,
            "SELECT intent_id FROM intent WHERE intent_id = %(id)s AND state = 'Approved' FOR UPDATE",
            id=intent.intent_id,
        )
    )


def lock_file_for_deletion(conn: Connection, intent: OpenIntent) -> FileCopies | None:
    """Lock the file's row and return its copies; None when the intent is no longer open."""
    conn.execute("SELECT FROM file WHERE file_id = %s FOR UPDATE", (intent.file_id,))
    if not values(
        conn,
        "SELECT intent_id FROM intent WHERE intent_id = %(id)s AND state = 'Approved'",
        id=intent.intent_id,
    ):
        return None
    return copies_of(conn, [intent.file_id])[0]


def in_use(conn: Connection, file_id: int, storage_id: int) -> bool:
    """Whether a transfer reads this replica now."""
    return bool(
        values(
            conn,
            """
            SELECT transfer_id FROM transfer
             WHERE file_id = %(file)s AND source_id = %(storage)s AND state = 'Running'
            """,
            file=file_id,
            storage=storage_id,
        )
    )


def deleted(conn: Connection, intent: OpenIntent) -> None:
    """The replica is gone."""
    unsettle(conn, [intent.file_id])
    move(conn, [intent.intent_id], Intent.APPROVED, Intent.DONE)
    gone = conn.execute(
        """
        WITH gone AS (
            DELETE FROM replica WHERE file_id = %(file)s AND storage_id = %(storage)s AND state = 'Deleting'
            RETURNING file_id)
        INSERT INTO history (kind, id, part, source, target, why)
        SELECT 'replica', file_id, %(storage)s, 'Deleting', 'Deleted', 'intent ' || %(intent)s FROM gone
        """,
        {"file": intent.file_id, "storage": intent.storage_id, "intent": intent.intent_id},
    ).rowcount
    if gone:
        count_replica(conn, intent.file_id, intent.storage_id, -1)


def void(conn: Connection, intent: OpenIntent, why: str, *, gone: bool) -> None:
    """The evidence no longer holds: the replica stays, or is Lost when its file is not there any more."""
    move(conn, [intent.intent_id], Intent.APPROVED, Intent.VOID, why)
    state = ReplicaState.LOST if gone else ReplicaState.AVAILABLE
    move_replicas(conn, [(intent.file_id, intent.storage_id)], ReplicaState.DELETING, state, why)
    unsettle(conn, [intent.file_id])
