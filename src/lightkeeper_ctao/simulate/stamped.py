"""A night of any number of files of any size, as fast as they can be written or when a night would write them."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.layout import NORTH, ArrayElement
from lightkeeper_ctao.simulate.faults import FAULTS, FIRST_BAD, NO_DATA, OTHER_ID, UNKNOWN_ELEMENT
from lightkeeper_ctao.simulate.places import DELIVERY, TRIGGER
from lightkeeper_ctao.simulate.stamp import Stamp, Template, stamped

OBSERVATIONS = 20
HOURS = 10.0
MOST_OBSERVATIONS = 400


@dataclass(frozen=True, slots=True)
class Refusable:
    """A damaged delivery: its path below the interface directory, and part of what a reader must say about it."""

    path: str
    fault: str
    problem: str


@dataclass(frozen=True, slots=True)
class Stamped:
    """What was handed in."""

    files: int
    bad: tuple[Refusable, ...]
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Stream:
    """Files of one telescope, or of one kind of trigger."""

    site: str
    folder: str
    owner: str
    source: str
    kind: str
    product_type: str
    template: Template


@dataclass(frozen=True, slots=True)
class NightPlan:
    """A night to be written below `root`: `files` good deliveries and `bad` ones among them, each of `size` bytes or
    as small as can be, over `hours`. `pace` is how many times faster than a night it goes; None: as fast as possible.
    """

    root: Path
    night: date
    telescopes: tuple[ArrayElement, ...]
    files: int
    size: int = 0
    bad: int = 0
    observations: int = OBSERVATIONS
    hours: float = HOURS
    pace: float | None = None
    triggers: bool = True
    """Announce each file; without, they only lie there."""

    def __post_init__(self) -> None:
        if not self.telescopes:
            raise Invalid("a night needs telescopes", hint="--telescopes LSTN-01,LSTN-02, or --site north")
        if self.files < 0 or self.bad < 0 or self.size < 0:
            raise Invalid("numbers of files and bytes are not negative")
        if not 1 <= self.observations <= MOST_OBSERVATIONS or not 0 < self.hours <= 12:
            raise Invalid(f"a night has 1 to {MOST_OBSERVATIONS} observations in at most 12 hours")
        if self.pace is not None and self.pace <= 0:
            raise Invalid("the pace must be more than 0", hint="1 is as a night goes, 3600 an hour in a second")


def stamp_night(plan: NightPlan, *, processes: int = 1, progress: Callable[[int], None] = lambda _: None) -> Stamped:
    """Write the night, each file before its trigger; `progress` is told how many deliveries there are so far."""
    begun = time.monotonic()
    work = _Work(plan, tuple(_streams(plan.telescopes)), time.time())
    results = [work.run(0, 1, _Told(progress))] if processes == 1 else _in_processes(work, processes, progress)
    bad = tuple(one for _, found in results for one in found)
    return Stamped(plan.files, bad, sum(size for size, _ in results), time.monotonic() - begun)


class _Told:
    """Counts in this process and tells at once."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self._n = 0

    def add(self, n: int) -> None:
        self._n += n
        self._progress(self._n)


class _Shared:
    """Counts for another process, which looks now and then."""

    def __init__(self, number: Any) -> None:
        self._number = number

    def add(self, n: int) -> None:
        with self._number.get_lock():
            self._number.value += n


def _in_processes(work: "_Work", processes: int, progress: Callable[[int], None]) -> list[tuple[int, list[Refusable]]]:
    context = multiprocessing.get_context("spawn")  # whoever calls may have threads
    number = context.Value("q", 0)
    with context.Pool(processes, _begin, (number,)) as pool:
        asked = pool.starmap_async(_run, [(work, worker, processes) for worker in range(processes)], chunksize=1)
        while not asked.ready():
            asked.wait(0.2)
            progress(number.value)
        return asked.get()


_number: Any = None


def _begin(number: Any) -> None:
    global _number
    _number = number


def _run(work: "_Work", worker: int, workers: int) -> tuple[int, list[Refusable]]:
    return work.run(worker, workers, _Shared(_number))


@dataclass(frozen=True, slots=True)
class _Work:
    plan: NightPlan
    streams: tuple[_Stream, ...]
    started: float

    def run(self, worker: int, workers: int, told: "_Told | _Shared") -> tuple[int, list[Refusable]]:
        """Write every `workers`th delivery; returns bytes, and what must be refused."""
        plan = self.plan
        total, size, n = plan.files + plan.bad, 0, 0
        chunks = -(-plan.files // (plan.observations * len(self.streams))) or 1
        bad: list[Refusable] = []
        folders: set[Path] = set()
        for slot in range(worker, total, workers):
            before = slot * plan.bad // total  # damaged ones are spread evenly
            if (slot + 1) * plan.bad // total > before:
                self._wait(timedelta(hours=plan.hours) * before / plan.bad)
                written, refusable = self._damaged(before, folders)
                bad.append(refusable)
            else:
                written = self._good(slot - before, chunks, folders)
            size += written
            n += 1
            if n == 50 or plan.pace is not None:
                told.add(n)
                n = 0
        told.add(n)
        return size, bad

    def _wait(self, due: timedelta) -> None:
        if self.plan.pace is not None:
            wait = self.started + due.total_seconds() / self.plan.pace - time.time()
            if wait > 0:
                time.sleep(wait)

    def _good(self, number: int, chunks: int, folders: set[Path]) -> int:
        plan = self.plan
        rest, place = divmod(number, len(self.streams))
        observation, chunk = divmod(rest, chunks)
        spacing = timedelta(hours=plan.hours) / plan.observations
        due = spacing * observation + spacing * chunk / chunks
        self._wait(due)
        stream = self.streams[place]
        begin = self._begin_of_night(stream.site) + due
        stamp = self._stamp(stream.site, observation, begin, spacing / chunks)
        path = self._path(stream, stamp, self._begin_of_night(stream.site) + spacing * observation, chunk)
        return self._deliver(path, stamped(stream.template, stamp), folders)

    def _damaged(self, number: int, folders: set[Path]) -> tuple[int, Refusable]:
        plan = self.plan
        fault = FAULTS[number % len(FAULTS)]
        stream = self.streams[0]  # the first telescope's
        begin = self._begin_of_night(stream.site) + timedelta(hours=plan.hours) * number / plan.bad
        stamp = self._stamp(stream.site, FIRST_BAD + number % 100, begin, timedelta(seconds=1))
        path = self._path(stream, stamp, begin, number // 100)
        if fault is OTHER_ID:
            stamp = Stamp(stamp.sb_id, stamp.obs_id + 50_000, stamp.begin, stamp.end)
        if fault is UNKNOWN_ELEMENT:
            path = path.replace(stream.folder, f"{stream.folder[:4]}-99", 1)
        if fault is NO_DATA:
            size = self._deliver(path, None, folders)
        else:
            small = Stamp(stamp.sb_id, stamp.obs_id, stamp.begin, stamp.end)
            size = self._deliver(path, iter([fault.damage(b"".join(stamped(stream.template, small)))]), folders)
        return size, Refusable(path, fault.name, fault.problem)

    def _begin_of_night(self, site: str) -> datetime:
        night = self.plan.night
        return datetime(night.year, night.month, night.day, tzinfo=UTC) + timedelta(hours=20 if site == NORTH else 24)

    def _stamp(self, site: str, number: int, begin: datetime, length: timedelta) -> Stamp:
        day = (self.plan.night - date(2020, 1, 1)).days % 100_000
        first = 2_000_000_000 + day * 2000 + (0 if site == NORTH else 1000)
        begin = begin.replace(microsecond=0)
        end = begin + max(length, timedelta(seconds=1))
        return Stamp(first + number // 4 + 1, first + number + 1, begin, end, self.plan.size)

    def _path(self, stream: _Stream, stamp: Stamp, start: datetime, chunk: int) -> str:
        user = "ctao-acada-n" if stream.site == NORTH else "ctao-acada-s"
        return (
            f"/{DELIVERY}/DL0/{stream.folder}/{user}/acada-adh/{stream.product_type}/{self.plan.night:%Y/%m/%d}/"
            f"{stream.owner}_{stream.source}_{start:%Y%m%dT%H%M%S}_SBID{stamp.sb_id:019d}_OBSID{stamp.obs_id:019d}"
            f"_{stream.kind}_CHUNK{chunk:03d}.fits.fz"
        )

    def _deliver(self, path: str, content: Iterator[bytes] | None, folders: set[Path]) -> int:
        file = self.plan.root / path[1:]
        if file.parent not in folders:
            file.parent.mkdir(parents=True, exist_ok=True)
            folders.add(file.parent)
        size = 0
        if content is not None:
            with file.open("wb") as out:
                for part in content:
                    size += out.write(part)
        if self.plan.triggers or content is None:
            with suppress(FileExistsError):
                Path(f"{file}{TRIGGER}").symlink_to(file.name)
        return size


def _streams(telescopes: Sequence[ArrayElement]) -> Iterator[_Stream]:
    """One of each telescope, and two of each site: events and triggers of all its telescopes."""
    from lightkeeper_ctao.simulate.templates import subarray_template, telescope_template, trigger_template

    for element in telescopes:
        owner = f"TEL{element.ae_id:03d}"
        template = telescope_template(element)
        yield _Stream(element.site, element.name, owner, "SDH001", "TEL_SHOWER", "events", template)
    for site in dict.fromkeys(element.site for element in telescopes):
        elements = [element for element in telescopes if element.site == site]
        number = 2 if site == NORTH else 102
        owner = f"SUB{number:03d}"
        whole = subarray_template(number, elements)
        yield _Stream(site, "ARRAY", owner, "SWAT001", "SUBARRAY", "triggers", whole)
        yield _Stream(site, "ARRAY", owner, "SWAT001", "TEL", "triggers", trigger_template(elements))
