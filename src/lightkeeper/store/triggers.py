"""Deliveries: accepted, claimed with a lease, registered or quarantined."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg import Connection

from lightkeeper.domain.states import Trigger
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours until its lease ends; `epoch` fences us off afterwards. `waited` since acceptance."""

    trigger_id: int
    epoch: int
    storage_id: int
    path: str
    waited: timedelta


def accept(conn: Connection, storage_id: int, paths: Sequence[str]) -> int:
    """Accept deliveries; a name that is open already is the same delivery. Returns how many are new."""
    added = conn.execute(
        """
        INSERT INTO trigger (storage_id, path)
        SELECT %s, unnest(%s::text[])
        ON CONFLICT DO NOTHING
        """,
        (storage_id, list(paths)),
    ).rowcount
    if added:
        notify(conn, "trigger")
    return added


def open_paths(conn: Connection, storage_id: int) -> list[str]:
    """Names of the deliveries at a storage that are neither registered nor quarantined yet."""
    return values(conn, "SELECT path FROM trigger WHERE storage_id = %(id)s AND state = 'Accepted'", id=storage_id)


def claim(conn: Connection, limit: int, lease: timedelta) -> list[Claim]:
    """Up to `limit` open deliveries that are due, oldest first; ours until the lease ends."""
    return rows(
        conn,
        Claim,
        """
        UPDATE trigger
           SET lease_until = now() + %(lease)s, epoch = epoch + 1
         WHERE trigger_id IN (
               SELECT trigger_id FROM trigger
                WHERE state = 'Accepted' AND not_before <= now() AND (lease_until IS NULL OR lease_until < now())
                ORDER BY not_before, trigger_id
                LIMIT %(limit)s
                FOR UPDATE SKIP LOCKED)
     RETURNING trigger_id, epoch, storage_id, path, now() - accepted AS waited
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
        UPDATE trigger t SET file_id = w.file_id
          FROM unnest(%s::bigint[], %s::bigint[]) AS w (trigger_id, file_id)
         WHERE t.trigger_id = w.trigger_id
        """,
        (list(trigger_ids), list(file_ids)),
    )
    move(conn, trigger_ids, Trigger.ACCEPTED, Trigger.REGISTERED)


def note_quarantine(conn: Connection, trigger_id: int, reason: str, where: str) -> None:
    """Write down that the delivery is refused and where it will go, before it is moved there."""
    conn.execute("UPDATE trigger SET reason = %s, quarantine = %s WHERE trigger_id = %s", (reason, where, trigger_id))


def quarantined(conn: Connection, trigger_id: int, reason: str) -> None:
    """The delivery has been moved to the quarantine."""
    move(conn, [trigger_id], Trigger.ACCEPTED, Trigger.QUARANTINED, reason)


def postpone(conn: Connection, trigger_ids: Sequence[int], wait: timedelta) -> None:
    """Give the claims back, to be claimed again after `wait`."""
    conn.execute(
        "UPDATE trigger SET lease_until = NULL, not_before = now() + %s WHERE trigger_id = ANY(%s)",
        (wait, list(trigger_ids)),
    )


def release_leases(conn: Connection) -> None:
    """Let every open delivery be claimed at once."""
    conn.execute("UPDATE trigger SET lease_until = NULL WHERE state = 'Accepted' AND lease_until IS NOT NULL")
