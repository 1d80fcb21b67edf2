"""Step 2: policies say what copies are wanted; the difference to what is observed becomes transfers and intents.

Before: a file was registered, or one of its copies changed.    After: transfer.py moves the bytes and deletes.
Worker: whenever something is unsettled. Safe to run twice: a transfer or intent that exists is not doubled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.policy import MIN_COPIES_TO_FREE, FileCopies, FilePlan, Planner, Policy, copies_left_of
from lightkeeper.store import catalog, db, deletions, recovery, rules, stage, topology, transfers
from lightkeeper.store.db import Connection
from lightkeeper.store.deletions import NewIntent
from lightkeeper.store.sets import share_policies

BATCH = 2000
BLOCKED_WAIT = timedelta(minutes=1)


def settle(ctx: Context) -> int:
    """Compare a batch of unsettled files with what they are owed; return how many were looked at."""
    return db.until_free(lambda: _settle(ctx))


def _settle(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        share_policies(conn)
        topology.hold_room(conn)
        storages = {s.storage_id: s for s in topology.storages(conn)}
        now = db.now(conn)
        files = _turned_away(conn, transfers.take_unsettled(conn, BATCH), storages)
        planner = Planner(rules.with_quotas(conn, topology.policies(conn), storages), storages, now)
        plans = [(file, planner.plan(file)) for file in files if not file.removed]
        transfers.add_transfers(
            conn,
            [
                (file.file_id, target, policy.policy_id, policy.priority)
                for file, plan in plans
                for target, policy in plan.copy_to
            ],
            {
                policy.policy_id: [i for i, storage in storages.items() if policy.copies_from(storage)]
                for policy in planner.policies.values()
                if policy.source
            },
        )
        rules.keep_used(conn, planner.policies.values())
        stage.wish_for_transfers(conn, [file.file_id for file in files])
        behind = recovery.forbids_deletion(conn)  # then nothing is approved, and these files are looked at again
        removed = [file for file in files if file.removed]
        transfers.no_longer_wanted(conn, [file.file_id for file in removed])
        deletions.add_intents(
            conn,
            [
                NewIntent(file.file_id, replica.storage_id, 0, "its file is Removed", removal=True)
                for file in removed
                for replica in file.replicas
                if not behind
            ],
            "replicate",
            delay=ctx.settings.deletion_delay,
        )
        deletions.add_intents(
            conn,
            [
                _freeing(file.file_id, storage_id, plan.freed_by, planner.policies_of(file))
                for file, plan in plans
                for storage_id in plan.free
                if plan.freed_by and not behind
            ],
            "replicate",
        )
        deletions.add_intents(
            conn,
            [
                _leaving(file.file_id, storages[storage_id], planner.policies_of(file))
                for file, plan in plans
                for storage_id in plan.drain
                if not behind
            ],
            deletions.DRAINING,
        )
        catalog.recheck(conn, [(file.file_id, storage_id) for file, plan in plans for storage_id in plan.verify])
        transfers.look_again(conn, [(file.file_id, due) for file, plan in plans if (due := _due(plan, now))])
        if behind:
            waiting = [*removed, *(file for file, plan in plans if plan.free or plan.drain)]
            transfers.look_again(conn, [(file.file_id, now + BLOCKED_WAIT) for file in waiting])
    blocked = {plan.blocked for _, plan in plans if plan.blocked}
    for reason in blocked:
        ctx.log.warning("copies blocked", why=reason, files=sum(plan.blocked == reason for _, plan in plans))
    return len(files)


def _turned_away(
    conn: Connection, files: Sequence[FileCopies], storages: Mapping[int, StorageElement]
) -> list[FileCopies]:
    """`files` without the transfers that wait for a storage which takes nothing now: another place is looked for."""
    away = [(file.file_id, s) for file in files for s in file.arriving if not storages[s].writable]
    if not away:
        return list(files)
    given_up = transfers.turn_away(conn, away)
    return [
        replace(file, arriving=tuple(s for s in file.arriving if (file.file_id, s) not in given_up)) for file in files
    ]


def _freeing(file_id: int, storage_id: int, by: Policy, policies: Sequence[Policy]) -> NewIntent:
    wanted = max(copies_left_of(policies), MIN_COPIES_TO_FREE)
    why = f"policy {by.name}: {wanted} verified copies at distinct data centres"
    return NewIntent(file_id, storage_id, wanted, why, policy_id=by.policy_id)


def _leaving(file_id: int, storage: StorageElement, policies: Sequence[Policy]) -> NewIntent:
    return NewIntent(file_id, storage.storage_id, copies_left_of(policies), f"{storage.name} is draining")


def _due(plan: FilePlan, now: datetime) -> datetime | None:
    if plan.blocked:
        return now + BLOCKED_WAIT
    return plan.look_again
