"""Beside the walk: rules, which are policies that somebody adds, looks at and withdraws. Called by the API.

What the topology says of policies and what is added here is one thing: `replicate` sees no difference. Withdrawing one
deletes nothing; only what is not owed any more may be freed or removed by other means.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, Media, StorageElement
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.expressions import check_keys, parse_expression
from lightkeeper.domain.names import parse_name, printable
from lightkeeper.domain.policy import Policy, are_apart, plan_file
from lightkeeper.domain.query import Query
from lightkeeper.domain.query_text import to_text
from lightkeeper.steps.catalogue import read_query
from lightkeeper.store import datasets, db, rules, topology, transfers
from lightkeeper.store.db import Connection
from lightkeeper.store.queries import Size
from lightkeeper.store.rules import Progress
from lightkeeper.store.sets import hold_policies, hold_registration

LOOKED_AT = 500
"""Files without all their copies that are looked at to say why."""


@dataclass(frozen=True, slots=True)
class NewRule:
    """What somebody wants files to be owed. `lifetime` in hours; None: for ever."""

    name: str
    query: str | Mapping[str, Any]
    copies: int
    at: str = ""
    media: Media = Media.DISK
    min_distance: float = 0
    priority: int = 5
    lifetime: float | None = None


MOST_HOURS = 1_000_000
"""A longer lifetime is a slip: whoever means for ever gives none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy to be read by people, and how far it is."""

    name: str
    query: str
    copies: int
    media: Media
    at: str
    min_distance: float
    free_on_site: bool
    priority: int
    expires: datetime | None
    progress: Progress

    @property
    def percent(self) -> float:
        """Files that have every copy, of all."""
        return 100 * self.progress.fulfilled / self.progress.files if self.progress.files else 100.0


def add(ctx: Context, new: NewRule, *, dry_run: bool = False) -> Size:
    """Add a rule; copies and bytes that are to be made for it now. Raises Invalid for a query or a place that cannot
    be, Conflict when there is a policy of that name."""
    parse_name(new.name, "rule")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        if new.name in {policy.name for policy in topology.policies(conn)}:
            raise Conflict(f"there is a rule '{new.name}' already", hint=f"lightkeeper rule show {new.name}")
        storages = topology.storages(conn)
        query, set_query = _query(conn, new)
        _check_place(new, storages)
        expires = db.now(conn) + timedelta(hours=new.lifetime) if new.lifetime is not None else None
        topology.put_policy(
            conn,
            new.name,
            query.to_json(),
            set_query,
            new.copies,
            new.media,
            False,
            timedelta(0),
            new.priority,
            new.at,
            new.min_distance,
            expires,
        )
        policy = _policy(conn, new.name)
        rules.assign(conn, policy.policy_id)
        missing = _rule(conn, policy, storages).progress
    if not dry_run:
        ctx.log.info("rule added", rule=new.name, copies=missing.copies_missing)
    return Size(missing.copies_missing, missing.bytes_missing)


def show(ctx: Context, name: str) -> Rule:
    """One policy, and how far it is; raises NotFound."""
    with ctx.db.transaction() as conn:
        return _rule(conn, _policy(conn, name), topology.storages(conn))


def find(ctx: Context) -> list[Rule]:
    """Every policy, and how far it is."""
    with ctx.db.transaction() as conn:
        storages = topology.storages(conn)
        return [_rule(conn, policy, storages) for policy in topology.policies(conn)]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A rule, its transfers, and for the copies that are missing why, and what will happen. `seconds` is how long it
    takes at the rate of the last hour; None when nothing arrived in it."""

    rule: Rule
    transfers: list[dict[str, Any]]
    reasons: list[tuple[str, int]]
    seconds: float | None


def explain(ctx: Context, name: str) -> Explanation:
    """Why copies are missing, and what will happen next."""
    with ctx.db.transaction() as conn:
        storages = topology.storages(conn)
        policy = _policy(conn, name)
        rule = _rule(conn, policy, storages)
        under_way = [asdict(line) for line in rules.under_way(conn, policy.policy_id)]
        reasons = _reasons(conn, policy, storages)
        rate = rules.rate(conn)
    missing = rule.progress.bytes_missing
    return Explanation(rule, under_way, reasons, missing / rate if missing and rate else None)


def remove(ctx: Context, name: str, *, dry_run: bool = False) -> int:
    """Withdraw a rule; how many transfers are given up. Copies that were made stay."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        hold_policies(conn)  # a plan that was made for it has put its transfers where they are found
        given_up = rules.withdraw(conn, _policy(conn, name).policy_id)
    if not dry_run:
        ctx.log.info("rule withdrawn", rule=name, transfers=given_up)
    return given_up


def withdraw_expired(ctx: Context) -> int:
    """Withdraw the rules whose time is over."""
    with ctx.db.transaction() as conn:
        names = rules.expired(conn)
    for name in names:
        remove(ctx, name)
    return len(names)


# --- how -------------------------------------------------------------------------------------------------------
def _query(conn: Connection, new: NewRule) -> tuple[Query, str]:
    """The query, with the conditions of datasets in it, and its form for the database."""
    vocabulary = topology.vocabulary(conn)
    query = datasets.expanded(conn, read_query(conn, new.query), vocabulary)
    set_query = query.jsonpath(vocabulary, KeyLevel.SET)
    if query.jsonpath(vocabulary, KeyLevel.FILE):
        raise Invalid(
            "a rule is on keys that whole sets share, not on file-level keys",
            hint="lightkeeper metadata list shows the level of each key",
        )
    if set_query is None:
        raise Invalid("a rule needs a condition", hint="'data_level >= 0' means every file that has a level")
    return query, set_query


def _check_place(new: NewRule, storages: list[StorageElement]) -> None:
    """Raises Invalid for a place that cannot hold as many copies."""
    if new.copies < 1:
        raise Invalid("a rule needs a positive number of copies")
    if new.lifetime is not None and not 0 < new.lifetime <= MOST_HOURS:
        raise Invalid(f"a lifetime is at most {MOST_HOURS} hours", hint="without one the rule holds for ever")
    if new.at:
        check_keys(parse_expression(new.at), storages)
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


def _policy(conn: Connection, name: str) -> Policy:
    policies = {policy.name: policy for policy in topology.policies(conn)}
    if name not in policies:
        raise NotFound(f"there is no rule '{printable(name)}'", hint=nearest(name, policies))
    return policies[name]


def _taken(policy: Policy, storages: list[StorageElement]) -> list[int]:
    return [storage.storage_id for storage in storages if storage.keeps and policy.takes(storage)]


def _rule(conn: Connection, policy: Policy, storages: list[StorageElement]) -> Rule:
    return Rule(
        name=policy.name,
        query=to_text(Query.from_map(policy.query, topology.vocabulary(conn))),
        copies=policy.copies,
        media=policy.media,
        at=policy.at,
        min_distance=policy.min_distance,
        free_on_site=policy.free_on_site,
        priority=policy.priority,
        expires=policy.expires,
        progress=rules.progress(conn, policy, _taken(policy, storages)),
    )


def _reasons(conn: Connection, policy: Policy, storages: list[StorageElement]) -> list[tuple[str, int]]:
    """Why some of the files have not every copy, the commonest reason first."""
    files = rules.unfulfilled(conn, policy, _taken(policy, storages), LOOKED_AT)
    elements = {storage.storage_id: storage for storage in storages}
    now = db.now(conn)
    found: Counter[str] = Counter()
    for file in transfers.copies_of(conn, files):
        plan = plan_file([policy], file, elements, now)
        if plan.freed_by:
            found["a copy was reported and is still to be read"] += 1
        elif plan.blocked:
            found[plan.blocked] += 1
        elif file.arriving:
            found["a transfer is under way or waits for its turn"] += 1
        else:
            found["a transfer will be made in a moment"] += 1
    return found.most_common()
