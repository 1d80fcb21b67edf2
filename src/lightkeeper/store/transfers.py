"""Copies under way: what is unsettled, and transfers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection

from lightkeeper.domain.catalog import Replica
from lightkeeper.domain.policy import FileCopies
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.domain.states import Transfer
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transitions import move, move_replicas

LOOKED_AT = 200
"""Transfers of one storage's queue that a claim looks at."""
GIVEN_UP_FOR = timedelta(hours=1)
"""How long no new transfer of a file is planned to a storage that all attempts to reach failed."""


# --- what is unsettled -----------------------------------------------------------------------------------------
def unsettle(conn: Connection, file_ids: Sequence[int]) -> None:
    """Have the copies of these files compared with what they are owed, now."""
    conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT DISTINCT id FROM unnest(%s::bigint[]) AS id ORDER BY id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        (list(file_ids),),
    )
    notify(conn, "unsettled")


def look_again(conn: Connection, due: Sequence[tuple[int, datetime]]) -> None:
    """Have these files compared at the given times."""
    conn.execute(
        """
        INSERT INTO unsettled (file_id, not_before)
        SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS w (file_id, due) ORDER BY file_id
        ON CONFLICT DO NOTHING
        """,
        ([file_id for file_id, _ in due], [at for _, at in due]),
    )


def take_unsettled(conn: Connection, limit: int) -> list[FileCopies]:
    """Take up to `limit` unsettled files off the queue, lock them, and return their copies and policies.

    The rows are deleted first: a change that happens meanwhile waits for us and puts its file back. Names without data
    are left out: nothing can be copied.
    """
    taken = values(
        conn,
        """
        WITH taken AS (
            DELETE FROM unsettled
             WHERE file_id IN (SELECT file_id FROM unsettled
                                WHERE not_before <= now()
                                ORDER BY file_id LIMIT %(limit)s
                                FOR UPDATE SKIP LOCKED)
            RETURNING file_id)
        SELECT file_id FROM file JOIN taken USING (file_id)
         WHERE file.size > 0 OR EXISTS (SELECT FROM replica r WHERE r.file_id = file.file_id)
         ORDER BY file_id
           FOR UPDATE OF file
        """,
        limit=limit,
    )
    return copies_of(conn, taken)


def copies_of(conn: Connection, file_ids: Sequence[int]) -> list[FileCopies]:
    """The copies of these files as observed."""
    found = conn.execute(
        """
        SELECT f.file_id, f.set_id, s.state = 'Removed',
               ARRAY(SELECT policy_id FROM set_policy p JOIN policy USING (policy_id)
                      WHERE p.set_id = f.set_id ORDER BY name),
               coalesce(r.copies, '{}'), coalesce(t.arriving, '{}'), coalesce(t.given_up, '{}')
          FROM file f
          JOIN meta_set s USING (set_id)
          LEFT JOIN LATERAL (
               SELECT array_agg(json_build_array(storage_id, state, verified_at, state_since)::text) AS copies
                 FROM replica WHERE replica.file_id = f.file_id) r ON true
          LEFT JOIN LATERAL (
               SELECT array_agg(target_id) FILTER (WHERE state IN ('Waiting', 'Running')) AS arriving,
                      array_agg(target_id) FILTER (WHERE state = 'Failed' AND attempts > 0
                                                    AND state_since > now() - %s) AS given_up
                 FROM transfer
                WHERE transfer.file_id = f.file_id AND state <> 'Done') t ON true
         WHERE f.file_id = ANY(%s)
         ORDER BY f.file_id
        """,
        (GIVEN_UP_FOR, list(file_ids)),
    ).fetchall()
    return [
        FileCopies(
            file_id,
            set_id,
            tuple(_replica(c) for c in copies),
            tuple(arriving),
            tuple(given_up),
            tuple(policies),
            removed,
        )
        for file_id, set_id, removed, policies, copies, arriving, given_up in found
    ]


def _replica(text: str) -> Replica:
    storage_id, state, verified_at, since = json.loads(text)
    return Replica(storage_id, ReplicaState(state), datetime.fromisoformat(verified_at), datetime.fromisoformat(since))


# --- transfers -------------------------------------------------------------------------------------------------
def add_transfers(conn: Connection, wanted: Sequence[tuple[int, int, int, int]]) -> int:
    """Queue copies as (file, target storage, policy, priority); one that is under way already is not doubled."""
    added = conn.execute(
        """
        INSERT INTO transfer (file_id, target_id, policy_id, priority)
        SELECT * FROM unnest(%s::bigint[], %s::smallint[], %s::int[], %s::smallint[])
        ON CONFLICT DO NOTHING
        """,
        tuple([list(column) for column in zip(*wanted, strict=True)]) if wanted else ([], [], [], []),
    ).rowcount
    if added:
        notify(conn, "transfer")
    return added


@dataclass(frozen=True, slots=True)
class ClaimedTransfer:
    """A transfer that is ours until its lease ends. Paths are the same at source and target."""

    transfer_id: int
    epoch: int
    attempts: int
    file_id: int
    path: str
    size: int
    sha256: str
    source_id: int
    target_id: int
    max_rate: int | None


def claim_transfers(conn: Connection, limit: int, lease: timedelta) -> list[ClaimedTransfer]:
    """Start up to `limit` waiting transfers by priority, each from the best copy that exists now: a data centre's
    before the observatory's. Links that carry as many as they may are passed over: of each storage's queue the first
    LOOKED_AT are looked at, however long it is."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('claim transfers'))")
    candidates = conn.execute(
        """
        WITH busy AS MATERIALIZED (
            SELECT bs.site_id AS source_site, bt.site_id AS target_site, count(*) AS running
              FROM transfer b
              JOIN storage bs ON bs.storage_id = b.source_id
              JOIN storage bt ON bt.storage_id = b.target_id
             WHERE b.state = 'Running'
             GROUP BY 1, 2)
        SELECT t.transfer_id, source.storage_id, source.site_id, target.site_id, source.max_transfers, source.running
          FROM storage target
         CROSS JOIN LATERAL (
               SELECT transfer_id, file_id, priority, not_before
                 FROM transfer
                WHERE state = 'Waiting' AND target_id = target.storage_id AND not_before <= now()
                ORDER BY priority, not_before, transfer_id
                LIMIT %(looked_at)s) t
         CROSS JOIN LATERAL (
               SELECT s.storage_id, s.site_id, coalesce(l.max_transfers, 4) AS max_transfers,
                      coalesce(busy.running, 0) AS running
                 FROM replica r
                 JOIN storage s USING (storage_id)
                 JOIN site USING (site_id)
                 LEFT JOIN link l ON l.source_id = s.site_id AND l.target_id = target.site_id
                 LEFT JOIN busy ON busy.source_site = s.site_id AND busy.target_site = target.site_id
                WHERE r.file_id = t.file_id AND r.state = 'Available' AND s.enabled
                  AND coalesce(busy.running, 0) < coalesce(l.max_transfers, 4)
                ORDER BY site.kind = 'data centre' DESC, running, s.storage_id
                LIMIT 1) source
         WHERE target.enabled
         ORDER BY t.priority, t.not_before, t.transfer_id
         LIMIT %(limit)s
        """,
        {"limit": limit, "looked_at": LOOKED_AT},
    ).fetchall()
    load: dict[tuple[int, int], int] = {}
    chosen: dict[int, int] = {}
    for transfer_id, source_id, source_site, target_site, most, running in candidates:
        here = load.setdefault((source_site, target_site), running)
        if here < most:
            load[source_site, target_site] = here + 1
            chosen[transfer_id] = source_id
    ids = move(conn, list(chosen), Transfer.WAITING, Transfer.RUNNING)
    return rows(
        conn,
        ClaimedTransfer,
        """
        WITH started AS (
            UPDATE transfer t
               SET source_id = w.source_id, lease_until = now() + %(lease)s, epoch = epoch + 1, attempts = attempts + 1
              FROM unnest(%(ids)s::bigint[], %(sources)s::smallint[]) AS w (transfer_id, source_id)
             WHERE t.transfer_id = w.transfer_id
         RETURNING t.*)
        SELECT t.transfer_id, t.epoch, t.attempts, t.file_id, d.path || '/' || f.name AS path, f.size,
               encode(f.sha256, 'hex') AS sha256, t.source_id, t.target_id, l.max_rate
          FROM started t
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          JOIN storage s ON s.storage_id = t.source_id
          JOIN storage g ON g.storage_id = t.target_id
          LEFT JOIN link l ON l.source_id = s.site_id AND l.target_id = g.site_id
         ORDER BY t.priority, t.transfer_id
        """,
        ids=ids,
        sources=[chosen[i] for i in ids],
        lease=lease,
    )


def extend_lease(conn: Connection, transfer: ClaimedTransfer, lease: timedelta) -> bool:
    """Keep the transfer ours; False when somebody took it over."""
    return (
        conn.execute(
            "UPDATE transfer SET lease_until = now() + %s WHERE transfer_id = %s AND epoch = %s AND state = 'Running'",
            (lease, transfer.transfer_id, transfer.epoch),
        ).rowcount
        == 1
    )


def lock_transfer(conn: Connection, transfer: ClaimedTransfer) -> bool:
    """Lock the transfer's row if it is still ours."""
    return bool(
        values(
            conn,
            """
            SELECT transfer_id FROM transfer
             WHERE transfer_id = %(id)s AND epoch = %(epoch)s AND state = 'Running'
               FOR UPDATE
            """,
            id=transfer.transfer_id,
            epoch=transfer.epoch,
        )
    )


def arrived(conn: Connection, transfer: ClaimedTransfer, sha256: str) -> None:
    """The copy was read back at its target with the file's sha256: a replica from now on."""
    unsettle(conn, [transfer.file_id])
    conn.execute(
        "UPDATE transfer SET sha256 = %s, error = NULL WHERE transfer_id = %s",
        (bytes.fromhex(sha256), transfer.transfer_id),
    )
    move(conn, [transfer.transfer_id], Transfer.RUNNING, Transfer.DONE)
    _count_link(conn, transfer, arrived=True)
    add_replica(conn, transfer.file_id, transfer.target_id)
    notify(conn, "input")


def add_replica(conn: Connection, file_id: int, storage_id: int) -> None:
    """A verified copy is there; one that was suspect or lost is in order again."""
    added = conn.execute(
        "INSERT INTO replica (file_id, storage_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (file_id, storage_id),
    ).rowcount
    if added:
        count_replica(conn, file_id, storage_id, 1)
    else:
        for state in (ReplicaState.LOST, ReplicaState.SUSPECT):
            move_replicas(conn, [(file_id, storage_id)], state, ReplicaState.AVAILABLE, "copied again and verified")


def did_not_arrive(conn: Connection, transfer: ClaimedTransfer, error: str, wait: timedelta | None) -> None:
    """The copy failed: try again after `wait`, or give up when that is None."""
    unsettle(conn, [transfer.file_id])
    conn.execute(
        "UPDATE transfer SET error = %s, lease_until = NULL, not_before = now() + %s WHERE transfer_id = %s",
        (error, wait or timedelta(0), transfer.transfer_id),
    )
    target = Transfer.FAILED if wait is None else Transfer.WAITING
    move(conn, [transfer.transfer_id], Transfer.RUNNING, target, error)
    _count_link(conn, transfer, arrived=False)


def _count_link(conn: Connection, transfer: ClaimedTransfer, *, arrived: bool) -> None:
    conn.execute(
        """
        INSERT INTO link_count AS c (source_id, target_id, n_transfers, n_bytes, n_failed)
        SELECT s.site_id, t.site_id, %(ok)s::int, %(ok)s::int * %(size)s::bigint, 1 - %(ok)s::int
          FROM storage s, storage t
         WHERE s.storage_id = %(source)s AND t.storage_id = %(target)s
        ON CONFLICT (source_id, target_id) DO UPDATE
           SET n_transfers = c.n_transfers + excluded.n_transfers, n_bytes = c.n_bytes + excluded.n_bytes,
               n_failed = c.n_failed + excluded.n_failed
        """,
        {"ok": int(arrived), "size": transfer.size, "source": transfer.source_id, "target": transfer.target_id},
    )


def abandoned_transfers(conn: Connection) -> list[int]:
    """Transfers whose worker let the lease end, locked."""
    return values(
        conn,
        """
        SELECT transfer_id FROM transfer
         WHERE state = 'Running' AND lease_until < now()
         ORDER BY transfer_id
           FOR UPDATE SKIP LOCKED
        """,
    )


def no_longer_wanted(conn: Connection, file_ids: Sequence[int]) -> None:
    """Give up the transfers of these files that did not begin."""
    waiting = values(
        conn,
        """
        SELECT transfer_id FROM transfer
         WHERE file_id = ANY(%(ids)s) AND state = 'Waiting'
         ORDER BY transfer_id
           FOR UPDATE
        """,
        ids=list(file_ids),
    )
    move(conn, waiting, Transfer.WAITING, Transfer.FAILED, "its file is Removed")


def live_arrivals(conn: Connection) -> set[str]:
    """Names, `<id>.<epoch>`, of the temporary files of transfers that are under way."""
    return set(values(conn, "SELECT transfer_id || '.' || epoch FROM transfer WHERE state = 'Running'"))


def running_transfers(conn: Connection) -> list[int]:
    """Transfers that somebody is at, or was."""
    return values(conn, "SELECT transfer_id FROM transfer WHERE state = 'Running' ORDER BY transfer_id")


def count_replica(conn: Connection, file_id: int, storage_id: int, sign: int) -> None:
    """A copy came to a storage (1) or left it (-1)."""
    conn.execute(
        """
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT %(storage)s, %(sign)s, %(sign)s * size FROM file WHERE file_id = %(file)s
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
        """,
        {"storage": storage_id, "file": file_id, "sign": sign},
    )
