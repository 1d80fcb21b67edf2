"""Files of transformations: where each stands, taken out and taken in by hand; and the ends of transformations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from lightkeeper.domain.states import Job, Task
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.transitions import move


# --- looking -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a transformation. `state`: Unused, Assigned, Processed, Problematic or Removed; `why` it is so."""

    file_id: int
    lfn: str
    size: int
    state: str
    task_id: int | None
    task_state: str | None
    why: str


def files(
    conn: Connection,
    transformation_id: int,
    state: str | None = None,
    task_state: str | None = None,
    names: Sequence[str] | None = None,
    limit: int = 1000,
) -> list[InputFile]:
    """The first files of a transformation, of one state, of tasks in one state, or those of these names."""
    return rows(
        conn,
        InputFile,
        """
        SELECT i.file_id, d.path || '/' || f.name AS lfn, f.size, i.state, i.task_id, i.task_state, i.why
          FROM (SELECT file_id, 'Unused' AS state, NULL::bigint AS task_id, NULL::text AS task_state,
                       CASE stand WHEN 'new' THEN 'nobody has looked at it yet'
                                  WHEN 'no copy' THEN 'no data centre has a verified copy'
                                  ELSE 'it waits for others' END AS why
                  FROM pending_input WHERE transformation_id = %(id)s
                 UNION ALL
                SELECT i.file_id, CASE task.state WHEN 'Done' THEN 'Processed' WHEN 'Failed' THEN 'Problematic'
                                                  ELSE 'Assigned' END,
                       task_id, task.state::text,
                       CASE WHEN task.state <> 'Failed' THEN ''
                            ELSE coalesce((SELECT concat_ws(': ', minor_status, nullif(application_status, ''))
                                             FROM job
                                            WHERE job.task_id = task.task_id AND job.attempt = task.attempts), '') END
                  FROM task JOIN task_input i USING (task_id)
                 WHERE task.transformation_id = %(id)s
                 UNION ALL
                SELECT file_id, state, NULL, NULL, why FROM input_aside WHERE transformation_id = %(id)s) i
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE (%(state)s::text IS NULL OR i.state = %(state)s)
           AND (%(task_state)s::text IS NULL OR i.task_state = %(task_state)s)
           AND (%(names)s::text[] IS NULL OR d.path || '/' || f.name = ANY(%(names)s))
         ORDER BY i.file_id
         LIMIT %(limit)s
        """,
        id=transformation_id,
        state=state,
        task_state=task_state,
        names=list(names) if names is not None else None,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task in a list, with its latest job."""

    task_id: int
    state: Task
    attempts: int
    inputs: int
    number: int | None
    site: str | None
    job_id: int | None
    job_state: str | None
    minor_status: str | None
    application_status: str | None
    since: datetime


def tasks(conn: Connection, transformation_id: int, state: Task | None = None, limit: int = 1000) -> list[TaskLine]:
    """The first tasks of a transformation, or those in one state."""
    return rows(
        conn,
        TaskLine,
        """
        SELECT task.task_id, task.state, task.attempts::int, task.n_inputs AS inputs, task.number, site.name AS site,
               job.job_id, job.state::text AS job_state, job.minor_status, job.application_status,
               task.state_since AS since
          FROM task
          LEFT JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
          LEFT JOIN site ON site.site_id = coalesce(job.site_id, task.site_id)
         WHERE task.transformation_id = %(id)s AND (%(state)s::text IS NULL OR task.state::text = %(state)s)
         ORDER BY task.task_id
         LIMIT %(limit)s
        """,
        id=transformation_id,
        state=str(state) if state is not None else None,
        limit=limit,
    )


def named(conn: Connection, like: str) -> list[int]:
    """Transformations whose name, or whose production's, is LIKE a pattern."""
    return values(
        conn,
        """
        SELECT transformation_id
          FROM transformation t JOIN production p USING (production_id)
         WHERE t.name LIKE %(like)s OR p.name LIKE %(like)s
         ORDER BY transformation_id
        """,
        like=like,
    )


def names(conn: Connection) -> list[str]:
    """Of every transformation."""
    return values(conn, "SELECT name FROM transformation ORDER BY transformation_id")


# --- files in and out ------------------------------------------------------------------------------------------------
def add(conn: Connection, transformation_id: int, file_ids: Sequence[int]) -> list[int]:
    """Have these files processed; those that the transformation has already, in whatever state, are left as they are.
    Returns those that are new to it."""
    added = values(
        conn,
        """
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT %(id)s, file_id
          FROM unnest(%(files)s::bigint[]) AS w (file_id)
         WHERE NOT EXISTS (SELECT FROM task_input i WHERE i.file_id = w.file_id AND i.transformation_id = %(id)s)
           AND NOT EXISTS (SELECT FROM input_aside a WHERE a.file_id = w.file_id AND a.transformation_id = %(id)s)
        ON CONFLICT DO NOTHING
        RETURNING file_id
        """,
        id=transformation_id,
        files=sorted(set(file_ids)),
    )
    if added:
        notify(conn, "input")
    return added


def set_aside(conn: Connection, transformation_id: int, file_ids: Sequence[int], state: str, why: str) -> int:
    """No task takes these files, which wait or were taken out before; they have this state from now on. How many."""
    ids = sorted(set(file_ids))
    conn.execute(
        "DELETE FROM pending_input WHERE transformation_id = %s AND file_id = ANY(%s)", (transformation_id, ids)
    )
    conn.execute("DELETE FROM input_aside WHERE transformation_id = %s AND file_id = ANY(%s)", (transformation_id, ids))
    return conn.execute(
        """
        INSERT INTO input_aside (transformation_id, file_id, state, why) SELECT %s, unnest(%s::bigint[]), %s, %s
        """,
        (transformation_id, ids, state, why),
    ).rowcount


def take_back(conn: Connection, transformation_id: int, file_ids: Sequence[int]) -> int:
    """Files that were taken out wait again; how many."""
    gone = values(
        conn,
        "DELETE FROM input_aside WHERE transformation_id = %(id)s AND file_id = ANY(%(files)s) RETURNING file_id",
        id=transformation_id,
        files=list(file_ids),
    )
    return len(add(conn, transformation_id, gone))


def dissolve(conn: Connection, transformation_id: int, task_ids: Sequence[int], why: str) -> list[int]:
    """These tasks will not be done, if they do not run and are not Done: their files wait again. Returns the tasks."""
    locked = values(
        conn,
        """
        SELECT task_id FROM task
         WHERE transformation_id = %(id)s AND task_id = ANY(%(tasks)s) AND state IN ('Ready', 'Failed')
         ORDER BY task_id
           FOR UPDATE
        """,
        id=transformation_id,
        tasks=list(task_ids),
    )
    kill(conn, waiting_jobs(conn, locked), why)
    gone = [t for source in (Task.READY, Task.FAILED) for t in move(conn, locked, source, Task.CANCELLED, why)]
    conn.execute(
        """
        WITH freed AS (
            DELETE FROM task_input WHERE task_id = ANY(%(tasks)s) RETURNING file_id, transformation_id)
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT transformation_id, file_id FROM freed
        ON CONFLICT DO NOTHING
        """,
        {"tasks": gone},
    )
    notify(conn, "input")
    return gone


# --- jobs ------------------------------------------------------------------------------------------------------------
def waiting_jobs(conn: Connection, task_ids: Sequence[int]) -> list[int]:
    """Jobs of these tasks that wait for a pilot."""
    return values(
        conn,
        "SELECT job_id FROM job WHERE task_id = ANY(%(tasks)s) AND state = 'Waiting' ORDER BY job_id",
        tasks=list(task_ids),
    )


def live_jobs(conn: Connection, transformation_id: int) -> list[int]:
    """Jobs of a transformation that wait or run; those that are reported are accepted."""
    return values(
        conn,
        """
        SELECT job_id
          FROM task JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
         WHERE task.transformation_id = %(id)s AND job.state IN ('Waiting', 'Running')
         ORDER BY job_id
        """,
        id=transformation_id,
    )


def kill(conn: Connection, job_ids: Sequence[int], why: str) -> tuple[list[int], list[int]]:
    """End jobs that wait or run; the pilots of these are told when they next say that they are alive. Their tasks are
    Ready again. Returns the jobs, and those tasks."""
    killed = [j for source in (Job.WAITING, Job.RUNNING) for j in move(conn, job_ids, source, Job.KILLED, why)]
    conn.execute("DELETE FROM job_queue WHERE job_id = ANY(%s)", (killed,))
    conn.execute("DELETE FROM job_alive WHERE job_id = ANY(%s)", (killed,))
    conn.execute(
        """
        UPDATE job SET ended = now(), minor_status = 'Received Kill signal', application_status = %s
         WHERE job_id = ANY(%s)
        """,
        (why, killed),
    )
    of = values(conn, "SELECT task_id FROM job WHERE job_id = ANY(%(jobs)s) ORDER BY 1", jobs=killed)
    move(conn, of, Task.RUNNING, Task.READY, why)
    return killed, of


def hold_back(conn: Connection, task_ids: Sequence[int], why: str) -> list[int]:
    """These Ready tasks are not tried again until somebody asks for it."""
    return move(conn, task_ids, Task.READY, Task.FAILED, why)


# --- finalizing ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Unfinished:
    """Files, and tasks, of a transformation that stand alike: see domain/finalizing.py."""

    stand: str
    files: int
    tasks: int


def unfinished(conn: Connection, transformation_id: int) -> list[Unfinished]:
    """Where what is not processed stands, counted."""
    return rows(
        conn,
        Unfinished,
        """
        SELECT stand, count(*) AS files, 0::bigint AS tasks
          FROM (SELECT CASE WHEN stand <> 'no copy' THEN 'below the group size'
                            WHEN EXISTS (SELECT FROM replica r WHERE r.file_id = p.file_id AND r.state <> 'Lost')
                            THEN 'no copy yet' ELSE 'lost' END AS stand
                  FROM pending_input p WHERE transformation_id = %(id)s) waiting
         GROUP BY stand
         UNION ALL
        SELECT stand, sum(n_inputs), count(*)
          FROM (SELECT task.n_inputs,
                       CASE WHEN task.state = 'Ready' THEN 'task waits'
                            WHEN task.state = 'Running' AND job.state = 'Completing' THEN 'outputs not accepted'
                            WHEN task.state = 'Running' THEN 'task runs'
                            WHEN EXISTS (SELECT FROM task_input i
                                          WHERE i.task_id = task.task_id
                                            AND NOT EXISTS (SELECT FROM replica r
                                                             WHERE r.file_id = i.file_id AND r.state <> 'Lost'))
                            THEN 'input lost'
                            WHEN EXISTS (SELECT FROM task_input i JOIN replica r USING (file_id)
                                          WHERE i.task_id = task.task_id AND r.state = 'Suspect')
                            THEN 'input damaged' ELSE 'task failed' END AS stand
                  FROM task
                  LEFT JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
                 WHERE task.transformation_id = %(id)s AND task.state IN ('Ready', 'Running', 'Failed')) open
         GROUP BY stand
        """,
        id=transformation_id,
    )


def lost(conn: Connection, transformation_id: int) -> tuple[list[int], list[int]]:
    """Files that wait, or whose task failed, and of which no copy is left; and these tasks."""
    found = conn.execute(
        """
        SELECT file_id, NULL::bigint FROM pending_input p
         WHERE transformation_id = %(id)s AND stand = 'no copy'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = p.file_id AND r.state <> 'Lost')
         UNION ALL
        SELECT i.file_id, task_id FROM task JOIN task_input i USING (task_id)
         WHERE task.transformation_id = %(id)s AND task.state = 'Failed'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.state <> 'Lost')
        """,
        {"id": transformation_id},
    ).fetchall()
    return sorted({file_id for file_id, _ in found}), sorted({task_id for _, task_id in found if task_id is not None})


def suspect_inputs(conn: Connection, transformation_id: int) -> list[tuple[int, int]]:
    """Suspect copies of inputs of tasks that failed, by file and storage."""
    return conn.execute(
        """
        SELECT DISTINCT r.file_id, r.storage_id
          FROM task JOIN task_input i USING (task_id) JOIN replica r USING (file_id)
         WHERE task.transformation_id = %s AND task.state = 'Failed' AND r.state = 'Suspect'
        """,
        (transformation_id,),
    ).fetchall()


def completing(conn: Connection, transformation_id: int) -> list[int]:
    """Jobs of a transformation that are reported and not accepted."""
    return values(
        conn,
        """
        SELECT job_id FROM task JOIN job USING (task_id)
         WHERE task.transformation_id = %(id)s AND task.state = 'Running' AND job.state = 'Completing'
        """,
        id=transformation_id,
    )


# --- cleaning --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Outputs:
    """What a transformation made that is not Removed: files, bytes; and how many tasks of others read it, or will."""

    files: int
    bytes: int
    read_by: int


def outputs(conn: Connection, transformation_id: int) -> Outputs:
    """What a transformation made, counted."""
    found = row(
        conn,
        Outputs,
        """
        SELECT count(*) AS files, coalesce(sum(f.size), 0)::bigint AS bytes,
               (SELECT count(DISTINCT i.task_id)
                  FROM job j JOIN activity a USING (job_id) JOIN file m USING (activity_id)
                  JOIN task_input i ON i.file_id = m.file_id
                  JOIN task ON task.task_id = i.task_id AND task.state IN ('Ready', 'Running')
                 WHERE j.transformation_id = %(id)s) AS read_by
          FROM job JOIN activity USING (job_id) JOIN file f USING (activity_id) JOIN meta_set s USING (set_id)
         WHERE job.transformation_id = %(id)s AND s.state <> 'Removed'
        """,
        id=transformation_id,
    )
    assert found is not None  # noqa: S101  # an aggregate has a row
    return found


def some_outputs(conn: Connection, transformation_id: int, after: int, limit: int) -> list[tuple[int, str]]:
    """The next files after one that a transformation made and that are not Removed: id and name."""
    return conn.execute(
        """
        SELECT f.file_id, d.path || '/' || f.name
          FROM job JOIN activity USING (job_id) JOIN file f USING (activity_id) JOIN meta_set s USING (set_id)
          JOIN directory d USING (dir_id)
         WHERE job.transformation_id = %s AND s.state <> 'Removed' AND f.file_id > %s
         ORDER BY f.file_id
         LIMIT %s
        """,
        (transformation_id, after, limit),
    ).fetchall()


def being_cleaned(conn: Connection) -> list[int]:
    """Transformations whose outputs are being removed."""
    return values(conn, "SELECT transformation_id FROM transformation WHERE state = 'Cleaning' ORDER BY 1")


def cancel_all(conn: Connection, transformation_id: int, why: str) -> int:
    """Nothing is done any more for a transformation: its waiting files are forgotten, its open tasks cancelled."""
    open_ = values(
        conn,
        "SELECT task_id FROM task WHERE transformation_id = %(id)s AND state IN ('Ready', 'Failed') ORDER BY task_id",
        id=transformation_id,
    )
    gone = dissolve(conn, transformation_id, open_, why)
    conn.execute("DELETE FROM pending_input WHERE transformation_id = %s", (transformation_id,))
    return len(gone)


def fold_counts(conn: Connection) -> int:
    """Join the rows of transformation_count; how many there are fewer now. One at a time."""
    if not value(conn, "SELECT pg_try_advisory_xact_lock(hashtext('fold counts'))"):
        return 0
    return (
        value(
            conn,
            """
            WITH many AS (
                SELECT transformation_id FROM transformation_count
                 GROUP BY transformation_id HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 1000),
            gone AS (
                DELETE FROM transformation_count c USING many m WHERE c.transformation_id = m.transformation_id
                RETURNING c.*),
            joined AS (
                INSERT INTO transformation_count
                SELECT transformation_id, sum(unused), sum(assigned), sum(processed), sum(problematic), sum(removed),
                       sum(ready), sum(running), sum(done), sum(failed), sum(queued), sum(on_pilots), sum(in_vain),
                       sum(outputs)
                  FROM gone GROUP BY transformation_id
                RETURNING 1)
            SELECT (SELECT count(*) FROM gone) - (SELECT count(*) FROM joined)
            """,
        )
        or 0
    )
