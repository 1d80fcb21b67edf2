"""What the core asks of the outside. Each port has at least two implementations, or a conformance suite.

Plug-ins register by entry points (`lightkeeper.storage`, `lightkeeper.mover`, `lightkeeper.executor`,
`lightkeeper.notifier`, `lightkeeper.observatory`) and know `domain` and this module, nothing else of Lightkeeper.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from lightkeeper.domain.catalog import MetaKey, MetaValue
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.names import Fixity, Lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.quality import Figure
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobOrder, JobRecipe, ProductionPlan


# --- storage -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Entry:
    """One regular file found on a storage: path below its root with leading '/', bytes, seconds since 1970."""

    path: str
    size: int
    modified: float


class Storage(Protocol):
    """One storage element. Paths are absolute below its root and have passed `parse_lfn` or are our own.

    Errors: `NotFound` when the path does not exist, `Unavailable` when the storage does not answer or is full
    (try again), `Refused` when it forbids the operation, `Corrupt` when a read fails on the medium.
    """

    def open(self, path: str) -> BinaryIO:
        """The file for reading, positioned at its start, not served from a write-back cache."""
        ...

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write a new file and return its bytes. Durable and complete under `path` when it returns, absent if it
        raises or the machine dies; parents are made. An existing file is replaced atomically."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Move within the storage, atomic and durable; an existing target is replaced. Parents are made."""
        ...

    def delete(self, path: str) -> bool:
        """Remove a file, durably. False when it was not there."""
        ...

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None when there is no regular file."""
        ...

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        """Every regular file below directory `prefix`, in no order, streamed; our own temporary files are left out
        unless `prefix` names them."""
        ...

    def probe(self) -> None:
        """Write, read back and remove a small file; raises what is wrong, naming the storage."""
        ...


class LocalStorage(Storage, Protocol):
    """A storage whose files are also files of this machine: ingest watches such a one."""

    def local_path(self, path: str) -> Path:
        """Where the file lies here; "/" is the root."""
        ...

    def open_all(self, paths: Sequence[str]) -> Iterator[BinaryIO | LightkeeperError]:
        """Open each as `open` does when the next one is asked for, or tell what `open` would raise."""
        ...

    def sync(self) -> None:
        """All that was written to it before, by whomever, lies on the medium when this returns, names included."""
        ...


class Arrival(Protocol):
    """A file on its way into a storage: written in order, and read back while the rest still comes.

    One thread writes, another may sync and read what was written. Nobody else can write to it as long as it is open.
    """

    @property
    def done(self) -> int:
        """Its bytes so far; at first those that an earlier attempt left, a multiple of ALIGNED."""
        ...

    def write(self, data: memoryview) -> None:
        """Append; all but the last piece have a multiple of ALIGNED bytes."""
        ...

    def sync(self) -> None:
        """What was written before lies on the medium when this returns."""
        ...

    def read(self, position: int, into: memoryview) -> int:
        """Some bytes of what was synced, from the medium; 0 at the end. `position` is a multiple of ALIGNED."""
        ...

    def close(self) -> None:
        """Let go of it; what was synced lies under its path."""
        ...


ALIGNED = 4096
"""Bytes: what is written and read in multiples of this need not pass through a cache."""


@runtime_checkable
class ArrivingStorage(Storage, Protocol):
    """A storage whose files can be read back while they arrive, and continued when an attempt broke off."""

    def arrive(self, path: str, earlier: Sequence[str] = ()) -> Arrival:
        """A file to be written under the temporary name `path`, which is ours alone; parents are made. The first of
        `earlier` that is there, and that nobody writes to any more, is taken over: it has the new name from now on."""
        ...


@runtime_checkable
class RenamingStorage(Storage, Protocol):
    """A storage that renames many files in less time than one after the other."""

    def rename_all(self, names: Sequence[tuple[str, str]]) -> list[LightkeeperError | None]:
        """Rename each (source, target) as `rename` does, durable when this returns; what went wrong, in their order."""
        ...


# --- tape --------------------------------------------------------------------------------------------------
class Locality(StrEnum):
    """Where a file of a tape storage lies, in the words of the WLCG Tape REST API. NONE: nowhere, it does not exist.
    UNAVAILABLE: that cannot be told now, or its cartridge is out of reach."""

    DISK = "DISK"
    TAPE = "TAPE"
    DISK_AND_TAPE = "DISK_AND_TAPE"
    LOST = "LOST"
    NONE = "NONE"
    UNAVAILABLE = "UNAVAILABLE"

    @property
    def on_tape(self) -> bool:
        """Whether it is archived."""
        return self in (Locality.TAPE, Locality.DISK_AND_TAPE)

    @property
    def online(self) -> bool:
        """Whether it can be read now."""
        return self in (Locality.DISK, Locality.DISK_AND_TAPE)


class Staging(StrEnum):
    """How far the staging of one file is."""

    WAITING = "waiting"
    ONLINE = "online"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Staged:
    """One file of a request: how far it is, and what the storage says is wrong with it."""

    state: Staging
    error: str = ""


class TapeStorage(Storage, Protocol):
    """A storage whose files are brought from tape to its disk buffer before they can be read.

    `open` raises Offline for a file that lies on tape only, and never makes the storage fetch it; `stat`, `list`,
    `rename` and `delete` do not either. What was written lies in the buffer until the storage puts it on tape.
    """

    def stage(self, paths: Sequence[str], lifetime: timedelta) -> str:
        """Ask for these files, each to be kept in the buffer for `lifetime` once it is there; the request's id, of at
        most 200 characters. Asking again for what is there or under way costs no second mount."""
        ...

    def staged(self, request: str) -> Mapping[str, Staged]:
        """How far each file of a request is. Raises NotFound when the storage does not know the request any more."""
        ...

    def cancel(self, request: str, paths: Sequence[str]) -> None:
        """Bring these files no more. Nothing happens when the request is not known any more."""
        ...

    def release(self, request: str, paths: Sequence[str]) -> None:
        """These files need not be kept for this request any more. Nothing happens when it is not known any more."""
        ...

    def localities(self, paths: Sequence[str]) -> Mapping[str, Locality]:
        """Where each of these files lies."""
        ...


def needs_staging(driver: object) -> bool:
    """Whether a storage plug-in, its class or what makes it, is of this kind."""
    return callable(getattr(driver, "localities", None))


# --- mover -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Copy:
    """A copy to be made. `target_path` is a temporary name of this attempt alone.

    `size` is what the catalogue says. `earlier` are the temporary names of attempts before this one, latest first.
    `key` names the attempt, once and for ever, to those that are asked to copy. `progress` is told the bytes written so
    far, now and then, also while they are read back: it may take its time, which slows the copy down, or raise, which
    ends it. `paced`: it keeps
    to a rate, and must be told after every piece of some MB at most; only a copy whose bytes pass through here can do
    that.
    """

    source: Storage
    source_path: str
    target: Storage
    target_path: str
    size: int
    earlier: tuple[str, ...] = ()
    key: str = ""
    progress: Callable[[int], None] = lambda _: None
    paced: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """How a copy ended: the fixity of what was read back at the target, or what went wrong."""

    copy: Copy
    fixity: Fixity | None = None
    error: LightkeeperError | OSError | None = None


class Mover(Protocol):
    """Moves the bytes of files between storages."""

    def carry(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Make these copies, read each back at its target, and tell how it ended, in the order in which they end.

        What one copy raises is told of it and stops no other. What is left of a failed copy is removed, or kept under
        `target_path` where a later attempt can go on with it.
        """
        ...


# --- executor ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PilotOrder:
    """A pilot to be started: its name, the site it serves, where its API is and the one-time secret it shows there."""

    name: str
    site: str
    api_url: str
    secret: str
    work_dir: Path


class Executor(Protocol):
    """Starts, lists and stops pilots; nothing else. The batch system behind it schedules the processors."""

    def start(self, order: PilotOrder) -> str:
        """Start one pilot and return the executor's own handle for it."""
        ...

    def running(self, handles: Sequence[str]) -> set[str]:
        """Those of `handles` that still run or wait to run."""
        ...

    def stop(self, handles: Sequence[str]) -> None:
        """End them; unknown handles are ignored."""
        ...


# --- notifier ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Notice:
    """A message to one address, for people (`text`, and `html` unless it is empty) and for programs (`facts`, JSON).

    `key` is the same each time that the same message is sent: who gets it twice, because the answer to the first was
    lost, can tell that it is one.
    """

    key: str
    sender: str
    address: str
    subject: str
    text: str
    html: str
    facts: Mapping[str, Any]


class Notifier(Protocol):
    """Takes messages to people. It is made with the settings of the instance."""

    def takes(self, address: str) -> bool:
        """Whether this is an address of its kind."""
        ...

    def send(self, notice: Notice) -> None:
        """Hand a message over; when it returns, somebody else has taken charge of it.

        It returns or raises within a minute. Raises Unavailable when it may work later, Refused when it never will.
        Nothing secret is in what it raises.
        """
        ...


# --- observatory -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Product:
    """What reading one delivered file told: its name in the catalogue, fixity, metadata, and all that is wrong.

    A product with `problems` is never registered. `lfn` is None when the name itself is the problem.
    """

    lfn: Lfn | None
    fixity: Fixity | None
    meta: Mapping[str, MetaValue] = field(default_factory=dict[str, MetaValue])
    problems: tuple[str, ...] = ()


class ProductReader(Protocol):
    """Reads files of one kind as they arrive."""

    def recognises(self, path: str) -> bool:
        """Whether a file of this path below the interface directory is of this reader's kind."""
        ...

    def read(self, file: BinaryIO, path: str) -> Product:
        """Verify `file` and read its metadata in one pass over its bytes. `path` begins with '/' and is relative to
        the interface directory; hostile content ends in `problems`, never in an exception."""
        ...


class ProductionReader(Protocol):
    """Turns a production document into a plan."""

    def read(
        self, text: str, *, sandbox: Callable[[str], bytes], dataset: Callable[[str], Mapping[str, Any]]
    ) -> ProductionPlan:
        """The plan of the document; raises Invalid naming line, key and the nearest known key. `sandbox` fetches a
        file that lies beside the document by its plain name; `dataset` the conditions of a dataset as a DIRAC-style
        map, empty when they are more than that. Both raise NotFound."""
        ...


class CampaignWriter(Protocol):
    """Writes the production documents of a campaign."""

    def documents(self, template: str, kind: str) -> Mapping[str, str]:
        """The documents that a template asks for, by the names of their files; raises Invalid, also for an unknown
        `kind` of campaign."""
        ...

    def change(self, document: str, changes: Mapping[str, str]) -> str:
        """The document with other values for some of its settings, everything else as it was; raises Invalid for a
        setting that cannot be changed so."""
        ...


class WorkflowReader(ProductionReader, Protocol):
    """Reads production documents of a language that is not the observatory's own."""

    def recognises(self, text: str) -> bool:
        """Whether a document is written in it; told by its content alone."""
        ...

    def read(
        self,
        text: str,
        *,
        sandbox: Callable[[str], bytes],
        dataset: Callable[[str], Mapping[str, Any]],
        single_jobs: bool = False,
    ) -> ProductionPlan:
        """As above; with `single_jobs` every step takes all its files at once."""
        ...


class JobType(Protocol):
    """How tasks of one type are run: a CWL tool, and what goes into it."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """The CWL tool, its inputs and the expected outputs for one job. Pure."""
        ...

    def activities(self, log: str) -> Sequence[RanActivity]:
        """The runs that one provenance log of its tool tells of; raises Invalid when it cannot be read."""
        ...


class CollectingJobType(JobType, Protocol):
    """A job type whose tool gives names to its outputs itself."""

    def collect(self, order: JobOrder, found: Sequence[FoundOutput], logs: Sequence[str]) -> Sequence[ExpectedOutput]:
        """What the files are that the run left as `collected` outputs, given what it left as provenance logs. Pure;
        raises Invalid when something is missing or has a name that tells nothing."""
        ...


class Observatory(Protocol):
    """The rules of one observatory, as one plug-in package."""

    @property
    def name(self) -> str:
        """Short name, the entry point's name."""
        ...

    def metadata_keys(self) -> Sequence[MetaKey]:
        """The keys its files carry."""
        ...

    def night_of(self, path: str) -> str:
        """The observing night that a delivery belongs to, as far as its path tells; empty when it does not. That is all
        there is of deliveries that cannot be read."""
        ...

    def quality_figures(self) -> Sequence[Figure]:
        """Figures of its products that are watched from night to night, and their ranges."""
        ...

    def product_readers(self) -> Sequence[ProductReader]:
        """Readers in the order they are asked."""
        ...

    def campaigns(self) -> CampaignWriter:
        """Writer of production documents."""
        ...

    def production_reader(self) -> ProductionReader:
        """Reader of its production documents."""
        ...

    def job_types(self) -> Mapping[str, JobType]:
        """Job types by name, as productions name them."""
        ...


# --- demonstration -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class DemoInput:
    """What was handed in to an interface directory, told in words, and the production to run on it."""

    files: int
    production: str
    sandbox: Mapping[str, str]
    told: tuple[str, ...]


class Demonstration(Protocol):
    """What one observatory shows of itself in `lightkeeper demo`."""

    def topology(self, home: Path) -> tuple[str, Sequence[Path]]:
        """The topology document for a demo in `home`, and the storage roots to be made."""
        ...

    def hand_in(self, home: Path, night: Path | None, events: Path | None, scale: int) -> DemoInput:
        """Put a night, and events to process, into the interface directory with their triggers. Without `night` one
        is simulated, some files of it damaged; without `events` the night's own are processed. `scale`: how many
        runs or observations. Doing it twice hands nothing in twice."""
        ...
