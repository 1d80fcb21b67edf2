"""Beside the walk: the bytes of files, brought and fetched by people and programs. Called by the API; safe to repeat.

Before: bytes came from somewhere, or a file has copies.    After: replicate.py sees what copies a new file is owed;
audit.py reads again the copies that did not read as they should.

Bytes that are put lie under a temporary name until they were read back. Then, in one transaction, the name is
registered and the bytes are renamed to it: while it is open nobody else can register the name or promote bytes to it.
After a crash between the two the bytes lie under a name that the catalogue does not know; the same put again finds the
same content there and completes, and a put of another content is refused. What was not renamed is cleared as every
arrival is, by heal.py.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO
from uuid import uuid4

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.auditing import WINDOW
from lightkeeper.domain.catalog import Media, MetaValue, NewFile, SiteKind, StorageElement
from lightkeeper.domain.errors import (
    Conflict,
    Corrupt,
    Invalid,
    LightkeeperError,
    NotFound,
    Offline,
    Refused,
    Unavailable,
    nearest,
)
from lightkeeper.domain.fixity import CHUNK, Sums, chunks_of, fixity_of
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, printable
from lightkeeper.domain.states import Replica
from lightkeeper.ports import Entry, Product, Storage
from lightkeeper.steps import admit, markers, suspicion
from lightkeeper.steps.transfer import ARRIVALS
from lightkeeper.store import catalog, promotion, provenance, topology
from lightkeeper.store import suspicion as store_suspicion
from lightkeeper.store.catalog import FileRow
from lightkeeper.store.db import Connection
from lightkeeper.store.promotion import Held
from lightkeeper.store.suspicion import FailedRead

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


# --- get ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of a file, as last observed."""

    storage: str
    site: str
    state: Replica
    usable: bool
    """Its storage may be read now."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the catalogue knows of a file's content, and its copies."""

    file: FileRow
    copies: list[Copy]


@dataclass(frozen=True, slots=True)
class Opened:
    """A copy that is being read: the bytes from `start` on."""

    storage: str
    start: int
    chunks: Iterator[bytes]


def facts(ctx: Context, lfn: str) -> Facts:
    """The content of a file and its copies; raises NotFound."""
    with ctx.db.transaction() as conn:
        file = catalog.known_files(conn, [parse_lfn(lfn)])[0]
        usable = {s.name for s in topology.storages(conn) if s.readable}
        replicas = catalog.replicas_of(conn, [file.file_id])
    return Facts(file, [Copy(r.storage, r.site, r.state, r.storage in usable) for r in replicas])


def read_copy(ctx: Context, lfn: str, *, at: str | None = None, not_at: Sequence[str] = (), start: int = 0) -> Opened:
    """Open a copy of a file from byte `start` on: `at` that storage, or at any but `not_at`, data centres' disks first.

    A copy that cannot be opened is Suspect, unless its storage does not answer, and the next one is tried. Raises
    NotFound or Unavailable with the states of the copies when none is left. The bytes that follow are at most those
    that the catalogue knows of; when they end too early, or cannot be read, the chunks raise and the copy is Suspect.
    """
    known = facts(ctx, lfn)
    file = known.file
    with ctx.db.transaction() as conn:
        elements = {s.name: s for s in topology.storages(conn)}
    if at is not None and at not in elements:
        raise NotFound(f"storage '{printable(at)}' does not exist", hint=nearest(at, elements))
    wanted = [c for c in known.copies if at in (None, c.storage) and c.storage not in not_at]
    available = [elements[c.storage] for c in wanted if c.usable and c.state is Replica.AVAILABLE]
    told: dict[str, str] = {}
    waits = any(c.state in (Replica.AVAILABLE, Replica.SUSPECT) for c in wanted)
    for element in sorted(available, key=lambda s: (_distance(s), (s.storage_id + file.file_id) % len(elements))):
        try:
            return Opened(element.name, start, _opened(ctx, file, element, start))
        except LightkeeperError as error:
            told[element.name] = error.message
    states = [f"{c.storage}: {told.get(c.storage) or _told(c)}" for c in wanted]
    where = f" at {at}" if at else f" but at {', '.join(not_at)}" if not_at else ""
    kind = Unavailable if waits else NotFound
    raise kind(
        f"{file.lfn} has no copy{where} that can be read now ({'; '.join(states) or 'there is none'})",
        hint=f"lightkeeper why {file.lfn}",
    )


def suspect(ctx: Context, lfn: str, storage: str, why: str) -> None:
    """Somebody read other bytes from a copy than the catalogue says: have it read again soon. Raises NotFound."""
    with ctx.db.transaction() as conn:
        file = catalog.known_files(conn, [parse_lfn(lfn)])[0]
        element = _element(topology.storages(conn), storage)
        if promotion.copy_at(conn, file.file_id, element.storage_id) is None:
            raise NotFound(f"{file.lfn} has no copy at {element.name}", hint=f"lightkeeper why {file.lfn}")
        store_suspicion.note(conn, FailedRead(file.file_id, element.storage_id, "get", printable(why)), WINDOW)
        catalog.recheck(conn, [(file.file_id, element.storage_id)])
    ctx.log.warning("copy reported", file=file.lfn, at=element.name, why=printable(why))


def _distance(element: StorageElement) -> int:
    """Which copies are asked first: a data centre's disk, then the observatory's, then tape."""
    if element.media is Media.TAPE:
        return 2
    return 0 if element.site_kind is SiteKind.DATA_CENTRE else 1


def _told(copy: Copy) -> str:
    return str(copy.state) if copy.usable else f"{copy.state}, but the storage cannot be read now"


def _opened(ctx: Context, file: FileRow, element: StorageElement, start: int) -> Iterator[bytes]:
    """The chunks of one copy, the first of which was read already: an error of it comes now."""
    try:
        storage = ctx.storage(element)
        entry = storage.stat(file.lfn)
        if entry is None:
            raise NotFound("is not there")
        if entry.size != file.size:
            raise Corrupt(f"has {entry.size} bytes instead of {file.size}")
        handle = storage.open(file.lfn)
        try:
            handle.seek(start)
            first = handle.read(min(CHUNK, file.size - start))
        except BaseException:
            handle.close()
            raise
    except LightkeeperError as error:
        _did_not_read(ctx, file, element, error)
        raise
    except OSError as error:
        raise _did_not_read(ctx, file, element, _reading_failed(error)) from error
    return _chunks(ctx, file, element, handle, first, file.size - start)


def _chunks(
    ctx: Context, file: FileRow, element: StorageElement, handle: BinaryIO, first: bytes, left: int
) -> Iterator[bytes]:
    with handle:
        chunk = first
        while left:
            if not chunk:
                raise _did_not_read(ctx, file, element, Corrupt(f"ends {left} bytes too early"))
            yield chunk
            left -= len(chunk)
            try:
                chunk = handle.read(min(CHUNK, left)) if left else b""
            except LightkeeperError as error:
                _did_not_read(ctx, file, element, error)
                raise
            except OSError as error:
                raise _did_not_read(ctx, file, element, _reading_failed(error)) from error


def _did_not_read(ctx: Context, file: FileRow, element: StorageElement, error: LightkeeperError) -> LightkeeperError:
    """A copy that did not read counts no more until it is audited; a storage that does not answer says nothing."""
    ctx.log.warning("copy not read", file=file.lfn, at=element.name, why=error.message)
    silent = isinstance(error, Unavailable)
    if isinstance(error, Offline):
        return error  # it is on tape, as it should be
    if silent or markers.is_there(ctx, element):
        with ctx.db.transaction() as conn:
            read = FailedRead(file.file_id, element.storage_id, "get", error.message)
            suspicion.failed(ctx, conn, read, wrong=not silent)
    return error


def _reading_failed(error: OSError) -> Corrupt:
    return Corrupt(f"reading failed: {error.strerror or error}")


# --- put ---------------------------------------------------------------------------------------------------------
class Put(StrEnum):
    """What a put does, or did. NEW: a name that nobody knew. COPY: a known file gains a copy there. KNOWN: nothing."""

    NEW = "new"
    COPY = "copy"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes that somebody wants to put under a name at a storage. `sha256` is what they should have, when told."""

    lfn: str
    at: str
    meta: Mapping[str, MetaValue]
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What a put did. A known file keeps the metadata it has."""

    lfn: Lfn
    storage: str
    state: Put
    size: int
    sha256: str
    adler32: str


def check_place(ctx: Context, at: str, meta: Mapping[str, MetaValue]) -> StorageElement:
    """The storage that bytes may be put to with these metadata; raises what forbids it, whatever their name is."""
    with ctx.db.transaction() as conn:
        element = _element(topology.storages(conn), at)
        topology.vocabulary(conn).split(meta)
    if reason := element.refuses(0):
        raise Refused(f"storage {element.name} {reason}", hint="lightkeeper storage list")
    if ctx.tape(element):
        raise Refused(
            f"storage {element.name} is on tape: copies are brought there, and count once they are on tape",
            hint="put files at a disk and add a rule with --media tape",
        )
    if element.ingest:
        raise Refused(
            f"storage {element.name} takes deliveries of the array control, which asks nobody before it writes",
            hint="put files at another storage; here a delivery is a file and its trigger",
        )
    return element


def plan(ctx: Context, wanted: Wanted) -> Put:
    """What `put` would do, before a byte is taken: everything it refuses without looking at bytes is raised."""
    element = check_place(ctx, wanted.at, wanted.meta)
    lfn = parse_lfn(wanted.lfn)
    if wanted.sha256 is not None and not _SHA256.match(wanted.sha256):
        raise Invalid(f"'{printable(wanted.sha256)}' is no sha256", hint="64 lower-case hexadecimal digits")
    with ctx.db.transaction() as conn:
        file = next(iter(catalog.files_by_lfn(conn, [lfn])), None)
        if file is None:
            return Put.NEW
        if wanted.sha256 not in (None, file.sha256):
            raise _taken(lfn)
        copy = promotion.copy_at(conn, file.file_id, element.storage_id)
        fine = _is_fine(copy) and not promotion.is_removed(conn, file.file_id)
    return Put.KNOWN if fine and wanted.sha256 is not None else Put.COPY


def put(ctx: Context, wanted: Wanted, chunks: Iterable[bytes]) -> Stored:
    """Store bytes and register them under a name, with metadata and the activity "put".

    Nothing is registered that was not read back, and nothing for the archive that its reader finds wrong: admit.py says
    what is admitted. What the file says of itself becomes metadata too. A name with the same content gains a copy, or
    keeps what it has; a name with another content, and bytes under the name that the catalogue does not know, are left
    as they are and Conflict is raised. When it raises, nothing was changed, except that after a crash of the database
    or the storage at the last moment everything may have been; the same put again completes.
    """
    state = plan(ctx, wanted)
    lfn = parse_lfn(wanted.lfn)
    with ctx.db.transaction() as conn:
        element = _element(topology.storages(conn), wanted.at)
        file = next(iter(catalog.files_by_lfn(conn, [lfn])), None)
    if state is Put.KNOWN and file is not None:
        return Stored(lfn, element.name, state, file.size, file.sha256, file.adler32)
    storage = ctx.storage(element)
    markers.ensure(ctx, element)  # else the bytes would lie below the mount point, and count
    arrival = f"{ARRIVALS}/put-{uuid4().hex}"
    try:
        fixity, product = _taken_in(ctx, storage, arrival, wanted, chunks)
        known = file is not None and file.sha256 == fixity.sha256
        meta = wanted.meta if known else admit.admit(product, admit.kinds(ctx, [lfn])[lfn], wanted.meta)
        state = _promote(ctx, element, arrival, NewFile(lfn, fixity, meta, element.storage_id))
    finally:
        with suppress(LightkeeperError):  # promoted, or in the way of nobody
            storage.delete(arrival)
    ctx.log.info("put", file=lfn, at=element.name, bytes=fixity.size, state=str(state))
    return Stored(lfn, element.name, state, fixity.size, fixity.sha256, fixity.adler32)


def _taken_in(
    ctx: Context, storage: Storage, arrival: str, wanted: Wanted, chunks: Iterable[bytes]
) -> tuple[Fixity, Product]:
    """Write the bytes and read them back from the medium, once: they are verified on the way."""
    sums = Sums()

    def summed() -> Generator[bytes]:
        for chunk in chunks:
            sums.update(chunk)
            yield chunk

    storage.write(arrival, summed())
    fixity = sums.fixity()
    if wanted.sha256 not in (None, fixity.sha256):
        raise Corrupt(
            f"{wanted.lfn} arrived with sha256 {fixity.sha256[:12]}… instead of {(wanted.sha256 or '')[:12]}…",
            hint="it was damaged on the way, or changed while it was read: put it again",
        )
    try:
        found, product = admit.examine(ctx.product_readers, storage, arrival, parse_lfn(wanted.lfn))
    except OSError as error:
        raise _reading_failed(error) from error
    if found != fixity:
        raise Corrupt(
            f"storage {wanted.at} gives back other bytes of {wanted.lfn} than were written",
            hint=f"put it again or elsewhere, and have {wanted.at} examined",
        )
    return fixity, product


def _promote(ctx: Context, element: StorageElement, arrival: str, new: NewFile) -> Put:
    """Register the name and rename the bytes to it; both or, after a crash, perhaps only the latter."""
    storage = ctx.storage(element)
    stray = _what_lies_there(storage, new.lfn)
    with ctx.db.transaction() as conn:
        batch = catalog.Batch([new], topology.vocabulary(conn))
    if batch.refused:
        raise batch.refused[0][1]
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        promotion.hold_names(conn, [new.lfn])
        file = promotion.lock_file(conn, new.lfn)
        copy = None
        if file is not None:
            if (file.size, file.sha256) != (new.fixity.size, new.fixity.sha256):
                raise _taken(new.lfn)
            copy = promotion.copy_at(conn, file.file_id, element.storage_id)
            if _is_fine(copy) and not promotion.is_removed(conn, file.file_id):
                return Put.KNOWN
        if copy is not None and copy.state is Replica.DELETING:
            raise Unavailable(f"the copy of {new.lfn} at {element.name} is being deleted", hint="put it again soon")
        made_by = file.activity_id if file else _activity(conn)
        result = catalog.register(conn, batch, names, made_by)
        if result.conflicts:  # an ingest was faster
            raise _taken(new.lfn)
        if copy is None or copy.state is Replica.AVAILABLE:
            _refuse_stray(storage, element, new, stray)
        storage.rename(arrival, new.lfn)
        if copy is not None:
            catalog.verified_again(conn, ((result.added | result.known)[new.lfn], element.storage_id))
    return Put.NEW if new.lfn in result.added else Put.COPY


def _is_fine(copy: Held | None) -> bool:
    return copy is not None and copy.state is Replica.AVAILABLE and copy.verified


def _activity(conn: Connection) -> int:
    return provenance.add_activity(conn, name="put", agent="operator", software={"lightkeeper": __version__})


def _what_lies_there(storage: Storage, lfn: Lfn) -> tuple[Entry, Fixity | None] | None:
    """What lies under a name already, with its fixity; without when it cannot be read."""
    entry = storage.stat(lfn)
    if entry is None:
        return None
    try:
        return entry, _fixity(storage, lfn)
    except Unavailable:
        raise
    except LightkeeperError:
        return entry, None


def _refuse_stray(
    storage: Storage, element: StorageElement, new: NewFile, stray: tuple[Entry, Fixity | None] | None
) -> None:
    """Bytes that the catalogue does not know are somebody's: only the same content may take their place."""
    entry = storage.stat(new.lfn)
    if entry is None:
        return
    if stray is None or stray[0] != entry:
        raise Unavailable(f"{new.lfn} at {element.name} is being written by somebody else", hint="put it again soon")
    if stray[1] != new.fixity:
        raise Conflict(
            f"a file that the catalogue does not know lies at {element.name} under {new.lfn}, with another content",
            hint=f"look at it below {element.root}; move it away, or put yours under another name",
        )


def _taken(lfn: Lfn) -> Conflict:
    return Conflict(
        f"{lfn} is registered already with another content", hint="a file never changes: choose another name"
    )


def _element(storages: Sequence[StorageElement], name: str) -> StorageElement:
    by_name = {s.name: s for s in storages}
    if name not in by_name:
        raise NotFound(f"storage '{printable(name)}' does not exist", hint=nearest(name, by_name))
    return by_name[name]


def _fixity(storage: Storage, path: str) -> Fixity:
    try:
        with storage.open(path) as file:
            return fixity_of(chunks_of(file))
    except OSError as error:
        raise _reading_failed(error) from error
