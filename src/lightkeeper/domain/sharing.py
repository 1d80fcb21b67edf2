"""Which waiting jobs go first, on which pilots: priorities, shares and needs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SHARES = ("group", "production", "job type")
"""What may have a share, from the outer to the inner: productions share what their group has, and so on."""
GROUP = "observatory"
"""The group of people of a production of which nobody said another."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A transformation of which jobs wait or run. `sites`: only at one of these, empty: anywhere; `memory_mb`
    None: it does not matter."""

    transformation_id: int
    priority: int
    group: str
    production: str
    job_type: str
    processors: int
    memory_mb: int | None
    tags: frozenset[str]
    sites: frozenset[int]
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What a pilot has for a job."""

    site_id: int
    processors: int = 1
    memory_mb: int | None = None
    tags: frozenset[str] = frozenset()


def suits(lane: Lane, offer: Offer) -> bool:
    """Whether jobs of the lane can run there."""
    return (
        (not lane.sites or offer.site_id in lane.sites)
        and lane.processors <= offer.processors
        and (lane.memory_mb is None or offer.memory_mb is None or lane.memory_mb <= offer.memory_mb)
        and lane.tags <= offer.tags
    )


def in_turn(lanes: Iterable[Lane], shares: Mapping[tuple[str, str], float], offer: Offer) -> list[Lane]:
    """The lanes whose jobs wait and suit the offer, in the order in which they are asked for one.

    A smaller priority goes before all others. Within one, the group goes first whose jobs have the fewest processors
    now for its share; within a group the production, within that the job type, and then the transformation.
    """
    lanes = list(lanes)
    use: Counter[tuple[str, ...]] = Counter()
    for lane in lanes:
        path = (lane.group, lane.production, lane.job_type)
        for depth in range(1, len(path) + 1):
            use[path[:depth]] += lane.running * lane.processors

    def turn(lane: Lane) -> tuple[float | str, ...]:
        path = (lane.group, lane.production, lane.job_type)
        levels = [
            part
            for depth, (kind, name) in enumerate(zip(SHARES, path, strict=True), start=1)
            for part in (use[path[:depth]] / shares.get((kind, name), 1.0), name)
        ]
        return (lane.priority, *levels, lane.running * lane.processors, lane.transformation_id)

    return sorted((lane for lane in lanes if lane.waiting > 0 and suits(lane, offer)), key=turn)
