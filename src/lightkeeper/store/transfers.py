"""Copies under way: what is unsettled, and transfers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from psycopg import Connection

from lightkeeper.domain.catalog import Replica
from lightkeeper.domain.policy import FileCopies
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.domain.states import Transfer
from lightkeeper.domain.transferring import LOOKED_AT, Head, Queued, Stream
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transitions import move, move_replicas

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
             WHERE file_id = ANY(ARRAY( -- looked for once; a join may look again, and take more
                   SELECT file_id FROM unsettled
                    WHERE not_before <= now()
                    ORDER BY file_id LIMIT %(limit)s
                      FOR UPDATE SKIP LOCKED))
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
        SELECT f.file_id, f.set_id, f.size, s.state = 'Removed',
               ARRAY(SELECT policy_id FROM file_owed o JOIN policy USING (policy_id)
                      WHERE o.file_id = f.file_id ORDER BY name),
               coalesce(r.copies, '{}'), coalesce(t.coming, '{}') || coalesce(r.buffered, '{}'),
               coalesce(t.given_up, '{}')
          FROM file f
          JOIN meta_set s USING (set_id)
          LEFT JOIN LATERAL (
               SELECT array_agg(json_build_array(
                          storage_id, state, verified_at, state_since, written_at)::text) AS copies,
                      array_agg(storage_id) FILTER (WHERE state = 'Buffered') AS buffered
                 FROM replica WHERE replica.file_id = f.file_id) r ON true
          LEFT JOIN LATERAL (
               SELECT array_agg(target_id) FILTER (WHERE state IN ('Waiting', 'Running')) AS coming,
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
            size,
        )
        for file_id, set_id, size, removed, policies, copies, arriving, given_up in found
    ]


@lru_cache(10_000)
def _replica(text: str) -> Replica:
    """A copy as the database tells it; copies that came together are told in the same words."""
    storage_id, state, *times = json.loads(text)
    return Replica(storage_id, ReplicaState(state), *map(datetime.fromisoformat, times))


# --- transfers -------------------------------------------------------------------------------------------------
def add_transfers(
    conn: Connection,
    wanted: Sequence[tuple[int, int, int | None, int]],
    sources: Mapping[int, Sequence[int]] | None = None,
) -> int:
    """Queue copies as (file, target storage, policy, priority); one that is under way already is not doubled.
    `sources`: for policies that copy only from some storages, these."""
    added = conn.execute(
        """
        INSERT INTO transfer (file_id, target_id, policy_id, priority, activity, sources)
        SELECT w.*, coalesce(p.activity, 'preservation'), s.sources::smallint[]
          FROM unnest(%s::bigint[], %s::smallint[], %s::int[], %s::smallint[])
               AS w (file_id, target_id, policy_id, priority)
          LEFT JOIN policy p USING (policy_id)
          LEFT JOIN unnest(%s::int[], %s::text[]) AS s (policy_id, sources) USING (policy_id)
        ON CONFLICT DO NOTHING
        """,
        (
            *([list(column) for column in zip(*wanted, strict=True)] if wanted else ([], [], [], [])),
            list(sources or {}),
            ["{" + ",".join(map(str, ids)) + "}" for ids in (sources or {}).values()],
        ),
    ).rowcount
    if added:
        notify(conn, "transfer")
    return added


@dataclass(frozen=True, slots=True)
class ClaimedTransfer:
    """A transfer that is ours until its lease ends. Paths are the same at source and target; those of one `stream` go
    in one go."""

    transfer_id: int
    epoch: int
    attempts: int
    file_id: int
    path: str
    size: int
    sha256: str
    source_id: int
    target_id: int
    activity: str
    stream: int


def hold_claims(conn: Connection) -> None:
    """Nobody else decides what goes next until this transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('claim transfers'))")


def running_streams(conn: Connection) -> list[tuple[int, int, str]]:
    """Streams under way as (source, target, activity)."""
    return conn.execute("""
        SELECT DISTINCT ON (stream) source_id, target_id, activity
          FROM transfer
         WHERE state = 'Running'
         ORDER BY stream
    """).fetchall()


def queue_heads(conn: Connection) -> list[Head]:
    """For which storages and activities transfers wait, and at which priorities."""
    return rows(
        conn,
        Head,
        """
        SELECT s.storage_id AS target_id, a.activity, priority
          FROM storage_now s
         CROSS JOIN activity_share a
         CROSS JOIN generate_series(0, 9) AS priority
         CROSS JOIN LATERAL (SELECT FROM transfer t
                              WHERE t.state = 'Waiting' AND t.target_id = s.storage_id AND t.activity = a.activity
                                AND t.priority = priority.priority AND t.not_before <= now()
                              ORDER BY t.not_before LIMIT 1) first  -- one look into the index each, however many wait
         WHERE s.writable
        """,
    )


def queued(conn: Connection, head: Head) -> list[Queued]:
    """The first LOOKED_AT transfers that wait there, in their order, each with the storages whose copy can be read: one
    on tape must be staged first."""
    found = conn.execute(
        """
        SELECT t.transfer_id, f.size,
               ARRAY(SELECT storage_id FROM online_copy r
                      WHERE r.file_id = t.file_id AND (t.sources IS NULL OR r.storage_id = ANY (t.sources))), t.failed
          FROM (SELECT transfer_id, file_id, not_before, failed, sources
                  FROM transfer
                 WHERE state = 'Waiting' AND target_id = %(target)s AND activity = %(activity)s
                   AND priority = %(priority)s AND not_before <= now()
                 ORDER BY not_before, transfer_id
                 LIMIT %(limit)s) t
          JOIN file f USING (file_id)
         ORDER BY t.not_before, t.transfer_id
        """,
        {"target": head.target_id, "activity": head.activity, "priority": head.priority, "limit": LOOKED_AT},
    ).fetchall()
    return [Queued(i, size, tuple(sources), tuple(failed)) for i, size, sources, failed in found]


def start(conn: Connection, stream: Stream, lease: timedelta) -> list[ClaimedTransfer]:
    """The transfers of a stream are ours from now on, in the order in which they waited."""
    ids = move(conn, stream.transfer_ids, Transfer.WAITING, Transfer.RUNNING)
    return rows(
        conn,
        ClaimedTransfer,
        """
        WITH started AS (
            UPDATE transfer t
               SET source_id = %(source)s, lease_until = now() + %(lease)s, epoch = epoch + 1, attempts = attempts + 1,
                   stream = %(stream)s
             WHERE t.transfer_id = ANY(%(ids)s)
         RETURNING t.*)
        SELECT t.transfer_id, t.epoch, t.attempts, t.file_id, d.path || '/' || f.name AS path, f.size,
               encode(f.sha256, 'hex') AS sha256, t.source_id, t.target_id, t.activity, t.stream
          FROM started t
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         ORDER BY t.priority, t.transfer_id
        """,
        ids=ids,
        source=stream.source_id,
        stream=min(stream.transfer_ids),
        lease=lease,
    )


def extend_lease(conn: Connection, transfers: Sequence[ClaimedTransfer], lease: timedelta) -> bool:
    """Keep transfers ours; False when none is any more."""
    return (
        conn.execute(
            """
            UPDATE transfer t
               SET lease_until = now() + %s
              FROM unnest(%s::bigint[], %s::int[]) AS w (transfer_id, epoch)
             WHERE t.transfer_id = w.transfer_id AND t.epoch = w.epoch AND t.state = 'Running'
            """,
            (lease, [t.transfer_id for t in transfers], [t.epoch for t in transfers]),
        ).rowcount
        > 0
    )


def still_ours(conn: Connection, transfers: Sequence[ClaimedTransfer]) -> set[int]:
    """Lock the rows of those that nobody took over; their ids."""
    return set(
        values(
            conn,
            """
            SELECT t.transfer_id
              FROM transfer t
              JOIN unnest(%(ids)s::bigint[], %(epochs)s::int[]) AS w (transfer_id, epoch) USING (transfer_id, epoch)
             WHERE t.state = 'Running'
             ORDER BY t.transfer_id
               FOR UPDATE OF t
            """,
            ids=[t.transfer_id for t in transfers],
            epochs=[t.epoch for t in transfers],
        )
    )


def arrived(conn: Connection, transfers: Sequence[ClaimedTransfer], seconds: float) -> None:
    """These copies, locked and of one stream, were read back at their target with their files' sha256: replicas from
    now on. `seconds`: how long they took together."""
    if not transfers:
        return
    ids = [t.transfer_id for t in transfers]
    unsettle(conn, [t.file_id for t in transfers])
    conn.execute(
        "UPDATE transfer t SET sha256 = f.sha256, error = NULL FROM file f "
        "WHERE f.file_id = t.file_id AND t.transfer_id = ANY(%s)",
        (ids,),
    )
    move(conn, ids, Transfer.RUNNING, Transfer.DONE)
    add_replicas(conn, [t.file_id for t in transfers], transfers[0].target_id)
    _log(conn, transfers, arrived=True, seconds=seconds)
    notify(conn, "input")


def add_replicas(conn: Connection, file_ids: Sequence[int], storage_id: int) -> None:
    """Verified copies are there; those that were suspect or lost are in order again. On a tape storage they are
    Buffered, and count once they are on tape."""
    on_tape = values(conn, "SELECT storage_id FROM tape_storage WHERE storage_id = %(id)s", id=storage_id)
    there = ReplicaState.BUFFERED if on_tape else ReplicaState.AVAILABLE
    added = values(
        conn,
        """
        INSERT INTO replica (file_id, storage_id, state)
        SELECT id, %(storage)s, %(state)s::replica_state FROM unnest(%(files)s::bigint[]) AS id ORDER BY id
        ON CONFLICT DO NOTHING
     RETURNING file_id
        """,
        files=list(file_ids),
        storage=storage_id,
        state=str(there),
    )
    count_replicas(conn, added, storage_id, 1)
    again = [(file_id, storage_id) for file_id in set(file_ids) - set(added)]
    if again:
        for state in (ReplicaState.LOST, ReplicaState.SUSPECT):
            move_replicas(conn, again, state, there, "copied again and verified")


@dataclass(frozen=True, slots=True)
class Failure:
    """A transfer that did not come to its end: why, and how long it waits; None: it is given up."""

    transfer: ClaimedTransfer
    error: str
    wait: timedelta | None


def did_not_arrive(conn: Connection, failures: Sequence[Failure]) -> None:
    """These copies, locked and of one stream, failed: they are tried again after their wait, or given up."""
    if not failures:
        return
    unsettle(conn, [f.transfer.file_id for f in failures])
    conn.execute(
        """
        UPDATE transfer t
           SET error = w.error, lease_until = NULL, not_before = now() + w.wait, failed = failed || source_id
          FROM unnest(%s::bigint[], %s::text[], %s::interval[]) AS w (transfer_id, error, wait)
         WHERE t.transfer_id = w.transfer_id
        """,
        (
            [f.transfer.transfer_id for f in failures],
            [f.error for f in failures],
            [f.wait or timedelta(0) for f in failures],
        ),
    )
    for target in (Transfer.WAITING, Transfer.FAILED):
        by_error: dict[str, list[int]] = {}
        for failure in failures:
            if (failure.wait is None) == (target is Transfer.FAILED):
                by_error.setdefault(failure.error, []).append(failure.transfer.transfer_id)
        for error, ids in by_error.items():
            move(conn, ids, Transfer.RUNNING, target, error)
    _log(conn, [f.transfer for f in failures], arrived=False, seconds=0)


def give_back(conn: Connection, transfers: Sequence[ClaimedTransfer], wait: timedelta, why: str) -> None:
    """These were claimed, locked, and not begun: as if they had never been."""
    ids = [t.transfer_id for t in transfers]
    conn.execute(
        """
        UPDATE transfer SET lease_until = NULL, not_before = now() + %s, attempts = attempts - 1
         WHERE transfer_id = ANY(%s)
        """,
        (wait, ids),
    )
    move(conn, ids, Transfer.RUNNING, Transfer.WAITING, why)


def _log(conn: Connection, transfers: Sequence[ClaimedTransfer], *, arrived: bool, seconds: float) -> None:
    """Count transfers of one stream in the hour in which they ended."""
    first, n = transfers[0], len(transfers)
    conn.execute(
        """
        INSERT INTO transfer_log AS l (hour, source_id, target_id, activity, n_transfers, n_bytes, n_failed, seconds)
        VALUES (date_trunc('hour', now(), 'UTC'), %(source)s, %(target)s, %(activity)s, %(arrived)s, %(bytes)s,
                %(failed)s, %(seconds)s)
        ON CONFLICT (hour, source_id, target_id, activity) DO UPDATE
           SET n_transfers = l.n_transfers + excluded.n_transfers, n_bytes = l.n_bytes + excluded.n_bytes,
               n_failed = l.n_failed + excluded.n_failed, seconds = l.seconds + excluded.seconds
        """,
        {
            "source": first.source_id,
            "target": first.target_id,
            "activity": first.activity,
            "arrived": n if arrived else 0,
            "bytes": sum(t.size for t in transfers) if arrived else 0,
            "failed": 0 if arrived else n,
            "seconds": seconds,
        },
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


def turn_away(conn: Connection, wanted: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Give up those of these transfers, named by (file, target storage), that wait; which they are. It does not speak
    against their targets later that nobody could write there now."""
    found = conn.execute(
        """
        UPDATE transfer t SET attempts = 0
          FROM unnest(%s::bigint[], %s::smallint[]) AS w (file_id, target_id)
         WHERE t.file_id = w.file_id AND t.target_id = w.target_id AND t.state = 'Waiting'
     RETURNING t.transfer_id, t.file_id, t.target_id
        """,
        ([file_id for file_id, _ in wanted], [target_id for _, target_id in wanted]),
    ).fetchall()
    why = "its target takes nothing now; another place is looked for"
    moved = set(move(conn, [i for i, _, _ in found], Transfer.WAITING, Transfer.FAILED, why))
    return {(file_id, target_id) for i, file_id, target_id in found if i in moved}


TAKEN_OVER = 5
"""What was left by so many attempts before the present one is taken over by it."""


def live_arrivals(conn: Connection) -> set[str]:
    """Names, `<id>.<epoch>`, of the temporary files of transfers that are under way, or will go on where an attempt
    broke off."""
    return set(
        values(
            conn,
            """
            SELECT transfer_id || '.' || e
              FROM transfer, generate_series(greatest(1, epoch - %(taken_over)s), epoch) AS e
             WHERE state = 'Running' OR (state = 'Waiting' AND attempts > 0)
            """,
            taken_over=TAKEN_OVER,
        )
    )


def running_transfers(conn: Connection) -> list[int]:
    """Transfers that somebody is at, or was."""
    return values(conn, "SELECT transfer_id FROM transfer WHERE state = 'Running' ORDER BY transfer_id")


def count_replicas(conn: Connection, file_ids: Sequence[int], storage_id: int, sign: int) -> None:
    """One copy of each of these files came to a storage (1) or left it (-1)."""
    conn.execute(
        """
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT %(storage)s, %(sign)s * count(*), %(sign)s * sum(size) FROM file WHERE file_id = ANY(%(files)s)
        HAVING count(*) > 0
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
        """,
        {"storage": storage_id, "files": list(file_ids), "sign": sign},
    )
