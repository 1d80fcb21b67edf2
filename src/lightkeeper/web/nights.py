"""What the pages of nights show: what came and how far it is preserved, by night and within one; quality figures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lightkeeper.context import Context
from lightkeeper.domain.nights import Part, Report, Summary
from lightkeeper.domain.quality import Alarm, Figure, NightValue
from lightkeeper.steps import nights, quality
from lightkeeper.store import db
from lightkeeper.store import nights as store
from lightkeeper.store.nights import Refused, Volume
from lightkeeper.web.words import size

NIGHTS = 30
COLOURS = 6
"""Divisions with a colour of their own; the smallest share the last one."""
WIDTH, HEIGHT, MARGIN = 300.0, 80.0, 8.0
"""Of a plot of a quality figure."""
SHOWN = 30


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a column: x in nights, y and height in percent of the highest column."""

    x: float
    y: float
    height: float
    colour: int
    told: str


@dataclass(frozen=True, slots=True)
class Division:
    """A division, its colour in the chart, and its bytes in all nights that are shown."""

    name: str
    colour: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Raw bytes by night and division, as columns of pieces. `most`: bytes of the highest column."""

    nights: list[str]
    divisions: list[Division]
    columns: list[list[Piece]]
    most: int


@dataclass(frozen=True, slots=True)
class Point:
    """A figure in one night, in the units of the plot: where its mean is, and from where to where its values go."""

    x: float
    y: float
    top: float
    bottom: float
    bad: bool
    told: str


@dataclass(frozen=True, slots=True)
class Plot:
    """How a figure goes from night to night: `band_top` and `band_bottom` are its range, as far as it is in the plot.
    `line` joins the means."""

    figure: Figure
    points: list[Point]
    line: str
    band_top: float
    band_bottom: float
    first: str
    last: str
    now: float
    out_of_range: int


@dataclass(frozen=True, slots=True)
class Nights:
    """Everything on the page of nights."""

    at: datetime
    nights: list[Summary]
    chart: Chart
    plots: list[Plot]
    alarms: list[Alarm]


@dataclass(frozen=True, slots=True)
class OneNight:
    """Everything on the page of one night. `most`: bytes of the array element with the most."""

    at: datetime
    report: Report
    elements: list[Part]
    most: int
    refused: list[Refused]
    missing: list[str]


def look(ctx: Context) -> Nights:
    """The facts of now."""
    found = nights.find(ctx, NIGHTS)
    with ctx.db.transaction() as conn:
        at = db.now(conn)
        volumes = store.volumes(conn, [night.night for night in found])
    figures = [(state.figure, quality.trend(ctx, state.figure.name, NIGHTS)) for state in quality.find(ctx)]
    return Nights(
        at=at,
        nights=found,
        chart=chart(volumes, [night.night for night in reversed(found)]),
        plots=[plot(figure, values) for figure, values in figures if values],
        alarms=quality.alarms(ctx)[:SHOWN],
    )


def look_at(ctx: Context, night: str) -> OneNight:
    """One night. Raises NotFound."""
    report = nights.show(ctx, night)
    with ctx.db.transaction() as conn:
        at = db.now(conn)
    return OneNight(
        at=at,
        report=report,
        elements=sorted(report.elements, key=lambda part: (-part.bytes, part.name)),
        most=max((part.bytes for part in report.elements), default=0),
        refused=nights.refused(ctx, night, SHOWN),
        missing=nights.missing(ctx, night, SHOWN),
    )


def chart(volumes: Sequence[Volume], names: Sequence[str]) -> Chart:
    """A column for each night, oldest first, the largest division at the bottom."""
    by_division: defaultdict[str, int] = defaultdict(int)
    by_night: defaultdict[tuple[str, str], int] = defaultdict(int)
    for one in volumes:
        by_division[one.division] += one.bytes
        by_night[one.night, one.division] += one.bytes
    order = sorted(by_division, key=lambda name: (-by_division[name], name))
    divisions = [Division(name, min(n, COLOURS - 1), by_division[name]) for n, name in enumerate(order)]
    most = max((sum(by_night[night, name] for name in order) for night in names), default=0)
    columns: list[list[Piece]] = []
    for n, night in enumerate(names):
        top, column = 100.0, list[Piece]()
        for division in divisions:
            if bytes_ := by_night[night, division.name]:
                height = 100 * bytes_ / most
                top -= height
                told = f"{night}: {size(bytes_)} {division.name or 'of no division'}"
                column.append(Piece(n + 0.14, round(top, 2), round(height, 2), division.colour, told))
        columns.append(column)
    return Chart(list(names), divisions, columns, most)


def plot(figure: Figure, values: Sequence[NightValue]) -> Plot:
    """The plot of a figure; there is at least one value. A bound that is far away does not flatten the values."""
    least, most = min(v.least for v in values), max(v.most for v in values)
    spread = (most - least) or abs(most) or 1.0
    shown = [b for b in (figure.low, figure.high) if b is not None and least - spread <= b <= most + spread]
    low, high = min([least, *shown]), max([most, *shown])
    if low == high:
        low, high = low - spread / 2, high + spread / 2

    def y(value: float) -> float:
        return round(MARGIN + (HEIGHT - 2 * MARGIN) * (high - value) / (high - low), 2)

    def clipped(bound: float | None, outside: float) -> float:
        return outside if bound is None else min(max(y(bound), 0.0), HEIGHT)

    step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    points = [
        Point(
            x=round(MARGIN + n * step, 2) if len(values) > 1 else WIDTH / 2,
            y=y(v.mean),
            top=y(v.most),
            bottom=y(v.least),
            bad=v.out_of_range > 0,
            told=f"{v.night}: {v.mean:.4g} {figure.unit}".strip() + f", {v.least:.4g} to {v.most:.4g}",
        )
        for n, v in enumerate(values)
    ]
    return Plot(
        figure=figure,
        points=points,
        line=" ".join(f"{point.x},{point.y}" for point in points),
        band_top=clipped(figure.high, 0.0),
        band_bottom=clipped(figure.low, HEIGHT),
        first=values[0].night,
        last=values[-1].night,
        now=values[-1].mean,
        out_of_range=sum(v.out_of_range for v in values),
    )
