"""Deliveries that were refused: looked at, verified again, released by a person, or discarded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.states import Trigger
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class Refused:
    """A delivery in the quarantine, or one that was discarded: `quarantine` is where its file lies or lay."""

    number: int
    at: datetime
    storage: str
    path: str
    state: Trigger
    reason: str
    quarantine: str


def find(
    conn: Connection,
    *,
    numbers: Sequence[int] | None = None,
    like: str | None = None,
    storage: str | None = None,
    discarded: bool = False,
    limit: int | None = None,
) -> list[Refused]:
    """Refused deliveries, latest first: those of these numbers, whose path is LIKE a pattern, at a storage."""
    return rows(
        conn,
        Refused,
        """
        SELECT trigger_id AS number, state_since AS at, s.name AS storage, path, state,
               coalesce(reason, '') AS reason, coalesce(quarantine, '') AS quarantine
          FROM trigger
          JOIN storage s USING (storage_id)
         WHERE (state = 'Quarantined' OR %(discarded)s AND state = 'Discarded')
           AND (%(numbers)s::bigint[] IS NULL OR trigger_id = ANY(%(numbers)s))
           AND (%(like)s::text IS NULL OR path LIKE %(like)s)
           AND (%(storage)s::text IS NULL OR s.name = %(storage)s)
         ORDER BY trigger_id DESC
         LIMIT %(limit)s
        """,
        numbers=None if numbers is None else list(numbers),
        like=like,
        storage=storage,
        discarded=discarded,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """How an interface directory stands: deliveries that wait, the oldest of them, those that are verified right now,
    and those that were refused and wait for a person."""

    storage: str
    directory: str
    waiting: int
    oldest: datetime | None
    verifying: int
    refused: int


def standing(conn: Connection) -> list[Standing]:
    """Every storage that takes deliveries."""
    return rows(
        conn,
        Standing,
        """
        SELECT s.name AS storage, s.root AS directory, coalesce(a.waiting, 0) AS waiting, a.oldest,
               coalesce(a.verifying, 0) AS verifying, coalesce(q.refused, 0) AS refused
          FROM storage s
          LEFT JOIN (SELECT storage_id, count(*) AS waiting, min(accepted) AS oldest,
                            count(*) FILTER (WHERE lease_until > now()) AS verifying
                       FROM trigger WHERE state = 'Accepted' GROUP BY storage_id) a USING (storage_id)
          LEFT JOIN (SELECT storage_id, count(*) AS refused
                       FROM trigger WHERE state = 'Quarantined' GROUP BY storage_id) q USING (storage_id)
         WHERE s.ingest
         ORDER BY s.name
        """,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """One move of a delivery, and why."""

    at: datetime
    source: str
    target: str
    why: str


def turns(conn: Connection, number: int) -> list[Turn]:
    """What became of a delivery, from the beginning."""
    return rows(
        conn,
        Turn,
        """
        SELECT at, source, target, why
          FROM history
         WHERE kind = 'trigger' AND id = %(number)s
         ORDER BY at
        """,
        number=number,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A refused delivery that is ours until our lease ends; `epoch` fences us off afterwards."""

    trigger_id: int
    epoch: int
    storage_id: int
    path: str
    reason: str
    quarantine: str


def hold(conn: Connection, numbers: Sequence[int], lease: timedelta) -> list[Held]:
    """Those of these refused deliveries that nobody else holds; ours until the lease ends."""
    return rows(
        conn,
        Held,
        """
        UPDATE trigger
           SET lease_until = now() + %(lease)s, epoch = epoch + 1
         WHERE trigger_id IN (
               SELECT trigger_id FROM trigger
                WHERE trigger_id = ANY(%(numbers)s) AND state = 'Quarantined'
                  AND (lease_until IS NULL OR lease_until < now())
                ORDER BY trigger_id
                FOR UPDATE SKIP LOCKED)
     RETURNING trigger_id, epoch, storage_id, path, coalesce(reason, '') AS reason,
               coalesce(quarantine, '') AS quarantine
        """,
        numbers=list(numbers),
        lease=lease,
    )


def let_go(conn: Connection, held: Sequence[Held]) -> None:
    """Hold these no more."""
    conn.execute(
        """
        UPDATE trigger t SET lease_until = NULL
          FROM unnest(%(ids)s::bigint[], %(epochs)s::int[]) AS w (trigger_id, epoch)
         WHERE t.trigger_id = w.trigger_id AND t.epoch = w.epoch AND t.state = 'Quarantined'
        """,
        {"ids": [one.trigger_id for one in held], "epochs": [one.epoch for one in held]},
    )


def still_held(conn: Connection, held: Sequence[Held]) -> list[int]:
    """Lock those that nobody took over meanwhile; their trigger ids."""
    return values(
        conn,
        """
        SELECT trigger_id FROM trigger
          JOIN unnest(%(ids)s::bigint[], %(epochs)s::int[]) AS c (trigger_id, held) USING (trigger_id)
         WHERE state = 'Quarantined' AND epoch = held
         ORDER BY trigger_id
           FOR UPDATE OF trigger
        """,
        ids=[one.trigger_id for one in held],
        epochs=[one.epoch for one in held],
    )


def open_again(conn: Connection, held: Sequence[Held]) -> set[int]:
    """Those whose name is delivered again at the moment: trigger ids."""
    return set(
        values(
            conn,
            """
            SELECT refused.trigger_id
              FROM trigger refused
              JOIN trigger later USING (storage_id, path)
             WHERE refused.trigger_id = ANY(%(ids)s) AND later.state = 'Accepted'
            """,
            ids=[one.trigger_id for one in held],
        )
    )


def accept_again(
    conn: Connection,
    trigger_ids: Sequence[int],
    why: str,
    *,
    released_by: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> list[int]:
    """These are deliveries to be verified, as new ones are. `released_by` answers for what is found wrong with them,
    and `given` are metadata that go before what they say. Returns those that were refused till now."""
    ids = move(conn, trigger_ids, Trigger.QUARANTINED, Trigger.ACCEPTED, why)
    conn.execute(
        """
        UPDATE trigger
           SET lease_until = NULL, not_before = now(), reason = NULL, quarantine = NULL,
               released_by = %(by)s, given = %(given)s
         WHERE trigger_id = ANY(%(ids)s)
        """,
        {"ids": ids, "by": released_by, "given": Jsonb(dict(given)) if given else None},
    )
    notify(conn, "trigger")
    return ids


def discard(conn: Connection, trigger_ids: Sequence[int], why: str) -> list[int]:
    """The files of these are gone; what they were and why they went stays known."""
    return move(conn, trigger_ids, Trigger.QUARANTINED, Trigger.DISCARDED, why)
