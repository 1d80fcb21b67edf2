"""Beside the walk: what people ask and change about transformations, their files, tasks and jobs.

Called by the API; safe to repeat. States change along `domain/states.py`, each time with a reason.
Worker: clean_due as soon as one is to be cleaned, fold_counts every second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from lightkeeper.context import Context
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, nearest
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.domain.operations import Kind as OperationKind
from lightkeeper.domain.sharing import SHARES
from lightkeeper.domain.states import Job, Task, Transformation, allowed
from lightkeeper.steps import files, operations
from lightkeeper.store import catalog, db, inputs, jobs, reports, sharing, transitions, work
from lightkeeper.store import stage as recalls
from lightkeeper.store.db import Connection
from lightkeeper.store.inputs import InputFile, TaskLine
from lightkeeper.store.reports import HistoryLine, JobLine, TransformationSummary

PAGE = 1000
"""Files that are removed in one transaction."""
TAKING = (Transformation.ACTIVE, Transformation.FLUSH, Transformation.STOPPED, Transformation.COMPLETED)
"""States in which a transformation may be given files."""
FILE_STATES = ("Unused", "Processed", "Problematic", "Removed")
"""What a person may make of a file. Assigned and Processed by a task come from the task."""


# --- looking -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Line:
    """A transformation in a list, or an operation or order of staging, which have a name and no number."""

    id: int | str
    production: str
    name: str
    step: int | None
    parent: int | None
    type: str
    status: str
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
    flushes: int = 0


OPERATIONS = {OperationKind.MOVE: "Moving", OperationKind.REPLICATE: "Replication", OperationKind.DELETE: "Removal"}
"""Types of transformations that move files instead of processing them: see operations.py, and stage.py for Staging."""


def find(
    ctx: Context,
    *,
    production: str | None = None,
    names: Sequence[str] = (),
    status: str | None = None,
    type_: str | None = None,
    all_: bool = False,
) -> list[Line]:
    """Transformations with their progress, then operations and orders of staging. Those that are over for good are left
    out, unless asked for."""
    with ctx.db.transaction() as conn:
        lines = [
            Line(t.id, t.production, t.name, t.step, t.parent, t.type, str(t.status), t.files, t.unused, t.assigned,
                 t.processed, t.problematic, t.tasks, t.done, t.failed, t.failed_attempts, t.outputs, t.flushes)
            for t in reports.transformations(conn, production)
        ]  # fmt: skip
    if production is None:
        lines += [_operation_line(one) for one in operations.find(ctx)]
        with ctx.db.transaction() as conn:
            lines += [_stage_line(order) for order in recalls.orders(conn, None)]
    hidden = () if all_ or status else ("Archived", "Deleted")
    return [
        line
        for line in lines
        if line.status not in hidden
        and (status is None or line.status == status)
        and (type_ is None or line.type == type_)
        and (not names or any(text == str(line.id) or fnmatchcase(line.name, text) for text in names))
    ]


def _operation_line(one: operations.Progress) -> Line:
    n = {stand: size.files for stand, size in one.stands.items()}
    done, out = n.pop(operations.Stand.DONE, 0), n.pop(operations.Stand.TAKEN_OUT, 0)
    odd = sum(n.pop(stand, 0) for stand in (operations.Stand.FAILED, operations.Stand.DAMAGED, operations.Stand.LOST))
    return Line(one.name, "", one.name, None, None, OPERATIONS[one.kind], str(one.state), one.n_files - out, 0,
                sum(n.values()), done, odd, one.n_files, done, odd, 0, 0)  # fmt: skip


def _stage_line(order: recalls.Order) -> Line:
    status = "Active" if order.ended is None else "Completed"
    name = f"stage-{order.order_id}"
    return Line(name, "", name, None, None, "Staging", status, order.files, 0, order.waiting + order.asked, order.there,
                order.failed, order.files, order.there, order.failed, 0, 0)  # fmt: skip


def resolve(ctx: Context, given: Sequence[str]) -> list[int]:
    """Transformations by number, by name, by the name of their production, or by either with * and ?; each once."""
    found: dict[int, None] = {}
    with ctx.db.transaction() as conn:
        known = {t.id for t in reports.transformations(conn)} if any(text.isdigit() for text in given) else set[int]()
        for text in given:
            if text.isdigit():
                if int(text) not in known:
                    raise NotFound(f"there is no transformation {text}", hint="lightkeeper transformation list")
                found[int(text)] = None
                continue
            ids = inputs.named(conn, _like(text))
            if not ids:
                hint = nearest(text, inputs.names(conn)) or "lightkeeper transformation list"
                raise NotFound(f"no transformation is called '{printable(text)}'", hint=hint)
            found |= dict.fromkeys(ids)
    return list(found)


def one(ctx: Context, given: str) -> int:
    """The one transformation that is meant."""
    found = resolve(ctx, [given])
    if len(found) > 1:
        raise Invalid(f"'{printable(given)}' means {len(found)} transformations", hint="name one, or give its number")
    return found[0]


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


def input_files(
    ctx: Context,
    transformation_id: int,
    state: str | None = None,
    task_state: str | None = None,
    limit: int = 1000,
) -> list[InputFile]:
    """Where files of a transformation stand."""
    _checked(state, (*FILE_STATES, "Assigned"), "state of a file")
    _checked(task_state, [str(s) for s in Task], "state of a task")
    with ctx.db.transaction() as conn:
        summary(conn, transformation_id)
        return inputs.files(conn, transformation_id, state, task_state, limit=limit)


def tasks(ctx: Context, transformation_id: int, state: str | None = None, limit: int = 1000) -> list[TaskLine]:
    """Tasks of a transformation with their latest job."""
    _checked(state, [str(s) for s in Task], "state of a task")
    with ctx.db.transaction() as conn:
        summary(conn, transformation_id)
        return inputs.tasks(conn, transformation_id, Task(state) if state else None, limit)


# --- the transformation --------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Changed:
    """Transformations that were changed, in words, and those that were not, with the reason."""

    done: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    failed: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def set_status(
    ctx: Context, given: Sequence[str], state: str, why: str, *, kill: bool = False, dry_run: bool = False
) -> Changed:
    """Move transformations to a state. Stopped: nothing new begins, and with `kill` what runs is ended too; Active: it
    goes on; Flush: tasks of fewer files are made; Completed: it ends as it is; Archived: lists leave it out."""
    if not state or state not in [str(s) for s in Transformation]:
        raise Invalid(
            f"'{printable(state)}' is no state of a transformation",
            hint=nearest(state, [str(s) for s in Transformation]),
        )
    target = Transformation(state)
    if target in (Transformation.CLEANING, Transformation.CLEANED, Transformation.DELETED):
        raise Invalid(f"{target} is not set by hand", hint="lightkeeper transformation clean, then delete")

    def change(conn: Connection, one: TransformationSummary) -> str:
        if one.status is target and not (kill and target is Transformation.STOPPED):
            return f"it is {target} already"
        if target is Transformation.FLUSH:
            if not work.flush(conn, one.id, why):
                raise Conflict(f"it is {one.status}", hint="only what is Active can be flushed")
            return "tasks of fewer files are made"
        _move(conn, one, target, why)
        ended = 0
        if (target is Transformation.STOPPED and kill) or target is Transformation.COMPLETED:
            killed, _ = inputs.kill(conn, inputs.live_jobs(conn, one.id), why)
            ended = len(killed)
        if target is Transformation.COMPLETED:
            inputs.cancel_all(conn, one.id, why)
        for topic in ("input", "task"):
            db.notify(conn, topic)
        return f"{one.status} → {target}" + (f", {ended} jobs ended" if ended else "")

    return _each(ctx, given, change, dry_run)


def clean(ctx: Context, given: Sequence[str], why: str, *, dry_run: bool = False) -> Changed:
    """Have the outputs of transformations removed, and what is still open cancelled. Outputs that a task reads or will
    read are not: clean what made these tasks first."""

    def change(conn: Connection, one: TransformationSummary) -> str:
        made = inputs.outputs(conn, one.id)
        if made.read_by:
            raise Conflict(
                f"{made.read_by} tasks of other transformations read what it made", hint="stop and clean those first"
            )
        if not allowed(one.status, Transformation.CLEANING):
            raise Conflict(f"it is {one.status}", hint=f"lightkeeper transformation stop {one.id}")
        _move(conn, one, Transformation.CLEANING, why)
        killed, _ = inputs.kill(conn, inputs.live_jobs(conn, one.id), why)
        cancelled = inputs.cancel_all(conn, one.id, why)
        db.notify(conn, "clean")
        told = f"{made.files} files of {made.bytes} bytes are removed"
        return (
            told
            + (f", {cancelled} tasks cancelled" if cancelled else "")
            + (f", {len(killed)} jobs ended" if killed else "")
        )

    return _each(ctx, given, change, dry_run)


def delete(ctx: Context, given: Sequence[str], why: str, *, dry_run: bool = False) -> Changed:
    """Have transformations be as if they had never been: lists leave them out. They must be Cleaned, or New."""

    def change(conn: Connection, one: TransformationSummary) -> str:
        if not allowed(one.status, Transformation.DELETED):
            raise Conflict(f"it is {one.status}", hint=f"lightkeeper transformation clean {one.id}")
        _move(conn, one, Transformation.DELETED, why)
        return "deleted"

    return _each(ctx, given, change, dry_run)


def _move(conn: Connection, one: TransformationSummary, target: Transformation, why: str) -> None:
    source = one.status
    if source is Transformation.FLUSH and target is not Transformation.ACTIVE:
        transitions.move(conn, [one.id], source, Transformation.ACTIVE, why)
        source = Transformation.ACTIVE
    if source is Transformation.ACTIVE and target is Transformation.COMPLETED:
        transitions.move(conn, [one.id], source, Transformation.STOPPED, why)
        source = Transformation.STOPPED
    if not allowed(source, target):
        raise Conflict(f"it is {one.status}, from which it may not become {target}")
    if not transitions.move(conn, [one.id], source, target, why):
        raise Conflict("it has changed meanwhile", hint="look again")


def _each(
    ctx: Context, given: Sequence[str], change: Callable[[Connection, TransformationSummary], str], dry_run: bool
) -> Changed:
    """Change transformations, each in a transaction of its own: one that cannot be changed stops no other."""
    changed = Changed()
    for transformation_id in resolve(ctx, given):
        try:
            with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
                told = change(conn, summary(conn, transformation_id))
            changed.done.append((transformation_id, told))
        except LightkeeperError as error:
            changed.failed.append((transformation_id, error.message + (f" ({error.hint})" if error.hint else "")))
    if not dry_run:
        ctx.log.info("transformations changed", done=changed.done, failed=changed.failed)
    return changed


# --- files and tasks -----------------------------------------------------------------------------------------------
@dataclass(slots=True)
class FilesChanged:
    """Files that were changed, those that were so already, and those that were not, with the reason."""

    done: list[str] = field(default_factory=list[str])
    already: list[str] = field(default_factory=list[str])
    failed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    tasks: int = 0
    """Tasks that were dissolved for it: their other files wait again."""


def add_files(ctx: Context, given: str, names: Sequence[str], *, dry_run: bool = False) -> FilesChanged:
    """Have files processed by a transformation, whatever its query says. One that is Completed goes on."""
    transformation_id = one(ctx, given)
    lfns = [parse_lfn(name) for name in names]
    changed = FilesChanged()
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        this = summary(conn, transformation_id)
        if this.status not in (
            Transformation.ACTIVE,
            Transformation.FLUSH,
            Transformation.STOPPED,
            Transformation.COMPLETED,
        ):
            raise Conflict(f"transformation {this.id} is {this.status}")
        known = {file.lfn: file.file_id for file in catalog.files_by_lfn(conn, lfns)}
        added = set(inputs.add(conn, this.id, list(known.values())))
        if added and this.status is Transformation.COMPLETED:
            transitions.move(conn, [this.id], Transformation.COMPLETED, Transformation.ACTIVE, "files were added")
        for lfn in dict.fromkeys(lfns):
            if lfn not in known:
                changed.failed.append((lfn, "it is not in the catalogue"))
            elif known[lfn] in added:
                changed.done.append(lfn)
            else:
                changed.already.append(lfn)
    return changed


def set_files(
    ctx: Context,
    given: str,
    state: str,
    why: str,
    *,
    names: Sequence[str] | None = None,
    now: str | None = None,
    task_state: str | None = None,
    dry_run: bool = False,
) -> FilesChanged:
    """Give files of a transformation another state: named, or those that are in the state `now`, or whose tasks are in
    one. Unused: they wait for a task again; else no task takes them.

    What was processed stays so. A task that failed, or waits, is dissolved when one of its files is changed: the others
    wait again. One that runs is not: kill its job first.
    """
    _checked(state, FILE_STATES, "state that can be given to a file")
    if names is None and now is None and task_state is None:
        raise Invalid("which files?", hint="name them, or say --status or --task-status")
    transformation_id = one(ctx, given)
    lfns = [parse_lfn(name) for name in names] if names is not None else None
    changed = FilesChanged()
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        this = summary(conn, transformation_id)
        work.hold(conn, this.id)
        found = inputs.files(conn, this.id, now, task_state, lfns, limit=1_000_000)
        told = {file.lfn: _why_not(file, state) for file in found}
        changed.failed = [(lfn, why_not) for lfn, why_not in told.items() if why_not]
        changed.failed += [(lfn, "it is no file of this transformation") for lfn in lfns or () if lfn not in told]
        changed.already = [file.lfn for file in found if not told[file.lfn] and file.state == state]
        to_change = [file for file in found if not told[file.lfn] and file.state != state]
        open_ = sorted({file.task_id for file in to_change if file.task_id is not None})
        gone = set(inputs.dissolve(conn, this.id, open_, why))
        changed.tasks = len(gone)
        ids = [file.file_id for file in to_change if file.task_id is None or file.task_id in gone]
        if state == "Unused":
            inputs.take_back(conn, this.id, ids)
        else:
            inputs.set_aside(conn, this.id, ids, state, why)
        changed.done = [file.lfn for file in to_change if file.file_id in set(ids)]
        db.notify(conn, "input")
    if not dry_run:
        ctx.log.info("files changed", transformation=this.id, state=state, files=len(changed.done), why=why)
    return changed


def _why_not(file: InputFile, state: str) -> str:
    if file.task_state == "Done" and state != "Processed":
        return f"task {file.task_id} has processed it, which is final"
    if file.task_state == "Running":
        return f"task {file.task_id} works on it: lightkeeper job kill"
    return ""


# --- priorities and shares -------------------------------------------------------------------------------------------
def set_priority(ctx: Context, given: Sequence[str], priority: int, *, dry_run: bool = False) -> Changed:
    """Have jobs of transformations go earlier, 0, or later, 9; those that wait already too."""

    def change(conn: Connection, this: TransformationSummary) -> str:
        sharing.set_priority(conn, this.id, priority)
        return f"its priority is {priority}"

    return _each(ctx, given, change, dry_run)


def set_share(ctx: Context, kind: str, name: str, share: float) -> str:
    """Give a group, production or job type its share of the processors when more is wanted than there is."""
    _checked(kind, SHARES, "kind of share")
    with ctx.db.transaction() as conn:
        sharing.put(conn, kind, name, share)
    return f"{kind} {printable(name)} has a share of {share:g}"


# --- jobs ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job, the files that it reads, and every move of its state."""

    job: JobLine
    inputs: list[str]
    history: list[HistoryLine]


@dataclass(slots=True)
class JobsChanged:
    """Jobs that were ended, and those that were not, with the reason."""

    done: list[int] = field(default_factory=list[int])
    failed: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


def show_job(ctx: Context, job_id: int) -> ShownJob:
    """One job, its inputs, and how its state went; raises NotFound."""
    with ctx.db.transaction() as conn:
        found = reports.jobs(conn, 1, only=job_id)
        if not found:
            raise NotFound(f"there is no job {job_id}", hint="lightkeeper job list")
        files_ = catalog.files_by_id(conn, jobs.inputs_of_job(conn, job_id))
        return ShownJob(found[0], [file.lfn for file in files_], reports.history_of(conn, "job", job_id))


def kill_jobs(ctx: Context, job_ids: Sequence[int], why: str, *, again: bool, dry_run: bool = False) -> JobsChanged:
    """End jobs that wait or run. With `again` their tasks get another attempt, also those whose last job has ended and
    which are not Done; else they count as failed until somebody asks for more."""
    changed = JobsChanged()
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        states = jobs.states(conn, job_ids)
        killed, of = inputs.kill(conn, job_ids, why)
        changed.done = killed
        if again:
            ended = [job_id for job_id, (state, _) in states.items() if state in (Job.FAILED, Job.KILLED)]
            failed_tasks = sorted({states[job_id][1] for job_id in ended})
            moved = set(transitions.move(conn, failed_tasks, Task.FAILED, Task.READY, why))
            changed.done += [job_id for job_id in ended if states[job_id][1] in moved]
        else:
            inputs.hold_back(conn, of, why)
        for job_id in dict.fromkeys(job_ids):
            if job_id not in states:
                changed.failed.append((job_id, "there is no such job"))
            elif job_id not in changed.done:
                changed.failed.append((job_id, f"it is {states[job_id][0]}"))
        db.notify(conn, "task")
    return changed


# --- the worker's part -----------------------------------------------------------------------------------------------
def clean_due(ctx: Context) -> int:
    """Remove outputs of transformations that are being cleaned; return how many are Cleaned now."""
    with ctx.db.transaction() as conn:
        due = inputs.being_cleaned(conn)
    return sum(_clean(ctx, transformation_id) for transformation_id in due)


def _clean(ctx: Context, transformation_id: int) -> int:
    after = kept = 0
    why = f"transformation {transformation_id} is cleaned"
    while True:
        with ctx.db.transaction() as conn:
            page = inputs.some_outputs(conn, transformation_id, after, PAGE)
        if not page:
            break
        after = page[-1][0]
        changed = files.remove(ctx, [lfn for _, lfn in page], why)
        kept += len(changed.failed)
        if changed.failed:
            first = changed.failed[0]
            ctx.log.warning("outputs not removed", transformation=transformation_id, lfn=first.lfn, why=first.error)
    if kept:
        return 0
    with ctx.db.transaction() as conn:
        return len(
            transitions.move(
                conn, [transformation_id], Transformation.CLEANING, Transformation.CLEANED, "every output is Removed"
            )
        )


def fold_counts(ctx: Context) -> int:
    """Join the rows that changes left in the counts of transformations; none is left over that matters."""
    with ctx.db.transaction() as conn:
        inputs.fold_counts(conn)
    return 0


# --- how -------------------------------------------------------------------------------------------------------------
def summary(conn: Connection, transformation_id: int) -> TransformationSummary:
    """One transformation with its progress; raises NotFound."""
    found = reports.transformations(conn, only=transformation_id)
    if not found:
        raise NotFound(f"there is no transformation {transformation_id}", hint="lightkeeper transformation list")
    return found[0]


def _checked(given: str | None, known: Sequence[str], what: str) -> None:
    if given is not None and given not in known:
        raise Invalid(f"'{printable(given)}' is no {what}", hint=nearest(given, known) or ", ".join(known))
