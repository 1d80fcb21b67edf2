"""Jobs, from the queue to their end, and the pilots that run them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from lightkeeper.domain.healing import Keeper
from lightkeeper.domain.sharing import Lane, Offer
from lightkeeper.domain.states import Job, Pilot, Task
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.healing import next_attempts
from lightkeeper.store.transitions import move


# --- the queue -------------------------------------------------------------------------------------------------
def submit_jobs(conn: Connection, limit: int) -> int:
    """Give every Ready task that is due its next attempt: a Waiting job in the queue. Returns how many.

    OFFSET 0: looked up for each one by its key, whatever the planner thinks of tables that were just filled.
    """
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('submit jobs'))")  # two at once would not see each other's jobs
    n = value(
        conn,
        """
        WITH reread AS MATERIALIZED ( -- an input whose only copies are suspect is read again: no attempt is wasted
            SELECT i.task_id
              FROM replica r JOIN task_input i USING (file_id)
             WHERE r.state = 'Suspect'
               AND NOT EXISTS (SELECT FROM verified_copy c WHERE c.file_id = r.file_id OFFSET 0)),
        lacking AS MATERIALIZED ( -- what all jobs of the transformation read is not made yet, or cannot be read now
            SELECT c.transformation_id
              FROM companion c
             WHERE NOT EXISTS (SELECT FROM online_copy o
                                 JOIN verified_copy v USING (file_id, storage_id)
                                 JOIN storage_now n ON n.storage_id = o.storage_id
                                WHERE o.file_id = c.file_id AND n.readable OFFSET 0)),
        due AS (
            SELECT task.task_id, task.transformation_id, task.attempts + 1 AS attempt,
                   coalesce(task.site_id, 0) AS site_id
              FROM task
              JOIN transformation t USING (transformation_id)
             WHERE task.state = 'Ready' AND task.not_before <= now() AND t.state IN ('Active', 'Flush')
               AND NOT EXISTS (SELECT FROM job j WHERE j.task_id = task.task_id AND j.attempt = task.attempts
                                                   AND j.state = 'Waiting' OFFSET 0)
               AND task.task_id NOT IN (SELECT task_id FROM reread)
               AND task.transformation_id NOT IN (SELECT transformation_id FROM lacking)
               -- an input of which no copy can be read, but on tape, is being staged
               AND (NOT EXISTS (SELECT FROM tape_storage)
                    OR NOT EXISTS (SELECT FROM task_input i
                                    WHERE i.task_id = task.task_id
                                      AND EXISTS (SELECT FROM verified_copy c WHERE c.file_id = i.file_id OFFSET 0)
                                      AND NOT EXISTS (SELECT FROM verified_copy c
                                                        JOIN online_copy o USING (file_id, storage_id)
                                                        JOIN storage_now n ON n.storage_id = c.storage_id
                                                       WHERE c.file_id = i.file_id AND n.readable OFFSET 0)
                                   OFFSET 0))
             ORDER BY task.task_id
             LIMIT %(limit)s
               FOR UPDATE OF task SKIP LOCKED),
        numbered AS (
            UPDATE task SET attempts = due.attempt FROM due WHERE task.task_id = due.task_id),
        made AS (
            INSERT INTO job (task_id, transformation_id, attempt, site_id, minor_status)
            SELECT task_id, transformation_id, attempt, nullif(site_id, 0), 'Waiting for a pilot' FROM due
            RETURNING job_id, task_id),
        queued AS (
            INSERT INTO job_queue (job_id, transformation_id, site_id)
            SELECT job_id, transformation_id, site_id FROM made JOIN due USING (task_id) ORDER BY job_id)
        SELECT count(*) FROM made
        """,
        limit=limit,
    )
    if n:
        notify(conn, "job")
    return n


def lanes(conn: Connection) -> list[Lane]:
    """Every transformation of which jobs wait or run."""
    found = conn.execute("""
        SELECT t.transformation_id, t.priority, p.group_name, p.name, t.job_type, t.processors, t.memory_mb, t.tags,
               t.site_ids, CASE WHEN t.state IN ('Active', 'Flush') THEN c.queued ELSE 0 END, c.on_pilots
          FROM transformation_progress c
          JOIN transformation t USING (transformation_id)
          JOIN production p USING (production_id)
         WHERE c.queued > 0 OR c.on_pilots > 0
    """).fetchall()
    return [
        Lane(*line[:7], tags=frozenset(line[7]), sites=frozenset(line[8]), waiting=int(line[9]), running=int(line[10]))
        for line in found
    ]


def shares(conn: Connection) -> dict[tuple[str, str], float]:
    """Shares of the processors that somebody gave, by kind and name."""
    found = conn.execute("SELECT kind, name, share FROM work_share").fetchall()
    return {(kind, name): share for kind, name, share in found}


def take(
    conn: Connection, transformation_id: int, after: tuple[int, int], last_site: int, limit: int
) -> list[tuple[int, int]]:
    """Take waiting jobs of one transformation out of the queue: the first after (site, job), of sites up to one.
    Returns (site, job)."""
    return conn.execute(
        """
        DELETE FROM job_queue
         WHERE job_id = ANY(ARRAY( -- looked for once; a join may look again, and take more
               SELECT job_id FROM job_queue
                WHERE transformation_id = %(transformation)s
                  AND (site_id, job_id) > (%(site)s, %(job)s) AND site_id <= %(last)s
                ORDER BY site_id, job_id
                LIMIT %(limit)s
                  FOR UPDATE SKIP LOCKED))
        RETURNING site_id::int, job_id
        """,
        {
            "transformation": transformation_id,
            "site": after[0],
            "job": after[1],
            "last": last_site,
            "limit": limit,
        },
    ).fetchall()


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job on a pilot, with what its recipe needs."""

    job_id: int
    attempt: int
    task_id: int
    number: int | None
    transformation_id: int
    transformation: str
    job_type: str
    body: Mapping[str, Any]
    memory_mb: int | None
    limits: Mapping[str, int]


_CLAIMED = SQL("""
    SELECT job.job_id, job.attempt, job.task_id, task.number, t.transformation_id, t.name AS transformation, t.job_type,
           t.body, t.memory_mb, t.limits
      FROM job
      JOIN task USING (task_id)
      JOIN transformation t ON t.transformation_id = job.transformation_id
""")


def begin(conn: Connection, job_ids: Sequence[int], pilot_id: int, site_id: int) -> list[ClaimedJob]:
    """These jobs, taken out of the queue, are on a pilot now."""
    ours = move(
        conn,
        job_ids,
        Job.WAITING,
        Job.RUNNING,
        also="pilot_id = %(pilot)s, site_id = %(site)s, started = now(), minor_status = 'Initializing Job'",
        pilot=pilot_id,
        site=site_id,
    )
    conn.execute("INSERT INTO job_alive (job_id, pilot_id) SELECT unnest(%s::bigint[]), %s", (ours, pilot_id))
    begun = _claimed(conn, SQL("job.job_id = ANY(%s)"), ours)
    move(conn, [job.task_id for job in begun], Task.READY, Task.RUNNING)
    return begun


def held(conn: Connection, pilot_id: int, but: Sequence[int]) -> list[ClaimedJob]:
    """Jobs that a pilot has, `but` those: it does not know of them when the answer to its claim was lost."""
    condition = SQL("""
        job.job_id IN (SELECT job_id FROM job_alive WHERE pilot_id = %s AND job_id <> ALL(%s))
        AND job.state = 'Running'
    """)
    return _claimed(conn, condition, pilot_id, list(but))


def _claimed(conn: Connection, condition: SQL, *params: Any) -> list[ClaimedJob]:
    query = SQL("{} WHERE {} ORDER BY job.job_id").format(_CLAIMED, condition)
    with conn.cursor(row_factory=class_row(ClaimedJob)) as cursor:
        return cursor.execute(query, params).fetchall()


def inputs_of_tasks(conn: Connection, task_ids: Sequence[int]) -> dict[int, list[int]]:
    """File ids of the inputs of these tasks, in order; tasks without any are not among them."""
    found = conn.execute(
        """
        SELECT task_id, array_agg(file_id ORDER BY file_id)
          FROM task_input WHERE task_id = ANY(%s) GROUP BY task_id
        """,
        (list(task_ids),),
    ).fetchall()
    return dict(found)


# --- jobs on pilots --------------------------------------------------------------------------------------------
def inputs_of_job(conn: Connection, job_id: int) -> list[int]:
    """File ids of the inputs of a job's task."""
    return values(conn, "SELECT file_id FROM job JOIN task_input USING (task_id) WHERE job_id = %(id)s", id=job_id)


def alive(conn: Connection, pilot_id: int, statuses: Mapping[int, str]) -> list[int]:
    """A pilot and its jobs are alive; `statuses` are their minor statuses. Returns the jobs that are its no more."""
    conn.execute("UPDATE pilot SET seen = now() WHERE pilot_id = %s", (pilot_id,))
    ids = list(statuses)
    conn.execute("UPDATE job_alive SET seen = now() WHERE job_id = ANY(%s) AND pilot_id = %s", (ids, pilot_id))
    ours = values(
        conn,
        """
        UPDATE job SET minor_status = w.minor_status
          FROM unnest(%(ids)s::bigint[], %(statuses)s::text[]) AS w (job_id, minor_status)
         WHERE job.job_id = w.job_id AND job.pilot_id = %(pilot)s AND job.state = 'Running'
     RETURNING job.job_id
        """,
        ids=ids,
        statuses=list(statuses.values()),
        pilot=pilot_id,
    )
    return [job_id for job_id in ids if job_id not in ours]


def reported(conn: Connection, reports: Mapping[int, Mapping[str, Any]], pilot_id: int) -> list[int]:
    """A pilot says that outputs of jobs are uploaded: keep its reports; the rest can be done without it. Returns the
    jobs that were its until now."""
    ours = values(
        conn,
        """
        SELECT job_id FROM job
         WHERE job_id = ANY(%(jobs)s) AND pilot_id = %(pilot)s AND state = 'Running'
         ORDER BY job_id
           FOR UPDATE
        """,
        jobs=list(reports),
        pilot=pilot_id,
    )
    conn.execute("DELETE FROM job_alive WHERE job_id = ANY(%s)", (ours,))
    return move(
        conn,
        ours,
        Job.RUNNING,
        Job.COMPLETING,
        also="report = %(reports)s::jsonb -> job_id::text, minor_status = 'Uploading Output Data', exit_code = 0",
        reports=Jsonb({str(job_id): dict(reports[job_id]) for job_id in ours}),
    )


def reported_before(conn: Connection, job_ids: Sequence[int], pilot_id: int) -> list[int]:
    """Those of these jobs that this pilot has reported already."""
    return values(
        conn,
        """
        SELECT job_id FROM job
         WHERE job_id = ANY(%(jobs)s) AND pilot_id = %(pilot)s AND state IN ('Completing', 'Done')
        """,
        jobs=list(job_ids),
        pilot=pilot_id,
    )


@dataclass(frozen=True, slots=True)
class CompletingJob:
    """A job whose outputs are uploaded and to be accepted."""

    job_id: int
    attempt: int
    task_id: int
    number: int | None
    transformation_id: int
    job_type: str
    body: Mapping[str, Any]
    site: str
    pilot: str
    report: Mapping[str, Any]


def completing(conn: Connection, job_ids: Sequence[int]) -> list[CompletingJob]:
    """Those of these jobs that are Completing, in order; their rows and those of their tasks are locked."""
    return rows(
        conn,
        CompletingJob,
        """
        SELECT job.job_id, job.attempt, job.task_id, task.number, t.transformation_id, t.job_type, t.body,
               site.name AS site, pilot.name AS pilot, job.report
          FROM job
          JOIN task USING (task_id)
          JOIN transformation t ON t.transformation_id = job.transformation_id
          JOIN pilot USING (pilot_id)
          JOIN site ON site.site_id = job.site_id
         WHERE job_id = ANY(%(ids)s) AND job.state = 'Completing'
           AND task.state = 'Running' AND job.attempt = task.attempts
         ORDER BY job_id
           FOR UPDATE OF job, task
        """,
        ids=list(job_ids),
    )


def completing_jobs(conn: Connection, older_than: timedelta) -> list[int]:
    """Jobs that were reported but not accepted yet: whoever was at it is gone."""
    return values(
        conn,
        "SELECT job_id FROM job WHERE state = 'Completing' AND state_since < now() - %(age)s ORDER BY job_id",
        age=older_than,
    )


def accepted(conn: Connection, done: Sequence[CompletingJob]) -> None:
    """The outputs of these jobs are registered: they and their tasks are done."""
    ids = [job.job_id for job in done]
    also: LiteralString = "ended = now(), minor_status = 'Execution Complete', application_status = ''"
    move(conn, ids, Job.COMPLETING, Job.DONE, also=also)
    move(conn, [job.task_id for job in done], Task.RUNNING, Task.DONE)
    notify(conn, "task")


def failed(
    conn: Connection,
    job_ids: Sequence[int],
    source: Job,
    minor: str,
    application: str,
    exit_code: int | None,
    base_delay: timedelta,
    keeper: Keeper,
) -> tuple[list[int], list[int]]:
    """These jobs failed. Their tasks get another attempt after a delay that doubles, or fail when it was the last.
    Returns (tasks to be tried again, tasks that failed)."""
    jobs = move(conn, job_ids, source, Job.FAILED, f"{minor}: {application}" if application else minor)
    conn.execute(
        """
        UPDATE job SET ended = now(), minor_status = %s, application_status = %s, exit_code = coalesce(%s, exit_code)
         WHERE job_id = ANY(%s)
        """,
        (minor, application, exit_code, jobs),
    )
    conn.execute("DELETE FROM job_alive WHERE job_id = ANY(%s)", (jobs,))
    tasks = values(
        conn,
        """
        SELECT task_id
          FROM job JOIN task USING (task_id)
         WHERE job_id = ANY(%(jobs)s) AND job.attempt = task.attempts AND task.state = 'Running'
         ORDER BY task_id
        """,
        jobs=jobs,
    )
    return next_attempts(conn, tasks, minor, f"{minor}: {application}" if application else minor, keeper, base_delay)


def states(conn: Connection, job_ids: Sequence[int]) -> dict[int, tuple[Job, int]]:
    """State and task of these jobs; those that do not exist are left out."""
    found = conn.execute("SELECT job_id, state, task_id FROM job WHERE job_id = ANY(%s)", (list(job_ids),)).fetchall()
    return {job_id: (state, task_id) for job_id, state, task_id in found}


def put_logs(conn: Connection, logs: Mapping[int, str]) -> None:
    """Keep what the tools of jobs printed, or its beginning and end."""
    conn.execute(
        """
        INSERT INTO job_log (job_id, text) SELECT * FROM unnest(%s::bigint[], %s::text[])
        ON CONFLICT (job_id) DO UPDATE SET text = excluded.text
        """,
        (list(logs), list(logs.values())),
    )


# --- pilots ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Computing:
    """A site that can compute: how many pilots it may have and has, and what each of them offers."""

    site_id: int
    name: str
    executor: str
    pilots: int
    live: int
    processors: int
    memory_mb: int | None
    tags: list[str]

    @property
    def offer(self) -> Offer:
        """What a pilot there has for a job."""
        return Offer(self.site_id, self.processors, self.memory_mb, frozenset(self.tags))


def computing(conn: Connection) -> list[Computing]:
    """Every site with computing."""
    return rows(
        conn,
        Computing,
        """
        SELECT site_id, name, executor, pilots::int, processors::int, memory_mb, tags,
               (SELECT count(*) FROM pilot p
                 WHERE p.site_id = site.site_id AND p.state IN ('Submitted', 'Running'))::int AS live
          FROM site
         WHERE executor IS NOT NULL AND pilots > 0
         ORDER BY site_id
        """,
    )


def add_pilot(conn: Connection, site_id: int, name: str, executor: str, secret: bytes) -> int:
    """A pilot about to be started, with what its site's pilots have; `secret` is the sha256 of what it will show."""
    return value(
        conn,
        """
        INSERT INTO pilot (site_id, name, executor, secret, processors, memory_mb, tags)
        SELECT site_id, %(name)s, %(executor)s, %(secret)s, processors, memory_mb, tags
          FROM site WHERE site_id = %(site)s
        RETURNING pilot_id
        """,
        site=site_id,
        name=name,
        executor=executor,
        secret=secret,
    )


def pilot_started(conn: Connection, pilot_id: int, handle: str) -> None:
    """The executor took it."""
    conn.execute("UPDATE pilot SET handle = %s, seen = now() WHERE pilot_id = %s", (handle, pilot_id))


@dataclass(frozen=True, slots=True)
class PilotRow:
    """A pilot as it is; `silent` since it was last seen."""

    pilot_id: int
    name: str
    site_id: int
    site: str
    executor: str
    state: Pilot
    handle: str | None
    silent: timedelta
    processors: int
    memory_mb: int | None
    tags: list[str]

    @property
    def offer(self) -> Offer:
        """What it has for a job."""
        return Offer(self.site_id, self.processors, self.memory_mb, frozenset(self.tags))


def pilot_by_secret(conn: Connection, secret: bytes) -> PilotRow | None:
    """The live pilot that has this secret."""
    return row(
        conn,
        PilotRow,
        """
        SELECT pilot_id, pilot.name, site_id, site.name AS site, pilot.executor, state, handle, now() - seen AS silent,
               pilot.processors::int, pilot.memory_mb, pilot.tags
          FROM pilot JOIN site USING (site_id)
         WHERE secret = %(secret)s AND state IN ('Submitted', 'Running')
        """,
        secret=secret,
    )


def live_pilots(conn: Connection) -> list[PilotRow]:
    """Every pilot that was started and has not ended."""
    return rows(
        conn,
        PilotRow,
        """
        SELECT pilot_id, pilot.name, site_id, site.name AS site, pilot.executor, state, handle, now() - seen AS silent,
               pilot.processors::int, pilot.memory_mb, pilot.tags
          FROM pilot JOIN site USING (site_id)
         WHERE state IN ('Submitted', 'Running')
         ORDER BY pilot_id
        """,
    )


def jobs_on_pilots(conn: Connection, pilot_ids: Sequence[int]) -> list[int]:
    """Jobs that are Running on these pilots."""
    return values(
        conn,
        "SELECT job_id FROM job WHERE pilot_id = ANY(%(pilots)s) AND state = 'Running' ORDER BY job_id",
        pilots=list(pilot_ids),
    )


def live_jobs(conn: Connection) -> list[int]:
    """Jobs that are on a pilot, or reported and not accepted yet."""
    return values(conn, "SELECT job_id FROM job_alive UNION SELECT job_id FROM job WHERE state = 'Completing'")


def silent_jobs(conn: Connection, limit: timedelta) -> list[int]:
    """Jobs that nobody has said anything of for so long."""
    return values(conn, "SELECT job_id FROM job_alive WHERE seen < now() - %(limit)s ORDER BY job_id", limit=limit)
