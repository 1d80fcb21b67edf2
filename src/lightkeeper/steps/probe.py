"""Beside the walk: whether storages answer. What does not is asked for less, then left alone, and comes back by itself.

Before: topology.py took a storage up; transfer.py told of work that failed.    After: what a storage's health allows.
Worker: probe every 5 s and when work failed. Safe to run twice: a due probe is claimed. A probe that hangs holds up
nothing: it is waited for until its deadline, and its thread is left behind; the next probe of the same protocol waits
until that thread has ended. Decisions are pure (`domain/probing.py`).
"""

import threading
import time
from collections.abc import Sequence

from lightkeeper.context import Context
from lightkeeper.domain import probing
from lightkeeper.domain.catalog import Media, StorageElement
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.states import Health
from lightkeeper.steps import markers
from lightkeeper.store import probes, topology, transitions
from lightkeeper.store.db import Connection
from lightkeeper.store.probes import Due


class Prober:
    """Probes storages; remembers which probes hang."""

    def __init__(self) -> None:
        self._hanging: dict[Due, threading.Thread] = {}

    def __call__(self, ctx: Context) -> int:
        """Probe what is due, all at once; return how many ended, in time or not."""
        patience = ctx.settings.probe_timeout
        with ctx.db.transaction() as conn:
            due = probes.claim_due(conn, patience * 2)
            elements = {s.storage_id: s for s in topology.storages(conn)}
        begun = [(one, self._begin(ctx, elements[one.storage_id], one)) for one in due]
        deadline = time.monotonic() + patience.total_seconds()
        for one, (thread, errors) in begun:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._hanging[one] = thread
                errors = [f"it did not answer within {patience.total_seconds():g} s"]
            _record(ctx, elements[one.storage_id], one, errors[0] if errors else "")
        return len(due)

    def _begin(self, ctx: Context, element: StorageElement, one: Due) -> tuple[threading.Thread, list[str]]:
        """A thread that probes one protocol, and the list that it puts an error into."""
        hanging = self._hanging.pop(one, None)
        if hanging is not None and hanging.is_alive():
            return hanging, []
        errors: list[str] = []

        def run() -> None:
            try:
                _probe(ctx, element, one.rank)
            except LightkeeperError as error:
                errors.append(error.message)
            except Exception as error:  # whatever a plug-in raises, the storage cannot be used
                ctx.log.error("probe failed unexpectedly", storage=element.name, exc_info=error)
                errors.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=run, name=f"probe-{element.name}-{one.rank}", daemon=True)
        thread.start()
        return thread, errors


def _probe(ctx: Context, element: StorageElement, rank: int) -> None:
    """Raise what is wrong with one protocol. Tape is only asked, and what may not be written is only read."""
    element = next((element.by(p) for p in element.protocols if p.rank == rank), element)
    storage = ctx.storage(element)
    if element.media is Media.TAPE:
        storage.stat(markers.MARKER)
        return
    markers.ensure(ctx, element, write=False)
    if element.write and element.delete:
        storage.probe()


def _record(ctx: Context, element: StorageElement, one: Due, error: str) -> None:
    """Note how a probe ended, and move the storage's health along if that changes it."""
    with ctx.db.transaction() as conn:
        known = {p.rank: p for p in probes.probed(conn, one.storage_id)}
        if one.rank not in known:
            return  # the topology changed meanwhile
        before = known.pop(one.rank)
        failed, succeeded = (before.n_failed + 1, 0) if error else (0, before.n_succeeded + 1)
        work = probes.work_on(conn, one.storage_id)
        found = probing.Found(
            probes.health(conn, one.storage_id),
            failed=min([failed, *(p.n_failed for p in known.values())]),
            succeeded=max([succeeded, *(p.n_succeeded for p in known.values())]),
            work_failed=work.failed,
            work_done=work.done,
            error=error or work.error,
        )
        health, why = probing.judge(found)
        if health is not found.health:
            _move(ctx, conn, element, found.health, health, why)
        used = probing.answers(before.answers, failed, succeeded)
        wait = probing.next_probe(health, failed, used, ctx.settings.probe_every)
        probes.put_probed(conn, one.storage_id, one.rank, answers=used, error=error, wait=wait)
    if known and used is not before.answers:
        driver = next((p.driver for p in element.protocols if p.rank == one.rank), "")
        ctx.log.warning("protocol", storage=element.name, driver=driver, answers=used, why=error)


def _move(ctx: Context, conn: Connection, element: StorageElement, was: Health, health: Health, why: str) -> None:
    transitions.move(conn, [element.storage_id], was, health, why)
    transitions.remedied(conn, "storage", [element.storage_id], _told(element.name, health), why)
    looked_at = probes.health_changed(conn, element.storage_id, health)
    ctx.log.warning("storage health", storage=element.name, health=str(health), why=why, looked_at=looked_at)


def _told(name: str, health: Health) -> str:
    match health:
        case Health.BANNED:
            return f"{name} is left alone until it answers; what waits for it goes elsewhere where that is possible"
        case Health.DEGRADED:
            return f"less is asked of {name}"
        case Health.GOOD:
            return f"{name} is used as before"


def work_failed(conn: Connection, elements: Sequence[StorageElement], error: LightkeeperError) -> None:
    """Work between these storages met no answer: those that the error names, or else all, are probed soon."""
    probes.work_failed(conn, _meant(elements, error), error.message)


def protocol_failed(conn: Connection, elements: Sequence[StorageElement], error: LightkeeperError) -> None:
    """The same where the next protocol took over: no work failed, so this says nothing of a storage's health."""
    probes.probe_soon(conn, _meant(elements, error))


def _meant(elements: Sequence[StorageElement], error: LightkeeperError) -> list[int]:
    named = [element for element in elements if element.name in error.message] or elements
    return sorted({element.storage_id for element in named})
