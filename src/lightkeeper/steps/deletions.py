"""Beside the walk: what people ask and say about deletions. Called by the API; safe to repeat.

An hour's number of deletions on a storage goes on by itself. When more wait, they are stopped until two different
people approved them, or undo them. What a policy promised before a file came is not held up by this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightkeeper.context import Context
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.states import File, Intent
from lightkeeper.store import changes, deletions, operations, topology
from lightkeeper.store.db import Connection, until_free
from lightkeeper.store.deletions import Approval, IntentRow, OnStorage, Stopped


# --- looking ---------------------------------------------------------------------------------------------------
def by_storage(ctx: Context) -> list[OnStorage]:
    """Deletions on each storage: what waits, and how much of the hour's number is used."""
    with ctx.db.transaction() as conn:
        return deletions.by_storage(conn, ctx.settings.deletions_per_hour, ctx.settings.deletions_percent)


def find(
    ctx: Context,
    *,
    storage: str | None = None,
    lfn: str | None = None,
    operation: str | None = None,
    state: Intent | None = None,
) -> list[IntentRow]:
    """Single deletions, the latest first."""
    with ctx.db.transaction() as conn:
        if storage is not None:
            _storage(conn, storage)
        if lfn is not None:
            lfn = parse_lfn(lfn)
        return deletions.find(conn, storage=storage, lfn=lfn, operation=operation, state=state)


def show(ctx: Context, intent_id: int) -> IntentRow:
    """One deletion with its evidence; raises NotFound."""
    with ctx.db.transaction() as conn:
        found = deletions.find(conn, intent_id=intent_id)
    if not found:
        raise NotFound(f"there is no deletion {intent_id}", hint="lightkeeper deletion list --storage NAME")
    return found[0]


def stopped(ctx: Context) -> list[Stopped]:
    """Storages on which deletions do not go on by themselves."""
    with ctx.db.transaction() as conn:
        return deletions.stopped(conn)


# --- saying ----------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Undone:
    """How many deletions were undone, of how many files that came back; and those that could not be, with the reason
    and their number."""

    undone: int = 0
    came_back: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])


def undo(
    ctx: Context,
    by: str,
    *,
    ids: Sequence[int] = (),
    storage: str | None = None,
    operation: str | None = None,
    dry_run: bool = False,
) -> Undone:
    """Undo deletions that were not begun. A Removed file is Current again, with all the copies it has; an operation
    leaves the file as it is. What a policy says is not undone: it would say so again."""
    if not ids and storage is None and operation is None:
        raise Invalid("which deletions?", hint="give their numbers, --storage or --operation")
    name = _person(by)

    def change() -> Undone:
        with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
            return _undo(conn, name, ids, storage, operation)

    result = until_free(change)
    if not dry_run:
        ctx.log.info("deletions undone", deletions=result.undone, files_back=result.came_back, by=name)
    return result


def _undo(conn: Connection, by: str, ids: Sequence[int], storage: str | None, operation: str | None) -> Undone:
    if storage is not None:
        _storage(conn, storage)
    result = Undone()

    def refuse(why: str) -> None:
        result.refused[why] = result.refused.get(why, 0) + 1

    wanted = deletions.to_undo(conn, ids=ids, storage=storage, operation=operation)
    changes.lock(conn, [intent.file_id for intent in wanted])
    open_now = {intent.intent_id: intent for intent in deletions.to_undo(conn, ids=[i.intent_id for i in wanted])}
    for intent_id in set(ids) - open_now.keys():
        refuse(f"there is no open deletion {intent_id}")
    files: set[int] = set()
    for intent in open_now.values():
        if intent.begun:
            refuse("it is being carried out")
        elif intent.policy is not None:
            refuse(f"policy {intent.policy} says so: change the policy, or pause the storage's deletions")
        else:
            files.add(intent.file_id)
    why = f"undone by {by}"
    going = deletions.void_those_of(conn, sorted(files), why)
    result.undone = sum(intent.file_id in files and not intent.begun for intent in open_now.values())
    operations.give_up(conn, [(i.operation_id, i.file_id) for i in open_now.values() if i.operation_id], why)
    removed = [i.file_id for i in open_now.values() if i.removal and i.file_id in files]
    back = deletions.with_a_copy_left(conn, removed, going)
    result.came_back = len(changes.move_files(conn, back, File.REMOVED, File.CURRENT, why)) if back else 0
    return result


@dataclass(frozen=True, slots=True)
class Approved:
    """Somebody approved `files` deletions; `cleared` of them had been approved by another person before and go on."""

    storage: str
    files: int
    names: list[str]
    cleared: int


def approve(ctx: Context, storage: str, by: str, *, dry_run: bool = False) -> Approved:
    """Say that the deletions which wait at a storage for two people are meant. The second of two different names has
    those carried out that both could see. Raises Conflict when none wait."""
    name = _person(by)
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        storage_id = _storage(conn, storage)
        earlier = deletions.approvals(conn, storage_id)
        waiting, last = deletions.uncleared(conn, storage_id)
        if not waiting or not any(line.storage == storage and line.since for line in deletions.stopped(conn)):
            raise Conflict(f"no deletion at {storage} waits for approval", hint="lightkeeper deletion list")
        others = [approval for approval in earlier if approval.name.casefold() != name.casefold()]
        deletions.add_approval(conn, storage_id, Approval(name, last, waiting))
        cleared = 0
        if others:
            first = max(others, key=lambda approval: approval.up_to)
            cleared = deletions.clear(conn, storage_id, min(first.up_to, last), [first.name, name])
    names = sorted({approval.name for approval in earlier} | {name})
    if not dry_run:
        ctx.log.warning("deletions approved", storage=storage, files=waiting, by=name, cleared=cleared)
    return Approved(storage, waiting, names, cleared)


def pause(ctx: Context, storages: Sequence[str], by: str, why: str, *, dry_run: bool = False) -> list[str]:
    """Have no deletion begin on these storages, or on any, until they are resumed; their names."""
    reason = f"{_person(by)}: {why}" if why else _person(by)
    return _pause(ctx, storages, reason, dry_run)


def resume(ctx: Context, storages: Sequence[str], *, dry_run: bool = False) -> list[str]:
    """Let deletions go on at these storages, or at all; their names."""
    return _pause(ctx, storages, None, dry_run)


# --- how -------------------------------------------------------------------------------------------------------
def _pause(ctx: Context, storages: Sequence[str], reason: str | None, dry_run: bool) -> list[str]:
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        names = list(storages) or [element.name for element in topology.storages(conn)]
        deletions.pause(conn, [_storage(conn, name) for name in names], reason)
    if not dry_run:
        ctx.log.warning("deletions paused" if reason else "deletions resumed", storages=names, why=reason)
    return names


def _storage(conn: Connection, name: str) -> int:
    storages = {element.name: element.storage_id for element in topology.storages(conn)}
    if name not in storages:
        raise NotFound(f"storage '{printable(name)}' does not exist", hint=nearest(name, storages))
    return storages[name]


def _person(name: str) -> str:
    """Who says so: a name, as nobody can prove yet who he is."""
    return parse_name(name.strip(), "person")
