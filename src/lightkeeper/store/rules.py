"""How far the copies are that a policy asks for, and how one is withdrawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.policy import Policy
from lightkeeper.domain.states import Transfer
from lightkeeper.store.db import notify, row, rows, values
from lightkeeper.store.transfers import unsettle
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class Progress:
    """Files under a policy; those that have every copy it asks for; copies and bytes that are missing."""

    files: int
    bytes: int
    fulfilled: int
    copies_missing: int
    bytes_missing: int


def progress(conn: Connection, policy: Policy, storage_ids: Sequence[int]) -> Progress:
    """How far a policy is, counted from the copies on the storages that it takes; one that was only reported, and not
    read yet, does not count."""
    found = row(
        conn,
        Progress,
        """
        SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes,
               count(*) FILTER (WHERE missing <= 0) AS fulfilled,
               coalesce(sum(missing) FILTER (WHERE missing > 0), 0)::bigint AS copies_missing,
               coalesce(sum(missing * size) FILTER (WHERE missing > 0), 0)::bigint AS bytes_missing
          FROM (SELECT f.size, %(copies)s - (
                       SELECT count(DISTINCT site_id) FROM replica r JOIN storage USING (storage_id)
                        WHERE r.file_id = f.file_id AND r.state = 'Available' AND r.verified_at >= r.written_at
                          AND r.storage_id = ANY(%(storages)s)
                       ) AS missing
                  FROM set_policy
                  JOIN file f USING (set_id)
                 WHERE policy_id = %(policy)s AND f.size > 0) f
        """,
        policy=policy.policy_id,
        copies=policy.copies,
        storages=list(storage_ids),
    )
    return found or Progress(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Transfers of a policy in one state, and the last error of those that met one."""

    state: Transfer
    transfers: int
    bytes: int
    error: str | None


def under_way(conn: Connection, policy_id: int) -> list[UnderWay]:
    """Transfers that the policy asked for and that are not done, by state and error, the most first."""
    return rows(
        conn,
        UnderWay,
        """
        SELECT t.state, count(*) AS transfers, sum(f.size)::bigint AS bytes, t.error
          FROM transfer t JOIN file f USING (file_id)
         WHERE t.policy_id = %(policy)s
           AND (t.state IN ('Waiting', 'Running') OR t.state = 'Failed' AND t.state_since > now() - interval '1 day')
         GROUP BY t.state, t.error
         ORDER BY 2 DESC
         LIMIT 20
        """,
        policy=policy_id,
    )


def unfulfilled(conn: Connection, policy: Policy, storage_ids: Sequence[int], limit: int) -> list[int]:
    """Some files that lack a copy which the policy asks for."""
    return values(
        conn,
        """
        SELECT f.file_id
          FROM set_policy
          JOIN file f USING (set_id)
         WHERE policy_id = %(policy)s AND f.size > 0
           AND %(copies)s > (SELECT count(DISTINCT site_id) FROM replica r JOIN storage USING (storage_id)
                              WHERE r.file_id = f.file_id AND r.state = 'Available' AND r.verified_at >= r.written_at
                                AND r.storage_id = ANY(%(storages)s))
         LIMIT %(limit)s
        """,
        policy=policy.policy_id,
        copies=policy.copies,
        storages=list(storage_ids),
        limit=limit,
    )


def rate(conn: Connection) -> float:
    """Bytes per second that arrived over all links, since the first arrival of the last hour."""
    found = values(
        conn,
        """
        SELECT coalesce(sum(f.size), 0)::float
               / greatest(60, extract(epoch FROM now() - coalesce(min(t.state_since), now())))
          FROM transfer t JOIN file f USING (file_id)
         WHERE t.state = 'Done' AND t.state_since > now() - interval '1 hour'
        """,
    )
    return float(found[0])


def assign(conn: Connection, policy_id: int) -> None:
    """Find the metadata sets that a new policy takes, and have their files compared with what they are owed. The caller
    holds registration."""
    conn.execute(
        """
        INSERT INTO set_policy (set_id, policy_id)
        SELECT s.set_id, p.policy_id
          FROM policy p JOIN meta_set s ON s.meta @@ p.set_query
         WHERE p.policy_id = %s AND s.state <> 'Removed'
        """,
        (policy_id,),
    )
    conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT file_id FROM file WHERE set_id IN (SELECT set_id FROM set_policy WHERE policy_id = %s) ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        (policy_id,),
    )
    notify(conn, "unsettled")


def withdraw(conn: Connection, policy_id: int) -> int:
    """Nothing is owed by this policy any more: its transfers that did not begin are given up, and its files compared
    with what the others ask for. Copies that were made stay. Returns how many transfers were given up. The caller holds
    registration."""
    waiting = values(
        conn,
        """
        SELECT transfer_id FROM transfer
         WHERE policy_id = %(policy)s AND state = 'Waiting'
         ORDER BY transfer_id
           FOR UPDATE
        """,
        policy=policy_id,
    )
    move(conn, waiting, Transfer.WAITING, Transfer.FAILED, "its policy was withdrawn")
    conn.execute("UPDATE transfer SET attempts = 0 WHERE transfer_id = ANY(%s)", (waiting,))
    files = values(conn, "SELECT DISTINCT file_id FROM transfer WHERE transfer_id = ANY(%(ids)s)", ids=waiting)
    conn.execute("DELETE FROM set_policy WHERE policy_id = %s", (policy_id,))
    conn.execute("DELETE FROM policy WHERE policy_id = %s", (policy_id,))
    unsettle(conn, files)
    return len(waiting)


def expired(conn: Connection) -> list[str]:
    """Policies whose time is over."""
    return values(conn, "SELECT name FROM policy WHERE expires < now() ORDER BY name")
