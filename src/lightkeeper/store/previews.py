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


def look_at_copies(conn: Connection, sites: Sequence[str]) -> None:
    """Put those of `matched` that a data centre has a verified copy of into `held`: where a task on them, which may run
    at these sites, is done best; on which storages they lie, and whether these are all tapes."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS held (file_id bigint, size bigint, site_id int, storages int[], on_tape boolean)
            ON COMMIT DELETE ROWS
        """
    )
    conn.execute("TRUNCATE held")
    conn.execute(
        """
        INSERT INTO held (file_id, size, site_id, storages, on_tape)
        SELECT m.file_id, m.size,
               (min(ARRAY[(s.name <> ALL (%(sites)s))::int, (w.storage_id IS NOT NULL)::int, c.storage_id,
                          c.site_id]))[4],
               array_agg(c.storage_id::int ORDER BY c.storage_id), bool_and(w.storage_id IS NOT NULL)
          FROM matched m
          JOIN verified_copy c USING (file_id)
          JOIN site s USING (site_id)
          LEFT JOIN tape_storage w ON w.storage_id = c.storage_id
         GROUP BY m.file_id, m.size
        """,
        {"sites": list(sites)},
    )


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the files in `matched`: how many, and of how many no copy counts, none is left, or all are on tape."""

    files: int
    bytes: int
    no_copy: int
    lost: int
    on_tape: int


def totals(conn: Connection) -> Totals:
    """Counts over `matched` and `held`."""
    found = row(
        conn,
        Totals,
        """
        WITH held_now AS (SELECT count(*) AS n, count(*) FILTER (WHERE on_tape) AS on_tape FROM held)
        SELECT count(m.file_id) AS files, coalesce(sum(m.size), 0)::bigint AS bytes,
               count(m.file_id) - min(h.n) AS no_copy,
               CASE WHEN count(m.file_id) = min(h.n) THEN 0
                    ELSE (SELECT count(*) FROM matched l
                           WHERE NOT EXISTS (SELECT FROM held WHERE held.file_id = l.file_id)
                             AND NOT EXISTS (SELECT FROM replica r
                                              WHERE r.file_id = l.file_id AND r.state <> 'Lost')) END AS lost,
               min(h.on_tape) AS on_tape
          FROM held_now h LEFT JOIN matched m ON true
        """,
    )
    assert found is not None  # noqa: S101  # an aggregate has one row
    return found


def alike(conn: Connection, keys: Sequence[str], *, each: bool) -> list[tuple[WaitingFile, int]]:
    """The files in `held` as they would wait to be put into tasks: one for each kind that lies in the same places and
    has the same values of these keys, of the mean size, and how many there are of it; or `each`, in order."""
    found = conn.execute(
        """
        SELECT min(file_id), avg(size)::bigint, site_id, storages, told, count(*)
          FROM (SELECT h.*,
                       CASE WHEN %(keys)s::text[] = '{}' THEN '{}'
                            ELSE (SELECT ARRAY(SELECT coalesce(s.meta ->> key, f.extra ->> key)
                                                 FROM unnest(%(keys)s::text[]) WITH ORDINALITY AS k (key, n)
                                                ORDER BY n)
                                    FROM file f JOIN meta_set s USING (set_id)
                                   WHERE f.file_id = h.file_id) END AS told
                  FROM held h) file
         GROUP BY site_id, storages, told, CASE WHEN %(each)s THEN file_id END
         ORDER BY 1
        """,
        {"keys": list(keys), "each": each},
    ).fetchall()
    return [
        (WaitingFile(file_id, size, site_id, tuple(storages), tuple(told)), n)
        for file_id, size, site_id, storages, told, n in found
    ]


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
