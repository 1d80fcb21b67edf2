"""Step 5: files that match become tasks, in sets, and every task that is due gets a job.

Before: produce.py started transformations; ingest, transfer and run bring files.    After: run.py hands jobs to pilots.
Worker: whenever input or tasks are announced. Safe to run twice: a file is in one task per transformation.
"""

import time
from datetime import timedelta

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.grouping import refuse_wrong, site_of
from lightkeeper.domain.states import Transformation
from lightkeeper.store import companions, jobs, stage, work

AT_ONCE = 100_000
"""New files that are looked at in one transaction."""
PATIENCE = 0.5
"""Seconds: when a look takes longer, the next one waits ten times as long, so that what comes then comes together."""


def make_tasks(ctx: Context) -> int:
    """Put waiting files of every transformation into tasks, make those that need no file, and have inputs staged that
    lie on tape only; return how many tasks were made."""
    with ctx.db.transaction() as conn:
        made = work.add_tasks_without_input(conn)
        transformations = work.with_input(conn)
    for transformation_id in transformations:
        try:
            made += _group(ctx, transformation_id)
        except LightkeeperError as error:  # one that is wrong does not stop the others
            ctx.log.error("no tasks made", transformation=transformation_id, why=error.message)
            with ctx.db.transaction() as conn:
                work.not_before(conn, transformation_id, timedelta(minutes=1))
    if made:
        ctx.log.info("tasks made", tasks=made, transformations=transformations)
    return made


def _group(ctx: Context, transformation_id: int) -> int:
    """Look at a transformation's new files, part by part; how many tasks they made with those that were left."""
    made, began = 0, time.monotonic()
    while True:
        with ctx.db.transaction() as conn:
            order = work.hold(conn, transformation_id)
            if order is None:
                return made
            more, files = work.look_at_input(conn, order, AT_ONCE)
            flush = order.state is Transformation.FLUSH and not more
            groups = list(ctx.grouping(order.grouping).groups(files, order.group_size, flush=flush))
            refuse_wrong(groups, files, flush=flush)
            work.add_tasks(conn, order, [(site_of(group), [file.file_id for file in group]) for group in groups])
            made += len(groups)
            if groups:
                stage.wish_for_tasks(conn, transformation_id)
            if flush:
                work.flushed(conn, transformation_id, len(groups))
            took = time.monotonic() - began
            if not more:
                if took > PATIENCE and not groups:
                    work.not_before(conn, transformation_id, timedelta(seconds=min(10 * took, 60)))
                return made


def look_again(ctx: Context) -> int:
    """Find files that wait for a copy although one is there; return how many."""
    with ctx.db.transaction() as conn:
        return work.look_again(conn)


def submit_jobs(ctx: Context) -> int:
    """Queue the next attempt of every task that is due, and that has what all of its transformation need; return how
    many."""
    with ctx.db.transaction() as conn:
        companions.take_what_parents_made(conn)
        return jobs.submit_jobs(conn, limit=10_000)
