"""Step 3, its other half: approved deletions are carried out, each on evidence that is checked again.

Before: replicate.py or somebody approved intents.    After: replicate.py looks at what is left.
Worker: delete in several threads, when woken and every 5 s; one storage is one thread's. Safe to run twice: an intent
is carried out once, and what was unlinked before a crash is found gone.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.policy import FileCopies, Policy, copies_left_of, may_delete, old_evidence, without
from lightkeeper.steps import markers
from lightkeeper.store import catalog, db, deletions, recovery, topology, transfers
from lightkeeper.store.db import Connection
from lightkeeper.store.deletions import NewIntent, OpenIntent

CHUNK = 200
"""Deletions of one storage that are checked together, and then unlinked one by one."""
FRESH = 5.0
"""Seconds after which evidence that was checked is checked again before the next unlink."""
IN_USE = 15
"""A copy that is read, or a storage that fails, is looked at again after so many times `retry_after`."""


def delete(ctx: Context) -> int:
    """Carry out a chunk of deletions on every storage that has some and is nobody else's now; return how many ended.

    During a recovery nothing is carried out: what was approved waits.
    """
    with ctx.db.transaction() as conn:
        waiting = [] if recovery.forbids_deletion(conn) else deletions.storages_waiting(conn)
        storages = {s.storage_id: s for s in topology.storages(conn)}
    return sum(_turn(ctx, storages[storage_id]) for storage_id in waiting if storages[storage_id].deletable)


def approve(
    conn: Connection,
    copies: Sequence[tuple[int, int]],
    actor: str,
    why: str,
    *,
    operation_id: int | None = None,
    delay: timedelta = timedelta(0),
) -> dict[tuple[int, int], str]:
    """Approve the deletion of those of these copies, named by (file, storage), that may go; why the others may not.

    Locks the files. Somebody who waits for old evidence to be read again finds that this was asked for.
    """
    if recovery.forbids_deletion(conn):
        return dict.fromkeys(copies, "a recovery is under way: lightkeeper recovery status")
    storages = {s.storage_id: s for s in topology.storages(conn)}
    policies = {p.policy_id: p for p in topology.policies(conn)}
    ids = sorted({file_id for file_id, _ in copies})
    deletions.lock_files(conn, ids)
    files = {file.file_id: file for file in transfers.copies_of(conn, ids)}
    behind = deletions.unsettled_among(conn, ids)
    now = db.now(conn)
    against: dict[tuple[int, int], str] = {}
    new: list[NewIntent] = []
    to_read: list[tuple[int, int]] = []
    going: defaultdict[int, set[int]] = defaultdict(set)
    for file_id, storage_id in deletions.open_of(conn, ids):
        going[file_id].add(storage_id)
    for file_id, storage_id in copies:
        if file_id not in files or file_id in behind:
            against[file_id, storage_id] = "its copies are still to be compared with what it is owed"
            continue
        file = without(files[file_id], going[file_id] - {storage_id})
        mine = [policies[i] for i in file.policies if i in policies]
        objection = may_delete(file, storage_id, mine, storages, now)
        if objection:
            against[file_id, storage_id] = objection
            to_read += [(file_id, s) for s in old_evidence(file, storage_id, storages, now)]
        else:
            going[file_id].add(storage_id)
            new.append(NewIntent(file_id, storage_id, copies_left_of(mine), why, removal=file.removed))
    deletions.add_intents(conn, new, actor, operation_id=operation_id, delay=delay)
    catalog.recheck(conn, to_read)
    return against


# --- one storage -----------------------------------------------------------------------------------------------
def _turn(ctx: Context, element: StorageElement) -> int:
    """Carry out one chunk on a storage, unless another worker is at it: one that hangs holds up nobody else."""
    with ctx.db.transaction() as turn:
        if recovery.forbids_deletion(turn) or not deletions.take_turn(turn, element.storage_id):
            return 0
        try:
            markers.ensure(ctx, element)
            return _chunk(ctx, element)
        except LightkeeperError as error:
            ctx.log.error("no deletion", storage=element.name, why=error.message)
            with ctx.db.transaction() as conn:
                deletions.has_trouble(conn, element.storage_id, error.message, ctx.settings.retry_after * IN_USE)
            return 0


def _chunk(ctx: Context, element: StorageElement) -> int:
    """First the replicas stop counting as copies, and under the files' row locks the evidence is checked again, in one
    transaction. Then each file is unlinked, unless that takes so long that the evidence is old. Then it is recorded.

    Between check and unlink no other deletion can be decided that counts on one of these replicas.
    """
    intents, against = db.until_free(lambda: _begin(ctx, element))
    checked = time.monotonic()
    gone: list[OpenIntent] = []
    failed: list[OpenIntent] = []
    storage = ctx.storage(element)
    for intent in intents:
        if time.monotonic() - checked > FRESH:
            break
        try:
            storage.delete(intent.path)
            gone.append(intent)
        except (LightkeeperError, OSError) as error:
            failed.append(intent)
            ctx.log.error("not deleted", file=intent.path, intent=intent.intent_id, why=str(error))
    db.until_free(lambda: _record(ctx, gone, failed))
    for intent in gone:
        ctx.log.info("deleted", file=intent.path, at=element.name, intent=intent.intent_id)
    if against:
        db.until_free(lambda: _void(ctx, element, against))
    return len(gone) + len(against)


def _begin(ctx: Context, element: StorageElement) -> tuple[list[OpenIntent], list[tuple[OpenIntent, str]]]:
    """Deletions to be carried out now, whose replicas are Deleting; and those that something speaks against."""
    with ctx.db.transaction() as conn:
        intents = _chosen(ctx, conn, element)
        if not intents:
            return [], []
        ids = sorted({intent.file_id for intent in intents})
        deletions.lock_files(conn, ids)
        still_open = deletions.still_open(conn, intents)
        storages = {s.storage_id: s for s in topology.storages(conn)}
        policies = {p.policy_id: p for p in topology.policies(conn)}
        files = {file.file_id: file for file in transfers.copies_of(conn, ids)}
        behind = deletions.unsettled_among(conn, ids)
        used = deletions.in_use(conn, [(intent.file_id, intent.storage_id) for intent in intents])
        now = db.now(conn)
        go: list[OpenIntent] = []
        wait: list[int] = []
        against: list[tuple[OpenIntent, str]] = []
        for intent in intents:
            file = files[intent.file_id]
            if intent.intent_id not in still_open or intent.file_id in behind:
                continue
            mine = [policies[i] for i in file.policies if i in policies]
            objection = _outdated(intent, file, mine) or may_delete(file, intent.storage_id, mine, storages, now)
            if objection:
                against.append((intent, objection))
            elif (intent.file_id, intent.storage_id) in used:
                wait.append(intent.intent_id)
            else:
                go.append(intent)
        deletions.begin(conn, go)
        deletions.count_begun(conn, [intent for intent in go if not intent.begun])
        deletions.postpone(conn, wait, ctx.settings.retry_after * IN_USE)
    return go, against


def _chosen(ctx: Context, conn: Connection, element: StorageElement) -> list[OpenIntent]:
    """The next deletions on a storage: first what was begun, then what two people cleared, what policies promised, and
    the others, as many of each as the hour allows. When more of the others wait, they are stopped."""
    settings, storage_id = ctx.settings, element.storage_id
    chosen = deletions.begun_intents(conn, storage_id, CHUNK)
    allowed = deletions.allowance(
        conn,
        storage_id,
        settings.deletions_per_hour,
        settings.deletions_percent,
        settings.promised_deletions_per_hour,
    )
    chosen += deletions.next_intents(conn, storage_id, promised=False, cleared=True, limit=CHUNK - len(chosen))
    room = min(CHUNK - len(chosen), allowed.promised)
    chosen += deletions.next_intents(conn, storage_id, promised=True, cleared=False, limit=room)
    room = min(CHUNK - len(chosen), allowed.others)
    others = deletions.next_intents(conn, storage_id, promised=False, cleared=False, limit=room + 1)
    if len(others) > allowed.others and deletions.stop(conn, storage_id):
        ctx.log.error(
            "deletions stopped",
            storage=element.name,
            why=f"{allowed.per_hour} in an hour are carried out, and more wait",
            do=f"lightkeeper deletion list; two people: lightkeeper deletion approve {element.name} --by NAME",
        )
    if allowed.stopped and not others:
        deletions.end_stop(conn, storage_id)
    return chosen + others[:room]


def _outdated(intent: OpenIntent, file: FileCopies, policies: Sequence[Policy]) -> str:
    """Why nobody wants the deletion any more; empty when somebody does."""
    if intent.removal and not file.removed:
        return "its file is not Removed any more"
    if intent.removal or intent.policy_id is None:
        return ""
    frees = any(p.policy_id == intent.policy_id and p.free_on_site and p.withdrawn is None for p in policies)
    return "" if frees else "its policy frees it no more"


def _record(ctx: Context, gone: Sequence[OpenIntent], failed: Sequence[OpenIntent]) -> None:
    with ctx.db.transaction() as conn:
        deletions.deleted(conn, gone)
        deletions.postpone(conn, [intent.intent_id for intent in failed], ctx.settings.retry_after * IN_USE)


def _void(ctx: Context, element: StorageElement, against: Sequence[tuple[OpenIntent, str]]) -> None:
    """These replicas stay; those that were unlinked before a crash, or whose disk went, are Lost."""
    storage = ctx.storage(element)
    groups: defaultdict[tuple[str, bool], list[OpenIntent]] = defaultdict(list)
    for intent, objection in against:
        gone = intent.begun and storage.stat(intent.path) is None
        groups[objection, gone].append(intent)
        ctx.log.warning("not deleted", file=intent.path, intent=intent.intent_id, why=objection)
    with ctx.db.transaction() as conn:
        for (objection, gone), intents in groups.items():
            voided = set(deletions.void(conn, intents, objection, gone=gone))
            begun = [(i.file_id, i.storage_id) for i in intents if i.begun and i.intent_id in voided]
            catalog.recheck(conn, begun)
