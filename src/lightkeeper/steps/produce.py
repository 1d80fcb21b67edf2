"""Step 4: a production document becomes transformations linked by their data.

Before: a person wrote the document.    After: transform.py makes tasks of the files that match.
Called by the API. Safe to run twice: the same name with the same document is the same production.
"""

from collections.abc import Mapping

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.names import parse_name
from lightkeeper.domain.query import Query
from lightkeeper.domain.work import PlannedStep, ProductionPlan
from lightkeeper.store import reports, topology, work


def plan(ctx: Context, document: str, sandbox: Mapping[str, bytes]) -> ProductionPlan:
    """What the document asks for, checked as far as it can be without doing anything; raises Invalid."""

    def fetch(name: str) -> bytes:
        try:
            return sandbox[name]
        except KeyError:
            raise NotFound(
                f"the production names the file '{name}', which does not lie beside it",
                hint=nearest(name, sandbox),
            ) from None

    if not ctx.observatories:
        raise Invalid("no observatory package is installed, so no production document can be read")
    plan = ctx.observatories[0].production_reader().read(document, sandbox=fetch)
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        sites = [site.name for site in topology.sites(conn)]
    for step in plan.steps:
        _check(step, vocabulary, sites)
    return plan


def submit(ctx: Context, name: str, document: str, sandbox: Mapping[str, bytes], *, open_: bool = False) -> str:
    """Start a production on the files that match now, with `open_` also on those that come later; its name."""
    parse_name(name, "production")
    steps = plan(ctx, document, sandbox)
    with ctx.db.transaction() as conn:
        known = work.production(conn, name)
        if known is not None:
            return _same(known, document)
        vocabulary = topology.vocabulary(conn)
        production_id = work.add_production(conn, name, steps.campaign, document, steps.warnings)
        ids: dict[int, int] = {}
        for step in steps.steps:
            query = Query.from_map(step.query, vocabulary)
            ids[step.number] = work.add_transformation(
                conn,
                production_id,
                step,
                ids[step.parent] if step.parent is not None else None,
                query.jsonpath(vocabulary, KeyLevel.SET) or "true",
                query.jsonpath(vocabulary, KeyLevel.FILE),
                open_=open_ and step.parent is None,
            )
        taken = work.activate(conn, production_id)
        if not taken and not open_:
            raise Invalid(_no_input(steps), hint="check the query, or submit with --open for files that will come")
    ctx.log.info("submitted", production=name, transformations=len(ids), inputs=taken)
    return name


def close(ctx: Context, name: str) -> int:
    """Take no more files into an open production, so that it ends; returns how many transformations that concerns."""
    with ctx.db.transaction() as conn:
        if work.production(conn, name) is None:
            raise NotFound(f"there is no production '{name}'", hint="lightkeeper production list")
        return work.close(conn, name)


def retry(ctx: Context, transformation_id: int) -> int:
    """Give every task that failed in every attempt one more; returns how many."""
    with ctx.db.transaction() as conn:
        if not reports.transformations(conn, only=transformation_id):
            raise NotFound(f"there is no transformation {transformation_id}", hint="lightkeeper transformation list")
        return work.retry_failed(conn, transformation_id)


def _same(known: work.ProductionRow, document: str) -> str:
    if known.document == document:
        return known.name
    raise Conflict(
        f"production '{known.name}' exists already with another document",
        hint="choose another name for this one",
    )


def _check(step: PlannedStep, vocabulary: Vocabulary, sites: list[str]) -> None:
    Query.from_map(step.query, vocabulary)
    for key in (step.group_by or "").split(","):
        if key.strip():
            vocabulary.key(key.strip())
    if step.destination is not None and step.destination not in sites:
        raise Invalid(
            f"step {step.number}: destination '{step.destination}' is not a site",
            hint=nearest(step.destination, sites),
        )


def _no_input(plan: ProductionPlan) -> str:
    roots = [step for step in plan.steps if step.parent is None]
    queries = "; ".join(f"step {step.number}: {dict(step.query)}" for step in roots)
    return f"no registered file matches the input of this production ({queries})"
