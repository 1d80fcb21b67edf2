"""Step 3: bytes move and are read back at their destination. Its other half, delete.py, carries out deletions.

Before: replicate.py queued transfers.    After: transform.py uses the copies, audit.py re-reads them.
Worker: carry_out in several threads. Safe to run twice: transfers are claimed with a lease and an epoch. Each attempt
has a temporary name of its own at the target, so a slower one is in nobody's way; a later attempt may take over what a
dead one left. A copy that was made but not recorded is read back and recorded.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import psycopg

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Offline, Unavailable
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.transferring import LinkLimit, Load, in_turn, next_attempt, next_stream, ways
from lightkeeper.ports import Copied, Copy, RenamingStorage, Storage
from lightkeeper.steps import markers, probe, suspicion
from lightkeeper.store import db, meters, stage, topology, transfers, transitions
from lightkeeper.store.suspicion import FailedRead
from lightkeeper.store.transfers import ClaimedTransfer, Failure

ARRIVALS = "/.lightkeeper/arrivals"
RENAMED_AT_ONCE = 8
"""Where a copy lies until it was read back: nothing under an LFN is ever unverified."""


def carry_out(ctx: Context) -> int:
    """Claim the next stream of waiting transfers and make them, one after the other; return how many were tried."""
    with _places.given(lambda avoid: claim(ctx, avoid)) as stream:
        return _carry_out(ctx, stream) if stream else 0


def _carry_out(ctx: Context, stream: list[ClaimedTransfer]) -> int:
    with ctx.db.transaction() as conn:
        storages = {s.storage_id: s for s in topology.storages(conn)}
        links = topology.link_limits(conn)
    source, target = storages[stream[0].source_id], storages[stream[0].target_id]
    way = _Way(ctx, source, target, links.get((source.site, target.site), LinkLimit()).max_rate)
    came: list[ClaimedTransfer] = []
    failed: list[tuple[ClaimedTransfer, LightkeeperError, str]] = []
    began = time.monotonic()
    with _lease_kept(ctx, stream, way):
        for transfer, error in _carried(ctx, stream, way):
            if error is None:
                came.append(transfer)
                continue
            failed.append((transfer, error, _source_fault(ctx, transfer, way, error)))
    seconds = time.monotonic() - began
    db.until_free(lambda: _record(ctx, stream, came, failed, seconds, (source, target)))
    _places.told(target.storage_id, answers=not any(isinstance(error, Unavailable) for _, error, _ in failed))
    for transfer in came:
        ctx.log.info("copied", file=transfer.path, to=target.name, bytes=transfer.size)
    for transfer, error, fault in failed:
        ctx.log.warning("not copied", file=transfer.path, attempt=transfer.attempts, why=error.message, source=fault)
    return len(came) + len(failed)


def claim(ctx: Context, avoid: AbstractSet[int] = frozenset()) -> list[ClaimedTransfer]:
    """The transfers of one stream, ours until their leases end; none when nothing waits that has room on its way, or
    only for the storages in `avoid`."""
    with ctx.db.transaction() as conn:
        transfers.hold_claims(conn)
        heads = [head for head in transfers.queue_heads(conn) if head.target_id not in avoid]
        if not heads:
            return []
        storages = {s.storage_id: s for s in topology.storages(conn)}
        links = topology.link_limits(conn)
        load = Load.of(transfers.running_streams(conn), storages)
        for head in in_turn(heads, load, topology.shares(conn)):
            stream = next_stream(transfers.queued(conn, head), storages[head.target_id], storages, links, load)
            if stream:
                return transfers.start(conn, stream, ctx.settings.lease)
    return []


class _Places:
    """Where the threads of this process copy to. A storage that did not answer the last time, or that nothing is known
    of yet, has one of them at the most: one that hangs never has them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = Counter[int]()
        self._answering: set[int] = set()

    @contextmanager
    def given(self, claim_but: Callable[[AbstractSet[int]], list[ClaimedTransfer]]) -> Generator[list[ClaimedTransfer]]:
        """The stream that `claim_but` claims, told which storages have no thread to be given."""
        with self._lock:
            stream = claim_but({place for place, n in self._under_way.items() if n and place not in self._answering})
            target_id = stream[0].target_id if stream else 0
            self._under_way[target_id] += bool(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._under_way[target_id] -= bool(stream)

    def told(self, place: int, *, answers: bool) -> None:
        """A copy to this storage went through, or met no answer."""
        with self._lock:
            (self._answering.add if answers else self._answering.discard)(place)


_places = _Places()


class _Way:
    """From one storage to another, with the rates that hold on it. Threads have one each."""

    def __init__(self, ctx: Context, source: StorageElement, target: StorageElement, link_rate: int | None) -> None:
        self.source, self.target = source, target
        self.pairs = ways(source, target)
        self._ctx = ctx
        limits = {
            f"link {source.site} to {target.site}": link_rate,
            f"storage {source.name}": source.max_rate,
            f"storage {target.name}": target.max_rate,
        }
        self._rates = {name: rate for name, rate in limits.items() if rate}
        self._granted = 0
        self._pacing = threading.Lock()
        self.moved = time.monotonic()

    @property
    def paced(self) -> bool:
        """Whether a rate is to be kept."""
        return bool(self._rates)

    def progress(self) -> Callable[[int], None]:
        """To be told how many bytes of one file went; returns when the next may go."""
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            with self._pacing:
                self.moved = time.monotonic()
                count, told = done - told, done
                self._granted -= count
                if self._rates and self._granted < 0:
                    grant = max(-self._granted, min(self._rates.values()) // 8)
                    with self._ctx.db.transaction() as conn:
                        wait = meters.reserve(conn, self._rates, grant)
                    self._granted += grant
                    time.sleep(max(0.0, wait))
                    self.moved = time.monotonic()

        return tell


Ended = tuple[ClaimedTransfer, LightkeeperError | None]


def _carried(ctx: Context, stream: list[ClaimedTransfer], way: _Way) -> Iterator[Ended]:
    """Bring each copy and read it back, by the first pair of protocols that answers; it is complete under its name when
    it is told to have come."""
    left = list(stream)
    for n, (source, target) in enumerate(way.pairs, 1):
        away: Unavailable | None = None
        for transfer, error in _carried_by(ctx, list(left), way, source, target):
            if isinstance(error, Unavailable) and not isinstance(error, Offline) and n < len(way.pairs):
                away = error
            else:
                left.remove(transfer)
                yield transfer, error
        if away is None:
            return
        with ctx.db.transaction() as conn:
            probe.protocol_failed(conn, [way.source, way.target], away)
        ctx.log.warning("other protocol", instead_of=f"{source.driver} to {target.driver}", why=away.message)


def _carried_by(
    ctx: Context, stream: list[ClaimedTransfer], way: _Way, source_by: StorageElement, target_by: StorageElement
) -> Iterator[Ended]:
    try:
        source, target = ctx.storage(source_by), ctx.storage(target_by)
        mover = ctx.mover_to(target_by)
        markers.ensure(ctx, target_by)  # else the copies would lie below the mount point, and count
    except LightkeeperError as error:
        yield stream[0], error
        return
    there = [transfer for transfer in stream if transfer.attempts > 1 and _lies_there(transfer, target)]
    yield from ((transfer, None) for transfer in there)
    transfers_of = {_arrival(transfer, transfer.epoch): transfer for transfer in stream if transfer not in there}
    copies = [
        Copy(
            source,
            transfer.path,
            target,
            arrival,
            transfer.size,
            tuple(_arrival(transfer, epoch) for epoch in range(transfer.epoch - 1, 0, -1)[: transfers.TAKEN_OVER]),
            key=f"{transfer.transfer_id}.{transfer.epoch}",
            progress=way.progress(),
            paced=way.paced,
        )
        for arrival, transfer in transfers_of.items()
    ]
    verified: list[tuple[str, str]] = []
    unanswered = 0
    with closing(mover.carry(copies)) as outcomes:
        for ended in outcomes:
            transfer = transfers_of[ended.copy.target_path]
            error = _what_went_wrong(ended, transfer, way)
            if error is None:
                verified.append((ended.copy.target_path, transfer.path))
            else:
                yield transfer, error
            unanswered += isinstance(error, Unavailable)
            if unanswered > 1:
                break  # one connection may break; who does not answer twice will not answer for the next file either
    for (arrival, _), error in zip(verified, _renamed(target, verified), strict=True):
        yield transfers_of[arrival], error


def _arrival(transfer: ClaimedTransfer, epoch: int) -> str:
    return f"{ARRIVALS}/{transfer.transfer_id}.{epoch}"


def _lies_there(transfer: ClaimedTransfer, target: Storage) -> bool:
    """Whether an attempt before this one brought the file to its name, and died before that was recorded."""
    try:
        found = target.stat(transfer.path)
        if found is None or found.size != transfer.size:
            return False
        with target.open(transfer.path) as file:
            return fixity_of(chunks_of(file)).sha256 == transfer.sha256
    except (LightkeeperError, OSError):
        return False


def _what_went_wrong(ended: Copied, transfer: ClaimedTransfer, way: _Way) -> LightkeeperError | None:
    """None when the file's very bytes were read back at the target. What is wrong there is removed."""
    if isinstance(ended.error, OSError):  # the medium of the source: what reads a file there is the operating system
        return Corrupt(f"reading failed: {ended.error.strerror or ended.error}")
    if ended.error is not None:
        return ended.error
    back = ended.fixity
    if back is not None and (back.size, back.sha256) == (transfer.size, transfer.sha256):
        return None
    with suppress(LightkeeperError):  # it is in the way of nobody
        ended.copy.target.delete(ended.copy.target_path)
    came = f"sha256 {back.sha256[:12]}… and {back.size} bytes" if back else "nothing that was read back"
    return Corrupt(
        f"it arrived at {way.target.name} with {came} instead of {transfer.sha256[:12]}… and {transfer.size}"
    )


def _renamed(storage: Storage, names: list[tuple[str, str]]) -> list[LightkeeperError | None]:
    """Give files their names; what went wrong, in their order."""
    if isinstance(storage, RenamingStorage):
        return storage.rename_all(names)

    def rename(names: tuple[str, str]) -> LightkeeperError | None:
        try:
            storage.rename(*names)
        except LightkeeperError as error:
            with suppress(LightkeeperError):  # it is in the way of nobody
                storage.delete(names[0])
            return error
        return None

    if len(names) < 2:
        return [rename(pair) for pair in names]
    with ThreadPoolExecutor(min(RENAMED_AT_ONCE, len(names)), "rename") as pool:  # each waits for an answer
        return list(pool.map(rename, names))


@contextmanager
def _lease_kept(ctx: Context, stream: list[ClaimedTransfer], way: _Way) -> Generator[None]:
    """Extend the leases from time to time for as long as bytes move, whatever the mover is at."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(ctx.settings.lease.total_seconds() / 4):
            if time.monotonic() - way.moved > ctx.settings.stalled_after.total_seconds():
                ctx.log.error("copy stands still", file=stream[0].path, to=way.target.name)
                return  # somebody else takes it over, from another copy or to another place
            with suppress(psycopg.Error), ctx.db.transaction() as conn:
                if not transfers.extend_lease(conn, stream, ctx.settings.lease):
                    return  # somebody took them over; what we bring will not be recorded

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _record(
    ctx: Context,
    stream: list[ClaimedTransfer],
    came: list[ClaimedTransfer],
    failed: list[tuple[ClaimedTransfer, LightkeeperError, str]],
    seconds: float,
    elements: Sequence[StorageElement],
) -> None:
    """What came is a replica from now on, what did not is tried again later, from a copy that is in order; of what is
    not ours any more nothing is said."""
    with ctx.db.transaction() as conn:
        ours = transfers.still_ours(conn, stream)
        transfers.arrived(conn, [t for t in came if t.transfer_id in ours], seconds)
        failures: list[Failure] = []
        for transfer, error, source_fault in failed:
            if transfer.transfer_id not in ours:
                continue
            if isinstance(error, Offline):
                stage.went_offline(conn, transfer.file_id, transfer.source_id)
            if source_fault:
                reader = f"transfer {transfer.transfer_id}"
                read = FailedRead(transfer.file_id, transfer.source_id, reader, source_fault)
                suspicion.failed(ctx, conn, read, wrong=True)
            wait = next_attempt(error, transfer.attempts, ctx.settings.transfer_attempts, ctx.settings.retry_after)
            failures.append(Failure(transfer, error.message, wait))
            if wait is not None:
                name = transfer.path.rpartition("/")[2]
                done = "was thrown away and is made again" if isinstance(error, Corrupt) else "is tried again"
                what = f"the copy of {name} {done}"
                transitions.remedied(conn, "transfer", [transfer.transfer_id], what, error.message)
        transfers.did_not_arrive(conn, failures)
        for _, error, _ in failed:
            if isinstance(error, Unavailable) and not isinstance(error, Offline):
                probe.work_failed(conn, elements, error)
        tried = {t.transfer_id for t in came} | {t.transfer_id for t, _, _ in failed}
        begun_not = [t for t in stream if t.transfer_id in ours - tried]
        if begun_not:
            transfers.give_back(conn, begun_not, ctx.settings.retry_after, "the one before it met no answer")


def _source_fault(ctx: Context, transfer: ClaimedTransfer, way: _Way, error: LightkeeperError) -> str:
    """What is wrong with the copy that was read; empty when it is in order, or does not answer."""
    if not isinstance(error, Corrupt | NotFound):
        return ""
    fault = _what_is_wrong_with(ctx.storage(way.source), transfer)
    return fault if fault and markers.is_there(ctx, way.source) else ""


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
