"""What happened, for people: everything here only reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from lightkeeper.domain.report import JobGroup
from lightkeeper.domain.states import REST, Transformation
from lightkeeper.store.db import rows, value


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole instance in numbers."""

    files: int
    bytes: int
    replicas_verified: int
    triggers_open: int
    files_ingested: int
    files_quarantined: int
    bytes_copied: int
    transfers_waiting: int
    transfers_running: int
    transfers_failed: int
    onsite_freed: int
    intents_open: int
    unsettled: int
    tasks: int
    tasks_done: int
    jobs_waiting: int
    jobs_running: int
    pilots: int


def totals(conn: Connection) -> Totals:
    """Counts over everything."""
    return rows(
        conn,
        Totals,
        """
        SELECT (SELECT coalesce(sum(n_files), 0) FROM set_count)::bigint AS files,
               (SELECT coalesce(sum(n_bytes), 0) FROM set_count)::bigint AS bytes,
               (SELECT coalesce(sum(c.n_files), 0)
                       - (SELECT count(*) FROM replica r JOIN storage USING (storage_id) JOIN site USING (site_id)
                           WHERE r.state <> 'Available' AND enabled AND site.kind = 'data centre')
                  FROM storage_count c JOIN storage USING (storage_id) JOIN site USING (site_id)
                 WHERE enabled AND site.kind = 'data centre')::bigint AS replicas_verified,
               (SELECT count(*) FROM trigger WHERE state = 'Accepted') AS triggers_open,
               (SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log WHERE outcome = 'success')::bigint
               AS files_ingested,
               (SELECT count(*) FROM trigger WHERE state = 'Quarantined') AS files_quarantined,
               (SELECT coalesce(sum(n_bytes), 0) FROM transfer_log)::bigint AS bytes_copied,
               (SELECT count(*) FROM transfer WHERE state = 'Waiting') AS transfers_waiting,
               (SELECT count(*) FROM transfer WHERE state = 'Running') AS transfers_running,
               (SELECT count(*) FROM transfer t
                 WHERE t.state = 'Failed'
                   AND NOT EXISTS (SELECT FROM transfer later
                                    WHERE later.file_id = t.file_id AND later.transfer_id > t.transfer_id)
               ) AS transfers_failed,
               (SELECT coalesce(sum(n_files), 0) FROM deletion_log JOIN storage USING (storage_id)
                  JOIN site USING (site_id) WHERE site.kind = 'observatory')::bigint AS onsite_freed,
               (SELECT count(*) FROM intent WHERE state = 'Approved') AS intents_open,
               (SELECT count(*) FROM unsettled) AS unsettled,
               (SELECT count(*) FROM task) AS tasks,
               (SELECT count(*) FROM task WHERE state = 'Done') AS tasks_done,
               (SELECT count(*) FROM job_queue) AS jobs_waiting,
               (SELECT count(*) FROM job WHERE state IN ('Running', 'Completing')) AS jobs_running,
               (SELECT count(*) FROM pilot WHERE state IN ('Submitted', 'Running')) AS pilots
        """,
    )[0]


@dataclass(frozen=True, slots=True)
class Overdue:
    """Rows that rest in a passing state longer than they should."""

    kind: str
    state: str
    rows: int
    longest: timedelta


def overdue(conn: Connection) -> list[Overdue]:
    """What has rested too long, by the table of states (`domain/states.py: REST`)."""
    found: list[Overdue] = []
    for kind, rests in REST.items():
        for state, rest in rests.items():
            table = kind.__name__.lower()
            query = SQL(
                "SELECT count(*), max(now() - state_since) FROM {} WHERE state = %s AND state_since < now() - %s"
            )
            row = conn.execute(query.format(Identifier(table)), (str(state), rest)).fetchone()
            if row and row[0]:
                found.append(Overdue(table, str(state), row[0], row[1]))
    return found


@dataclass(frozen=True, slots=True)
class StorageUse:
    """One storage and what the catalogue has there."""

    storage: str
    site: str
    kind: str
    media: str
    enabled: bool
    files: int
    bytes: int
    odd: int
    dark: int
    health: str
    since: datetime
    why: str
    readable: bool
    writable: bool
    deletable: bool
    draining: bool
    quota: int | None
    queued: int
    protocols_away: list[str]


def storage_use(conn: Connection) -> list[StorageUse]:
    """Every storage; `odd` counts replicas that are not Available, `dark` files that the catalogue does not know,
    `queued` bytes that transfers are to bring. `since` and `why` are of its health."""
    return rows(
        conn,
        StorageUse,
        """
        SELECT s.name AS storage, site.name AS site, site.kind::text, s.media::text, s.enabled,
               coalesce(c.n_files, 0) AS files, coalesce(c.n_bytes, 0) AS bytes,
               (SELECT count(*) FROM replica r
                 WHERE r.storage_id = s.storage_id AND r.state NOT IN ('Available', 'Buffered')) AS odd,
               (SELECT count(*) FROM dark_file d WHERE d.storage_id = s.storage_id) AS dark,
               n.health::text AS health, coalesce(h.state_since, now()) AS since,
               CASE WHEN n.health = 'Good' THEN ''
                    ELSE coalesce((SELECT why FROM history
                                    WHERE kind = 'health' AND id = s.storage_id
                                    ORDER BY at DESC LIMIT 1), '') END AS why,
               n.readable, n.writable, n.deletable, n.draining, s.quota, coalesce(q.n_bytes, 0) AS queued,
               ARRAY(SELECT coalesce(p.driver, s.driver) || ': ' || o.error
                       FROM probe o LEFT JOIN storage_protocol p USING (storage_id, rank)
                      WHERE o.storage_id = s.storage_id AND NOT o.answers ORDER BY o.rank) AS protocols_away
          FROM storage s
          JOIN storage_now n USING (storage_id)
          JOIN site ON site.site_id = s.site_id
          LEFT JOIN health h ON h.health_id = s.storage_id
          LEFT JOIN storage_count c USING (storage_id)
          LEFT JOIN storage_queue q USING (storage_id)
         ORDER BY site.kind, site.name, s.name
        """,
    )


@dataclass(frozen=True, slots=True)
class TransformationSummary:
    """A transformation with its progress. `files` are all it took; `processed` those whose task is Done; `problematic`
    those whose task failed in every attempt; `failed_attempts` counts jobs."""

    id: int
    production: str
    step: int
    name: str
    type: str
    status: Transformation
    parent: int | None
    group_size: int
    flushes: int
    files: int
    unused: int
    assigned: int
    processed: int
    problematic: int
    tasks: int
    done: int
    failed: int
    failed_attempts: int
    outputs: int


def transformations(
    conn: Connection, production: str | None = None, only: int | None = None
) -> list[TransformationSummary]:
    """Transformations in order; of one production, or one by id, if given."""
    return rows(
        conn,
        TransformationSummary,
        """
        SELECT t.transformation_id AS id, p.name AS production, t.step::int, t.name, t.type, t.state AS status,
               t.parent_id AS parent, t.group_size, t.flushes::int,
               coalesce(c.unused + c.assigned + c.processed + c.problematic, 0)::bigint AS files,
               coalesce(c.unused, 0)::bigint AS unused, coalesce(c.assigned, 0)::bigint AS assigned,
               coalesce(c.processed, 0)::bigint AS processed, coalesce(c.problematic, 0)::bigint AS problematic,
               coalesce(c.ready + c.running + c.done + c.failed, 0)::bigint AS tasks,
               coalesce(c.done, 0)::bigint AS done, coalesce(c.failed, 0)::bigint AS failed,
               coalesce(c.in_vain, 0)::bigint AS failed_attempts, coalesce(c.outputs, 0)::bigint AS outputs
          FROM transformation t
          JOIN production p USING (production_id)
          LEFT JOIN transformation_progress c ON c.transformation_id = t.transformation_id
         WHERE (%(production)s::text IS NULL OR p.name = %(production)s)
           AND (%(only)s::int IS NULL OR t.transformation_id = %(only)s)
         ORDER BY t.transformation_id
        """,
        production=production,
        only=only,
    )


def job_groups(conn: Connection, transformation_id: int) -> list[JobGroup]:
    """The tasks of a transformation, each by its latest job, counted by what the report shows.

    A job that is Done is the latest of its task: they are counted from the index job_done alone, however many.
    """
    return rows(
        conn,
        JobGroup,
        """
        SELECT job.state::text AS status, job.minor_status, job.application_status, coalesce(site.name, 'ANY') AS site,
               sum(job.n)::int AS total
          FROM (SELECT state, minor_status, application_status, site_id, count(*) AS n
                  FROM job WHERE transformation_id = %(id)s AND state = 'Done'
                 GROUP BY 1, 2, 3, 4
                 UNION ALL
                SELECT job.state, minor_status, application_status, job.site_id, count(*)
                  FROM task
                  JOIN job ON job.task_id = task.task_id AND job.attempt = task.attempts
                 WHERE task.transformation_id = %(id)s AND task.state IN ('Ready', 'Running', 'Failed')
                   AND job.state <> 'Done'
                 GROUP BY 1, 2, 3, 4) job
          LEFT JOIN site ON site.site_id = job.site_id
         GROUP BY 1, 2, 3, 4
         ORDER BY 1, 2, 3, 4
        """,
        id=transformation_id,
    )


@dataclass(frozen=True, slots=True)
class Healed:
    """One thing that was remedied without a person."""

    at: datetime
    kind: str
    id: int
    what: str
    why: str


def healed(conn: Connection, limit: int = 1000) -> list[Healed]:
    """What was remedied, the latest `limit`, oldest first."""
    return rows(
        conn,
        Healed,
        """
        SELECT at, kind, id, what, why
          FROM (SELECT * FROM remedy ORDER BY remedy_id DESC LIMIT %(limit)s) latest
         ORDER BY remedy_id
        """,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class Link:
    """Traffic from one site to another."""

    source: str
    target: str
    transfers: int
    bytes: int
    failed_attempts: int


def traffic(conn: Connection) -> list[Link]:
    """What went over each link."""
    return rows(
        conn,
        Link,
        """
        SELECT a.name AS source, b.name AS target, sum(n_transfers)::bigint AS transfers, sum(n_bytes)::bigint AS bytes,
               sum(n_failed)::bigint AS failed_attempts
          FROM transfer_log
          JOIN storage s ON s.storage_id = source_id
          JOIN storage t ON t.storage_id = target_id
          JOIN site a ON a.site_id = s.site_id
          JOIN site b ON b.site_id = t.site_id
         GROUP BY 1, 2
         ORDER BY 1, 2
        """,
    )


def outputs(conn: Connection, limit: int = 1000) -> list[str]:
    """Names of the files that jobs made, latest first."""
    found = conn.execute(
        """
        SELECT d.path || '/' || f.name
          FROM file f
          JOIN directory d USING (dir_id)
          JOIN activity a USING (activity_id)
         WHERE a.job_id IS NOT NULL
         ORDER BY f.activity_id DESC, 1
         LIMIT %s
        """,
        (limit,),
    ).fetchall()
    return [line[0] for line in found]


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One move of a state."""

    at: datetime
    source: str
    target: str
    why: str


def history_of(conn: Connection, kind: str, subject: int) -> list[HistoryLine]:
    """Every move of one row, oldest first."""
    return rows(
        conn,
        HistoryLine,
        "SELECT at, source, target, why FROM history WHERE kind = %(kind)s AND id = %(id)s ORDER BY at",
        kind=kind,
        id=subject,
    )


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list. `handle` is the executor's for its pilot."""

    job_id: int
    task_id: int
    attempt: int
    transformation: str
    status: str
    minor_status: str
    application_status: str
    site: str | None
    pilot: str | None
    executor: str | None
    handle: str | None
    submitted: datetime
    started: datetime | None
    ended: datetime | None
    cpu_seconds: float | None
    wall_seconds: float | None
    memory: int | None
    disk: int | None


def jobs(
    conn: Connection,
    limit: int = 1000,
    transformation_ids: Sequence[int] | None = None,
    status: str | None = None,
    site: str | None = None,
    only: int | None = None,
) -> list[JobLine]:
    """Jobs, latest first: of some transformations, in one state, at one site, or one by its number, if given."""
    return rows(
        conn,
        JobLine,
        """
        SELECT job_id, task_id, attempt::int, t.name AS transformation, job.state::text AS status, minor_status,
               application_status, site.name AS site, pilot.name AS pilot, pilot.executor, pilot.handle,
               job.submitted, started, ended, cpu_seconds, wall_seconds, memory, disk
          FROM job
          JOIN transformation t USING (transformation_id)
          LEFT JOIN pilot USING (pilot_id)
          LEFT JOIN site ON site.site_id = job.site_id
         WHERE (%(of)s::int[] IS NULL OR job.transformation_id = ANY(%(of)s)
                AND job.task_id IN (SELECT task_id FROM task WHERE transformation_id = ANY(%(of)s)))
           AND (%(status)s::text IS NULL OR job.state::text = %(status)s)
           AND (%(site)s::text IS NULL OR site.name = %(site)s)
           AND (%(only)s::bigint IS NULL OR job_id = %(only)s)
         ORDER BY job_id DESC
         LIMIT %(limit)s
        """,
        limit=limit,
        of=list(transformation_ids) if transformation_ids is not None else None,
        status=status,
        site=site,
        only=only,
    )


def job_log(conn: Connection, job_id: int) -> str | None:
    """What a job's tool printed, or its beginning and end."""
    return value(conn, "SELECT text FROM job_log WHERE job_id = %(id)s", id=job_id)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a file has fewer copies than it is owed."""

    target: str
    state: str
    attempts: int
    error: str | None


def transfers_of(conn: Connection, file_ids: Sequence[int]) -> list[Waiting]:
    """Transfers of these files that are not done."""
    return rows(
        conn,
        Waiting,
        """
        SELECT s.name AS target, t.state::text, t.attempts::int, t.error
          FROM transfer t JOIN storage s ON s.storage_id = t.target_id
         WHERE t.file_id = ANY(%(ids)s) AND t.state <> 'Done'
         ORDER BY t.transfer_id
        """,
        ids=list(file_ids),
    )


def policy_of(conn: Connection, file_id: int) -> str | None:
    """Names of the policies that a file falls under; None when nothing is owed."""
    return value(
        conn,
        """
        SELECT string_agg(p.name, ', ' ORDER BY p.name)
          FROM file_owed JOIN policy p USING (policy_id)
         WHERE file_id = %(id)s AND p.withdrawn IS NULL
        """,
        id=file_id,
    )
