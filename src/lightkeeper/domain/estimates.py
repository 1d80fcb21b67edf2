"""What a production would do, before it is submitted: how much each step takes, and how long that may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightkeeper.domain.work import PlannedStep

SAMPLE = 10
"""Names of inputs that are told of each step."""


@dataclass(frozen=True, slots=True)
class InputFacts:
    """Files that match a step's input now, and the tasks that they would make. `no_copy`: no data centre has a verified
    copy yet, so that they would wait; `lost`: of those, files of which no copy is left anywhere; `on_tape`: they would
    be staged first. `sample`: some of their names."""

    files: int
    bytes: int
    tasks: int
    no_copy: int = 0
    lost: int = 0
    on_tape: int = 0
    sample: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """How long jobs of one type took lately: seconds of processor time for each input file, and for each byte."""

    per_file: float
    per_byte: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one step would do. Without `known` its input does not exist yet: files and tasks are the most there can be.
    `seconds` of processor time are None when nothing is known of such jobs."""

    number: int
    name: str
    job_type: str
    known: bool
    files: int
    bytes: int | None
    tasks: int
    seconds: float | None
    no_copy: int = 0
    lost: int = 0
    on_tape: int = 0
    sample: tuple[str, ...] = ()


def estimates(
    steps: Sequence[PlannedStep], inputs: Mapping[int, InputFacts], paces: Mapping[str, Pace]
) -> list[Estimate]:
    """What each step would do; `inputs` are those of steps without a parent, `paces` are by job type."""
    told: dict[int, Estimate] = {}
    for step in steps:
        pace = paces.get(step.job_type)
        found = inputs.get(step.number)
        if step.without_input:
            files, size, tasks, known = 0, 0, step.n_tasks, True
        elif found is not None:
            files, size, tasks, known = found.files, found.bytes, found.tasks, not step.feeders
        else:
            before = [told[number] for number in ([step.parent] if step.parent is not None else step.feeders)]
            files = sum(_products(steps, one) for one in before)
            size, tasks, known = None, -(-files // step.group_size), False
        told[step.number] = Estimate(
            number=step.number,
            name=step.name,
            job_type=step.job_type,
            known=known,
            files=files,
            bytes=size,
            tasks=tasks,
            seconds=_seconds(step, pace, files, size, tasks),
            no_copy=found.no_copy if found else 0,
            lost=found.lost if found else 0,
            on_tape=found.on_tape if found else 0,
            sample=found.sample if found else (),
        )
    return list(told.values())


def _products(steps: Sequence[PlannedStep], estimate: Estimate) -> int:
    step = next(step for step in steps if step.number == estimate.number)
    return estimate.tasks if step.merges or step.without_input else estimate.files


def _seconds(step: PlannedStep, pace: Pace | None, files: int, size: int | None, tasks: int) -> float | None:
    """What the document says of its jobs goes before what such jobs took."""
    if step.cpu_time is not None:
        return float(step.cpu_time * tasks)
    if pace is None:
        return None
    return pace.per_byte * size if size else pace.per_file * files


def complaints(estimate: Estimate) -> list[str]:
    """What is missing for a step, in sentences."""
    of = f"step {estimate.number}"
    told: list[str] = []
    if estimate.known and not estimate.tasks and not estimate.files:
        told.append(f"{of}: no registered file matches")
    if estimate.lost:
        told.append(f"{of}: of {_files(estimate.lost)} there is no copy anywhere")
    if waiting := estimate.no_copy - estimate.lost:
        told.append(f"{of}: {_files(waiting)} without a verified copy at a data centre: they would wait for one")
    if estimate.on_tape:
        told.append(f"{of}: {_files(estimate.on_tape)} on tape only: they would be staged first")
    return told


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n} files"
