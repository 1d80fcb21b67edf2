"""What the page of copies shows: what files are owed and have, what went where, what waits, how storages are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lightkeeper.context import Context
from lightkeeper.steps import rules, traffic
from lightkeeper.steps.rules import Rule
from lightkeeper.store import db, reports
from lightkeeper.store import traffic as transfers
from lightkeeper.store.reports import StorageUse
from lightkeeper.store.traffic import Flow, Open
from lightkeeper.web import columns
from lightkeeper.web.columns import Chart

DAYS = 14


@dataclass(frozen=True, slots=True)
class Copies:
    """Everything on the page of copies."""

    at: datetime
    rules: list[Rule]
    chart: Chart
    open: list[Open]
    storages: list[StorageUse]


def look(ctx: Context) -> Copies:
    """The facts of now."""
    with ctx.db.transaction() as conn:
        at = db.now(conn)
        waiting = transfers.open_by_reason(conn)
        storages = reports.storage_use(conn)
    return Copies(
        at=at, rules=rules.find(ctx), chart=chart(traffic.flows(ctx, DAYS), at.date()), open=waiting, storages=storages
    )


def chart(flows: Sequence[Flow], today: date) -> Chart:
    """A column for each of the last days, of what each site took in."""
    volumes: Counter[tuple[str, str]] = Counter()
    for flow in flows:
        volumes[str(flow.day), flow.target] += flow.bytes
    days = [str(today - timedelta(days=n)) for n in range(DAYS - 1, -1, -1)]
    return columns.chart(days, volumes, lambda site: f"to {site}")
