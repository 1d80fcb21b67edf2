"""Step 9: what a transformation, a task or a file waits for, and what will happen next, in one sentence.

Before: everything.    After: somebody understands. Called by the API; it only reads.
"""

import re
from dataclasses import dataclass, field, replace

from lightkeeper.context import Context
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.domain.healing import Keeper, Remedy, decide
from lightkeeper.domain.names import printable
from lightkeeper.domain.sharing import Lane, suits
from lightkeeper.domain.states import Transformation
from lightkeeper.domain.task_waiting import COMPUTING, task_waits
from lightkeeper.steps import report
from lightkeeper.steps.report import Story
from lightkeeper.store import db, healing, jobs, reports
from lightkeeper.store import why as facts
from lightkeeper.store.db import Connection
from lightkeeper.store.jobs import Computing


@dataclass(frozen=True, slots=True)
class Answer:
    """What something waits for (`waits_for`, empty: nothing), what happens `next`, and what a person can do when one
    must. `because`: the same of what it waits for, deeper. `story`: of a file."""

    kind: str
    id: int
    name: str
    waits_for: str
    next: str
    person: bool = False
    choices: tuple[str, ...] = ()
    because: "tuple[Answer, ...]" = ()
    story: Story | None = field(default=None)


def why(ctx: Context, subject: str) -> Answer:
    """The answer about a file by its name (`/…`), a transformation by number or name, `task N`, or `job N`; raises
    NotFound, Invalid."""
    words = subject.split()
    if len(words) == 1 and words[0].startswith("/"):
        return _file(ctx, words[0])
    match = re.fullmatch(r"(?:(transformation|task|job)[ :#]?)?(\d{1,18})", " ".join(words))
    with ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
        if match is None:
            if len(words) != 1:
                raise Invalid(
                    f"'{printable(subject)}' names nothing",
                    hint="a file (/…), a transformation (its number or name), 'task 12', or 'job 12'",
                )
            number = facts.transformation_of_name(conn, words[0])
            if number is None:
                raise NotFound(
                    f"there is no transformation '{printable(words[0])}'", hint="lightkeeper transformation list"
                )
            return _transformation(conn, keeper, number)
        kind, number = match[1] or "transformation", int(match[2])
        if kind == "transformation":
            return _transformation(conn, keeper, number)
        if kind == "job":
            task_id = facts.task_of_job(conn, number)
            if task_id is None:
                raise NotFound(f"there is no job {number}", hint="lightkeeper job list")
            number = task_id
        return _task(conn, keeper, number)


def _transformation(conn: Connection, keeper: Keeper, number: int) -> Answer:
    if number >= 2**31 or not (known := reports.transformations(conn, only=number)):
        raise NotFound(f"there is no transformation {number}", hint="lightkeeper transformation list")
    one = known[0]
    if one.status is Transformation.COMPLETED:
        return Answer("transformation", number, one.name, "", "nothing: it is Completed")
    if one.status is not Transformation.ACTIVE:
        waits, then = _RESTING.get(one.status, (f"nothing: it is {one.status}", "nothing"))
        return Answer("transformation", number, one.name, waits, then, one.status is Transformation.STOPPED)
    looked = healing.facts(conn, only=number)
    if not looked:
        return _transformation(conn, keeper, number)  # it has moved on between our two looks
    (found,) = looked
    decision = decide(found, keeper.of(found.type))
    because: tuple[Answer, ...] = ()
    sentence = decision.why
    if _has_no_pilot(conn, number):
        return Answer(
            "transformation",
            number,
            one.name,
            f"{_open_tasks(conn, number)}, and no site where they may run has any with what they need",
            "nothing, until a site has such computing",
            person=True,
            choices=COMPUTING,
        )
    if decision.what is Remedy.WAIT:
        above = [parent for parent in found.parents if parent.state is not Transformation.COMPLETED]
        because = tuple(_transformation(conn, keeper, parent.transformation_id) for parent in above)
        if told := _open_tasks(conn, number):
            sentence = f"{sentence}: {told}" if found.tasks - found.done - found.failed else sentence
    return Answer(
        "transformation",
        number,
        one.name,
        sentence,
        decision.next,
        decision.what in (Remedy.DECIDE, Remedy.LEAVE),
        decision.choices,
        because,
    )


def _has_no_pilot(conn: Connection, number: int) -> bool:
    """Whether jobs of a transformation wait that suit the pilots of no site, and none runs."""
    lane = _lane(conn, number)
    return lane is not None and not lane.running and bool(lane.waiting) and not _where(conn, lane)


def _lane(conn: Connection, number: int) -> Lane | None:
    return next((lane for lane in jobs.lanes(conn) if lane.transformation_id == number), None)


def _where(conn: Connection, lane: Lane) -> list[Computing]:
    """The sites whose pilots suit jobs of a lane."""
    return [site for site in jobs.computing(conn) if suits(lane, site.offer)]


_RESTING = {
    Transformation.NEW: ("a person: it has not been started", "tasks are made when it is started"),
    Transformation.FLUSH: ("its last, smaller tasks, which are being made", "it is Active again in a moment"),
    Transformation.STOPPED: ("a person: it was stopped", "it goes on when it is started again"),
}


def _open_tasks(conn: Connection, number: int) -> str:
    """'3 run, 5 wait for a pilot': how the open tasks stand."""
    words = {
        ("Running", "Running"): "{} on pilots",
        ("Running", "Completing"): "{} handing their outputs over",
        ("Ready", "Waiting"): "{} waiting for a pilot",
        ("Ready", "Failed"): "{} to be tried again",
    }
    told = [
        words.get((one.state, one.job), "{} to be queued").format(one.tasks) for one in facts.open_tasks(conn, number)
    ]
    return ", ".join(told)


def _task(conn: Connection, keeper: Keeper, number: int) -> Answer:
    found = facts.task_facts(conn, number)
    if found is None:
        raise NotFound(f"there is no task {number}", hint="lightkeeper job list")
    one = reports.transformations(conn, only=found.transformation_id)[0]
    if lane := _lane(conn, found.transformation_id):
        sites = _where(conn, lane)
        found = replace(found, pilots=sum(site.live for site in sites), may_run=sum(site.pilots for site in sites))
    waits = task_waits(found, keeper.of(one.type), db.now(conn))
    name = f"of transformation {one.id} ({one.name})"
    return Answer("task", number, name, waits.sentence, waits.next, bool(waits.choices), waits.choices)


def _file(ctx: Context, lfn: str) -> Answer:
    story = report.why_file(ctx, lfn)
    with ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
        because = tuple(
            _transformation(conn, keeper, place.transformation)
            if place.task is None
            else _task(conn, keeper, place.task)
            for place in facts.at_work(conn, story.file.file_id)
        )
    waits = [*story.waits]
    for one in because:
        if one.waits_for and not one.waits_for.startswith("nothing"):
            verb = "a task of transformation" if one.kind == "transformation" else "task"
            waits.append(f"{verb} {one.id}, which waits for {one.waits_for}")
    return Answer(
        "file",
        story.file.file_id,
        story.file.lfn,
        "; ".join(waits),
        because[-1].next if because and waits else "nothing" if not waits else "its copies are looked at again",
        because=because,
        story=story,
    )
