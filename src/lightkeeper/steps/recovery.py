"""Step 7, on the day itself: the catalogue is behind its storages, because it is new, or was restored from a backup.

Before: manifests.py told beside the data what is there.    After: audit.py reads what was believed, replicate.py plans.
Called by the API; manifests.py begins a recovery by itself. Safe to run twice: what was made again is there already.

From begin to end nothing is deleted: no deletion is approved or carried out, no dark file and no temporary removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile, StorageElement, Vocabulary
from lightkeeper.domain.errors import Conflict, Refused
from lightkeeper.domain.names import Fixity, parse_lfn
from lightkeeper.domain.states import File
from lightkeeper.steps import manifests, markers
from lightkeeper.steps.audit import element_named
from lightkeeper.store import catalog, changes, db, provenance, recovery, topology
from lightkeeper.store import manifests as told
from lightkeeper.store.manifests import Missing, Telling
from lightkeeper.store.recovery import Reconciled

BLOCK = 5000


# --- nothing is deleted ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Status:
    """Whether a recovery is under way, since when and why, and how far each storage is known again."""

    under_way: bool
    began: datetime | None
    ended: datetime | None
    why: str
    end_why: str
    storages: list[Reconciled]


def begin(ctx: Context, why: str) -> bool:
    """From now on nothing is deleted. False when that was so already."""
    with ctx.db.transaction() as conn:
        began = recovery.begin(conn, why)
    if began:
        ctx.log.warning("recovery begins", why=why)
    return began


def status(ctx: Context) -> Status:
    """Whether a recovery is under way, and what is left to do."""
    with ctx.db.transaction() as conn:
        last = recovery.last(conn)
        storages = recovery.reconciled(conn)
    if last is None:
        return Status(False, None, None, "", "", [])
    return Status(last.ended is None, last.began, last.ended, last.why, last.end_why, storages)


def end(ctx: Context, why: str = "") -> bool:
    """Things may be deleted again. Raises Refused when a storage in use was not compared since the recovery began: the
    catalogue may believe in copies there that are gone; with a reason, `why`, it ends all the same."""
    with ctx.db.transaction() as conn:
        open_ = [s.storage for s in recovery.reconciled(conn) if s.enabled and s.compared is None]
        last = recovery.last(conn)
        if open_ and not why and last is not None and last.ended is None:
            raise Refused(
                f"{', '.join(open_)} {'was' if len(open_) == 1 else 'were'} not compared since the recovery began",
                hint=f"lightkeeper storage rebuild {open_[0]}; lightkeeper storage compare {open_[0]}; or give a --why",
            )
        ended = recovery.end(conn, why)
    if ended:
        ctx.log.warning("recovery ends", why=why, not_compared=open_)
    return ended


# --- rebuilding ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Difference:
    """A path where the manifests and the catalogue contradict each other: `what` is content, metadata, state or
    provenance (the catalogue knows another), gone (it believes in a copy), refused (it cannot take it, `why`)."""

    what: str
    lfn: str
    why: str = ""


@dataclass(slots=True)
class Rebuilt:
    """What a storage's manifests told beside the catalogue, and what was made of it. `files`: made again with their
    copy; `copies`: of known files, made again; `agree`: known as told; `untold`: known, and told of from now on."""

    storage: str
    manifests: int = 0
    told: int = 0
    files: int = 0
    copies: int = 0
    agree: int = 0
    untold: int = 0
    differences: dict[str, int] = field(default_factory=dict[str, int])
    first: list[Difference] = field(default_factory=list[Difference])
    faults: list[str] = field(default_factory=list[str])


def rebuild(ctx: Context, name: str, *, dry_run: bool = False, limit: int = 100) -> Rebuilt:
    """Make the catalogue's rows of one storage again from its manifests alone.

    A recovery begins, if none is under way. Files that the catalogue does not know are registered with their metadata,
    state and provenance; their copies, and those of known files, count for nothing until they were read. What
    contradicts the catalogue is told of and changes nothing, except that a copy which a manifest says is gone is read.
    With `dry_run` nothing at all is changed.
    """
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
        vocabulary = topology.vocabulary(conn)
    markers.ensure(ctx, element, write=not dry_run)
    if not dry_run:
        begin(ctx, f"rebuild of {name}")
    with ctx.db.session() as session:
        if not told.alone(session):
            raise Conflict("a storage is being rebuilt already", hint="wait until that has ended")
        telling = Telling(session, element.storage_id)
        read = manifests.read(ctx, element, telling)
        result = _told(name, telling, read, limit)
        if dry_run:
            _refuse(result, telling, vocabulary, limit)
        else:
            _recreate(ctx, element, telling, read, result, limit)
    ctx.log.info("rebuilt" if not dry_run else "rebuild tried", storage=name, files=result.files, copies=result.copies)
    return result


def _told(name: str, telling: Telling, read: manifests.ReadManifests, limit: int) -> Rebuilt:
    counts = telling.counts()
    contradicted = {key: n for key, n in counts.items() if key not in ("new", "copy", "copies")}
    return Rebuilt(
        storage=name,
        manifests=len(read.found),
        told=counts.get("copies", 0),
        files=counts.get("new", 0),
        copies=counts.get("copy", 0),
        agree=counts.get("copies", 0) - sum(n for key, n in counts.items() if key not in ("copies", "gone")),
        untold=len(telling.untold()),
        differences=contradicted,
        first=[Difference(*one) for one in telling.conflicts(limit)],
        faults=read.faults,
    )


def _refuse(result: Rebuilt, telling: Telling, vocabulary: Vocabulary, limit: int) -> None:
    """Tell what could not be made again."""
    for block in telling.missing(BLOCK):
        _tell_refused(result, catalog.Batch([_new_file(one, 0) for one in block if one.new], vocabulary), limit)


def _recreate(
    ctx: Context,
    element: StorageElement,
    telling: Telling,
    read: manifests.ReadManifests,
    result: Rebuilt,
    limit: int,
) -> None:
    with ctx.db.transaction() as conn:
        told.take_over(conn, element.storage_id, read.found)
        vocabulary = topology.vocabulary(conn)
        unknown = provenance.add_activity(conn, name="rebuild", agent="operator", software={"lightkeeper": __version__})
    telling.recreate_activities()
    made_by = telling.activity_ids()
    untold = [file_id for file_id, _ in telling.untold()]
    for block in telling.missing(BLOCK):
        batch = catalog.Batch([_new_file(one, element.storage_id) for one in block], vocabulary)
        _tell_refused(result, batch, limit)
        db.until_free(lambda batch=batch, block=block: _register(ctx, element, batch, block, made_by, unknown))
    telling.recreate_used()
    telling.recreate_supersessions()
    gone = telling.gone()
    with ctx.db.transaction() as conn:
        catalog.recheck(conn, [(file_id, element.storage_id) for file_id in gone])
        told.tell(conn, element.storage_id, untold)


def _register(
    ctx: Context,
    element: StorageElement,
    batch: catalog.Batch,
    block: Sequence[Missing],
    made_by: Mapping[int, int],
    unknown: int,
) -> None:
    """Register a block of files as they were, with copies that are still to be read."""
    by_lfn = {one.lfn: one for one in block}
    activities = {line.file.lfn: made_by.get(by_lfn[line.file.lfn].activity, unknown) for line in batch.lines}
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        done = catalog.register(conn, batch, names, activities, verified=False)
        told.made_then(conn, [(file_id, by_lfn[lfn].created) for lfn, file_id in done.added.items()])
        for state in (File.SUPERSEDED, File.CORRUPTED, File.REMOVED):
            ids = [file_id for lfn, file_id in done.added.items() if by_lfn[lfn].state is state]
            if ids:
                changes.move_files(conn, ids, File.CURRENT, state, f"as the manifests of {element.name} tell")
        told.told_already(conn, element.storage_id, list(done.added.values()))
        db.notify(conn, "recheck")


def _new_file(one: Missing, storage_id: int) -> NewFile:
    meta = one.meta | (one.extra or {})
    return NewFile(parse_lfn(one.lfn), Fixity(one.size, one.sha256, one.adler32), meta, storage_id)


def _tell_refused(result: Rebuilt, batch: catalog.Batch, limit: int) -> None:
    """Files whose metadata the catalogue cannot take are told of; they stay what they are, in the manifest."""
    if batch.refused:
        result.differences["refused"] = result.differences.get("refused", 0) + len(batch.refused)
        result.files -= len(batch.refused)
        room = max(0, limit - len(result.first))
        result.first += [Difference("refused", file.lfn, error.message) for file, error in batch.refused[:room]]
