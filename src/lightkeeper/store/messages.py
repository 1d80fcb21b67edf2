"""News that nobody was told yet, and the outbox of messages: neither lost nor doubled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.states import Transformation
from lightkeeper.store.db import row, rows, value, values

Items = Mapping[str, Mapping[str, Any]]


# --- news --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ended:
    """A transformation that was flushed or completed."""

    remedy_id: int
    transformation: int
    name: str
    type: str
    what: str
    why: str


def untold_ends(conn: Connection) -> list[Ended]:
    """What was done with transformations and stands in no message yet."""
    return rows(
        conn,
        Ended,
        """
        SELECT r.remedy_id, t.transformation_id AS transformation, t.name, t.type, r.what, r.why
          FROM remedy r JOIN transformation t ON t.transformation_id = r.id
         WHERE NOT r.told AND r.kind = 'transformation'
         ORDER BY r.remedy_id
         LIMIT 1000
        """,
    )


@dataclass(frozen=True, slots=True)
class Reassigned:
    """A task that was given another attempt. `lfns` are the first few of its inputs."""

    remedy_id: int
    transformation: int
    name: str
    type: str
    task: int
    why: str
    n_files: int
    lfns: list[str]


def untold_attempts(conn: Connection, lfns: int) -> list[Reassigned]:
    """Tasks that were given another attempt, and of which nobody was told; with at most `lfns` inputs of each."""
    return rows(
        conn,
        Reassigned,
        """
        SELECT r.remedy_id, t.transformation_id AS transformation, t.name, t.type, k.task_id AS task, r.why,
               (SELECT count(*) FROM task_input i WHERE i.task_id = k.task_id)::int AS n_files,
               ARRAY(SELECT d.path || '/' || f.name
                       FROM (SELECT file_id FROM task_input i WHERE i.task_id = k.task_id
                              ORDER BY file_id LIMIT %(lfns)s) i
                       JOIN file f USING (file_id) JOIN directory d USING (dir_id)) AS lfns
          FROM (SELECT * FROM remedy WHERE NOT told AND kind = 'task' ORDER BY remedy_id LIMIT 5000) r
          JOIN task k ON k.task_id = r.id
          JOIN transformation t ON t.transformation_id = k.transformation_id
         ORDER BY r.remedy_id
        """,
        lfns=lfns,
    )


def told(conn: Connection, remedy_ids: Sequence[int]) -> None:
    """These stand in a message now."""
    conn.execute("UPDATE remedy SET told = true WHERE remedy_id = ANY(%s)", (list(remedy_ids),))


@dataclass(frozen=True, slots=True)
class ConcernRow:
    """Something a person must decide."""

    concern_id: int
    since: datetime
    kind: str
    condition: str
    id: int
    type: str
    sentence: str
    choices: list[str]


def untold_concerns(conn: Connection) -> list[ConcernRow]:
    """What a person must decide and was not told yet. What holds no more is not told at all."""
    conn.execute("UPDATE concern SET told = true WHERE NOT told AND ended IS NOT NULL")
    return rows(
        conn,
        ConcernRow,
        """
        SELECT concern_id, since, kind, condition, id, type, sentence, choices
          FROM concern WHERE NOT told ORDER BY concern_id LIMIT 1000
        """,
    )


def concerns(conn: Connection, limit: int = 1000) -> list[ConcernRow]:
    """What a person must decide now, the oldest first."""
    return rows(
        conn,
        ConcernRow,
        """
        SELECT concern_id, since, kind, condition, id, type, sentence, choices
          FROM concern WHERE ended IS NULL ORDER BY concern_id LIMIT %(limit)s
        """,
        limit=limit,
    )


def concerns_told(conn: Connection, concern_ids: Sequence[int]) -> None:
    """These stand in a message now."""
    conn.execute("UPDATE concern SET told = true WHERE concern_id = ANY(%s)", (list(concern_ids),))


@dataclass(frozen=True, slots=True)
class Due:
    """A transformation whose report is due: it has failed attempts that the last one did not have."""

    transformation: int
    name: str
    type: str
    in_vain: int


def due_reports(conn: Connection, states: Sequence[Transformation]) -> list[Due]:
    """Transformations in these states with failed attempts that nobody was told of."""
    return rows(
        conn,
        Due,
        """
        SELECT t.transformation_id AS transformation, t.name, t.type, p.in_vain
          FROM transformation t
          JOIN transformation_progress p USING (transformation_id)
          LEFT JOIN report_told r USING (transformation_id)
         WHERE t.state = ANY(%(states)s::transformation_state[])
           AND p.in_vain > coalesce(r.in_vain, 0)
         ORDER BY t.transformation_id
        """,
        states=[str(state) for state in states],
    )


def report_told(conn: Connection, due: Sequence[Due]) -> None:
    """The reports of these stand in a message now."""
    conn.execute(
        """
        INSERT INTO report_told (transformation_id, in_vain)
        SELECT * FROM unnest(%s::int[], %s::bigint[])
        ON CONFLICT (transformation_id) DO UPDATE SET in_vain = excluded.in_vain
        """,
        ([one.transformation for one in due], [one.in_vain for one in due]),
    )


# --- the outbox ----------------------------------------------------------------------------------------------------
def gather_alone(conn: Connection) -> bool:
    """Whether this transaction may put news into messages: one at a time does, and none while one is being sent."""
    return value(
        conn,
        """
        SELECT pg_try_advisory_xact_lock(hashtext('news'))
               AND NOT EXISTS (SELECT FROM message WHERE sent IS NULL AND refused IS NULL AND lease_until > now())
        """,
    )


def open_items(conn: Connection) -> dict[tuple[str, str], Items]:
    """Items of the messages that are still to be sent, by condition and address; locked."""
    found = conn.execute(
        "SELECT condition, address, items FROM message WHERE sent IS NULL AND refused IS NULL FOR UPDATE"
    ).fetchall()
    return {(condition, address): items for condition, address, items in found}


def put_items(conn: Connection, condition: str, address: str, items: Items, period: timedelta) -> None:
    """These are the items of the open message of a condition to an address. A new one is due at once, or a period after
    the one before was sent."""
    conn.execute(
        """
        INSERT INTO message (condition, address, items, not_before)
        VALUES (%(condition)s, %(address)s, %(items)s,
                greatest(now(), (SELECT max(sent) + %(period)s FROM message
                                  WHERE condition = %(condition)s AND address = %(address)s)))
        ON CONFLICT (condition, address) WHERE sent IS NULL AND refused IS NULL
        DO UPDATE SET items = excluded.items
        """,
        {"condition": condition, "address": address, "items": Jsonb(dict(items)), "period": period},
    )


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that is ours to send until its lease ends."""

    message_id: int
    epoch: int
    key: UUID
    condition: str
    address: str
    items: Items
    attempts: int
    at: datetime


def claim(conn: Connection, lease: timedelta) -> Claimed | None:
    """Take the first message that is due; nobody else has it meanwhile."""
    return row(
        conn,
        Claimed,
        """
        UPDATE message SET lease_until = now() + %(lease)s, epoch = epoch + 1, attempts = attempts + 1
         WHERE message_id = (SELECT message_id FROM message
                              WHERE sent IS NULL AND refused IS NULL AND not_before <= now()
                                AND (lease_until IS NULL OR lease_until <= now())
                              ORDER BY not_before, message_id
                              LIMIT 1
                                FOR UPDATE SKIP LOCKED)
        RETURNING message_id, epoch, key, condition, address, items, attempts, now() AS at
        """,
        lease=lease,
    )


def sent(conn: Connection, message: Claimed) -> bool:
    """It was sent. False when it is ours no more."""
    return bool(
        conn.execute(
            """
            UPDATE message SET sent = now(), lease_until = NULL, error = ''
             WHERE message_id = %s AND epoch = %s AND sent IS NULL
            """,
            (message.message_id, message.epoch),
        ).rowcount
    )


def not_sent(conn: Connection, message: Claimed, error: str, wait: timedelta) -> None:
    """It could not be sent now: again after `wait`."""
    conn.execute(
        """
        UPDATE message SET not_before = now() + %s, lease_until = NULL, error = %s
         WHERE message_id = %s AND epoch = %s AND sent IS NULL
        """,
        (wait, error, message.message_id, message.epoch),
    )


def refused(conn: Connection, message: Claimed, error: str) -> None:
    """Whoever takes messages for this address never will take this one."""
    conn.execute(
        """
        UPDATE message SET refused = now(), lease_until = NULL, error = %s
         WHERE message_id = %s AND epoch = %s AND sent IS NULL
        """,
        (error, message.message_id, message.epoch),
    )


def forget(conn: Connection, older_than: timedelta) -> int:
    """Forget messages that were sent or refused so long ago; how many."""
    return conn.execute("DELETE FROM message WHERE coalesce(sent, refused) < now() - %s", (older_than,)).rowcount


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message in a list."""

    message_id: int
    condition: str
    address: str
    created: datetime
    not_before: datetime
    sent: datetime | None
    refused: datetime | None
    attempts: int
    error: str
    items: int


def messages(conn: Connection, limit: int = 100) -> list[MessageRow]:
    """Messages, the latest first; those that are still to be sent before the others."""
    return rows(
        conn,
        MessageRow,
        """
        SELECT message_id, condition, address, created, not_before, sent, refused, attempts, error,
               (SELECT count(*) FROM jsonb_object_keys(items))::int AS items
          FROM message
         ORDER BY sent IS NULL AND refused IS NULL DESC, message_id DESC
         LIMIT %(limit)s
        """,
        limit=limit,
    )


def addresses_refused(conn: Connection) -> list[int]:
    """The latest message to each address, where that was refused."""
    return values(
        conn,
        """
        SELECT message_id
          FROM (SELECT DISTINCT ON (address) message_id, refused FROM message
                 WHERE sent IS NOT NULL OR refused IS NOT NULL
                 ORDER BY address, message_id DESC) latest
         WHERE refused IS NOT NULL
         ORDER BY message_id
        """,
    )
