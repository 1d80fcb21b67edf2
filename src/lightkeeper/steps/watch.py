"""Step 1, first part: triggers are found, and each becomes a delivery in the database.

Before: the array control wrote the file and then `<file>.trigger`.    After: ingest.py verifies and registers it.
Worker: all the time; it waits for events. Safe to run twice and in several workers: a name that is open already is the
same delivery. Nothing is remembered of triggers: what is lost in a crash, the first look of the next worker finds.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.steps import inotify
from lightkeeper.steps.folders import Folders, tells_events
from lightkeeper.steps.reading import SUFFIX
from lightkeeper.store import topology, triggers

LONGEST_WAIT = 1.0
"""Seconds: so often is looked which storages there are, and whether they are still the same."""
GATHER = 0.01
"""Seconds that events are gathered, to make deliveries of many triggers at once."""
REST = 10
"""A storage is left alone for so many times as long as it took to look through it."""
OLD = 3600.0
"""Seconds after which everything is looked at anew, as after a start."""
ATTRIBUTE = "watch"
"""Of a storage: `events` or `scan`; without it, by the kind of its file system."""


def scan(ctx: Context) -> int:
    """Look once through every interface directory, and accept what is announced there; return how many are new."""
    return sum(
        _accept(ctx, s, Folders(ctx.local_storage(s).local_path("/"), events=False).look()) for s in _watched(ctx)
    )


@dataclass(slots=True)
class _Watched:
    """One storage that is watched, and when it is to be looked through next."""

    element: StorageElement
    folders: Folders
    since: float
    due: float = 0.0


class Watch:
    """The duty: waits for triggers and accepts them."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}

    def __call__(self, ctx: Context) -> int:
        """Accept what came; when nothing did, wait for it shortly. Returns how many are new."""
        self._look_after(ctx, _watched(ctx))
        now = time.monotonic()
        due = min((one.due for one in self._watched.values()), default=now + LONGEST_WAIT)
        queues = [one.folders.queue for one in self._watched.values() if one.folders.queue]
        if due > now and inotify.wait(queues, min(due - now, LONGEST_WAIT)):
            time.sleep(GATHER)
        return sum(self._found(ctx, one) for one in self._watched.values())

    def _look_after(self, ctx: Context, elements: Sequence[StorageElement]) -> None:
        """Begin and end watching storages as they come, go and change."""
        now = time.monotonic()
        for storage_id in self._watched.keys() - {element.storage_id for element in elements}:
            self._watched.pop(storage_id).folders.close()
        for element in elements:
            known = self._watched.get(element.storage_id)
            if known and _same(known.element, element) and known.since > now - OLD and known.folders.is_still_there():
                continue
            if known:
                known.folders.close()
            root = ctx.local_storage(element).local_path("/")
            how = element.attributes.get(ATTRIBUTE)
            folders = Folders(root, events=how == "events" or (how != "scan" and tells_events(root)))
            self._watched[element.storage_id] = _Watched(element, folders, now)

    def _found(self, ctx: Context, one: _Watched) -> int:
        """Accept what events told of a storage and, when it is due, what is found by looking through it."""
        try:
            new = _accept(ctx, one.element, one.folders.hear())
            began = time.monotonic()
            if began >= one.due:
                new += _accept(ctx, one.element, one.folders.look())
                settings = ctx.settings
                every = settings.scan_every if one.folders.why_unwatched else settings.rescan_every
                now = time.monotonic()
                one.due = now + max(every.total_seconds(), REST * (now - began))
        except BaseException:
            one.folders.close()
            del self._watched[one.element.storage_id]  # what it told and was not accepted is found by looking anew
            raise
        return new


def _same(one: StorageElement, other: StorageElement) -> bool:
    """Whether they are watched alike."""
    return (one.root, one.driver, one.attributes) == (other.root, other.driver, other.attributes)


def _watched(ctx: Context) -> list[StorageElement]:
    with ctx.db.transaction() as conn:
        return [s for s in topology.storages(conn) if s.ingest and s.readable]


def _accept(ctx: Context, element: StorageElement, found: Iterable[str]) -> int:
    """Accept the files that triggers announce; a trigger without a name announces itself, and is refused."""
    announced = [path if path.endswith("/" + SUFFIX) else path.removesuffix(SUFFIX) for path in found]
    if not announced:
        return 0
    with ctx.db.transaction() as conn:
        return triggers.accept(conn, element.storage_id, announced)
