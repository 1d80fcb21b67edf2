"""Approved deletions: intents with their evidence, from approval to the end of the replica; limits and who lifts them.

Everything is in sets: one statement for hundreds of files. Files are locked in the order of their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection

from lightkeeper.domain.policy import MAX_VERIFY_AGE
from lightkeeper.domain.states import Intent
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store.db import notify, row, rows, values
from lightkeeper.store.transfers import unsettle
from lightkeeper.store.transitions import move, move_replicas


# --- approval --------------------------------------------------------------------------------------------------
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
