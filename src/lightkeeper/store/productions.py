"""Productions: their documents, their start, and how far they are. Their transformations: see work.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.states import Production, Transformation
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class ProductionRow:
    """A production as it is, with its document and the files that lay beside it."""

    production_id: int
    name: str
    state: Production
    campaign: str
    created: datetime
    state_since: datetime
    document: str
    sandbox: Mapping[str, str]
    warnings: list[str]
    group: str


def production(conn: Connection, name: str) -> ProductionRow | None:
    """The production `name`."""
    return row(
        conn,
        ProductionRow,
        """
        SELECT production_id, name, state, campaign, created, state_since, document, sandbox, warnings,
               group_name AS group
          FROM production
         WHERE name = %(name)s
        """,
        name=name,
    )


def names(conn: Connection) -> list[str]:
    """Names of the latest productions, for whoever mistyped one."""
    return values(conn, "SELECT name FROM production ORDER BY production_id DESC LIMIT 1000")


def number(conn: Connection) -> int:
    """How many productions there are."""
    return value(conn, "SELECT count(*) FROM production")


def lock(conn: Connection, production_id: int) -> None:
    """Nobody else changes the production until this transaction ends."""
    conn.execute("SELECT FROM production WHERE production_id = %s FOR UPDATE", (production_id,))


def add(
    conn: Connection,
    name: str,
    campaign: str,
    document: str,
    sandbox: Mapping[str, str],
    warnings: Sequence[str],
    group: str,
) -> int:
    """A new production in state New; its id."""
    return value(
        conn,
        """
        INSERT INTO production (name, campaign, document, sandbox, warnings, group_name)
        VALUES (%(name)s, %(campaign)s, %(document)s, %(sandbox)s, %(warnings)s, %(group)s)
        RETURNING production_id
        """,
        name=name,
        campaign=campaign,
        document=document,
        sandbox=Jsonb(dict(sandbox)),
        warnings=list(warnings),
        group=group,
    )


def set_group(conn: Connection, production_id: int, group: str) -> None:
    """The production is of this group of people from now on: jobs that wait already get its share."""
    conn.execute("UPDATE production SET group_name = %s WHERE production_id = %s", (group, production_id))


def replace_document(
    conn: Connection, production_id: int, document: str, sandbox: Mapping[str, str], warnings: Sequence[str]
) -> None:
    """The production was extended: this is what it does now."""
    conn.execute(
        "UPDATE production SET document = %s, sandbox = %s, warnings = %s WHERE production_id = %s",
        (document, Jsonb(dict(sandbox)), list(warnings), production_id),
    )


# --- what it takes ---------------------------------------------------------------------------------------------
def start(conn: Connection, production_id: int) -> int:
    """Start a New production and all its transformations; returns the number of input files."""
    ids = values(conn, "SELECT transformation_id FROM transformation WHERE production_id = %(id)s", id=production_id)
    taken = take(conn, ids)
    move(conn, [production_id], Production.NEW, Production.ACTIVE)
    move(conn, ids, Transformation.NEW, Transformation.ACTIVE)
    return taken


def take(conn: Connection, transformation_ids: Sequence[int]) -> int:
    """Match these transformations with the sets that exist, and give them the files that are there: all that match to
    those without a parent, to the others what was made for them already. No registration can fall between: it waits for
    this transaction. A file that a transformation has had is not taken again. Returns the number of files."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")
    ids = list(transformation_ids)
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
        WITH wanted AS (
            SELECT t.*, t.parent_id IS NOT NULL OR t.feeders <> '{}' AS linked
              FROM transformation t WHERE t.transformation_id = ANY(%(ids)s)),
        found AS (
            SELECT t.transformation_id, f.file_id
              FROM wanted t
              JOIN transformation_set USING (transformation_id)
              JOIN file f USING (set_id)
             WHERE NOT (t.linked AND t.by_lineage)
               AND (t.file_query IS NULL OR coalesce(f.extra, '{}') @@ t.file_query)
             UNION ALL
            SELECT t.transformation_id, f.file_id
              FROM wanted t
              JOIN dataset_file USING (dataset_id)
              JOIN file f USING (file_id)
              JOIN meta_set s USING (set_id)
             WHERE s.meta @@ t.set_query
               AND (t.file_query IS NULL OR coalesce(f.extra, '{}') @@ t.file_query)
             UNION ALL
            SELECT t.transformation_id, n.file_id
              FROM wanted t
              JOIN transformation_file n USING (transformation_id)
             UNION ALL
            SELECT t.transformation_id, f.file_id
              FROM wanted t
              JOIN job ON job.transformation_id = t.parent_id OR job.transformation_id = ANY (t.feeders)
              JOIN activity a USING (job_id)
              JOIN file f USING (activity_id)
              JOIN transformation_set s ON s.transformation_id = t.transformation_id AND s.set_id = f.set_id
             WHERE t.linked AND t.by_lineage AND job.state = 'Done'
               AND (t.file_query IS NULL OR coalesce(f.extra, '{}') @@ t.file_query)),
        ranked AS (
            SELECT w.transformation_id, w.file_id,
                   CASE WHEN t.input_limit IS NULL THEN 0
                        ELSE row_number() OVER (PARTITION BY w.transformation_id
                                                    ORDER BY (SELECT d.path || '/' || f.name
                                                                FROM file f JOIN directory d USING (dir_id)
                                                               WHERE t.input_limit IS NOT NULL
                                                                 AND f.file_id = w.file_id)) END AS place
              FROM found w JOIN wanted t USING (transformation_id))
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT r.transformation_id, r.file_id
          FROM ranked r JOIN wanted t USING (transformation_id)
         WHERE (t.input_limit IS NULL OR r.place <= t.input_limit)
           AND NOT EXISTS (SELECT FROM task_input i
                            WHERE i.file_id = r.file_id AND i.transformation_id = r.transformation_id)
         ORDER BY 1, 2
        ON CONFLICT DO NOTHING
        """,
        {"ids": ids},
    ).rowcount
    notify(conn, "input")
    return taken


def more_tasks(conn: Connection, transformation_id: int, n: int) -> None:
    """Have `n` more tasks made of a step that needs no input; it ends when they are done."""
    conn.execute(
        "UPDATE transformation SET n_tasks = n_tasks + %s, open = false WHERE transformation_id = %s",
        (n, transformation_id),
    )
    notify(conn, "input")


# --- its steps -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a production as it was planned."""

    transformation_id: int
    number: int
    name: str
    state: Transformation
    type: str
    job_type: str
    group_size: int
    grouping: str
    group_by: list[str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    parent: int | None
    feeders: list[int]
    without_input: bool
    n_tasks: int

    @property
    def parents(self) -> tuple[int, ...]:
        """The steps whose products it takes."""
        return (self.parent, *self.feeders) if self.parent is not None else tuple(self.feeders)


def steps(conn: Connection, production_id: int) -> list[StepRow]:
    """The steps of a production in the order of their numbers; parent and feeders are numbers of steps."""
    return rows(
        conn,
        StepRow,
        """
        SELECT t.transformation_id, t.step::int AS number,
               regexp_replace(t.name, '^[0-9]+_Step[0-9]+_', '') AS name, t.state, t.type, t.job_type, t.group_size,
               t.grouping, t.group_by, t.query, t.body, parent.step::int AS parent,
               ARRAY(SELECT f.step::int FROM transformation f WHERE f.transformation_id = ANY (t.feeders)
                      ORDER BY f.step) AS feeders,
               t.set_query::text = 'false' AS without_input, t.n_tasks
          FROM transformation t
          LEFT JOIN transformation parent ON parent.transformation_id = t.parent_id
         WHERE t.production_id = %(id)s
         ORDER BY t.step
        """,
        id=production_id,
    )


# --- stopping and going on -------------------------------------------------------------------------------------
def stop(conn: Connection, production_id: int, why: str) -> int:
    """Stop an Active production with its transformations; returns how many of these."""
    ids = values(conn, "SELECT transformation_id FROM transformation WHERE production_id = %(id)s", id=production_id)
    stopped = [
        transformation_id
        for state in (Transformation.ACTIVE, Transformation.FLUSH)
        for transformation_id in move(conn, ids, state, Transformation.STOPPED, why)
    ]
    move(conn, [production_id], Production.ACTIVE, Production.STOPPED, why)
    return len(stopped)


def go_on(conn: Connection, production_id: int, why: str) -> int:
    """Start a Stopped production again, with what was stopped of it; returns how many transformations."""
    ids = values(conn, "SELECT transformation_id FROM transformation WHERE production_id = %(id)s", id=production_id)
    move(conn, [production_id], Production.STOPPED, Production.ACTIVE, why)
    going = move(conn, ids, Transformation.STOPPED, Transformation.ACTIVE, why)
    notify(conn, "input")
    notify(conn, "task")
    return len(going)


# --- how far they are ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ProductionSummary:
    """A production in a list, with all its steps taken together. `files` are all that they took, `processed` those
    whose task is done; `share` of their tasks that are done, None before there is any."""

    production_id: int
    name: str
    state: Production
    campaign: str
    created: datetime
    transformations: int
    completed: int
    files: int
    processed: int
    problematic: int
    tasks: int
    done: int
    failed: int
    running: int
    outputs: int
    warnings: list[str]
    group: str

    @property
    def share(self) -> float | None:
        """The part of the tasks that is done."""
        return self.done / self.tasks if self.tasks else None


def summaries(conn: Connection, only: str | None = None, limit: int = 10_000) -> list[ProductionSummary]:
    """Productions with their progress, latest first; or the one of this name. A query over counters."""
    return rows(
        conn,
        ProductionSummary,
        """
        SELECT p.production_id, p.name, p.state, p.campaign, p.created, p.warnings, p.group_name AS group,
               count(t.transformation_id) AS transformations,
               count(*) FILTER (WHERE t.state IN ('Completed', 'Archived')) AS completed,
               coalesce(sum(c.unused + c.assigned + c.processed + c.problematic), 0)::bigint AS files,
               coalesce(sum(c.processed), 0)::bigint AS processed,
               coalesce(sum(c.problematic), 0)::bigint AS problematic,
               coalesce(sum(c.ready + c.running + c.done + c.failed), 0)::bigint AS tasks,
               coalesce(sum(c.done), 0)::bigint AS done, coalesce(sum(c.failed), 0)::bigint AS failed,
               coalesce(sum(c.running), 0)::bigint AS running, coalesce(sum(c.outputs), 0)::bigint AS outputs
          FROM (SELECT * FROM production
                 WHERE %(only)s::text IS NULL OR name = %(only)s
                 ORDER BY production_id DESC
                 LIMIT %(limit)s) p
          LEFT JOIN transformation t USING (production_id)
          LEFT JOIN transformation_progress c USING (transformation_id)
         GROUP BY p.production_id, p.name, p.state, p.campaign, p.created, p.warnings, p.group_name
         ORDER BY p.production_id DESC
        """,
        only=only,
        limit=limit,
    )
