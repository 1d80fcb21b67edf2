"""What a class of files is owed, and what follows from what is there: copies to make, replicas to free."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from math import asin, cos, radians, sin, sqrt
from typing import Any

from lightkeeper.domain.catalog import KeyLevel, Media, Replica, SiteKind, StorageElement, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.expressions import meant, parse_expression
from lightkeeper.domain.query import And, FileCondition, Op, Query, Word, all_of, glob_to_like
from lightkeeper.domain.states import Health
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.domain.units import readable_bytes

MIN_COPIES_TO_FREE = 2
"""However small a policy's number of copies: an on-site replica goes only when so many data centres have verified
copies (I2)."""
MAX_VERIFY_AGE = timedelta(days=7)
"""A copy verified longer ago is no evidence for a deletion (I2)."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Members:
    """How the files of a policy are found: by keys of their sets and their own, compiled, and by LIKE patterns of
    scopes. Without `set_query` its files are listed one by one."""

    set_query: str | None = None
    file_query: str | None = None
    scopes: tuple[str, ...] | None = None


def members_of(query: Query, vocabulary: Vocabulary) -> Members:
    """How files that the query means are found, also those that come later: by metadata keys and by one condition on
    scopes. Raises Invalid for a query that asks for anything else."""
    parts = query.tree.parts if isinstance(query.tree, And) else (query.tree,)
    on_scope = [
        part
        for part in parts
        if isinstance(part, FileCondition) and part.word is Word.SCOPE and part.op in (Op.EQ, Op.IN, Op.LIKE)
    ]
    keys = Query(all_of(part for part in parts if part not in on_scope))
    try:
        set_query, file_query = keys.jsonpath(vocabulary, KeyLevel.SET), keys.jsonpath(vocabulary, KeyLevel.FILE)
    except Invalid as error:
        raise Invalid(
            error.message,
            hint="files that come later are found by metadata keys and by 'scope = NAME', joined by 'and'; "
            "for the files that are there now freeze a dataset of them and say 'dataset = NAME'",
        ) from None
    if len(on_scope) > 1:
        raise Invalid("one condition on scopes is enough", hint="scope in [acada, simulation]")
    scopes = [str(v) for part in on_scope for v in (part.value if part.op is Op.IN else [part.value])]
    return Members(set_query or "true", file_query, tuple(map(glob_to_like, scopes)) if on_scope else None)


@dataclass(frozen=True, slots=True)
class Policy:
    """`copies` verified copies on `media` at distinct data centres; then, if wanted, the on-site replica goes.

    `at` is a storage expression that says where (empty: anywhere), `min_distance` the km that lie between any two of
    the file's data centres at least. `source` is one that says where copies are made from. Copies stay `retention`
    from when they are made; those of a `protected` policy are not deleted at all. `quota` is in bytes.
    """

    policy_id: int
    name: str
    query: Mapping[str, Any]
    copies: int
    media: Media = Media.DISK
    free_on_site: bool = False
    min_age: timedelta = timedelta(0)
    priority: int = 5
    at: str = ""
    min_distance: float = 0
    expires: datetime | None = None
    remove_after: timedelta | None = None
    """Its files are Removed when they are so old, if every policy that they fall under says so."""
    source: str = ""
    activity: str = "preservation"
    retention: timedelta = timedelta(0)
    protected: bool = False
    quota: int | None = None
    deadline: datetime | None = None
    created: datetime = _LONG_AGO
    withdrawn: datetime | None = None
    used: int = 0
    """Bytes of its copies, there or under way; counted only when there is a quota."""
    temporary: bool = False
    """Its scopes hold temporary products: files there are owed only what policies of those scopes say."""

    def takes(self, storage: StorageElement) -> bool:
        """Whether a copy on this storage is one that the policy asks for."""
        return (
            storage.site_kind is SiteKind.DATA_CENTRE
            and storage.media is self.media
            and (not self.at or meant(parse_expression(self.at), storage))
        )

    def copies_from(self, storage: StorageElement) -> bool:
        """Whether its copies may be made from this storage."""
        return not self.source or meant(parse_expression(self.source), storage)

    def holds(self, replica: Replica, storage: StorageElement, now: datetime) -> str:
        """Why a copy may not be deleted by any means, because of this policy; empty when it may. Also a policy that
        was withdrawn holds its copies for its retention."""
        if not self.takes(storage):
            return ""
        if self.protected:
            return f"rule {self.name} protects it"
        until = max(self.created, replica.written_at) + self.retention
        return f"rule {self.name} keeps it until {until:%Y-%m-%d %H:%M} UTC" if self.retention and now < until else ""


@dataclass(frozen=True, slots=True)
class FileCopies:
    """One file's copies as observed; the storages that transfers are under way to, or that have it in their buffer and
    not on tape yet; those that transfers to were given up lately, after every attempt; the policies it falls under; its
    bytes."""

    file_id: int
    set_id: int
    replicas: tuple[Replica, ...]
    arriving: tuple[int, ...] = ()
    given_up: tuple[int, ...] = ()
    policies: tuple[int, ...] = ()
    removed: bool = False
    """Nothing is owed any more, and every copy goes."""
    size: int = 0


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to do for one file. `verify`: copies that were read back too long ago to be evidence. `look_again` when only
    time is missing; `blocked` says why a copy cannot be made."""

    copy_to: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    verify: tuple[int, ...] = ()
    look_again: datetime | None = None
    blocked: str = ""
    fulfilled: bool = False
    """Every copy that the policy asks for is there."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What to do for one file under all its policies: copies to be made, each with the policy that asks for it; on-site
    replicas that may go, and the policy that says so; without any, the one with the most copies."""

    copy_to: tuple[tuple[int, Policy], ...] = ()
    free: tuple[int, ...] = ()
    freed_by: Policy | None = None
    verify: tuple[int, ...] = ()
    look_again: datetime | None = None
    blocked: str = ""
    drain: tuple[int, ...] = ()
    """Copies on draining storages that are not needed any more."""


def plan_file(
    policies: Sequence[Policy], file: FileCopies, storages: Mapping[int, StorageElement], now: datetime
) -> FilePlan:
    """What all its policies ask for together. One copy may count for several; nothing is freed on site before every
    one of them is fulfilled.

    Policies that copy from anywhere come first: what they make is what the others copy from.
    """
    policies = sorted((p for p in policies if p.withdrawn is None), key=lambda policy: bool(policy.source))
    if not policies:
        policies = _kept(file, storages)
    copy_to: list[tuple[int, Policy]] = []
    plans: list[CopyPlan] = []
    for policy in policies:
        plan = plan_copies(policy, file, storages, now)
        plans.append(plan)
        copy_to += [(storage_id, policy) for storage_id in plan.copy_to]
        file = replace(file, arriving=(*file.arriving, *plan.copy_to))
    blocked = "; ".join(plan.blocked for plan in plans if plan.blocked)
    if not plans or not all(plan.fulfilled for plan in plans):
        return FilePlan(tuple(copy_to), blocked=blocked)
    freeing = [plan for policy, plan in zip(policies, plans, strict=True) if policy.free_on_site]
    free = {s for plan in freeing for s in plan.free if all(s in other.free for other in freeing)}
    drain, old = _leaving(policies, file, storages, now)
    return FilePlan(
        free=tuple(sorted(s for s in free if not may_delete(file, s, policies, storages, now))),
        freed_by=max(
            (policy for policy in policies if policy.free_on_site) if freeing else policies,
            key=lambda policy: policy.copies,
        ),
        verify=tuple(sorted({s for plan in freeing for s in plan.verify} | old)),
        look_again=max(
            (plan.look_again for plan in freeing if plan.look_again),
            default=now + timedelta(minutes=1) if old else None,
        ),
        drain=drain,
        blocked=blocked,
    )


class Planner:
    """Plans many files. Those whose copies are in the same state under the same policies get the same plan, which is
    made once; bytes that are planned count against quotas, of policies and of storages, at once."""

    def __init__(self, policies: Iterable[Policy], storages: Mapping[int, StorageElement], now: datetime) -> None:
        self.policies = {policy.policy_id: policy for policy in policies}
        self._storages = dict(storages)
        self._now = now
        self._thrifty = any(s.quota is not None for s in storages.values())
        self._known: dict[tuple[object, ...], FilePlan] = {}

    def plan(self, file: FileCopies) -> FilePlan:
        """What all the file's policies ask for together."""
        mine = self.policies_of(file)
        alike = self._alike(file, mine)
        plan = self._known.get(alike)
        if plan is None:
            plan = self._known[alike] = plan_file(mine, file, self._storages, self._now)
        for storage_id, policy in plan.copy_to:
            storage = self._storages[storage_id]
            if policy.quota is not None:
                self.policies[policy.policy_id] = replace(policy, used=self.policies[policy.policy_id].used + file.size)
                self._known.clear()
            if storage.quota is not None:
                self._storages[storage_id] = replace(storage, used=storage.used + file.size)
                self._known.clear()
        return plan

    def policies_of(self, file: FileCopies) -> list[Policy]:
        """Those that the file falls under."""
        return [self.policies[i] for i in file.policies if i in self.policies]

    def _alike(self, file: FileCopies, policies: Sequence[Policy]) -> tuple[object, ...]:
        """All that the file's plan depends on: of times only what the policies look at."""
        patient = any(policy.min_age for policy in policies)
        retaining = any(policy.retention for policy in policies)
        thrifty = self._thrifty or any(policy.quota is not None for policy in policies)
        replicas = tuple(
            (
                replica.storage_id,
                replica.state,
                _is_old(replica, self._now),
                replica.state_since if patient else None,
                replica.written_at if retaining else None,
            )
            for replica in file.replicas
        )
        size = file.size if thrifty else 0
        return file.set_id, replicas, file.arriving, file.given_up, file.policies, file.removed, size


def _kept(file: FileCopies, storages: Mapping[int, StorageElement]) -> Sequence[Policy]:
    """What a file that is owed nothing gets when its storage drains: as many copies as a deletion needs."""
    media = {storages[r.storage_id].media for r in file.replicas if _is_ok(r) and storages[r.storage_id].draining}
    return [Policy(0, f"draining of {one}", {}, copies=MIN_COPIES_TO_FREE, media=one) for one in sorted(media)]


def _leaving(
    policies: Sequence[Policy], file: FileCopies, storages: Mapping[int, StorageElement], now: datetime
) -> tuple[tuple[int, ...], set[int]]:
    """Copies on draining storages that may be deleted; and those elsewhere that are to be read again before."""
    leaving: list[int] = []
    old: set[int] = set()
    for replica in file.replicas:
        storage = storages[replica.storage_id]
        if storage.enabled and storage.draining and replica.state is ReplicaState.AVAILABLE:
            if may_delete(without(file, leaving), storage.storage_id, policies, storages, now):
                old |= set(old_evidence(file, storage.storage_id, storages, now))
            else:
                leaving.append(storage.storage_id)
    return tuple(leaving), old


def plan_copies(policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement], now: datetime) -> CopyPlan:
    """The difference between what one policy asks for and what is there.

    While no data centre has the file only one transfer is planned, so that the second copy is made from the first
    centre and the site's line is used once. The file's set chooses the first candidate, so that the files of an
    observation lie together and sets spread evenly.
    """
    have = {storages[r.storage_id].site for r in file.replicas if _counts(r, policy, storages)}
    coming = {storages[s].site for s in file.arriving if policy.takes(storages[s])}
    missing = policy.copies - len(have | coming)
    if missing <= 0:
        return _free(policy, file, storages, now) if len(have) >= policy.copies else CopyPlan()
    off_site = any(_is_ok(r) and storages[r.storage_id].site_kind is SiteKind.DATA_CENTRE for r in file.replicas)
    if not off_site:
        if file.arriving:
            return CopyPlan()
        missing = 1
    sources = [storages[r.storage_id] for r in file.replicas if _is_ok(r)]
    if not sources:
        return CopyPlan(blocked="no verified copy is left to copy from")
    allowed = [source for source in sources if policy.copies_from(source)]
    if not allowed:
        if any(policy.copies_from(storages[s]) for s in file.arriving):
            return CopyPlan()
        return CopyPlan(blocked=f"policy {policy.name} copies only from {policy.source}, where no verified copy is")
    if not any(source.readable for source in allowed):
        names = ", ".join(sorted(source.name for source in allowed))
        return CopyPlan(blocked=f"its copies are where nothing can be read now: {names}")
    if policy.quota is not None:
        room = (policy.quota - policy.used) // max(file.size, 1)
        if room < 1:
            return CopyPlan(blocked=f"the quota of policy {policy.name}, {readable_bytes(policy.quota)}, is used up")
        missing = min(missing, room)
    targets = _targets(policy, file, storages, missing)
    blocked = ""
    if (off_site and len(targets) < missing) or not targets:
        blocked = f"policy {policy.name} wants {_told(policy)}; " + (
            f"only {len(have | coming) + len(targets)} can hold one"
            + (f", transfers to {len(file.given_up)} others failed" if file.given_up else "")
            + "".join(f"; {refused}" for refused in _refused(policy, file, storages))
        )
    return CopyPlan(copy_to=tuple(t.storage_id for t in targets), blocked=blocked)


def _told(policy: Policy) -> str:
    where = f" at {policy.at}" if policy.at else ""
    apart = f", {policy.min_distance:g} km apart" if policy.min_distance else ""
    return f"{policy.copies} copies on {policy.media}{where} at distinct data centres{apart}"


def _refused(policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement]) -> list[str]:
    """Storages that the policy would take and that take no copy of the file now, each with its reason."""
    return [
        f"{storage.name} {reason}"
        for storage in sorted(storages.values(), key=lambda s: s.name)
        if storage.enabled and policy.takes(storage) and (reason := storage.refuses(file.size))
    ]


def _targets(
    policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement], missing: int
) -> Sequence[StorageElement]:
    """Storages for the copies that are missing, or for as many of them as there is a place for: those in good health
    before the others."""
    there = [storages[r.storage_id] for r in file.replicas if r.state is not ReplicaState.LOST]
    there = [s for s in (*there, *(storages[s] for s in file.arriving)) if s.keeps]
    centres = [s for s in there if s.site_kind is SiteKind.DATA_CENTRE]
    taken = {s.site for s in there if policy.takes(s)}
    candidates = [
        s
        for s in sorted(storages.values(), key=lambda s: s.storage_id)
        if policy.takes(s)
        and not s.refuses(file.size)
        and s.site not in taken
        and s.storage_id not in file.given_up
        and all(_apart(s, other, policy.min_distance) for other in centres)
    ]
    turned = sorted(_turn(candidates, file.set_id), key=lambda s: s.health is not Health.GOOD)
    for n in range(min(missing, len(turned)), 0, -1):
        for chosen in combinations(turned, n):
            if all(
                one.site != other.site and _apart(one, other, policy.min_distance)
                for one, other in combinations(chosen, 2)
            ):
                return chosen
    return ()


def are_apart(storages: Sequence[StorageElement], n: int, km: float) -> bool:
    """Whether `n` of these storages are at sites so far from each other."""
    by_site = {storage.site: storage for storage in storages}
    return any(
        all(_apart(one, other, km) for one, other in combinations(chosen, 2))
        for chosen in combinations(by_site.values(), n)
    )


def _apart(one: StorageElement, other: StorageElement, km: float) -> bool:
    """Whether two storages are so far from each other; a site whose place is not known is near everything."""
    if km <= 0:
        return True
    between = distance(one, other)
    return between is not None and between >= km


EARTH = 6371.0
"""Mean radius of the Earth in km."""


def distance(one: StorageElement, other: StorageElement) -> float | None:
    """Kilometres between the sites of two storages, on a sphere; None when the place of one is not known."""
    if one.latitude is None or one.longitude is None or other.latitude is None or other.longitude is None:
        return None
    a, b = radians(one.latitude), radians(other.latitude)
    h = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(radians(other.longitude - one.longitude) / 2) ** 2
    return 2 * EARTH * asin(min(1.0, sqrt(h)))


def held(file: FileCopies, policies: Iterable[Policy], storages: Mapping[int, StorageElement], now: datetime) -> str:
    """Why a copy of the file may not be deleted by any means, because a policy protects it or its retention is not
    over; empty when every copy may."""
    told = (p.holds(r, storages[r.storage_id], now) for p in policies for r in file.replicas)
    return next((why for why in told if why), "")


def may_free(
    file: FileCopies, storage_id: int, copies: int, storages: Mapping[int, StorageElement], now: datetime
) -> str:
    """Why the on-site replica at `storage_id` may not be deleted now; empty when it may (I2)."""
    if storages[storage_id].site_kind is not SiteKind.OBSERVATORY:
        return f"{storages[storage_id].name} is not at an observatory"
    left = without(file, {storage_id})
    return _too_few(left, max(copies, MIN_COPIES_TO_FREE), storages, now)


def may_delete(
    file: FileCopies,
    storage_id: int,
    policies: Sequence[Policy],
    storages: Mapping[int, StorageElement],
    now: datetime,
) -> str:
    """Why the copy at `storage_id` may not be deleted now; empty when it may (I1, I2).

    None of `policies`, those of the file, protects it or still keeps it. Without it everything that they ask for must
    still be there, and `copies_left_of` them at distinct data centres, verified lately. Of a Removed file every copy
    may go. Who reads the copy now is not asked.
    """
    here = only(file, storage_id)
    if not here.replicas:
        return f"there is no copy at {storages[storage_id].name}"
    if why := held(here, policies, storages, now):
        return why
    if file.removed:
        return ""
    left = without(file, {storage_id})
    for policy in policies:
        if policy.withdrawn is not None:
            continue
        if missing := _missing_of(policy, left, storages):
            return missing
    if storages[storage_id].site_kind is SiteKind.OBSERVATORY:
        return may_free(file, storage_id, copies_left_of(policies), storages, now)
    return _too_few(left, copies_left_of(policies), storages, now)


def only(file: FileCopies, storage_id: int) -> FileCopies:
    """The file as if its copy at this storage were the only one."""
    return replace(file, replicas=tuple(r for r in file.replicas if r.storage_id == storage_id))


def without(file: FileCopies, storage_ids: Container[int]) -> FileCopies:
    """The file as if its copies at these storages were gone."""
    return replace(file, replicas=tuple(r for r in file.replicas if r.storage_id not in storage_ids))


def copies_left_of(policies: Sequence[Policy]) -> int:
    """How many data centres must have a copy of a file when another one is deleted: as many as the strictest of its
    policies asks for. What nothing is owed keeps two: who wants none left removes the file."""
    return max((policy.copies for policy in policies if policy.withdrawn is None), default=MIN_COPIES_TO_FREE)


def old_evidence(
    file: FileCopies, storage_id: int, storages: Mapping[int, StorageElement], now: datetime
) -> tuple[int, ...]:
    """Copies at data centres, other than the one at `storage_id`, that were read too long ago to speak for a
    deletion."""
    return tuple(
        r.storage_id
        for r in file.replicas
        if r.storage_id != storage_id
        and _is_ok(r)
        and _is_old(r, now)
        and storages[r.storage_id].site_kind is SiteKind.DATA_CENTRE
    )


def _missing_of(policy: Policy, left: FileCopies, storages: Mapping[int, StorageElement]) -> str:
    """What a policy would miss if only these copies were left; empty when nothing."""
    have = [storages[r.storage_id] for r in left.replicas if _counts(r, policy, storages)]
    sites = {storage.site for storage in have}
    if len(sites) < policy.copies:
        return f"policy {policy.name} wants {_told(policy)}; without this one {len(sites)} would be left"
    if policy.min_distance and not are_apart(have, policy.copies, policy.min_distance):
        return f"policy {policy.name} wants {_told(policy)}; without this one they would be too near"
    return ""


def _too_few(file: FileCopies, wanted: int, storages: Mapping[int, StorageElement], now: datetime) -> str:
    """Why these copies are no evidence; empty when so many data centres have one that was verified lately."""
    centres = {
        storages[r.storage_id].site
        for r in file.replicas
        if _is_ok(r)
        and storages[r.storage_id].vouches
        and storages[r.storage_id].site_kind is SiteKind.DATA_CENTRE
        and not _is_old(r, now)
    }
    if len(centres) >= wanted:
        return ""
    return f"{len(centres)} of {wanted} data centres have a copy verified in the last {MAX_VERIFY_AGE.days} days"


def _free(policy: Policy, file: FileCopies, storages: Mapping[int, StorageElement], now: datetime) -> CopyPlan:
    if not policy.free_on_site:
        return CopyPlan(fulfilled=True)
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
    return CopyPlan(free=tuple(freeable), verify=old, look_again=look_again, fulfilled=True)


def _is_ok(replica: Replica) -> bool:
    return replica.state is ReplicaState.AVAILABLE


def _is_old(replica: Replica, now: datetime) -> bool:
    return now - replica.verified_at > MAX_VERIFY_AGE


def _counts(replica: Replica, policy: Policy, storages: Mapping[int, StorageElement]) -> bool:
    storage = storages[replica.storage_id]
    return _is_ok(replica) and storage.keeps and policy.takes(storage)


def _turn(candidates: Sequence[StorageElement], by: int) -> list[StorageElement]:
    if not candidates:
        return []
    start = by % len(candidates)
    return [*candidates[start:], *candidates[:start]]
