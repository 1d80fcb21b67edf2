"""Step 7, in passing: whoever reads a copy and fails says so, and the audit looks at it.

Before: run.py, content.py, transfer.py and audit.py read copies.    After: audit.py reads those in doubt once more.
Called by those steps in their own transactions, and by the API for the list. A failed read is no proof: what decides is
the audit's own reading. Many that fail on one storage at once point to the storage: then its copies stay what they are,
count for no deletion until they were read, and are not made again elsewhere by the thousand.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.auditing import MANY, WINDOW, Doubt, doubt
from lightkeeper.domain.states import Replica
from lightkeeper.steps.audit import element_named
from lightkeeper.store import catalog, suspicion, topology, transfers, transitions
from lightkeeper.store.db import Connection
from lightkeeper.store.suspicion import FailedRead, Suspicious


def failed(ctx: Context, conn: Connection, read: FailedRead, *, wrong: bool) -> Doubt:
    """Note a failed read, and what it says. `wrong`: other bytes came or the file is not there, and it was made sure
    that the storage's own disk is there; else the storage gave no answer."""
    counts = suspicion.note(conn, read, WINDOW)
    says = doubt(wrong, counts.of_copy, counts.files)
    replica = (read.file_id, read.storage_id)
    if says is Doubt.STORAGE:
        suspicion.unread(conn, [replica])
        if counts.files == MANY:
            name = next(s.name for s in topology.storages(conn) if s.storage_id == read.storage_id)
            ctx.log.error("storage in doubt", storage=name, files=counts.files, why=read.why)
    elif says is Doubt.COPY:
        if transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.SUSPECT, read.why):
            name = next(s.name for s in topology.storages(conn) if s.storage_id == read.storage_id)
            transitions.remedied(conn, "file", [read.file_id], f"its copy at {name} counts no more", read.why)
            transfers.unsettle(conn, [read.file_id])
        catalog.recheck(conn, [replica])
    return says


@dataclass(frozen=True, slots=True)
class Doubted:
    """Copies that failed to be read and were not read in order since; and storages on which many failed lately."""

    copies: list[Suspicious]
    storages: dict[str, int]


def suspicious(ctx: Context, name: str | None = None, limit: int = 1000) -> Doubted:
    """What is in doubt, on one storage or on any."""
    with ctx.db.transaction() as conn:
        elements = topology.storages(conn)
        storage_id = element_named(elements, name).storage_id if name is not None else None
        many = suspicion.in_doubt(conn, MANY, WINDOW)
        copies = suspicion.suspicious(conn, storage_id, limit)
    in_doubt = {s.name: many[s.storage_id] for s in elements if s.storage_id in many and name in (None, s.name)}
    return Doubted(copies, in_doubt)
