"""Step 3: bytes move and are read back at their destination. Its other half, delete.py, carries out deletions.

Before: replicate.py queued transfers.    After: transform.py uses the copies, audit.py re-reads them.
Worker: carry_out in several threads. Safe to run twice: transfers are claimed with a lease and an epoch, and a copy
that was made but not recorded is made again over itself.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Unavailable
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.states import Replica
from lightkeeper.domain.work import retry_delay
from lightkeeper.ports import Storage
from lightkeeper.steps import markers
from lightkeeper.store import db, topology, transfers, transitions
from lightkeeper.store.transfers import ClaimedTransfer

ARRIVALS = "/.lightkeeper/arrivals"
"""Where a copy lies until it was read back: nothing under an LFN is ever unverified."""
BATCH = 1
"""A lease runs while its file is copied, so only what is copied at once is claimed."""


def carry_out(ctx: Context) -> int:
    """Claim a few waiting transfers and make them; return how many were tried."""
    with ctx.db.transaction() as conn:
        claimed = transfers.claim_transfers(conn, BATCH, ctx.settings.lease)
        storages = {s.storage_id: s for s in topology.storages(conn)}
    for transfer in claimed:
        try:
            _copy(ctx, transfer, storages)
        except LightkeeperError as error:
            _did_not_arrive(ctx, transfer, storages, error)
        except OSError as error:  # the medium of the source: what reads a file there is the operating system
            _did_not_arrive(ctx, transfer, storages, Corrupt(f"reading failed: {error.strerror or error}"))
    return len(claimed)


def _copy(ctx: Context, transfer: ClaimedTransfer, storages: dict[int, StorageElement]) -> None:
    source, target = ctx.storage(storages[transfer.source_id]), ctx.storage(storages[transfer.target_id])
    arrival = f"{ARRIVALS}/{transfer.transfer_id}.{transfer.epoch}"
    markers.ensure(ctx, storages[transfer.target_id])  # else the copy would lie below the mount point, and count
    try:
        with _lease_kept(ctx, transfer):
            read_back = ctx.mover.copy(source, transfer.path, target, arrival, _at_rate(transfer))
        if (read_back.size, read_back.sha256) != (transfer.size, transfer.sha256):
            raise Corrupt(
                f"it arrived at {storages[transfer.target_id].name} with sha256 {read_back.sha256[:12]}… and "
                f"{read_back.size} bytes instead of {transfer.sha256[:12]}… and {transfer.size}"
            )
        target.rename(arrival, transfer.path)
    except (LightkeeperError, OSError):
        with suppress(LightkeeperError):  # it is in the way of nobody
            target.delete(arrival)
        raise
    db.until_free(lambda: _record(ctx, transfer, read_back.sha256))
    ctx.log.info("copied", file=transfer.path, to=storages[transfer.target_id].name, bytes=transfer.size)


def _record(ctx: Context, transfer: ClaimedTransfer, sha256: str) -> None:
    """The copy is a replica from now on, if the transfer is still ours."""
    with ctx.db.transaction() as conn:
        if transfers.lock_transfer(conn, transfer):
            transfers.arrived(conn, transfer, sha256)


@contextmanager
def _lease_kept(ctx: Context, transfer: ClaimedTransfer) -> Generator[None]:
    """Extend the lease from time to time for as long as the block takes, whatever the mover is at."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(ctx.settings.lease.total_seconds() / 4):
            with ctx.db.transaction() as conn:
                if not transfers.extend_lease(conn, transfer, ctx.settings.lease):
                    return  # somebody took it over; what we bring will not be recorded

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _at_rate(transfer: ClaimedTransfer) -> Callable[[int], None]:
    """Told of progress: keeps to the link's rate."""
    started = time.monotonic()

    def progress(done: int) -> None:
        if transfer.max_rate:
            time.sleep(max(0.0, done / transfer.max_rate - (time.monotonic() - started)))

    return progress


def _did_not_arrive(
    ctx: Context, transfer: ClaimedTransfer, storages: dict[int, StorageElement], error: LightkeeperError
) -> None:
    """Try again later, from a copy that is in order."""
    source_fault = ""
    if isinstance(error, Corrupt | NotFound):
        source_fault = _what_is_wrong_with(ctx.storage(storages[transfer.source_id]), transfer)
        if source_fault and not markers.is_there(ctx, storages[transfer.source_id]):
            source_fault = ""
    wait = None
    if transfer.attempts < ctx.settings.transfer_attempts:
        wait = retry_delay(transfer.attempts, ctx.settings.retry_after)
    with ctx.db.transaction() as conn:
        if not transfers.lock_transfer(conn, transfer):
            return
        if source_fault:
            replica = (transfer.file_id, transfer.source_id)
            transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.SUSPECT, source_fault)
        transfers.did_not_arrive(conn, transfer, error.message, wait)
        if wait is not None:
            name = transfer.path.rpartition("/")[2]
            done = "was thrown away and is made again" if isinstance(error, Corrupt) else "is tried again"
            what = f"the copy of {name} {done}"
            transitions.remedied(conn, "transfer", [transfer.transfer_id], what, error.message)
    ctx.log.warning("not copied", file=transfer.path, attempt=transfer.attempts, why=error.message, source=source_fault)


def _what_is_wrong_with(source: Storage, transfer: ClaimedTransfer) -> str:
    """Empty when the source still has the right bytes, so that they were damaged on the way, or does not answer."""
    try:
        with source.open(transfer.path) as file:
            fixity = fixity_of(chunks_of(file))
    except Unavailable:
        return ""
    except LightkeeperError as error:
        return error.message
    except OSError as error:
        return f"reading failed: {error.strerror or error}"
    if (fixity.size, fixity.sha256) != (transfer.size, transfer.sha256):
        return f"reads as sha256 {fixity.sha256[:12]}… instead of {transfer.sha256[:12]}…"
    return ""
