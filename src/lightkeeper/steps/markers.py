"""Beside the walk: the disk that is there is the one that the catalogue means.

A folder where nothing is mounted looks like a storage that has lost everything. So each storage bears a marker, a small
file with its name and a number that the database keeps; without it, or with another one, it counts as not answering.
Called by topology.py, transfer.py, audit.py and compare.py before they believe that something is not there.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from lightkeeper.context import Context
from lightkeeper.domain.auditing import SAMPLE, is_the_disk
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Conflict, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Storage
from lightkeeper.store import scrub

MARKER = "/.lightkeeper/storage"
LONGEST = 1000


def ensure(ctx: Context, element: StorageElement, *, write: bool = True) -> None:
    """Raise Unavailable unless the disk is the one that the catalogue means.

    One without a marker that never had one gets it, when the catalogue knows no copies there, or when half of a sample
    of them, the oldest, are there with their sizes. The number is in the database before it is on the disk, so that a
    crash in between is mended by the next call. Without `write` nothing is changed.
    """
    with ctx.db.transaction() as conn:
        known = scrub.marker(conn, element.storage_id)
        sample = [] if known.marked else scrub.oldest_copies(conn, element.storage_id, SAMPLE)
    storage = ctx.storage(element)
    found = _read(storage, element)
    if found == known.marker:
        if write and not known.marked:
            _note(ctx, element, marked=True)
        return
    if found is not None or known.marked:
        raise _not_it(element, "it bears no marker" if found is None else "it bears the marker of another storage")
    there = sum((entry := storage.stat(copy.path)) is not None and entry.size == copy.size for copy in sample)
    if not is_the_disk(there, len(sample)):
        raise _not_it(element, f"{there} of {len(sample)} copies that should be there are")
    if write:
        with suppress(Refused):  # it may only be read: the sample is looked at each time
            _write(ctx, element, known.marker)


def is_there(ctx: Context, element: StorageElement) -> bool:
    """Whether the disk is the one that the catalogue means; False also when it does not answer."""
    try:
        ensure(ctx, element)
    except Unavailable:
        return False
    return True


def take_up(ctx: Context, elements: Sequence[StorageElement]) -> None:
    """Give those of these storages a marker that have none yet and may get one; the others are told of."""
    for element in elements:
        with ctx.db.transaction() as conn:
            if scrub.marker(conn, element.storage_id).marked:
                continue
        try:
            ensure(ctx, element)
        except LightkeeperError as error:
            ctx.log.warning("storage not marked", storage=element.name, why=error.message)


def mark(ctx: Context, element: StorageElement) -> None:
    """Believe a person that the disk that is there is the storage's: give it the marker. Raises Conflict when it is
    another storage's."""
    with ctx.db.transaction() as conn:
        known = scrub.marker(conn, element.storage_id)
    refuse_foreign(ctx.storage(element), element.name, element.root, known.marker)
    _write(ctx, element, known.marker)


def refuse_foreign(storage: Storage, name: str, root: str, ours: UUID | None) -> None:
    """Raise Conflict when a disk bears a marker, unless it is `ours`."""
    found = _marker_of(storage)
    if found is not None and found[1] != ours:
        raise Conflict(
            f"the disk below {root} cannot be storage {name}: it is storage '{printable(found[0])}' of this or another "
            "instance",
            hint=f"choose another root; if no instance uses it any more, remove {root}{MARKER}",
        )


def _write(ctx: Context, element: StorageElement, marker: UUID) -> None:
    text = json.dumps({"storage": element.name, "id": str(marker)}) + "\n"
    ctx.storage(element).write(MARKER, [text.encode()])
    _note(ctx, element, marked=True)
    ctx.log.info("storage marked", storage=element.name)


def _note(ctx: Context, element: StorageElement, *, marked: bool) -> None:
    with ctx.db.transaction() as conn:
        scrub.set_marked(conn, element.storage_id, marked=marked)


def _read(storage: Storage, element: StorageElement) -> UUID | None:
    """The number on a disk; None when it has no marker. Raises Unavailable for everything else."""
    try:
        found = _marker_of(storage)
    except Unavailable:
        raise
    except (LightkeeperError, OSError) as error:
        raise _not_it(element, f"its marker cannot be read: {error}") from error
    return found and found[1]


def _marker_of(storage: Storage) -> tuple[str, UUID] | None:
    try:
        with storage.open(MARKER) as file:
            text = file.read(LONGEST)
    except NotFound:
        return None
    try:
        told = json.loads(text)
        return str(told["storage"]), UUID(told["id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return printable(text.decode(errors="replace")), UUID(int=0)


def _not_it(element: StorageElement, why: str) -> Unavailable:
    return Unavailable(
        f"the disk of {element.name} is not mounted, or it is another one: {why}",
        hint=f"mount it below {element.root}; if this is its disk: lightkeeper storage mark {element.name}",
    )
