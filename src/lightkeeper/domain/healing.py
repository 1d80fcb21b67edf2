"""What a transformation needs to end on its own: facts in, remedy out."""

from dataclasses import dataclass
from enum import StrEnum

from lightkeeper.domain.states import Transformation


@dataclass(frozen=True, slots=True)
class TransformationFacts:
    """An Active transformation: its files that wait for a task (`ready`: a data centre has a verified copy; `lost`: no
    copy is left anywhere) and its tasks by state."""

    transformation_id: int
    name: str
    open: bool
    parent_id: int | None
    parent_state: Transformation | None
    waiting: int
    ready: int
    lost: int
    tasks: int
    done: int
    failed: int


class Remedy(StrEnum):
    """WAIT: it goes on by itself. DECIDE: a person must say what to do."""

    WAIT = "wait"
    FLUSH = "flush"
    COMPLETE = "complete"
    DECIDE = "decide"


def remedy(facts: TransformationFacts) -> tuple[Remedy, str]:
    """What to do next about a transformation, and why, in one sentence."""
    if facts.open:
        return Remedy.WAIT, "it takes files that arrive later, until it is closed"
    if facts.parent_id is not None and facts.parent_state is not Transformation.COMPLETED:
        return Remedy.WAIT, "its parent is not complete yet"
    if facts.waiting > facts.ready + facts.lost:
        return Remedy.WAIT, f"{_files(facts.waiting - facts.ready - facts.lost)} for a verified copy at a data centre"
    if facts.ready:
        whose = "its parent is complete" if facts.parent_id is not None else "its input is complete"
        return Remedy.FLUSH, f"{whose} and {_files(facts.ready)} below the group size"
    if facts.failed:
        return Remedy.DECIDE, f"{facts.failed} of {facts.tasks} tasks failed in every attempt"
    if facts.lost:
        return Remedy.DECIDE, f"{facts.lost} of its input files have no copy left anywhere"
    if facts.done == facts.tasks:
        return Remedy.COMPLETE, f"no more input will come and all {facts.tasks} tasks are done"
    return Remedy.WAIT, f"{facts.tasks - facts.done} of {facts.tasks} tasks are not done yet"


def _files(n: int) -> str:
    return "1 file waits" if n == 1 else f"{n} files wait"
