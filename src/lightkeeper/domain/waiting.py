"""Why copies are missing and what will happen next, in sentences; and when those that are missing will be there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lightkeeper.domain.catalog import Media, StorageElement
from lightkeeper.domain.policy import FileCopies, Policy, plan_copies
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.domain.states import Transfer
from lightkeeper.domain.transferring import LinkLimit, Load
from lightkeeper.domain.units import readable_time


@dataclass(frozen=True, slots=True)
class Pending:
    """A transfer of a file that is under way, waits, or was given up lately."""

    file_id: int
    target_id: int
    source_id: int | None
    state: Transfer
    attempts: int
    not_before: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What transfers meet: storages, what links carry at the most and what is under way; how often a transfer is tried;
    the time."""

    storages: Mapping[int, StorageElement]
    limits: Mapping[tuple[str, str], LinkLimit]
    load: Load
    attempts: int
    now: datetime


# --- why -------------------------------------------------------------------------------------------------------
def reasons(policy: Policy, file: FileCopies, pending: Sequence[Pending], around: Surroundings) -> list[str]:
    """Why the file lacks copies that the policy asks for, and what happens next; nothing when it has them all.

    One sentence for each copy that is under way or was given up, and one for those that are not planned.
    """
    plan = plan_copies(policy, file, around.storages, around.now)
    if policy.withdrawn is not None:
        return []
    if plan.fulfilled:
        unread = [around.storages[r.storage_id].name for r in file.replicas if r.verified_at < r.written_at]
        return [f"the copy at {name} was reported and is still to be read" for name in unread]
    told = [_of_transfer(policy, file, one, around) for one in pending if policy.takes(around.storages[one.target_id])]
    if plan.blocked:
        told.append(plan.blocked)
    elif plan.copy_to:
        told.append("a transfer is planned in a moment")
    elif not told and pending:
        told.append(_first_copy(policy, pending, around))
    return told or ["it is looked at in a moment"]


def _first_copy(policy: Policy, pending: Sequence[Pending], around: Surroundings) -> str:
    target = around.storages[pending[0].target_id].name
    if policy.source:
        return f"it is copied once there is a copy at {policy.source}: one to {target} is under way"
    return f"it is copied from the first data centre that has it: a copy to {target} is under way"


def _of_transfer(policy: Policy, file: FileCopies, one: Pending, around: Surroundings) -> str:
    target = around.storages[one.target_id]
    nth = f"attempt {one.attempts} of {around.attempts}"
    if one.state is Transfer.RUNNING:
        source = around.storages[one.source_id].name if one.source_id is not None else "?"
        return f"it is being copied from {source} to {target.name}{f', {nth}' if one.attempts > 1 else ''}"
    if one.state is Transfer.FAILED:
        return f"the copy to {target.name} was given up after {one.attempts} attempts: {one.error}"
    if cannot := _unreadable(policy, file, around):
        return f"the copy to {target.name} waits: {cannot}"
    if one.attempts and one.not_before > around.now:
        at = f"{one.not_before:%Y-%m-%d %H:%M} UTC"
        return f"the copy to {target.name} failed in {nth}: {one.error}; the next is at {at}"
    if not target.writable:
        return f"the copy to {target.name} waits: {target.name} {target.refuses(0)}"
    return f"the copy to {target.name} waits for its turn{_on_links(policy, file, target, around)}"


def _unreadable(policy: Policy, file: FileCopies, around: Surroundings) -> str:
    """Why no copy can be read now; empty when one can."""
    told: list[str] = []
    for replica in file.replicas:
        storage = around.storages[replica.storage_id]
        if not policy.copies_from(storage):
            continue
        if replica.state is not ReplicaState.AVAILABLE:
            told.append(f"the copy at {storage.name} is {replica.state}")
        elif not storage.readable:
            told.append(f"{storage.name} cannot be read now")
        else:
            return ""
    return ", ".join(told) or "there is no copy where it may come from"


def _on_links(policy: Policy, file: FileCopies, target: StorageElement, around: Surroundings) -> str:
    sources = [
        around.storages[r.storage_id]
        for r in file.replicas
        if r.state is ReplicaState.AVAILABLE and policy.copies_from(around.storages[r.storage_id])
    ]
    if all(source.media is Media.TAPE for source in sources):
        return f": it is brought from tape at {', '.join(source.name for source in sources)} first"
    full = [_full(source, target, around) for source in sources]
    return f": {full[0]}" if all(full) else ""


def _full(source: StorageElement, target: StorageElement, around: Surroundings) -> str:
    """What carries all it may on the way from one storage to another; empty when there is room."""
    most = around.limits.get((source.site, target.site), LinkLimit()).max_transfers
    if (running := around.load.links[source.site, target.site]) >= most:
        return f"the link from {source.site} to {target.site} carries {running} of {most} transfers"
    for storage in (source, target):
        if (running := around.load.storages[storage.storage_id]) >= storage.max_transfers:
            return f"{storage.name} carries {running} of {storage.max_transfers} transfers"
    return ""


# --- when ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Rate:
    """What arrived at a storage lately, in bytes and in files per second."""

    bytes: float
    files: float

    def seconds(self, size: float, files: float) -> float:
        """How long so many bytes in so many files take: the longer of both, for small files take their time each."""
        return max(size / self.bytes if self.bytes else 0.0, files / self.files if self.files else 0.0)


@dataclass(frozen=True, slots=True)
class Left:
    """What is still to arrive at a storage before a rule is fulfilled: its own transfers and those that go before."""

    target_id: int
    bytes: int
    files: int


def seconds_left(
    queued: Iterable[Left], missing: tuple[int, int], rates: Mapping[int, Rate], able: Iterable[int]
) -> float | None:
    """How long until all copies of a rule are there: the slowest of the storages that its transfers go to, and, for all
    (bytes, files) that are missing, the storages that can take them (`able`) together. None when nothing arrived lately
    at one of them, so that nobody knows."""
    size, files = missing
    if not files:
        return 0.0
    together = [rates[storage_id] for storage_id in able if storage_id in rates]
    if not together:
        return None
    seconds = [Rate(sum(r.bytes for r in together), sum(r.files for r in together)).seconds(size, files)]
    for left in queued:
        if left.target_id not in rates:
            return None
        seconds.append(rates[left.target_id].seconds(left.bytes, left.files))
    return max(seconds)


def lateness(deadline: datetime | None, seconds: float | None, now: datetime) -> str:
    """A warning when the estimate says that the deadline will be missed, or when it has been; empty else."""
    if deadline is None or seconds == 0:
        return ""
    if now > deadline:
        return f"it was wanted by {deadline:%Y-%m-%d %H:%M} UTC"
    if seconds is None or now + timedelta(seconds=seconds) <= deadline:
        return ""
    over = (now + timedelta(seconds=seconds) - deadline).total_seconds()
    return f"it will be {readable_time(over)} late: it is wanted by {deadline:%Y-%m-%d %H:%M} UTC"
