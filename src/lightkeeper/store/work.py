"""Productions, transformations, tasks, jobs, pilots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.healing import Keeper
from lightkeeper.domain.states import Job, Pilot, Production, Task, Transformation
from lightkeeper.domain.work import PlannedStep
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.healing import next_attempts
from lightkeeper.store.transitions import move


# --- productions -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ProductionRow:
    """A production as it is."""

    production_id: int
    name: str
    state: Production
    campaign: str
    created: datetime
    document: str
    warnings: list[str]


def production(conn: Connection, name: str) -> ProductionRow | None:
    """The production `name`."""
    return row(
        conn,
        ProductionRow,
        """
        SELECT production_id, name, state, campaign, created, document, warnings
          FROM production
         WHERE name = %(name)s
        """,
        name=name,
    )


def add_production(conn: Connection, name: str, campaign: str, document: str, warnings: Sequence[str]) -> int:
    """A new production in state New; its id."""
    return value(
        conn,
        """
        INSERT INTO production (name, campaign, document, warnings)
        VALUES (%(name)s, %(campaign)s, %(document)s, %(warnings)s)
        RETURNING production_id
        """,
        name=name,
        campaign=campaign,
        document=document,
        warnings=list(warnings),
    )


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
) -> int:
    """A new transformation in state New; its id. Its name is `<production id, 8 digits>_Step<number>_<name>`. With
    `dataset_id` it takes only files on that list."""
    return value(
        conn,
        """
        INSERT INTO transformation (production_id, parent_id, step, name, type, job_type, group_size, group_by, query,
                                    set_query, file_query, priority, destination_id, open, dataset_id, body)
        VALUES (%(production)s, %(parent)s, %(step)s, %(name)s, %(type)s, %(job_type)s, %(group_size)s, %(group_by)s,
                %(query)s, %(set_query)s::jsonpath, %(file_query)s::jsonpath, %(priority)s,
                (SELECT site_id FROM site WHERE site.name = %(destination)s), %(open)s, %(dataset)s, %(body)s)
        RETURNING transformation_id
        """,
        production=production_id,
        parent=parent_id,
        step=step.number,
        name=f"{production_id:08d}_Step{step.number}_{step.name}",
        type=step.type,
        job_type=step.job_type,
        group_size=step.group_size,
        group_by=[key.strip() for key in (step.group_by or "").split(",") if key.strip()],
        query=Jsonb(dict(step.query)),
        set_query=set_query,
        file_query=file_query,
        priority=step.priority,
        destination=step.destination,
        open=open_,
        dataset=dataset_id,
        body=Jsonb(dict(step.body)),
    )


def activate(conn: Connection, production_id: int) -> int:
    """Start a production: match its transformations with the sets that exist, and give the first steps the files that
    are there. No registration can fall between: it waits for this transaction. Returns the number of input files."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")
    ids = values(conn, "SELECT transformation_id FROM transformation WHERE production_id = %(id)s", id=production_id)
    conn.execute(
        """
        INSERT INTO transformation_set (set_id, transformation_id)
        SELECT s.set_id, t.transformation_id
          FROM transformation t JOIN meta_set s ON s.meta @@ t.set_query
         WHERE t.transformation_id = ANY(%s) AND t.dataset_id IS NULL AND s.state = 'Current'
        ON CONFLICT DO NOTHING
        """,
        (ids,),
    )
    taken = conn.execute(
        """
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT t.transformation_id, f.file_id
          FROM transformation t
          JOIN transformation_set USING (transformation_id)
          JOIN file f USING (set_id)
         WHERE t.transformation_id = ANY(%(ids)s) AND t.parent_id IS NULL
           AND (t.file_query IS NULL OR coalesce(f.extra, '{}') @@ t.file_query)
         UNION ALL
        SELECT t.transformation_id, f.file_id
          FROM transformation t
          JOIN dataset_file USING (dataset_id)
          JOIN file f USING (file_id)
          JOIN meta_set s USING (set_id)
         WHERE t.transformation_id = ANY(%(ids)s) AND s.meta @@ t.set_query
           AND (t.file_query IS NULL OR coalesce(f.extra, '{}') @@ t.file_query)
         ORDER BY 1, 2
        ON CONFLICT DO NOTHING
        """,
        {"ids": ids},
    ).rowcount
    move(conn, [production_id], Production.NEW, Production.ACTIVE)
    move(conn, ids, Transformation.NEW, Transformation.ACTIVE)
    notify(conn, "input")
    return taken


# --- transformations -------------------------------------------------------------------------------------------
def with_input(conn: Connection) -> list[int]:
    """Transformations that have files waiting for a task."""
    return values(
        conn,
        """
        SELECT transformation_id FROM transformation t
         WHERE state IN ('Active', 'Flush')
           AND EXISTS (SELECT FROM pending_input p WHERE p.transformation_id = t.transformation_id)
         ORDER BY transformation_id
        """,
    )


def make_tasks(conn: Connection, transformation_id: int) -> int:
    """Group the waiting files of one transformation into tasks, in one statement; return how many.

    Files are grouped by the values of the keys in `group_by`, or by the site of a copy when there are none; only
    whole groups, unless the transformation is in state Flush. A file waits until a data centre has a verified copy;
    one on tape will do, since tasks wait until their inputs are staged.
    """
    conn.execute("SELECT FROM transformation WHERE transformation_id = %s FOR UPDATE", (transformation_id,))
    made = value(
        conn,
        """
        WITH t AS (
            SELECT * FROM transformation WHERE transformation_id = %(id)s AND state IN ('Active', 'Flush')),
        choice AS (
            SELECT DISTINCT ON (p.file_id) p.file_id, c.site_id,
                   CASE WHEN t.group_by = '{}' THEN c.site_id::text
                        ELSE (SELECT string_agg(coalesce(s.meta ->> key, f.extra ->> key, ''), E'\\x1f' ORDER BY n)
                                FROM unnest(t.group_by) WITH ORDINALITY AS g (key, n)) END AS kin
              FROM t
              JOIN pending_input p USING (transformation_id)
              JOIN file f USING (file_id)
              JOIN meta_set s USING (set_id)
              JOIN verified_copy c USING (file_id)
             ORDER BY p.file_id, EXISTS (SELECT FROM tape_storage w WHERE w.storage_id = c.storage_id), c.storage_id),
        numbered AS (
            SELECT file_id, site_id, kin,
                   (row_number() OVER (PARTITION BY kin ORDER BY file_id) - 1) / t.group_size AS number
              FROM choice, t),
        made AS MATERIALIZED (
            SELECT nextval(pg_get_serial_sequence('task', 'task_id')) AS task_id, site_id, files
              FROM (SELECT mode() WITHIN GROUP (ORDER BY site_id) AS site_id, array_agg(file_id) AS files
                      FROM numbered, t
                     GROUP BY kin, number, t.group_size, t.state
                    HAVING count(*) = t.group_size OR t.state = 'Flush') g),
        input AS (
            SELECT task_id, unnest(files) AS file_id FROM made),
        task_rows AS (
            INSERT INTO task (task_id, transformation_id, site_id) OVERRIDING SYSTEM VALUE
            SELECT made.task_id, t.transformation_id, coalesce(t.destination_id, made.site_id) FROM made, t),
        input_rows AS (
            INSERT INTO task_input (task_id, file_id, transformation_id)
            SELECT task_id, file_id, %(id)s FROM input),
        used_up AS (
            DELETE FROM pending_input p USING input i
             WHERE p.transformation_id = %(id)s AND p.file_id = i.file_id)
        SELECT count(*) FROM made
        """,
        id=transformation_id,
    )
    move(conn, [transformation_id], Transformation.FLUSH, Transformation.ACTIVE, f"{made} smaller groups made")
    if made:
        notify(conn, "task")
    return made


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


# --- jobs ------------------------------------------------------------------------------------------------------
def submit_jobs(conn: Connection, limit: int) -> int:
    """Give every Ready task that is due its next attempt: a Waiting job in the queue. Returns how many."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('submit jobs'))")  # two at once would not see each other's jobs
    n = value(
        conn,
        """
        WITH due AS (
            SELECT task.task_id, task.attempts + 1 AS attempt, task.site_id, t.priority,
                   t.destination_id IS NOT NULL AS bound
              FROM task
              JOIN transformation t USING (transformation_id)
             WHERE task.state = 'Ready' AND task.not_before <= now() AND t.state IN ('Active', 'Flush')
               AND NOT EXISTS (SELECT FROM job j WHERE j.task_id = task.task_id AND j.attempt = task.attempts
                                                   AND j.state = 'Waiting')
               -- an input whose only copies are suspect is being read again: no attempt is wasted meanwhile
               AND NOT EXISTS (SELECT FROM task_input i JOIN replica r USING (file_id)
                                WHERE i.task_id = task.task_id AND r.state = 'Suspect'
                                  AND NOT EXISTS (SELECT FROM verified_copy c WHERE c.file_id = i.file_id))
               -- an input of which no copy can be read, but on tape, is being staged
               AND (NOT EXISTS (SELECT FROM tape_storage)
                    OR NOT EXISTS (SELECT FROM task_input i
                                     JOIN verified_copy c USING (file_id)
                                     JOIN storage_now n ON n.storage_id = c.storage_id
                                    WHERE i.task_id = task.task_id
                                    GROUP BY i.file_id
                                   HAVING NOT bool_or(n.readable AND EXISTS (SELECT FROM online_copy o
                                                               WHERE o.file_id = c.file_id
                                                                 AND o.storage_id = c.storage_id))))
             ORDER BY task.task_id
             LIMIT %(limit)s
               FOR UPDATE OF task SKIP LOCKED),
        numbered AS (
            UPDATE task SET attempts = due.attempt FROM due WHERE task.task_id = due.task_id),
        made AS (
            INSERT INTO job (task_id, attempt, site_id, minor_status)
            SELECT task_id, attempt, site_id, 'Waiting for a pilot' FROM due
            RETURNING job_id, task_id),
        queued AS (
            INSERT INTO job_queue (job_id, site_id, priority, bound)
            SELECT job_id, site_id, priority, bound FROM made JOIN due USING (task_id))
        SELECT count(*) FROM made
        """,
        limit=limit,
    )
    if n:
        notify(conn, "job")
    return n


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job on a pilot, with what its recipe needs."""

    job_id: int
    attempt: int
    task_id: int
    transformation_id: int
    transformation: str
    job_type: str
    body: Mapping[str, Any]


def claim_job(conn: Connection, pilot_id: int, site_id: int) -> ClaimedJob | None:
    """Take the first waiting job for a pilot: of its own site before that of another."""
    job_id = value(
        conn,
        """
        DELETE FROM job_queue
         WHERE job_id = (SELECT job_id FROM job_queue
                          WHERE site_id = %(site)s OR NOT bound
                          ORDER BY site_id <> %(site)s, priority, job_id
                          LIMIT 1
                            FOR UPDATE SKIP LOCKED)
        RETURNING job_id
        """,
        site=site_id,
    )
    if job_id is None:
        return None
    if not move(conn, [job_id], Job.WAITING, Job.RUNNING):
        return None
    job = row(
        conn,
        ClaimedJob,
        """
        UPDATE job SET pilot_id = %(pilot)s, site_id = %(site)s, started = now(), minor_status = 'Initializing Job'
          FROM task
          JOIN transformation t USING (transformation_id)
         WHERE job.job_id = %(job)s AND task.task_id = job.task_id
     RETURNING job.job_id, job.attempt, job.task_id, t.transformation_id, t.name AS transformation, t.job_type, t.body
        """,
        job=job_id,
        pilot=pilot_id,
        site=site_id,
    )
    assert job is not None  # noqa: S101  # its row was moved in this transaction
    move(conn, [job.task_id], Task.READY, Task.RUNNING)
    conn.execute("INSERT INTO job_alive (job_id, pilot_id) VALUES (%s, %s)", (job_id, pilot_id))
    return job


def inputs_of_task(conn: Connection, task_id: int) -> list[int]:
    """File ids of a task's inputs."""
    return values(conn, "SELECT file_id FROM task_input WHERE task_id = %(id)s ORDER BY file_id", id=task_id)


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


def inputs_of_job(conn: Connection, job_id: int) -> list[int]:
    """File ids of the inputs of a job's task."""
    return values(conn, "SELECT file_id FROM job JOIN task_input USING (task_id) WHERE job_id = %(id)s", id=job_id)


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


def reported(conn: Connection, job_id: int, pilot_id: int, report: Mapping[str, Any]) -> bool:
    """A pilot says that a job's outputs are uploaded: keep its report; the rest can be done without it. False when
    the job is that pilot's no more."""
    if not _lock_job(conn, job_id, pilot_id):
        return False
    conn.execute(
        "UPDATE job SET report = %s, minor_status = 'Uploading Output Data', exit_code = 0 WHERE job_id = %s",
        (Jsonb(dict(report)), job_id),
    )
    conn.execute("DELETE FROM job_alive WHERE job_id = %s", (job_id,))
    return bool(move(conn, [job_id], Job.RUNNING, Job.COMPLETING))


def _lock_job(conn: Connection, job_id: int, pilot_id: int) -> bool:
    return bool(
        values(
            conn,
            "SELECT job_id FROM job WHERE job_id = %(job)s AND pilot_id = %(pilot)s AND state = 'Running' FOR UPDATE",
            job=job_id,
            pilot=pilot_id,
        )
    )


@dataclass(frozen=True, slots=True)
class CompletingJob:
    """A job whose outputs are uploaded and to be accepted."""

    job_id: int
    attempt: int
    task_id: int
    transformation_id: int
    job_type: str
    body: Mapping[str, Any]
    site: str
    pilot: str
    report: Mapping[str, Any]


def completing_job(conn: Connection, job_id: int) -> CompletingJob | None:
    """The job, when it is Completing; its row and its task's are locked."""
    return row(
        conn,
        CompletingJob,
        """
        SELECT job.job_id, job.attempt, job.task_id, t.transformation_id, t.job_type, t.body, site.name AS site,
               pilot.name AS pilot, job.report
          FROM job
          JOIN task USING (task_id)
          JOIN transformation t USING (transformation_id)
          JOIN pilot USING (pilot_id)
          JOIN site ON site.site_id = job.site_id
         WHERE job_id = %(id)s AND job.state = 'Completing'
           AND task.state = 'Running' AND job.attempt = task.attempts
           FOR UPDATE OF job, task
        """,
        id=job_id,
    )


def completing_jobs(conn: Connection, older_than: timedelta) -> list[int]:
    """Jobs that were reported but not accepted yet: whoever was at it is gone."""
    return values(
        conn,
        "SELECT job_id FROM job WHERE state = 'Completing' AND state_since < now() - %(age)s ORDER BY job_id",
        age=older_than,
    )


def accepted(conn: Connection, job: CompletingJob) -> None:
    """The job's outputs are registered: it and its task are done."""
    conn.execute(
        """
        UPDATE job SET ended = now(), minor_status = 'Execution Complete', application_status = '',
                       done_for = %s
         WHERE job_id = %s
        """,
        (job.transformation_id, job.job_id),
    )
    move(conn, [job.job_id], Job.COMPLETING, Job.DONE)
    move(conn, [job.task_id], Task.RUNNING, Task.DONE)
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


def put_log(conn: Connection, job_id: int, text: str) -> None:
    """Keep the end of what a job's tool printed."""
    conn.execute(
        "INSERT INTO job_log (job_id, text) VALUES (%s, %s) ON CONFLICT (job_id) DO UPDATE SET text = excluded.text",
        (job_id, text),
    )


# --- pilots ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SiteLoad:
    """A site that can compute: how many pilots it may have, has, and how many jobs wait that it may run."""

    site_id: int
    name: str
    executor: str
    pilots: int
    live: int
    waiting: int


def site_loads(conn: Connection) -> list[SiteLoad]:
    """Every site with computing."""
    return rows(
        conn,
        SiteLoad,
        """
        SELECT site_id, name, executor, pilots::int,
               (SELECT count(*) FROM pilot p
                 WHERE p.site_id = site.site_id AND p.state IN ('Submitted', 'Running'))::int AS live,
               (SELECT count(*) FROM job_queue q WHERE q.site_id = site.site_id OR NOT q.bound)::int AS waiting
          FROM site
         WHERE executor IS NOT NULL AND pilots > 0
         ORDER BY site_id
        """,
    )


def add_pilot(conn: Connection, site_id: int, name: str, executor: str, secret: bytes) -> int:
    """A pilot about to be started; `secret` is the sha256 of what it will show."""
    return value(
        conn,
        """
        INSERT INTO pilot (site_id, name, executor, secret) VALUES (%(site)s, %(name)s, %(executor)s, %(secret)s)
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


def pilot_by_secret(conn: Connection, secret: bytes) -> PilotRow | None:
    """The live pilot that has this secret."""
    return row(
        conn,
        PilotRow,
        """
        SELECT pilot_id, pilot.name, site_id, site.name AS site, pilot.executor, state, handle, now() - seen AS silent
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
        SELECT pilot_id, pilot.name, site_id, site.name AS site, pilot.executor, state, handle, now() - seen AS silent
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
