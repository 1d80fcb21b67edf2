"""Beside the walk: rules, which are policies that somebody adds, looks at and withdraws. Called by the API.

What the topology says of policies and what is added here is one thing: `replicate` sees no difference. Withdrawing one
deletes nothing; only what is not owed any more may be freed or removed by other means.
Worker: withdraw_expired and watch_deadlines every minute.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media, StorageElement, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, Refused, nearest
from lightkeeper.domain.expressions import check_keys, meant, parse_expression
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.policy import FileCopies, Members, Policy, are_apart, members_of
from lightkeeper.domain.query import FileCondition, Query, Word, conditions
from lightkeeper.domain.query_text import to_text
from lightkeeper.domain.transferring import Load
from lightkeeper.domain.units import parse_bytes, parse_time
from lightkeeper.domain.waiting import Pending, Rate, Surroundings, lateness, reasons, seconds_left
from lightkeeper.steps.catalogue import compiled, read_query
from lightkeeper.store import catalog, datasets, db, lookups, queries, rules, topology, transfers
from lightkeeper.store.db import Connection
from lightkeeper.store.queries import Size
from lightkeeper.store.rules import Progress
from lightkeeper.store.sets import hold_policies, hold_registration

LOOKED_AT = 10_000
"""Files without all their copies that are looked at to say why."""


@dataclass(frozen=True, slots=True)
class NewRule:
    """What somebody wants files to be owed: those that a query means, or those that are named. `lifetime` and
    `retention` in hours, `quota` like '10 TB', `deadline` like '2030-01-02 12:00' or '48 h' from now."""

    name: str
    query: str | Mapping[str, Any]
    copies: int
    files: Sequence[str] = ()
    at: str = ""
    media: Media = Media.DISK
    min_distance: float = 0
    priority: int = 5
    lifetime: float | None = None
    source: str = ""
    retention: float = 0
    protect: bool = False
    quota: str | None = None
    deadline: str | None = None
    activity: str = "preservation"


MOST_FILES = 100_000
"""Names in one rule."""
MOST_HOURS = 1_000_000
"""A longer lifetime is a slip: whoever means for ever gives none."""
NEEDED_TO_RELEASE = 2
"""People who have to agree before copies are not protected any more."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy to be read by people, how far it is, and when it will be done: `seconds` from now (None: nobody knows),
    `late` warns when that is after its deadline. `retention` in hours; `used` bytes of its quota."""

    name: str
    query: str
    copies: int
    media: Media
    at: str
    source: str
    min_distance: float
    free_on_site: bool
    priority: int
    activity: str
    expires: datetime | None
    deadline: datetime | None
    retention: float
    protected: bool
    quota: int | None
    used: int | None
    withdrawn: datetime | None
    progress: Progress
    seconds: float | None
    late: str

    @property
    def percent(self) -> float:
        """Files that have every copy, of all."""
        return 100 * self.progress.fulfilled / self.progress.files if self.progress.files else 100.0


# --- begin and end ---------------------------------------------------------------------------------------------
def add(ctx: Context, new: NewRule, *, dry_run: bool = False) -> Size:
    """Add a rule; copies and bytes that are to be made for it now. Raises Invalid for a query or a place that cannot
    be, Conflict when there is a policy of that name."""
    parse_name(new.name, "rule")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        there = {policy.name: policy for policy in topology.policies(conn)}
        if new.name in there:
            was = there[new.name].withdrawn
            raise Conflict(
                f"there is a rule '{new.name}' already"
                + ("" if was is None else ", withdrawn, that keeps its copies for its retention"),
                hint=f"lightkeeper rule show {new.name}",
            )
        storages = topology.storages(conn)
        query = (
            Query() if new.files else datasets.expanded(conn, read_query(conn, new.query), topology.vocabulary(conn))
        )
        _check_place(new, storages)
        _check_activity(conn, new.activity)
        policy = _read(new, query, db.now(conn))
        policy = replace(policy, policy_id=_put(conn, policy, query, new.files))
        rules.assign(conn, policy.policy_id)
        missing = rules.progress(conn, policy, _taken(policy, storages))
    if not dry_run:
        ctx.log.info("rule added", rule=new.name, copies=missing.copies_missing)
    return Size(missing.copies_missing, missing.bytes_missing)


def remove(ctx: Context, name: str, *, dry_run: bool = False) -> int:
    """Withdraw a rule; how many transfers are given up. Copies that were made stay; for its retention by all means.
    Raises Conflict for one that is protected."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        hold_policies(conn)  # a plan that was made for it has put its transfers where they are found
        policy = _policy(conn, name)
        if policy.withdrawn is not None:
            raise Conflict(
                f"rule '{name}' is withdrawn already",
                hint=f"its copies are kept until {policy.withdrawn + policy.retention:%Y-%m-%d %H:%M} UTC",
            )
        if policy.protected:
            raise Refused(
                f"rule '{name}' protects its copies",
                hint=f"two people release it first, each with: lightkeeper rule release {name} --by WHO",
            )
        given_up = rules.withdraw(conn, policy.policy_id)
    if not dry_run:
        ctx.log.info("rule withdrawn", rule=name, transfers=given_up)
    return given_up


@dataclass(frozen=True, slots=True)
class Released:
    """Who agreed that a rule does not protect its copies any more, and whether they are enough."""

    by: list[str]
    released: bool


def release(ctx: Context, name: str, by: str, *, dry_run: bool = False) -> Released:
    """Agree that a rule does not protect its copies any more; it holds when two have. Raises Conflict when it does
    not."""
    parse_name(by, "person")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_policies(conn)
        policy = _policy(conn, name)
        if not policy.protected:
            raise Conflict(f"rule '{name}' protects nothing", hint="lightkeeper rule list shows which do")
        agreed = rules.release(conn, policy.policy_id, by)
    told = Released(agreed, len(agreed) >= NEEDED_TO_RELEASE)
    if not dry_run:
        ctx.log.info("release of a rule agreed", rule=name, by=agreed, released=told.released)
    return told


def withdraw_expired(ctx: Context) -> int:
    """Withdraw the rules whose time is over, and forget those whose retention is over too."""
    with ctx.db.transaction() as conn:
        names = rules.expired(conn)
        over = rules.are_over(conn)
    for name in names:
        remove(ctx, name)
    if over:
        with ctx.db.transaction() as conn:
            hold_registration(conn)
            rules.forget_withdrawn(conn)
    return len(names) + over


# --- how far ---------------------------------------------------------------------------------------------------
def show(ctx: Context, name: str) -> Rule:
    """One policy, and how far it is; raises NotFound."""
    with ctx.db.transaction() as conn:
        return _rules(conn, [_policy(conn, name)])[0]


def find(ctx: Context) -> list[Rule]:
    """Every policy, and how far it is."""
    with ctx.db.transaction() as conn:
        return _rules(conn, topology.policies(conn))


def late(ctx: Context) -> list[Rule]:
    """Rules that will miss their deadline, or have."""
    with ctx.db.transaction() as conn:
        wanted = [p for p in topology.policies(conn) if p.deadline is not None and p.withdrawn is None]
        return [rule for rule in _rules(conn, wanted) if rule.late]


def watch_deadlines(ctx: Context) -> int:
    """Warn in the log of rules that will be late; nothing else is to be done."""
    for rule in late(ctx):
        ctx.log.warning("rule will be late", rule=rule.name, why=rule.late, missing=rule.progress.copies_missing)
    return 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A rule, its transfers, and for the copies that are missing why, and what will happen. Reasons are those of the
    first `looked_at` files that lack a copy."""

    rule: Rule
    transfers: list[dict[str, Any]]
    reasons: list[tuple[str, int]]
    looked_at: int


def explain(ctx: Context, name: str, lfn: str | None = None) -> Explanation:
    """Why copies are missing, of all files or of one, and what will happen next. Raises NotFound."""
    with ctx.db.transaction() as conn:
        storages = topology.storages(conn)
        policy = _policy(conn, name)
        rule = _rules(conn, [policy])[0]
        if lfn is None:
            files = rules.unfulfilled(conn, policy, _taken(policy, storages), LOOKED_AT)
        else:
            files = [catalog.known_files(conn, [parse_lfn(lfn)])[0].file_id]
        copies = transfers.copies_of(conn, files)
        if lfn is not None and policy.policy_id not in copies[0].policies:
            raise NotFound(f"rule '{name}' is not on {lfn}", hint="lightkeeper why FILE names the rules that are")
        found: Counter[str] = Counter()
        for told in why_missing(ctx, conn, [policy], copies).values():
            found.update(told)
        under_way = [asdict(line) for line in rules.under_way(conn, policy.policy_id)] if lfn is None else []
    return Explanation(rule, under_way, found.most_common(), len(files))


def why_missing(
    ctx: Context, conn: Connection, policies: Sequence[Policy], files: Sequence[FileCopies]
) -> dict[int, list[str]]:
    """By file, why it lacks copies that those of its policies ask for, and what happens next, in sentences."""
    storages = {storage.storage_id: storage for storage in topology.storages(conn)}
    load = Load.of(transfers.running_streams(conn), storages)
    around = Surroundings(storages, topology.link_limits(conn), load, ctx.settings.transfer_attempts, db.now(conn))
    policies = rules.with_used(conn, policies)
    pending: dict[int, list[Pending]] = {}
    for one in rules.pending(conn, [file.file_id for file in files]):
        pending.setdefault(one.file_id, []).append(one)
    found: dict[int, list[str]] = {}
    for file in files:
        told = [
            sentence
            for policy in policies
            if policy.policy_id in file.policies
            for sentence in reasons(policy, file, pending.get(file.file_id, []), around)
        ]
        found[file.file_id] = [*dict.fromkeys(told)]
    return found


# --- how -------------------------------------------------------------------------------------------------------
def _put(conn: Connection, policy: Policy, query: Query, files: Sequence[str]) -> int:
    """Write a rule and the files that it lists: those that are named, or those of a frozen dataset."""
    if files:
        lfns = [parse_lfn(name) for name in files]
        if policy.query or len(lfns) > MOST_FILES:
            raise Invalid(
                f"a rule is on a query or on at most {MOST_FILES} names", hint="a frozen dataset may hold more"
            )
        ids = lookups.ids(conn, lfns)
        if len(set(ids)) < len(set(lfns)):
            catalog.known_files(conn, lfns)  # raises with the name that is not there
        policy_id = topology.put_policy(conn, policy, Members())
        rules.put_members(conn, policy_id, ids)
        return policy_id
    if not any(True for _ in conditions(query.tree)):
        raise Invalid("a rule needs a condition", hint="'data_level >= 0' means every file that has a level")
    if any(isinstance(c, FileCondition) and c.word is Word.DATASET for c in conditions(query.tree)):
        policy_id = topology.put_policy(conn, policy, Members())
        queries.put_members(conn, compiled(conn, query), policy_id)
        return policy_id
    return topology.put_policy(conn, policy, members_of(query, topology.vocabulary(conn)))


def _check_place(new: NewRule, storages: list[StorageElement]) -> None:
    """Raises Invalid for a place that cannot hold as many copies."""
    if new.copies < 1:
        raise Invalid("a rule needs a positive number of copies")
    if new.at:
        check_keys(parse_expression(new.at), storages)
    if new.source:
        expression = parse_expression(new.source)
        check_keys(expression, storages)
        if not any(meant(expression, storage) for storage in storages):
            raise Invalid(f"no storage is meant by --source '{new.source}'", hint="lightkeeper storage list")
    policy = Policy(0, new.name, {}, new.copies, new.media, at=new.at)
    taken = [storage for storage in storages if policy.takes(storage)]
    centres = sorted({storage.site for storage in taken})
    if len(centres) < new.copies:
        where = f" at '{new.at}'" if new.at else ""
        raise Invalid(
            f"{new.copies} copies on {new.media} are wanted{where}, which means {len(centres)} data centres"
            f"{': ' if centres else ''}{', '.join(centres)}",
            hint="lightkeeper storage list shows what there is",
        )
    if not are_apart(taken, new.copies, new.min_distance):
        raise Invalid(
            f"no {new.copies} of the data centres {', '.join(centres)} are known to lie {new.min_distance:g} km apart",
            hint="the topology says where each site is, by latitude and longitude",
        )


def _check_activity(conn: Connection, activity: str) -> None:
    shares = topology.shares(conn)
    if activity not in shares:
        raise Invalid(
            f"there is no activity '{printable(activity)}'",
            hint=nearest(activity, shares) or "the topology names those that there are, with their shares",
        )


def _policy(conn: Connection, name: str) -> Policy:
    policies = {policy.name: policy for policy in topology.policies(conn)}
    if name not in policies:
        raise NotFound(f"there is no rule '{printable(name)}'", hint=nearest(name, policies))
    return policies[name]


def _taken(policy: Policy, storages: list[StorageElement]) -> list[int]:
    return [storage.storage_id for storage in storages if storage.keeps and policy.takes(storage)]


def _read(new: NewRule, query: Query, now: datetime) -> Policy:
    """The policy that is asked for; raises Invalid for a number or a time that cannot be."""
    for hours, what in ((new.lifetime, "lifetime"), (new.retention, "retention")):
        if hours is not None and not 0 <= hours <= MOST_HOURS:
            raise Invalid(f"a {what} is at most {MOST_HOURS} hours", hint="without a lifetime the rule holds for ever")
    return Policy(
        0,
        new.name,
        query.to_json(),
        new.copies,
        new.media,
        priority=new.priority,
        at=new.at,
        min_distance=new.min_distance,
        expires=now + timedelta(hours=new.lifetime) if new.lifetime else None,
        source=new.source,
        activity=new.activity,
        retention=timedelta(hours=new.retention),
        protected=new.protect,
        quota=parse_bytes(new.quota) if new.quota else None,
        deadline=read_deadline(new.deadline, now) if new.deadline else None,
    )


def read_deadline(text: str, now: datetime) -> datetime:
    """A moment in UTC, or a time from now; raises Invalid."""
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        try:
            moment = now + parse_time(text)
        except (Invalid, OverflowError):
            raise Invalid(
                f"'{printable(text)}' is no deadline", hint="write it like '2030-01-02 12:00', in UTC, or '48 h'"
            ) from None
    if moment <= now:
        raise Invalid(f"the deadline {moment:%Y-%m-%d %H:%M} UTC is over already")
    return moment


def _rules(conn: Connection, policies: Sequence[Policy]) -> list[Rule]:
    storages = topology.storages(conn)
    vocabulary = topology.vocabulary(conn)
    rates = rules.rates(conn)
    now = db.now(conn)
    return [
        _rule(conn, policy, vocabulary, _taken(policy, storages), rates, now)
        for policy in rules.with_used(conn, policies)
    ]


def _rule(
    conn: Connection,
    policy: Policy,
    vocabulary: Vocabulary,
    taken: Sequence[int],
    rates: Mapping[int, Rate],
    now: datetime,
) -> Rule:
    progress = rules.progress(conn, policy, taken)
    left = (progress.bytes_missing, progress.copies_missing)
    seconds = seconds_left(rules.queued(conn, policy.policy_id) if progress.copies_missing else [], left, rates, taken)
    return Rule(
        name=policy.name,
        query=to_text(Query.from_map(policy.query, vocabulary)) if policy.query else "a list of files",
        copies=policy.copies,
        media=policy.media,
        at=policy.at,
        source=policy.source,
        min_distance=policy.min_distance,
        free_on_site=policy.free_on_site,
        priority=policy.priority,
        activity=policy.activity,
        expires=policy.expires,
        deadline=policy.deadline,
        retention=policy.retention.total_seconds() / 3600,
        protected=policy.protected,
        quota=policy.quota,
        used=policy.used if policy.quota is not None else None,
        withdrawn=policy.withdrawn,
        progress=progress,
        seconds=None if policy.withdrawn else seconds,
        late="" if policy.withdrawn else lateness(policy.deadline, seconds, now),
    )
