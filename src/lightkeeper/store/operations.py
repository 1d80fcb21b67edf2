"""Operations on many files: what was asked for, and where each file stands, read from copies, transfers and intents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL

from lightkeeper.domain.operations import Facts, Kind
from lightkeeper.domain.states import Operation
from lightkeeper.store.db import row, values
from lightkeeper.store.queries import Plan, meant_by


@dataclass(frozen=True, slots=True)
class OperationRow:
    """An operation. `target` and `source` are storage expressions; `copies` are wanted at the target."""

    operation_id: int
    name: str
    kind: Kind
    state: Operation
    created: datetime
    state_since: datetime
    files: str
    n_files: int
    n_bytes: int
    target: str
    source: str
    copies: int
    actor: str
    policy_id: int | None
    after_id: int


@dataclass(frozen=True, slots=True)
class Places:
    """An operation with the storages that its expressions mean now."""

    operation_id: int
    since: datetime
    copies: int
    targets: tuple[int, ...]
    sources: tuple[int, ...]


# --- reading ---------------------------------------------------------------------------------------------------
def find(conn: Connection, *, name: str | None = None, due: bool = False, limit: int = 1000) -> list[OperationRow]:
    """Operations, the latest first; of one name, or those that are to be looked after now."""
    found = conn.execute(
        """
        SELECT operation_id, name, kind::text, state, created, state_since, files, n_files, n_bytes, target, source,
               copies, actor, policy_id, after_id
          FROM operation
         WHERE (%(name)s::text IS NULL OR name = %(name)s)
           AND (NOT %(due)s OR state = 'Active' AND not_before <= now())
         ORDER BY operation_id DESC
         LIMIT %(limit)s
        """,
        {"name": name, "due": due, "limit": limit},
    ).fetchall()
    return [OperationRow(i, name, Kind(kind), *rest) for i, name, kind, *rest in found]


def lock(conn: Connection, operation_id: int) -> bool:
    """Lock an operation that is Active; False when it is not, or somebody else looks after it."""
    return bool(
        values(
            conn,
            "SELECT 1 FROM operation WHERE operation_id = %(id)s AND state = 'Active' FOR UPDATE SKIP LOCKED",
            id=operation_id,
        )
    )


def names_like(conn: Connection, prefix: str) -> set[str]:
    """Names that are taken and begin so."""
    return set(values(conn, "SELECT name FROM operation WHERE starts_with(name, %(prefix)s)", prefix=prefix))


@dataclass(frozen=True, slots=True)
class Group:
    """Files about which the same is known."""

    facts: Facts
    files: int
    bytes: int


def groups(conn: Connection, places: Places) -> list[Group]:
    """All files of an operation, counted by what is known of them: few distinct groups."""
    found = conn.execute(
        """
        SELECT taken_out, removed, readable, hope, copies_there, bad_copy, source_left, transfer, damaged, old,
               count(*), sum(size)::bigint
          FROM operation_facts(%(operation)s, 0, %(copies)s, %(targets)s::int[], %(sources)s::int[],
                               %(since)s)
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
        """,
        _of(places),
    ).fetchall()
    return [Group(Facts(*line[:10]), line[10], line[11]) for line in found]


@dataclass(frozen=True, slots=True)
class FileLine:
    """One file of an operation; `copies` as `storage state`, `error` the last of its transfer, `taken_out` why."""

    file_id: int
    lfn: str
    size: int
    copies: list[str]
    error: str | None
    taken_out: str | None
    intent: datetime | None
    facts: Facts


def files(conn: Connection, places: Places, after: int, limit: int) -> list[FileLine]:
    """Files of an operation after one, by id. `intent`: when the deletion of its copy at the source may begin."""
    found = conn.execute(
        """
        SELECT c.file_id, d.path || '/' || f.name, c.size,
               ARRAY(SELECT s.name || ' ' || r.state FROM replica r JOIN storage s USING (storage_id)
                      WHERE r.file_id = c.file_id ORDER BY 1),
               (SELECT t.error FROM transfer t
                 WHERE t.file_id = c.file_id AND t.target_id = ANY(%(targets)s) AND t.state <> 'Done'
                 ORDER BY t.transfer_id DESC LIMIT 1),
               m.given_up,
               (SELECT min(i.not_before) FROM intent i
                 WHERE i.file_id = c.file_id AND i.storage_id = ANY(%(sources)s) AND i.state = 'Approved'),
               c.taken_out, c.removed, c.readable, c.hope, c.copies_there, c.bad_copy, c.source_left, c.transfer,
               c.damaged, c.old
          FROM (SELECT *
                  FROM operation_facts(%(operation)s, %(after)s, %(copies)s, %(targets)s::int[], %(sources)s::int[],
                               %(since)s)
                 ORDER BY file_id LIMIT %(limit)s) c
          JOIN operation_file m ON m.operation_id = %(operation)s AND m.file_id = c.file_id
          JOIN file f ON f.file_id = c.file_id
          JOIN directory d USING (dir_id)
         ORDER BY c.file_id
        """,
        _of(places, after=after, limit=limit),
    ).fetchall()
    return [
        FileLine(i, lfn, size, copies, error, taken_out, intent, Facts(*facts))
        for i, lfn, size, copies, error, taken_out, intent, *facts in found
    ]


def to_delete(conn: Connection, places: Places, after: int, limit: int) -> list[tuple[int, int]]:
    """Copies at the source, as (file, storage), of the next files that have all their copies at the target; those
    whose deletion is under way are left out."""
    return conn.execute(
        """
        SELECT r.file_id, r.storage_id
          FROM operation_facts(%(operation)s, %(after)s, %(copies)s, %(targets)s::int[], %(sources)s::int[],
                               %(since)s) c
          JOIN replica r ON r.file_id = c.file_id AND r.storage_id = ANY(%(sources)s) AND r.state <> 'Deleting'
         WHERE c.copies_there AND c.source_left AND c.readable AND NOT c.taken_out AND NOT c.removed
           AND NOT EXISTS (SELECT FROM intent i WHERE i.file_id = r.file_id AND i.storage_id = r.storage_id
                                                  AND i.state = 'Approved')
         ORDER BY c.file_id, r.storage_id
         LIMIT %(limit)s
        """,
        _of(places, after=after, limit=limit),
    ).fetchall()


def not_done(conn: Connection, places: Places) -> list[tuple[int, Facts]]:
    """Every file for which something is still to be done, with all that is known of it."""
    found = conn.execute(
        """
        SELECT file_id, taken_out, removed, readable, hope, copies_there, bad_copy, source_left, transfer, damaged, old
          FROM operation_facts(%(operation)s, 0, %(copies)s, %(targets)s::int[], %(sources)s::int[],
                               %(since)s)
         WHERE NOT taken_out AND NOT removed AND NOT (copies_there AND readable AND NOT source_left)
         ORDER BY file_id
        """,
        _of(places),
    ).fetchall()
    return [(file_id, Facts(*facts)) for file_id, *facts in found]


def _of(places: Places, **more: Any) -> dict[str, Any]:
    return {
        "operation": places.operation_id,
        "since": places.since,
        "copies": places.copies,
        "targets": list(places.targets),
        "sources": list(places.sources),
    } | more


# --- writing ---------------------------------------------------------------------------------------------------
def add(
    conn: Connection, name: str, kind: Kind, words: str, target: str, source: str, copies: int, actor: str
) -> OperationRow:
    """Begin an operation, without files yet."""
    conn.execute(
        """
        INSERT INTO operation (name, kind, files, target, source, copies, actor)
        VALUES (%(name)s, %(kind)s::operation_kind, %(words)s, %(target)s, %(source)s, %(copies)s, %(actor)s)
        """,
        {
            "name": name,
            "kind": str(kind),
            "words": words,
            "target": target,
            "source": source,
            "copies": copies,
            "actor": actor,
        },
    )
    return find(conn, name=name)[0]


def put_meant(conn: Connection, operation_id: int, plan: Plan) -> None:
    """Make the files that a query means now those of an operation."""
    files, params = meant_by(plan)
    query = SQL("INSERT INTO operation_file (operation_id, file_id) SELECT %(operation)s, f.file_id FROM {}")
    conn.execute(query.format(files), params | {"operation": operation_id})


def put_files(conn: Connection, operation_id: int, file_ids: Sequence[int]) -> None:
    """Make these the files of an operation."""
    conn.execute(
        "INSERT INTO operation_file (operation_id, file_id) SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
        (operation_id, list(file_ids)),
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """Files and bytes of an operation."""

    files: int
    bytes: int


def count(conn: Connection, operation_id: int, policy_id: int | None) -> Counted:
    """Note how many files an operation has, and which policy asks for their copies: they are its members."""
    counted = row(
        conn,
        Counted,
        """
        WITH counted AS (
            SELECT count(*) AS n, coalesce(sum(size), 0)::bigint AS b
              FROM operation_file JOIN file USING (file_id) WHERE operation_id = %(id)s),
        member AS (
            INSERT INTO file_policy (policy_id, file_id)
            SELECT %(policy)s, file_id FROM operation_file
             WHERE operation_id = %(id)s AND %(policy)s::int IS NOT NULL)
        UPDATE operation SET n_files = n, n_bytes = b, policy_id = %(policy)s
          FROM counted WHERE operation_id = %(id)s
        RETURNING n AS files, b AS bytes
        """,
        id=operation_id,
        policy=policy_id,
    )
    return counted or Counted(0, 0)


def looked_after(conn: Connection, operation_id: int, after_id: int, wait: timedelta) -> None:
    """Look after an operation again after `wait`, and ask for deletions of the files after this one."""
    conn.execute(
        "UPDATE operation SET after_id = %s, not_before = now() + %s WHERE operation_id = %s",
        (after_id, wait, operation_id),
    )


def give_up(conn: Connection, members: Sequence[tuple[int, int]], why: str) -> None:
    """Take files, as (operation, file), out of operations."""
    conn.execute(
        """
        UPDATE operation_file m SET given_up = %s
          FROM unnest(%s::int[], %s::bigint[]) AS w (operation_id, file_id)
         WHERE m.operation_id = w.operation_id AND m.file_id = w.file_id AND m.given_up IS NULL
        """,
        (why, [operation_id for operation_id, _ in members], [file_id for _, file_id in members]),
    )


def hurry(conn: Connection, operation_id: int) -> int:
    """Let the deletions of an operation begin now, without their delay; how many."""
    return conn.execute(
        "UPDATE intent SET not_before = now() WHERE operation_id = %s AND state = 'Approved' AND not_before > now()",
        (operation_id,),
    ).rowcount


def open_transfers(conn: Connection, places: Places, file_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Transfers of these files to the target that wait, and that run; locked."""
    found = conn.execute(
        """
        SELECT transfer_id, state = 'Running' FROM transfer
         WHERE file_id = ANY(%s) AND target_id = ANY(%s) AND state IN ('Waiting', 'Running')
         ORDER BY transfer_id
           FOR UPDATE
        """,
        (list(file_ids), list(places.targets)),
    ).fetchall()
    return [i for i, running in found if not running], [i for i, running in found if running]


def forgive(conn: Connection, places: Places, file_ids: Sequence[int]) -> None:
    """Forget that transfers of these files to the target were given up: they are planned anew at once."""
    conn.execute(
        """
        UPDATE transfer SET attempts = 0
         WHERE file_id = ANY(%s) AND target_id = ANY(%s) AND state = 'Failed'
        """,
        (list(file_ids), list(places.targets)),
    )


def suspect_copies(conn: Connection, file_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Copies of these files, as (file, storage), that are to be read again."""
    return conn.execute(
        """
        SELECT file_id, storage_id FROM replica
         WHERE file_id = ANY(%s) AND state = 'Suspect'
         ORDER BY 1, 2
        """,
        (list(file_ids),),
    ).fetchall()
