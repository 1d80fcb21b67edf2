"""Beside the walk: what people ask and change about files that are registered. Called by the API; safe to repeat.

Every function takes names and does what it can: a name that is unknown, or whose file must stay as it is, is told with
the reason and stops no other. With `dry_run` all is decided and nothing is done.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, Refused, nearest
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.domain.policy import held, only
from lightkeeper.domain.states import File
from lightkeeper.store import catalog, changes, datasets, db, lookups, sets, topology, transfers
from lightkeeper.store.catalog import FileRow
from lightkeeper.store.db import Connection, until_free
from lightkeeper.store.lookups import Found, ReplicaOf


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that was left as it is, and why."""

    lfn: str
    error: str
    hint: str = ""


@dataclass(slots=True)
class Changed:
    """Names of files that were changed, or were so already; and of those that were not."""

    done: list[str] = field(default_factory=list[str])
    failed: list[Failure] = field(default_factory=list[Failure])


# --- looking ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Stat:
    """A file with its state, its number of Available copies, and the file that took its place."""

    file: FileRow
    state: str
    copies: int
    superseded_by: str | None


def stat(ctx: Context, names: Sequence[str]) -> tuple[list[Stat], list[Failure]]:
    """What is known of these files, and which names are not registered."""
    with ctx.db.transaction() as conn:
        found, failed = _found(conn, names)
        ids = [file.file_id for file in found]
        known = {file.file_id: file for file in found}
        newer = lookups.superseded_by(conn, ids)
        return [
            Stat(row, str(known[row.file_id].state), known[row.file_id].copies, newer.get(row.file_id))
            for row in catalog.files_by_id(conn, ids)
        ], failed


def replicas(ctx: Context, names: Sequence[str]) -> tuple[list[ReplicaOf], list[Failure]]:
    """Every replica of these files, and which names are not registered."""
    with ctx.db.transaction() as conn:
        lfns, failed = _checked(names)
        found = lookups.replicas(conn, lfns)
        known = {replica.lfn for replica in found}
        rest = [lfn for lfn in lfns if lfn not in known]
        registered = {file.lfn for file in lookups.find(conn, rest)}
        return found, [*failed, *(_unknown(lfn) for lfn in rest if lfn not in registered)]


@dataclass(frozen=True, slots=True)
class Check:
    """Names by what the catalogue knows: files with no Available copy, with one, with several, and unknown names."""

    none: list[str]
    one: list[str]
    several: list[str]
    missing: list[str]


def check(ctx: Context, names: Sequence[str]) -> Check:
    """Sort names by their number of copies."""
    with ctx.db.transaction() as conn:
        found, failed = _found(conn, names)
    by_copies: tuple[list[str], list[str], list[str]] = ([], [], [])
    for file in found:
        by_copies[min(file.copies, 2)].append(file.lfn)
    return Check(*by_copies, missing=[failure.lfn for failure in failed])


# --- changing --------------------------------------------------------------------------------------------------
def set_metadata(
    ctx: Context, names: Sequence[str], meta: Mapping[str, Any], unset: Sequence[str] = (), *, dry_run: bool = False
) -> Changed:
    """Give files other values of metadata keys. Raises Invalid, and changes none, when a key or value is wrong."""
    values: dict[str, MetaValue] = dict(meta)
    if not values and not unset:
        raise Invalid("there is nothing to set", hint="KEY=VALUE, or --unset KEY")
    if both := values.keys() & set(unset):
        raise Invalid(f"metadata key '{min(both)}' cannot be set and taken away at once")

    def apply(conn: Connection, found: Sequence[Found]) -> None:
        vocabulary = topology.vocabulary(conn)
        n = changes.set_metadata(conn, [file.file_id for file in found], values, unset, vocabulary)
        ctx.log.info("metadata set", files=n, keys=sorted(values), unset=list(unset))

    return _change(ctx, names, lambda _conn, _found: {}, apply, dry_run)


def mark_corrupted(ctx: Context, names: Sequence[str], why: str, *, dry_run: bool = False) -> Changed:
    """Say that the content of files is wrong: no query finds them, unless it asks."""
    return _move(ctx, names, File.CORRUPTED, (File.CURRENT,), why, dry_run)


def restore(ctx: Context, names: Sequence[str], why: str, *, dry_run: bool = False) -> Changed:
    """Say that superseded or corrupted files are right after all."""
    return _move(ctx, names, File.CURRENT, (File.SUPERSEDED, File.CORRUPTED), why, dry_run)


def supersede(ctx: Context, pairs: Sequence[tuple[str, str]], why: str, *, dry_run: bool = False) -> Changed:
    """Let the second file of each pair take the place of the first, which stays as it is but is found no more, unless
    a query asks."""
    newer = dict(pairs)
    if len(newer) < len(pairs):
        raise Invalid("a file is named twice: one file can take its place")
    known: dict[str, Found] = {}

    def objections(conn: Connection, found: Sequence[Found]) -> dict[str, LightkeeperError]:
        known.update((file.lfn, file) for file in _found(conn, list(newer.values()))[0])
        objections: dict[str, LightkeeperError] = {}
        for file in found:
            by = known.get(newer[file.lfn])
            if by is None:
                objections[file.lfn] = NotFound(f"{printable(newer[file.lfn])} is not in the catalogue")
            elif by.file_id == file.file_id:
                objections[file.lfn] = Invalid("a file cannot take its own place")
            elif by.state is not File.CURRENT or by.lfn in newer:
                objections[file.lfn] = Conflict(
                    f"{by.lfn} is not Current itself", hint=f"lightkeeper file stat {by.lfn}"
                )
            elif file.state is not File.CURRENT:
                objections[file.lfn] = Conflict(f"it is {file.state}, not Current")
        return objections

    def apply(conn: Connection, found: Sequence[Found]) -> None:
        by = [(file.file_id, known[newer[file.lfn]].file_id) for file in found]
        moved = set(changes.move_files(conn, [old for old, _ in by], File.CURRENT, File.SUPERSEDED, why))
        changes.supersede(conn, [pair for pair in by if pair[0] in moved])
        ctx.log.info("superseded", files=len(moved), why=why)

    return _change(ctx, list(newer), objections, apply, dry_run, also=list(newer.values()))


def remove(ctx: Context, names: Sequence[str], why: str, *, dry_run: bool = False) -> Changed:
    """Give up the bytes of files: all their copies will be deleted. What they were and how they were made stays known.

    What was taken by the observatory cannot be made again and is never removed; nor is a file of a frozen dataset or
    one that a task works on.
    """

    def apply(conn: Connection, found: Sequence[Found]) -> None:
        for state in (File.CURRENT, File.SUPERSEDED, File.CORRUPTED):
            ids = [file.file_id for file in found if file.state is state]
            if ids:
                changes.move_files(conn, ids, state, File.REMOVED, why)
        ctx.log.info("removed", files=len(found), why=why)

    return _change(ctx, names, _why_not_removed, apply, dry_run)


def unregister(
    ctx: Context, names: Sequence[str], why: str, *, at: str | None = None, dry_run: bool = False
) -> Changed:
    """Take files, or with `at` only what is recorded at one storage, out of the catalogue; nothing on a storage
    changes. For what a list or a put registered by mistake: what was taken or made here keeps its story."""
    if at is None:
        return _change(
            ctx,
            names,
            _why_not_forgotten,
            lambda conn, found: _forget(ctx, conn, found, why),
            dry_run,
            alone=True,
        )
    with ctx.db.transaction() as conn:
        storages = {s.name: s.storage_id for s in topology.storages(conn)}
    if at not in storages:
        raise NotFound(f"storage '{printable(at)}' does not exist", hint=nearest(at, storages))

    def objections(conn: Connection, found: Sequence[Found]) -> dict[str, LightkeeperError]:
        there = lookups.copies_at(conn, [file.file_id for file in found], storages[at])
        kept = _held(conn, [file.file_id for file in found], at=storages[at])
        objections: dict[str, LightkeeperError] = {}
        for file in found:
            state = there.get(file.file_id)
            if state is None:
                objections[file.lfn] = NotFound(f"it has no copy recorded at {at}")
            elif state == "Deleting":
                objections[file.lfn] = Conflict(f"its copy at {at} is being deleted")
            elif file.file_id in kept:
                objections[file.lfn] = Refused(kept[file.file_id], hint="lightkeeper rule list")
            elif file.state is not File.REMOVED and file.copies <= (state == "Available"):
                objections[file.lfn] = Refused(
                    f"its copy at {at} is the only one the catalogue knows, or no other can be read",
                    hint="copy it elsewhere first; without --at the file itself is taken out",
                )
        return objections

    def apply(conn: Connection, found: Sequence[Found]) -> None:
        n = changes.forget_replicas(conn, [file.file_id for file in found], storages[at], why)
        ctx.log.info("replicas forgotten", replicas=n, at=at, why=why)

    return _change(ctx, names, objections, apply, dry_run)


# --- rules -----------------------------------------------------------------------------------------------------
def _held(conn: Connection, file_ids: Sequence[int], at: int | None = None) -> dict[int, str]:
    """Why a rule does not let copies of these files, or those at one storage, go: it protects them, or their retention
    is not over."""
    storages = {storage.storage_id: storage for storage in topology.storages(conn)}
    policies = {policy.policy_id: policy for policy in topology.policies(conn)}
    now = db.now(conn)
    return {
        copies.file_id: why
        for found in transfers.copies_of(conn, file_ids)
        if (copies := found if at is None else only(found, at))
        and (why := held(copies, [policies[i] for i in copies.policies], storages, now))
    }


def _why_not_removed(conn: Connection, found: Sequence[Found]) -> dict[str, LightkeeperError]:
    ids = [file.file_id for file in found]
    frozen = dict(datasets.holding(conn, ids))
    working = lookups.open_tasks(conn, ids)
    kept = _held(conn, ids)
    objections: dict[str, LightkeeperError] = {}
    for file in found:
        if file.state is File.REMOVED:
            continue
        if file.activity == "ingest":
            objections[file.lfn] = Refused(
                "it was taken by the observatory and cannot be made again",
                hint=f"lightkeeper file mark-corrupted {file.lfn} hides it from every query",
            )
        elif file.file_id in frozen:
            objections[file.lfn] = _is_frozen(frozen[file.file_id])
        elif file.file_id in kept:
            objections[file.lfn] = Refused(kept[file.file_id], hint="lightkeeper rule list")
        elif file.file_id in working:
            objections[file.lfn] = Conflict(f"task {working[file.file_id]} works on it", hint="wait until it is Done")
    return objections


def _why_not_forgotten(conn: Connection, found: Sequence[Found]) -> dict[str, LightkeeperError]:
    ids = [file.file_id for file in found]
    frozen = dict(datasets.holding(conn, ids))
    tied = lookups.ties(conn, ids)
    kept = _held(conn, ids)
    objections: dict[str, LightkeeperError] = {}
    for file in found:
        if file.activity not in ("register", "put"):
            objections[file.lfn] = Refused(
                f"it came by {file.activity}, and its story stays known",
                hint=f"lightkeeper file remove {file.lfn} gives up its bytes",
            )
        elif file.file_id in frozen:
            objections[file.lfn] = _is_frozen(frozen[file.file_id])
        elif file.file_id in kept:
            objections[file.lfn] = Refused(kept[file.file_id], hint="lightkeeper rule list")
        elif file.file_id in tied:
            objections[file.lfn] = Conflict(tied[file.file_id])
    return objections


def _is_frozen(dataset: str) -> Conflict:
    return Conflict(f"it is in the frozen dataset {dataset}", hint=f"lightkeeper dataset release {dataset}")


def _forget(ctx: Context, conn: Connection, found: Sequence[Found], why: str) -> None:
    n = changes.forget(conn, [file.file_id for file in found], why)
    ctx.log.info("forgotten", files=n, why=why)


# --- how -------------------------------------------------------------------------------------------------------
Objections = Callable[[Connection, Sequence[Found]], Mapping[str, LightkeeperError]]


def _move(
    ctx: Context, names: Sequence[str], target: File, sources: Sequence[File], why: str, dry_run: bool
) -> Changed:
    def objections(_conn: Connection, found: Sequence[Found]) -> dict[str, LightkeeperError]:
        return {
            file.lfn: Conflict(f"it is {file.state}, so it cannot become {target}")
            for file in found
            if file.state not in (*sources, target)
        }

    def apply(conn: Connection, found: Sequence[Found]) -> None:
        for source in sources:
            ids = [file.file_id for file in found if file.state is source]
            if ids:
                changes.move_files(conn, ids, source, target, why)
        if target is File.CURRENT:
            changes.supersede_no_more(conn, [file.file_id for file in found])
        ctx.log.info("files moved", to=str(target), files=len(found), why=why)

    return _change(ctx, names, objections, apply, dry_run)


def _change(
    ctx: Context,
    names: Sequence[str],
    objections: Objections,
    apply: Callable[[Connection, Sequence[Found]], None],
    dry_run: bool,
    *,
    also: Iterable[str] = (),
    alone: bool = False,
) -> Changed:
    """Apply a change to the files that nothing speaks against. They, and those that it depends on `also`, are locked
    before they are looked at, so what was decided still holds when it is done. `alone`: nothing is registered
    meanwhile. Files of several states are counted one state after the other, so two changes may wait for each other:
    one of them is done again."""

    def change() -> Changed:
        with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
            return _change_locked(conn, names, objections, apply, also, alone=alone)

    return until_free(change)


def _change_locked(
    conn: Connection,
    names: Sequence[str],
    objections: Objections,
    apply: Callable[[Connection, Sequence[Found]], None],
    also: Iterable[str],
    *,
    alone: bool,
) -> Changed:
    if alone:  # a registration that just found one of these files known must not find it gone
        sets.hold_registration(conn)
    lfns, failed = _checked(names)
    ids = lookups.ids(conn, [*lfns, *_checked(also)[0]])
    locked = set(ids)
    changes.lock(conn, ids)
    # What was registered since is not locked: to lock it now, out of order, could deadlock.
    found = [file for file in lookups.find(conn, lfns) if file.file_id in locked]
    known = {file.lfn for file in found}
    failed += [_unknown(lfn) for lfn in lfns if lfn not in known]
    against = objections(conn, found)
    good = [file for file in found if file.lfn not in against]
    if good:
        apply(conn, good)
    failed += [Failure(lfn, error.message, error.hint) for lfn, error in sorted(against.items())]
    return Changed([file.lfn for file in good], failed)


def _checked(names: Iterable[str]) -> tuple[list[str], list[Failure]]:
    """Names that can be in the catalogue, each once, and those that cannot."""
    lfns: dict[str, None] = {}
    failed: list[Failure] = []
    for name in names:
        try:
            lfns[parse_lfn(name)] = None
        except Invalid as error:
            failed.append(Failure(printable(name), error.message, error.hint))
    return list(lfns), failed


def _found(conn: Connection, names: Iterable[str]) -> tuple[list[Found], list[Failure]]:
    lfns, failed = _checked(names)
    found = lookups.find(conn, lfns)
    known = {file.lfn for file in found}
    return found, [*failed, *(_unknown(lfn) for lfn in lfns if lfn not in known)]


def _unknown(lfn: str) -> Failure:
    return Failure(lfn, f"{lfn} is not in the catalogue")
