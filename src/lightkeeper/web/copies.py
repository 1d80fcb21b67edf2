"""What the page of copies shows: what files are owed and have, what went where, what waits, how storages are."""

from collections import defaultdict
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
from lightkeeper.web.words import size

DAYS = 14
COLOURS = 6
"""Sites with a colour of their own; the smallest share the last one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a column: x in days, y and height in percent of the highest column."""

    x: float
    y: float
    height: float
    colour: int
    told: str


@dataclass(frozen=True, slots=True)
class Destination:
    """A site that data went to, its colour in the chart and the bytes it took in."""

    name: str
    colour: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bytes by day and destination, as columns of pieces. `most`: bytes of the highest column."""

    days: list[date]
    sites: list[Destination]
    columns: list[list[Piece]]
    most: int


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
    """A column for each of the last days, the destination that took most at the bottom."""
    days = [today - timedelta(days=n) for n in range(DAYS - 1, -1, -1)]
    by_site: defaultdict[str, int] = defaultdict(int)
    by_day: defaultdict[tuple[date, str], int] = defaultdict(int)
    for flow in flows:
        by_site[flow.target] += flow.bytes
        by_day[flow.day, flow.target] += flow.bytes
    names = sorted((name for name in by_site if by_site[name]), key=lambda name: (-by_site[name], name))
    sites = [Destination(name, min(n, COLOURS - 1), by_site[name]) for n, name in enumerate(names)]
    most = max((sum(by_day[day, name] for name in names) for day in days), default=0)
    columns: list[list[Piece]] = []
    for n, day in enumerate(days):
        top, column = 100.0, list[Piece]()
        for site in sites:
            if bytes_ := by_day[day, site.name]:
                height = 100 * bytes_ / most
                top -= height
                told = f"{day}: {size(bytes_)} to {site.name}"
                column.append(Piece(n + 0.14, round(top, 2), round(height, 2), site.colour, told))
        columns.append(column)
    return Chart(days, sites, columns, most)
