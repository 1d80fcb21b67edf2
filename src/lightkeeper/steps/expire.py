"""Beside the walk: files whose lifetime is over are Removed, and their copies go by intents.

Before: a policy said how long its files live.    After: delete.py deletes their copies.
Worker: expire every 60 s. Safe to run twice: a Removed file is not removed again. Kept are files that another policy
wants to stay, that a frozen dataset lists or a task works on, and what the observatory took.
"""

from lightkeeper.context import Context
from lightkeeper.domain.states import File
from lightkeeper.store import changes, db, deletions, transfers
from lightkeeper.store.deletions import NewIntent

BATCH = 2000


def expire(ctx: Context) -> int:
    """Remove a batch of files that have expired; how many."""
    return db.until_free(lambda: _expire(ctx))


def _expire(ctx: Context) -> int:
    with ctx.db.transaction() as conn:
        found = deletions.expired(conn, BATCH)
        changes.lock(conn, [file.file_id for file in found])
        still = {file.file_id for file in deletions.expired(conn, BATCH)}
        expired = {file.file_id: file for file in found if file.file_id in still}
        removed: list[int] = []
        for policy in {file.policy for file in expired.values()}:
            for state in (File.CURRENT, File.SUPERSEDED, File.CORRUPTED):
                ids = [i for i, file in expired.items() if file.policy == policy and file.state is state]
                if ids:
                    why = f"its lifetime by policy {policy} is over"
                    removed += changes.move_files(conn, ids, state, File.REMOVED, why)
        deletions.add_intents(
            conn,
            [
                NewIntent(
                    file.file_id,
                    replica.storage_id,
                    0,
                    f"its lifetime by policy {expired[file.file_id].policy} is over",
                    policy_id=expired[file.file_id].policy_id,
                    removal=True,
                )
                for file in transfers.copies_of(conn, removed)
                for replica in file.replicas
            ],
            "expire",
        )
    if removed:
        ctx.log.info("expired", files=len(removed))
    return len(removed)
