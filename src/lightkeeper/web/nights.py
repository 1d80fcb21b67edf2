"""What the pages of nights show: what came and how far it is preserved, by night and within one; quality figures."""

from collections import Counter
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
from lightkeeper.web import columns
from lightkeeper.web.columns import Chart

NIGHTS = 30
WIDTH, HEIGHT, MARGIN = 300.0, 80.0, 8.0
"""Of a plot of a quality figure."""
SHOWN = 30


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
    """A column for each night, oldest first, of its divisions."""
    of_night: Counter[tuple[str, str]] = Counter()
    for one in volumes:
        of_night[one.night, one.division] += one.bytes
    return columns.chart(names, of_night, lambda division: division or "of no division")


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
