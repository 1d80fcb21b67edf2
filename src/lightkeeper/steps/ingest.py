"""Step 1: a trigger says a file is complete; it is verified, its metadata read, and it is in the catalogue.

Before: the array control wrote the file and then `<file>.trigger`.    After: replicate.py sees what copies are owed.
Worker: scan every second, register when woken. Safe to run twice and in several workers: a delivery is claimed with a
lease, and a name that is registered already with the same content is the same delivery.

The trigger file goes only after the commit that made the file known, or after the file lies in the quarantine.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import NewFile, StorageElement, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Replica
from lightkeeper.ports import LocalStorage, Product
from lightkeeper.steps.outcome import Outcome
from lightkeeper.store import catalog, provenance, topology, transfers, transitions, triggers
from lightkeeper.store.db import Connection
from lightkeeper.store.triggers import Claim

SUFFIX = ".trigger"
MAX_PATH = 1000
QUARANTINE = "/.lightkeeper/quarantine"
"""Below the storage the delivery was made to: the move is a rename and cannot half-fail."""


def scan(ctx: Context) -> int:
    """Accept every delivery whose trigger lies in an interface directory; return how many are new."""
    with ctx.db.transaction() as conn:
        elements = [s for s in topology.storages(conn) if s.ingest and s.readable]
    return sum(_scan_one(ctx, element) for element in elements)


def _scan_one(ctx: Context, element: StorageElement) -> int:
    root = _local(ctx, element).local_path("/")
    found = [_announced(path) for path in _trigger_files(root)]
    if not found:
        return 0
    with ctx.db.transaction() as conn:
        known = set(triggers.open_paths(conn, element.storage_id))
        return triggers.accept(conn, element.storage_id, [path for path in found if path not in known])


def _announced(trigger: str) -> str:
    """Path of the file that a trigger announces; a trigger without a name announces itself, and is refused."""
    return trigger if trigger.endswith("/" + SUFFIX) else trigger.removesuffix(SUFFIX)


def _trigger_files(root: Path) -> Iterator[str]:
    """Paths of trigger files below `root`, each with leading '/'. Names that are no text, or too long, are left."""
    stack = [""]
    while stack:
        below = stack.pop()
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    path = f"{below}/{entry.name}" if below else entry.name
                    if entry.name.startswith(".") and entry.name != SUFFIX:
                        continue
                    if not entry.name.isprintable() or len(path) > MAX_PATH:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(path)
                    elif entry.name.endswith(SUFFIX):
                        yield "/" + path
        except OSError:
            continue  # removed while we looked, or not ours to read: the other folders do not wait for it


def register_accepted(ctx: Context) -> int:
    """Verify and register the deliveries that are due, a batch at a time; return how many were dealt with."""
    with ctx.db.transaction() as conn:
        claims = triggers.claim(conn, ctx.settings.ingest_batch, ctx.settings.lease * 5)
        elements = {s.storage_id: s for s in topology.storages(conn)}
        vocabulary = topology.vocabulary(conn)
    if not claims:
        return 0
    announced = {c.trigger_id: _trigger_file(ctx, elements[c.storage_id], c) for c in claims}
    with ThreadPoolExecutor(ctx.settings.ingest_threads, "verify") as pool:
        reads = [pool.submit(_read, ctx, elements[c.storage_id], c, vocabulary) for c in claims]
    products = [read.result() for read in reads]
    _make_names_durable(ctx, elements, claims)
    early: list[Claim] = []
    read: list[tuple[Claim, Product]] = []
    names: set[str] = set()
    for claim, product in zip(claims, products, strict=True):
        if product is None or claim.path in names:  # one name at a time: another storage may deliver it too
            early.append(claim)
        else:
            names.add(claim.path)
            read.append((claim, product))
    good = [(c, product) for c, product in read if not product.problems]
    bad = [(c, "; ".join(product.problems)) for c, product in read if product.problems]
    if early:
        with ctx.db.transaction() as conn:
            triggers.postpone(conn, [c.trigger_id for c in early], timedelta(seconds=1))
    outcome = _register(ctx, good, vocabulary)
    for claim in outcome.done:
        _remove_trigger_file(ctx, elements[claim.storage_id], claim, announced[claim.trigger_id])
    for claim, reason in [*bad, *outcome.failed]:
        _quarantine(ctx, elements[claim.storage_id], claim, reason)
    ctx.log.info("ingested", registered=len(outcome.done), quarantined=len(bad) + len(outcome.failed), early=len(early))
    return len(read)


def _read(ctx: Context, element: StorageElement, claim: Claim, vocabulary: Vocabulary) -> Product | None:
    """Verify one delivery. None: its data file is not there or not readable yet, and there is time."""
    storage = _local(ctx, element)
    reader = next((r for r in ctx.product_readers if r.recognises(claim.path)), None)
    try:
        if claim.path.endswith("/" + SUFFIX):
            raise Invalid("the trigger names no file")
        if reader is None:
            raise Invalid("no installed reader knows files of this name")
        with storage.open(claim.path) as file:
            before = os.fstat(file.fileno())
            os.fsync(file.fileno())  # the array control may not have: from now on this is the copy of record
            product = reader.read(file, claim.path)
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return None  # still being written, whatever the trigger says
        if product.problems:
            return product
        if product.lfn != claim.path:
            raise Invalid(f"its reader names it {product.lfn}, but a file on site lies under its own name")
        vocabulary.split(product.meta)
        return product
    except Unavailable as error:
        ctx.log.warning("delivery cannot be read now", path=printable(claim.path), why=error.message)
        return None
    except NotFound:
        if claim.waited < ctx.settings.trigger_patience:
            return None
        patience = int(ctx.settings.trigger_patience.total_seconds())
        return Product(
            None,
            None,
            problems=(f"the trigger is there, but its data file did not come within {patience} s",),
        )
    except LightkeeperError as error:
        return Product(None, None, problems=(error.message,))
    except Exception as error:  # a reader that a hostile file gets the better of must not stop the other files
        ctx.log.error("a reader failed", path=printable(claim.path), exc_info=error)
        return Product(None, None, problems=(f"its reader failed: {type(error).__name__}: {printable(str(error))}",))


def _make_names_durable(ctx: Context, elements: dict[int, StorageElement], claims: Sequence[Claim]) -> None:
    """Sync the folders that the files were written to, once each: a file whose name is lost in a power cut is lost."""
    folders: set[Path] = set()
    for claim in claims:
        root = _local(ctx, elements[claim.storage_id]).local_path("/")
        folder = root
        for part in claim.path.split("/")[1:-1]:
            folders.add(folder)
            folder /= part
        folders.add(folder)
    for folder in folders:
        with suppress(OSError):  # it is not there: then neither is its file, and reading it has told so
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _register(ctx: Context, good: Sequence[tuple[Claim, Product]], vocabulary: Vocabulary) -> Outcome[Claim]:
    """Register verified deliveries with provenance, and close them, in one transaction."""
    if not good:
        return Outcome()
    whole = catalog.Batch([_new_file(claim, product) for claim, product in good], vocabulary)
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, whole)
    with ctx.db.transaction() as conn:
        ours = triggers.still_ours(conn, [claim for claim, _ in good])
        good = [(claim, product) for claim, product in good if claim.trigger_id in ours]
        activity = provenance.add_activity(
            conn, name="ingest", agent="lightkeeper", software={"lightkeeper": __version__}
        )
        files = [_new_file(claim, product) for claim, product in good]
        batch = whole if len(files) == len(whole.lines) else catalog.Batch(files, vocabulary)
        result = catalog.register(conn, batch, names, activity)
        known = result.added | result.known
        done = [(claim, file.lfn) for (claim, _), file in zip(good, files, strict=True) if file.lfn in known]
        triggers.registered(conn, [claim.trigger_id for claim, _ in done], [known[lfn] for _, lfn in done])
        overwritten = [
            (result.conflicts[file.lfn], claim.storage_id)
            for (claim, _), file in zip(good, files, strict=True)
            if file.lfn in result.conflicts
        ]
        transitions.move_replicas(
            conn,
            overwritten,
            Replica.AVAILABLE,
            Replica.LOST,
            "overwritten on site by a delivery with other content",
        )
    refused = [claim for claim, product in good if product.lfn in result.conflicts]
    reason = "this name is registered already with another content; a file never changes: deliver it under a new name"
    return Outcome([claim for claim, _ in done], [(claim, reason) for claim in refused])


def _new_file(claim: Claim, product: Product) -> NewFile:
    if product.lfn is None or product.fixity is None:
        raise ValueError(f"{claim.path}: a reader returned no problem, but no name or no fixity either")
    return NewFile(product.lfn, product.fixity, product.meta, claim.storage_id)


def _quarantine(ctx: Context, element: StorageElement, claim: Claim, reason: str) -> None:
    """Move a refused file, its trigger and a text with the reason out of the way; never register it.

    The reason is in the database before anything moves; after a crash the delivery is claimed and refused again, and
    what has moved already is not there to be moved twice.
    """
    storage = _local(ctx, element)
    where = f"{QUARANTINE}/{claim.trigger_id}{claim.path}"
    with ctx.db.transaction() as conn:
        if not triggers.still_ours(conn, [claim]):
            return
        triggers.note_quarantine(conn, claim.trigger_id, reason, where)
        _count_no_more(conn, claim)
    storage.write(where + ".reason", [reason.encode() + b"\n"])
    for path in (claim.path, claim.path + SUFFIX):
        _set_aside(storage.local_path(path), storage.local_path(where + path.removeprefix(claim.path)))
    with ctx.db.transaction() as conn:
        if triggers.still_ours(conn, [claim]):
            triggers.quarantined(conn, claim.trigger_id, reason)
    ctx.log.warning("quarantined", path=printable(claim.path), why=reason)


def _count_no_more(conn: Connection, claim: Claim) -> None:
    """The bytes under this name go to the quarantine: a replica that was recorded there is lost."""
    with suppress(Invalid):  # a name that cannot be in the catalogue is of no file that is
        for file in catalog.files_by_lfn(conn, [claim.path]):
            replica = (file.file_id, claim.storage_id)
            why = "overwritten on site by a delivery that was refused"
            transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.LOST, why)
            transfers.unsettle(conn, [file.file_id])


def _set_aside(source: Path, target: Path) -> None:
    """Rename the file or link at `source`, if one is still there; a folder that a trigger named stays where it is."""
    if source.is_dir() and not source.is_symlink():
        return
    with suppress(FileNotFoundError):
        source.rename(target)


def _trigger_file(ctx: Context, element: StorageElement, claim: Claim) -> tuple[int, int] | None:
    """What tells a trigger file from a later one of the same name; None when there is none."""
    with suppress(OSError):
        stat = _local(ctx, element).local_path(claim.path + SUFFIX).lstat()
        return stat.st_ino, stat.st_ctime_ns
    return None


def _remove_trigger_file(
    ctx: Context, element: StorageElement, claim: Claim, announced: tuple[int, int] | None
) -> None:
    """Remove the trigger that was there before its file was read; a newer one announces a new delivery and stays."""
    if announced is not None and _trigger_file(ctx, element, claim) == announced:
        _local(ctx, element).local_path(claim.path + SUFFIX).unlink(missing_ok=True)


def _local(ctx: Context, element: StorageElement) -> LocalStorage:
    storage = ctx.storage(element)
    if not hasattr(storage, "local_path"):
        raise Conflict(
            f"storage {element.name} takes deliveries, but its driver '{element.driver}' has no files on this machine",
            hint="use a driver like 'posix' for storages with `ingest: true`",
        )
    return cast(LocalStorage, storage)
