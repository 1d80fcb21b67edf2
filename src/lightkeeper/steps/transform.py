"""Step 5: files that match become tasks, in sets, and every task that is due gets a job.

Before: produce.py started transformations; ingest, transfer and run bring files.    After: run.py hands jobs to pilots.
Worker: whenever input or tasks are announced. Safe to run twice: a file is in one task per transformation.
"""

from lightkeeper.context import Context
from lightkeeper.store import stage, work


def make_tasks(ctx: Context) -> int:
    """Group waiting files of every transformation into tasks, and have those staged that lie on tape only; return how
    many tasks were made."""
    with ctx.db.transaction() as conn:
        transformations = work.with_input(conn)
    made = 0
    for transformation_id in transformations:
        with ctx.db.transaction() as conn:
            made += work.make_tasks(conn, transformation_id)
            stage.wish_for_tasks(conn, transformation_id)
    if made:
        ctx.log.info("tasks made", tasks=made, transformations=transformations)
    return made


def submit_jobs(ctx: Context) -> int:
    """Queue the next attempt of every task that is due; return how many."""
    with ctx.db.transaction() as conn:
        return work.submit_jobs(conn, limit=10_000)
