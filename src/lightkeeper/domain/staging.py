"""What a tape storage is asked for next, and what is done when it fails."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

FIRST_LOOK = timedelta(seconds=1)
LONGEST_LOOK = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A copy that waits to be staged. Those of one `together`, if not 0, are needed at the same time."""

    recall_id: int
    size: int
    together: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked for now; and what never can be, each with the bytes that its group needs."""

    take: tuple[int, ...] = ()
    too_large: tuple[tuple[int, int], ...] = ()


def next_batch(queue: Sequence[Waiting], room: int, buffer: int | None, most: int) -> Batch:
    """As many from the head of the queue as there is room for, `most` at the most; never a part of a group: two groups
    of which half are online would wait for each other's room for ever.

    `queue` is sorted and may be longer than `most`: a group that it cuts is left for the next batch, unless it is the
    first. Nothing overtakes what there is no room for: else a large group would never come.
    """
    take: list[int] = []
    too_large: list[tuple[int, int]] = []
    groups = [list(group) for _, group in groupby(queue, key=lambda w: w.together or -w.recall_id)]
    for number, group in enumerate(groups):
        needed = sum(one.size for one in group)
        if buffer is not None and needed > buffer:
            too_large += [(one.recall_id, needed) for one in group]
            continue
        last_may_be_cut = number == len(groups) - 1 and len(queue) > most and group[0].together
        if needed > room or (take and (len(take) + len(group) > most or last_may_be_cut)):
            break
        take += [one.recall_id for one in group]
        room -= needed
    return Batch(tuple(take), tuple(too_large))


def look_again(asked: datetime, now: datetime) -> timedelta:
    """How long a request that was asked then is left alone now: staging takes as long as it takes, so the older it is,
    the less it matters to know at once."""
    return min(LONGEST_LOOK, max(FIRST_LOOK, (now - asked) / 10))


def estimate(bytes_left: int, rate: float) -> float | None:
    """Seconds until so many bytes are online at this rate; None when nobody can tell."""
    if not bytes_left:
        return 0.0
    return bytes_left / rate if rate > 0 else None
