"""What a production would take, looked at before anything is done: nothing here is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.estimates import SAMPLE, Pace
from lightkeeper.domain.grouping import WaitingFile
from lightkeeper.store.db import row, values


@dataclass(frozen=True, slots=True)
class Asked:
    """The input of a step, compiled: predicates on set-level and file-level keys; or the list of a frozen dataset."""

    set_query: str
    file_query: str | None
    dataset_id: int | None = None
    limit: int | None = None
    files: tuple[int, ...] = ()
    """These, whatever the predicates say."""


def match(conn: Connection, asked: Asked) -> None:
    """Put the files that match now into `matched`, which is gone with this transaction."""
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS matched (file_id bigint, size bigint) ON COMMIT DELETE ROWS")
    conn.execute("TRUNCATE matched")
    conn.execute(
        """
        INSERT INTO matched (file_id, size)
        SELECT file_id, size FROM file WHERE file_id = ANY(%(files)s::bigint[])
         UNION ALL
        SELECT f.file_id, f.size
          FROM meta_set s
          JOIN file f USING (set_id)
         WHERE %(files)s::bigint[] = '{}' AND %(dataset)s::int IS NULL AND s.state = 'Current'
           AND s.meta @@ %(set_query)s::jsonpath
           AND (%(file_query)s::jsonpath IS NULL OR coalesce(f.extra, '{}') @@ %(file_query)s::jsonpath)
         UNION ALL
        SELECT f.file_id, f.size
          FROM dataset_file d
          JOIN file f USING (file_id)
          JOIN meta_set s USING (set_id)
         WHERE d.dataset_id = %(dataset)s::int AND s.meta @@ %(set_query)s::jsonpath
           AND (%(file_query)s::jsonpath IS NULL OR coalesce(f.extra, '{}') @@ %(file_query)s::jsonpath)
        """,
        {
            "set_query": asked.set_query,
            "file_query": asked.file_query,
            "dataset": asked.dataset_id,
            "files": list(asked.files),
        },
    )
    if asked.limit is not None:
        conn.execute(
            """
            DELETE FROM matched
             WHERE file_id NOT IN (SELECT file_id
                                     FROM matched JOIN file f USING (file_id) JOIN directory d USING (dir_id)
                                    ORDER BY d.path, f.name
                                    LIMIT %(limit)s)
            """,
            {"limit": asked.limit},
        )
    conn.execute("ANALYZE matched")


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the files in `matched`: how many, and of how many no copy counts, none is left, or all are on tape."""

    files: int
    bytes: int
    no_copy: int
    lost: int
    on_tape: int


def totals(conn: Connection) -> Totals:
    """Counts over `matched`."""
    found = row(
        conn,
        Totals,
        """
        SELECT count(*) AS files, coalesce(sum(m.size), 0)::bigint AS bytes,
               count(*) FILTER (WHERE c.file_id IS NULL) AS no_copy,
               count(*) FILTER (WHERE c.file_id IS NULL AND NOT EXISTS (
                     SELECT FROM replica r WHERE r.file_id = m.file_id AND r.state <> 'Lost')) AS lost,
               count(*) FILTER (WHERE c.on_tape) AS on_tape
          FROM matched m
          LEFT JOIN (SELECT file_id, bool_and(w.storage_id IS NOT NULL) AS on_tape
                       FROM matched
                       JOIN verified_copy c USING (file_id)
                       LEFT JOIN tape_storage w ON w.storage_id = c.storage_id
                      GROUP BY file_id) c USING (file_id)
        """,
    )
    assert found is not None  # noqa: S101  # an aggregate has one row
    return found


def sample(conn: Connection) -> list[str]:
    """Names of the first files in `matched`, by their names."""
    return values(
        conn,
        """
        SELECT d.path || '/' || f.name
          FROM matched JOIN file f USING (file_id) JOIN directory d USING (dir_id)
         ORDER BY d.path, f.name
         LIMIT %(n)s
        """,
        n=SAMPLE,
    )


def waiting_files(conn: Connection, keys: Sequence[str]) -> list[WaitingFile]:
    """The files in `matched` that a data centre has a verified copy of, as they would wait to be put into tasks."""
    found = conn.execute(
        """
        SELECT f.file_id, f.size, c.site_id, c.storages,
               CASE WHEN %(keys)s::text[] = '{}' THEN '{}'
                    ELSE ARRAY(SELECT coalesce(s.meta ->> key, f.extra ->> key)
                                 FROM unnest(%(keys)s::text[]) WITH ORDINALITY AS k (key, n) ORDER BY n) END
          FROM (SELECT m.file_id, array_agg(c.storage_id::int ORDER BY c.storage_id) AS storages,
                       (array_agg(c.site_id::int ORDER BY w.storage_id IS NOT NULL, c.storage_id))[1] AS site_id
                  FROM matched m
                  JOIN verified_copy c USING (file_id)
                  LEFT JOIN tape_storage w ON w.storage_id = c.storage_id
                 GROUP BY m.file_id) c
          JOIN file f USING (file_id)
          JOIN meta_set s USING (set_id)
         ORDER BY f.file_id
        """,
        {"keys": list(keys)},
    ).fetchall()
    return [
        WaitingFile(file_id, size, site_id, tuple(storages), tuple(told))
        for file_id, size, site_id, storages, told in found
    ]


def paces(conn: Connection, job_types: Sequence[str]) -> Mapping[str, Pace]:
    """How long the latest jobs of these types took, for those of which any is done."""
    found = conn.execute(
        """
        SELECT t.job_type, sum(j.seconds) / sum(i.n), sum(j.seconds) / nullif(sum(i.bytes), 0)
          FROM unnest(%(types)s::text[]) AS t (job_type)
         CROSS JOIN LATERAL (
               SELECT job.task_id,
                      coalesce(job.cpu_seconds,
                               x.processors * extract(epoch FROM job.ended - job.started))::float8 AS seconds
                 FROM job
                 JOIN task USING (task_id)
                 JOIN transformation x ON x.transformation_id = task.transformation_id
                WHERE x.job_type = t.job_type AND job.state = 'Done' AND job.started IS NOT NULL
                ORDER BY job.job_id DESC
                LIMIT 200) j
         CROSS JOIN LATERAL (
               SELECT greatest(count(*), 1)::float8 AS n, coalesce(sum(f.size), 0)::float8 AS bytes
                 FROM task_input JOIN file f USING (file_id) WHERE task_input.task_id = j.task_id) i
         GROUP BY t.job_type
        """,
        {"types": list(job_types)},
    ).fetchall()
    return {job_type: Pace(per_file, per_byte or 0.0) for job_type, per_file, per_byte in found}
