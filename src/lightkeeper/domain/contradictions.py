"""What may not be: every combination of a task, its latest job and its outputs, and what is done about it.

One transaction moves all three, so nothing of this happens by itself. It happens after a backup was restored, after a
statement by hand, and when somebody made a mistake in the program. The table is complete, so that nothing of it is
left lying: a combination is in order, repaired, or told to a person.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final

from lightkeeper.domain.states import MOVES, Job, State, Task


class Outputs(StrEnum):
    """What is known of a task's outputs. NONE: none reported, none registered. REPORTED: by its latest job, not
    registered. REGISTERED: those of its latest job are, or were, in the catalogue. OTHERS: those of an earlier job."""

    NONE = "none"
    REPORTED = "reported"
    REGISTERED = "registered"
    OTHERS = "others"


class Repair(StrEnum):
    """FINE: nothing is wrong. TO_…: the task moves to where its job says it is. AGAIN: the attempt is over and failed;
    the task gets another, or fails. STOP: the job is ended, because nobody waits for it. TELL: a person must look."""

    FINE = "fine"
    TO_READY = "task to Ready"
    TO_RUNNING = "task to Running"
    TO_DONE = "task to Done"
    AGAIN = "another attempt"
    STOP = "stop the job"
    TELL = "tell a person"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done about a combination, and what is wrong with it, in words."""

    repair: Repair
    why: str = ""


Combination = tuple[Task, Job | None, Outputs]

_F, _Y, _R, _D, _A, _S, _T = (
    Repair.FINE, Repair.TO_READY, Repair.TO_RUNNING, Repair.TO_DONE, Repair.AGAIN, Repair.STOP, Repair.TELL,
)  # fmt: skip

_GRID: Final[Mapping[tuple[Task, Job | None], tuple[Repair, Repair, Repair, Repair]]] = {
    #                               NONE REPORTED REGISTERED OTHERS
    (Task.READY, None):            (_F, _T, _T, _T),
    (Task.READY, Job.WAITING):     (_F, _T, _T, _T),
    (Task.READY, Job.RUNNING):     (_R, _R, _T, _T),
    (Task.READY, Job.COMPLETING):  (_R, _R, _T, _T),
    (Task.READY, Job.DONE):        (_D, _T, _D, _T),
    (Task.READY, Job.FAILED):      (_F, _F, _T, _T),
    (Task.READY, Job.KILLED):      (_F, _F, _T, _T),
    (Task.RUNNING, None):          (_Y, _T, _T, _T),
    (Task.RUNNING, Job.WAITING):   (_Y, _T, _T, _T),
    (Task.RUNNING, Job.RUNNING):   (_F, _F, _T, _T),
    (Task.RUNNING, Job.COMPLETING): (_F, _F, _T, _T),
    (Task.RUNNING, Job.DONE):      (_D, _T, _D, _T),
    (Task.RUNNING, Job.FAILED):    (_A, _A, _T, _T),
    (Task.RUNNING, Job.KILLED):    (_A, _A, _T, _T),
    (Task.DONE, None):             (_T, _T, _T, _T),
    (Task.DONE, Job.WAITING):      (_S, _S, _T, _S),
    (Task.DONE, Job.RUNNING):      (_S, _S, _T, _S),
    (Task.DONE, Job.COMPLETING):   (_S, _S, _T, _S),
    (Task.DONE, Job.DONE):         (_F, _T, _F, _T),
    (Task.DONE, Job.FAILED):       (_T, _T, _T, _T),
    (Task.DONE, Job.KILLED):       (_T, _T, _T, _T),
    (Task.FAILED, None):           (_Y, _T, _T, _T),
    (Task.FAILED, Job.WAITING):    (_Y, _T, _T, _T),
    (Task.FAILED, Job.RUNNING):    (_R, _R, _T, _T),
    (Task.FAILED, Job.COMPLETING): (_R, _R, _T, _T),
    (Task.FAILED, Job.DONE):       (_D, _T, _D, _T),
    (Task.FAILED, Job.FAILED):     (_F, _F, _T, _T),
    (Task.FAILED, Job.KILLED):     (_F, _F, _T, _T),
    (Task.CANCELLED, None):           (_F, _T, _T, _T),
    (Task.CANCELLED, Job.WAITING):    (_S, _S, _T, _S),
    (Task.CANCELLED, Job.RUNNING):    (_S, _S, _T, _S),
    (Task.CANCELLED, Job.COMPLETING): (_S, _S, _T, _S),
    (Task.CANCELLED, Job.DONE):       (_T, _T, _T, _T),
    (Task.CANCELLED, Job.FAILED):     (_F, _F, _T, _T),
    (Task.CANCELLED, Job.KILLED):     (_F, _F, _T, _T),
}  # fmt: skip

_JOBS: Final[tuple[Job | None, ...]] = (None, *Job)


def table() -> Mapping[Combination, Verdict]:
    """The verdict on every combination."""
    return {(task, job, outputs): _verdict(task, job, outputs) for task, job, outputs in product(Task, _JOBS, Outputs)}


def fine() -> Iterator[Combination]:
    """The combinations with which nothing is wrong."""
    return (combination for combination, verdict in table().items() if verdict.repair is Repair.FINE)


def _verdict(task: Task, job: Job | None, outputs: Outputs) -> Verdict:
    repair = _GRID[task, job][list(Outputs).index(outputs)]
    return Verdict(repair, "" if repair is Repair.FINE else _why(task, job, outputs))


def _why(task: Task, job: Job | None, outputs: Outputs) -> str:
    latest = "it has no job" if job is None else f"its latest job is {job}"
    lie = {
        Outputs.NONE: "",
        Outputs.REPORTED: ", and outputs are reported that are not in the catalogue",
        Outputs.REGISTERED: ", and its outputs are in the catalogue",
        Outputs.OTHERS: ", and outputs of an earlier job are in the catalogue",
    }[outputs]
    return f"the task is {task}, but {latest}{lie}"


def path(source: Task, target: Task) -> list[tuple[Task, Task]]:
    """The shortest way from one state of a task to another along the table of states; raises KeyError when there is
    none."""
    ways: dict[State, list[tuple[Task, Task]]] = {source: []}
    at_hand: list[State] = [source]
    while target not in ways:
        if not at_hand:
            raise KeyError(f"no way from {source} to {target}")
        here = at_hand.pop(0)
        for begin, end in MOVES[Task]:
            if begin is here and end not in ways:
                ways[end] = [*ways[here], (Task(begin), Task(end))]
                at_hand.append(end)
    return ways[target]
