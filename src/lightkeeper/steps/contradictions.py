"""Step 8, the other half: tasks, jobs, outputs and transfers that contradict each other are put right, or told.

Before: one transaction moves what belongs together, so there is nothing to find; but a backup was restored, or somebody
changed rows by hand.    After: it is as the table in `domain/contradictions.py` says, or a person knows.
Worker: sweep as often as the keeper looks at all. It goes over all tasks in slices, a few at each round, and over what
is small at the end of each way. Safe to run twice: a state moves only from where it was seen.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.contradictions import Repair, Verdict, fine, path, table
from lightkeeper.domain.states import Job, Task
from lightkeeper.store import db, healing, jobs, transfers, transitions
from lightkeeper.store.db import Connection
from lightkeeper.store.healing import Concern, Odd

SLICE = 50_000
SLICES = 4
"""Tasks in one transaction, and slices in one round: a million tasks are gone through in five rounds."""
MANY = 100
"""Contradictions of which each is told to a person; of more only their number."""

_TABLE = table()
_FINE = list(fine())
_TARGET = {Repair.TO_READY: Task.READY, Repair.TO_RUNNING: Task.RUNNING, Repair.TO_DONE: Task.DONE}


@dataclass(frozen=True, slots=True)
class Found:
    """A contradiction, and what is done about it."""

    kind: str
    id: int
    what: Repair
    why: str


def sweep(ctx: Context) -> int:
    """Go on over the tasks for a round, and at their end over what is small; return how much was repaired."""
    repaired = 0
    for _ in range(SLICES):
        with ctx.db.transaction() as conn:
            first, last = healing.sweep(conn, healing.swept(conn), SLICE)
            healing.put_swept(conn, last)
            if not last:
                return repaired + _repair_side_rows(ctx, conn)
            repaired += sum(one.what is not Repair.TELL for one in _slice(ctx, conn, first, last))
    return repaired


def sweep_all(ctx: Context) -> None:
    """Go over all tasks now, and over what is small."""
    with ctx.db.transaction() as conn:
        healing.put_swept(conn, 0)
    while True:
        with ctx.db.transaction() as conn:
            first, last = healing.sweep(conn, healing.swept(conn), SLICE)
            healing.put_swept(conn, last)
            if not last:
                _repair_side_rows(ctx, conn)
                return
            _slice(ctx, conn, first, last)


def look(ctx: Context) -> list[Found]:
    """Every contradiction there is now; nothing is done about it."""
    found: list[Found] = []
    after = 0
    while True:
        with ctx.db.transaction() as conn:
            first, after = healing.sweep(conn, after, SLICE)
            if not after:
                return found
            found += _told(healing.contradictions(conn, first, after, _FINE))


# --- tasks -----------------------------------------------------------------------------------------------------------
def _slice(ctx: Context, conn: Connection, first: int, last: int) -> list[Found]:
    """Look at the tasks from one to another, and repair them."""
    _give_up_jobs(ctx, conn, healing.unheard_jobs(conn, first, last), "no pilot says that it has it")
    unqueued = healing.stop_jobs(conn, healing.unqueued_jobs(conn, first, last), "it waits outside the queue")
    odd = healing.contradictions(conn, first, last, _FINE)
    groups: defaultdict[tuple[Task, Verdict], list[Odd]] = defaultdict(list)
    for one in odd:
        groups[one.combination[0], _TABLE[one.combination]].append(one)
    to_tell: list[Concern] = []
    for (state, verdict), these in groups.items():
        if verdict.repair is Repair.TELL:
            to_tell += [_concern(one, verdict) for one in these]
        else:
            _repair(ctx, conn, state, verdict, these)
    if len(to_tell) > MANY:
        more = f"{len(to_tell) - MANY} more tasks up to {last} contradict their jobs: lightkeeper heal --dry-run"
        to_tell = [*to_tell[:MANY], Concern(last, "", more)]
    if healing.put_concerns(conn, "task", "contradiction", to_tell, (first, last)):
        db.notify(conn, "news")
    found = _told(odd)
    if found or unqueued:
        ctx.log.warning(
            "contradictions", tasks=[one.id for one in found][:20], found=len(found), unqueued=len(unqueued)
        )
        db.notify(conn, "task")
    return found


def _repair(ctx: Context, conn: Connection, state: Task, verdict: Verdict, odd: Sequence[Odd]) -> None:
    tasks = [one.task_id for one in odd]
    jobs = [one.job_id for one in odd if one.job_id is not None]
    if verdict.repair is Repair.STOP:
        healing.stop_jobs(conn, jobs, verdict.why)
        what = "its job was stopped"
    elif verdict.repair is Repair.AGAIN:
        again, _ = healing.next_attempts(
            conn, tasks, "Contradiction", verdict.why, healing.keeper(conn), ctx.settings.retry_after
        )
        what = "another attempt" if again else "it failed"
    else:
        target = _TARGET[verdict.repair]
        for source, goal in path(state, target):
            tasks = transitions.move(conn, tasks, source, goal, verdict.why)
        what = f"moved to {target}"
    transitions.remedied(conn, "task", tasks, what, verdict.why)


def _told(odd: Iterable[Odd]) -> list[Found]:
    verdicts = [(one, _TABLE[one.combination]) for one in odd]
    return [Found("task", one.task_id, verdict.repair, verdict.why) for one, verdict in verdicts]


def _concern(one: Odd, verdict: Verdict) -> Concern:
    look_with = (f"lightkeeper why task {one.task_id}",)
    return Concern(one.task_id, one.type, f"task {one.task_id}: {verdict.why}", look_with)


def _give_up_jobs(ctx: Context, conn: Connection, job_ids: Sequence[int], why: str) -> None:
    if job_ids:
        keeper, base = healing.keeper(conn), ctx.settings.retry_after
        again, _ = jobs.failed(conn, job_ids, Job.RUNNING, "Job silent", why, None, base, keeper)
        transitions.remedied(conn, "task", again, "the task gets another attempt", why)


# --- what is small ---------------------------------------------------------------------------------------------------
def _repair_side_rows(ctx: Context, conn: Connection) -> int:
    """Queues and signs of life of jobs that are not there, files taken twice, copies that a transfer brought and that
    are gone: all is looked at that is not bounded by tasks."""
    orphans = healing.orphaned_jobs(conn)
    _give_up_jobs(ctx, conn, orphans, "its pilot has ended")
    cleared = healing.clear_side_rows(conn)
    twice = healing.taken_twice(conn)
    gone = healing.lost_arrivals(conn)
    if gone:
        transfers.unsettle(conn, gone)
        why = "a transfer brought a copy which is not in the catalogue any more"
        transitions.remedied(conn, "file", gone, "compared anew with what it is owed", why)
    repaired = len(orphans) + cleared + twice + len(gone)
    if repaired:
        ctx.log.warning("side rows repaired", orphans=len(orphans), cleared=cleared, twice=twice, arrivals=len(gone))
    return repaired
