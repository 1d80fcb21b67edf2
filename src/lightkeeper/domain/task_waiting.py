"""What a task waits for, and what will happen next, each in one sentence."""

from dataclasses import dataclass
from datetime import datetime

from lightkeeper.domain.healing import Options, most_attempts
from lightkeeper.domain.states import Job, Task, Transformation

COMPUTING = ("lightkeeper apply FILE, with computing: {executor: local, pilots: 2} at a site",)
"""What a person can do when no site has pilots for a job."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task and its latest job. `unread`: inputs of which every copy is being read again; `staged`: those that must
    come from tape first; `gone`: those without any copy that can be read now. `before`: jobs that a pilot gets earlier;
    `pilots`: those that live and have what it needs; `may_run`: how many there may be."""

    task_id: int
    transformation_id: int
    transformation_state: Transformation
    state: Task
    attempts: int
    reassigned: int
    rescheduled: int
    not_before: datetime
    state_since: datetime
    job_id: int | None
    job: Job | None
    minor_status: str
    application_status: str
    started: datetime | None
    site: str | None
    pilot: str | None
    unread: int
    staged: int
    gone: int
    before: int
    pilots: int = 0
    may_run: int = 0


@dataclass(frozen=True, slots=True)
class Waits:
    """What something waits for, what happens next, and what a person can do when one must."""

    sentence: str
    next: str
    choices: tuple[str, ...] = ()


def task_waits(facts: TaskFacts, options: Options, now: datetime) -> Waits:
    """What a task waits for."""
    nth = f"attempt {facts.attempts}"
    match facts.state:
        case Task.DONE:
            return Waits(f"nothing: it is done since {_at(facts.state_since)}, in {nth}", "nothing")
        case Task.FAILED:
            retry = f"lightkeeper transformation retry {facts.transformation_id}"
            return Waits(
                f"a person: it failed in {_attempts(facts.attempts)}; the last said: {_said(facts)}",
                "nothing, until a person decides",
                (f"lightkeeper job logs {facts.job_id}", f"{retry}: another attempt, when the reason is mended"),
            )
        case Task.RUNNING if facts.job is Job.COMPLETING:
            return Waits(f"its outputs: {nth} has uploaded them", "they are read back, and it is done")
        case Task.RUNNING:
            since = f" since {_at(facts.started)}" if facts.started else ""
            where = f" at {facts.site} on pilot {facts.pilot}" if facts.site else ""
            return Waits(f"its job: {nth} runs{where}{since}: {facts.minor_status}", "its outputs are read back")
        case Task.READY:
            return _ready(facts, options, now)
        case _:
            return Waits(f"nothing: it is {facts.state} since {_at(facts.state_since)}", "nothing")


def _ready(facts: TaskFacts, options: Options, now: datetime) -> Waits:
    then = "then it gets its next attempt"
    if facts.transformation_state not in (Transformation.ACTIVE, Transformation.FLUSH):
        return Waits(
            f"its transformation {facts.transformation_id}, which is {facts.transformation_state}",
            "it goes on when that is Active",
            (f"lightkeeper transformation start {facts.transformation_id}",),
        )
    if facts.gone:
        return Waits(f"{_inputs(facts.gone)} of which no copy can be read now", then, ("lightkeeper storage list",))
    if facts.staged:
        return Waits(f"{_inputs(facts.staged)} from tape", then)
    if facts.unread:
        return Waits(f"{_inputs(facts.unread)} whose copies are being read again, because a read failed", then)
    if facts.job is Job.WAITING:
        return _queued(facts)
    if facts.attempts and facts.not_before > now:
        most = most_attempts(options)
        count = f"attempt {facts.attempts}" + (f" of {most}" if not facts.rescheduled else "")
        return Waits(
            f"its next attempt at {_at(facts.not_before)}, because {count} failed: {_said(facts)}",
            "it is run again, at another site if that is free first",
        )
    return Waits("its next attempt, which is queued in a moment", "a pilot gets it")


def _queued(facts: TaskFacts) -> Waits:
    if not facts.may_run:
        return Waits(
            "a pilot, but no site where it may run has any with what it needs",
            "nothing, until a site has such computing",
            COMPUTING,
        )
    ahead = "it is the next" if not facts.before else f"{facts.before} jobs are before it"
    have = f"{facts.pilots} of {facts.may_run} pilots are there"
    return Waits(f"a pilot: {ahead}, and {have}", "a pilot that asks for work gets it")


def _said(facts: TaskFacts) -> str:
    return ": ".join(part for part in (facts.minor_status, facts.application_status) if part) or "nothing"


def _attempts(n: int) -> str:
    return "its only attempt" if n == 1 else f"all {n} attempts"


def _inputs(n: int) -> str:
    return "1 input" if n == 1 else f"{n} inputs"


def _at(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "?"
