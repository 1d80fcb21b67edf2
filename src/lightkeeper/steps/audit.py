"""Step 7: copies are read again, and the promises are checked.

Before: transfer.py and run.py made copies, or found one suspect.    After: replicate.py makes new ones of what is lost.
Worker: scrub every 10 s, recheck every 30 s and when woken. Called by the API: fsck, which only reads, and reports of
the scrub. Safe to run twice: a turn to read on a storage is claimed with a lease and an epoch.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lightkeeper.context import Context
from lightkeeper.domain.auditing import WINDOW, Schedule, credit, days_for_a_pass, paid_for, schedule
from lightkeeper.domain.catalog import Media, StorageElement
from lightkeeper.domain.errors import LightkeeperError, NotFound, Offline, Refused, Unavailable, nearest
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Replica
from lightkeeper.steps import manifests, markers, probe
from lightkeeper.store import catalog, db, invariants, suspicion, topology, transfers, transitions
from lightkeeper.store import manifests as store_manifests
from lightkeeper.store import scrub as passes
from lightkeeper.store.catalog import Stored
from lightkeeper.store.invariants import Violation
from lightkeeper.store.scrub import Done, Piece, Progress
from lightkeeper.store.suspicion import FailedRead

PAGE = 5000
LIMIT = 100
"""Violations of one kind that are told of a storage."""
TURN = 200
"""Copies read in one turn at the most; the next turn may be another worker's."""
AWAY = timedelta(minutes=5)
"""A storage that cannot be read is left alone for so long."""
I19 = "what a storage holds can be made again from the manifests that lie there"
I13 = "every verified copy lies on its storage with its size and, when read, its bytes"


@dataclass(frozen=True, slots=True)
class Fsck:
    """The result of a check of everything."""

    violations: list[Violation]
    invariants: int
    replicas_checked: int
    bytes_read: int


# --- scrub -----------------------------------------------------------------------------------------------------
def scrub(ctx: Context) -> int:
    """Read on, on every storage whose pass is under way and whose budget allows it; return how many had their turn.

    A copy that does not read as the catalogue says is Suspect: `recheck` reads it once more and decides.
    """
    with ctx.db.transaction() as conn:
        passes.prepare(conn)
        own = passes.schedules(conn)
        elements = [s for s in topology.storages(conn) if s.readable]
    return sum(_has_turn(ctx, element, _schedule(ctx, element, own)) for element in elements)


def _schedule(ctx: Context, element: StorageElement, own: dict[int, tuple[timedelta | None, int | None]]) -> Schedule:
    default = Schedule(ctx.settings.scrub_every, ctx.settings.scrub_rate)
    return schedule(element.media, own.get(element.storage_id, (None, None)), default)


def _has_turn(ctx: Context, element: StorageElement, plan: Schedule) -> bool:
    """Whether a turn on one storage was taken."""
    with ctx.db.transaction() as conn:
        if plan.every and passes.begin_pass(conn, element.storage_id, plan.every):
            ctx.log.info("scrub begins", storage=element.name)
        piece = passes.claim(conn, element.storage_id, ctx.settings.lease)
    if piece is None:
        return False
    try:
        markers.ensure(ctx, element)
        return _take_turn(ctx, element, plan, piece)
    except LightkeeperError as error:  # the other storages do not wait for this one
        with ctx.db.transaction() as conn:
            passes.give_back(conn, piece, piece.now + AWAY, error.message)
        ctx.log.warning("scrub waits", storage=element.name, why=error.message)
        return False


def _take_turn(ctx: Context, element: StorageElement, plan: Schedule, piece: Piece) -> bool:
    with ctx.db.transaction() as conn:
        last = passes.window(conn, piece)
        copies = passes.copies_due(conn, piece, last, TURN) if last is not None else []
        on_tape = ctx.tape(element) is not None
        if on_tape:  # each is staged and read when its turn comes there
            catalog.recheck(conn, [(copy.file_id, element.storage_id) for copy in copies])
    allowed = credit(plan.rate, piece.not_before, piece.now)
    good: list[int] = []
    faults: list[tuple[Stored, str]] = []
    unread = read = 0
    after = piece.after_id
    keep = _lease_keeper(ctx, piece)
    for copy in copies:
        if after != piece.after_id and read >= allowed:
            break
        if on_tape:
            read += copy.size
            after = copy.file_id
            continue
        try:
            fault = fault_of(ctx, element, copy, read_bytes=True, progress=keep)
        except Unavailable as error:
            markers.ensure(ctx, element)  # raises when it is the storage, not the copy
            ctx.log.warning("copy cannot be read now", file=copy.path, at=element.name, why=error.message)
            unread += 1
            if not isinstance(error, Offline):
                with ctx.db.transaction() as conn:
                    suspicion.note(conn, FailedRead(copy.file_id, copy.storage_id, "scrub", error.message), WINDOW)
        else:
            read += copy.size
            if fault:
                faults.append((copy, fault))
            else:
                good.append(copy.file_id)
        after = copy.file_id
    else:
        if last is not None and len(copies) < TURN:
            after = last
    if faults:
        markers.ensure(ctx, element)  # before it is believed: the disk may have gone while we read
    done = Done(after, len(good) + len(faults), read, unread, 0)
    with ctx.db.transaction() as conn:
        if not passes.give_back(conn, piece, paid_for(plan.rate, piece.not_before, piece.now, read)):
            return False  # the lease ended: whoever has it now reads the same again
        passes.verified(conn, element.storage_id, good)
        found = sum(suspect(ctx, conn, element, copy, fault) for copy, fault in faults)
        if last is None:
            passes.end_pass(conn, piece)
        else:
            passes.advance(conn, piece, Done(done.after_id, done.read, done.size, done.unread, found))
    if last is None:
        ctx.log.info("scrub ends", storage=element.name)
    elif done.read:
        ctx.log.info("scrubbed", storage=element.name, copies=done.read, bytes=read, faults=found)
    return True


def _lease_keeper(ctx: Context, piece: Piece) -> Callable[[], None]:
    """To be called while reading: extends the lease now and then."""
    lease = ctx.settings.lease
    told = time.monotonic()

    def keep() -> None:
        nonlocal told
        if time.monotonic() - told > lease.total_seconds() / 4:
            told = time.monotonic()
            with ctx.db.transaction() as conn:
                passes.keep(conn, piece, lease)

    return keep


def suspect(ctx: Context, conn: db.Connection, element: StorageElement, copy: Stored, fault: str) -> bool:
    """Whether an Available copy became Suspect: it is read again soon, and counts no more meanwhile."""
    replica = (copy.file_id, element.storage_id)
    if not transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.SUSPECT, fault):
        return False  # freed or found by another meanwhile
    transitions.remedied(conn, "file", [copy.file_id], f"its copy at {element.name} counts no more", fault)
    suspicion.note(conn, FailedRead(*replica, "scrub", fault), WINDOW)
    catalog.recheck(conn, [replica])
    transfers.unsettle(conn, [copy.file_id])
    ctx.log.warning("copy is not in order", file=copy.path, at=element.name, why=fault)
    return True


@dataclass(frozen=True, slots=True)
class Scrub:
    """How far the re-reading of one storage's copies has come. `progress`: of the pass under way, from 0 to 1.
    `days`: for a full pass at this rate."""

    storage: str
    state: str
    progress: float | None
    files: int
    bytes: int
    read: int
    bytes_read: int
    unread: int
    faults: int
    began: datetime | None
    ended: datetime | None
    complete: datetime | None
    next: datetime | None
    every_days: float
    rate: int
    days: float
    trouble: str


def scrubs(ctx: Context, name: str | None = None) -> list[Scrub]:
    """How far each storage, or one, is."""
    with ctx.db.transaction() as conn:
        elements = {s.storage_id: s for s in topology.storages(conn)}
        found = passes.progress(conn)
        own = passes.schedules(conn)
    if name is not None:
        wanted = element_named(elements.values(), name)
        found = [one for one in found if one.storage_id == wanted.storage_id]
    return [
        _told(one, elements[one.storage_id], _schedule(ctx, elements[one.storage_id], own))
        for one in found
        if one.storage_id in elements
    ]


def _told(one: Progress, element: StorageElement, plan: Schedule) -> Scrub:
    under_way = one.began is not None and one.ended is None
    if not element.enabled:
        state = "disabled"
    elif not element.readable:
        state = "waits until it may be read"
    elif under_way:
        state = "waits for its disk" if one.trouble else "reading"
    else:
        state = "waits" if plan.every else "never"
    return Scrub(
        storage=one.storage,
        state=state,
        progress=min(1.0, one.n_passed / one.files) if under_way and one.files else None,
        files=one.files,
        bytes=one.bytes,
        read=one.n_read,
        bytes_read=one.n_bytes,
        unread=one.n_unread,
        faults=one.n_faults,
        began=one.began,
        ended=one.ended,
        complete=one.complete,
        next=None if under_way or not plan.every or not element.enabled else one.last_began + plan.every,
        every_days=plan.every.total_seconds() / 86400,
        rate=plan.rate,
        days=days_for_a_pass(one.bytes, plan.rate),
        trouble=one.trouble,
    )


def begin_scrub(ctx: Context, name: str) -> bool:
    """Begin a pass over a storage now, whenever the next one were due. False when one is under way."""
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
        if not element.enabled:
            raise Refused(f"storage {name} is disabled", hint="lightkeeper storage list")
        passes.prepare(conn)
        db.notify(conn, "scrub")
        return passes.begin_pass(conn, element.storage_id, timedelta(0))


def mark(ctx: Context, name: str) -> None:
    """Give the disk that is there the marker of a storage, because a person says that it is the storage's."""
    with ctx.db.transaction() as conn:
        element = element_named(topology.storages(conn), name)
    markers.mark(ctx, element)


def tell_again(ctx: Context, name: str) -> int:
    """Have every copy on a storage told of in new manifests: after some were damaged or lost. How many copies."""
    with ctx.db.transaction() as conn:
        return store_manifests.tell_again(conn, element_named(topology.storages(conn), name).storage_id)


def element_named(storages: Iterable[StorageElement], name: str) -> StorageElement:
    """The storage of this name; raises NotFound."""
    by_name = {s.name: s for s in storages}
    if name not in by_name:
        raise NotFound(f"storage '{printable(name)}' does not exist", hint=nearest(name, by_name))
    return by_name[name]


# --- recheck ---------------------------------------------------------------------------------------------------
def recheck(ctx: Context) -> int:
    """Read the copies that are suspect, those that were reported and never read, and those whose last reading is too
    old for a decision that waits.

    What reads as the catalogue says counts again; what does not is Lost, and a copy is made in its place.
    """
    with ctx.db.transaction() as conn:
        copies = catalog.take_recheck(conn, limit=20)
        elements = {s.storage_id: s for s in topology.storages(conn)}
    read = 0
    for copy in copies:
        element, replica = elements[copy.storage_id], (copy.file_id, copy.storage_id)
        try:
            fault = fault_of(ctx, element, copy, read_bytes=True)
            if fault:
                markers.ensure(ctx, element)
        except Unavailable as error:  # says nothing about the copy; whoever asked asks again
            with ctx.db.transaction() as conn:
                probe.work_failed(conn, [element], error)
            ctx.log.warning("copy cannot be read now", file=copy.path, at=element.name, why=error.message)
            continue
        with ctx.db.transaction() as conn:
            if fault:
                transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.SUSPECT, fault)
                if transitions.move_replicas(conn, [replica], Replica.SUSPECT, Replica.LOST, fault):
                    what = f"its copy at {element.name} is given up; another is made while one is left"
                    transitions.remedied(conn, "file", [copy.file_id], what, fault)
            else:
                catalog.verified_again(conn, replica)
                suspicion.forget(conn, replica)
                for state in (Replica.SUSPECT, Replica.LOST):
                    transitions.move_replicas(conn, [replica], state, Replica.AVAILABLE, "read again, in order")
            transfers.unsettle(conn, [copy.file_id])
        read += 1
        if fault:
            ctx.log.warning("copy is not in order", file=copy.path, at=element.name, why=fault)
    if read:
        ctx.log.info("copies read", copies=read)
    return read


# --- fsck ------------------------------------------------------------------------------------------------------
def fsck(ctx: Context, *, read_bytes: bool = False) -> Fsck:
    """Check every invariant, and that every available replica is there; with `read_bytes` re-read all of them, except
    those on tape: tape storages are asked where they lie, and nothing is staged."""
    with ctx.db.transaction() as conn:
        found = invariants.violations(conn)
        elements = [s for s in topology.storages(conn) if s.enabled and s.read]
    checked = bytes_read = 0
    for element in elements:
        try:
            markers.ensure(ctx, element, write=False)
        except Unavailable as error:  # said once, not once for each of its copies
            found.append(Violation("I13", I13, f"{element.name}: {error.message}"))
            continue
        after = 0
        while True:
            with ctx.db.transaction() as conn:
                page = catalog.available_on(conn, element.storage_id, after, PAGE)
            if not page:
                break
            where = _localities(ctx, element, page)
            for stored in page:
                try:
                    fault = where[stored.path] if stored.path in where else fault_of(ctx, element, stored, read_bytes)
                except Unavailable as error:
                    fault = error.message
                if fault and _still_available(ctx, element, stored):
                    found.append(Violation("I13", I13, f"{stored.path} on {element.name}: {fault}"))
                checked += 1
                bytes_read += stored.size if read_bytes and not where else 0
            after = page[-1].file_id
        if element.media is not Media.TAPE:  # reading a tape back is the business of whoever has lost the catalogue
            found += [Violation("I19", I19, fault) for fault in manifests.faults(ctx, element, LIMIT)]
    return Fsck(found, len({i.id for i in invariants.INVARIANTS}), checked, bytes_read)


def _localities(ctx: Context, element: StorageElement, page: Sequence[Stored]) -> dict[str, str]:
    """What is wrong with copies on a tape storage, by their paths, as it tells; nothing for other storages."""
    tape = ctx.tape(element)
    if tape is None:
        return {}
    try:
        where = tape.localities([stored.path for stored in page])
    except LightkeeperError as error:
        return dict.fromkeys((stored.path for stored in page), error.message)
    return {path: "" if place.on_tape else f"is not on tape but {str(place).lower()}" for path, place in where.items()}


def fault_of(
    ctx: Context,
    element: StorageElement,
    stored: Stored,
    read_bytes: bool,
    progress: Callable[[], None] = lambda: None,
) -> str:
    """What is wrong with a copy; empty when nothing is. Raises Unavailable when its storage does not answer."""
    storage = ctx.storage(element)
    try:
        entry = storage.stat(stored.path)
        if entry is None:
            return "is not there"
        if entry.size != stored.size:
            return f"has {entry.size} bytes instead of {stored.size}"
        if not read_bytes:
            return ""
        with storage.open(stored.path) as file:
            sha256 = fixity_of(_watched(chunks_of(file), progress)).sha256
        return "" if sha256 == stored.sha256 else f"has sha256 {sha256[:12]}… instead of {stored.sha256[:12]}…"
    except Unavailable:
        raise
    except LightkeeperError as error:
        return error.message
    except OSError as error:
        return f"reading failed: {error.strerror or error}"


def _watched(chunks: Iterator[bytes], progress: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        progress()
        yield chunk


def _still_available(ctx: Context, element: StorageElement, stored: Stored) -> bool:
    """It may have been deleted, by intent, while we looked."""
    with ctx.db.transaction() as conn:
        page = catalog.available_on(conn, element.storage_id, stored.file_id - 1, 1)
    return bool(page) and page[0].file_id == stored.file_id
