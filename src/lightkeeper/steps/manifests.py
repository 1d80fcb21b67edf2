"""Step 7, for the day when the catalogue is lost: what each storage holds is told beside the data.

Before: everything that makes, moves or changes files.    After: recovery.py makes a catalogue's rows again from it.
Worker: write_due every 20 s. Called by fsck, and by the API. Safe to run twice: one manifest of a storage is written at
a time, under a lease; what a dead writer left is a manifest like any other, and the next one tells the same again.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain import manifest
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Corrupt, LightkeeperError, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Entry
from lightkeeper.steps import markers
from lightkeeper.store import db, manifests, recovery, topology
from lightkeeper.store.manifests import Telling, Written

LINES = 20_000
"""Copies in one manifest at the most: a night of half a million files makes 25 at each storage."""
TAPE_AFTER = timedelta(days=1)
"""A line waits so long at the most for the manifest of a storage on tape, where small files are dear."""
LARGEST = 1 << 28
"""Bytes of a manifest that are read; ours are far smaller."""


# --- writing ---------------------------------------------------------------------------------------------------
def write_due(ctx: Context) -> int:
    """Write a manifest on every storage where enough is due, or something for long enough; return how many."""
    with ctx.db.transaction() as conn:
        due = set(manifests.due(conn, LINES, ctx.settings.manifest_after, TAPE_AFTER))
        elements = [s for s in topology.storages(conn) if s.readable and s.write and s.storage_id in due]
    return sum(_is_written(ctx, element) for element in elements)


def _is_written(ctx: Context, element: StorageElement) -> bool:
    """Whether a manifest was written; a storage that does not answer does not stop the others."""
    try:
        return write(ctx, element)
    except (LightkeeperError, OSError) as error:
        ctx.log.warning("manifest not written", storage=element.name, why=str(error))
        return False


def write(ctx: Context, element: StorageElement) -> bool:
    """Write what is due on a storage as its next manifest, and read it back. False when somebody else is at it, or
    nothing is due. Raises what the storage raises: then all of it is due still."""
    markers.ensure(ctx, element)
    notice_newer(ctx, element)
    with ctx.db.transaction() as conn:
        turn = manifests.begin(conn, element.storage_id, ctx.settings.lease)
        told, items = manifests.facts(conn, element.storage_id, LINES) if turn else ([], [])
        if turn and not told:
            manifests.give_up(conn, turn)
    if turn is None or not told:
        return False
    previous = manifest.path_of(turn.previous, turn.previous_sha256 or "") if turn.previous else ""
    content = manifest.written(element.name, turn.stamp, previous, f"lightkeeper {__version__}", items)
    digest = manifest.digest_of(content)
    path = manifest.path_of(turn.stamp, digest)
    storage = ctx.storage(element)
    try:
        storage.write(path, [content])
        with storage.open(path) as file:
            if manifest.digest_of(file.read()) != digest:
                raise Corrupt(f"storage {element.name} gives back another manifest than was written")
    except (LightkeeperError, OSError):
        with suppress(LightkeeperError, OSError):
            storage.delete(path)
        with ctx.db.transaction() as conn:
            manifests.give_up(conn, turn)
        raise
    with ctx.db.transaction() as conn:
        ours = manifests.end(conn, turn, digest, len(content), items, told)
    ctx.log.info("manifest written", storage=element.name, lines=len(told), bytes=len(content), ours=ours)
    return True


def notice_newer(ctx: Context, element: StorageElement) -> bool:
    """Whether a storage has a manifest that is newer than every one that the catalogue knows: then the catalogue is a
    restored or a new one, and a recovery begins. Nothing is deleted until a person says that all is known again."""
    with ctx.db.transaction() as conn:
        last = manifests.last_known(conn, element.storage_id)
        now = db.now(conn)
    newer = [stamp for stamp, _ in _since(ctx, element, last, now) if last is None or stamp > last]
    if not newer:
        return False
    with ctx.db.transaction() as conn:
        began = recovery.begin(conn, f"{element.name} has manifests that the catalogue does not know")
    if began:
        ctx.log.warning("recovery begins", storage=element.name, newer=len(newer), newest=str(max(newer)))
    return True


def look_for_newer(ctx: Context, elements: Sequence[StorageElement] | None = None) -> None:
    """At the start of a program, before anything may be deleted, and when storages are taken up: see whether the
    catalogue is behind one of these storages, or of all."""
    with ctx.db.transaction() as conn:
        known = topology.storages(conn)
    for element in known if elements is None else elements:
        if not element.readable:
            continue
        try:
            markers.ensure(ctx, element, write=False)
            notice_newer(ctx, element)
        except (LightkeeperError, OSError) as error:
            ctx.log.warning("manifests not looked at", storage=element.name, why=str(error))


def _since(
    ctx: Context, element: StorageElement, last: datetime | None, now: datetime
) -> Iterator[tuple[datetime, str]]:
    """Manifests on a storage of the months since the last that is known: few folders are listed, whatever its age."""
    if last is None:
        areas = [manifest.AREA]
    else:
        months = (now.year - last.year) * 12 + now.month - last.month
        first = last.year * 12 + last.month - 1
        areas = [f"{manifest.AREA}/{m // 12}-{m % 12 + 1:02}" for m in range(first, first + max(months, 0) + 2)]
    for area in areas:
        for entry in ctx.storage(element).list(area):
            if name := manifest.named(entry.path):
                yield name


# --- reading ---------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class ReadManifests:
    """What was read of a storage's manifests: their names, lines of copies in them, and what is wrong with some."""

    found: list[tuple[datetime, str, int]] = field(default_factory=list[tuple[datetime, str, int]])
    lines: int = 0
    faults: list[str] = field(default_factory=list[str])


def read(ctx: Context, element: StorageElement, telling: Telling) -> ReadManifests:
    """Read every manifest on a storage into `telling`, oldest first. One that is not as it was written is told of and
    not believed; so is one that a later one, or the catalogue, names and that is not there. Raises Unavailable."""
    storage = ctx.storage(element)
    done = ReadManifests()
    entries = {name: e for e in storage.list(manifest.AREA) if (name := manifest.named(e.path))}
    named: set[str] = set()
    for stamp, digest in sorted(entries):
        entry = entries[stamp, digest]
        try:
            content = _content(ctx, element, entry)
            items = list(manifest.read(entry.path, content))
        except Unavailable:
            raise
        except (LightkeeperError, OSError) as error:
            done.faults.append(f"{element.name}: {error}")
            continue
        named.add(manifest.previous_of(content))
        done.lines += telling.add(items)
        done.found.append((stamp, digest, len(content)))
    with ctx.db.transaction() as conn:
        known = {manifest.path_of(*one) for one in manifests.known(conn, element.storage_id).items()}
    there = {entry.path for entry in entries.values()}
    done.faults += [
        f"{element.name}: manifest {printable(path)} is not there" for path in sorted((known | named) - there - {""})
    ]
    telling.complete()
    return done


def _content(ctx: Context, element: StorageElement, entry: Entry) -> bytes:
    if entry.size > LARGEST:
        raise Corrupt(f"{entry.path} has {entry.size} bytes: it is no manifest")
    with ctx.storage(element).open(entry.path) as file:
        return file.read(LARGEST)


def faults(ctx: Context, element: StorageElement, limit: int) -> list[str]:
    """What of a storage could not be made again from its manifests alone (I19); those that are due are left out."""
    with ctx.db.session() as session:
        telling = Telling(session, element.storage_id)
        done = read(ctx, element, telling)
        untold = [
            f"no manifest tells of {path} on {element.name} as it is"
            for _, path in telling.untold(limit, conflicts=True)
        ]
        ghosts = [f"a manifest tells of {path} on {element.name}, which is not there" for path in telling.ghosts(limit)]
    return [*done.faults, *untold, *ghosts]


# --- reports ---------------------------------------------------------------------------------------------------
def progress(ctx: Context) -> list[Written]:
    """The manifests of each storage, and what is due."""
    with ctx.db.transaction() as conn:
        return manifests.progress(conn)
