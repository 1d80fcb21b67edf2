"""Step 4: a production document becomes transformations linked by their data.

Before: a person wrote the document.    After: transform.py makes tasks of the files that match.
Called by the API. Safe to run twice: the same name with the same document is the same production.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.names import parse_name
from lightkeeper.domain.query import Query, all_of
from lightkeeper.domain.sharing import GROUP
from lightkeeper.domain.work import Companion, Match, PlannedStep, ProductionPlan, in_single_jobs
from lightkeeper.steps import documents
from lightkeeper.store import catalog, companions, datasets, productions, reports, stage, topology, work
from lightkeeper.store.db import Connection
from lightkeeper.store.productions import ProductionRow


def plan(ctx: Context, document: str, sandbox: Mapping[str, bytes], *, single_jobs: bool = False) -> ProductionPlan:
    """What the document asks for, checked as far as it can be without doing anything; raises Invalid."""

    def conditions(name: str) -> Mapping[str, Any]:
        with ctx.db.transaction() as conn:
            query = Query.from_map(datasets.dataset(conn, name).query, topology.vocabulary(conn))
        return query.to_dirac()

    plan = _read(ctx, document, sandbox, conditions, single_jobs)
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        sites = [site.name for site in topology.sites(conn)]
        for step in plan.steps:
            ctx.grouping(step.plug_in).check(step.group_size, step.keys)
            _check(conn, step, vocabulary, sites)
    return plan


def _read(
    ctx: Context,
    document: str,
    sandbox: Mapping[str, bytes],
    conditions: Callable[[str], Mapping[str, Any]],
    single_jobs: bool,
) -> ProductionPlan:
    """The plan of a document in the language that its content tells; else it is the observatory's own."""

    def fetch(name: str) -> bytes:
        if name not in sandbox:
            raise NotFound(f"there is no file '{name}' beside the document", hint=nearest(name, sandbox))
        return sandbox[name]

    reader = next((reader for reader in ctx.readers if reader.recognises(document)), None)
    if reader is not None:
        plan = reader.read(document, sandbox=fetch, dataset=conditions, single_jobs=single_jobs)
    elif ctx.observatories:
        plan = documents.read_document(ctx.observatories[0], document, sandbox, conditions)
    else:
        raise Invalid("no observatory package is installed, so no production document can be read")
    return in_single_jobs(plan) if single_jobs else plan


def submit(
    ctx: Context,
    name: str,
    document: str,
    sandbox: Mapping[str, bytes],
    *,
    open_: bool = False,
    match: Match = Match.LINEAGE,
    hold: bool = False,
    single_jobs: bool = False,
    group: str = GROUP,
) -> str:
    """Start a production on the files that match now, with `open_` also on those that come later; its name. With `hold`
    it is only made; with `single_jobs` every step is one job on all its files. `group`: of people, whose share of the
    processors it has."""
    ready = prepare(ctx, name, document, sandbox, single_jobs=single_jobs)
    return make(ctx, ready, open_=open_, match=match, hold=hold, group=group)


@dataclass(frozen=True, slots=True)
class Ready:
    """A production that can be made: its document was read and is in order. One that is there already has no plan."""

    name: str
    document: str
    sandbox: Mapping[str, bytes]
    plan: ProductionPlan | None


def prepare(
    ctx: Context, name: str, document: str, sandbox: Mapping[str, bytes], *, single_jobs: bool = False
) -> Ready:
    """Read a document that is to be a production of this name; raises Invalid, or Conflict when there is another."""
    parse_name(name, "production")
    with ctx.db.transaction() as conn:
        if _is_there(conn, name, document):
            return Ready(name, document, sandbox, None)
    steps = plan(ctx, document, sandbox, single_jobs=single_jobs)
    if steps.missing:
        raise Invalid("\n".join(steps.missing), hint="put the files where the document names them")
    return Ready(name, document, sandbox, steps)


def make(
    ctx: Context,
    ready: Ready,
    *,
    open_: bool = False,
    match: Match = Match.LINEAGE,
    hold: bool = False,
    group: str = GROUP,
) -> str:
    """Make the production and start it, unless it is there already; its name."""
    parse_name(group, "group")
    steps = ready.plan
    if steps is None:
        return ready.name
    with ctx.db.transaction() as conn:
        if _is_there(conn, ready.name, ready.document):
            return ready.name
        production_id = productions.add(
            conn, ready.name, steps.campaign, ready.document, texts(ready.sandbox), steps.warnings, group
        )
        ids = add_steps(conn, production_id, steps.steps, {}, open_=open_, match=match)
        taken = 0 if hold else productions.start(conn, production_id)
        if not taken and not open_ and not hold and not any(step.without_input for step in steps.steps):
            raise Invalid(_no_input(steps), hint="check the query, or submit with --open for files that will come")
    ctx.log.info("submitted", production=ready.name, transformations=len(ids), inputs=taken)
    return ready.name


def retry(ctx: Context, transformation_id: int) -> int:
    """Give every task that failed in every attempt one more; returns how many."""
    with ctx.db.transaction() as conn:
        if not reports.transformations(conn, only=transformation_id):
            raise NotFound(f"there is no transformation {transformation_id}", hint="lightkeeper transformation list")
        again = work.retry_failed(conn, transformation_id)
        stage.wish_for_tasks(conn, transformation_id)
        return again


def known(conn: Connection, name: str) -> ProductionRow:
    """The production `name`; raises NotFound with the nearest one."""
    found = productions.production(conn, name)
    if found is None:
        raise NotFound(f"there is no production '{name}'", hint=nearest(name, productions.names(conn)))
    return found


def _is_there(conn: Connection, name: str, document: str) -> bool:
    known = productions.production(conn, name)
    if known is not None and known.document != document:
        raise Conflict(
            f"production '{name}' exists already with another document",
            hint=f"choose another name, or add its steps: lightkeeper production extend {name} FILE",
        )
    return known is not None


def texts(sandbox: Mapping[str, bytes]) -> dict[str, str]:
    """The files beside a document as they are kept."""
    return {name: content.decode() for name, content in sandbox.items()}


def add_steps(
    conn: Connection,
    production_id: int,
    steps: Sequence[PlannedStep],
    there: Mapping[int, int],
    *,
    open_: bool,
    match: Match,
) -> list[int]:
    """A transformation for each step, parents before children; ids of those that are `there` already by number."""
    vocabulary = topology.vocabulary(conn)
    ids = dict(there)
    for step in steps:
        query, list_id = input_of(conn, step, vocabulary)
        first = step.parent is None and not (step.feeders or step.without_input or step.files)
        ids[step.number] = work.add_transformation(
            conn,
            production_id,
            step,
            ids[step.parent] if step.parent is not None else None,
            _set_query(step, query, vocabulary),
            query.jsonpath(vocabulary, KeyLevel.FILE),
            open_=(open_ and first and list_id is None and step.input_limit is None)
            or (step.without_input and step.n_tasks == 0),  # until somebody says how many tasks
            dataset_id=list_id,
            by_lineage=match is Match.LINEAGE,
            feeder_ids=[ids[number] for number in step.feeders],
        )
        if step.files:
            work.add_files(conn, ids[step.number], [file.file_id for file in catalog.known_files(conn, step.files)])
        for companion in step.companions:
            _add_companion(conn, ids, step.number, companion, vocabulary)
    new = {step.number: ids[step.number] for step in steps}
    _find_companions(conn, steps, new)
    return list(new.values())


def _set_query(step: PlannedStep, query: Query, vocabulary: Vocabulary) -> str:
    """What metadata sets a step takes; none, when it needs no input, or when its files are named."""
    if step.without_input:
        return "false"
    return "1 == 0" if step.files else query.jsonpath(vocabulary, KeyLevel.SET) or "true"


def input_of(conn: Connection, step: PlannedStep, vocabulary: Vocabulary) -> tuple[Query, int | None]:
    """What a step takes: its conditions with those of its dataset; or, when that is frozen, the dataset's list."""
    own = Query.from_map(step.query, vocabulary)
    if step.dataset is None:
        return own, None
    row = datasets.dataset(conn, step.dataset)
    if row.frozen is not None:
        return own, row.dataset_id
    return Query(all_of([own.tree, Query.from_map(row.query, vocabulary).tree])), None


def _add_companion(
    conn: Connection, ids: Mapping[int, int], number: int, companion: Companion, vocabulary: Vocabulary
) -> None:
    query = Query.from_map(companion.query, vocabulary)
    parent_id = ids[companion.parent] if companion.parent is not None else None
    at_set, at_file = query.jsonpath(vocabulary, KeyLevel.SET) or "true", query.jsonpath(vocabulary, KeyLevel.FILE)
    file_id = catalog.known_files(conn, [companion.lfn])[0].file_id if companion.lfn is not None else None
    companions.add(conn, ids[number], companion, parent_id, at_set, at_file, file_id)


def _find_companions(conn: Connection, steps: Sequence[PlannedStep], ids: Mapping[int, int]) -> None:
    """Take the companions that are there already; raises Invalid when one is not, or several could be meant."""
    numbers = {transformation_id: number for number, transformation_id in ids.items()}
    for found in companions.find_registered(conn, list(ids.values())):
        step = next(step for step in steps if step.number == numbers[found.transformation_id])
        query = next(dict(companion.query) for companion in step.companions if companion.role == found.role)
        raise Invalid(
            f"step {step.number}: {found.n or 'no'} registered files are '{found.role}' by {query}"
            + (f": {', '.join(found.names)}, …" if found.n else ""),
            hint="exactly one is needed: narrow the conditions" if found.n else "train a model first, and name it",
        )


def _check(conn: Connection, step: PlannedStep, vocabulary: Vocabulary, sites: list[str]) -> None:
    query, _ = input_of(conn, step, vocabulary)
    query.jsonpath(vocabulary, KeyLevel.SET)
    catalog.known_files(conn, step.files)
    for companion in step.companions:
        Query.from_map(companion.query, vocabulary).jsonpath(vocabulary, KeyLevel.SET)
    for key in (step.group_by or "").split(","):
        if key.strip():
            vocabulary.key(key.strip())
    for site in step.sites:
        if site not in sites:
            raise Invalid(f"step {step.number}: its destination '{site}' is not a site", hint=nearest(site, sites))


def _no_input(plan: ProductionPlan) -> str:
    roots = [step for step in plan.steps if step.parent is None]
    queries = "; ".join(
        f"step {step.number}: " + (f"dataset {step.dataset}, " if step.dataset else "") + str(dict(step.query))
        for step in roots
    )
    return f"no registered file matches the input of this production ({queries})"
