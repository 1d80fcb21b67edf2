"""What the keeper looks at: facts of transformations, tasks that contradict their jobs, attempts that failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.contradictions import Combination, Outputs
from lightkeeper.domain.healing import (
    FailedAttempt,
    Keeper,
    NextAttempt,
    ParentFacts,
    TransformationFacts,
    after_failure,
    keeper_of,
)
from lightkeeper.domain.states import Job, Task, Transformation
from lightkeeper.store.db import notify, value, values
from lightkeeper.store.transitions import move


# --- options -----------------------------------------------------------------------------------------------------
def keeper(conn: Connection) -> Keeper:
    """What the topology document says about the keeper; what holds by itself where it says nothing."""
    return keeper_of(options(conn))


def options(conn: Connection) -> Mapping[str, Any]:
    """The same as the document says it, checked."""
    return value(conn, "SELECT options FROM keeper_options") or {}


def put_options(conn: Connection, given: Mapping[str, Any]) -> None:
    """Keep what the topology document says."""
    conn.execute(
        """
        INSERT INTO keeper_options (options) VALUES (%s)
        ON CONFLICT (single) DO UPDATE SET options = excluded.options
        """,
        (Jsonb(dict(given)),),
    )
    notify(conn, "task")


# --- transformations -----------------------------------------------------------------------------------------------
def facts(
    conn: Connection, states: Sequence[Transformation] = (Transformation.ACTIVE,), only: int | None = None
) -> list[TransformationFacts]:
    """What is decided on, for every transformation in these states, parents first; or for one."""
    found = conn.execute(
        """
        WITH looked AS (
            SELECT * FROM transformation
             WHERE state = ANY(%(states)s::transformation_state[])
               AND (%(only)s::int IS NULL OR transformation_id = %(only)s)),
        waiting AS (
            SELECT transformation_id, count(*) FILTER (WHERE p.stand = 'left' OR p.stand = 'new' AND EXISTS (
                         SELECT FROM verified_copy v WHERE v.file_id = p.file_id)) AS ready,
                   count(*) FILTER (WHERE p.stand = 'no copy' AND NOT EXISTS (
                         SELECT FROM replica r WHERE r.file_id = p.file_id AND r.state <> 'Lost')) AS lost
              FROM looked JOIN pending_input p USING (transformation_id)
             GROUP BY transformation_id)
        SELECT t.transformation_id, t.name, t.type, t.state, t.open,
               above.ids, above.states,
               t.group_size, t.flushes, coalesce(c.unused, 0)::bigint, coalesce(w.ready, 0), coalesce(w.lost, 0),
               coalesce(c.ready + c.running + c.done + c.failed, 0)::bigint, coalesce(c.running, 0)::bigint,
               coalesce(c.done, 0)::bigint, coalesce(c.failed, 0)::bigint,
               (SELECT min(o.role) FROM companion o JOIN transformation m ON m.transformation_id = o.parent_id
                 WHERE o.transformation_id = t.transformation_id AND o.file_id IS NULL AND m.state = 'Completed')
          FROM looked t
         CROSS JOIN LATERAL (
               SELECT array_agg(transformation_id ORDER BY transformation_id) AS ids,
                      array_agg(state ORDER BY transformation_id) AS states
                 FROM transformation p
                WHERE p.transformation_id = t.parent_id OR p.transformation_id = ANY (t.feeders)) above
          LEFT JOIN waiting w ON w.transformation_id = t.transformation_id
          LEFT JOIN transformation_progress c ON c.transformation_id = t.transformation_id
         ORDER BY t.transformation_id
        """,
        {"states": [str(state) for state in states], "only": only},
    ).fetchall()
    return [
        TransformationFacts(
            transformation_id=line[0],
            name=line[1],
            type=line[2],
            state=line[3],
            open=line[4],
            parents=tuple(ParentFacts(*parent) for parent in zip(line[5] or (), line[6] or (), strict=True)),
            group_size=line[7],
            flushes=line[8],
            waiting=line[9],
            ready=line[10],
            lost=line[11],
            tasks=line[12],
            running=line[13],
            done=line[14],
            failed=line[15],
            lacks=line[16],
        )
        for line in found
    ]


# --- attempts that failed ------------------------------------------------------------------------------------------
def next_attempts(
    conn: Connection, task_ids: Sequence[int], minor: str, told: str, keeper: Keeper, base: timedelta
) -> tuple[list[int], list[int]]:
    """The latest attempt of these Running tasks failed: each gets another one, or fails. The counter of a task changes
    in the statement after which it moves, or not at all. Returns (tasks to be tried again, tasks that failed)."""
    found = conn.execute(
        """
        SELECT task_id, attempts, reassigned, rescheduled, t.type
          FROM task JOIN transformation t USING (transformation_id)
         WHERE task_id = ANY(%s) AND task.state = 'Running'
         ORDER BY task_id
           FOR UPDATE OF task
        """,
        (list(task_ids),),
    ).fetchall()
    decided = [
        (task_id, after_failure(FailedAttempt(task_id, attempt, minor, again, later), keeper.of(type_), base))
        for task_id, attempt, again, later, type_ in found
    ]
    again = [(task_id, one) for task_id, one in decided if one.again]
    over = [(task_id, one) for task_id, one in decided if not one.again]
    _count(conn, again)
    moved = move(conn, [task_id for task_id, _ in again], Task.RUNNING, Task.READY, told)
    failed: list[int] = []
    for why in {one.why for _, one in over}:
        these = [task_id for task_id, one in over if one.why == why]
        failed += move(conn, these, Task.RUNNING, Task.FAILED, f"{told}; {why}")
        _name_the_end(conn, these, why, told)
    notify(conn, "task")
    return moved, sorted(failed)


def _count(conn: Connection, again: Sequence[tuple[int, NextAttempt]]) -> None:
    conn.execute(
        """
        UPDATE task SET not_before = now() + w.delay, reassigned = w.reassigned, rescheduled = w.rescheduled
          FROM unnest(%s::bigint[], %s::interval[], %s::smallint[], %s::smallint[])
            AS w (task_id, delay, reassigned, rescheduled)
         WHERE task.task_id = w.task_id
        """,
        (
            [task_id for task_id, _ in again],
            [one.delay for _, one in again],
            [one.reassigned for _, one in again],
            [one.rescheduled for _, one in again],
        ),
    )


def _name_the_end(conn: Connection, task_ids: Sequence[int], why: str, told: str) -> None:
    """The report shows a limit that was reached as the minor status, and what failed as the application status."""
    if why.startswith("Maximum of reschedulings reached"):
        conn.execute(
            """
            UPDATE job SET minor_status = 'Maximum of reschedulings reached', application_status = %s
              FROM task
             WHERE task.task_id = ANY(%s) AND job.task_id = task.task_id AND job.attempt = task.attempts
            """,
            (told, list(task_ids)),
        )


# --- contradictions ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Odd:
    """A task that contradicts its latest job or its outputs."""

    task_id: int
    transformation_id: int
    type: str
    job_id: int | None
    combination: Combination


def sweep(conn: Connection, after: int, size: int) -> tuple[int, int]:
    """The next tasks after one, at most `size`: their first and last number; (0, 0) when there is none."""
    line = conn.execute(
        """
        SELECT coalesce(min(task_id), 0), coalesce(max(task_id), 0)
          FROM (SELECT task_id FROM task WHERE task_id > %s ORDER BY task_id LIMIT %s) t
        """,
        (after, size),
    ).fetchone()
    return (line[0], line[1]) if line else (0, 0)


def swept(conn: Connection) -> int:
    """The last task that was looked at; from it the sweep goes on."""
    return value(conn, "SELECT task_id FROM keeper_sweep") or 0


def put_swept(conn: Connection, task_id: int) -> None:
    """Go on after this task the next time."""
    conn.execute(
        """
        INSERT INTO keeper_sweep (task_id) VALUES (%s)
        ON CONFLICT (single) DO UPDATE SET task_id = excluded.task_id, at = now()
        """,
        (task_id,),
    )


def contradictions(conn: Connection, first: int, last: int, fine: Sequence[Combination]) -> list[Odd]:
    """Tasks from `first` to `last` that are not in one of the combinations with which nothing is wrong.

    That outputs are in the catalogue is read from the activity that was written with them, so what somebody
    unregistered since is not missed.
    """
    found = conn.execute(
        """
        SELECT * FROM (
            SELECT task.task_id, task.transformation_id, task.state, job.job_id, job.state AS job_state,
                   CASE WHEN EXISTS (SELECT FROM activity a WHERE a.job_id = job.job_id) THEN 'registered'
                        WHEN task.attempts > 1
                             AND EXISTS (SELECT FROM job o JOIN activity a ON a.job_id = o.job_id
                                          WHERE o.task_id = task.task_id AND o.attempt <> task.attempts) THEN 'others'
                        WHEN job.report -> 'outputs' <> '[]' THEN 'reported'
                        ELSE 'none' END AS outputs
              FROM task
              LEFT JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
             WHERE task.task_id BETWEEN %(first)s AND %(last)s) c
          JOIN (SELECT transformation_id, type FROM transformation) t USING (transformation_id)
         WHERE (c.state::text, coalesce(c.job_state::text, ''), c.outputs) NOT IN (
               SELECT * FROM unnest(%(tasks)s::text[], %(jobs)s::text[], %(outputs)s::text[]))
         ORDER BY task_id
         LIMIT 10000
        """,
        {
            "first": first,
            "last": last,
            "tasks": [str(task) for task, _, _ in fine],
            "jobs": [str(job) if job is not None else "" for _, job, _ in fine],
            "outputs": [str(outputs) for _, _, outputs in fine],
        },
    ).fetchall()
    return [
        Odd(task_id, transformation_id, type_, job_id, (task, job, Outputs(outputs)))
        for transformation_id, task_id, task, job_id, job, outputs, type_ in found
    ]


def stop_jobs(conn: Connection, job_ids: Sequence[int], why: str) -> list[int]:
    """End these jobs, wherever they are: nobody waits for them."""
    stopped = [
        job_id
        for source, target in (
            (Job.WAITING, Job.KILLED),
            (Job.RUNNING, Job.KILLED),
            (Job.COMPLETING, Job.FAILED),
        )
        for job_id in move(conn, job_ids, source, target, why)
    ]
    conn.execute("UPDATE job SET ended = now(), minor_status = %s WHERE job_id = ANY(%s)", (why, stopped))
    conn.execute("DELETE FROM job_queue WHERE job_id = ANY(%s)", (stopped,))
    conn.execute("DELETE FROM job_alive WHERE job_id = ANY(%s)", (stopped,))
    return stopped


def unqueued_jobs(conn: Connection, first: int, last: int) -> list[int]:
    """Waiting jobs of these tasks that no pilot will ever get, because they are not in the queue."""
    return values(
        conn,
        """
        SELECT job_id FROM task JOIN job USING (task_id)
         WHERE task_id BETWEEN %(first)s AND %(last)s
           AND task.state = 'Ready' AND job.attempt = task.attempts AND job.state = 'Waiting'
           AND NOT EXISTS (SELECT FROM job_queue q WHERE q.job_id = job.job_id)
         ORDER BY job_id
        """,
        first=first,
        last=last,
    )


def unheard_jobs(conn: Connection, first: int, last: int) -> list[int]:
    """Running jobs of these tasks of which no pilot will say anything: none is said to have them."""
    return values(
        conn,
        """
        SELECT job_id FROM task JOIN job USING (task_id)
         WHERE task_id BETWEEN %(first)s AND %(last)s
           AND task.state = 'Running' AND job.attempt = task.attempts AND job.state = 'Running'
           AND NOT EXISTS (SELECT FROM job_alive a WHERE a.job_id = job.job_id)
         ORDER BY job_id
        """,
        first=first,
        last=last,
    )


def orphaned_jobs(conn: Connection) -> list[int]:
    """Running jobs whose pilot has ended or was lost."""
    return values(
        conn,
        """
        SELECT job_id FROM job_alive JOIN job USING (job_id) JOIN pilot ON pilot.pilot_id = job.pilot_id
         WHERE job.state = 'Running' AND pilot.state NOT IN ('Submitted', 'Running')
         ORDER BY job_id
        """,
    )


def clear_side_rows(conn: Connection) -> int:
    """Forget that jobs are queued, or on a pilot, which are not; how many."""
    queued = conn.execute(
        "DELETE FROM job_queue q USING job WHERE job.job_id = q.job_id AND job.state <> 'Waiting'"
    ).rowcount
    alive = conn.execute(
        "DELETE FROM job_alive a USING job WHERE job.job_id = a.job_id AND job.state <> 'Running'"
    ).rowcount
    return queued + alive


def taken_twice(conn: Connection) -> int:
    """Files that wait for a task and are in one: they wait no more; how many."""
    return conn.execute(
        """
        DELETE FROM pending_input p USING task_input i
         WHERE i.file_id = p.file_id AND i.transformation_id = p.transformation_id
        """
    ).rowcount


def lost_arrivals(conn: Connection) -> list[int]:
    """Files that a transfer of the last day brought somewhere where they are not now, and which nobody deleted there;
    what they are owed is compared anew."""
    return values(
        conn,
        """
        SELECT DISTINCT t.file_id
          FROM transfer t JOIN file USING (file_id)
         WHERE t.state = 'Done' AND t.state_since > now() - interval '1 day'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = t.file_id AND r.storage_id = t.target_id)
           AND NOT EXISTS (SELECT FROM intent i WHERE i.file_id = t.file_id AND i.storage_id = t.target_id
                                                  AND i.state = 'Done')
         ORDER BY 1
         LIMIT 10000
        """,
    )


# --- concerns --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Concern:
    """Something a person must decide about one subject. `type`: of the transformation it is about."""

    id: int
    type: str
    sentence: str
    choices: tuple[str, ...] = ()


def put_concerns(
    conn: Connection, kind: str, condition: str, holds: Sequence[Concern], among: tuple[int, int] | None = None
) -> int:
    """These hold now, and no others of their kind and condition, with subjects from `among[0]` to `among[1]` if given.
    What held before keeps its row, and is not told again. Returns how many are new."""
    first, last = among or (0, 2**62)
    return value(
        conn,
        """
        WITH holds AS (
            SELECT * FROM jsonb_to_recordset(%(holds)s) AS h (id bigint, type text, sentence text, choices text[])),
        ended AS (
            UPDATE concern c SET ended = now()
             WHERE kind = %(kind)s AND condition = %(condition)s AND ended IS NULL
               AND id BETWEEN %(first)s AND %(last)s
               AND NOT EXISTS (SELECT FROM holds h WHERE h.id = c.id)),
        changed AS (
            UPDATE concern c SET sentence = h.sentence, choices = h.choices
              FROM holds h
             WHERE c.kind = %(kind)s AND c.condition = %(condition)s AND c.ended IS NULL AND c.id = h.id
               AND (c.sentence, c.choices) IS DISTINCT FROM (h.sentence, h.choices)),
        made AS (
            INSERT INTO concern (kind, condition, id, type, sentence, choices)
            SELECT %(kind)s, %(condition)s, id, type, sentence, choices FROM holds
            ON CONFLICT (kind, condition, id) WHERE ended IS NULL DO NOTHING
            RETURNING 1)
        SELECT count(*) FROM made
        """,
        kind=kind,
        condition=condition,
        first=first,
        last=last,
        holds=Jsonb([{"id": c.id, "type": c.type, "sentence": c.sentence, "choices": list(c.choices)} for c in holds]),
    )
