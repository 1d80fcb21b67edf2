"""Which waiting transfers go next, from where, and when one that failed is tried again. Pure decisions.

A *stream* is what one thread carries: a single file, or many small ones between the same two storages. Limits count
streams: of a link between two sites, and of a storage at either end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product

from lightkeeper.domain.catalog import SiteKind, StorageElement
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Refused
from lightkeeper.domain.states import Health
from lightkeeper.domain.work import retry_delay

SMALL = 32 << 20
"""Files below so many bytes go together in one stream."""
TOGETHER = 200
TOGETHER_BYTES = 256 << 20
"""So many files and bytes are one stream at the most."""
LOOKED_AT = 200
"""So many transfers of one queue are looked at to choose a stream; where that many wait, there is enough for all."""
ACTIVITY = "preservation"
"""What a transfer is made for when nobody says otherwise: the key of shares and of the transfer log."""


@dataclass(frozen=True, slots=True)
class LinkLimit:
    """What a link carries at once: streams, and bytes per second (None: no limit)."""

    max_transfers: int = 4
    max_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """That transfers wait to be made to a storage, for one activity and at one priority."""

    target_id: int
    activity: str
    priority: int


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting transfer, the storages that have an Available copy of its file, and those of them that attempts from
    failed, once for each attempt."""

    transfer_id: int
    size: int
    sources: tuple[int, ...]
    failed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that run now: by link, by storage at either end, by activity, by target."""

    links: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    storages: Counter[int] = field(default_factory=Counter[int])
    activities: Counter[str] = field(default_factory=Counter[str])
    targets: Counter[int] = field(default_factory=Counter[int])

    @staticmethod
    def of(running: Sequence[tuple[int, int, str]], storages: Mapping[int, StorageElement]) -> "Load":
        """The load of streams given as (source, target, activity)."""
        load = Load()
        for source, target, activity in running:
            load.links[storages[source].site, storages[target].site] += 1
            load.storages.update((source, target))
            load.activities[activity] += 1
            load.targets[target] += 1
        return load


@dataclass(frozen=True, slots=True)
class Stream:
    """Transfers to be made in one go, from one storage to another."""

    source_id: int
    target_id: int
    transfer_ids: tuple[int, ...]


def in_turn(heads: Sequence[Head], load: Load, shares: Mapping[str, float]) -> list[Head]:
    """Heads in the order in which they are served: by priority, then the activity that has least of its share, then the
    storage that least is going to."""
    return sorted(
        heads,
        key=lambda head: (
            head.priority,
            load.activities[head.activity] / shares.get(head.activity, 1.0),
            load.targets[head.target_id],
            head.target_id,
            head.activity,
        ),
    )


def next_stream(
    queued: Sequence[Queued],
    target: StorageElement,
    storages: Mapping[int, StorageElement],
    links: Mapping[tuple[str, str], LinkLimit],
    load: Load,
) -> Stream | None:
    """The first of the waiting transfers to a storage that can go now, with the small ones that can go along.

    None when the storage has as many streams as it takes, or no source of any of them has room.
    """
    if load.storages[target.storage_id] >= target.streams:
        return None
    first: Queued | None = None
    source_id = room = most_bytes = 0
    along: list[Queued] = []
    for one in queued:
        if first is None:
            found = best_source(one, target, storages, links, load)
            if found is None:
                continue
            first, source_id = one, found
            link = links.get((storages[source_id].site, target.site), LinkLimit())
            room = _room(storages[source_id], target, link, load)
            rates = [r for r in (link.max_rate, storages[source_id].max_rate, target.max_rate) if r]
            most_bytes = min([TOGETHER_BYTES, *rates])  # of a slow way so much as takes it a second
            if one.size >= SMALL:
                return Stream(source_id, target.storage_id, (one.transfer_id,))
        elif one.size < SMALL and best_source(one, target, storages, links, load) == source_id:
            along.append(one)
    if first is None:
        return None
    chosen, size = [first.transfer_id], first.size
    part = TOGETHER if len(queued) >= LOOKED_AT else -(-(1 + len(along)) // room)  # of few, others take theirs
    for one in along[: part - 1]:
        size += one.size
        if size > most_bytes:
            break
        chosen.append(one.transfer_id)
    return Stream(source_id, target.storage_id, tuple(chosen))


def best_source(
    one: Queued,
    target: StorageElement,
    storages: Mapping[int, StorageElement],
    links: Mapping[tuple[str, str], LinkLimit],
    load: Load,
) -> int | None:
    """Where a transfer is made from: of the copies with room on the way one that failed least, at a data centre rather
    than at the observatory, in good health, where least is going on. None when no way has room."""
    possible = [
        source
        for source in (storages[s] for s in one.sources if s in storages)
        if source.readable
        and source.storage_id != target.storage_id
        and _room(source, target, links.get((source.site, target.site), LinkLimit()), load) > 0
    ]
    if not possible:
        return None
    return min(
        possible,
        key=lambda source: (
            one.failed.count(source.storage_id),
            source.site_kind is not SiteKind.DATA_CENTRE,
            source.health is not Health.GOOD,
            load.links[source.site, target.site],
            load.storages[source.storage_id],
            source.storage_id,
        ),
    ).storage_id


def ways(source: StorageElement, target: StorageElement) -> list[tuple[StorageElement, StorageElement]]:
    """The pairs of protocols by which files can go from one storage to another, the best first: those that answer, the
    same protocol on both sides, which copies without us, then by their order."""
    if len(source.protocols) + len(target.protocols) <= 2:
        return [(source, target)]
    pairs = sorted(
        product(source.protocols, target.protocols),
        key=lambda pair: (
            not (pair[0].answers and pair[1].answers),
            pair[0].driver != pair[1].driver,
            pair[0].rank + pair[1].rank,
        ),
    )
    return [(source.by(one), target.by(other)) for one, other in pairs]


def _room(source: StorageElement, target: StorageElement, link: LinkLimit, load: Load) -> int:
    """How many more streams may go this way."""
    return min(
        link.max_transfers - load.links[source.site, target.site],
        source.streams - load.storages[source.storage_id],
        target.streams - load.storages[target.storage_id],
    )


def next_attempt(error: LightkeeperError, attempts: int, most: int, base: timedelta) -> timedelta | None:
    """How long a transfer waits after its attempt failed; None: it is given up, and another place is looked for.

    What is away comes back: those attempts are repeated with growing waits. Bytes that were damaged, or a source that
    is not there, are no reason to wait: another copy is taken. What is forbidden does not become allowed by asking
    often.
    """
    if attempts >= most:
        return None
    if isinstance(error, Corrupt | NotFound):
        return retry_delay(min(attempts, 3), base)
    if isinstance(error, Refused):
        return None if attempts >= max(1, most // 3) else retry_delay(attempts + 3, base)
    return retry_delay(attempts, base)
