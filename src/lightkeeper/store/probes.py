"""What probes and the work on storages told, and the health that followed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection

from lightkeeper.domain.probing import WINDOW
from lightkeeper.domain.states import Health
from lightkeeper.store.db import notify, rows, value


@dataclass(frozen=True, slots=True)
class Due:
    """A protocol of a storage that is to be probed now."""

    storage_id: int
    rank: int


def claim_due(conn: Connection, busy_for: timedelta) -> list[Due]:
    """Protocols whose probe is due, of storages that are in use; nobody else probes them for a while."""
    conn.execute(
        """
        INSERT INTO probe (storage_id, rank)
        SELECT storage_id, 0 FROM storage UNION ALL SELECT storage_id, rank FROM storage_protocol
        ON CONFLICT DO NOTHING
        """
    )
    conn.execute("DELETE FROM work_failure WHERE at < now() - %s", (WINDOW,))
    return rows(
        conn,
        Due,
        """
        UPDATE probe p SET due = now() + %(busy_for)s
          FROM (SELECT storage_id, rank FROM probe JOIN storage USING (storage_id)
                 WHERE due <= now() AND enabled
                   FOR UPDATE OF probe SKIP LOCKED) d
         WHERE p.storage_id = d.storage_id AND p.rank = d.rank
     RETURNING p.storage_id, p.rank
        """,
        busy_for=busy_for,
    )


@dataclass(frozen=True, slots=True)
class Probed:
    """What is known of one protocol of a storage: probes in a row that ended alike, since when; the last error."""

    storage_id: int
    rank: int
    answers: bool
    n_failed: int
    n_succeeded: int
    since: datetime
    due: datetime
    error: str


def probed(conn: Connection, storage_id: int) -> list[Probed]:
    """What is known of a storage's protocols, locked, in their order."""
    return rows(
        conn,
        Probed,
        """
        SELECT storage_id, rank, answers, n_failed, n_succeeded, since, due, error
          FROM probe
         WHERE storage_id = %(storage)s
         ORDER BY rank
           FOR UPDATE
        """,
        storage=storage_id,
    )


def put_probed(conn: Connection, storage_id: int, rank: int, *, answers: bool, error: str, wait: timedelta) -> None:
    """Note how a probe ended: `error` is empty when it succeeded."""
    conn.execute(
        """
        UPDATE probe
           SET answers = %(answers)s,
               since = CASE WHEN (%(error)s = '') = (n_failed = 0) THEN since ELSE now() END,
               n_failed = CASE WHEN %(error)s = '' THEN 0 ELSE n_failed + 1 END,
               n_succeeded = CASE WHEN %(error)s = '' THEN n_succeeded + 1 ELSE 0 END,
               error = %(error)s, last = now(), due = now() + %(wait)s
         WHERE storage_id = %(storage)s AND rank = %(rank)s
        """,
        {"storage": storage_id, "rank": rank, "answers": answers, "error": error, "wait": wait},
    )


def work_failed(conn: Connection, storage_ids: Sequence[int], error: str) -> None:
    """Work on these storages failed because one of them did not answer: they are probed soon."""
    conn.execute(
        "INSERT INTO work_failure (storage_id, error) SELECT id, %s FROM unnest(%s::smallint[]) AS id",
        (error, list(storage_ids)),
    )
    probe_soon(conn, storage_ids)


def probe_soon(conn: Connection, storage_ids: Sequence[int]) -> None:
    """Have these storages probed at once, unless they just were."""
    conn.execute(
        """
        UPDATE probe SET due = now()
         WHERE storage_id = ANY(%s) AND due > now() AND (last IS NULL OR last < now() - interval '10 s')
        """,
        (list(storage_ids),),
    )
    notify(conn, "probe")


@dataclass(frozen=True, slots=True)
class Work:
    """Work on a storage in the last WINDOW: what failed, what was done, and what the last failure said."""

    failed: int
    done: int
    error: str


def work_on(conn: Connection, storage_id: int) -> Work:
    """How the work on a storage went lately. What was done is known by the hour: of the last hour a part is taken."""
    failed, error = conn.execute(
        """
        SELECT count(*), coalesce((array_agg(error ORDER BY at DESC))[1], '')
          FROM work_failure
         WHERE storage_id = %s AND at > now() - %s
        """,
        (storage_id, WINDOW),
    ).fetchone() or (0, "")
    done = value(
        conn,
        """
        SELECT coalesce(sum(n_transfers), 0)::bigint
          FROM transfer_log
         WHERE hour >= date_trunc('hour', now(), 'UTC') AND %(storage)s IN (source_id, target_id)
        """,
        storage=storage_id,
    )
    return Work(failed, int(done), error)


def health_changed(conn: Connection, storage_id: int, health: Health) -> int:
    """What a change of health wakes: a storage that is banned has the files looked at again whose copies are to go
    there, so that they go elsewhere where that is possible; how many. One that answers again has its queues served."""
    looked_at = 0
    if health is Health.BANNED:
        looked_at = unsettle_queue(conn, storage_id)
    for topic in ("unsettled", "transfer", "intent", "recheck", "scrub"):
        notify(conn, topic)
    return looked_at


def unsettle_queue(conn: Connection, storage_id: int) -> int:
    """Have the files compared with what they are owed that wait to be copied to a storage; how many."""
    return conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT DISTINCT file_id FROM transfer WHERE state = 'Waiting' AND target_id = %s ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        (storage_id,),
    ).rowcount


def health(conn: Connection, storage_id: int) -> Health:
    """A storage's health now."""
    return value(conn, "SELECT state FROM health WHERE health_id = %(id)s", id=storage_id)


@dataclass(frozen=True, slots=True)
class Condition:
    """A storage's health, since when, and why, as its history tells."""

    storage_id: int
    health: Health
    since: datetime
    why: str


def conditions(conn: Connection) -> list[Condition]:
    """The health of every storage."""
    return rows(
        conn,
        Condition,
        """
        SELECT h.health_id AS storage_id, h.state AS health, h.state_since AS since, coalesce(l.why, '') AS why
          FROM health h
          LEFT JOIN LATERAL (
               SELECT why FROM history
                WHERE kind = 'health' AND id = h.health_id ORDER BY at DESC LIMIT 1) l ON h.state <> 'Good'
         ORDER BY h.health_id
        """,
    )
