"""Step 4, looked at beforehand: what a production would take, how long it may take, and what is missing for it.

Before: a person wrote the document.    After: produce.py, when he likes what he sees. Nothing is changed here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, Vocabulary
from lightkeeper.domain.estimates import Estimate, InputFacts, complaints, estimates
from lightkeeper.domain.grouping import Grouping, Kin, WaitingFile
from lightkeeper.domain.work import PlannedStep, ProductionPlan
from lightkeeper.steps import produce
from lightkeeper.store import catalog, previews, topology
from lightkeeper.store.db import Connection


@dataclass(frozen=True, slots=True)
class Preview:
    """What the document says, what each step would do, and what is missing, in sentences."""

    plan: ProductionPlan
    estimates: list[Estimate]
    missing: list[str]

    def told(self) -> dict[str, Any]:
        """As JSON: the steps with their estimates, and all of them together. Of CPU time that nobody knows nothing is
        added up."""
        seconds = [one.seconds for one in self.estimates]
        by_number = {one.number: one for one in self.estimates}
        return {
            "campaign": self.plan.campaign,
            "warnings": list(self.plan.warnings),
            "missing": self.missing,
            "total": {
                "files": sum(one.files for one in self.estimates if one.known),
                "bytes": sum(one.bytes or 0 for one in self.estimates if one.known),
                "tasks": sum(one.tasks for one in self.estimates),
                "cpu_seconds": None if None in seconds else sum(one or 0 for one in seconds),
            },
            "steps": [asdict(step) | {"estimate": asdict(by_number[step.number])} for step in self.plan.steps],
        }


def look(ctx: Context, document: str, sandbox: Mapping[str, bytes], *, single_jobs: bool = False) -> Preview:
    """What submitting the document would do now; raises Invalid as submitting it would."""
    plan = produce.plan(ctx, document, sandbox, single_jobs=single_jobs)
    inputs: dict[int, InputFacts] = {}
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        for step in plan.steps:
            if step.parent is None and not step.feeders and not step.without_input:
                inputs[step.number] = _input(conn, step, vocabulary, ctx.grouping(step.plug_in))
        paces = previews.paces(conn, sorted({step.job_type for step in plan.steps}))
    found = estimates(plan.steps, inputs, paces)
    return Preview(plan, found, [*plan.missing, *(told for one in found for told in complaints(one))])


def _input(conn: Connection, step: PlannedStep, vocabulary: Vocabulary, grouping: Grouping) -> InputFacts:
    query, list_id = produce.input_of(conn, step, vocabulary)
    set_query = query.jsonpath(vocabulary, KeyLevel.SET) or "true"
    file_query = query.jsonpath(vocabulary, KeyLevel.FILE)
    named = tuple(file.file_id for file in catalog.known_files(conn, step.files))
    previews.match(conn, previews.Asked(set_query, file_query, list_id, step.input_limit, named))
    previews.look_at_copies(conn, step.sites)
    totals = previews.totals(conn)
    numbers = count(1)
    each = not (isinstance(grouping, Kin) and grouping.only_counts)
    files = [
        WaitingFile(next(numbers), one.size, one.site_id, one.storages, one.values)
        for one, n in previews.alike(conn, step.keys, each=each)
        for _ in range(n)
    ]
    return InputFacts(
        files=totals.files,
        bytes=totals.bytes,
        tasks=sum(1 for _ in grouping.groups(files, step.group_size, flush=True)),
        no_copy=totals.no_copy,
        lost=totals.lost,
        on_tape=totals.on_tape,
        sample=tuple(previews.sample(conn)),
    )
