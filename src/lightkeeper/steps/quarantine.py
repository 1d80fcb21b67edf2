"""Step 1, the other end: what is refused lies in the quarantine with its trigger and the reason, never registered.

Before: ingest.py found what is wrong with a delivery.    After: a person reads the reason.
"""

from contextlib import suppress
from pathlib import Path

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Replica
from lightkeeper.steps.reading import SUFFIX
from lightkeeper.store import catalog, transfers, transitions, triggers
from lightkeeper.store.db import Connection
from lightkeeper.store.triggers import Claim

QUARANTINE = "/.lightkeeper/quarantine"
"""Below the storage the delivery was made to: the move is a rename and cannot half-fail."""


def put(ctx: Context, element: StorageElement, claim: Claim, reason: str) -> None:
    """Move a refused file, its trigger and a text with the reason out of the way; never register it.

    The reason is in the database before anything moves; after a crash the delivery is claimed and refused again, and
    what has moved already is not there to be moved twice.
    """
    storage = ctx.local_storage(element)
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
