"""Activities, what they used and made, and the way back from any file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.store.db import rows, value


def add_activity(
    conn: Connection,
    *,
    name: str,
    agent: str,
    software: Mapping[str, str],
    started: datetime | None = None,
    ended: datetime | None = None,
    uuid: str | None = None,
    job_id: int | None = None,
    environment: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    used: Sequence[int] = (),
) -> int:
    """Record one activity and its inputs; times default to now. Large texts are stored once for all that share them."""
    activity_id: int = value(
        conn,
        """
        INSERT INTO activity (name, agent, software, started, ended, uuid, job_id, environment, configuration)
        VALUES (%(name)s, %(agent)s, %(software)s, coalesce(%(started)s, now()), coalesce(%(ended)s, now()),
                coalesce(%(uuid)s::uuid, gen_random_uuid()), %(job_id)s, %(environment)s, %(configuration)s)
        RETURNING activity_id
        """,
        name=name,
        agent=agent,
        software=Jsonb(dict(software)),
        started=started,
        ended=ended,
        uuid=uuid,
        job_id=job_id,
        environment=_document(conn, environment),
        configuration=_document(conn, configuration),
    )
    conn.execute(
        "INSERT INTO used (activity_id, file_id) SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
        (activity_id, list(used)),
    )
    return activity_id


def _document(conn: Connection, body: Mapping[str, Any] | None) -> bytes | None:
    if not body:
        return None
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    conn.execute(
        "INSERT INTO document (sha256, body) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (digest, Jsonb(dict(body))),
    )
    return digest


@dataclass(frozen=True, slots=True)
class Step:
    """One file on the way back, `depth` activities before the file asked for, with the activity that made it."""

    file_id: int
    lfn: str
    depth: int
    made: list[int]
    size: int
    sha256: str
    activity: str
    agent: str
    software: dict[str, str]
    started: datetime
    ended: datetime | None
    job_id: int | None
    task_id: int | None
    attempt: int | None
    transformation: str | None


def ancestry(conn: Connection, file_id: int) -> list[Step]:
    """The file itself and everything it was made from, each file once at its greatest depth, nearest first. `made`
    are the files of the list that were made from it."""
    return rows(
        conn,
        Step,
        """
        WITH RECURSIVE back (file_id, depth) AS (
            SELECT %(file)s::bigint, 0
             UNION
            SELECT used.file_id, back.depth + 1
              FROM back
              JOIN file USING (file_id)
              JOIN used USING (activity_id)
             WHERE back.depth < 100),
        found AS (
            SELECT file_id, max(depth) AS depth FROM back GROUP BY file_id)
        SELECT f.file_id, d.path || '/' || f.name AS lfn, found.depth, f.size, encode(f.sha256, 'hex') AS sha256,
               ARRAY(SELECT m.file_id FROM used u JOIN file m USING (activity_id) JOIN found o ON o.file_id = m.file_id
                      WHERE u.file_id = f.file_id ORDER BY 1) AS made,
               a.name AS activity, a.agent, a.software, a.started, a.ended,
               a.job_id, job.task_id, job.attempt::int, t.name AS transformation
          FROM found
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
          JOIN activity a USING (activity_id)
          LEFT JOIN job USING (job_id)
          LEFT JOIN transformation t USING (transformation_id)
         ORDER BY found.depth, lfn
        """,
        file=file_id,
    )


def makers(conn: Connection, file_ids: Sequence[int]) -> dict[int, str]:
    """In words, the task that made each of these files; those that no task made are left out."""
    found = conn.execute(
        """
        SELECT f.file_id, 'task ' || job.task_id || ' of ' || t.name
          FROM file f
          JOIN activity a USING (activity_id)
          JOIN job USING (job_id)
          JOIN transformation t USING (transformation_id)
         WHERE f.file_id = ANY(%s)
        """,
        (list(file_ids),),
    ).fetchall()
    return dict(found)


def lineage_depth(conn: Connection) -> int:
    """The greatest number of activities between any file and the raw files it was made from."""
    return (
        value(
            conn,
            """
        WITH RECURSIVE forth (file_id, depth) AS (
            SELECT f.file_id, 0 FROM file f WHERE NOT EXISTS (SELECT FROM used u WHERE u.activity_id = f.activity_id)
             UNION
            SELECT f.file_id, forth.depth + 1
              FROM forth
              JOIN used u ON u.file_id = forth.file_id
              JOIN file f ON f.activity_id = u.activity_id
             WHERE forth.depth < 100)
        SELECT max(depth) FROM forth
        """,
        )
        or 0
    )
