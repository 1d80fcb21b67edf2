"""What the page of the keeper shows: what a person must decide, what waits for what, what was done, who was told; and
the report of one transformation."""

from dataclasses import dataclass
from datetime import datetime

from lightkeeper.context import Context
from lightkeeper.domain.healing import Decision, Remedy, TransformationFacts, decide
from lightkeeper.domain.report import COLUMNS
from lightkeeper.steps import report, tell
from lightkeeper.steps.report import TransformationReport
from lightkeeper.steps.why import Answer, why
from lightkeeper.store import db, healing, messages, reports, usage
from lightkeeper.store.messages import ConcernRow, MessageRow
from lightkeeper.store.reports import Healed
from lightkeeper.store.usage import Usage

ASKED = 100_000
"""With more jobs than this the page does not tell what they used: that would take too long."""
SHOWN = 30
"""How many of each are shown; the page says where the others are."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An Active transformation and what is decided about it."""

    of: TransformationFacts
    decision: Decision

    @property
    def person(self) -> bool:
        """Whether nothing goes on without one."""
        return self.decision.what in (Remedy.DECIDE, Remedy.LEAVE)


@dataclass(frozen=True, slots=True)
class KeeperPage:
    """Everything on the page of the keeper. Lists are cut to what is shown; the `n_` tell how many there are."""

    at: datetime
    decisions: list[ConcernRow]
    n_decisions: int
    waiting: list[Waiting]
    n_waiting: int
    healed: list[Healed]
    messages: list[MessageRow]


def look(ctx: Context) -> KeeperPage:
    """The facts of now."""
    with ctx.db.transaction() as conn:
        at = db.now(conn)
        keeper = healing.keeper(conn)
        decisions = messages.concerns(conn)
        facts = healing.facts(conn)
        healed = reports.healed(conn, SHOWN)
        sent = messages.messages(conn, SHOWN)
    waiting = sorted(
        (Waiting(one, decide(one, keeper.of(one.type))) for one in facts),
        key=lambda one: (not one.person, -one.of.transformation_id),
    )
    return KeeperPage(
        at=at,
        decisions=decisions[:SHOWN],
        n_decisions=len(decisions),
        waiting=waiting[:SHOWN],
        n_waiting=len(waiting),
        healed=healed[::-1],
        messages=[_hidden(one) for one in sent],
    )


def _hidden(one: MessageRow) -> MessageRow:
    return MessageRow(
        one.message_id,
        one.condition,
        tell.shown(one.address),
        one.created,
        one.not_before,
        one.sent,
        one.refused,
        one.attempts,
        one.error,
        one.items,
    )


@dataclass(frozen=True, slots=True)
class ReportPage:
    """The report of one transformation, and what its jobs used; None where they are too many to ask."""

    at: datetime
    report: TransformationReport
    answer: Answer
    usage: list[Usage] | None
    columns: tuple[str, ...] = COLUMNS


def look_at(ctx: Context, transformation_id: int) -> ReportPage:
    """The report of a transformation; raises NotFound."""
    found = report.transformation(ctx, transformation_id)
    answer = why(ctx, str(transformation_id))
    with ctx.db.transaction() as conn:
        few = found.summary.done + found.summary.failed_attempts <= ASKED
        return ReportPage(
            db.now(conn), found, answer, usage.of_transformation(conn, transformation_id) if few else None
        )
