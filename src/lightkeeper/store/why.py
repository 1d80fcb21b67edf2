"""What is known of one task, and where a file is at work: for answers to `why`. Everything here only reads."""

from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.task_waiting import TaskFacts
from lightkeeper.store.db import row, rows, value


def task_facts(conn: Connection, task_id: int) -> TaskFacts | None:
    """What is known of a task."""
    return row(
        conn,
        TaskFacts,
        """
        WITH input AS (
            SELECT i.file_id,
                   EXISTS (SELECT FROM online_copy o JOIN storage_now n USING (storage_id)
                             JOIN verified_copy v USING (file_id, storage_id)
                            WHERE o.file_id = i.file_id AND n.readable) AS readable,
                   EXISTS (SELECT FROM verified_copy v JOIN tape_storage USING (storage_id)
                             JOIN storage_now n USING (storage_id)
                            WHERE v.file_id = i.file_id AND n.readable) AS on_tape,
                   EXISTS (SELECT FROM replica r WHERE r.file_id = i.file_id AND r.state = 'Suspect') AS suspect
              FROM task_input i WHERE i.task_id = %(id)s)
        SELECT task.task_id, t.transformation_id, t.state AS transformation_state, task.state, task.attempts::int,
               task.reassigned::int, task.rescheduled::int, task.not_before, task.state_since,
               job.job_id, job.state AS job, coalesce(job.minor_status, '') AS minor_status,
               coalesce(job.application_status, '') AS application_status, job.started, site.name AS site,
               pilot.name AS pilot,
               (SELECT count(*) FROM input WHERE NOT readable AND suspect)::int AS unread,
               (SELECT count(*) FROM input WHERE NOT readable AND NOT suspect AND on_tape)::int AS staged,
               (SELECT count(*) FROM input WHERE NOT readable AND NOT suspect AND NOT on_tape)::int AS gone,
               (SELECT count(*) FROM job_queue q WHERE q.job_id < job.job_id)::int AS before
          FROM task
          JOIN transformation t USING (transformation_id)
          LEFT JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
          LEFT JOIN site ON site.site_id = job.site_id AND job.state <> 'Waiting'
          LEFT JOIN pilot ON pilot.pilot_id = job.pilot_id
         WHERE task.task_id = %(id)s
        """,
        id=task_id,
    )


@dataclass(frozen=True, slots=True)
class AtWork:
    """A transformation that has a file; `task`: the one it is in, None while it waits for one."""

    transformation: int
    name: str
    task: int | None


def at_work(conn: Connection, file_id: int) -> list[AtWork]:
    """Where a file is an input."""
    return rows(
        conn,
        AtWork,
        """
        SELECT transformation_id AS transformation, t.name, w.task
          FROM (SELECT transformation_id, NULL::bigint AS task FROM pending_input WHERE file_id = %(id)s
                 UNION ALL
                SELECT transformation_id, task_id FROM task_input WHERE file_id = %(id)s) w
          JOIN transformation t USING (transformation_id)
         ORDER BY transformation_id
        """,
        id=file_id,
    )


def transformation_of_name(conn: Connection, name: str) -> int | None:
    """The number of a transformation."""
    return value(conn, "SELECT transformation_id FROM transformation WHERE name = %(name)s", name=name)


def task_of_job(conn: Connection, job_id: int) -> int | None:
    """The task that a job is an attempt of."""
    return value(conn, "SELECT task_id FROM job WHERE job_id = %(id)s", id=job_id)


@dataclass(frozen=True, slots=True)
class OpenTasks:
    """Tasks that are not done, by what they wait for."""

    state: str
    job: str
    tasks: int


def open_tasks(conn: Connection, transformation_id: int) -> list[OpenTasks]:
    """How the tasks of a transformation that are not done stand."""
    return rows(
        conn,
        OpenTasks,
        """
        SELECT task.state::text AS state, coalesce(job.state::text, '') AS job, count(*)::int AS tasks
          FROM task LEFT JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
         WHERE task.transformation_id = %(id)s AND task.state IN ('Ready', 'Running')
         GROUP BY 1, 2 ORDER BY 1, 2
        """,
        id=transformation_id,
    )
