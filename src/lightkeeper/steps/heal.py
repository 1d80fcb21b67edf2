"""Step 8: what is overdue or abandoned is found and remedied; transformations end on their own.

Before: anything may have died.    After: it goes on, or a sentence says what a person must decide.
Worker: look_after_work whenever tasks change and every 5 s; release_abandoned every 5 s. Safe to run twice. Decisions
are pure (`domain/healing.py`); each remedy is a row that reports show.
"""

import time

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.healing import Remedy, remedy
from lightkeeper.domain.states import Job, Pilot, Production, Transfer, Transformation
from lightkeeper.steps.run import JOBS
from lightkeeper.steps.transfer import ARRIVALS
from lightkeeper.store import db, recovery, stage, topology, transfers, transitions, triggers, work

TEMPORARY_FOR = 3600.0
"""Seconds that a temporary file is left alone, whoever's it is."""


def look_after_work(ctx: Context) -> int:
    """Flush and complete transformations and productions that are ready for it; return how many moved."""
    moved = 0
    with ctx.db.transaction() as conn:
        for transformation_id in work.with_input(conn):
            work.make_tasks(conn, transformation_id)  # whole groups first: only what is left can need a flush
            stage.wish_for_tasks(conn, transformation_id)
        for facts in work.facts(conn):
            what, why = remedy(facts)
            if what is Remedy.FLUSH and work.flush(conn, facts.transformation_id, why):
                transitions.remedied(
                    conn, "transformation", [facts.transformation_id], "flushed: smaller groups allowed", why
                )
                moved += 1
            if what is Remedy.COMPLETE:
                done = transitions.move(
                    conn, [facts.transformation_id], Transformation.ACTIVE, Transformation.COMPLETED, why
                )
                moved += len(done)
        finished = work.finished_productions(conn)
        moved += len(
            transitions.move(
                conn, finished, Production.ACTIVE, Production.COMPLETED, "every transformation is Completed"
            )
        )
        if moved:
            db.notify(conn, "task")  # a completed parent lets its child be flushed
    return moved


def release_abandoned(ctx: Context) -> int:
    """Take back what dead pilots and workers held; return how much."""
    return _lost_pilots(ctx) + _silent_jobs(ctx) + _abandoned_transfers(ctx)


def _lost_pilots(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        pilots = work.live_pilots(conn)
    running: set[str] = set()
    for name in {p.executor for p in pilots} & ctx.executors.keys():
        handles = [p.handle for p in pilots if p.handle and p.executor == name]
        try:
            running |= ctx.executors[name].running(handles)
        except LightkeeperError as error:  # it says nothing about its pilots: their silence will
            ctx.log.warning("executor does not answer", executor=name, why=error.message)
            running |= set(handles)
    lost = [
        pilot
        for pilot in pilots
        if (pilot.handle is not None and pilot.handle not in running)
        or pilot.silent
        > (ctx.settings.pilot_silence if pilot.state is Pilot.RUNNING else ctx.settings.pilot_silence * 5)
        or (pilot.handle is None and pilot.silent > ctx.settings.pilot_silence)
    ]
    for pilot in lost:
        with ctx.db.transaction() as conn:
            why = "its process is gone" if pilot.handle not in running else f"silent for {pilot.silent}"
            if not transitions.move(conn, [pilot.pilot_id], pilot.state, Pilot.LOST, why):
                continue
            jobs = work.jobs_on_pilots(conn, [pilot.pilot_id])
            again, over = work.failed(
                conn,
                jobs,
                Job.RUNNING,
                "Pilot lost",
                f"pilot {pilot.name} {why}",
                None,
                ctx.settings.retry_after,
            )
            if jobs:
                what = f"pilot {pilot.name} was lost; its work goes to another pilot"
                transitions.remedied(conn, "pilot", [pilot.pilot_id], what, why)
        ctx.log.warning("pilot lost", pilot=pilot.name, why=why, jobs=jobs, again=again, given_up=over)
    return len(lost)


def _silent_jobs(ctx: Context) -> int:
    """Jobs whose pilot lives but speaks of them no more."""
    with ctx.db.transaction() as conn:
        jobs = work.silent_jobs(conn, ctx.settings.pilot_silence * 2)
        if jobs:
            again, _ = work.failed(
                conn,
                jobs,
                Job.RUNNING,
                "Job silent",
                "its pilot does not mention it",
                None,
                ctx.settings.retry_after,
            )
            transitions.remedied(conn, "task", again, "the task gets another attempt", "its job fell silent")
    return len(jobs)


def _abandoned_transfers(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        abandoned = transfers.abandoned_transfers(conn)
        _take_back(conn, abandoned)
    return len(abandoned)


def clear_temporaries(ctx: Context) -> int:
    """Remove what attempts that ended left in the temporary areas of storages; return how many files.

    Only what is older than an hour and of no attempt that is still at it: an attempt that began after we looked is
    younger than that.
    """
    with ctx.db.transaction() as conn:
        if recovery.forbids_deletion(conn):
            return 0  # an attempt that the catalogue does not know may be at it
        elements = [s for s in topology.storages(conn) if s.deletable]
        kept = {str(job_id) for job_id in work.live_jobs(conn)} | transfers.live_arrivals(conn)
    removed = 0
    for element in elements:
        storage = ctx.storage(element)
        try:
            for area in (JOBS, ARRIVALS):
                for entry in storage.list(area):
                    attempt = entry.path.removeprefix(f"{area}/").partition("/")[0]
                    if attempt not in kept and entry.modified < time.time() - TEMPORARY_FOR:
                        removed += storage.delete(entry.path)
        except LightkeeperError as error:
            ctx.log.warning("temporary area not cleared", storage=element.name, why=error.message)
    if removed:
        ctx.log.info("temporaries removed", files=removed)
    return 0  # nothing waits for it: the next round is soon enough


def after_restart(ctx: Context) -> None:
    """For the only program on its database, just started: nobody else holds anything, so take all of it back at once
    instead of waiting for leases to end. Pilots keep their jobs: they may still run."""
    with ctx.db.transaction() as conn:
        triggers.release_leases(conn)
        stage.release_turns(conn)
        running = transfers.running_transfers(conn)
        _take_back(conn, running)
    if running:
        ctx.log.info("taken back after a restart", transfers=len(running))


def _take_back(conn: db.Connection, transfer_ids: list[int]) -> None:
    why = "its worker is gone"
    again = transitions.move(conn, transfer_ids, Transfer.RUNNING, Transfer.WAITING, why)
    transitions.remedied(conn, "transfer", again, "the transfer is made again", why)
    db.notify(conn, "transfer")
