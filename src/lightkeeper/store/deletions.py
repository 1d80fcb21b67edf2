"""Approved deletions: intents with their evidence, from approval to the end of the replica; limits and who lifts them.

Everything is in sets: one statement for hundreds of files. Files are locked in the order of their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection

from lightkeeper.domain.policy import MAX_VERIFY_AGE
from lightkeeper.domain.states import File, Intent
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store.db import notify, row, rows, values
from lightkeeper.store.transfers import unsettle
from lightkeeper.store.transitions import move, move_replicas

# --- approval --------------------------------------------------------------------------------------------------
DRAINING = "draining"
"""Who approves the deletions on a draining storage."""


@dataclass(frozen=True, slots=True)
class NewIntent:
    """A deletion that was decided; `wanted` data centres must have a copy when it is gone."""

    file_id: int
    storage_id: int
    wanted: int
    why: str
    policy_id: int | None = None
    removal: bool = False


def add_intents(
    conn: Connection,
    new: Sequence[NewIntent],
    actor: str,
    *,
    operation_id: int | None = None,
    delay: timedelta = timedelta(0),
) -> int:
    """Approve deletions with their evidence, the copies elsewhere that were verified lately; how many are new. The
    caller holds the files' row locks and has asked `may_delete`."""
    added = conn.execute(
        """
        INSERT INTO intent (file_id, storage_id, policy_id, operation_id, removal, promised, not_before, actor, why,
                            evidence)
        SELECT w.file_id, w.storage_id, w.policy_id, %(operation)s, w.removal,
               coalesce(p.promised <= f.created, false), now() + %(delay)s, %(actor)s, w.why,
               jsonb_build_object('sha256', encode(f.sha256, 'hex'), 'wanted', w.wanted, 'copies', c.copies)
          FROM unnest(%(files)s::bigint[], %(storages)s::smallint[], %(policies)s::int[], %(removals)s::boolean[],
                      %(wanted)s::int[], %(whys)s::text[])
               AS w (file_id, storage_id, policy_id, removal, wanted, why)
          JOIN file f USING (file_id)
          LEFT JOIN policy p USING (policy_id)
         CROSS JOIN LATERAL (
               SELECT coalesce(jsonb_agg(jsonb_build_object(
                      'storage', s.name, 'site', site.name, 'verified_at', v.verified_at) ORDER BY s.name), '[]')
                      AS copies
                 FROM verified_copy v
                 JOIN storage s USING (storage_id)
                 JOIN site ON site.site_id = s.site_id
                WHERE v.file_id = w.file_id AND v.storage_id <> w.storage_id
                  AND v.verified_at >= now() - %(max_age)s) c
         ORDER BY w.file_id
        ON CONFLICT DO NOTHING
        """,
        {
            "operation": operation_id,
            "delay": delay,
            "actor": actor,
            "max_age": MAX_VERIFY_AGE,
            "files": [n.file_id for n in new],
            "storages": [n.storage_id for n in new],
            "policies": [n.policy_id for n in new],
            "removals": [n.removal for n in new],
            "wanted": [n.wanted for n in new],
            "whys": [n.why for n in new],
        },
    ).rowcount
    if added:
        notify(conn, "intent")
    return added


def drains_no_more(conn: Connection) -> list[int]:
    """Give up the deletions that were approved because a storage drained which does not any more, and not begun."""
    open_ = values(
        conn,
        """
        SELECT i.intent_id
          FROM intent i
          JOIN storage_now n USING (storage_id)
          JOIN replica r USING (file_id, storage_id)
         WHERE i.state = 'Approved' AND i.actor = %(actor)s AND NOT n.draining AND r.state <> 'Deleting'
         ORDER BY i.intent_id
           FOR UPDATE OF i
        """,
        actor=DRAINING,
    )
    return move(conn, open_, Intent.APPROVED, Intent.VOID, "its storage drains no more")


def lock_files(conn: Connection, file_ids: Sequence[int]) -> None:
    """Nothing else is decided about the copies of these files until this transaction ends."""
    conn.execute("SELECT FROM file WHERE file_id = ANY(%s) ORDER BY file_id FOR UPDATE", (list(file_ids),))


def unsettled_among(conn: Connection, file_ids: Sequence[int]) -> set[int]:
    """Those of these files that are still to be compared with what they are owed."""
    return set(
        values(
            conn,
            "SELECT file_id FROM unsettled WHERE file_id = ANY(%(ids)s) AND not_before <= now()",
            ids=list(file_ids),
        )
    )


def open_of(conn: Connection, file_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Copies of these files, as (file, storage), whose deletion is approved."""
    return conn.execute(
        "SELECT file_id, storage_id FROM intent WHERE file_id = ANY(%s) AND state = 'Approved'", (list(file_ids),)
    ).fetchall()


def in_use(conn: Connection, copies: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Who reads these copies, named by (file, storage), now: transfers, and jobs at the copy's site or, when that has
    none, anywhere."""
    found = conn.execute(
        """
        WITH w AS (SELECT * FROM unnest(%(files)s::bigint[], %(storages)s::smallint[]) AS w (file_id, storage_id))
        SELECT w.file_id, w.storage_id, 'transfer ' || min(t.transfer_id) || ' reads it'
          FROM w JOIN transfer t ON t.file_id = w.file_id AND t.source_id = w.storage_id AND t.state = 'Running'
         GROUP BY 1, 2
         UNION ALL
        SELECT w.file_id, w.storage_id, 'job ' || min(j.job_id) || ' works on it'
          FROM w
          JOIN task_input i ON i.file_id = w.file_id
          JOIN task ON task.task_id = i.task_id AND task.state = 'Running'
          JOIN job j ON j.task_id = task.task_id AND j.attempt = task.attempts AND j.state = 'Running'
          JOIN storage s ON s.storage_id = w.storage_id
         WHERE s.site_id = j.site_id
            OR NOT EXISTS (SELECT FROM replica r JOIN storage o USING (storage_id)
                            WHERE r.file_id = w.file_id AND r.state = 'Available' AND o.site_id = j.site_id)
         GROUP BY 1, 2
        """,
        {"files": [f for f, _ in copies], "storages": [s for _, s in copies]},
    ).fetchall()
    return {(file_id, storage_id): why for file_id, storage_id, why in found}


# --- carrying out ----------------------------------------------------------------------------------------------
def storages_waiting(conn: Connection) -> list[int]:
    """Storages with deletions to be carried out, where something may be deleted now and nobody paused it."""
    return values(
        conn,
        """
        SELECT s.storage_id
          FROM storage_now s
          LEFT JOIN storage_deletion d USING (storage_id)
         WHERE s.deletable AND d.paused IS NULL AND coalesce(d.not_before, now()) <= now()
           AND EXISTS (SELECT FROM intent i WHERE i.storage_id = s.storage_id AND i.state = 'Approved')
         ORDER BY random()
        """,
    )


def take_turn(conn: Connection, storage_id: int) -> bool:
    """Whether deletions on the storage are ours until this transaction ends, which holds no row. A worker that is
    stopped keeps its turn: what it may be about to unlink is nobody else's."""
    return values(conn, "SELECT pg_try_advisory_xact_lock(hashtext('deletion'), %(storage)s::int)", storage=storage_id)[
        0
    ]


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many deletions may begin on a storage now: `promised` ones, and `others`. `stopped` since when the others
    wait for two people."""

    per_hour: int
    promised: int
    others: int
    stopped: datetime | None
    paused: str | None


def allowance(conn: Connection, storage_id: int, per_hour: int, percent: float, promised_per_hour: int) -> Allowance:
    """What is left of the hour's number, which is the storage's own or else as given."""
    found = row(
        conn,
        Allowance,
        """
        SELECT l.per_hour, greatest(0, %(promised)s - m.promised)::int AS promised,
               CASE WHEN d.stopped IS NULL THEN greatest(0, l.per_hour - m.others) ELSE 0 END::int AS others,
               d.stopped, d.paused
          FROM storage s
          LEFT JOIN storage_deletion d USING (storage_id)
          LEFT JOIN storage_count c USING (storage_id)
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(n_files) FILTER (WHERE promised), 0) AS promised,
                      coalesce(sum(n_files) FILTER (WHERE NOT promised), 0) AS others
                 FROM deletion_minute m
                WHERE m.storage_id = s.storage_id AND minute > now() - interval '1 hour') m
         CROSS JOIN LATERAL (
               SELECT coalesce(d.per_hour, greatest(%(per_hour)s, ceil((coalesce(c.n_files, 0) + m.others)
                                                                       * %(percent)s / 100)))::int AS per_hour) l
         WHERE s.storage_id = %(storage)s
        """,
        storage=storage_id,
        per_hour=per_hour,
        percent=percent,
        promised=promised_per_hour,
    )
    return found or Allowance(0, 0, 0, None, None)


@dataclass(frozen=True, slots=True)
class OpenIntent:
    """An approved deletion that has not been carried out; `begun`: its replica is Deleting already."""

    intent_id: int
    file_id: int
    storage_id: int
    path: str
    policy_id: int | None
    removal: bool
    promised: bool
    begun: bool


def begun_intents(conn: Connection, storage_id: int, limit: int) -> list[OpenIntent]:
    """Deletions on a storage that were begun and not ended: their worker is gone, or the storage failed."""
    return rows(
        conn,
        OpenIntent,
        """
        SELECT i.intent_id, i.file_id, i.storage_id, d.path || '/' || f.name AS path, i.policy_id, i.removal,
               i.promised, true AS begun
          FROM replica r
          JOIN intent i ON i.file_id = r.file_id AND i.storage_id = r.storage_id AND i.state = 'Approved'
          JOIN file f ON f.file_id = i.file_id
          JOIN directory d USING (dir_id)
         WHERE r.storage_id = %(storage)s AND r.state = 'Deleting' AND i.not_before <= now()
         ORDER BY i.intent_id
         LIMIT %(limit)s
        """,
        storage=storage_id,
        limit=limit,
    )


def next_intents(conn: Connection, storage_id: int, *, promised: bool, cleared: bool, limit: int) -> list[OpenIntent]:
    """Deletions on a storage that are due, oldest first: those that a policy promised or not, that two people cleared
    or not. Files that are still to be compared with what they are owed are left out."""
    return rows(
        conn,
        OpenIntent,
        """
        SELECT i.intent_id, i.file_id, i.storage_id, d.path || '/' || f.name AS path, i.policy_id, i.removal,
               i.promised, false AS begun
          FROM intent i
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE i.storage_id = %(storage)s AND i.state = 'Approved' AND i.promised = %(promised)s
           AND (i.cleared_by IS NOT NULL) = %(cleared)s AND i.not_before <= now()
           AND NOT EXISTS (SELECT FROM unsettled u WHERE u.file_id = i.file_id AND u.not_before <= now())
           AND NOT EXISTS (SELECT FROM replica r
                            WHERE r.file_id = i.file_id AND r.storage_id = i.storage_id AND r.state = 'Deleting')
         ORDER BY i.intent_id
         LIMIT %(limit)s
        """,
        storage=storage_id,
        promised=promised,
        cleared=cleared,
        limit=limit,
    )


def still_open(conn: Connection, intents: Sequence[OpenIntent]) -> set[int]:
    """Lock those of these intents that are still to be carried out; their ids. Files are locked before."""
    return set(
        values(
            conn,
            """
            SELECT intent_id FROM intent
             WHERE intent_id = ANY(%(ids)s) AND state = 'Approved'
             ORDER BY intent_id
               FOR UPDATE
            """,
            ids=[intent.intent_id for intent in intents],
        )
    )


def begin(conn: Connection, intents: Sequence[OpenIntent]) -> None:
    """From now on nothing counts on these replicas."""
    replicas = [(intent.file_id, intent.storage_id) for intent in intents]
    for state in (ReplicaState.AVAILABLE, ReplicaState.SUSPECT, ReplicaState.LOST, ReplicaState.BUFFERED):
        move_replicas(conn, replicas, state, ReplicaState.DELETING, "a deletion is carried out")


def count_begun(conn: Connection, intents: Sequence[OpenIntent]) -> None:
    """Count deletions that begin against the hour's numbers; forget minutes that are long over."""
    conn.execute("DELETE FROM deletion_minute WHERE minute < now() - interval '2 hours'")
    conn.execute(
        """
        INSERT INTO deletion_minute AS m (storage_id, minute, promised, n_files)
        SELECT storage_id, date_trunc('minute', now()), promised, count(*)
          FROM unnest(%s::smallint[], %s::boolean[]) AS w (storage_id, promised)
         GROUP BY storage_id, promised
        ON CONFLICT (storage_id, minute, promised) DO UPDATE SET n_files = m.n_files + excluded.n_files
        """,
        ([intent.storage_id for intent in intents], [intent.promised for intent in intents]),
    )


def deleted(conn: Connection, intents: Sequence[OpenIntent]) -> int:
    """These replicas are gone; how many of them nobody had recorded before us."""
    unsettle(conn, [intent.file_id for intent in intents])
    done = move(conn, [intent.intent_id for intent in intents], Intent.APPROVED, Intent.DONE)
    conn.execute(
        """
        WITH gone AS (
            DELETE FROM replica r USING intent i
             WHERE i.intent_id = ANY(%s) AND r.file_id = i.file_id AND r.storage_id = i.storage_id
               AND r.state = 'Deleting'
            RETURNING r.file_id, r.storage_id, i.intent_id),
        line AS (
            INSERT INTO history (kind, id, part, source, target, why)
            SELECT 'replica', file_id, storage_id, 'Deleting', 'Deleted', 'intent ' || intent_id FROM gone)
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT storage_id, -count(*), -sum(size) FROM gone JOIN file USING (file_id) GROUP BY storage_id
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
        """,
        (done,),
    )
    return len(done)


def void(conn: Connection, intents: Sequence[OpenIntent], why: str, *, gone: bool = False) -> list[int]:
    """These deletions will not be: the replicas stay, or are Lost when they are `gone` already. The files are compared
    anew with what they are owed. Ids of the intents that were still open."""
    voided = move(conn, [intent.intent_id for intent in intents], Intent.APPROVED, Intent.VOID, why)
    back = [(i.file_id, i.storage_id) for i in intents if i.intent_id in set(voided)]
    state = ReplicaState.LOST if gone else ReplicaState.AVAILABLE
    move_replicas(conn, back, ReplicaState.DELETING, state, why)
    unsettle(conn, [file_id for file_id, _ in back])
    return voided


def postpone(conn: Connection, intent_ids: Sequence[int], wait: timedelta) -> None:
    """Look at these deletions again after `wait`."""
    conn.execute(
        "UPDATE intent SET not_before = now() + %s WHERE intent_id = ANY(%s) AND state = 'Approved'",
        (wait, list(intent_ids)),
    )


# --- limits ----------------------------------------------------------------------------------------------------
def put_per_hour(conn: Connection, storage: str, per_hour: int | None) -> None:
    """A storage's own number of deletions in an hour; None: as the settings say."""
    conn.execute(
        """
        INSERT INTO storage_deletion (storage_id, per_hour)
        SELECT storage_id, %(per_hour)s FROM storage WHERE name = %(storage)s
        ON CONFLICT (storage_id) DO UPDATE SET per_hour = excluded.per_hour
        """,
        {"storage": storage, "per_hour": per_hour},
    )


def own_limits(conn: Connection) -> dict[int, int | None]:
    """The numbers of deletions in an hour that storages have of their own."""
    return dict(conn.execute("SELECT storage_id, per_hour FROM storage_deletion").fetchall())


def stop(conn: Connection, storage_id: int) -> bool:
    """The hour's number is used up and more wait: two people must approve them. Whether that is new."""
    return bool(
        values(
            conn,
            """
            INSERT INTO storage_deletion AS d (storage_id, stopped) VALUES (%(storage)s, now())
            ON CONFLICT (storage_id) DO UPDATE SET stopped = now() WHERE d.stopped IS NULL
            RETURNING storage_id
            """,
            storage=storage_id,
        )
    )


def end_stop(conn: Connection, storage_id: int) -> None:
    """What waited for two people was approved, or is not to be any more."""
    conn.execute("UPDATE storage_deletion SET stopped = NULL WHERE storage_id = %s", (storage_id,))


def has_trouble(conn: Connection, storage_id: int, trouble: str, wait: timedelta) -> None:
    """Leave a storage alone for `wait`; none: it answers."""
    conn.execute(
        """
        INSERT INTO storage_deletion (storage_id, trouble, not_before)
        VALUES (%(storage)s, %(trouble)s, now() + %(wait)s)
        ON CONFLICT (storage_id) DO UPDATE SET trouble = excluded.trouble, not_before = excluded.not_before
        """,
        {"storage": storage_id, "trouble": trouble, "wait": wait},
    )


# --- for people ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OnStorage:
    """Deletions on one storage: those that wait and their bytes, of these the ones that may still be undone in peace
    and those that need two people; what began in the last hour, and how much of it no policy had promised."""

    storage: str
    waiting: int
    bytes: int
    delayed: int
    uncleared: int
    last_hour: int
    unpromised: int
    per_hour: int
    stopped: datetime | None
    approved_by: list[str]
    paused: str | None
    trouble: str


def by_storage(conn: Connection, per_hour: int, percent: float) -> list[OnStorage]:
    """Every storage and its deletions, by name; the number for an hour is the storage's own or else as given."""
    return rows(
        conn,
        OnStorage,
        """
        SELECT s.name AS storage, w.waiting, w.bytes, w.delayed, w.uncleared, m.last_hour::int, m.unpromised::int,
               coalesce(d.per_hour, greatest(%(per_hour)s, ceil((coalesce(c.n_files, 0) + m.unpromised)
                                                                * %(percent)s / 100)))::int AS per_hour,
               d.stopped, d.paused, coalesce(d.trouble, '') AS trouble,
               CASE WHEN d.stopped IS NULL THEN '{}'
                    ELSE ARRAY(SELECT DISTINCT name FROM deletion_approval a
                                WHERE a.storage_id = s.storage_id AND a.at >= d.stopped) END AS approved_by
          FROM storage s
          LEFT JOIN storage_deletion d USING (storage_id)
          LEFT JOIN storage_count c USING (storage_id)
         CROSS JOIN LATERAL (
               SELECT count(*) AS waiting, coalesce(sum(f.size), 0)::bigint AS bytes,
                      count(*) FILTER (WHERE i.not_before > now()) AS delayed,
                      count(*) FILTER (WHERE NOT i.promised AND i.cleared_by IS NULL) AS uncleared
                 FROM intent i JOIN file f USING (file_id)
                WHERE i.storage_id = s.storage_id AND i.state = 'Approved') w
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(n_files), 0) AS last_hour,
                      coalesce(sum(n_files) FILTER (WHERE NOT promised), 0) AS unpromised
                 FROM deletion_minute m
                WHERE m.storage_id = s.storage_id AND minute > now() - interval '1 hour') m
         ORDER BY s.name
        """,
        per_hour=per_hour,
        percent=percent,
    )


@dataclass(frozen=True, slots=True)
class Stopped:
    """A storage whose deletions wait for two people, or that somebody paused."""

    storage: str
    since: datetime | None
    paused: str | None
    waiting: int


def stopped(conn: Connection) -> list[Stopped]:
    """Storages on which deletions do not go on by themselves, and how many wait there."""
    return rows(
        conn,
        Stopped,
        """
        SELECT s.name AS storage, d.stopped AS since, d.paused,
               (SELECT count(*) FROM intent i WHERE i.storage_id = s.storage_id AND i.state = 'Approved') AS waiting
          FROM storage_deletion d JOIN storage s USING (storage_id)
         WHERE d.stopped IS NOT NULL OR d.paused IS NOT NULL
         ORDER BY s.name
        """,
    )


@dataclass(frozen=True, slots=True)
class IntentRow:
    """A deletion for people."""

    intent_id: int
    lfn: str
    storage: str
    size: int
    state: Intent
    created: datetime
    not_before: datetime
    state_since: datetime
    begun: bool
    removal: bool
    promised: bool
    policy: str | None
    operation: str | None
    cleared_by: list[str] | None
    actor: str
    why: str
    evidence: dict[str, object]
    outcome: str | None


def find(
    conn: Connection,
    *,
    intent_id: int | None = None,
    lfn: str | None = None,
    storage: str | None = None,
    operation: str | None = None,
    state: Intent | None = None,
    limit: int = 1000,
) -> list[IntentRow]:
    """Deletions that are so, the latest first. `outcome` is what history says of a void one."""
    return rows(
        conn,
        IntentRow,
        """
        SELECT i.intent_id, d.path || '/' || f.name AS lfn, s.name AS storage, f.size, i.state, i.created,
               i.not_before, i.state_since, i.removal, i.promised, p.name AS policy, o.name AS operation, i.cleared_by,
               i.actor, i.why, i.evidence,
               EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.storage_id = i.storage_id
                                               AND r.state = 'Deleting' AND i.state = 'Approved') AS begun,
               (SELECT h.why FROM history h WHERE h.kind = 'intent' AND h.id = i.intent_id AND h.target = 'Void')
               AS outcome
          FROM intent i
          JOIN storage s USING (storage_id)
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          LEFT JOIN policy p USING (policy_id)
          LEFT JOIN operation o USING (operation_id)
         WHERE (%(id)s::bigint IS NULL OR i.intent_id = %(id)s)
           AND (%(lfn)s::text IS NULL OR i.file_id = (
                SELECT n.file_id FROM file n JOIN directory e USING (dir_id)
                 WHERE e.path = regexp_replace(%(lfn)s, '/[^/]*$', '')
                   AND n.name = regexp_replace(%(lfn)s, '^.*/', '')))
           AND (%(storage)s::text IS NULL OR s.name = %(storage)s)
           AND (%(operation)s::text IS NULL OR o.name = %(operation)s)
           AND (%(state)s::intent_state IS NULL OR i.state = %(state)s)
         ORDER BY i.intent_id DESC
         LIMIT %(limit)s
        """,
        id=intent_id,
        lfn=lfn,
        storage=storage,
        operation=operation,
        state=str(state) if state else None,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Undoable:
    """An open deletion that somebody wants undone; `begun`: too late."""

    intent_id: int
    file_id: int
    storage_id: int
    operation_id: int | None
    policy: str | None
    removal: bool
    begun: bool


def to_undo(
    conn: Connection, *, ids: Sequence[int] = (), storage: str | None = None, operation: str | None = None
) -> list[Undoable]:
    """Open deletions by id, or all on a storage, or of an operation."""
    return rows(
        conn,
        Undoable,
        """
        SELECT i.intent_id, i.file_id, i.storage_id, i.operation_id, i.removal,
               CASE WHEN i.policy_id IS NOT NULL THEN coalesce(p.name, 'that is gone') END AS policy,
               EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.storage_id = i.storage_id
                                               AND r.state = 'Deleting') AS begun
          FROM intent i
          JOIN storage s USING (storage_id)
          LEFT JOIN policy p USING (policy_id)
          LEFT JOIN operation o USING (operation_id)
         WHERE i.state = 'Approved'
           AND (i.intent_id = ANY(%(ids)s) OR s.name = %(storage)s OR o.name = %(operation)s)
         ORDER BY i.intent_id
        """,
        ids=list(ids),
        storage=storage,
        operation=operation,
    )


def void_those_of(conn: Connection, file_ids: Sequence[int], why: str) -> list[tuple[int, int]]:
    """Undo the deletions of these files that were not begun; the (file, storage) of those that are left. The caller
    holds the files' row locks."""
    fresh = values(
        conn,
        """
        SELECT i.intent_id FROM intent i
         WHERE i.file_id = ANY(%(ids)s) AND i.state = 'Approved'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.storage_id = i.storage_id
                                                   AND r.state = 'Deleting')
         ORDER BY i.intent_id
           FOR UPDATE
        """,
        ids=list(file_ids),
    )
    move(conn, fresh, Intent.APPROVED, Intent.VOID, why)
    return open_of(conn, file_ids)


# --- who says so -----------------------------------------------------------------------------------------------
def pause(conn: Connection, storage_ids: Sequence[int], reason: str | None) -> None:
    """Have no deletion begin on these storages, for a reason; None: they go on."""
    conn.execute(
        """
        INSERT INTO storage_deletion (storage_id, paused)
        SELECT id, %(reason)s FROM unnest(%(ids)s::smallint[]) AS id
        ON CONFLICT (storage_id) DO UPDATE SET paused = excluded.paused
        """,
        {"ids": list(storage_ids), "reason": reason},
    )


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's word that the deletions on a storage up to an intent are meant."""

    name: str
    up_to: int
    n_files: int


def approvals(conn: Connection, storage_id: int) -> list[Approval]:
    """What was approved since deletions on the storage stopped, oldest first; locks them against another approval."""
    conn.execute("SELECT FROM storage_deletion WHERE storage_id = %s FOR UPDATE", (storage_id,))
    return rows(
        conn,
        Approval,
        """
        SELECT a.name, a.up_to, a.n_files
          FROM deletion_approval a JOIN storage_deletion d USING (storage_id)
         WHERE a.storage_id = %(storage)s AND a.at >= d.stopped
         ORDER BY approval_id
        """,
        storage=storage_id,
    )


def uncleared(conn: Connection, storage_id: int) -> tuple[int, int]:
    """How many deletions on a storage wait for two people, and the last of them."""
    found = conn.execute(
        """
        SELECT count(*), coalesce(max(intent_id), 0)
          FROM intent
         WHERE storage_id = %s AND state = 'Approved' AND NOT promised AND cleared_by IS NULL
        """,
        (storage_id,),
    ).fetchone()
    return found or (0, 0)


def add_approval(conn: Connection, storage_id: int, approval: Approval) -> None:
    """Keep somebody's word."""
    conn.execute(
        "INSERT INTO deletion_approval (storage_id, name, up_to, n_files) VALUES (%s, %s, %s, %s)",
        (storage_id, approval.name, approval.up_to, approval.n_files),
    )


def clear(conn: Connection, storage_id: int, up_to: int, names: Sequence[str]) -> int:
    """Two people approved the deletions up to an intent: the hour's number holds for them no more. How many."""
    cleared = conn.execute(
        """
        UPDATE intent SET cleared_by = %s
         WHERE storage_id = %s AND state = 'Approved' AND NOT promised AND cleared_by IS NULL AND intent_id <= %s
        """,
        (list(names), storage_id, up_to),
    ).rowcount
    end_stop(conn, storage_id)
    notify(conn, "intent")
    return cleared


def with_a_copy_left(conn: Connection, file_ids: Sequence[int], going: Sequence[tuple[int, int]]) -> list[int]:
    """Those of these files that have an Available copy which is not among those that are `going`."""
    return values(
        conn,
        """
        SELECT DISTINCT r.file_id
          FROM replica r
         WHERE r.file_id = ANY(%(ids)s) AND r.state = 'Available'
           AND (r.file_id, r.storage_id) NOT IN (
                SELECT * FROM unnest(%(files)s::bigint[], %(storages)s::smallint[]))
         ORDER BY r.file_id
        """,
        ids=list(file_ids),
        files=[file_id for file_id, _ in going],
        storages=[storage_id for _, storage_id in going],
    )


def void_of(conn: Connection, operation_id: int, why: str) -> int:
    """Undo the deletions of an operation that were not begun; how many. The caller holds the files' row locks."""
    fresh = values(
        conn,
        """
        SELECT i.intent_id FROM intent i
         WHERE i.operation_id = %(id)s AND i.state = 'Approved'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.storage_id = i.storage_id
                                                   AND r.state = 'Deleting')
         ORDER BY i.intent_id
           FOR UPDATE
        """,
        id=operation_id,
    )
    return len(move(conn, fresh, Intent.APPROVED, Intent.VOID, why))


# --- lifetimes -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Expired:
    """A file whose lifetime is over, and the policy that says so."""

    file_id: int
    state: File
    policy_id: int
    policy: str


def expired(conn: Connection, limit: int) -> list[Expired]:
    """Files that are older than every policy which they fall under lets them live. Left out are those that were taken
    by the observatory, that a frozen dataset lists, or that a task works on."""
    return rows(
        conn,
        Expired,
        """
        SELECT DISTINCT ON (f.file_id) f.file_id, s.state, p.policy_id, p.name AS policy
          FROM policy p
          JOIN file_owed o USING (policy_id)
          JOIN file f USING (file_id)
          JOIN meta_set s ON s.set_id = f.set_id
          JOIN activity a USING (activity_id)
         WHERE p.remove_after IS NOT NULL AND f.created < now() - p.remove_after AND s.state <> 'Removed'
           AND (a.name <> 'ingest' OR p.temporary)
           AND NOT EXISTS (SELECT FROM file_owed other JOIN policy q USING (policy_id)
                            WHERE other.file_id = f.file_id
                              AND (q.remove_after IS NULL OR q.protected OR f.created >= now() - q.remove_after))
           AND NOT EXISTS (SELECT FROM dataset_file d WHERE d.file_id = f.file_id)
           AND NOT EXISTS (SELECT FROM task_input i JOIN task USING (task_id)
                            WHERE i.file_id = f.file_id AND task.state IN ('Ready', 'Running'))
           AND NOT EXISTS (SELECT FROM companion_in_use u WHERE u.file_id = f.file_id)
         ORDER BY f.file_id
         LIMIT %(limit)s
        """,
        limit=limit,
    )
