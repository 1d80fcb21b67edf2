"""Step 1, the way out: what is refused lies in the quarantine, with its trigger and the reason, and is not registered.

Before: ingest.py found what is wrong with a delivery.    After: a person reads the reason, and has it verified again,
releases it, or discards it. Safe to repeat: what has moved already is not there to be moved twice.

The quarantine is a folder of the storage that the delivery was made to, unless the settings name another. Who brings a
delivery back, or discards it, holds its row by a lease meanwhile, as whoever verifies it does.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from lightkeeper.context import Context
from lightkeeper.domain.catalog import MetaValue, StorageElement
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, Unavailable, nearest
from lightkeeper.domain.names import printable
from lightkeeper.domain.query import glob_to_like
from lightkeeper.domain.states import Replica
from lightkeeper.steps.reading import SUFFIX
from lightkeeper.store import catalog, topology, transfers, transitions, triggers
from lightkeeper.store import quarantine as store
from lightkeeper.store.db import Connection
from lightkeeper.store.quarantine import Held, Refused, Standing, Turn
from lightkeeper.store.triggers import Claim

OURS = "/.lightkeeper"
"""Below a storage's root; nothing there is taken for a delivery or for a file of the catalogue."""
REASON = ".reason"
LEASE = timedelta(minutes=5)
ELSEWHERE = "file://"


def put(ctx: Context, element: StorageElement, claim: Claim, reason: str) -> None:
    """Move a refused file, its trigger and a text with the reason out of the way; never register it. Raises OSError
    when that cannot be done now.

    The reason is in the database before anything moves; after a crash the delivery is claimed and refused again.
    """
    where = _place(ctx, element, claim)
    with ctx.db.transaction() as conn:
        if not triggers.still_ours(conn, [claim]):
            return
        triggers.note_quarantine(conn, claim.trigger_id, reason, where)
        _count_no_more(conn, claim)
    target = _local(ctx, element, where)
    _write_reason(target, reason)
    for suffix in ("", SUFFIX):
        _moved(ctx.local_storage(element).local_path(claim.path + suffix), _beside(target, suffix))
    with ctx.db.transaction() as conn:
        if triggers.still_ours(conn, [claim]):
            triggers.quarantined(conn, claim.trigger_id, reason)
    ctx.log.warning("quarantined", path=printable(claim.path), why=reason)


def _count_no_more(conn: Connection, claim: Claim) -> None:
    """The bytes under this name go to the quarantine: a replica that was recorded there is lost."""
    with suppress(Invalid):  # a name that cannot be in the catalogue is of no file that is
        for file in catalog.files_by_lfn(conn, [claim.path]):
            replica = (file.file_id, claim.storage_id)
            why = "overwritten on site by a delivery that was refused"
            transitions.move_replicas(conn, [replica], Replica.AVAILABLE, Replica.LOST, why)
            transfers.unsettle(conn, [file.file_id])


# --- looking -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Which:
    """Refused deliveries: by their numbers, or by a pattern of their paths; perhaps only those at one storage."""

    numbers: tuple[int, ...] = ()
    pattern: str = ""
    storage: str | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A refused delivery, what became of it so far, and the bytes of each file that lies in the quarantine."""

    delivery: Refused
    turns: list[Turn]
    files: dict[str, int]


def find(ctx: Context, which: Which, *, discarded: bool = False, limit: int | None = 1000) -> list[Refused]:
    """Refused deliveries, latest first; all, when `which` names none."""
    with ctx.db.transaction() as conn:
        return _find(conn, which, discarded=discarded, limit=limit)


def _find(conn: Connection, which: Which, *, discarded: bool = False, limit: int | None = None) -> list[Refused]:
    if which.storage is not None:
        known = [s.name for s in topology.storages(conn)]
        if which.storage not in known:
            raise NotFound(f"storage '{printable(which.storage)}' does not exist", hint=nearest(which.storage, known))
    return store.find(
        conn,
        numbers=which.numbers or None,
        like=glob_to_like(which.pattern) if which.pattern else None,
        storage=which.storage,
        discarded=discarded,
        limit=limit,
    )


def show(ctx: Context, number: int) -> Story:
    """One refused or discarded delivery; raises NotFound."""
    with ctx.db.transaction() as conn:
        found = store.find(conn, numbers=[number], discarded=True)
        turns = store.turns(conn, number)
        elements = {s.name: s for s in topology.storages(conn)}
    if not found:
        raise _unknown(number)
    target = _local(ctx, elements[found[0].storage], found[0].quarantine)
    files = {
        path.name: path.lstat().st_size
        for path in (target, _beside(target, SUFFIX), _beside(target, REASON))
        if os.path.lexists(path)
    }
    return Story(found[0], turns, files)


def standing(ctx: Context) -> list[Standing]:
    """How every interface directory stands."""
    with ctx.db.transaction() as conn:
        return store.standing(conn)


# --- deciding ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Told:
    """A delivery for which something was done, or why not."""

    number: int
    path: str
    error: str = ""
    hint: str = ""


@dataclass(slots=True)
class Decided:
    """Deliveries for which it was done, or would be; and those for which it was not."""

    done: list[Told] = field(default_factory=list[Told])
    failed: list[Told] = field(default_factory=list[Told])


def retry(ctx: Context, which: Which, by: str, *, dry_run: bool = False) -> Decided:
    """Put refused deliveries back where they were made, to be verified again: what was wrong may be repaired."""
    return _bring_back(ctx, which, f"to be verified again, says {_name(by)}", dry_run=dry_run)


def release(
    ctx: Context,
    which: Which,
    by: str,
    why: str,
    given: Mapping[str, MetaValue] | None = None,
    *,
    dry_run: bool = False,
) -> Decided:
    """Have refused deliveries registered as they are: a person answers for what is wrong with them. `given` are
    metadata that they lack, or have wrong. They go the way of every delivery, and are refused again when they have no
    name, or their metadata are still none that the catalogue knows."""
    with ctx.db.transaction() as conn:
        topology.vocabulary(conn).split(given or {})
    told = f"released by {_name(by)}: {_reason(why)}"
    return _bring_back(ctx, which, told, released_by=by, given=given, dry_run=dry_run)


def discard(ctx: Context, which: Which, by: str, why: str, *, dry_run: bool = False) -> Decided:
    """Delete what was refused from the quarantine. The delivery, its reason, and who gave it up stay known."""
    told = f"discarded by {_name(by)}: {_reason(why)}"

    def remove(element: StorageElement, one: Held) -> None:
        target = _local(ctx, element, one.quarantine)
        for suffix in ("", SUFFIX, REASON):
            _beside(target, suffix).unlink(missing_ok=True)
        _remove_empty(ctx, element, one)

    def settle(conn: Connection, held: Sequence[Held]) -> list[int]:
        return store.discard(conn, store.still_held(conn, held), told)

    decided = _decide(ctx, which, remove, settle, dry_run=dry_run)
    ctx.log.info("discarded", deliveries=len(decided.done), by=by, why=why, dry_run=dry_run)
    return decided


def _bring_back(
    ctx: Context,
    which: Which,
    told: str,
    *,
    released_by: str | None = None,
    given: Mapping[str, MetaValue] | None = None,
    dry_run: bool,
) -> Decided:
    def put_back(element: StorageElement, one: Held) -> None:
        source, target = _local(ctx, element, one.quarantine), ctx.local_storage(element).local_path(one.path)
        if os.path.lexists(source) and os.path.lexists(target):
            raise Conflict(
                f"another file lies where it was delivered, at {printable(str(target))}",
                hint="it may have been delivered again: look at both, then discard this one or move the other away",
            )
        _moved(source, target)

    def settle(conn: Connection, held: Sequence[Held]) -> list[int]:
        ours = store.still_held(conn, held)
        return store.accept_again(conn, ours, told, released_by=released_by, given=given)

    decided = _decide(ctx, which, put_back, settle, dry_run=dry_run)
    ctx.log.info("accepted again", deliveries=len(decided.done), why=told, dry_run=dry_run)
    return decided


def _decide(
    ctx: Context,
    which: Which,
    act: Callable[[StorageElement, Held], None],
    settle: Callable[[Connection, Sequence[Held]], Sequence[int]],
    *,
    dry_run: bool,
) -> Decided:
    """Hold the deliveries that are meant, act on their files one by one, then settle all that went well at once. A
    crash between the two leaves them refused; the same command completes."""
    if not which.numbers and not which.pattern:
        raise Invalid("no delivery is named", hint="give numbers, or a pattern like '*LSTN-01*', or '*' for all")
    with ctx.db.transaction() as conn:
        found = _find(conn, which)
        elements = {s.storage_id: s for s in topology.storages(conn)}
    missing = sorted(set(which.numbers) - {one.number for one in found})
    decided = Decided(failed=[Told(number, "", _unknown(number).message) for number in missing])
    if dry_run:
        decided.done = [Told(one.number, one.path) for one in found]
        return decided
    with ctx.db.transaction() as conn:
        held = store.hold(conn, [one.number for one in found], LEASE)
        busy = store.open_again(conn, held)
    ours = {one.trigger_id for one in held}
    away = Unavailable("somebody else is deciding about it", hint="look at it again in a while")
    decided.failed += [_failed(one.number, one.path, away) for one in found if one.number not in ours]
    good: list[Held] = []
    for one in held:
        try:
            if one.trigger_id in busy:
                raise Conflict("its name is being delivered again", hint="wait for what becomes of that")
            act(elements[one.storage_id], one)
            good.append(one)
        except LightkeeperError as error:
            decided.failed.append(_failed(one.trigger_id, one.path, error))
        except OSError as error:
            decided.failed.append(_failed(one.trigger_id, one.path, Unavailable(f"{error.strerror or error}")))
    with ctx.db.transaction() as conn:
        settled = set(settle(conn, good))
        store.let_go(conn, held)
    decided.done = [Told(one.trigger_id, one.path) for one in good if one.trigger_id in settled]
    decided.failed += [_failed(one.trigger_id, one.path, away) for one in good if one.trigger_id not in settled]
    for one in good:
        if one.trigger_id in settled:
            _clear(ctx, elements[one.storage_id], one)
    return decided


def _failed(number: int, path: str, error: LightkeeperError) -> Told:
    return Told(number, path, error.message, error.hint)


def _unknown(number: int) -> NotFound:
    return NotFound(f"no delivery in the quarantine has the number {number}", hint="lightkeeper quarantine list")


def _name(by: str) -> str:
    if not by.strip():
        raise Invalid("who says so is not told", hint="--by NAME")
    return printable(by.strip())


def _reason(why: str) -> str:
    if not why.strip():
        raise Invalid("a reason is needed: it is kept with the delivery", hint="--why TEXT")
    return printable(why.strip())


# --- files -------------------------------------------------------------------------------------------------------
def _place(ctx: Context, element: StorageElement, claim: Claim) -> str:
    """Where a refused delivery goes: a path below its storage, or a `file://` of this machine."""
    chosen = ctx.settings.quarantine
    below = f"{claim.trigger_id}{claim.path}"
    if not chosen.is_absolute():
        return f"{OURS}/{chosen}/{below}"
    if chosen.is_relative_to(ctx.local_storage(element).local_path("/")):
        ctx.log.error("the quarantine lies where deliveries are made; ours is used instead", quarantine=str(chosen))
        return f"{OURS}/quarantine/{below}"
    return f"{ELSEWHERE}{chosen}/{element.name}/{below}"


def _local(ctx: Context, element: StorageElement, where: str) -> Path:
    if where.startswith(ELSEWHERE):
        return Path(where.removeprefix(ELSEWHERE))
    return ctx.local_storage(element).local_path(where)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_reason(target: Path, reason: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target, REASON).open("w", encoding="utf-8", errors="replace") as file:
        file.write(reason + "\n")
        file.flush()
        os.fsync(file.fileno())


def _moved(source: Path, target: Path) -> None:
    """Move the file or link at `source`, if one is still there, durably; to another disk it is copied first. A folder
    that a trigger named stays where it is."""
    if source.is_dir() and not source.is_symlink():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        shutil.copy2(source, part, follow_symlinks=False)
        if not part.is_symlink():
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.rename(target)
        _sync(target.parent)
        source.unlink()
    for folder in {target.parent, source.parent}:
        _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(ctx: Context, element: StorageElement, one: Held) -> None:
    """Remove what is left of a delivery that lies in the quarantine no more."""
    target = _local(ctx, element, one.quarantine)
    with suppress(OSError):
        for suffix in (SUFFIX, REASON):
            _beside(target, suffix).unlink(missing_ok=True)
        _remove_empty(ctx, element, one)


def _remove_empty(ctx: Context, element: StorageElement, one: Held) -> None:
    """Remove the folders that hold nothing any more, up to the one that was made for the delivery."""
    base = _local(ctx, element, one.quarantine.removesuffix(one.path))
    with suppress(OSError):
        for folder in _local(ctx, element, one.quarantine).parents:
            folder.rmdir()
            if folder == base:
                return
