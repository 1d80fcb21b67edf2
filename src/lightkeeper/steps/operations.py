"""Beside the walk: where the copies of many files lie is changed as one operation, tracked until it is done for each.

Copies are made by the planner, for a policy whose members are the operation's files and which goes when it ends. Copies
at the source are deleted by intents, once enough others were verified. Where it stands is computed from what is there.
Worker: look_after every 5 s. The rest is called by the API. Safe to run twice, and to be killed anywhere.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media, SiteKind, StorageElement
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.expressions import check_keys, meant, parse_expression
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.operations import BY_ITSELF, ENDED, FINALIZE, Kind, Stand, stand_of
from lightkeeper.domain.policy import Members, Policy, may_delete
from lightkeeper.domain.states import Intent, Operation, Transfer
from lightkeeper.domain.waiting import seconds_left
from lightkeeper.steps import delete, files
from lightkeeper.steps.catalogue import compiled, read_query
from lightkeeper.store import (
    catalog,
    datasets,
    db,
    deletions,
    lookups,
    operations,
    rules,
    sets,
    topology,
    transfers,
    transitions,
)
from lightkeeper.store.db import Connection
from lightkeeper.store.operations import OperationRow, Places
from lightkeeper.store.queries import Size

PAGE = 1000
"""Copies whose deletion is asked for in one transaction."""
PAGES = 20
"""Such transactions in one turn of an operation."""
LEAST_WAIT = 2.0
"""Seconds between two turns; more when a turn takes long."""
MOST_NAMES = 100_000


# --- beginning -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class NewOperation:
    """What somebody wants: files by a query or by name, where copies are made (`target`) and where they are deleted
    (`source`), both storage expressions."""

    kind: Kind
    query: str | Mapping[str, Any] | None = None
    names: Sequence[str] = ()
    name: str = ""
    target: str = ""
    source: str = ""
    copies: int = 1
    actor: str = "operator"


@dataclass(frozen=True, slots=True)
class Begun:
    """An operation that began, or would: its name, its files, and how many of them are done already."""

    name: str
    files: int
    bytes: int
    done: int


def begin(ctx: Context, new: NewOperation, *, dry_run: bool = False) -> Begun:
    """Begin an operation. Raises Invalid for a place or files that cannot be, Conflict for a name that is taken."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        sets.hold_registration(conn)
        storages = topology.storages(conn)
        _check(new, storages)
        row = operations.add(
            conn, _name(conn, new), new.kind, _in_words(new), new.target, new.source, new.copies, new.actor
        )
        _put_files(conn, row.operation_id, new)
        policy_id = None
        if new.kind is not Kind.DELETE:
            media = _media(_meant(row.target, storages, "copies are to be made"))
            policy = Policy(0, f"operation.{row.name}", {}, row.copies, media, at=row.target)
            policy_id = topology.put_policy(conn, policy, Members())
        counted = operations.count(conn, row.operation_id, policy_id)
        if not counted.files:
            raise NotFound(f"{_in_words(new)} means no file", hint="lightkeeper dataset list, or lightkeeper find")
        if policy_id is not None:
            rules.assign(conn, policy_id)
        stands = _stands(conn, operations.find(conn, name=row.name)[0], storages)
    if not dry_run:
        ctx.log.info("operation begins", operation=row.name, kind=str(new.kind), files=counted.files, by=new.actor)
    return Begun(row.name, counted.files, counted.bytes, stands[Stand.DONE].files)


def _check(new: NewOperation, storages: Sequence[StorageElement]) -> None:
    if (new.kind is Kind.DELETE and new.target) or (new.kind is Kind.REPLICATE and new.source):
        raise Invalid(f"to {new.kind} needs {'no target' if new.target else 'no source'}")
    if new.kind is not Kind.DELETE:
        targets = _meant(new.target, storages, "copies are to be made")
        centres = {s.site for s in targets if s.site_kind is SiteKind.DATA_CENTRE and s.media is _media(targets)}
        if len(centres) < new.copies:
            raise Invalid(
                f"{new.copies} copies are wanted at '{new.target}', which means {len(centres)} data centres",
                hint="lightkeeper storage list shows what there is",
            )
    if new.kind is not Kind.REPLICATE:
        left = {s.storage_id for s in _meant(new.source, storages, "copies are to be deleted")}
        if new.kind is Kind.MOVE and not left - {s.storage_id for s in _meant(new.target, storages, "")}:
            raise Invalid(f"every storage that '{new.source}' means is one that copies are to be moved to")


def _meant(expression: str, storages: Sequence[StorageElement], why: str) -> list[StorageElement]:
    if not expression:
        raise Invalid(
            f"a storage expression must say where {why}", hint="a storage's name, or like 'tier=1&country=ES'"
        )
    parsed = parse_expression(expression)
    check_keys(parsed, list(storages))
    found = [storage for storage in storages if meant(parsed, storage)]
    if not found:
        raise NotFound(
            f"'{printable(expression)}' means no storage", hint=nearest(expression, [s.name for s in storages])
        )
    return found


def _media(targets: Sequence[StorageElement]) -> Media:
    """Disk, unless only tape is meant."""
    return Media.DISK if any(target.media is Media.DISK for target in targets) else Media.TAPE


def _name(conn: Connection, new: NewOperation) -> str:
    """The name that was given, or one made of kind, dataset and a number."""
    if new.name:
        parse_name(new.name, "operation")
        if operations.find(conn, name=new.name):
            raise Conflict(f"there is an operation '{new.name}' already", hint=f"lightkeeper operation show {new.name}")
        return new.name
    taken = operations.names_like(conn, f"{new.kind}-")
    number = next(n for n in range(1, len(taken) + 2) if f"{new.kind}-{n}" not in taken)
    return f"{new.kind}-{number}"


def _in_words(new: NewOperation) -> str:
    if new.names:
        return f"{len(new.names)} files by name" if len(new.names) > 1 else printable(new.names[0])
    return printable(str(new.query))


def _put_files(conn: Connection, operation_id: int, new: NewOperation) -> None:
    if bool(new.names) == (new.query is not None):
        raise Invalid("the files of an operation are named, or a query means them")
    if new.query is not None:
        query = datasets.expanded(conn, read_query(conn, new.query), topology.vocabulary(conn))
        operations.put_meant(conn, operation_id, compiled(conn, query))
        return
    lfns = [parse_lfn(name) for name in new.names]
    if len(lfns) > MOST_NAMES:
        raise Invalid(f"an operation takes at most {MOST_NAMES} names", hint="a frozen dataset may hold more")
    ids = lookups.ids(conn, lfns)
    if len(set(ids)) < len(set(lfns)):
        catalog.known_files(conn, lfns)  # raises with the name that is not there
    operations.put_files(conn, operation_id, ids)


# --- looking ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Progress:
    """An operation, how many files and bytes stand where, and how far that is; `seconds` until its copies are made, at
    the rate of the last hour, if anything arrived in it."""

    name: str
    kind: Kind
    state: Operation
    created: datetime
    ended: datetime | None
    files: str
    target: str
    source: str
    copies: int
    actor: str
    n_files: int
    n_bytes: int
    stands: dict[Stand, Size]
    percent: float
    seconds: float | None


def find(ctx: Context) -> list[Progress]:
    """Every operation and how far it is, the latest first."""
    with ctx.db.transaction() as conn:
        storages = topology.storages(conn)
        return [_progress(conn, row, storages) for row in operations.find(conn)]


def show(ctx: Context, name: str) -> Progress:
    """One operation and how far it is; raises NotFound."""
    with ctx.db.transaction() as conn:
        return _progress(conn, _operation(conn, name), topology.storages(conn))


@dataclass(frozen=True, slots=True)
class FileStand:
    """Where an operation stands with a file, and what happens next by itself."""

    lfn: str
    size: int
    stand: Stand
    copies: list[str]
    error: str
    next: str


def files_of(ctx: Context, name: str, stand: Stand | None = None, limit: int = 1000) -> list[FileStand]:
    """The first files of an operation, or those that stand so."""
    with ctx.db.transaction() as conn:
        row = _operation(conn, name)
        storages = topology.storages(conn)
        places = _places(row, storages)
        found: list[FileStand] = []
        after = 0
        while len(found) < limit and (page := operations.files(conn, places, after, PAGE)):
            after = page[-1].file_id
            wanted = [line for line in page if stand in (None, stand_of(row.kind, line.facts))]
            objections = _objections(conn, [line.file_id for line in wanted], places, storages)
            for line in wanted:
                stands = stand_of(row.kind, line.facts)
                then = BY_ITSELF[stands]
                if stands is Stand.SOURCE_LEFT:
                    then = objections.get(line.file_id) or (
                        f"the copy at the source is deleted after {line.intent:%H:%M:%S} UTC" if line.intent else then
                    )
                found.append(
                    FileStand(line.lfn, line.size, stands, line.copies, line.taken_out or line.error or "", then)
                )
    return found[:limit]


def _objections(
    conn: Connection, file_ids: Sequence[int], places: Places, storages: Sequence[StorageElement]
) -> dict[int, str]:
    """Why a copy at the source of these files may not be deleted now."""
    elements = {s.storage_id: s for s in storages}
    policies = {p.policy_id: p for p in topology.policies(conn)}
    now = db.now(conn)
    return {
        file.file_id: objection
        for file in transfers.copies_of(conn, file_ids)
        for replica in file.replicas
        if replica.storage_id in places.sources
        and (
            objection := may_delete(
                file, replica.storage_id, [policies[i] for i in file.policies if i in policies], elements, now
            )
        )
    }


# --- the worker's part -----------------------------------------------------------------------------------------
def look_after(ctx: Context) -> int:
    """Ask for deletions at the source where the copies are made, and end operations that are done for every file;
    return how many ended."""
    with ctx.db.transaction() as conn:
        due = operations.find(conn, due=True)
    return sum(_advance(ctx, row) for row in due)


def _advance(ctx: Context, row: OperationRow) -> bool:
    """Whether an operation ended now."""
    began = time.monotonic()
    after_id = row.after_id
    if row.kind is not Kind.REPLICATE:
        for _ in range(PAGES):
            after_id = _ask(ctx, row, after_id, ctx.settings.deletion_delay)
            if not after_id:
                break
    with ctx.db.transaction() as conn:
        if not operations.lock(conn, row.operation_id):
            return False
        stands = _stands(conn, row, topology.storages(conn))
        ended = all(stand in ENDED for stand in stands if stands[stand].files)
        wait = max(LEAST_WAIT, 10 * (time.monotonic() - began))
        operations.looked_after(conn, row.operation_id, after_id, timedelta(seconds=wait))
    return ended and _end(ctx, row, Operation.DONE, "done for every file")


def _ask(ctx: Context, row: OperationRow, after: int, delay: timedelta) -> int:
    """Ask for deletions of the next files after one; the last of them, or 0 when there are no more."""
    return db.until_free(lambda: _ask_once(ctx, row, after, delay))


def _ask_once(ctx: Context, row: OperationRow, after: int, delay: timedelta) -> int:
    with ctx.db.transaction() as conn:
        copies = operations.to_delete(conn, _places(row, topology.storages(conn)), after, PAGE)
        if not copies:
            return 0
        why = f"operation {row.name}: {row.kind} from {row.source}" + (f" to {row.target}" if row.target else "")
        against = delete.approve(conn, copies, row.actor, why, operation_id=row.operation_id, delay=delay)
    if against:
        reason = Counter(against.values()).most_common(1)[0][0]
        ctx.log.info("not deleted yet", operation=row.name, copies=len(against), why=reason)
    return copies[-1][0]


def _end(ctx: Context, row: OperationRow, state: Operation, why: str) -> bool:
    """The operation is over: nothing asks for its copies any more, and they stay."""
    with ctx.db.transaction() as conn:
        sets.hold_registration(conn)
        sets.hold_policies(conn)
        if not transitions.move(conn, [row.operation_id], Operation.ACTIVE, state, why):
            return False
        if row.policy_id is not None:
            rules.withdraw(conn, row.policy_id)
    ctx.log.info("operation ends", operation=row.name, state=str(state), why=why)
    return True


# --- what a person does ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operation that was cancelled: so many of its deletions were undone; others, `begun`, are carried out."""

    name: str
    undone: int
    begun: int


def cancel(ctx: Context, name: str, *, dry_run: bool = False) -> Cancelled:
    """End an operation as it is: copies that were made stay, deletions that did not begin are undone."""
    with ctx.db.transaction() as conn:
        row = _operation(conn, name)
        if row.state is not Operation.ACTIVE:
            raise Conflict(f"operation {row.name} is {row.state}")
        open_ = deletions.to_undo(conn, operation=row.name)
    if not dry_run:
        _end(ctx, row, Operation.CANCELLED, "cancelled")
        with ctx.db.transaction() as conn:
            ids = sorted(intent.file_id for intent in deletions.to_undo(conn, operation=row.name))
            deletions.lock_files(conn, ids)
            deletions.void_of(conn, row.operation_id, "its operation was cancelled")
    begun = sum(intent.begun for intent in open_)
    return Cancelled(row.name, len(open_) - begun, begun)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is done about the files that stand so."""

    stand: Stand
    files: int
    what: str
    told: str = ""


def finalize(ctx: Context, name: str, *, apply: bool = False) -> list[Remedy]:
    """What brings an operation to its end, for each stand in which files are; with `apply` it is done."""
    with ctx.db.transaction() as conn:
        row = _operation(conn, name)
        if row.state is not Operation.ACTIVE:
            raise Conflict(f"operation {row.name} is {row.state}", hint="nothing is left to be done")
        places = _places(row, topology.storages(conn))
        by_stand: dict[Stand, list[int]] = {}
        for file_id, facts in operations.not_done(conn, places):
            by_stand.setdefault(stand_of(row.kind, facts), []).append(file_id)
    plan = [(stand, ids) for stand, ids in by_stand.items() if stand in FINALIZE]
    told = dict(_apply(ctx, row, places, plan)) if apply else {}
    left = len(by_stand.get(Stand.UNDER_WAY, []))
    remedies = [Remedy(stand, len(ids), FINALIZE[stand], told.get(stand, "")) for stand, ids in plan]
    return remedies + ([Remedy(Stand.UNDER_WAY, left, BY_ITSELF[Stand.UNDER_WAY])] if left else [])


def _apply(
    ctx: Context, row: OperationRow, places: Places, plan: Sequence[tuple[Stand, list[int]]]
) -> Iterator[tuple[Stand, str]]:
    """Carry out the plan of `finalize`; what came of each part, in words."""
    for stand, ids in plan:
        if stand is Stand.LOST:
            yield stand, _give_up_lost(ctx, row, ids)
        elif stand is not Stand.SOURCE_LEFT:
            yield stand, _try_again(ctx, places, ids)
    if row.kind is not Kind.REPLICATE:
        after = _ask(ctx, row, 0, timedelta(0))
        while after:
            after = _ask(ctx, row, after, timedelta(0))
    with ctx.db.transaction() as conn:
        hurried = operations.hurry(conn, row.operation_id)
        operations.looked_after(conn, row.operation_id, 0, timedelta(0))
        waiting = deletions.find(conn, operation=row.name, state=Intent.APPROVED, limit=1)
        db.notify(conn, "intent")
        db.notify(conn, "operation")
    yield Stand.SOURCE_LEFT, "deletions go on" if waiting or hurried else "nothing may be deleted now: operation files"
    ctx.log.info("operation finalized", operation=row.name, files={str(s): len(ids) for s, ids in plan})


def _try_again(ctx: Context, places: Places, ids: Sequence[int]) -> str:
    """Cancel what is under way to the target for these files and have it planned anew; read suspect copies again."""
    why = "finalized: planned anew"

    def again() -> int:
        with ctx.db.transaction() as conn:
            transfers.unsettle(conn, ids)
            waiting, running = operations.open_transfers(conn, places, ids)
            transitions.move(conn, waiting, Transfer.WAITING, Transfer.FAILED, why)
            transitions.move(conn, running, Transfer.RUNNING, Transfer.WAITING, why)
            operations.forgive(conn, places, ids)
            catalog.recheck(conn, operations.suspect_copies(conn, ids))
            db.notify(conn, "recheck")
            db.notify(conn, "transfer")
        return len(waiting) + len(running)

    n = db.until_free(again)
    return f"{n} {'transfer was' if n == 1 else 'transfers were'} cancelled; the copies are planned anew"


def _give_up_lost(ctx: Context, row: OperationRow, ids: Sequence[int]) -> str:
    """Take files without a copy out of an operation; those that may be are Removed, so that everybody knows."""
    why = f"no copy was left when operation {row.name} was finalized"
    with ctx.db.transaction() as conn:
        operations.give_up(conn, [(row.operation_id, file_id) for file_id in ids], why)
        lfns = [file.lfn for file in catalog.files_by_id(conn, list(ids))]
    changed = files.remove(ctx, lfns, why)
    kept = f"; {len(changed.failed)} stay as they are: {changed.failed[0].error}" if changed.failed else ""
    return f"{len(changed.done)} are Removed{kept}"


# --- how -------------------------------------------------------------------------------------------------------
def _operation(conn: Connection, name: str) -> OperationRow:
    found = operations.find(conn, name=name)
    if not found:
        known = [row.name for row in operations.find(conn)]
        raise NotFound(f"there is no operation '{printable(name)}'", hint=nearest(name, known))
    return found[0]


def _places(row: OperationRow, storages: Sequence[StorageElement]) -> Places:
    def ids(expression: str) -> tuple[int, ...]:
        parsed = parse_expression(expression) if expression else None
        return tuple(s.storage_id for s in storages if parsed is not None and meant(parsed, s))

    targets = ids(row.target)
    sources = tuple(s for s in ids(row.source) if s not in targets)
    wanted = row.copies if row.kind is not Kind.DELETE else 0
    return Places(row.operation_id, row.created, wanted, targets, sources)


def _stands(conn: Connection, row: OperationRow, storages: Sequence[StorageElement]) -> dict[Stand, Size]:
    n_files: Counter[Stand] = Counter()
    n_bytes: Counter[Stand] = Counter()
    for group in operations.groups(conn, _places(row, storages)):
        stand = stand_of(row.kind, group.facts)
        n_files[stand] += group.files
        n_bytes[stand] += group.bytes
    return {stand: Size(n_files[stand], n_bytes[stand]) for stand in Stand}


def _progress(conn: Connection, row: OperationRow, storages: Sequence[StorageElement]) -> Progress:
    over = row.state is not Operation.ACTIVE
    if row.state is Operation.DONE:
        stands = {Stand.DONE: Size(row.n_files, row.n_bytes)}
    else:
        stands = {stand: size for stand, size in _stands(conn, row, storages).items() if size.files}
    ended = sum(size.files for stand, size in stands.items() if stand in ENDED)
    copying = [stands[stand] for stand in (Stand.UNDER_WAY, Stand.FAILED, Stand.STUCK) if stand in stands]
    missing = (sum(size.bytes for size in copying), sum(size.files for size in copying))
    seconds = None
    if row.policy_id is not None and missing[1] and not over:
        targets = _places(row, storages).targets
        seconds = seconds_left(rules.queued(conn, row.policy_id), missing, rules.rates(conn), targets)
    return Progress(
        name=row.name,
        kind=row.kind,
        state=row.state,
        created=row.created,
        ended=row.state_since if over else None,
        files=row.files,
        target=row.target,
        source=row.source,
        copies=row.copies,
        actor=row.actor,
        n_files=row.n_files,
        n_bytes=row.n_bytes,
        stands=stands,
        percent=100 * ended / row.n_files if row.n_files else 100.0,
        seconds=seconds,
    )
