"""Step 3, its other half: approved deletions are carried out, each on evidence that is checked again.

Before: replicate.py approved intents.    After: replicate.py looks at what is left.
Worker: delete in one thread, when woken and every 5 s. Safe to run twice: an intent is carried out once, and what was
unlinked before a crash is found gone.
"""

from lightkeeper.context import Context
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.policy import may_free
from lightkeeper.domain.states import Replica
from lightkeeper.steps import markers
from lightkeeper.store import catalog, db, deletions, topology, transitions
from lightkeeper.store.deletions import OpenIntent


def delete(ctx: Context) -> int:
    """Carry out approved deletions, one file at a time; return how many were dealt with.

    First the replica stops counting as a copy, in a transaction of its own. Then, under the file's row lock, the
    evidence is checked again, and only then the file is unlinked: no other deletion can have been decided meanwhile.
    """
    with ctx.db.transaction() as conn:
        intents = deletions.open_intents(conn, 200)
        storages = {s.storage_id: s for s in topology.storages(conn)}
    return sum(_is_carried_out(ctx, intent, storages) for intent in intents)


def _is_carried_out(ctx: Context, intent: OpenIntent, storages: dict[int, StorageElement]) -> bool:
    """Whether one intent came to an end; one that cannot now does not stop the others."""
    try:
        with ctx.db.transaction() as conn:
            if not deletions.lock_intent(conn, intent):
                return False
            if intent.removal and deletions.in_use(conn, intent.file_id, intent.storage_id):
                return False
            for state in (Replica.AVAILABLE, Replica.SUSPECT, Replica.LOST) if intent.removal else (Replica.AVAILABLE,):
                replica, why = (intent.file_id, intent.storage_id), f"intent {intent.intent_id}"
                transitions.move_replicas(conn, [replica], state, Replica.DELETING, why)
        _delete_one(ctx, intent, storages)
    except (LightkeeperError, OSError) as error:
        ctx.log.error("not deleted", file=intent.path, intent=intent.intent_id, why=str(error))
        return False
    return True


def _delete_one(ctx: Context, intent: OpenIntent, storages: dict[int, StorageElement]) -> None:
    storage = ctx.storage(storages[intent.storage_id])
    markers.ensure(ctx, storages[intent.storage_id])
    with ctx.db.transaction() as conn:
        copies = deletions.lock_file_for_deletion(conn, intent)
        if copies is None:
            return
        already_gone = storage.stat(intent.path) is None  # unlinked before a crash, or its disk is not mounted
        if intent.removal:
            objection = "" if copies.removed else "its file is not Removed any more"
        else:
            objection = may_free(copies, intent.storage_id, intent.copies, storages, db.now(conn))
        if deletions.in_use(conn, intent.file_id, intent.storage_id):
            objection = "a transfer reads it"
        if objection:
            deletions.void(conn, intent, objection, gone=already_gone)
            catalog.recheck(conn, [(intent.file_id, intent.storage_id)])
            ctx.log.warning("not deleted", file=intent.path, intent=intent.intent_id, why=objection)
            return
        storage.delete(intent.path)
        deletions.deleted(conn, intent)
    ctx.log.info("freed", file=intent.path, at=storages[intent.storage_id].name, intent=intent.intent_id)
