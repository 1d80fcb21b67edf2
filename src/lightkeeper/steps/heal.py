"""Step 8: what is overdue or abandoned is found and remedied; transformations end on their own.

Before: anything may have died.    After: it goes on, or a sentence says what a person must decide (tell.py sends it).
Worker: look_after_work whenever tasks change, and at all as often as the topology says; release_abandoned every 2 s;
sweep (contradictions.py) besides. Safe to run twice. Decisions are pure (`domain/healing.py`); each remedy is a row
that reports show, each decision that a person must make is one too.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import psycopg

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.healing import Decision, Remedy, TransformationFacts, decide
from lightkeeper.domain.states import Job, Pilot, Production, Transfer, Transformation
from lightkeeper.steps import contradictions, transform
from lightkeeper.steps.contradictions import Found
from lightkeeper.steps.run import JOBS
from lightkeeper.steps.transfer import ARRIVALS
from lightkeeper.store import db, healing, jobs, recovery, stage, topology, transfers, transitions, triggers, work
from lightkeeper.store.db import Connection
from lightkeeper.store.healing import Concern

TEMPORARY_FOR = 3600.0
"""Seconds that a temporary file is left alone, whoever's it is."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A transformation that was looked at: what is decided, and whether that was done."""

    of: TransformationFacts
    decision: Decision
    done: bool = False


def every(ctx: Context) -> float:
    """Seconds after which all is looked at again when nothing has changed, as the topology says now."""
    with ctx.db.transaction() as conn:
        return healing.keeper(conn).every.total_seconds()


# --- transformations -----------------------------------------------------------------------------------------------
def look_after_work(ctx: Context) -> int:
    """Flush and complete transformations and productions that are ready for it; return how many moved."""
    looked = look(ctx)
    return sum(one.done for one in looked) + _end_productions(ctx)


def look(ctx: Context, *, dry_run: bool = False) -> list[Looked]:
    """Look at every Active transformation and do what is decided; with `dry_run` nothing is done.

    Each is a transaction of its own, several at once: one that cannot be looked after stops no other, and is told.
    """
    if not dry_run:
        transform.make_tasks(ctx)  # whole groups first: only what is left can need a flush
    with ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
        found = healing.facts(conn, [state for state in keeper.states if state is Transformation.ACTIVE])
    looked = [Looked(facts, decide(facts, keeper.of(facts.type))) for facts in found]
    if dry_run:
        return looked
    to_do = [one for one in looked if one.decision.what in (Remedy.FLUSH, Remedy.COMPLETE)]
    done: dict[int, Looked] = {}
    broken: list[Concern] = []
    if to_do:
        with ThreadPoolExecutor(min(keeper.threads, len(to_do)), "keeper") as pool:
            for one, trouble in pool.map(partial(_do, ctx), to_do):
                done[one.of.transformation_id] = one
                if trouble:
                    why = f"transformation {one.of.transformation_id} cannot be looked after: {trouble}"
                    broken.append(Concern(one.of.transformation_id, one.of.type, why))
    with ctx.db.transaction() as conn:
        _note(conn, looked, broken)
    return [done.get(one.of.transformation_id, one) for one in looked]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of the keeper did, or would do: transformations that do not simply wait, contradictions, and how
    much was taken back from whoever is gone."""

    transformations: list[Looked]
    contradictions: list[Found]
    taken_back: int = 0


def round_now(ctx: Context, *, dry_run: bool = False) -> Round:
    """Look at everything once, now; with `dry_run` only say what would be done, and why."""
    found = contradictions.look(ctx)
    if dry_run:
        return Round(look(ctx, dry_run=True), found)
    taken_back = release_abandoned(ctx)
    contradictions.sweep_all(ctx)
    looked = look(ctx)
    _end_productions(ctx)
    return Round(looked, found, taken_back)


def _do(ctx: Context, one: Looked) -> tuple[Looked, str]:
    """Do what was decided about one transformation; whether it was done, and what went wrong with it."""
    try:
        with ctx.db.transaction() as conn:
            done = _flush(conn, one) if one.decision.what is Remedy.FLUSH else _complete(conn, one)
    except (LightkeeperError, psycopg.Error) as error:
        why = " ".join(str(error).split())
        ctx.log.error("transformation not looked after", transformation=one.of.transformation_id, why=why)
        return one, why
    if done:
        ctx.log.info(
            str(one.decision.what), transformation=one.of.transformation_id, name=one.of.name, why=one.decision.why
        )
    return Looked(one.of, one.decision, done), ""


def _flush(conn: Connection, one: Looked) -> bool:
    if not work.flush(conn, one.of.transformation_id, one.decision.why):
        return False
    files = "1 file" if one.of.ready == 1 else f"{one.of.ready} files"
    what = f"flushed: groups smaller than {one.of.group_size} are made of {files}"
    transitions.remedied(conn, "transformation", [one.of.transformation_id], what, one.decision.why)
    return True


def _complete(conn: Connection, one: Looked) -> bool:
    """Complete it if that still holds: what was decided on may have changed since."""
    now = healing.facts(conn, only=one.of.transformation_id)
    if not now or decide(now[0]).what is not Remedy.COMPLETE:
        return False
    ids = [one.of.transformation_id]
    if not transitions.move(conn, ids, Transformation.ACTIVE, Transformation.COMPLETED, one.decision.why):
        return False
    transitions.remedied(conn, "transformation", ids, "completed", one.decision.why)
    db.notify(conn, "task")  # a child can be flushed now
    return True


def _note(conn: Connection, looked: Sequence[Looked], broken: Sequence[Concern]) -> None:
    """Keep what a person must decide, told once for as long as it holds."""
    wanted = [
        Concern(
            one.of.transformation_id,
            one.of.type,
            f"transformation {one.of.transformation_id} ({one.of.name}): {one.decision.why}",
            one.decision.choices,
        )
        for one in looked
        if one.decision.what is Remedy.DECIDE
    ]
    new = healing.put_concerns(conn, "transformation", "decide", wanted)
    new += healing.put_concerns(conn, "transformation", "broken", broken)
    if new:
        db.notify(conn, "news")


def _end_productions(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        finished = work.finished_productions(conn)
        return len(
            transitions.move(
                conn, finished, Production.ACTIVE, Production.COMPLETED, "every transformation is Completed"
            )
        )


# --- what was left behind ------------------------------------------------------------------------------------------
def release_abandoned(ctx: Context) -> int:
    """Take back what dead pilots and workers held; return how much."""
    return _lost_pilots(ctx) + _silent_jobs(ctx) + _abandoned_transfers(ctx)


def _lost_pilots(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        pilots = jobs.live_pilots(conn)
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
            on_it = jobs.jobs_on_pilots(conn, [pilot.pilot_id])
            told = f"pilot {pilot.name} {why}"
            again, over = _failed(ctx, conn, on_it, "Pilot lost", told)
            if on_it:
                what = f"pilot {pilot.name} was lost; its work goes to another pilot"
                transitions.remedied(conn, "pilot", [pilot.pilot_id], what, why)
        ctx.log.warning("pilot lost", pilot=pilot.name, why=why, jobs=on_it, again=again, given_up=over)
    return len(lost)


def _silent_jobs(ctx: Context) -> int:
    """Jobs whose pilot lives but speaks of them no more."""
    with ctx.db.transaction() as conn:
        silent = jobs.silent_jobs(conn, ctx.settings.pilot_silence * 2)
        if silent:
            again, _ = _failed(ctx, conn, silent, "Job silent", "its pilot does not mention it")
            transitions.remedied(conn, "task", again, "the task gets another attempt", "its job fell silent")
    return len(silent)


def _failed(
    ctx: Context, conn: Connection, job_ids: Sequence[int], minor: str, told: str
) -> tuple[list[int], list[int]]:
    """These Running jobs failed; (tasks to be tried again, tasks that failed)."""
    return jobs.failed(conn, job_ids, Job.RUNNING, minor, told, None, ctx.settings.retry_after, healing.keeper(conn))


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
        kept = {str(job_id) for job_id in jobs.live_jobs(conn)} | transfers.live_arrivals(conn)
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
