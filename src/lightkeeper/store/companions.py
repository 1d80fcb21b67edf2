"""Files that every job of a transformation gets beside its own inputs: trained models, by role."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.work import Companion
from lightkeeper.store.db import notify, rows


def add(
    conn: Connection,
    transformation_id: int,
    companion: Companion,
    parent_id: int | None,
    set_query: str,
    file_query: str | None,
    file_id: int | None = None,
) -> None:
    """A companion: the file that it is, or how it is to be found."""
    conn.execute(
        """
        INSERT INTO companion (transformation_id, parent_id, role, query, set_query, file_query, file_id)
        VALUES (%(id)s, %(parent)s, %(role)s, %(query)s, %(set_query)s::jsonpath, %(file_query)s::jsonpath, %(file)s)
        """,
        {
            "file": file_id,
            "id": transformation_id,
            "parent": parent_id,
            "role": companion.role,
            "query": Jsonb(dict(companion.query)),
            "set_query": set_query,
            "file_query": file_query,
        },
    )


@dataclass(frozen=True, slots=True)
class Found:
    """How many files a companion that was looked for may be, and the first of their names."""

    transformation_id: int
    role: str
    n: int
    names: list[str]


def find_registered(conn: Connection, transformation_ids: Sequence[int]) -> list[Found]:
    """Take for each companion of these transformations the one file in the catalogue that its query finds. Returned
    are those of which there is none, or more than one."""
    return rows(
        conn,
        Found,
        """
        WITH candidate AS (
            SELECT c.transformation_id, c.role, f.file_id
              FROM companion c
              JOIN meta_set s ON s.meta @@ c.set_query AND s.state = 'Current'
              JOIN file f USING (set_id)
             WHERE c.transformation_id = ANY(%(ids)s) AND c.parent_id IS NULL AND c.file_id IS NULL
               AND (c.file_query IS NULL OR coalesce(f.extra, '{}') @@ c.file_query)),
        taken AS (
            UPDATE companion c SET file_id = one.file_id
              FROM (SELECT transformation_id, role, min(file_id) AS file_id
                      FROM candidate GROUP BY transformation_id, role HAVING count(*) = 1) one
             WHERE c.transformation_id = one.transformation_id AND c.role = one.role)
        SELECT c.transformation_id, c.role, count(f.file_id)::int AS n,
               (coalesce(array_agg(d.path || '/' || f.name ORDER BY f.file_id DESC)
                         FILTER (WHERE f.file_id IS NOT NULL), '{}'))[1:3] AS names
          FROM companion c
          LEFT JOIN candidate USING (transformation_id, role)
          LEFT JOIN file f ON f.file_id = candidate.file_id
          LEFT JOIN directory d USING (dir_id)
         WHERE c.transformation_id = ANY(%(ids)s) AND c.parent_id IS NULL AND c.file_id IS NULL
         GROUP BY c.transformation_id, c.role
        HAVING count(f.file_id) <> 1
         ORDER BY c.transformation_id, c.role
        """,
        ids=list(transformation_ids),
    )


def take_what_parents_made(conn: Connection) -> int:
    """Take the one file that a companion's parent made, once that is Completed; returns how many were taken."""
    taken = conn.execute("""
        UPDATE companion c SET file_id = one.file_id
          FROM (SELECT c.transformation_id, c.role, min(f.file_id) AS file_id
                  FROM companion c
                  JOIN transformation p ON p.transformation_id = c.parent_id
                  JOIN task ON task.transformation_id = p.transformation_id
                  JOIN job USING (task_id)
                  JOIN activity a USING (job_id)
                  JOIN file f USING (activity_id)
                  JOIN meta_set s USING (set_id)
                 WHERE c.file_id IS NULL AND p.state = 'Completed' AND s.state = 'Current' AND s.meta @@ c.set_query
                   AND (c.file_query IS NULL OR coalesce(f.extra, '{}') @@ c.file_query)
                 GROUP BY c.transformation_id, c.role
                HAVING count(*) = 1) one
         WHERE c.transformation_id = one.transformation_id AND c.role = one.role
    """).rowcount
    if taken:
        notify(conn, "task")
    return taken


def of_transformations(conn: Connection, transformation_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """File ids of the companions of each transformation that has some, by role."""
    found: dict[int, dict[str, int]] = {}
    for transformation_id, role, file_id in conn.execute(
        """
        SELECT transformation_id, role, file_id FROM companion
         WHERE transformation_id = ANY(%s) AND file_id IS NOT NULL
         ORDER BY transformation_id, role
        """,
        (list(transformation_ids),),
    ):
        found.setdefault(transformation_id, {})[role] = file_id
    return found
