"""What is measured for a monitoring system: one query for each metric, over rows that a restart does not change.

Each query returns the values of the labels, then the number. Nothing here counts a file, a copy or a finished job: what
grows is counted where it happens. Names without our prefix are those of the ingest daemon that came before.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import Connection

from lightkeeper.store.db import value


class Kind(StrEnum):
    """COUNTER only grows, and is exported with the ending _total; GAUGE goes up and down."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    query: LiteralString


_BETWEEN_SITES: LiteralString = """
          FROM transfer_log
          JOIN storage s ON s.storage_id = source_id JOIN site a ON a.site_id = s.site_id
          JOIN storage t ON t.storage_id = target_id JOIN site b ON b.site_id = t.site_id
         GROUP BY 1, 2, 3
"""

METRICS = (
    # --- of the daemon before
    Metric(
        "n_tasks_success",
        Kind.COUNTER,
        (),
        "deliveries that were registered",
        "SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log WHERE outcome = 'success'",
    ),
    Metric(
        "n_tasks_failed",
        Kind.COUNTER,
        (),
        "deliveries that were refused",
        "SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log WHERE outcome = 'failed'",
    ),
    Metric(
        "n_tasks_cancelled",
        Kind.COUNTER,
        (),
        "deliveries that were given up before they were read",
        "SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log WHERE outcome = 'cancelled'",
    ),
    Metric(
        "n_tasks_skipped",
        Kind.COUNTER,
        (),
        "deliveries whose file was in the catalogue already",
        "SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log WHERE outcome = 'skipped'",
    ),
    Metric(
        "n_tasks_processed",
        Kind.COUNTER,
        (),
        "deliveries that ended, in whatever way",
        "SELECT coalesce(sum(n_deliveries), 0) FROM ingest_log",
    ),
    Metric(
        "n_tasks_queued",
        Kind.GAUGE,
        (),
        "deliveries that are being verified or wait for it",
        "SELECT count(*) FROM trigger WHERE state = 'Accepted'",
    ),
    Metric(
        "bytes_ingested",
        Kind.COUNTER,
        (),
        "bytes of the deliveries that were registered",
        "SELECT coalesce(sum(n_bytes), 0) FROM ingest_log WHERE outcome = 'success'",
    ),
    # --- ingest
    Metric(
        "lightkeeper_deliveries",
        Kind.COUNTER,
        ("storage", "outcome"),
        "deliveries that ended: success, skipped, failed or cancelled",
        """
        SELECT name, outcome, sum(n_deliveries) FROM ingest_log JOIN storage USING (storage_id) GROUP BY 1, 2
        """,
    ),
    Metric(
        "lightkeeper_delivered_bytes",
        Kind.COUNTER,
        ("storage",),
        "bytes of the deliveries that were registered",
        "SELECT name, sum(n_bytes) FROM ingest_log JOIN storage USING (storage_id) GROUP BY 1",
    ),
    Metric(
        "lightkeeper_quarantined",
        Kind.GAUGE,
        (),
        "refused deliveries that lie in the quarantine",
        "SELECT count(*) FROM trigger WHERE state = 'Quarantined'",
    ),
    # --- queues
    Metric(
        "lightkeeper_queue",
        Kind.GAUGE,
        ("queue",),
        "what waits or is at work in each queue",
        """
        SELECT 'deliveries', count(*) FROM trigger WHERE state = 'Accepted'
         UNION ALL SELECT 'unsettled', count(*) FROM unsettled
         UNION ALL SELECT 'transfers_waiting', count(*) FROM transfer WHERE state = 'Waiting'
         UNION ALL SELECT 'transfers_running', count(*) FROM transfer WHERE state = 'Running'
         UNION ALL SELECT 'deletions', count(*) FROM intent WHERE state = 'Approved'
         UNION ALL SELECT 'recalls', count(*) FROM recall WHERE state IN ('Waiting', 'Asked')
         UNION ALL SELECT 'rechecks', count(*) FROM recheck
         UNION ALL SELECT 'inputs', count(*) FROM pending_input
         UNION ALL SELECT 'tasks', count(*) FROM task WHERE state = 'Ready'
         UNION ALL SELECT 'jobs_waiting', count(*) FROM job_queue
         UNION ALL SELECT 'jobs_running', count(*) FROM job_alive
         UNION ALL SELECT 'jobs_completing', count(*) FROM job WHERE state = 'Completing'
        """,
    ),
    Metric(
        "lightkeeper_queue_oldest_seconds",
        Kind.GAUGE,
        ("queue",),
        "how long the first in a queue has been there",
        """
        SELECT 'deliveries', coalesce(extract(epoch FROM now() - min(accepted)), 0)
          FROM trigger WHERE state = 'Accepted'
         UNION ALL
        SELECT 'transfers', coalesce(extract(epoch FROM now() - min(created)), 0)
          FROM transfer WHERE state IN ('Waiting', 'Running')
         UNION ALL
        SELECT 'deletions', coalesce(extract(epoch FROM now() - min(created)), 0)
          FROM intent WHERE state = 'Approved'
        """,
    ),
    # --- copies
    Metric(
        "lightkeeper_copies",
        Kind.COUNTER,
        ("source", "target", "activity"),
        "copies that were made and verified, by site",
        "SELECT a.name, b.name, activity, sum(n_transfers)" + _BETWEEN_SITES,
    ),
    Metric(
        "lightkeeper_copied_bytes",
        Kind.COUNTER,
        ("source", "target", "activity"),
        "bytes of these copies",
        "SELECT a.name, b.name, activity, sum(n_bytes)" + _BETWEEN_SITES,
    ),
    Metric(
        "lightkeeper_copy_failures",
        Kind.COUNTER,
        ("source", "target", "activity"),
        "attempts to copy that failed, by site",
        "SELECT a.name, b.name, activity, sum(n_failed)" + _BETWEEN_SITES,
    ),
    Metric(
        "lightkeeper_backlog_bytes",
        Kind.GAUGE,
        ("storage",),
        "bytes that transfers are still to bring to a storage",
        "SELECT name, n_bytes FROM storage_queue JOIN storage USING (storage_id)",
    ),
    Metric(
        "lightkeeper_deletions",
        Kind.COUNTER,
        ("storage",),
        "copies that were deleted",
        "SELECT name, sum(n_files) FROM deletion_log JOIN storage USING (storage_id) GROUP BY 1",
    ),
    Metric(
        "lightkeeper_deleted_bytes",
        Kind.COUNTER,
        ("storage",),
        "bytes of these copies",
        "SELECT name, sum(n_bytes) FROM deletion_log JOIN storage USING (storage_id) GROUP BY 1",
    ),
    # --- storages
    Metric(
        "lightkeeper_storage_files",
        Kind.GAUGE,
        ("storage", "site", "media"),
        "copies on a storage",
        """
        SELECT s.name, site.name, media::text, coalesce(n_files, 0)
          FROM storage s JOIN site USING (site_id) LEFT JOIN storage_count USING (storage_id)
        """,
    ),
    Metric(
        "lightkeeper_storage_bytes",
        Kind.GAUGE,
        ("storage", "site", "media"),
        "bytes of the copies on a storage",
        """
        SELECT s.name, site.name, media::text, coalesce(n_bytes, 0)
          FROM storage s JOIN site USING (site_id) LEFT JOIN storage_count USING (storage_id)
        """,
    ),
    Metric(
        "lightkeeper_storage_quota_bytes",
        Kind.GAUGE,
        ("storage",),
        "bytes that may be kept on a storage; not there without a quota",
        "SELECT name, quota FROM storage WHERE quota IS NOT NULL",
    ),
    Metric(
        "lightkeeper_storage_up",
        Kind.GAUGE,
        ("storage", "site"),
        "whether a storage answers: 1 good, 0.5 degraded, 0 banned; not there when it is given up",
        """
        SELECT s.name, site.name, CASE n.health WHEN 'Good' THEN 1 WHEN 'Degraded' THEN 0.5 ELSE 0 END
          FROM storage s JOIN site USING (site_id) JOIN storage_now n USING (storage_id)
         WHERE s.enabled
        """,
    ),
    Metric(
        "lightkeeper_dark_files",
        Kind.GAUGE,
        ("storage",),
        "files on a storage that the catalogue does not know, as the last comparison found them",
        "SELECT name, n_dark FROM comparison JOIN storage USING (storage_id)",
    ),
    # --- catalogue and nights
    Metric("lightkeeper_files", Kind.GAUGE, (), "files in the catalogue", "SELECT sum(n_files) FROM set_count"),
    Metric("lightkeeper_bytes", Kind.GAUGE, (), "bytes of these files", "SELECT sum(n_bytes) FROM set_count"),
    Metric(
        "lightkeeper_nights",
        Kind.GAUGE,
        ("state",),
        "nights that are open, and those that are closed",
        "SELECT state::text, count(*) FROM night GROUP BY 1",
    ),
    Metric(
        "lightkeeper_open_night_files",
        Kind.GAUGE,
        ("what",),
        "raw files of the nights that are open: received, on site, preserved, freed",
        """
        SELECT w.what, coalesce(sum(w.n), 0)
          FROM (SELECT c.* FROM night_count c JOIN night n USING (night_id)
                 WHERE n.state = 'Open' AND coalesce(c.level, 0) = 0) c
         CROSS JOIN LATERAL (VALUES ('received', n_files), ('on_site', n_on_site), ('preserved', n_preserved),
                                    ('freed', n_freed)) AS w (what, n)
         GROUP BY 1
        """,
    ),
    Metric(
        "lightkeeper_quality_out_of_range",
        Kind.GAUGE,
        ("figure",),
        "files of open nights whose quality figure is out of its range",
        """
        SELECT q.name, coalesce(sum(n_below + n_above) FILTER (WHERE n.state = 'Open'), 0)
          FROM quality_figure q LEFT JOIN quality_count USING (figure_id) LEFT JOIN night n USING (night_id)
         WHERE q.key <> ''
         GROUP BY 1
        """,
    ),
    # --- work
    Metric(
        "lightkeeper_transformations",
        Kind.GAUGE,
        ("state",),
        "transformations in each state",
        "SELECT state::text, count(*) FROM transformation GROUP BY 1",
    ),
    Metric(
        "lightkeeper_tasks_failed",
        Kind.GAUGE,
        (),
        "tasks that failed in every attempt",
        "SELECT count(*) FROM task WHERE state = 'Failed'",
    ),
    Metric(
        "lightkeeper_pilots",
        Kind.GAUGE,
        ("site", "state"),
        "pilots that wait to run or run",
        """
        SELECT site.name, state::text, count(*) FROM pilot JOIN site USING (site_id)
         WHERE state IN ('Submitted', 'Running') GROUP BY 1, 2
        """,
    ),
    Metric(
        "lightkeeper_remedies",
        Kind.COUNTER,
        (),
        "what was remedied without a person",
        "SELECT coalesce(max(remedy_id), 0) FROM remedy",
    ),
    # --- the database
    Metric(
        "lightkeeper_database_bytes",
        Kind.GAUGE,
        (),
        "size of the database",
        "SELECT pg_database_size(current_database())",
    ),
    Metric(
        "lightkeeper_database_connections",
        Kind.GAUGE,
        (),
        "connections to the database",
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()",
    ),
    Metric(
        "lightkeeper_database_transactions",
        Kind.COUNTER,
        ("end",),
        "transactions by how they ended, as the server counts them",
        """
        SELECT 'commit', xact_commit FROM pg_stat_database WHERE datname = current_database()
         UNION ALL
        SELECT 'rollback', xact_rollback FROM pg_stat_database WHERE datname = current_database()
        """,
    ),
)


def read(conn: Connection, metric: Metric) -> list[tuple[Any, ...]]:
    """What a metric is now: values of its labels, then its number."""
    return [(*line[:-1], float(line[-1] or 0)) for line in conn.execute(metric.query).fetchall()]


def set_patience(conn: Connection, milliseconds: int) -> None:
    """No statement of this transaction takes longer: what takes longer is not worth a figure."""
    conn.execute("SELECT set_config('statement_timeout', %s, true)", (str(milliseconds),))


def created(conn: Connection) -> datetime:
    """Since when everything is counted."""
    return value(conn, "SELECT min(applied) FROM migration")
