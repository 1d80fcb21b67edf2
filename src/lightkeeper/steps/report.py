"""Step 9: what happened, for people.

Before: everything.    After: somebody understands. Called by the API; it only reads.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.catalog import SiteKind
from lightkeeper.domain.errors import NotFound
from lightkeeper.domain.healing import decide
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.policy import may_delete, plan_file
from lightkeeper.domain.report import ReportRow, transformation_report
from lightkeeper.domain.states import Transformation
from lightkeeper.steps import rules
from lightkeeper.store import catalog, db, healing, invariants, provenance, reports, topology, transfers, usage
from lightkeeper.store.catalog import FileRow, ReplicaRow
from lightkeeper.store.db import Connection
from lightkeeper.store.provenance import Step
from lightkeeper.store.reports import Healed, HistoryLine, Totals, TransformationSummary, Waiting
from lightkeeper.store.usage import Usage


@dataclass(frozen=True, slots=True)
class Story:
    """A file's story: what it is, where its copies lie, what is still to come or why it cannot, how it came to be."""

    file: FileRow
    replicas: list[ReplicaRow]
    policy: str | None
    under_way: list[Waiting]
    waits: list[str]
    made_from: list[Step]


def why_file(ctx: Context, lfn: str) -> Story:
    """The story of a file back to the raw files it was made from; raises NotFound."""
    with ctx.db.transaction() as conn:
        files = catalog.files_by_lfn(conn, [parse_lfn(lfn)])
        if not files:
            raise NotFound(
                f"{lfn} is not in the catalogue",
                hint="lightkeeper find, or look in lightkeeper quarantine",
            )
        file = files[0]
        return Story(
            file=file,
            replicas=catalog.replicas_of(conn, [file.file_id]),
            policy=reports.policy_of(conn, file.file_id),
            under_way=reports.transfers_of(conn, [file.file_id]),
            waits=_what_waits(ctx, conn, file.file_id),
            made_from=provenance.ancestry(conn, file.file_id),
        )


def _what_waits(ctx: Context, conn: Connection, file_id: int) -> list[str]:
    """Why copies that are owed are missing, or the on-site replica is not freed, and what happens next; nothing when
    nothing is owed."""
    storages = {s.storage_id: s for s in topology.storages(conn)}
    policies = {p.policy_id: p for p in topology.policies(conn)}
    (copies,) = transfers.copies_of(conn, [file_id])
    mine = [p for policy_id in copies.policies if (p := policies[policy_id]).withdrawn is None]
    if told := rules.why_missing(ctx, conn, mine, [copies])[file_id]:
        return told
    now = db.now(conn)
    plan = plan_file(mine, copies, storages, now)
    on_site = [r for r in copies.replicas if storages[r.storage_id].site_kind is SiteKind.OBSERVATORY]
    frees = any(policy.free_on_site for policy in mine)
    if not frees or plan.free or not on_site:
        return []
    if plan.look_again and plan.look_again > now and not plan.verify:
        return [f"on site until {plan.look_again:%Y-%m-%d %H:%M} UTC, its minimum age"]
    return [f"on site: {may_delete(copies, on_site[0].storage_id, mine, storages, now)}"]


@dataclass(frozen=True, slots=True)
class TransformationReport:
    """The report of one transformation, what it waits for, and every move of its state."""

    summary: TransformationSummary
    rows: list[ReportRow]
    waits_for: str
    history: list[HistoryLine]


def transformation(ctx: Context, transformation_id: int) -> TransformationReport:
    """The report of one transformation; raises NotFound."""
    with ctx.db.transaction() as conn:
        summaries = reports.transformations(conn, only=transformation_id)
        if not summaries:
            raise NotFound(f"there is no transformation {transformation_id}", hint="lightkeeper transformation list")
        rows = transformation_report(reports.job_groups(conn, transformation_id))
        facts = healing.facts(conn, only=transformation_id)
        keeper = healing.keeper(conn)
        history = reports.history_of(conn, "transformation", transformation_id)
    waits_for = decide(facts[0], keeper.of(facts[0].type)).why if facts else ""
    if summaries[0].status is Transformation.COMPLETED:
        waits_for = "nothing: it is complete"
    return TransformationReport(summaries[0], rows, waits_for, history)


def used(ctx: Context, transformation_id: int) -> list[Usage]:
    """What the jobs of a transformation used: mean and tail."""
    with ctx.db.transaction() as conn:
        return usage.of_transformation(conn, transformation_id)


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that has been done, in one object."""

    totals: Totals
    transformations: list[TransformationSummary]
    outputs: list[str]
    lineage_depth: int
    fsck_violations: int
    healed: list[Healed]


def summary(ctx: Context) -> Summary:
    """What this instance has done so far."""
    with ctx.db.transaction() as conn:
        return Summary(
            totals=reports.totals(conn),
            transformations=reports.transformations(conn),
            outputs=reports.outputs(conn),
            lineage_depth=provenance.lineage_depth(conn),
            fsck_violations=len(invariants.violations(conn)),
            healed=reports.healed(conn),
        )
