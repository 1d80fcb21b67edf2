"""What went over links, for accounting, and transfers to be looked at one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg import Connection

from lightkeeper.domain.states import Transfer
from lightkeeper.store.db import rows, values


@dataclass(frozen=True, slots=True)
class Flow:
    """What went from one site to another on one day (UTC) for one activity. `seconds`: that its streams took in sum, so
    that bytes / seconds is the rate of one stream."""

    day: date
    source: str
    target: str
    activity: str
    transfers: int
    bytes: int
    failed_attempts: int
    seconds: float


def flows(conn: Connection, days: int) -> list[Flow]:
    """What went over every link on each of the last `days` days, the latest first."""
    return rows(
        conn,
        Flow,
        """
        SELECT (hour AT TIME ZONE 'UTC')::date AS day, a.name AS source, b.name AS target, activity,
               sum(n_transfers)::bigint AS transfers, sum(n_bytes)::bigint AS bytes,
               sum(n_failed)::bigint AS failed_attempts, sum(seconds) AS seconds
          FROM transfer_log
          JOIN storage s ON s.storage_id = source_id
          JOIN storage t ON t.storage_id = target_id
          JOIN site a ON a.site_id = s.site_id
          JOIN site b ON b.site_id = t.site_id
         WHERE hour >= date_trunc('day', now(), 'UTC') - (%(days)s - 1) * interval '1 day'
         GROUP BY 1, 2, 3, 4
         ORDER BY 1 DESC, 2, 3, 4
        """,
        days=days,
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """One transfer, to be looked at. `source`: where its last attempt was made from; `next`: when another may begin."""

    transfer_id: int
    lfn: str
    size: int
    source: str | None
    target: str
    state: Transfer
    attempts: int
    priority: int
    activity: str
    policy: str | None
    since: datetime
    next: datetime | None
    error: str | None


def transfers(conn: Connection, states: Sequence[str], target: str | None, limit: int) -> list[Listed]:
    """Transfers in these states, to one storage or to all: first those that are under way, then as they wait, then the
    latest that ended."""
    return rows(
        conn,
        Listed,
        """
        SELECT t.transfer_id, d.path || '/' || f.name AS lfn, f.size, s.name AS source, g.name AS target, t.state,
               t.attempts, t.priority, t.activity, p.name AS policy, t.state_since AS since,
               CASE WHEN t.state = 'Waiting' THEN t.not_before END AS next, t.error
          FROM transfer t
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          JOIN storage g ON g.storage_id = t.target_id
          LEFT JOIN storage s ON s.storage_id = t.source_id
          LEFT JOIN policy p USING (policy_id)
         WHERE t.state = ANY(%(states)s::transfer_state[])
           AND (%(target)s::text IS NULL OR g.name = %(target)s)
         ORDER BY t.state = 'Running' DESC, t.state = 'Waiting' DESC,
                  CASE WHEN t.state = 'Waiting' THEN t.priority END,
                  CASE WHEN t.state = 'Waiting' THEN t.not_before END,
                  t.state_since DESC, t.transfer_id
         LIMIT %(limit)s
        """,
        states=list(states),
        target=target,
        limit=limit,
    )


def to_retry(conn: Connection, ids: Sequence[int]) -> list[int]:
    """Of these transfers those that wait, or were given up and are not being made by another one; locked."""
    return values(
        conn,
        """
        SELECT transfer_id FROM transfer t
         WHERE transfer_id = ANY(%(ids)s)
           AND (state = 'Waiting'
                OR state = 'Failed' AND NOT EXISTS (
                   SELECT FROM transfer o
                    WHERE o.file_id = t.file_id AND o.target_id = t.target_id AND o.state IN ('Waiting', 'Running'))
               AND NOT EXISTS (SELECT FROM replica r
                                WHERE r.file_id = t.file_id AND r.storage_id = t.target_id AND r.state = 'Available'))
         ORDER BY transfer_id
           FOR UPDATE OF t
        """,
        ids=list(ids),
    )


def given_up(conn: Connection) -> list[int]:
    """Transfers that all attempts of failed lately, the latest of each file and target."""
    return values(
        conn,
        """
        SELECT DISTINCT ON (file_id, target_id) transfer_id FROM transfer
         WHERE state = 'Failed' AND attempts > 0 AND state_since > now() - interval '7 days'
         ORDER BY file_id, target_id, transfer_id DESC
        """,
    )


def at_once(conn: Connection, ids: Sequence[int]) -> None:
    """Have transfers begin as soon as there is room, with all their attempts."""
    conn.execute(
        "UPDATE transfer SET not_before = now(), attempts = 0, failed = '{}' WHERE transfer_id = ANY(%s)", (list(ids),)
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the history of a transfer."""

    at: datetime
    source: str
    target: str
    why: str


@dataclass(frozen=True, slots=True)
class Open:
    """Transfers to one storage that are not done, in one state and with the same last error."""

    target: str
    state: Transfer
    activity: str
    error: str | None
    transfers: int
    bytes: int


def open_by_reason(conn: Connection) -> list[Open]:
    """What waits, is under way or was given up in the last day, by storage and error; the most first."""
    return rows(
        conn,
        Open,
        """
        SELECT g.name AS target, t.state, t.activity, t.error, count(*) AS transfers, sum(f.size)::bigint AS bytes
          FROM transfer t
          JOIN file f USING (file_id)
          JOIN storage g ON g.storage_id = t.target_id
         WHERE t.state IN ('Waiting', 'Running')
            OR t.state = 'Failed' AND t.attempts > 0 AND t.state_since > now() - interval '1 day'
         GROUP BY 1, 2, 3, 4
         ORDER BY t.state = 'Failed' DESC, 5 DESC
         LIMIT 20
        """,
    )


def is_known(conn: Connection, transfer_id: int) -> bool:
    """Whether there is such a transfer."""
    return bool(values(conn, "SELECT true FROM transfer WHERE transfer_id = %(id)s", id=transfer_id))


def history(conn: Connection, transfer_id: int) -> list[Line]:
    """What happened to a transfer, in order."""
    return rows(
        conn,
        Line,
        "SELECT at, source, target, why FROM history WHERE kind = 'transfer' AND id = %(id)s ORDER BY at",
        id=transfer_id,
    )
