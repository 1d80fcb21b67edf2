"""What a class of files is owed, and what follows from what is there: copies to make, replicas to free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lightkeeper.domain.catalog import Media, Replica, SiteKind, StorageElement
from lightkeeper.domain.states import Replica as ReplicaState

MIN_COPIES_TO_FREE = 2
"""However small a policy's number of copies: an on-site replica goes only when so many data centres have verified
copies (I2)."""
MAX_VERIFY_AGE = timedelta(days=7)
"""A copy verified longer ago is no evidence for a deletion (I2)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`copies` verified copies on `media` at distinct data centres; then, if wanted, the on-site replica goes."""

    policy_id: int
    name: str
    query: Mapping[str, Any]
    copies: int
    media: Media = Media.DISK
    free_on_site: bool = False
    min_age: timedelta = timedelta(0)
    priority: int = 5


@dataclass(frozen=True, slots=True)
class FileCopies:
    """One file's copies as observed; the storages that transfers are under way to, and those that transfers to were
    given up lately, after every attempt."""

    file_id: int
    set_id: int
    replicas: tuple[Replica, ...]
    arriving: tuple[int, ...] = ()
    given_up: tuple[int, ...] = ()
    removed: bool = False
    """Nothing is owed any more, and every copy goes."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to do for one file. `verify`: copies that were read back too long ago to be evidence. `look_again` when only
    time is missing; `blocked` says why a copy cannot be made."""

    copy_to: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    verify: tuple[int, ...] = ()
    look_again: datetime | None = None
    blocked: str = ""


def plan_copies(policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement], now: datetime) -> CopyPlan:
    """The difference between what is owed and what is there.

    While no data centre has the file only one transfer is planned, so that the second copy is made from the first
    centre and the site's line is used once. The file's set chooses the first candidate, so that the files of an
    observation lie together and sets spread evenly.
    """
    have = {storages[r.storage_id].site for r in file.replicas if _counts(r, policy, storages)}
    coming = {storages[s].site for s in file.arriving}
    missing = policy.copies - len(have | coming)
    if missing <= 0:
        return _free(policy, file, storages, now) if len(have) >= policy.copies else CopyPlan()
    off_site = any(_is_ok(r) and storages[r.storage_id].site_kind is SiteKind.DATA_CENTRE for r in file.replicas)
    if not off_site:
        if coming:
            return CopyPlan()
        missing = 1
    if not any(_is_ok(r) for r in file.replicas):
        return CopyPlan(blocked="no verified copy is left to copy from")
    holding = {storages[r.storage_id].site for r in file.replicas if r.state is not ReplicaState.LOST}
    candidates = [
        s
        for s in sorted(storages.values(), key=lambda s: s.storage_id)
        if s.enabled
        and s.site_kind is SiteKind.DATA_CENTRE
        and s.media is policy.media
        and s.site not in have | coming | holding
        and s.storage_id not in file.given_up
    ]
    turned = _turn(candidates, file.set_id)
    targets: list[StorageElement] = []
    for storage in turned:
        if len(targets) < missing and storage.site not in {t.site for t in targets}:
            targets.append(storage)
    blocked = ""
    if (off_site and len(targets) < missing) or not targets:
        blocked = f"policy {policy.name} wants {policy.copies} copies on {policy.media} at distinct data centres; " + (
            f"only {len(have | coming) + len(targets)} can hold one"
            + (f", transfers to {len(file.given_up)} others failed" if file.given_up else "")
        )
    return CopyPlan(copy_to=tuple(t.storage_id for t in targets), blocked=blocked)


def may_free(
    file: FileCopies, storage_id: int, copies: int, storages: Mapping[int, StorageElement], now: datetime
) -> str:
    """Why the on-site replica at `storage_id` may not be deleted now; empty when it may (I2)."""
    wanted = max(copies, MIN_COPIES_TO_FREE)
    centres = {
        storages[r.storage_id].site
        for r in file.replicas
        if _is_ok(r)
        and r.storage_id != storage_id
        and storages[r.storage_id].enabled
        and storages[r.storage_id].site_kind is SiteKind.DATA_CENTRE
        and not _is_old(r, now)
    }
    if storages[storage_id].site_kind is not SiteKind.OBSERVATORY:
        return f"{storages[storage_id].name} is not at an observatory"
    if len(centres) < wanted:
        return f"{len(centres)} of {wanted} data centres have a copy verified in the last {MAX_VERIFY_AGE.days} days"
    return ""


def _free(policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement], now: datetime) -> CopyPlan:
    if not policy.free_on_site:
        return CopyPlan()
    freeable: list[int] = []
    old: tuple[int, ...] = ()
    look_again: datetime | None = None
    for replica in file.replicas:
        if (
            replica.state is not ReplicaState.AVAILABLE
            or storages[replica.storage_id].site_kind is SiteKind.DATA_CENTRE
        ):
            continue
        due = replica.state_since + policy.min_age
        if now < due:
            look_again = due
        elif not may_free(file, replica.storage_id, policy.copies, storages, now):
            freeable.append(replica.storage_id)
        else:
            old = tuple(r.storage_id for r in file.replicas if _counts(r, policy, storages) and _is_old(r, now))
            look_again = now + timedelta(minutes=1)
    return CopyPlan(free=tuple(freeable), verify=old, look_again=look_again)


def _is_ok(replica: Replica) -> bool:
    return replica.state is ReplicaState.AVAILABLE


def _is_old(replica: Replica, now: datetime) -> bool:
    return now - replica.verified_at > MAX_VERIFY_AGE


def _counts(replica: Replica, policy: Policy, storages: Mapping[int, StorageElement]) -> bool:
    storage = storages[replica.storage_id]
    return (
        _is_ok(replica)
        and storage.enabled
        and storage.media is policy.media
        and storage.site_kind is SiteKind.DATA_CENTRE
    )


def _turn(candidates: Sequence[StorageElement], by: int) -> list[StorageElement]:
    if not candidates:
        return []
    start = by % len(candidates)
    return [*candidates[start:], *candidates[:start]]
