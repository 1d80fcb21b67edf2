"""What the first page shows, in a dozen queries whatever the size, and the one sentence above it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from lightkeeper.context import Context
from lightkeeper.domain.catalog import SiteKind, StorageElement
from lightkeeper.domain.healing import DEFAULT, Keeper, Options, TransformationFacts, decide
from lightkeeper.domain.nights import Summary
from lightkeeper.domain.policy import Policy
from lightkeeper.domain.quality import Alarm
from lightkeeper.domain.states import Health, Production, Transformation
from lightkeeper.steps import nights as night_step
from lightkeeper.steps import quality, rules
from lightkeeper.steps.rules import Rule
from lightkeeper.store import db, deletions, healing, messages, quarantine, reports, topology
from lightkeeper.store.deletions import Stopped
from lightkeeper.store.messages import ConcernRow
from lightkeeper.store.productions import ProductionSummary, summaries
from lightkeeper.store.quarantine import Refused
from lightkeeper.store.reports import (
    Healed,
    Link,
    Overdue,
    StorageUse,
    Totals,
    TransformationSummary,
)
from lightkeeper.web.words import count

NIGHTS = 14
LINKS = 8
PRODUCTIONS = 8
HEALED = 12
REFUSED = 12
"""How many of each are shown; the page says where the others are."""
SAID = 3
"""Transformations that the sentence names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a person is needed, in one sentence; `level` is empty, well or person. `look_with`: commands that tell
    more."""

    level: str
    sentence: str
    look_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A site and what the catalogue has there. `weight` from 1 to 4: its part of what was copied."""

    name: str
    files: int
    bytes: int
    tape: bool
    enabled: bool
    weight: int


@dataclass(frozen=True, slots=True)
class StepView:
    """A transformation with what it waits for."""

    of: TransformationSummary
    waits_for: str


@dataclass(frozen=True, slots=True)
class ProductionView:
    """A production with its transformations."""

    of: ProductionSummary
    steps: list[StepView]


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the first page. Lists are cut to what is shown; the `n_` tell how many there are."""

    at: datetime
    verdict: Verdict
    now: str
    totals: Totals
    embedded_database: bool
    on_site: list[Place]
    centres: list[Place]
    nights: list[Summary]
    n_nights: int
    storages: list[StorageUse]
    links: list[Link]
    n_links: int
    productions: list[ProductionView]
    n_productions: int
    made: int
    healed: list[Healed]
    n_healed: int
    refused: list[Refused]


def look(ctx: Context) -> Overview:
    """The facts of now."""
    late = rules.late(ctx)
    nights = night_step.find(ctx)
    alarms = quality.alarms(ctx)
    with ctx.db.transaction() as conn:
        at = db.now(conn)
        totals = reports.totals(conn)
        storages = reports.storage_use(conn)
        links = reports.traffic(conn)
        productions = summaries(conn)
        transformations = reports.transformations(conn)
        facts = healing.facts(conn)
        keeper = healing.keeper(conn)
        healed = reports.healed(conn)
        refused = quarantine.find(conn, limit=REFUSED)
        elements = topology.storages(conn)
        policies = topology.policies(conn)
        overdue = reports.overdue(conn)
        stopped = deletions.stopped(conn)
        concerns = messages.concerns(conn)
    return Overview(
        at=at,
        verdict=judge(totals, nights, transformations, policies, elements, overdue, late, stopped, concerns, alarms),
        now=what_runs(totals),
        totals=totals,
        embedded_database=not ctx.settings.database_url,
        on_site=_places(storages, links, SiteKind.OBSERVATORY),
        centres=_places(storages, links, SiteKind.DATA_CENTRE),
        nights=nights[:NIGHTS],
        n_nights=len(nights),
        storages=storages,
        links=_busiest(links),
        n_links=len(links),
        productions=_productions(productions, transformations, facts, keeper)[:PRODUCTIONS],
        n_productions=len(productions),
        made=sum(t.outputs for t in transformations),
        healed=healed[: -HEALED - 1 : -1],
        n_healed=len(healed),
        refused=refused,
    )


# --- decisions -----------------------------------------------------------------------------------------------------
def judge(
    totals: Totals,
    nights: Sequence[Summary],
    transformations: Sequence[TransformationSummary],
    policies: Sequence[Policy],
    storages: Sequence[StorageElement],
    overdue: Sequence[Overdue] = (),
    late: Sequence[Rule] = (),
    stopped: Sequence[Stopped] = (),
    concerns: Sequence[ConcernRow] = (),
    alarms: Sequence[Alarm] = (),
) -> Verdict:
    """Whether all is well, or what needs a person. A refused delivery is kept safe and told of: it wakes nobody."""
    if not storages:
        return Verdict("empty", "There is nothing to look after yet.")
    failed = [t for t in transformations if t.failed and t.status is not Transformation.COMPLETED]
    needs = [*_failed_work(failed), *_stuck_copies(totals, nights, policies, storages), *_resting(overdue)]
    others = [c for c in concerns if c.kind != "transformation" or c.id not in {t.id for t in failed}]
    needs += [c.sentence for c in others[:SAID]]
    needs += [f"{count(len(others) - SAID, 'other decision')} besides"] * (len(others) > SAID)
    needs += [f"quality is out of range: {alarm.told}" for alarm in alarms[:SAID]]
    needs += [f"so are {count(len(alarms) - SAID, 'other figure')}"] * (len(alarms) > SAID)
    needs += [f"rule {rule.name}: {rule.late}" for rule in late]
    held = [one for one in stopped if one.since is not None]
    needs += [f"{count(one.waiting, 'deletion')} at {one.storage} wait for two people" for one in held]
    needs += [f"storage {s.name} does not answer" for s in storages if s.enabled and s.health is Health.BANNED]
    if needs:
        look_with = tuple(f"lightkeeper transformation report {t.id}" for t in failed[:SAID])
        look_with += ("lightkeeper decision list",) * bool(others)
        look_with += ("lightkeeper deletion list",) * bool(held)
        return Verdict("person", f"A person is needed: {'; '.join(needs)}.", look_with)
    if totals.files_quarantined:
        refused = count(totals.files_quarantined, "refused delivery", "refused deliveries")
        return Verdict("well", f"All is well: nobody is needed now; {refused} can wait until morning.")
    return Verdict("well", "All is well: nobody is needed.")


def _failed_work(failed: Sequence[TransformationSummary]) -> list[str]:
    told = [f"{count(t.failed, 'task')} of {t.name} failed in every attempt" for t in failed[:SAID]]
    if len(failed) > SAID:
        told.append(f"so did tasks of {count(len(failed) - SAID, 'other transformation')}")
    return told


def _stuck_copies(
    totals: Totals, nights: Sequence[Summary], policies: Sequence[Policy], storages: Sequence[StorageElement]
) -> list[str]:
    told: list[str] = []
    if totals.transfers_failed:
        were = "was" if totals.transfers_failed == 1 else "were"
        told.append(f"{count(totals.transfers_failed, 'transfer')} {were} given up")
    if totals.unsettled:  # files that a policy cannot be fulfilled for stay unsettled
        told += [blocked for policy in policies if (blocked := _blocked(policy, storages))]
    owed = sum(night.files - night.removed - night.preserved for night in nights)
    if owed and not (totals.unsettled or totals.transfers_waiting or totals.transfers_running):
        have, them = ("has", "it") if owed == 1 else ("have", "them")
        told.append(f"{count(owed, 'file')} {have} too few copies, and none of {them} is under way")
    return told


def _resting(overdue: Sequence[Overdue]) -> list[str]:
    return [f"{count(o.rows, o.kind)} {o.state} for up to {o.longest.total_seconds() / 3600:.1f} h" for o in overdue]


def _blocked(policy: Policy, storages: Sequence[StorageElement]) -> str:
    """Why nothing can fulfil the policy; empty when something can."""
    able = {s.site for s in storages if s.enabled and s.media is policy.media and s.site_kind is SiteKind.DATA_CENTRE}
    if len(able) >= policy.copies:
        return ""
    return (
        f"policy {policy.name} wants {policy.copies} copies on {policy.media} at distinct data centres, "
        f"but only {len(able)} can hold one"
    )


def what_runs(totals: Totals) -> str:
    """What is going on, in words; empty when nothing is."""
    going_on = [
        (totals.triggers_open, "verifying {}", "delivery", "deliveries"),
        (totals.transfers_running + totals.transfers_waiting, "copying {}", "file", ""),
        (totals.intents_open, "freeing {} on site", "file", ""),
        (totals.jobs_running, "running {}", "job", ""),
        (totals.jobs_waiting, "{} waiting", "job", ""),
    ]
    return ", ".join(told.format(count(n, one, many)) for n, told, one, many in going_on if n)


def waits_for(status: Transformation, facts: TransformationFacts | None, options: Options = DEFAULT) -> str:
    """What a transformation waits for, in words; empty when it is complete."""
    match status:
        case Transformation.ACTIVE if facts is not None:
            return decide(facts, options).why
        case Transformation.FLUSH:
            return "its last, smaller tasks are being made"
        case Transformation.STOPPED:
            return "it was stopped, until somebody starts it again"
        case Transformation.NEW:
            return "it has not been started"
        case _:
            return ""


# --- arrangements --------------------------------------------------------------------------------------------------
def _productions(
    productions: Sequence[ProductionSummary],
    transformations: Sequence[TransformationSummary],
    facts: Sequence[TransformationFacts],
    keeper: Keeper,
) -> list[ProductionView]:
    """Those at work first, then the latest."""
    by_id = {f.transformation_id: f for f in facts}
    steps: dict[str, list[StepView]] = {}
    for t in transformations:
        steps.setdefault(t.production, []).append(StepView(t, waits_for(t.status, by_id.get(t.id), keeper.of(t.type))))
    in_order = sorted(productions, key=lambda p: (p.state is Production.COMPLETED, -p.production_id))
    return [ProductionView(p, steps.get(p.name, [])) for p in in_order]


def _busiest(links: Sequence[Link]) -> list[Link]:
    """By bytes; one with failed attempts is not left out for one without."""
    shown = sorted(links, key=lambda link: (link.failed_attempts > 0, link.bytes), reverse=True)[:LINKS]
    return sorted(shown, key=lambda link: link.bytes, reverse=True)


def _places(storages: Sequence[StorageUse], links: Sequence[Link], kind: SiteKind) -> list[Place]:
    """Sites of one kind with all their storages."""
    here = sorted((s for s in storages if s.kind == kind), key=lambda s: s.site)
    sent = {name: sum(link.bytes for link in links if link.target == name) for name in {s.site for s in here}}
    most = max(sent.values(), default=0) or 1
    places: list[Place] = []
    for name, group in groupby(here, key=lambda s: s.site):
        its = list(group)
        places.append(
            Place(
                name=name,
                files=sum(s.files for s in its),
                bytes=sum(s.bytes for s in its),
                tape=any(s.media == "tape" for s in its),
                enabled=any(s.enabled for s in its),
                weight=1 + round(3 * sent[name] / most),
            )
        )
    return places
