"""Deliveries: accepted, claimed with a lease, registered or quarantined."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Connection

from lightkeeper.domain.states import Trigger
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours until its lease ends; `epoch` fences us off afterwards. `waited` since acceptance;
    `attempts` ended the process that read it. Of one that a person released, who answers for it, and metadata that he
    gave."""

    trigger_id: int
    epoch: int
    storage_id: int
    path: str
    waited: timedelta
    attempts: int
    released_by: str | None = None
    given: dict[str, Any] | None = None


def accept(conn: Connection, storage_id: int, paths: Sequence[str]) -> int:
    """Accept deliveries; a name that is open already is the same delivery. Returns how many are new."""
    added = conn.execute(
        """
        INSERT INTO trigger (storage_id, path)
        SELECT %(id)s, path
          FROM unnest(%(paths)s::text[]) AS w (path)
         WHERE NOT EXISTS (SELECT FROM trigger t
                            WHERE t.storage_id = %(id)s AND t.path = w.path AND t.state = 'Accepted')
        ON CONFLICT DO NOTHING
        """,
        {"id": storage_id, "paths": list(paths)},
    ).rowcount
    if added:
        notify(conn, "trigger")
    return added


def claim(conn: Connection, limit: int, lease: timedelta) -> list[Claim]:
    """Up to `limit` open deliveries that are due, oldest first; ours until the lease ends."""
    return rows(
        conn,
        Claim,
        """
        UPDATE trigger
           SET lease_until = now() + %(lease)s, epoch = epoch + 1
         WHERE trigger_id = ANY(ARRAY( -- looked for once; a join may look again, and take more
               SELECT trigger_id FROM trigger
                WHERE state = 'Accepted' AND not_before <= now() AND (lease_until IS NULL OR lease_until < now())
                ORDER BY not_before, trigger_id
                LIMIT %(limit)s
                  FOR UPDATE SKIP LOCKED))
     RETURNING trigger_id, epoch, storage_id, path, now() - accepted AS waited, attempts, released_by, given
        """,
        limit=limit,
        lease=lease,
    )


def still_ours(conn: Connection, claims: Sequence[Claim]) -> set[int]:
    """Lock those of `claims` whose lease nobody took over; return their trigger ids."""
    return set(
        values(
            conn,
            """
            SELECT trigger_id FROM trigger
              JOIN unnest(%(ids)s::bigint[], %(epochs)s::int[]) AS c (trigger_id, claimed) USING (trigger_id)
             WHERE state = 'Accepted' AND epoch = claimed
             ORDER BY trigger_id
               FOR UPDATE OF trigger
            """,
            ids=[c.trigger_id for c in claims],
            epochs=[c.epoch for c in claims],
        )
    )


def registered(conn: Connection, trigger_ids: Sequence[int], file_ids: Sequence[int]) -> None:
    """The deliveries are in the catalogue as these files."""
    conn.execute(
        """
        UPDATE trigger t SET file_id = w.file_id, repeat = f.created < now()
          FROM unnest(%s::bigint[], %s::bigint[]) AS w (trigger_id, file_id)
          JOIN file f USING (file_id)
         WHERE t.trigger_id = w.trigger_id
        """,
        (list(trigger_ids), list(file_ids)),
    )
    move(conn, trigger_ids, Trigger.ACCEPTED, Trigger.REGISTERED)


def note_quarantine(conn: Connection, trigger_id: int, reason: str, where: str) -> None:
    """Write down that the delivery is refused and where it will go, before it is moved there."""
    conn.execute("UPDATE trigger SET reason = %s, quarantine = %s WHERE trigger_id = %s", (reason, where, trigger_id))


def quarantined(conn: Connection, trigger_id: int, reason: str) -> None:
    """The delivery has been moved to the quarantine, and is nobody's until somebody decides about it."""
    conn.execute("UPDATE trigger SET lease_until = NULL WHERE trigger_id = %s", (trigger_id,))
    move(conn, [trigger_id], Trigger.ACCEPTED, Trigger.QUARANTINED, reason)


def renew(conn: Connection, claims: Sequence[Claim], lease: timedelta) -> None:
    """Those of `claims` that nobody took over stay ours for another lease."""
    conn.execute(
        """
        UPDATE trigger t
           SET lease_until = now() + %s
          FROM unnest(%s::bigint[], %s::int[]) AS c (trigger_id, claimed)
         WHERE t.trigger_id = c.trigger_id AND t.state = 'Accepted' AND t.epoch = c.claimed
        """,
        (lease, [c.trigger_id for c in claims], [c.epoch for c in claims]),
    )


def put_back(conn: Connection, claims: Sequence[tuple[Claim, timedelta, bool]]) -> None:
    """Give back those of `claims` that nobody took over, to be claimed again after a time; whether it was an attempt
    that ended its process."""
    conn.execute(
        """
        UPDATE trigger t
           SET lease_until = NULL, not_before = now() + wait, attempts = attempts + ended::int
          FROM unnest(%s::bigint[], %s::int[], %s::interval[], %s::bool[]) AS c (trigger_id, claimed, wait, ended)
         WHERE t.trigger_id = c.trigger_id AND t.state = 'Accepted' AND t.epoch = c.claimed
        """,
        (
            [claim.trigger_id for claim, _, _ in claims],
            [claim.epoch for claim, _, _ in claims],
            [wait for _, wait, _ in claims],
            [ended for _, _, ended in claims],
        ),
    )


def release_leases(conn: Connection) -> None:
    """Let every open delivery be claimed at once."""
    conn.execute("UPDATE trigger SET lease_until = NULL WHERE state = 'Accepted' AND lease_until IS NOT NULL")
