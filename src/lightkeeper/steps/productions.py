"""Step 4, afterwards: productions that are there are shown, extended, stopped, started again, and made once more.

Before: produce.py made them.    After: transform.py goes on with what is Active.
Called by the API. Safe to run twice: what is so already stays so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.errors import Conflict, Invalid
from lightkeeper.domain.graph import Node
from lightkeeper.domain.names import parse_name
from lightkeeper.domain.sharing import GROUP
from lightkeeper.domain.states import Production, Transformation
from lightkeeper.domain.variants import Variant, variants
from lightkeeper.domain.work import Match, PlannedStep, added_steps
from lightkeeper.steps import documents, preview, produce
from lightkeeper.store import productions, reports, transitions, work
from lightkeeper.store.productions import ProductionSummary
from lightkeeper.store.reports import TransformationSummary

ENDED = (Transformation.COMPLETED, Transformation.ARCHIVED)


# --- looking ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Shown:
    """A production with its steps: how far each is, and from which steps it takes files."""

    of: ProductionSummary
    steps: list[TransformationSummary]
    nodes: list[Node]

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self.of) | {
            "share": self.of.share,
            "steps": [
                asdict(step) | {"parents": list(node.parents), "share": node.share}
                for step, node in zip(self.steps, self.nodes, strict=True)
            ],
        }


def show(ctx: Context, name: str) -> Shown:
    """How far a production is; raises NotFound."""
    with ctx.db.transaction() as conn:
        production = produce.known(conn, name)
        (summary,) = productions.summaries(conn, name)
        steps = reports.transformations(conn, name)
        planned = {step.number: step for step in productions.steps(conn, production.production_id)}
    steps.sort(key=lambda step: step.step)
    nodes = [
        Node(
            number=step.step,
            name=planned[step.step].name,
            state=str(step.status),
            parents=planned[step.step].parents,
            share=_share(step, planned[step.step].n_tasks),
            told=_told(step, planned[step.step].without_input),
            failed=step.failed,
        )
        for step in steps
    ]
    return Shown(summary, steps, nodes)


def _share(step: TransformationSummary, n_tasks: int) -> float | None:
    if step.status in ENDED:
        return 1.0
    if n_tasks:
        return min(1.0, step.done / n_tasks)
    return step.processed / step.files if step.files else None


def _told(step: TransformationSummary, without_input: bool) -> str:
    if without_input:
        return f"{step.done:,} of {step.tasks:,} tasks"
    return f"{step.processed:,} of {step.files:,} files" if step.files else ""


# --- many at once ----------------------------------------------------------------------------------------------
def submit_all(
    ctx: Context,
    name: str,
    document: str,
    sandbox: Mapping[str, bytes],
    values: Mapping[str, Sequence[str]],
    *,
    open_: bool = False,
    match: Match = Match.LINEAGE,
    hold: bool = False,
    single_jobs: bool = False,
    group: str = GROUP,
) -> list[str]:
    """Submit a production for every combination of values of words like `$layout` in the document; their names. All
    are checked before the first is submitted; what was submitted already is there and stays as it is."""
    ready = [
        produce.prepare(ctx, variant.name, variant.document, sandbox, single_jobs=single_jobs)
        for variant in variants(name, document, values)
    ]
    return [produce.make(ctx, one, open_=open_, match=match, hold=hold, group=group) for one in ready]


def look_at_all(
    ctx: Context,
    name: str,
    document: str,
    sandbox: Mapping[str, bytes],
    values: Mapping[str, Sequence[str]],
    *,
    single_jobs: bool = False,
) -> list[tuple[Variant, preview.Preview]]:
    """What submitting them would do; nothing is done."""
    return [
        (variant, preview.look(ctx, variant.document, sandbox, single_jobs=single_jobs))
        for variant in variants(name, document, values)
    ]


def clone(ctx: Context, name: str, new: str, changes: Mapping[str, str]) -> tuple[str, dict[str, bytes], str]:
    """The document of a production with these changes, what lies beside it, and its group: for a production `new`."""
    with ctx.db.transaction() as conn:
        production = produce.known(conn, name)
        if productions.production(conn, new) is not None:
            raise Conflict(f"there is a production '{new}' already", hint="choose another name")
    document = production.document
    if changes:
        document = documents.change_document(ctx.observatories[0], document, changes)
    return document, {file: text.encode() for file, text in production.sandbox.items()}, production.group


def generate(ctx: Context, template: str, kind: str) -> Mapping[str, str]:
    """The production documents of a campaign by the names of their files; raises Invalid."""
    if not ctx.observatories:
        raise Invalid("no observatory package is installed, so no template can be read")
    return documents.read_template(ctx.observatories[0], template, kind)


# --- changing: a dry run does it, and takes it back --------------------------------------------------------------
def extend(
    ctx: Context,
    name: str,
    document: str,
    sandbox: Mapping[str, bytes],
    *,
    open_: bool = False,
    match: Match = Match.LINEAGE,
    dry_run: bool = False,
) -> list[PlannedStep]:
    """Add the steps that the document has more than that of the production; what runs is not touched. Children of
    steps that are there take also what these made already. Returns the new steps."""
    with ctx.db.transaction() as conn:
        before = produce.known(conn, name)
    after = produce.plan(ctx, document, sandbox)
    if after.missing:
        raise Invalid("\n".join(after.missing), hint="put the files where the document names them")
    old = produce.plan(ctx, before.document, {file: text.encode() for file, text in before.sandbox.items()})
    added = added_steps(old, after)
    if not added or dry_run:
        return added
    with ctx.db.transaction() as conn:
        production = produce.known(conn, name)
        productions.lock(conn, production.production_id)
        if produce.known(conn, name).document != before.document:
            raise Conflict(f"production '{name}' was extended by somebody else meanwhile", hint="do it again")
        ids = {step.number: step.transformation_id for step in productions.steps(conn, production.production_id)}
        new = produce.add_steps(conn, production.production_id, added, ids, open_=open_, match=match)
        productions.replace_document(
            conn, production.production_id, document, {**before.sandbox, **produce.texts(sandbox)}, after.warnings
        )
        if production.state is not Production.NEW:
            productions.take(conn, new)
            transitions.move(conn, new, Transformation.NEW, Transformation.ACTIVE)
            if production.state is Production.STOPPED:
                transitions.move(conn, new, Transformation.ACTIVE, Transformation.STOPPED, "its production is stopped")
            why = f"extended by step {', '.join(str(step.number) for step in added)}"
            transitions.move(conn, [production.production_id], Production.COMPLETED, Production.ACTIVE, why)
    ctx.log.info("extended", production=name, steps=[step.number for step in added])
    return added


def set_group(ctx: Context, name: str, group: str, *, dry_run: bool = False) -> str:
    """Have a production be of another group, whose share of the processors its jobs get from now on; what it was."""
    parse_name(group, "group")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        production = produce.known(conn, name)
        productions.set_group(conn, production.production_id, group)
    if not dry_run:
        ctx.log.info("group set", production=name, group=group, before=production.group)
    return production.group


def match_again(ctx: Context, name: str, *, dry_run: bool = False) -> int:
    """Give the steps without a parent the files that match now and that they have not had; returns how many. Steps
    that are complete take no more."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        production = produce.known(conn, name)
        going = (Transformation.ACTIVE, Transformation.STOPPED)
        found = productions.steps(conn, production.production_id)
        roots = [step for step in found if step.parent is None and not step.feeders and step.state in going]
        if not roots:
            raise Conflict(f"no step of production '{name}' takes files any more", hint="add a step, or clone it")
        return productions.take(conn, [step.transformation_id for step in roots])


def more_tasks(ctx: Context, name: str, number: int, n: int, *, dry_run: bool = False) -> int:
    """Have `n` more jobs made of a step that needs no input; returns how many there are to be then."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        production = produce.known(conn, name)
        step = next((s for s in productions.steps(conn, production.production_id) if s.number == number), None)
        if step is None or not step.without_input:
            raise Invalid(f"step {number} of production '{name}' does not make files from nothing")
        if step.state not in (Transformation.NEW, Transformation.ACTIVE, Transformation.STOPPED):
            raise Conflict(f"step {number} of production '{name}' is {step.state}", hint="clone the production")
        productions.more_tasks(conn, step.transformation_id, n)
        return step.n_tasks + n


def start(ctx: Context, name: str, *, dry_run: bool = False) -> int:
    """Start a production that was only made, or go on with one that was stopped; returns how many of its steps."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        production = produce.known(conn, name)
        if production.state is Production.NEW:
            productions.start(conn, production.production_id)
            return len(productions.steps(conn, production.production_id))
        if production.state is Production.STOPPED:
            return productions.go_on(conn, production.production_id, "started again")
        return 0


def stop(ctx: Context, name: str, why: str, *, dry_run: bool = False) -> int:
    """Start no more work of a production; what runs is finished. Returns how many of its steps that concerns."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        production = produce.known(conn, name)
        if production.state in (Production.NEW, Production.COMPLETED):
            raise Conflict(f"production '{name}' is {production.state}: there is nothing to stop")
        return productions.stop(conn, production.production_id, why or "stopped")


def close(ctx: Context, name: str, *, dry_run: bool = False) -> int:
    """Take no more files into an open production, so that it ends; returns how many transformations that concerns."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        produce.known(conn, name)
        return work.close(conn, name)
