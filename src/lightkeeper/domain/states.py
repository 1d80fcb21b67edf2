"""Every state, every allowed move, who makes it, and how long one may rest in a state.

This is the one table of states. `store.transitions.move` refuses what is not in it, and so does a trigger in the
database, which is loaded from here. A row begins in the first state of its kind.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypeAlias


class File(StrEnum):
    """Whether a file is what queries mean. SUPERSEDED: a newer version took its place. CORRUPTED: its content was
    wrong when it was made. REMOVED: its bytes were given up; what it was and how it was made is still known."""

    CURRENT = "Current"
    SUPERSEDED = "Superseded"
    CORRUPTED = "Corrupted"
    REMOVED = "Removed"


class Trigger(StrEnum):
    """A delivery announced by the array control. DISCARDED: it was refused, and somebody gave its file up."""

    ACCEPTED = "Accepted"
    REGISTERED = "Registered"
    QUARANTINED = "Quarantined"
    DISCARDED = "Discarded"


class Replica(StrEnum):
    """One copy as last observed, or as reported by somebody and to be read soon. BUFFERED: read back on a tape storage
    that has not put it on tape yet; it counts for nothing until then."""

    AVAILABLE = "Available"
    SUSPECT = "Suspect"
    LOST = "Lost"
    DELETING = "Deleting"
    BUFFERED = "Buffered"


class Transfer(StrEnum):
    """A copy under way."""

    WAITING = "Waiting"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


class Intent(StrEnum):
    """An approved deletion of one replica."""

    APPROVED = "Approved"
    DONE = "Done"
    VOID = "Void"


class Night(StrEnum):
    """An observing night. CLOSED: everything came and is where it belongs, or a person said so; it has a receipt."""

    OPEN = "Open"
    CLOSED = "Closed"


class Operation(StrEnum):
    """A change of where the copies of many files lie. DONE: for every file that nobody took out."""

    ACTIVE = "Active"
    DONE = "Done"
    CANCELLED = "Cancelled"


class Production(StrEnum):
    """A graph of transformations."""

    NEW = "New"
    ACTIVE = "Active"
    STOPPED = "Stopped"
    COMPLETED = "Completed"


class Transformation(StrEnum):
    """Work on every file that matches a query. FLUSH: smaller groups are allowed, because no more input will come.
    ARCHIVED: left out of lists. CLEANING: its outputs are being removed. DELETED: it is as if it had never been."""

    NEW = "New"
    ACTIVE = "Active"
    FLUSH = "Flush"
    STOPPED = "Stopped"
    COMPLETED = "Completed"
    ARCHIVED = "Archived"
    CLEANING = "Cleaning"
    CLEANED = "Cleaned"
    DELETED = "Deleted"


class Task(StrEnum):
    """Work with fixed inputs. READY waits for its next attempt. CANCELLED: its inputs went elsewhere."""

    READY = "Ready"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class Job(StrEnum):
    """One attempt of a task at one site. COMPLETING: its outputs are uploaded and reported, not yet accepted."""

    WAITING = "Waiting"
    RUNNING = "Running"
    COMPLETING = "Completing"
    DONE = "Done"
    FAILED = "Failed"
    KILLED = "Killed"


class Pilot(StrEnum):
    """A process at a site that asks for work."""

    SUBMITTED = "Submitted"
    RUNNING = "Running"
    ENDED = "Ended"
    LOST = "Lost"


class Health(StrEnum):
    """How a storage is found to be. DEGRADED: something fails there, so less is asked of it. BANNED: it does not
    answer; nothing is read, written or deleted there until probes succeed again."""

    GOOD = "Good"
    DEGRADED = "Degraded"
    BANNED = "Banned"


class Recall(StrEnum):
    """A copy on tape that somebody wants to read. ASKED: its storage was asked to stage it. RELEASING: nobody wants it
    any more."""

    WAITING = "Waiting"
    ASKED = "Asked"
    ONLINE = "Online"
    RELEASING = "Releasing"
    FAILED = "Failed"


State: TypeAlias = (
    File
    | Trigger
    | Replica
    | Transfer
    | Intent
    | Operation
    | Production
    | Transformation
    | Task
    | Job
    | Pilot
    | Health
    | Recall
    | Night
)
Kind: TypeAlias = type[State]

KINDS: Final[Mapping[str, Kind]] = {
    "file": File,
    "trigger": Trigger,
    "replica": Replica,
    "transfer": Transfer,
    "intent": Intent,
    "operation": Operation,
    "production": Production,
    "transformation": Transformation,
    "task": Task,
    "job": Job,
    "pilot": Pilot,
    "recall": Recall,
    "health": Health,
    "night": Night,
}
"""Kind by the name of its table; a file's state is that of its metadata set."""

MOVES: Final[Mapping[Kind, Mapping[tuple[State, State], str]]] = {
    File: {
        (File.CURRENT, File.SUPERSEDED): "operator: a newer version takes its place",
        (File.CURRENT, File.CORRUPTED): "operator: its content is wrong",
        (File.CURRENT, File.REMOVED): "operator",
        (File.SUPERSEDED, File.CURRENT): "operator: it was right after all",
        (File.SUPERSEDED, File.REMOVED): "operator",
        (File.CORRUPTED, File.CURRENT): "operator: it was right after all",
        (File.CORRUPTED, File.REMOVED): "operator",
        (
            File.REMOVED,
            File.CURRENT,
        ): "register: the same content is there again; operator: undone in time",
    },
    Trigger: {
        (Trigger.ACCEPTED, Trigger.REGISTERED): "ingest: verified and in the catalogue",
        (Trigger.ACCEPTED, Trigger.QUARANTINED): "ingest: refused, with the reason",
        (Trigger.QUARANTINED, Trigger.ACCEPTED): "operator: to be verified again, or released",
        (Trigger.QUARANTINED, Trigger.DISCARDED): "operator: its file is given up",
    },
    Replica: {
        (Replica.AVAILABLE, Replica.SUSPECT): "audit, transfer, run: a read failed or the bytes differ",
        (Replica.AVAILABLE, Replica.LOST): "audit, ingest: the file is not there any more",
        (Replica.AVAILABLE, Replica.DELETING): "delete: an intent is being carried out",
        (Replica.SUSPECT, Replica.AVAILABLE): "audit: read again and in order",
        (Replica.SUSPECT, Replica.LOST): "audit: read again and not in order",
        (Replica.SUSPECT, Replica.DELETING): "delete: an intent is being carried out",
        (Replica.LOST, Replica.DELETING): "delete: an intent is being carried out",
        (Replica.LOST, Replica.AVAILABLE): "ingest, transfer, audit: the bytes are there again and agree",
        (Replica.DELETING, Replica.AVAILABLE): "delete: the intent was void",
        (Replica.DELETING, Replica.LOST): "delete: the intent was void, and the file is not there any more",
        (Replica.BUFFERED, Replica.AVAILABLE): "stage: its storage says that it is on tape",
        (Replica.BUFFERED, Replica.LOST): "stage: its storage lost it before it was on tape",
        (Replica.BUFFERED, Replica.DELETING): "delete: an intent is being carried out",
        (Replica.LOST, Replica.BUFFERED): "transfer: copied again and read back, not on tape yet",
        (Replica.SUSPECT, Replica.BUFFERED): "transfer: copied again and read back, not on tape yet",
    },
    Transfer: {
        (Transfer.WAITING, Transfer.RUNNING): "transfer: claimed",
        (Transfer.RUNNING, Transfer.DONE): "transfer: read back and equal",
        (Transfer.RUNNING, Transfer.WAITING): "transfer, heal: failed or abandoned, to be tried again",
        (Transfer.RUNNING, Transfer.FAILED): "transfer: tried too often",
        (Transfer.WAITING, Transfer.FAILED): "transfer: no longer wanted",
        (Transfer.FAILED, Transfer.WAITING): "heal, operator: try again",
    },
    Intent: {
        (Intent.APPROVED, Intent.DONE): "delete: the replica is gone",
        (Intent.APPROVED, Intent.VOID): "delete: the evidence no longer holds; operator: undone",
    },
    Operation: {
        (Operation.ACTIVE, Operation.DONE): "operations: done for every file",
        (Operation.ACTIVE, Operation.CANCELLED): "operator",
    },
    Production: {
        (Production.NEW, Production.ACTIVE): "produce: started",
        (Production.ACTIVE, Production.STOPPED): "operator",
        (Production.STOPPED, Production.ACTIVE): "operator",
        (Production.ACTIVE, Production.COMPLETED): "heal: every transformation is Completed",
        (Production.COMPLETED, Production.ACTIVE): "operator: extended",
    },
    Transformation: {
        (Transformation.NEW, Transformation.ACTIVE): "produce: started",
        (
            Transformation.ACTIVE,
            Transformation.FLUSH,
        ): "heal: no more input will come, some wait below the group size",
        (Transformation.FLUSH, Transformation.ACTIVE): "transform: the smaller groups are made",
        (Transformation.ACTIVE, Transformation.STOPPED): "operator",
        (Transformation.FLUSH, Transformation.STOPPED): "operator",
        (Transformation.STOPPED, Transformation.ACTIVE): "operator",
        (
            Transformation.ACTIVE,
            Transformation.COMPLETED,
        ): "heal: no more input will come and every task is Done",
        (Transformation.NEW, Transformation.DELETED): "operator",
        (Transformation.STOPPED, Transformation.COMPLETED): "operator: it ends as it is",
        (Transformation.COMPLETED, Transformation.ACTIVE): "operator: it is given more to do",
        (Transformation.COMPLETED, Transformation.ARCHIVED): "operator",
        (Transformation.ARCHIVED, Transformation.COMPLETED): "operator",
        (Transformation.STOPPED, Transformation.CLEANING): "operator: its outputs are to be removed",
        (Transformation.COMPLETED, Transformation.CLEANING): "operator: its outputs are to be removed",
        (Transformation.ARCHIVED, Transformation.CLEANING): "operator: its outputs are to be removed",
        (Transformation.CLEANING, Transformation.CLEANED): "clean: every output is Removed",
        (Transformation.CLEANED, Transformation.DELETED): "operator",
    },
    Task: {
        (Task.READY, Task.RUNNING): "run: a pilot claimed its job",
        (Task.RUNNING, Task.DONE): "run: an attempt was accepted",
        (Task.RUNNING, Task.READY): "run, heal: the attempt failed, another is due",
        (Task.RUNNING, Task.FAILED): "run, heal: the last attempt failed",
        (Task.FAILED, Task.READY): "operator: try again",
        (Task.READY, Task.FAILED): "operator: its job was killed, and it waits for somebody to ask for it",
        (Task.READY, Task.CANCELLED): "operator: its inputs go elsewhere, or nobody wants it any more",
        (Task.FAILED, Task.CANCELLED): "operator: its inputs go elsewhere, or nobody wants it any more",
    },
    Job: {
        (Job.WAITING, Job.RUNNING): "run: claimed by a pilot",
        (Job.WAITING, Job.KILLED): "operator",
        (Job.RUNNING, Job.COMPLETING): "run: the pilot reported its outputs",
        (Job.RUNNING, Job.FAILED): "run: the pilot reported an error; heal: its pilot is lost",
        (Job.RUNNING, Job.KILLED): "operator",
        (Job.COMPLETING, Job.DONE): "run: outputs verified, promoted and registered",
        (Job.COMPLETING, Job.FAILED): "run: outputs are not what was reported",
    },
    Pilot: {
        (Pilot.SUBMITTED, Pilot.RUNNING): "run: it asked for work",
        (Pilot.SUBMITTED, Pilot.LOST): "heal: its executor does not know it any more",
        (Pilot.SUBMITTED, Pilot.ENDED): "run: stopped before it asked for work",
        (Pilot.RUNNING, Pilot.ENDED): "run: it said goodbye",
        (Pilot.RUNNING, Pilot.LOST): "heal: silent, or its executor does not know it any more",
    },
    Recall: {
        (Recall.WAITING, Recall.ASKED): "stage: part of a request",
        (Recall.WAITING, Recall.FAILED): "stage: more than the buffer can hold",
        (Recall.ASKED, Recall.ONLINE): "stage: its storage says that it is on disk",
        (Recall.ASKED, Recall.WAITING): "stage: it failed, or the request is not known any more; to be tried again",
        (Recall.ASKED, Recall.FAILED): "stage: tried too often, or its storage lost it",
        (Recall.ASKED, Recall.RELEASING): "stage: nobody wants it any more",
        (Recall.ONLINE, Recall.WAITING): "stage: it left the buffer, or its pin could not be renewed",
        (Recall.ONLINE, Recall.RELEASING): "stage: nobody reads it any more",
        (Recall.RELEASING, Recall.WAITING): "stage: wanted again meanwhile",
        (Recall.FAILED, Recall.WAITING): "operator: try again",
    },
    Night: {
        (Night.OPEN, Night.CLOSED): "nights: complete and quiet; operator",
        (Night.CLOSED, Night.OPEN): "nights: a file came late",
    },
    Health: {
        (Health.GOOD, Health.DEGRADED): "probe: a probe failed, or much of the work on it",
        (Health.DEGRADED, Health.GOOD): "probe: several in a row succeeded, and the work on it does",
        (Health.DEGRADED, Health.BANNED): "probe: several in a row failed",
        (Health.BANNED, Health.DEGRADED): "probe: it answers again",
    },
}
"""Every allowed move by kind, and who makes it. By kind, because equal names of different kinds are equal texts."""

REST: Final[Mapping[Kind, Mapping[State, timedelta]]] = {
    Trigger: {Trigger.ACCEPTED: timedelta(minutes=15)},
    Transfer: {Transfer.RUNNING: timedelta(hours=6)},
    Intent: {Intent.APPROVED: timedelta(days=1)},
    Replica: {
        Replica.DELETING: timedelta(hours=1),
        Replica.SUSPECT: timedelta(days=1),
        Replica.BUFFERED: timedelta(days=2),
    },
    Recall: {Recall.ASKED: timedelta(days=2), Recall.RELEASING: timedelta(hours=6)},
    Transformation: {Transformation.FLUSH: timedelta(minutes=10), Transformation.CLEANING: timedelta(days=2)},
    Job: {Job.COMPLETING: timedelta(minutes=10)},
    Pilot: {Pilot.SUBMITTED: timedelta(hours=24)},
}
"""How long a row may stay in a passing state before a person is told."""


def allowed(source: State, target: State) -> bool:
    """Whether the table has the move."""
    return type(source) is type(target) and (source, target) in MOVES[type(source)]


def is_final(state: State) -> bool:
    """Whether nothing leaves this state."""
    return all(source != state for source, _ in MOVES[type(state)])
