"""The only statements that change a state. Guarded by the state it comes from; each leaves a line of history."""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from lightkeeper.domain.states import Replica, State, allowed


def move(
    conn: Connection,
    ids: Sequence[int],
    source: State,
    target: State,
    why: str = "",
    *,
    also: LiteralString = "",
    **values: Any,
) -> list[int]:
    """Move the rows `ids` of the kind that `source` belongs to; return those that moved, in order. `also` sets other
    columns with it, from `values`.

    A row that is no longer in `source` does not move: of two workers the slower changes nothing. Replicas have
    keys of two parts: see `move_replicas`.
    """
    _check(source, target)
    table = type(source).__name__.lower()
    query = SQL("""
        WITH moved AS (
            UPDATE {table} SET state = %(target)s, state_since = now(){also}
             WHERE {key} = ANY(%(ids)s) AND state = %(source)s
         RETURNING {key} AS id),
        line AS (
            INSERT INTO history (kind, id, source, target, why)
            SELECT %(kind)s, id, %(source)s, %(target)s, %(why)s FROM moved)
        SELECT id FROM moved ORDER BY id
    """).format(table=Identifier(table), key=Identifier(f"{table}_id"), also=SQL(f", {also}" if also else ""))
    params = {"ids": list(ids), "source": str(source), "target": str(target), "kind": table, "why": why} | values
    return [line[0] for line in conn.execute(query, params).fetchall()]


def move_replicas(
    conn: Connection, replicas: Sequence[tuple[int, int]], source: Replica, target: Replica, why: str = ""
) -> list[tuple[int, int]]:
    """Move replicas, named by (file, storage); return those that moved. Becoming Available, or
    Buffered, means verified now; what was Buffered was verified when it came."""
    _check(source, target)
    return conn.execute(
        """
        WITH moved AS (
            UPDATE replica r
               SET state = %(target)s::replica_state, state_since = now(),
                   verified_at = CASE WHEN %(verified)s THEN now() ELSE verified_at END
              FROM unnest(%(files)s::bigint[], %(storages)s::smallint[]) AS w (file_id, storage_id)
             WHERE r.file_id = w.file_id AND r.storage_id = w.storage_id AND r.state = %(source)s::replica_state
         RETURNING r.file_id, r.storage_id),
        line AS (
            INSERT INTO history (kind, id, part, source, target, why)
            SELECT 'replica', file_id, storage_id, %(source)s, %(target)s, %(why)s FROM moved)
        SELECT file_id, storage_id FROM moved ORDER BY file_id, storage_id
        """,
        {
            "files": [file_id for file_id, _ in replicas],
            "storages": [storage_id for _, storage_id in replicas],
            "source": str(source),
            "target": str(target),
            "verified": target in (Replica.AVAILABLE, Replica.BUFFERED)
            and source not in (Replica.DELETING, Replica.BUFFERED),
            "why": why,
        },
    ).fetchall()


def remedied(conn: Connection, kind: str, ids: Sequence[int], what: str, why: str) -> None:
    """Note that something was healed without a person."""
    conn.execute(
        "INSERT INTO remedy (kind, id, what, why) SELECT %s, unnest(%s::bigint[]), %s, %s",
        (kind, list(ids), what, why),
    )


def _check(source: State, target: State) -> None:
    if not allowed(source, target):
        raise ValueError(f"{type(source).__name__} may not move from {source} to {target}: see domain/states.py")
