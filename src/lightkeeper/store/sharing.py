"""Priorities and shares of the processors."""

from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.store.db import rows


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What has a share, and how many processors its jobs have now."""

    kind: str
    name: str
    share: float
    running: int
    waiting: int


def found(conn: Connection) -> list[ShareRow]:
    """Every group, production and job type that has a share of its own, or jobs that wait or run."""
    return rows(
        conn,
        ShareRow,
        """
        WITH lane AS (
            SELECT p.group_name, p.name, t.job_type, c.on_pilots * t.processors AS running, c.queued AS waiting
              FROM transformation_progress c
              JOIN transformation t USING (transformation_id)
              JOIN production p USING (production_id)
             WHERE c.queued > 0 OR c.on_pilots > 0),
        used AS (
            SELECT 'group' AS kind, group_name AS name, running, waiting FROM lane
             UNION ALL
            SELECT 'production', name, running, waiting FROM lane
             UNION ALL
            SELECT 'job type', job_type, running, waiting FROM lane)
        SELECT kind, name, coalesce(w.share, 1)::float AS share, coalesce(sum(running), 0)::bigint AS running,
               coalesce(sum(waiting), 0)::bigint AS waiting
          FROM used FULL JOIN work_share w USING (kind, name)
         GROUP BY kind, name, w.share
         ORDER BY array_position(ARRAY['group', 'production', 'job type'], kind), name
        """,
    )


def put(conn: Connection, kind: str, name: str, share: float) -> None:
    """Have it this share; 1 is what all have without a row."""
    conn.execute(
        """
        INSERT INTO work_share (kind, name, share) VALUES (%s, %s, %s)
        ON CONFLICT (kind, name) DO UPDATE SET share = excluded.share
        """,
        (kind, name, share),
    )


def set_priority(conn: Connection, transformation_id: int, priority: int) -> None:
    """Jobs of the transformation go earlier, or later, also those that wait already."""
    conn.execute("UPDATE transformation SET priority = %s WHERE transformation_id = %s", (priority, transformation_id))
