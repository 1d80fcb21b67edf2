"""Copies on tape: those that somebody wants online, the requests for them, and those that are not on tape yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL, Composed

from lightkeeper.domain.staging import Waiting
from lightkeeper.domain.states import Recall, Transfer
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store.catalog import Stored
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.queries import Plan, meant_by
from lightkeeper.store.transitions import move, move_replicas


# --- tape storages ---------------------------------------------------------------------------------------------
def put_tape_storage(conn: Connection, name: str, buffer: int | None) -> None:
    """Files of this storage must be staged before they are read; `buffer` bytes may be asked for at once."""
    conn.execute(
        """
        INSERT INTO tape_storage (storage_id, buffer)
        SELECT storage_id, %s FROM storage WHERE name = %s
        ON CONFLICT (storage_id) DO UPDATE SET buffer = excluded.buffer
        """,
        (buffer, name),
    )


def buffers(conn: Connection) -> dict[str, int | None]:
    """Bytes that may be asked for at once, of every tape storage by name."""
    return dict(conn.execute("SELECT name, buffer FROM tape_storage JOIN storage USING (storage_id)").fetchall())


@dataclass(frozen=True, slots=True)
class Turn:
    """One worker's turn to speak with a tape storage. `now` by the database's clock."""

    storage_id: int
    epoch: int
    buffer: int | None
    now: datetime


def take_turn(conn: Connection, lease: timedelta) -> Turn | None:
    """A tape storage that nobody speaks with and that somebody wants something of is ours until the lease ends."""
    return row(
        conn,
        Turn,
        """
        UPDATE tape_storage t SET lease_until = now() + %(lease)s, epoch = epoch + 1
         WHERE t.storage_id = (
               SELECT storage_id
                 FROM tape_storage w
                 JOIN storage_now s USING (storage_id)
                WHERE s.readable AND w.not_before <= now() AND (w.lease_until IS NULL OR w.lease_until < now())
                  AND (EXISTS (SELECT FROM stage_request r
                                WHERE r.storage_id = w.storage_id AND r.closed IS NULL AND r.not_before <= now())
                       OR EXISTS (SELECT FROM recall c
                                   WHERE c.storage_id = w.storage_id AND c.state = 'Waiting' AND c.not_before <= now())
                       OR EXISTS (SELECT FROM recall c
                                   WHERE c.storage_id = w.storage_id AND c.state IN ('Asked', 'Online', 'Releasing')))
                ORDER BY w.not_before, storage_id
                LIMIT 1
                  FOR UPDATE OF w SKIP LOCKED)
     RETURNING t.storage_id, t.epoch, t.buffer, now() AS now
        """,
        lease=lease,
    )


def still_ours(conn: Connection, turn: Turn, lease: timedelta) -> bool:
    """Whether the turn is still ours; the storage's row is locked, and the lease extended."""
    return (
        conn.execute(
            "UPDATE tape_storage SET lease_until = now() + %s WHERE storage_id = %s AND epoch = %s",
            (lease, turn.storage_id, turn.epoch),
        ).rowcount
        == 1
    )


def end_turn(conn: Connection, turn: Turn, wait: timedelta = timedelta(0), trouble: str | None = None) -> None:
    """Somebody may speak with it again after `wait`. Without `trouble` it is as it was."""
    conn.execute(
        """
        UPDATE tape_storage SET lease_until = NULL, not_before = now() + %s, trouble = coalesce(%s, trouble)
         WHERE storage_id = %s AND epoch = %s
        """,
        (wait, trouble, turn.storage_id, turn.epoch),
    )


def release_turns(conn: Connection) -> None:
    """For the only program on its database, just started: nobody else speaks with any."""
    conn.execute("UPDATE tape_storage SET lease_until = NULL, not_before = now()")


# --- who wants what --------------------------------------------------------------------------------------------
_WISH = SQL("""
    INSERT INTO recall AS old (file_id, storage_id, size, priority, together)
    SELECT file_id, storage_id, size, priority, together
      FROM (SELECT DISTINCT ON (w.file_id) w.file_id, r.storage_id, f.size, w.priority, w.together,
                   c.priority AS has_priority, c.together AS is_together
              FROM ({}) w
              JOIN file f USING (file_id)
              JOIN replica r USING (file_id)
              JOIN tape_storage t USING (storage_id)
              JOIN storage_now s USING (storage_id)
              LEFT JOIN recall c USING (file_id, storage_id)
             WHERE r.state = 'Available' AND s.readable AND c.state IS DISTINCT FROM 'Failed'
             ORDER BY w.file_id, c.recall_id IS NULL, r.storage_id) chosen
     WHERE has_priority IS NULL OR priority < has_priority OR together <> 0 AND is_together = 0
    ON CONFLICT (file_id, storage_id) DO UPDATE
       SET priority = least(old.priority, excluded.priority), together = greatest(old.together, excluded.together)
""")
"""Wishes as (file_id, priority, together): each for one copy on tape. Of several the one that is wanted already, and
none that failed."""

_OF_TRANSFERS = SQL("""
    SELECT t.file_id, min(t.priority) AS priority, 0::bigint AS together
      FROM transfer t
     WHERE t.state = 'Waiting' AND {}
       AND NOT EXISTS (SELECT FROM online_copy c JOIN storage_now o USING (storage_id)
                        WHERE c.file_id = t.file_id AND o.readable AND c.storage_id <> t.target_id)
     GROUP BY t.file_id
""")
"""Files that wait to be copied, and that nobody can read now."""

_OF_TASKS = SQL("""
    SELECT i.file_id, min(t.priority) AS priority, min(i.task_id) AS together
      FROM task
      JOIN transformation t USING (transformation_id)
      JOIN task_input i USING (task_id)
     WHERE task.state = 'Ready' AND t.state IN ('Active', 'Flush') AND {0}
       AND NOT EXISTS (SELECT FROM online_copy c
                         JOIN verified_copy v USING (file_id, storage_id)
                         JOIN storage_now o ON o.storage_id = c.storage_id
                        WHERE c.file_id = i.file_id AND o.readable)
     GROUP BY i.file_id
     UNION ALL
    SELECT u.file_id, min(t.priority), 0::bigint
      FROM companion_in_use u
      JOIN transformation t USING (transformation_id)
     WHERE t.state IN ('Active', 'Flush') AND {0}
       AND EXISTS (SELECT FROM task WHERE task.transformation_id = t.transformation_id AND task.state = 'Ready')
       AND NOT EXISTS (SELECT FROM online_copy c
                         JOIN verified_copy v USING (file_id, storage_id)
                         JOIN storage_now o ON o.storage_id = c.storage_id
                        WHERE c.file_id = u.file_id AND o.readable)
     GROUP BY u.file_id
""")
"""Inputs of tasks, and what all jobs of their transformation read, that nobody can read now."""


def wish_for_transfers(conn: Connection, file_ids: Sequence[int]) -> int:
    """Have these files staged, as far as transfers of them wait and no copy can be read; how many."""
    wanted = _wish(conn, _OF_TRANSFERS.format(SQL("t.file_id = ANY(%(ids)s)")), ids=list(file_ids))
    if wanted:
        _defer(conn, list(file_ids))
    return wanted


def wish_for_tasks(conn: Connection, transformation_id: int) -> int:
    """Have the inputs of a transformation's tasks staged, as far as they wait and cannot be read; how many."""
    if not values(conn, "SELECT storage_id FROM tape_storage LIMIT 1"):
        return 0
    return _wish(conn, _OF_TASKS.format(SQL("t.transformation_id = %(id)s")), id=transformation_id)


def wish_for_all(conn: Connection) -> int:
    """The same for every transfer and task that waits: what an announcement was missed of."""
    if not values(conn, "SELECT storage_id FROM tape_storage LIMIT 1"):
        return 0
    wanted = _wish(conn, _OF_TRANSFERS.format(SQL("true"))) + _wish(conn, _OF_TASKS.format(SQL("true")))
    _defer(conn, None)
    return wanted


def _defer(conn: Connection, file_ids: list[int] | None) -> None:
    """Transfers of these files, or of all, that wait for tape stand in nobody's way at the heads of their queues: they
    are due again when their files come online, and looked at now and then."""
    conn.execute(
        """
        UPDATE transfer t SET not_before = now() + interval '10 min'
          FROM recall c
         WHERE c.file_id = t.file_id AND c.state <> 'Online' AND t.state = 'Waiting' AND t.not_before <= now()
           AND (t.file_id = ANY(%(ids)s) OR %(ids)s::bigint[] IS NULL)
           AND NOT EXISTS (SELECT FROM online_copy o WHERE o.file_id = t.file_id)
        """,
        {"ids": file_ids},
    )


def wish_for_copies(conn: Connection, copies: Sequence[tuple[int, int]]) -> None:
    """Have these copies staged, named by (file, storage), because the audit reads them."""
    added = conn.execute(
        """
        INSERT INTO recall (file_id, storage_id, size, priority)
        SELECT w.file_id, w.storage_id, f.size, 7
          FROM unnest(%s::bigint[], %s::smallint[]) AS w (file_id, storage_id)
          JOIN file f USING (file_id)
         ORDER BY 1, 2
        ON CONFLICT DO NOTHING
        """,
        ([file_id for file_id, _ in copies], [storage_id for _, storage_id in copies]),
    ).rowcount
    if added:
        notify(conn, "stage")


def _wish(conn: Connection, wishes: Composed, **params: Any) -> int:
    wanted = conn.execute(_WISH.format(wishes), params).rowcount
    if wanted:
        notify(conn, "stage")
    return wanted


def online_copies(conn: Connection, file_ids: Sequence[int]) -> set[tuple[int, int]]:
    """Copies of these files that can be read now, as (file, storage)."""
    found = conn.execute(
        "SELECT file_id, storage_id FROM online_copy WHERE file_id = ANY(%s)", (list(file_ids),)
    ).fetchall()
    return set(found)


def went_offline(conn: Connection, file_id: int, storage_id: int) -> None:
    """A copy that was said to be online is not: it is staged again if somebody wants it."""
    ids = values(
        conn,
        "SELECT recall_id FROM recall WHERE file_id = %(file)s AND storage_id = %(storage)s AND state = 'Online'",
        file=file_id,
        storage=storage_id,
    )
    move(conn, ids, Recall.ONLINE, Recall.WAITING, "it lies on tape only")
    notify(conn, "stage")


def to_be_read(conn: Connection, storage_id: int, limit: int) -> list[Stored]:
    """Copies on a tape storage that the audit waits to read and that are not online, or on their way."""
    return rows(
        conn,
        Stored,
        """
        SELECT w.file_id, w.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM (SELECT file_id, storage_id FROM recheck WHERE storage_id = %(storage)s
                 UNION SELECT file_id, storage_id FROM replica
                        WHERE storage_id = %(storage)s AND state = 'Suspect') w
          JOIN replica USING (file_id, storage_id)
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE NOT EXISTS (SELECT FROM recall c
                            WHERE c.file_id = w.file_id AND c.storage_id = w.storage_id AND c.state <> 'Failed')
         ORDER BY w.file_id LIMIT %(limit)s
        """,
        storage=storage_id,
        limit=limit,
    )


def say_lost(conn: Connection, storage_id: int, faults: Mapping[int, str]) -> list[int]:
    """Copies that their storage says it has not: those that were Suspect are Lost, and returned."""
    lost: list[int] = []
    for file_id, fault in faults.items():
        lost += [
            f for f, _ in move_replicas(conn, [(file_id, storage_id)], ReplicaState.SUSPECT, ReplicaState.LOST, fault)
        ]
    conn.execute("DELETE FROM recheck WHERE storage_id = %s AND file_id = ANY(%s)", (storage_id, lost))
    return lost


# --- requests --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Request:
    """A request at a tape storage. `looked`: when the storage told last how far it is."""

    request_id: int
    handle: str | None
    asked: datetime | None
    looked: datetime | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a request."""

    recall_id: int
    file_id: int
    path: str
    size: int
    attempts: int
    state: Recall


def queue(conn: Connection, turn: Turn, limit: int) -> tuple[list[Waiting], int]:
    """The head of a storage's queue, and the bytes that the buffer has room for."""
    room = value(
        conn,
        """
        SELECT coalesce(buffer, 4e18::bigint) - (SELECT coalesce(sum(size), 0) FROM recall c
                                                 WHERE c.storage_id = t.storage_id
                                                   AND c.state IN ('Asked', 'Online', 'Releasing'))::bigint
          FROM tape_storage t WHERE storage_id = %(storage)s
        """,
        storage=turn.storage_id,
    )
    head = rows(
        conn,
        Waiting,
        """
        SELECT recall_id, size, together FROM recall
         WHERE storage_id = %(storage)s AND state = 'Waiting' AND not_before <= now()
         ORDER BY priority, hour, together, file_id
         LIMIT %(limit)s
        """,
        storage=turn.storage_id,
        limit=limit,
    )
    return head, room


def begin_request(conn: Connection, turn: Turn, recall_ids: Sequence[int]) -> int:
    """These are asked for from now on; the request's id."""
    taken = move(conn, recall_ids, Recall.WAITING, Recall.ASKED)
    return _new_request(conn, turn, taken)


def _new_request(conn: Connection, turn: Turn, recall_ids: Sequence[int]) -> int:
    return value(
        conn,
        """
        WITH made AS (
            INSERT INTO stage_request (storage_id) VALUES (%(storage)s) RETURNING request_id),
        put AS (
            UPDATE recall SET request_id = made.request_id, error = NULL FROM made WHERE recall_id = ANY(%(ids)s))
        SELECT request_id FROM made
        """,
        storage=turn.storage_id,
        ids=list(recall_ids),
    )


def begin_renewal(conn: Connection, turn: Turn, before: datetime, limit: int) -> int | None:
    """Ask again for those that are still needed and whose pins end before then; the new request, if there are any."""
    ids = values(
        conn,
        """
        SELECT recall_id FROM recall JOIN recall_need USING (recall_id)
         WHERE storage_id = %(storage)s AND state = 'Online' AND pinned_until < %(before)s
           AND NOT EXISTS (SELECT FROM stage_request r WHERE r.request_id = recall.request_id AND r.looked IS NULL)
         ORDER BY file_id LIMIT %(limit)s
        """,
        storage=turn.storage_id,
        before=before,
        limit=limit,
    )
    return _new_request(conn, turn, ids) if ids else None


def requests_due(conn: Connection, turn: Turn) -> list[Request]:
    """Requests that are to be asked, or looked at, now; the oldest first."""
    return rows(
        conn,
        Request,
        """
        SELECT request_id, handle, asked, looked FROM stage_request
         WHERE storage_id = %(storage)s AND closed IS NULL AND not_before <= now()
         ORDER BY request_id LIMIT 100
        """,
        storage=turn.storage_id,
    )


def files_of(conn: Connection, request_id: int) -> list[Wanted]:
    """The files that a request is for, in the order in which they were written to tape."""
    return rows(
        conn,
        Wanted,
        """
        SELECT c.recall_id, c.file_id, d.path || '/' || f.name AS path, c.size, c.attempts, c.state
          FROM recall c
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE c.request_id = %(id)s AND c.state IN ('Asked', 'Online')
         ORDER BY c.file_id
        """,
        id=request_id,
    )


def was_asked(conn: Connection, request_id: int, handle: str) -> None:
    """The storage took the request."""
    conn.execute(
        """
        UPDATE stage_request SET handle = %s, asked = now(), not_before = now() + interval '0.2 s'
         WHERE request_id = %s
        """,
        (handle, request_id),
    )


def looked(conn: Connection, request: Request, wait: timedelta) -> None:
    """The storage told how far it is; it is asked again after `wait`."""
    conn.execute(
        "UPDATE stage_request SET looked = now(), not_before = now() + %s WHERE request_id = %s",
        (wait, request.request_id),
    )


def came_online(conn: Connection, recall_ids: Sequence[int], pinned_until: datetime) -> int:
    """These can be read from now on; how many could not before."""
    came = move(conn, recall_ids, Recall.ASKED, Recall.ONLINE)
    conn.execute(
        """
        UPDATE recall SET pinned_until = %s, pinned_by = request_id, attempts = 0
         WHERE recall_id = ANY(%s) AND state = 'Online' AND pinned_by IS DISTINCT FROM request_id
        """,
        (pinned_until, list(recall_ids)),
    )
    if came:
        conn.execute(
            """
            UPDATE transfer t SET not_before = now()
              FROM recall c
             WHERE c.recall_id = ANY(%s) AND t.file_id = c.file_id AND t.state = 'Waiting' AND t.not_before > now()
            """,
            (came,),
        )
        notify(conn, "transfer")
        notify(conn, "task")
        notify(conn, "recheck")
    return len(came)


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that was not staged: why, and how long it waits before it is tried again; None: it is given up."""

    recall_id: int
    state: Recall
    error: str
    wait: timedelta | None


def did_not_come(conn: Connection, faults: Sequence[Fault]) -> None:
    """These were not staged, or are not there any more: tried again later, or given up with the reason."""
    conn.execute(
        """
        UPDATE recall SET error = w.error, attempts = attempts + 1, not_before = now() + w.wait, pinned_until = NULL,
               pinned_by = NULL
          FROM unnest(%s::bigint[], %s::text[], %s::interval[]) AS w (recall_id, error, wait)
         WHERE recall.recall_id = w.recall_id
        """,
        ([f.recall_id for f in faults], [f.error for f in faults], [f.wait or timedelta(0) for f in faults]),
    )
    groups: dict[tuple[Recall, Recall, str], list[int]] = {}
    for fault in faults:
        target = Recall.FAILED if fault.wait is None and fault.state is not Recall.ONLINE else Recall.WAITING
        groups.setdefault((fault.state, target, fault.error), []).append(fault.recall_id)
    for (source, target, error), ids in groups.items():
        move(conn, ids, source, target, error)


def never_fit(conn: Connection, too_large: Sequence[tuple[int, str]]) -> None:
    """These can never be staged, and why."""
    for recall_id, why in too_large:
        conn.execute("UPDATE recall SET error = %s WHERE recall_id = %s", (why, recall_id))
        move(conn, [recall_id], Recall.WAITING, Recall.FAILED, why)


def lost_pins(conn: Connection, turn: Turn) -> int:
    """Those whose pin ended before it could be renewed are not online any more, as far as anybody knows."""
    ids = values(
        conn,
        """
        SELECT recall_id FROM recall
         WHERE storage_id = %(storage)s AND state = 'Online' AND pinned_until < now()
         ORDER BY recall_id LIMIT 10000
        """,
        storage=turn.storage_id,
    )
    return len(move(conn, ids, Recall.ONLINE, Recall.WAITING, "its pin ended"))


def close_requests(conn: Connection, turn: Turn) -> None:
    """Requests that nothing is wanted of any more are not asked again."""
    conn.execute(
        """
        UPDATE stage_request r SET closed = now()
         WHERE storage_id = %s AND closed IS NULL
           AND NOT EXISTS (SELECT FROM recall c
                            WHERE c.request_id = r.request_id AND c.state IN ('Asked', 'Online', 'Releasing'))
        """,
        (turn.storage_id,),
    )


# --- releasing -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Unneeded:
    """A copy that nobody wants any more, and the request that pinned it. `was_online`: else it was on its way."""

    recall_id: int
    path: str
    handle: str | None
    was_online: bool


def begin_release(conn: Connection, turn: Turn, every: timedelta, limit: int) -> list[Unneeded]:
    """Those that nobody needs, looked for so often: what was not asked for is forgotten, the others are Releasing.
    Returns what is Releasing, to be told to the storage."""
    due = conn.execute(
        "UPDATE tape_storage SET swept = now() WHERE storage_id = %s AND swept <= now() - %s", (turn.storage_id, every)
    ).rowcount
    unneeded = conn.execute(
        """
        SELECT recall_id, state FROM recall
         WHERE storage_id = %(storage)s AND state IN ('Waiting', 'Asked', 'Online', 'Failed')
           AND NOT EXISTS (SELECT FROM recall_need n WHERE n.recall_id = recall.recall_id)
         ORDER BY recall_id LIMIT %(limit)s
           FOR UPDATE OF recall SKIP LOCKED
        """,
        {"storage": turn.storage_id, "limit": limit if due else 0},
    ).fetchall()
    for state in (Recall.ASKED, Recall.ONLINE):
        move(conn, [i for i, now in unneeded if now is state], state, Recall.RELEASING, "nobody needs it any more")
    _forget(conn, [i for i, now in unneeded if now in (Recall.WAITING, Recall.FAILED)])
    return rows(
        conn,
        Unneeded,
        """
        SELECT c.recall_id, d.path || '/' || f.name AS path, r.handle, c.pinned_until IS NOT NULL AS was_online
          FROM recall c
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          LEFT JOIN stage_request r USING (request_id)
         WHERE c.storage_id = %(storage)s AND c.state = 'Releasing'
         ORDER BY c.request_id, c.recall_id LIMIT %(limit)s
        """,
        storage=turn.storage_id,
        limit=limit,
    )


def released(conn: Connection, recall_ids: Sequence[int]) -> None:
    """The storage need not keep these: forgotten, or wanted anew by somebody who came meanwhile."""
    again = values(conn, "SELECT recall_id FROM recall_need WHERE recall_id = ANY(%(ids)s)", ids=list(recall_ids))
    conn.execute("UPDATE recall SET pinned_until = NULL WHERE recall_id = ANY(%s)", (again,))
    move(conn, again, Recall.RELEASING, Recall.WAITING, "wanted again")
    _forget(conn, sorted(set(recall_ids) - set(again)))


def _forget(conn: Connection, recall_ids: Sequence[int]) -> None:
    conn.execute(
        """
        WITH gone AS (
            DELETE FROM recall WHERE recall_id = ANY(%s) AND state IN ('Waiting', 'Releasing', 'Failed')
            RETURNING recall_id, state)
        INSERT INTO history (kind, id, source, target, why)
        SELECT 'recall', recall_id, state, 'Forgotten', 'nobody needs it any more' FROM gone
        """,
        (list(recall_ids),),
    )


# --- not on tape yet -------------------------------------------------------------------------------------------
def buffered(conn: Connection, storage_id: int, after: int, limit: int) -> list[Stored]:
    """A page of the copies that were read back and are not known to be on tape, by file id."""
    return rows(
        conn,
        Stored,
        """
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM replica r
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE r.storage_id = %(storage)s AND r.state = 'Buffered' AND r.file_id > %(after)s
         ORDER BY r.file_id LIMIT %(limit)s
        """,
        storage=storage_id,
        after=after,
        limit=limit,
    )


def archived(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> list[int]:
    """These are on tape: copies that count from now on. Returns those that were not before."""
    replicas = [(file_id, storage_id) for file_id in file_ids]
    moved = move_replicas(conn, replicas, ReplicaState.BUFFERED, ReplicaState.AVAILABLE, "it is on tape")
    return [file_id for file_id, _ in moved]


def lost_from_buffer(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> list[int]:
    """These were lost before they were on tape."""
    replicas = [(file_id, storage_id) for file_id in file_ids]
    why = "its storage lost it before it was on tape"
    return [f for f, _ in move_replicas(conn, replicas, ReplicaState.BUFFERED, ReplicaState.LOST, why)]


# --- orders ----------------------------------------------------------------------------------------------------
def add_order(
    conn: Connection, what: str, lifetime: timedelta, priority: int, target_id: int | None, *, trial: bool
) -> int:
    """A new order without files; its id. A `trial` is rolled back, and takes no number from those that follow."""
    return value(
        conn,
        """
        INSERT INTO stage_order (order_id, what, expires, priority, target_id) OVERRIDING SYSTEM VALUE
        SELECT CASE WHEN %(trial)s THEN 0 ELSE nextval(pg_get_serial_sequence('stage_order', 'order_id')) END,
               %(what)s, now() + %(lifetime)s, %(priority)s, %(target)s
        RETURNING order_id
        """,
        what=what,
        lifetime=lifetime,
        priority=priority,
        target=target_id,
        trial=trial,
    )


def order_files_meant(conn: Connection, order_id: int, plan: Plan) -> None:
    """Take the files that a query means into an order."""
    source, params = meant_by(plan)
    conn.execute(
        SQL("""
            INSERT INTO stage_order_file (order_id, file_id)
            SELECT %(order)s, f.file_id FROM {} AND f.size > 0 ORDER BY f.file_id
            ON CONFLICT DO NOTHING
        """).format(source),
        params | {"order": order_id},
    )


def order_files(conn: Connection, order_id: int, file_ids: Sequence[int]) -> None:
    """Take these files into an order."""
    conn.execute(
        """
        INSERT INTO stage_order_file (order_id, file_id) SELECT %s, id FROM unnest(%s::bigint[]) AS id
        ON CONFLICT DO NOTHING
        """,
        (order_id, list(file_ids)),
    )


@dataclass(frozen=True, slots=True)
class Volume:
    """What an order means: all its files, those that can be read already (with a target: that are there already),
    those that are to be brought from tape, and those that nobody can bring."""

    files: int
    bytes: int
    ready: int
    ready_bytes: int
    to_stage: int
    to_stage_bytes: int
    without: int


def volume(conn: Connection, order_id: int) -> Volume:
    """Files and bytes of an order, counted from its files, and noted in it."""
    found = row(
        conn,
        Volume,
        """
        WITH one AS (
            SELECT f.size, EXISTS (SELECT FROM replica r WHERE r.file_id = f.file_id AND r.storage_id = s.target_id
                                                           AND r.state = 'Available') AS there,
                   EXISTS (SELECT FROM online_copy c JOIN storage_now w USING (storage_id)
                            WHERE c.file_id = f.file_id AND w.readable) AS online,
                   EXISTS (SELECT FROM replica r
                             JOIN tape_storage USING (storage_id) JOIN storage_now w USING (storage_id)
                            WHERE r.file_id = f.file_id AND r.state = 'Available' AND w.readable) AS on_tape,
                   s.target_id
              FROM stage_order s JOIN stage_order_file USING (order_id) JOIN file f USING (file_id)
             WHERE s.order_id = %(order)s),
        noted AS (
            UPDATE stage_order SET n_files = (SELECT count(*) FROM one),
                                   n_bytes = (SELECT coalesce(sum(size), 0) FROM one)
             WHERE order_id = %(order)s)
        SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes,
               count(*) FILTER (WHERE there OR target_id IS NULL AND online) AS ready,
               coalesce(sum(size) FILTER (WHERE there OR target_id IS NULL AND online), 0)::bigint AS ready_bytes,
               count(*) FILTER (WHERE NOT there AND NOT online AND on_tape) AS to_stage,
               coalesce(sum(size) FILTER (WHERE NOT there AND NOT online AND on_tape), 0)::bigint AS to_stage_bytes,
               count(*) FILTER (WHERE NOT there AND NOT online AND NOT on_tape) AS without
          FROM one
        """,
        order=order_id,
    )
    return found or Volume(0, 0, 0, 0, 0, 0, 0)


def wish_for_order(conn: Connection, order_id: int) -> None:
    """Have an order's files staged that cannot be read; with a target also copied there. What failed before is tried
    again."""
    again = values(
        conn,
        """
        SELECT recall_id FROM recall JOIN stage_order_file USING (file_id)
         WHERE order_id = %(order)s AND state = 'Failed'
        """,
        order=order_id,
    )
    conn.execute("UPDATE recall SET attempts = 0, not_before = now() WHERE recall_id = ANY(%s)", (again,))
    move(conn, again, Recall.FAILED, Recall.WAITING, "asked for again")
    conn.execute(
        """
        INSERT INTO transfer (file_id, target_id, priority)
        SELECT o.file_id, s.target_id, s.priority
          FROM stage_order s JOIN stage_order_file o USING (order_id)
         WHERE s.order_id = %s AND s.target_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM replica r
                            WHERE r.file_id = o.file_id AND r.storage_id = s.target_id AND r.state <> 'Lost')
         ORDER BY o.file_id
        ON CONFLICT DO NOTHING
        """,
        (order_id,),
    )
    notify(conn, "transfer")
    wishes = SQL("""
        SELECT o.file_id, s.priority, 0::bigint AS together
          FROM stage_order s JOIN stage_order_file o USING (order_id)
         WHERE s.order_id = %(order)s
           AND NOT EXISTS (SELECT FROM online_copy c JOIN storage_now w USING (storage_id)
                            WHERE c.file_id = o.file_id AND w.readable)
    """)
    _wish(conn, Composed([wishes]), order=order_id)
    notify(conn, "stage")


@dataclass(frozen=True, slots=True)
class Order:
    """An order, and how far it is, counted from the copies. `there`: files and bytes that can be read, or that lie at
    its target."""

    order_id: int
    what: str
    created: datetime
    expires: datetime
    ended: datetime | None
    target: str | None
    priority: int
    files: int
    bytes: int
    there: int
    there_bytes: int
    waiting: int
    asked: int
    failed: int


def orders(conn: Connection, order_id: int | None, limit: int = 100) -> list[Order]:
    """One order, or the newest ones."""
    return rows(
        conn,
        Order,
        """
        SELECT s.order_id, s.what, s.created, s.expires, s.ended, t.name AS target, s.priority::int, s.n_files AS files,
               s.n_bytes AS bytes, coalesce(p.there, 0) AS there, coalesce(p.there_bytes, 0)::bigint AS there_bytes,
               coalesce(p.waiting, 0) AS waiting, coalesce(p.asked, 0) AS asked, coalesce(p.failed, 0) AS failed
          FROM (SELECT * FROM stage_order
                 WHERE %(id)s::int IS NULL OR order_id = %(id)s ORDER BY order_id DESC LIMIT %(limit)s) s
          LEFT JOIN storage t ON t.storage_id = s.target_id
          LEFT JOIN LATERAL (
               SELECT count(*) FILTER (WHERE there) AS there, sum(size) FILTER (WHERE there) AS there_bytes,
                      count(*) FILTER (WHERE state = 'Waiting') AS waiting,
                      count(*) FILTER (WHERE state = 'Asked') AS asked,
                      count(*) FILTER (WHERE NOT there AND state = 'Failed') AS failed
                 FROM (SELECT f.size,
                              CASE WHEN s.target_id IS NULL
                                   THEN EXISTS (SELECT FROM online_copy c JOIN storage_now w USING (storage_id)
                                                 WHERE c.file_id = f.file_id AND w.readable)
                                   ELSE EXISTS (SELECT FROM replica r
                                                 WHERE r.file_id = f.file_id AND r.storage_id = s.target_id
                                                   AND r.state = 'Available') END AS there,
                              (SELECT min(state) FROM recall c WHERE c.file_id = f.file_id) AS state
                         FROM stage_order_file o JOIN file f USING (file_id)
                        WHERE o.order_id = s.order_id) one) p ON s.ended IS NULL
         ORDER BY s.order_id DESC
        """,
        id=order_id,
        limit=limit,
    )


def reasons(conn: Connection, order_id: int) -> list[tuple[str, str, int]]:
    """Why files of an order are not online, as (storage, why, files)."""
    return conn.execute(
        """
        SELECT s.name, CASE c.state WHEN 'Failed' THEN 'cannot be staged: ' ELSE 'is tried again: ' END || c.error,
               count(*)
          FROM stage_order_file o
          JOIN recall c USING (file_id)
          JOIN storage s ON s.storage_id = c.storage_id
         WHERE o.order_id = %s AND c.error IS NOT NULL AND c.state IN ('Waiting', 'Failed')
         GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20
        """,
        (order_id,),
    ).fetchall()


def end_orders(conn: Connection, order_id: int | None) -> list[int]:
    """End one order, or those whose time is over; the orders that ended. Its copies that did not begin are given up."""
    ended = values(
        conn,
        """
        UPDATE stage_order SET ended = now()
         WHERE ended IS NULL AND (order_id = %(id)s OR %(id)s::int IS NULL AND expires < now())
     RETURNING order_id
        """,
        id=order_id,
    )
    waiting = values(
        conn,
        """
        SELECT transfer_id
          FROM stage_order s
          JOIN stage_order_file USING (order_id)
          JOIN transfer t USING (file_id)
         WHERE s.order_id = ANY(%(ids)s) AND t.target_id = s.target_id AND t.policy_id IS NULL AND t.state = 'Waiting'
         ORDER BY transfer_id
           FOR UPDATE OF t
        """,
        ids=ended,
    )
    move(conn, waiting, Transfer.WAITING, Transfer.FAILED, "its order was cancelled")
    conn.execute("DELETE FROM stage_order_file WHERE order_id = ANY(%s)", (ended,))
    if ended:
        notify(conn, "stage")
    return ended


def rate(conn: Connection) -> float:
    """Bytes per second that came online in the last hour, since the first of them."""
    found = values(
        conn,
        """
        SELECT coalesce(sum(size), 0)::float
               / greatest(10, extract(epoch FROM now() - coalesce(min(state_since), now())))
          FROM recall WHERE state = 'Online' AND state_since > now() - interval '1 hour'
        """,
    )
    return float(found[0])


@dataclass(frozen=True, slots=True)
class TapeUse:
    """What is asked of a tape storage, and what it has."""

    storage: str
    buffer: int | None
    held: int
    waiting: int
    asked: int
    online: int
    failed: int
    not_on_tape: int
    trouble: str


def use(conn: Connection) -> list[TapeUse]:
    """Every tape storage by name; `held` are the bytes that are asked for or online."""
    return rows(
        conn,
        TapeUse,
        """
        SELECT s.name AS storage, t.buffer, coalesce(c.held, 0)::bigint AS held, coalesce(c.waiting, 0) AS waiting,
               coalesce(c.asked, 0) AS asked, coalesce(c.online, 0) AS online, coalesce(c.failed, 0) AS failed,
               (SELECT count(*) FROM replica r
                 WHERE r.storage_id = s.storage_id AND r.state = 'Buffered' AND r.state <> 'Available') AS not_on_tape,
               t.trouble
          FROM tape_storage t
          JOIN storage s USING (storage_id)
          LEFT JOIN (SELECT storage_id, sum(size) FILTER (WHERE state IN ('Asked', 'Online', 'Releasing')) AS held,
                            count(*) FILTER (WHERE state = 'Waiting') AS waiting,
                            count(*) FILTER (WHERE state = 'Asked') AS asked,
                            count(*) FILTER (WHERE state = 'Online') AS online,
                            count(*) FILTER (WHERE state = 'Failed') AS failed
                       FROM recall GROUP BY 1) c USING (storage_id)
         ORDER BY s.name
        """,
    )
