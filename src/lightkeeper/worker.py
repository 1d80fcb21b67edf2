"""The daemon: one table of duties, woken by NOTIFY, polled as a fall-back.

Each duty is a bounded, idempotent function of a step that returns how much it did; it is called again at once while it
does something, and otherwise sleeps until it is woken or its time comes. What it raises is logged, and it goes on.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import psycopg

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.steps import (
    audit,
    compare,
    contradictions,
    delete,
    expire,
    heal,
    ingest,
    manifests,
    nights,
    operations,
    probe,
    replicate,
    rules,
    run,
    stage,
    tell,
    transfer,
    transform,
    transformations,
    watch,
)


@dataclass(frozen=True, slots=True)
class Duty:
    """What is done, how often at the least (seconds, or what tells them), what wakes it, and in how many threads."""

    name: str
    do: Callable[[Context], int]
    every: float | Callable[[], float]
    woken_by: tuple[str, ...] = ()
    threads: int = 1


def duties(ctx: Context, api_url: str) -> list[Duty]:
    """The table of duties, in the order of the walk."""
    settings = ctx.settings
    return [
        Duty("watch", watch.Watch(), 0),
        Duty("ingest", ingest.Ingest(), 2, ("trigger",)),
        Duty("replicate", replicate.settle, 5, ("unsettled",)),
        Duty("stage", stage.stage, 2, ("stage",)),
        Duty("archive", stage.archive, settings.stage_every.total_seconds()),
        Duty("wishes", stage.look_after_wishes, 60),
        Duty("transfer", transfer.carry_out, 1, ("transfer",), settings.transfer_threads),
        Duty("delete", delete.delete, 5, ("intent",), settings.delete_threads),
        Duty("operations", operations.look_after, 5, ("operation",)),
        Duty("tasks", transform.make_tasks, 5, ("input",)),
        Duty("counts", transformations.fold_counts, 1),
        Duty("clean", transformations.clean_due, 60, ("clean",)),
        Duty("waiting files", transform.look_again, 60),
        Duty("jobs", transform.submit_jobs, 1, ("task",)),
        Duty("pilots", lambda c: run.keep_pilots(c, api_url), 2, ("job",)),
        Duty("accept", run.accept_reported, 5),
        Duty("recheck", audit.recheck, 30, ("recheck",)),
        Duty("scrub", audit.scrub, 10, ("scrub",), 2),
        Duty("probe", probe.Prober(), 5, ("probe",)),
        Duty("compare", compare.compare_due, 600),
        Duty("manifests", manifests.write_due, 20, ("manifests",)),
        Duty("expire", expire.expire, 60),
        Duty("rules", rules.withdraw_expired, 60),
        Duty("deadlines", rules.watch_deadlines, 60),
        Duty("abandoned", heal.release_abandoned, 2),
        Duty("temporaries", heal.clear_temporaries, 600),
        Duty("nights", nights.Keeper(), 2),
        Duty("heal", heal.look_after_work, lambda: heal.every(ctx), ("task", "input")),
        Duty("contradictions", contradictions.sweep, lambda: heal.every(ctx)),
        Duty("gather", tell.gather, 10, ("news",)),
        Duty("send", tell.send, 2, ("message",)),
    ]


class Worker:
    """Runs the duties in threads until it is stopped."""

    def __init__(self, ctx: Context, api_url: str, only: Collection[str] = ()) -> None:
        """`only` these duties, by name; without, all."""
        self._ctx = ctx
        self._stopping = threading.Event()
        self._duties = [duty for duty in duties(ctx, api_url) if not only or duty.name in only]
        self._bells = {duty.name: threading.Condition() for duty in self._duties}
        self._rung = dict.fromkeys(self._bells, 0)
        self._threads = [
            threading.Thread(target=self._loop, args=(duty,), name=f"{duty.name}-{n}")
            for duty in self._duties
            for n in range(duty.threads)
        ]
        self._threads.append(threading.Thread(target=self._listen, name="listen"))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the duties have finished what they are at."""
        self._stopping.set()
        for duty in self._duties:
            self._ring(duty)
        for thread in self._threads:
            thread.join()

    def _loop(self, duty: Duty) -> None:
        while not self._stopping.is_set():
            bell = self._bells[duty.name]
            with bell:
                heard = self._rung[duty.name]
            try:
                did = duty.do(self._ctx)
            except (LightkeeperError, psycopg.Error, OSError) as error:
                self._ctx.log.error("duty failed", duty=duty.name, why=str(error).strip(), error=type(error).__name__)
                self._stopping.wait(1)
                did = 0
            except Exception as error:  # the one place: a duty must survive what nobody foresaw
                self._ctx.log.error("duty failed unexpectedly", duty=duty.name, exc_info=error)
                self._stopping.wait(5)
                did = 0
            if did:
                continue
            pause = self._pause(duty)
            with bell:
                if self._rung[duty.name] == heard and not self._stopping.is_set():
                    bell.wait(timeout=pause)

    def _pause(self, duty: Duty) -> float:
        if isinstance(duty.every, float | int):
            return duty.every
        try:
            return duty.every()
        except psycopg.Error:
            return 5

    def _listen(self) -> None:
        """Ring the duties' bells when the database says that there is something for them."""
        while not self._stopping.is_set():
            try:
                with self._ctx.db.listen() as conn:
                    while not self._stopping.is_set():
                        for notice in conn.notifies(timeout=1):
                            for duty in self._duties:
                                if notice.payload in duty.woken_by:
                                    self._ring(duty)
            except psycopg.Error:
                time.sleep(0.5)  # the server restarts; polling goes on meanwhile

    def _ring(self, duty: Duty) -> None:
        with self._bells[duty.name]:
            self._rung[duty.name] += 1
            self._bells[duty.name].notify_all()
