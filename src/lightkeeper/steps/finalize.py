"""Beside the walk: what brings a transformation to its end when it does not end by itself, told first and then done.

Before: the keeper did what it may.    After: it is Completed in a moment, or says what is missing. Called by the API;
safe to repeat. What moves files instead of processing them is finalized in operations.py.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.errors import Conflict
from lightkeeper.domain.finalizing import BY_ITSELF, FINALIZE, Stand
from lightkeeper.domain.sharing import suits
from lightkeeper.domain.states import Transformation
from lightkeeper.steps import files, run
from lightkeeper.steps.transformations import one, summary
from lightkeeper.store import catalog, db, inputs, jobs, work
from lightkeeper.store import stage as recalls
from lightkeeper.store.reports import TransformationSummary


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is done about files and tasks that stand so; `told` when it was done."""

    stand: Stand
    files: int
    tasks: int
    what: str
    told: str = ""


def finalize(ctx: Context, given: str, *, apply: bool = False) -> list[Remedy]:
    """What brings a transformation to its end, for each stand in which files and tasks are; with `apply` it is done."""
    transformation_id = one(ctx, given)
    with ctx.db.transaction() as conn:
        this = summary(conn, transformation_id)
        if this.status not in (Transformation.ACTIVE, Transformation.FLUSH):
            raise Conflict(
                f"transformation {this.id} is {this.status}",
                hint="nothing is left to be done" if this.done else "set it Active first",
            )
        found = [(Stand(line.stand), line.files, line.tasks) for line in inputs.unfinished(conn, this.id)]
        lane = next((lane for lane in jobs.lanes(conn) if lane.transformation_id == this.id), None)
        if lane is not None and not any(suits(lane, site.offer) for site in jobs.computing(conn)):
            found = [(Stand.NO_PILOT if stand is Stand.READY else stand, *rest) for stand, *rest in found]
    told = _apply(ctx, this, {stand for stand, _, _ in found}) if apply else {}
    return [
        Remedy(stand, n_files, n_tasks, FINALIZE.get(stand) or BY_ITSELF[stand], told.get(stand, ""))
        for stand, n_files, n_tasks in sorted(found, key=lambda line: (line[0] not in FINALIZE, line[0]))
    ]


def _apply(ctx: Context, this: TransformationSummary, stands: set[Stand]) -> dict[Stand, str]:
    told: dict[Stand, str] = {}
    why = f"transformation {this.id} was finalized"
    if stands & {Stand.LOST, Stand.LOST_INPUT}:
        told |= dict.fromkeys((Stand.LOST, Stand.LOST_INPUT), _give_up_lost(ctx, this, why))
    if stands & {Stand.FAILED, Stand.BAD_INPUT}:
        with ctx.db.transaction() as conn:
            catalog.recheck(conn, inputs.suspect_inputs(conn, this.id))
            again = work.retry_failed(conn, this.id)
            recalls.wish_for_tasks(conn, this.id)
            db.notify(conn, "recheck")
        told |= dict.fromkeys((Stand.FAILED, Stand.BAD_INPUT), f"{again} tasks get another attempt")
    if Stand.LEFT in stands or Stand.LOST_INPUT in stands:
        with ctx.db.transaction() as conn:
            flushed = work.flush(conn, this.id, why)
        told[Stand.LEFT] = "tasks of fewer files are made" if flushed else "it is being flushed already"
    if Stand.COMPLETING in stands:
        with ctx.db.transaction() as conn:
            reported = inputs.completing(conn, this.id)
        accepted = run.accept(ctx, *reported)
        told[Stand.COMPLETING] = f"{accepted} of {len(reported)} are accepted"
    ctx.log.info("transformation finalized", transformation=this.id, told={str(s): t for s, t in told.items()})
    return told


def _give_up_lost(ctx: Context, this: TransformationSummary, why: str) -> str:
    """Take out files of which no copy is left; those that may be are Removed, so that everybody knows."""
    with ctx.db.transaction() as conn:
        work.hold(conn, this.id)
        file_ids, task_ids = inputs.lost(conn, this.id)
        inputs.dissolve(conn, this.id, task_ids, f"no copy of an input is left: {why}")
        inputs.set_aside(conn, this.id, file_ids, "Removed", f"no copy was left when {why}")
        lfns = [file.lfn for file in catalog.files_by_id(conn, file_ids)]
    changed = files.remove(ctx, lfns, why)
    kept = f"; {len(changed.failed)} stay as they are: {changed.failed[0].error}" if changed.failed else ""
    return f"{len(file_ids)} files are taken out, {len(changed.done)} of them Removed{kept}"
