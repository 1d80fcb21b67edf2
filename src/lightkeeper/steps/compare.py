"""Step 7, the other way round: what lies on a storage is compared with what the catalogue says.

Before: everything that writes there.    After: audit.py reads what is missing; a person decides what is too much.
Worker: compare_due every 10 min. Called by the API: compare, and adopt and delete for dark files. Safe to run twice:
one comparison of a storage at a time, and a dark file is looked at again, under the lock that gives its name away,
before anything is done about it. Nothing dark is ever deleted by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import psycopg

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import MetaValue, NewFile, StorageElement
from lightkeeper.domain.errors import Conflict, Corrupt, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, printable
from lightkeeper.ports import Entry, Product, Storage
from lightkeeper.steps import admit, markers
from lightkeeper.steps.audit import element_named, fault_of, suspect
from lightkeeper.store import catalog, comparison, db, promotion, provenance, recovery, topology
from lightkeeper.store.comparison import Counts, Dark, Difference

BLOCK = 10_000
"""Entries of a listing that are held in memory."""


@dataclass(frozen=True, slots=True)
class LostCopy:
    """A copy that is not there, or not with its size. It is Suspect now and read again at once."""

    lfn: str
    fault: str


@dataclass(slots=True)
class Compared:
    """A storage's listing beside the catalogue; of dark files and lost copies the first few, `counts` has them all."""

    storage: str
    began: datetime
    counts: Counts
    dark: list[str] = field(default_factory=list[str])
    lost: list[LostCopy] = field(default_factory=list[LostCopy])


# --- comparing -------------------------------------------------------------------------------------------------
def compare_due(ctx: Context) -> int:
    """Compare the storages whose last comparison is old enough; return how many."""
    if not ctx.settings.compare_every:
        return 0
    with ctx.db.transaction() as conn:
        due = comparison.due(conn, ctx.settings.compare_every)
        elements = [s for s in topology.storages(conn) if s.readable and s.storage_id in due]
    return sum(_is_compared(ctx, element) for element in elements)


def _is_compared(ctx: Context, element: StorageElement) -> bool:
    try:
        compare(ctx, element.name)
    except (LightkeeperError, psycopg.Error) as error:  # the others do not wait for it; it stays due
        ctx.log.warning("storage not compared", storage=element.name, why=str(error))
        return False
    return True


def compare(ctx: Context, name: str, limit: int = 100) -> Compared:
    """List a storage and compare it with the catalogue: record the dark files, have copies that are lost read again.

    A listing that breaks off is none: the error is raised and nothing is changed. Memory does not grow with it.
    """
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
        began = db.now(conn)
    if not element.enabled:
        raise Refused(f"storage {name} is disabled", hint="lightkeeper storage list")
    with ExitStack() as stack:
        session = stack.enter_context(ctx.db.session())
        if not stack.enter_context(comparison.alone(session, element.storage_id)):
            raise Conflict(f"storage {name} is being compared already", hint="wait until that has ended")
        markers.ensure(ctx, element)
        listed, size, unnamed = _list(ctx.storage(element), session)
        markers.ensure(ctx, element)  # it may have gone while it was listed
        found = Compared(name, began, Counts(listed, size, 0, unnamed, 0, 0, 0))
        young = dark = dark_bytes = lost = 0
        for block in comparison.differences(
            session,
            element.storage_id,
            ingest=element.ingest,
            began=began,
            oldest=began - ctx.settings.dark_after,
        ):
            copies = _lost(ctx, element, [one for one in block if one.file_id is not None])
            strays = [one for one in block if one.file_id is None]
            paths = _noted(ctx, element, [one for one in strays if not one.young])
            young += sum(one.young for one in strays)
            dark += len(paths)
            dark_bytes += sum(one.size or 0 for one in strays if one.path in paths)
            lost += len(copies)
            found.dark += sorted(paths)[: max(0, limit - len(found.dark))]
            found.lost += copies[: max(0, limit - len(found.lost))]
    found.counts = Counts(listed, size, young, unnamed, dark, dark_bytes, lost)
    with ctx.db.transaction() as conn:
        comparison.completed(conn, element.storage_id, began, found.counts)
    ctx.log.info("storage compared", storage=name, files=listed, dark=dark, lost=lost, young=young)
    return found


def _list(storage: Storage, session: db.Connection) -> tuple[int, int, int]:
    """Bring a storage's listing beside the catalogue, a block at a time: no transaction is open while the storage
    answers. Returns files, bytes, and names that are no text."""
    comparison.begin_listing(session)
    listed = size = unnamed = 0
    for block in _blocks(storage.list()):
        named = [entry for entry in block if _is_text(entry.path)]
        comparison.add_listed(session, named)
        listed += len(block)
        size += sum(entry.size for entry in block)
        unnamed += len(block) - len(named)
    return listed, size, unnamed


def _blocks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while block := list(islice(entries, BLOCK)):
        yield block


def _is_text(path: str) -> bool:
    try:
        return bool(path.encode()) and "\0" not in path
    except UnicodeEncodeError:
        return False


def _lost(ctx: Context, element: StorageElement, found: Sequence[Difference]) -> list[LostCopy]:
    """Those of the copies that were not listed as they should be which are not there now either; they are Suspect."""
    lost: list[LostCopy] = []
    for one in found:
        copy = comparison.stored(element.storage_id, one)
        fault = fault_of(ctx, element, copy, read_bytes=False)
        if not fault:
            continue
        markers.ensure(ctx, element)
        with ctx.db.transaction() as conn:
            if suspect(ctx, conn, element, copy, fault):
                lost.append(LostCopy(copy.path, fault))
    return lost


def _noted(ctx: Context, element: StorageElement, strays: Sequence[Difference]) -> set[str]:
    """Record dark files: nobody gives them a name now, and nobody has while the storage was listed."""
    if not strays:
        return set()
    with ctx.db.transaction() as conn:
        promotion.hold_names(conn, [Lfn(one.path) for one in strays])
        return set(comparison.note_dark(conn, element.storage_id, strays))


# --- dark files ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Failure:
    """A dark file that was left as it is, and why."""

    path: str
    error: str
    hint: str = ""


@dataclass(slots=True)
class Dealt:
    """Dark files that were dealt with, or would be; and those that were not."""

    done: list[str] = field(default_factory=list[str])
    failed: list[Failure] = field(default_factory=list[Failure])


def dark(ctx: Context, name: str, *, after: str = "", limit: int = 1000) -> list[Dark]:
    """Dark files of a storage as the last comparison found them, by path, those after a path."""
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
        return comparison.dark(conn, element.storage_id, limit, after)


def adopt(
    ctx: Context, name: str, paths: Sequence[str], meta: Mapping[str, MetaValue], *, dry_run: bool = False
) -> Dealt:
    """Read dark files and register each under its path, with metadata and this storage's copy, verified now."""
    element = _place(ctx, name)
    with ctx.db.transaction() as conn:
        topology.vocabulary(conn).split(meta)
    return _each(ctx, paths, lambda path: _adopt(ctx, element, path, meta, dry_run))


def delete(ctx: Context, name: str, paths: Sequence[str], why: str, *, dry_run: bool = False) -> Dealt:
    """Delete dark files: those that are dark still, as they were seen, and older than the time of grace."""
    element = _place(ctx, name)
    return _each(ctx, paths, lambda path: _delete(ctx, element, path, why, dry_run))


def _place(ctx: Context, name: str) -> StorageElement:
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
    if not element.enabled:
        raise Refused(f"storage {name} is disabled", hint="lightkeeper storage list")
    if element.ingest:
        raise Refused(
            f"storage {name} takes deliveries: what lies there belongs to the array control",
            hint="deliver a file with its trigger, or remove it by hand",
        )
    markers.ensure(ctx, element)
    return element


def _each(ctx: Context, paths: Sequence[str], act: Callable[[str], None]) -> Dealt:
    dealt = Dealt()
    for path in dict.fromkeys(paths):
        try:
            act(path)
        except LightkeeperError as error:
            dealt.failed.append(Failure(printable(path), error.message, error.hint))
            ctx.log.warning("dark file left", path=printable(path), why=error.message)
        else:
            dealt.done.append(path)
    return dealt


def _adopt(ctx: Context, element: StorageElement, path: str, meta: Mapping[str, MetaValue], dry_run: bool) -> None:
    lfn, storage = parse_lfn(path), ctx.storage(element)
    with ctx.db.transaction() as conn:
        seen = _seen(conn, element, path)
        known = bool(catalog.files_by_lfn(conn, [lfn]))
    entry = storage.stat(lfn)
    _refuse_changed(entry, seen)
    fixity, product = _examined(ctx, storage, lfn)
    if not known:
        meta = admit.admit(product, admit.kinds(ctx, [lfn])[lfn], meta)
    with ctx.db.transaction() as conn:
        batch = catalog.Batch([NewFile(lfn, fixity, meta, element.storage_id)], topology.vocabulary(conn))
    if batch.refused:
        raise batch.refused[0][1]
    names = None
    if not dry_run:
        with ctx.db.transaction() as conn:
            names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        promotion.hold_names(conn, [lfn])
        file = promotion.lock_file(conn, lfn)
        _refuse_known(conn, element, path)
        if file is not None and (file.size, file.sha256) != (fixity.size, fixity.sha256):
            raise Conflict(
                f"{lfn} is registered already with another content",
                hint="a file never changes: move it to another name, or delete it",
            )
        if storage.stat(lfn) != entry:
            raise Unavailable(f"{path} is being written", hint="adopt it when that has ended")
        if names is None:
            return
        made_by = provenance.add_activity(
            conn, name="register", agent="operator", software={"lightkeeper": __version__}
        )
        catalog.register(conn, batch, names, made_by)
        comparison.dark_no_more(conn, element.storage_id, path)
    ctx.log.info("dark file adopted", file=lfn, at=element.name, bytes=fixity.size)


def _delete(ctx: Context, element: StorageElement, path: str, why: str, dry_run: bool) -> None:
    storage = ctx.storage(element)
    with ctx.db.transaction() as conn:
        promotion.hold_names(conn, [Lfn(path)])
        _lock_file(conn, path)
        if recovery.forbids_deletion(conn):
            raise Refused(
                "the catalogue is behind its storages: what it does not know may be the only copy there is",
                hint="lightkeeper recovery status",
            )
        seen = _seen(conn, element, path)
        _refuse_known(conn, element, path)
        entry = storage.stat(path)
        if entry is not None:
            _refuse_changed(entry, seen)
            if entry.modified > (db.now(conn) - ctx.settings.dark_after).timestamp():
                raise Refused(f"{path} is younger than the time of grace", hint="the setting dark_after says how long")
        if dry_run:
            return
        if entry is not None:
            storage.delete(path)
        gone = "" if entry else ", was gone already"
        comparison.note_deleted(conn, element.storage_id, path, seen.size, why + gone)
        comparison.dark_no_more(conn, element.storage_id, path)
    ctx.log.info("dark file deleted", path=printable(path), at=element.name, bytes=seen.size, why=why)


def _lock_file(conn: db.Connection, path: str) -> None:
    """No transfer to this name begins, when it is one, until the transaction ends."""
    try:
        lfn = parse_lfn(path)
    except LightkeeperError:
        return  # a name that cannot be in the catalogue
    promotion.lock_file(conn, lfn)


def _seen(conn: db.Connection, element: StorageElement, path: str) -> Dark:
    seen = comparison.dark_at(conn, element.storage_id, path)
    if seen is None:
        raise NotFound(
            f"{printable(path)} is not among the dark files of {element.name}",
            hint=f"lightkeeper storage compare {element.name} finds them",
        )
    return seen


def _refuse_known(conn: db.Connection, element: StorageElement, path: str) -> None:
    why = comparison.why_not_dark(conn, element.storage_id, path)
    if why:
        raise Conflict(f"{path} is not dark any more: {why}", hint=f"lightkeeper why {path}")


def _refuse_changed(entry: Entry | None, seen: Dark) -> None:
    if entry is None:
        raise NotFound(f"{seen.path} is not there any more")
    if entry.size != seen.size or abs(entry.modified - seen.modified.timestamp()) > 0.001:
        raise Conflict(f"{seen.path} is not as it was seen: somebody wrote it since", hint="compare the storage again")


def _examined(ctx: Context, storage: Storage, lfn: Lfn) -> tuple[Fixity, Product]:
    try:
        return admit.examine(ctx.product_readers, storage, lfn, lfn)
    except OSError as error:
        raise Corrupt(f"{lfn}: reading failed: {error.strerror or error}") from error
