"""Transformations and their tasks. Productions: see productions.py; jobs and pilots: see jobs.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.grouping import WaitingFile
from lightkeeper.domain.states import Task, Transformation
from lightkeeper.domain.work import PlannedStep
from lightkeeper.store.db import notify, row, value, values
from lightkeeper.store.transitions import move


# --- transformations -------------------------------------------------------------------------------------------
def add_transformation(
    conn: Connection,
    production_id: int,
    step: PlannedStep,
    parent_id: int | None,
    set_query: str,
    file_query: str | None,
    *,
    open_: bool,
    dataset_id: int | None = None,
    by_lineage: bool = True,
    feeder_ids: Sequence[int] = (),
) -> int:
    """A new transformation in state New; its id. Its name is `<production id, 8 digits>_Step<number>_<name>`. With
    `dataset_id` it takes only files on that list. With a parent or feeders it takes what these make; unless it goes
    `by_lineage`, everything that matches."""
    return value(
        conn,
        """
        INSERT INTO transformation (production_id, parent_id, step, name, type, job_type, group_size, grouping,
                                    group_by, query, set_query, file_query, priority, site_ids, open, dataset_id,
                                    body, processors, memory_mb, tags, n_tasks, by_lineage, feeders, input_limit,
                                    limits)
        VALUES (%(production)s, %(parent)s, %(step)s, %(name)s, %(type)s, %(job_type)s, %(group_size)s, %(grouping)s,
                %(group_by)s, %(query)s, %(set_query)s::jsonpath, %(file_query)s::jsonpath, %(priority)s,
                ARRAY(SELECT site_id FROM site WHERE site.name = ANY(%(sites)s) ORDER BY 1), %(open)s, %(dataset)s,
                %(body)s, %(processors)s, %(memory_mb)s, %(tags)s, %(n_tasks)s, %(by_lineage)s, %(feeders)s,
                %(input_limit)s, %(limits)s)
        RETURNING transformation_id
        """,
        production=production_id,
        parent=parent_id,
        step=step.number,
        name=f"{production_id:08d}_Step{step.number}_{step.name}",
        type=step.type,
        job_type=step.job_type,
        group_size=step.group_size,
        grouping=step.plug_in,
        group_by=list(step.keys),
        query=Jsonb(dict(step.query)),
        set_query=set_query,
        file_query=file_query,
        priority=step.priority,
        sites=list(step.sites),
        open=open_,
        dataset=dataset_id,
        body=Jsonb(dict(step.body)),
        processors=step.processors,
        memory_mb=step.memory or None,
        tags=list(step.tags),
        n_tasks=step.n_tasks,
        by_lineage=by_lineage,
        feeders=list(feeder_ids),
        input_limit=step.input_limit,
        limits=Jsonb(dict(step.limits)),
    )


def add_files(conn: Connection, transformation_id: int, file_ids: Sequence[int]) -> None:
    """The transformation takes these files, because they were named."""
    conn.execute(
        "INSERT INTO transformation_file (transformation_id, file_id) SELECT %s, unnest(%s::bigint[])",
        (transformation_id, list(file_ids)),
    )


@dataclass(frozen=True, slots=True)
class GroupingOrder:
    """A transformation whose waiting files are put into tasks: how, and at which sites these may run; empty: at any."""

    transformation_id: int
    state: Transformation
    grouping: str
    group_size: int
    keys: list[str]
    site_ids: list[int]


def with_input(conn: Connection) -> list[int]:
    """Transformations that have files waiting which nobody has looked at, or all of whose files are to be taken."""
    return values(
        conn,
        """
        SELECT transformation_id FROM transformation t
         WHERE state IN ('Active', 'Flush') AND look_after <= now()
           AND (state = 'Flush' OR EXISTS (SELECT FROM pending_input p
                                            WHERE p.transformation_id = t.transformation_id AND p.stand = 'new'))
         ORDER BY priority, transformation_id
        """,
    )


def hold(conn: Connection, transformation_id: int) -> GroupingOrder | None:
    """The transformation, which nobody else changes until this transaction ends; None when it makes no tasks now."""
    return row(
        conn,
        GroupingOrder,
        """
        SELECT transformation_id, state, grouping, group_size, group_by AS keys, site_ids
          FROM transformation
         WHERE transformation_id = %(id)s AND state IN ('Active', 'Flush')
           FOR UPDATE
        """,
        id=transformation_id,
    )


def look_at_input(conn: Connection, order: GroupingOrder, limit: int) -> tuple[bool, list[WaitingFile]]:
    """The next `limit` files of a transformation that nobody has looked at, and those that were left: of them those
    that a data centre has a verified copy of, with the site of one, of an allowed one if it may be. A copy on tape will
    do, since tasks wait until their inputs are staged. Also whether more are to be looked at."""
    transformation_id = order.transformation_id
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS looked_at (file_id bigint) ON COMMIT DELETE ROWS")
    last = value(
        conn,
        """
        SELECT max(file_id)
          FROM (SELECT file_id FROM pending_input
                 WHERE transformation_id = %(id)s AND stand = 'new' ORDER BY file_id LIMIT %(limit)s) first
        """,
        id=transformation_id,
        limit=limit,
    )
    conn.execute(
        """
        INSERT INTO looked_at
        SELECT file_id FROM pending_input WHERE transformation_id = %(id)s AND stand = 'new' AND file_id <= %(last)s
         UNION ALL
        SELECT file_id FROM pending_input WHERE transformation_id = %(id)s AND stand = 'left'
        """,
        {"id": transformation_id, "last": last},
    )
    conn.execute("ANALYZE looked_at")
    found = conn.execute(
        """
        SELECT file_id, f.size, c.site_id, c.storages,
               CASE WHEN %(keys)s::text[] = '{}' THEN '{}'
                    ELSE ARRAY(SELECT coalesce(s.meta ->> key, f.extra ->> key)
                                 FROM unnest(%(keys)s::text[]) WITH ORDINALITY AS k (key, n) ORDER BY n) END
          FROM (SELECT p.file_id, array_agg(c.storage_id::int ORDER BY c.storage_id) AS storages,
                       (array_agg(c.site_id::int ORDER BY c.site_id = ANY (%(sites)s::smallint[]) DESC,
                                                          w.storage_id IS NOT NULL, c.storage_id))[1] AS site_id
                  FROM looked_at p
                  JOIN verified_copy c USING (file_id)
                  LEFT JOIN tape_storage w ON w.storage_id = c.storage_id
                 GROUP BY p.file_id) c
          JOIN file f USING (file_id)
          JOIN meta_set s USING (set_id)
         ORDER BY file_id
        """,
        {"keys": order.keys, "sites": order.site_ids},
    ).fetchall()
    more = value(
        conn,
        """
        SELECT EXISTS (SELECT FROM pending_input
                        WHERE transformation_id = %(id)s AND stand = 'new' AND file_id > %(last)s)
        """,
        id=transformation_id,
        last=last,
    )
    return more, [
        WaitingFile(file_id, size, site_id, tuple(storages), tuple(values))
        for file_id, size, site_id, storages, values in found
    ]


def add_tasks(conn: Connection, order: GroupingOrder, groups: Sequence[tuple[int, Sequence[int]]]) -> None:
    """Make a task of each group, of a site and file ids; these wait no more, and of the others that were looked at each
    stands as it was found."""
    transformation_id = order.transformation_id
    ids = values(
        conn,
        "SELECT nextval(pg_get_serial_sequence('task', 'task_id')) FROM generate_series(1, %(n)s)",
        n=len(groups),
    )
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY task_input (task_id, file_id, transformation_id) FROM STDIN (FORMAT binary)") as copy,
    ):
        copy.set_types(["int8", "int8", "int4"])
        for task_id, (_, file_ids) in zip(ids, groups, strict=True):
            for file_id in file_ids:
                copy.write_row((task_id, file_id, transformation_id))
    with (
        conn.cursor() as cursor,
        cursor.copy("COPY task (task_id, transformation_id, site_id, n_inputs) FROM STDIN") as copy,
    ):
        for task_id, (site_id, file_ids) in zip(ids, groups, strict=True):
            preferred = site_id if not order.site_ids or site_id in order.site_ids else None
            copy.write_row((task_id, transformation_id, preferred, len(file_ids)))
    if ids:
        conn.execute(
            """
            DELETE FROM pending_input p
             USING task_input i
             WHERE p.transformation_id = %(id)s AND p.file_id = i.file_id
               AND i.transformation_id = %(id)s AND i.task_id BETWEEN %(first)s AND %(last)s
            """,
            {"id": transformation_id, "first": ids[0], "last": ids[-1]},
        )
        notify(conn, "task")
    conn.execute(
        """
        UPDATE pending_input p
           SET stand = CASE WHEN EXISTS (SELECT FROM verified_copy c WHERE c.file_id = p.file_id)
                            THEN 'left'::input_stand ELSE 'no copy' END
          FROM looked_at l
         WHERE p.transformation_id = %s AND p.file_id = l.file_id
           AND (p.stand = 'new' OR NOT EXISTS (SELECT FROM verified_copy c WHERE c.file_id = p.file_id))
        """,
        (transformation_id,),
    )


def flushed(conn: Connection, transformation_id: int, n: int) -> None:
    """The smaller groups are made: whole ones again from now on."""
    move(conn, [transformation_id], Transformation.FLUSH, Transformation.ACTIVE, f"{n} smaller groups made")


def not_before(conn: Connection, transformation_id: int, wait: timedelta) -> None:
    """Looking at a transformation's files took long: leave it alone for a while."""
    conn.execute(
        "UPDATE transformation SET look_after = now() + %s WHERE transformation_id = %s", (wait, transformation_id)
    )


def look_again(conn: Connection) -> int:
    """Files that waited for a copy and have one now are looked at again: what an announcement was missed of, or
    storages that count again. Returns how many."""
    return conn.execute("""
        UPDATE pending_input p SET stand = 'new'
         WHERE stand = 'no copy' AND EXISTS (SELECT FROM verified_copy c WHERE c.file_id = p.file_id)
    """).rowcount


def add_tasks_without_input(conn: Connection) -> int:
    """Make the tasks of simulations that are still missing, numbered from 1; returns how many."""
    n = conn.execute("""
        INSERT INTO task (transformation_id, number)
        SELECT t.transformation_id, made.last + g.n
          FROM transformation t
         CROSS JOIN LATERAL (SELECT coalesce(max(number), 0) AS last
                               FROM task WHERE task.transformation_id = t.transformation_id AND number IS NOT NULL) made
         CROSS JOIN LATERAL generate_series(1, t.n_tasks - made.last) g (n)
         WHERE t.state = 'Active' AND t.n_tasks > 0
         ORDER BY t.transformation_id, g.n
        ON CONFLICT DO NOTHING
    """).rowcount
    if n:
        notify(conn, "task")
    return n


def flush(conn: Connection, transformation_id: int, why: str) -> bool:
    """Allow smaller groups, because no more input will come."""
    moved = move(conn, [transformation_id], Transformation.ACTIVE, Transformation.FLUSH, why)
    conn.execute("UPDATE transformation SET flushes = flushes + 1 WHERE transformation_id = ANY(%s)", (moved,))
    if moved:
        notify(conn, "input")
    return bool(moved)


def finished_productions(conn: Connection) -> list[int]:
    """Active productions whose transformations are all Completed."""
    return values(
        conn,
        """
        SELECT production_id FROM production p
         WHERE state = 'Active'
           AND NOT EXISTS (SELECT FROM transformation t
                            WHERE t.production_id = p.production_id AND t.state <> 'Completed')
        """,
    )


def retry_failed(conn: Connection, transformation_id: int) -> int:
    """Give every Failed task of a transformation one more attempt; returns how many."""
    failed_tasks = values(
        conn,
        "SELECT task_id FROM task WHERE transformation_id = %(id)s AND state = 'Failed' ORDER BY task_id",
        id=transformation_id,
    )
    again = move(conn, failed_tasks, Task.FAILED, Task.READY, "asked for by the operator")
    notify(conn, "task")
    return len(again)


def close(conn: Connection, production: str) -> int:
    """Take no more files into the production's open transformations, so that they can end; returns how many."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")  # no registration is half-way
    closed = conn.execute(
        """
        UPDATE transformation t SET open = false
          FROM production p
         WHERE p.production_id = t.production_id AND p.name = %s AND t.open
        """,
        (production,),
    ).rowcount
    notify(conn, "task")
    return closed
