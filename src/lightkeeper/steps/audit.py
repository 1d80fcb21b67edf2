"""Step 7: the promises are checked: every invariant in the database, and the catalogue against the storages.

Before: everything else.    After: heal.py remedies, or a person is told.
Called by the API for `lightkeeper fsck`; it only reads.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.store import catalog, invariants, topology
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
                fault = _fault(ctx, element, stored, read_bytes)
                if fault and _still_available(ctx, element, stored):
                    found.append(Violation("I13", I13, f"{stored.path} on {element.name}: {fault}"))
                checked += 1
                bytes_read += stored.size if read_bytes else 0
            after = page[-1].file_id
    return Fsck(found, len(invariants.INVARIANTS) + 1, checked, bytes_read)


def _fault(ctx: Context, element: StorageElement, stored: Stored, read_bytes: bool) -> str:
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
    except LightkeeperError as error:
        return error.message


def _still_available(ctx: Context, element: StorageElement, stored: Stored) -> bool:
    """It may have been deleted, by intent, while we looked."""
    with ctx.db.transaction() as conn:
        page = catalog.available_on(conn, element.storage_id, stored.file_id - 1, 1)
    return bool(page) and page[0].file_id == stored.file_id
