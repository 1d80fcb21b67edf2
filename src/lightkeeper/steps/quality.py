"""Step 9, for quality: figures of products, how they go from night to night, and what is out of range.

Before: nights.py counted the figures with the nights.    After: a person looks at what is out of range.
Called by the API, and by `app` for the observatory's own figures. An alarm rings while its night is open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel
from lightkeeper.domain.errors import Invalid, NotFound, nearest
from lightkeeper.domain.names import printable
from lightkeeper.domain.quality import Alarm, Figure, NightValue, check
from lightkeeper.domain.query import Query
from lightkeeper.steps import files as files_step
from lightkeeper.store import quality, topology
from lightkeeper.store.db import Connection
from lightkeeper.store.quality import FileValue

NIGHTS = 30


@dataclass(frozen=True, slots=True)
class State:
    """A figure, where it is defined, and its value in the last night that has it."""

    figure: Figure
    origin: str
    last: NightValue | None


def put(conn: Connection, figure: Figure, origin: str) -> bool:
    """Define a figure; whether that changed anything. Raises Invalid."""
    vocabulary = topology.vocabulary(conn)
    check(figure, vocabulary)
    query = Query.from_map(figure.files, vocabulary)
    set_query = query.jsonpath(vocabulary, KeyLevel.SET) or "true"
    return quality.put(conn, figure, set_query, query.jsonpath(vocabulary, KeyLevel.FILE), origin)


def put_figures_of_observatories(ctx: Context) -> None:
    """Define the figures that the plug-ins bring."""
    with ctx.db.transaction() as conn:
        for observatory in ctx.observatories:
            for figure in observatory.quality_figures():
                put(conn, figure, observatory.name)


def find(ctx: Context) -> list[State]:
    """Every figure with its last value."""
    with ctx.db.transaction() as conn:
        known = quality.figures(conn)
        return [State(k.figure, k.origin, next(iter(_trend(conn, k.figure, 1)), None)) for k in known]


def trend(ctx: Context, name: str, nights: int = NIGHTS, *, by_element: bool = False) -> list[NightValue]:
    """A figure in the last nights that have it, oldest first. Raises NotFound."""
    with ctx.db.transaction() as conn:
        return _trend(conn, _figure(conn, name), nights, by_element=by_element)


def show(ctx: Context, name: str) -> Figure:
    """One figure. Raises NotFound."""
    with ctx.db.transaction() as conn:
        return _figure(conn, name)


def alarms(ctx: Context) -> list[Alarm]:
    """What is out of range in nights that are open, the latest night first."""
    with ctx.db.transaction() as conn:
        return alarms_in(conn)


def alarms_in(conn: Connection) -> list[Alarm]:
    """The same, in a transaction."""
    figures = {known.figure.name: known.figure for known in quality.figures(conn)}
    found = [
        (figures[o.figure], NightValue(o.night, o.element, o.files, o.mean, o.least, o.most, o.below, o.above))
        for o in quality.out_of_range(conn)
        if o.figure in figures
    ]
    for figure in figures.values():
        if figure.reduction_to is not None:
            values = _trend(conn, figure, NIGHTS)
            found += [(figure, v) for v in reversed(values) if v.out_of_range and quality.is_open(conn, v.night)]
    return [Alarm(figure.name, figure.unit, figure.low, figure.high, value) for figure, value in found]


def files(
    ctx: Context, name: str, night: str, *, only_out_of_range: bool = False, limit: int = 1000
) -> list[FileValue]:
    """The files of a night that have a figure, the worst first. Raises NotFound."""
    with ctx.db.transaction() as conn:
        figure = _figure(conn, name)
        if figure.reduction_to is not None:
            raise Invalid(f"{figure.name} is a figure of nights, not of files")
        return quality.files(conn, name, night, only_out_of_range=only_out_of_range, limit=limit)


def record(ctx: Context, lfn: str, values: Mapping[str, float], *, dry_run: bool = False) -> None:
    """Note what somebody measured on a file: the figures' metadata keys get the values. Raises what is wrong."""
    with ctx.db.transaction() as conn:
        figures = {name: _figure(conn, name) for name in values}
    for figure in figures.values():
        if figure.per or not figure.key:
            raise Invalid(f"{figure.name} is computed, so it cannot be recorded")
    meta = {figures[name].key: value for name, value in values.items()}
    changed = files_step.set_metadata(ctx, [lfn], meta, [], dry_run=dry_run)
    if changed.failed:
        raise NotFound(changed.failed[0].error, hint=changed.failed[0].hint)


def remove(ctx: Context, name: str) -> None:
    """Forget a figure; its values stay with their files. An observatory's own comes back at the next start."""
    with ctx.db.transaction() as conn:
        _figure(conn, name)
        quality.remove(conn, name)


def _trend(conn: Connection, figure: Figure, nights: int, *, by_element: bool = False) -> list[NightValue]:
    if figure.reduction_to is not None:
        return quality.reductions(conn, figure.reduction_to, figure.low, figure.high, nights)
    return quality.trend(conn, figure.name, nights, by_element=by_element)


def _figure(conn: Connection, name: str) -> Figure:
    known = {one.figure.name: one.figure for one in quality.figures(conn)}
    if name not in known:
        raise NotFound(f"there is no quality figure '{printable(name)}'", hint=nearest(name, known))
    return known[name]
