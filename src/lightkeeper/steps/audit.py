"""Step 7: copies are read again, and the promises are checked.

Before: transfer.py and run.py made copies, or found one suspect.    After: replicate.py makes new ones of what is lost.
Worker: recheck every 30 s and when woken. Called by the API: fsck, which only reads. Safe to run twice.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import LightkeeperError, Unavailable
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.states import Replica
from lightkeeper.store import catalog, invariants, topology, transfers, transitions
from lightkeeper.store.catalog import Stored
from lightkeeper.store.invariants import Violation

PAGE = 5000
I13 = "every verified copy lies on its storage with its size and, when read, its bytes"


@dataclass(frozen=True, slots=True)
class Fsck:
    """The result of a check of everything."""

    violations: list[Violation]
    invariants: int
    replicas_checked: int
    bytes_read: int


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
            fault = _fault(ctx, element, copy, read_bytes=True)
        except Unavailable as error:  # says nothing about the copy; whoever asked asks again
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
                transitions.move_replicas(conn, [replica], Replica.SUSPECT, Replica.AVAILABLE, "read again, in order")
            transfers.unsettle(conn, [copy.file_id])
        read += 1
        if fault:
            ctx.log.warning("copy is not in order", file=copy.path, at=element.name, why=fault)
    if read:
        ctx.log.info("copies read", copies=read)
    return read


def fsck(ctx: Context, *, read_bytes: bool = False) -> Fsck:
    """Check every invariant, and that every available replica is there; with `read_bytes` re-read all of them."""
    with ctx.db.transaction() as conn:
        found = invariants.violations(conn)
        elements = [s for s in topology.storages(conn) if s.enabled]
    checked = bytes_read = 0
    for element in elements:
        after = 0
        while True:
            with ctx.db.transaction() as conn:
                page = catalog.available_on(conn, element.storage_id, after, PAGE)
            if not page:
                break
            for stored in page:
                try:
                    fault = _fault(ctx, element, stored, read_bytes)
                except Unavailable as error:
                    fault = error.message
                if fault and _still_available(ctx, element, stored):
                    found.append(Violation("I13", I13, f"{stored.path} on {element.name}: {fault}"))
                checked += 1
                bytes_read += stored.size if read_bytes else 0
            after = page[-1].file_id
    return Fsck(found, len(invariants.INVARIANTS) + 1, checked, bytes_read)


def _fault(ctx: Context, element: StorageElement, stored: Stored, read_bytes: bool) -> str:
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
            sha256 = fixity_of(chunks_of(file)).sha256
        return "" if sha256 == stored.sha256 else f"has sha256 {sha256[:12]}… instead of {stored.sha256[:12]}…"
    except Unavailable:
        raise
    except LightkeeperError as error:
        return error.message
    except OSError as error:
        return f"reading failed: {error.strerror or error}"


def _still_available(ctx: Context, element: StorageElement, stored: Stored) -> bool:
    """It may have been deleted, by intent, while we looked."""
    with ctx.db.transaction() as conn:
        page = catalog.available_on(conn, element.storage_id, stored.file_id - 1, 1)
    return bool(page) and page[0].file_id == stored.file_id
