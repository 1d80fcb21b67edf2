"""What work needs to end on its own: facts in, decisions out.

Two decisions: what to do next about a transformation (`decide`), and about a task whose attempt failed
(`after_failure`). What the keeper may do is said per type of transformation (`Options`). Counters are facts like all
others: they are rows, so a restart forgets none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from lightkeeper.domain.states import Transformation
from lightkeeper.domain.work import retry_delay


# --- options -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Options:
    """What the keeper may do with transformations of one type, and whom it tells.

    `look`: they are looked at at all. `max_flush`: per transformation. `max_reassign`: how often a task, and so each of
    its files, gets another attempt after the work itself failed. `max_reschedule`: the same after what is around it
    failed: an input that could not be read, an output that could not be stored.
    """

    look: bool = True
    complete: bool = True
    flush: bool = True
    reassign: bool = True
    report: bool = True
    max_flush: int = 2
    max_reassign: int = 3
    max_reschedule: int = 50
    tell: tuple[str, ...] = ()


DEFAULT = Options()


@dataclass(frozen=True, slots=True)
class Keeper:
    """Everything that the topology document says about the keeper.

    `look`, `complete`, `flush`, `reassign`, `report`: the types of transformations with which it does that; None: with
    all. `own`: what differs for one type. `period`: at most one message of a kind to an address in it. `send`: messages
    are sent; else they are kept until they are.
    """

    every: timedelta = timedelta(minutes=10)
    threads: int = 10
    sender: str = "lightkeeper@localhost"
    subject: str = "[Lightkeeper]"
    html: bool = True
    send: bool = True
    period: timedelta = timedelta(hours=1)
    states: tuple[Transformation, ...] = (Transformation.ACTIVE,)
    look: frozenset[str] | None = None
    complete: frozenset[str] | None = None
    flush: frozenset[str] | None = None
    reassign: frozenset[str] | None = None
    report: frozenset[str] | None = None
    default: Options = DEFAULT
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def of(self, type_: str) -> Options:
        """What holds for transformations of a type."""

        def has(types: frozenset[str] | None) -> bool:
            return types is None or type_ in types

        of_lists = replace(
            self.default,
            look=has(self.look),
            complete=has(self.complete),
            flush=has(self.flush),
            reassign=has(self.reassign),
            report=has(self.report),
        )
        return replace(of_lists, **self.own.get(type_, {}))


PLAIN = ("threads", "sender", "subject", "html", "send")
"""Options that are kept as they are written."""


def keeper_of(given: Mapping[str, Any]) -> Keeper:
    """What a topology document says, as it was checked: lists are lists, times are seconds."""
    made: dict[str, Any] = {name: given[name] for name in PLAIN if name in given}
    made |= {name: timedelta(seconds=given[name]) for name in ("every", "period") if name in given}
    lists = {"types": "look"} | {name: name for name in ("complete", "flush", "reassign", "report")}
    made |= {name: frozenset[str](given[key]) for key, name in lists.items() if given.get(key) is not None}
    limits = {name: given[name] for name in ("max_flush", "max_reassign", "max_reschedule") if name in given}
    return Keeper(
        **made,
        states=tuple(Transformation(state) for state in given.get("states", ("Active",))),
        default=Options(**limits, tell=tuple(given.get("tell", ()))),
        own={
            type_: {name: tuple(value) if name == "tell" else value for name, value in own.items()}
            for type_, own in given.get("by_type", {}).items()
        },
    )


# --- transformations -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ParentFacts:
    """A transformation whose outputs are the input of another."""

    transformation_id: int
    state: Transformation


@dataclass(frozen=True, slots=True)
class TransformationFacts:
    """A transformation: its files that wait for a task (`ready`: a data centre has a verified copy; `lost`: no copy is
    left anywhere), files that somebody set Problematic, and its tasks by state. Cancelled tasks are not among `tasks`.
    `wanted`: tasks without input that it shall have. `lacks`: what all its jobs need, and the step that had to make it,
    now complete, did not make exactly once."""

    transformation_id: int
    name: str
    type: str = ""
    state: Transformation = Transformation.ACTIVE
    open: bool = False
    parents: tuple[ParentFacts, ...] = ()
    group_size: int = 1
    flushes: int = 0
    waiting: int = 0
    ready: int = 0
    lost: int = 0
    problematic: int = 0
    tasks: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    wanted: int = 0
    lacks: str | None = None


class Remedy(StrEnum):
    """WAIT: it goes on by itself. DECIDE: a person must say what to do. LEAVE: the topology leaves it to a person."""

    WAIT = "wait"
    FLUSH = "flush"
    COMPLETE = "complete"
    DECIDE = "decide"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next about a transformation, why, and what happens next, each in one sentence. `choices`: what a
    person can say, when one must."""

    what: Remedy
    why: str
    next: str
    choices: tuple[str, ...] = ()


def decide(facts: TransformationFacts, options: Options = DEFAULT) -> Decision:
    """What to do next about an Active transformation.

    It is Completed when no more input will come and every task is done; flushed when no more input will come, every
    file that waits has a copy, and they are too few for a group. What a person must decide holds up nothing else.
    """
    if not options.look:
        return Decision(Remedy.LEAVE, "the keeper does not look after its type", "nothing, until a person does it")
    open_tasks = facts.tasks - facts.done - facts.failed
    if facts.open:
        return Decision(
            Remedy.WAIT, "it takes files that arrive later, until it is closed", "tasks are made as groups get whole"
        )
    if above := [parent for parent in facts.parents if parent.state is not Transformation.COMPLETED]:
        which = ", ".join(str(parent.transformation_id) for parent in above)
        whose = "its parent is" if len(above) == 1 else "its parents are"
        return Decision(Remedy.WAIT, f"{whose} not complete yet ({which})", "it goes on with what they make")
    if facts.waiting > facts.ready + facts.lost:
        waiting = facts.waiting - facts.ready - facts.lost
        return Decision(
            Remedy.WAIT, f"{_wait(waiting)} for a verified copy at a data centre", "then the last tasks are made"
        )
    if facts.wanted > facts.tasks and not facts.waiting:
        return Decision(
            Remedy.WAIT, f"{facts.wanted - facts.tasks} of {facts.wanted} tasks are still to be made", "they are made"
        )
    if facts.ready:
        return _flush(facts, options)
    if facts.lacks:
        return Decision(
            Remedy.DECIDE,
            f"exactly one file was to be made that is its '{facts.lacks}'",
            "nothing, until a person decides",
            (f"lightkeeper transformation complete {facts.transformation_id}: end it without it",),
        )
    if open_tasks:
        return Decision(
            Remedy.WAIT, f"{open_tasks} of {facts.tasks} tasks are not done yet", "it is completed when all are done"
        )
    if facts.failed or facts.lost or facts.problematic:
        return _ask(facts)
    return _complete(facts, options)


def _flush(facts: TransformationFacts, options: Options) -> Decision:
    whose = "its parent is complete" if facts.parents else "its input is complete"
    why = f"{whose} and {_wait(facts.ready)} below the group size of {facts.group_size}"
    if not options.flush:
        return Decision(
            Remedy.LEAVE, why, "a person flushes it: the topology leaves that to people", (_flush_it(facts),)
        )
    if facts.flushes >= options.max_flush:
        return Decision(
            Remedy.DECIDE,
            f"it was flushed {_times(facts.flushes)}, which is all it may, and {_wait(facts.ready)} again",
            "nothing, until a person decides",
            (_flush_it(facts),),
        )
    return Decision(Remedy.FLUSH, why, "smaller tasks are made of them at once")


def _flush_it(facts: TransformationFacts) -> str:
    return f"lightkeeper transformation flush {facts.transformation_id}: make smaller tasks of them"


def _ask(facts: TransformationFacts) -> Decision:
    """The work that can be done is done; the rest a person must decide."""
    told: list[str] = []
    choices: list[str] = []
    one = facts.transformation_id
    if facts.failed:
        told.append(f"{facts.failed} of {facts.tasks} tasks failed in every attempt")
        choices.append(f"lightkeeper transformation retry {one}: another attempt, when the reason is mended")
    if facts.lost:
        have = "1 of its input files has" if facts.lost == 1 else f"{facts.lost} of its input files have"
        told.append(f"{have} no copy left anywhere")
        gone = f"lightkeeper transformation files {one} --status Unused --set Removed"
        choices.append(f"{gone}: end it without the lost ones, unless a copy is brought back")
    if facts.problematic:
        files = "1 file is" if facts.problematic == 1 else f"{facts.problematic} files are"
        told.append(f"{files} Problematic, as somebody said")
    if facts.failed or facts.problematic:
        left_out = f"lightkeeper transformation files {one} --status Problematic --set Removed"
        choices.append(f"{left_out}: end it without them")
    return Decision(Remedy.DECIDE, " and ".join(told), "nothing, until a person decides", tuple(choices))


def _complete(facts: TransformationFacts, options: Options) -> Decision:
    if facts.tasks:
        why = f"no more input will come and all {facts.tasks} tasks are done"
    elif facts.parents:
        why = "no more input will come: its parent made nothing that it takes, so it has no task"
    else:
        why = "no more input will come and it has no task"
    if not options.complete:
        return Decision(
            Remedy.LEAVE,
            why,
            "a person completes it: the topology leaves that to people",
            (f"lightkeeper transformation set-status Completed {facts.transformation_id}",),
        )
    return Decision(Remedy.COMPLETE, why, "it is Completed at once")


def _wait(n: int) -> str:
    return "1 file waits" if n == 1 else f"{n} files wait"


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


# --- tasks whose attempt failed -----------------------------------------------------------------------------------
AROUND = frozenset({"Input data resolution", "Storing output data"})
"""Minor statuses of attempts that failed although nothing is wrong with the work: what is around it did not answer."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A task whose attempt has just failed: how often it was given another one before, after the work failed
    (`reassigned`) and after what is around it failed (`rescheduled`)."""

    task_id: int
    attempt: int
    minor_status: str
    reassigned: int
    rescheduled: int


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """Whether the task gets another attempt, after how long, and which counter that increases; `why` in one
    sentence."""

    again: bool
    delay: timedelta
    reassigned: int
    rescheduled: int
    why: str


def after_failure(failed: FailedAttempt, options: Options, base: timedelta) -> NextAttempt:
    """Another attempt after a delay that doubles, or an end; never one more than the options allow."""
    around = failed.minor_status in AROUND
    n, most = (failed.rescheduled, options.max_reschedule) if around else (failed.reassigned, options.max_reassign)
    word = "rescheduled" if around else "reassigned"
    if not around and not options.reassign:
        return NextAttempt(
            False, timedelta(0), failed.reassigned, failed.rescheduled, "the topology reassigns no task of its type"
        )
    if n >= most:
        reached = "Maximum of reschedulings reached" if around else "Maximum of reassignments reached"
        return NextAttempt(
            False,
            timedelta(0),
            failed.reassigned,
            failed.rescheduled,
            f"{reached}: {word} {_times(n) if n else 'never'}",
        )
    return NextAttempt(
        True,
        retry_delay(n + 1, base),
        failed.reassigned + (not around),
        failed.rescheduled + around,
        f"{word} {n + 1} of {most}",
    )


def most_attempts(options: Options) -> int:
    """How many attempts a task can have at the most, when the work itself fails each time."""
    return 1 + (options.max_reassign if options.reassign else 0)
