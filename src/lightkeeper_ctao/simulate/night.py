"""A night of showers, file by file through the library that the telescopes use."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
from protozfits import numpy_to_any_array as _array

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.layout import ELEMENTS, ArrayElement
from lightkeeper_ctao.simulate.faults import FAULTS, FIRST_BAD, NO_DATA, OTHER_ID, UNKNOWN_ELEMENT, Fault
from lightkeeper_ctao.simulate.observation import (
    SUB,
    TRG,
    Observation,
    new_observation,
    telescope_file,
    telescopes_of,
)
from lightkeeper_ctao.simulate.places import local, make_triggers, sync_folders, write
from lightkeeper_ctao.simulate.showers import Shower, high_resolution, telescope_event
from lightkeeper_ctao.simulate.tables import TableFile, quiet_writer

LSTS = ("LSTN-01", "LSTN-02", "LSTN-03", "LSTN-04")


@dataclass(frozen=True, slots=True)
class NightFile:
    """One delivery. `path` begins with '/' and is below the interface directory.

    `fault` is empty for a good file; otherwise `problem` is part of what a reader must say about it. A
    trigger without a data file has no `sha256` and the size 0. `meta` is what must be found in a good file.
    """

    path: str
    size: int
    sha256: str
    meta: Mapping[str, MetaValue]
    fault: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NightManifest:
    """All that was handed in for one night."""

    root: Path
    night: date
    observations: tuple[int, ...]
    files: tuple[NightFile, ...]

    @property
    def good(self) -> tuple[NightFile, ...]:
        """The files that must be ingested."""
        return tuple(file for file in self.files if not file.fault)

    @property
    def bad(self) -> tuple[NightFile, ...]:
        """The deliveries that must be refused."""
        return tuple(file for file in self.files if file.fault)


def simulate_night(
    root: Path,
    *,
    night: date,
    telescopes: Sequence[str] = LSTS,
    observations: int = 1,
    events: int = 20,
    chunk: int = 100,
    seed: int = 1,
    bad: int = 0,
    triggers: bool = True,
) -> NightManifest:
    """Write a night below the interface directory `root`; triggers appear when an observation is complete.

    `events` per observation, at most `chunk` of them in one file of a telescope; `triggers` adds the stream
    of telescope triggers. `bad` deliveries, with a fault each, have observation ids of their own. The same
    arguments give the same bytes. ctapipe reconstructs only telescopes LSTN-01 to LSTN-04.
    """
    elements = telescopes_of(telescopes)
    if not 0 <= observations <= FIRST_BAD or not 0 <= bad < 100 or events < 1 or chunk < 1:
        raise Invalid(f"a night has 0 to {FIRST_BAD} observations, 0 to 99 bad deliveries, and events in chunks")
    rng = np.random.default_rng([seed, night.toordinal()])
    spacing = timedelta(hours=12) / max(observations + bad, 29)
    files: list[NightFile] = []
    ids: list[int] = []
    with quiet_writer():
        for number in range(observations):
            observation = new_observation(root, night, elements, number, spacing, rng)
            files += _Observing(observation, events, chunk, triggers).run(rng)
            ids.append(observation.obs_id)
        for number in range(bad):
            observation = new_observation(
                root, night, elements[:1], FIRST_BAD + number, spacing, rng, observations + number
            )
            files.append(_deliver_damaged(observation, FAULTS[number % len(FAULTS)], rng))
    return NightManifest(root, night, tuple(ids), tuple(files))


class _Observing:
    """Writes one observation: the files of the subarray, of the triggers, and of each telescope."""

    def __init__(self, observation: Observation, events: int, chunk: int, triggers: bool) -> None:
        self._observation = observation
        self._events = events
        self._chunk = min(chunk, events)
        self._triggers = triggers
        self._open: dict[str, TableFile] = {}
        self._chunks: dict[str, int] = {}
        self._done: list[NightFile] = []

    def run(self, rng: np.random.Generator) -> list[NightFile]:
        """Take the events, hand all files in, and say what they are."""
        it = self._observation
        moment = it.start
        try:
            for event_id in range(1, self._events + 1):
                moment += timedelta(microseconds=int(rng.exponential(300)) + 10)
                hit = it.elements if event_id == 1 else tuple(e for e in it.elements if rng.random() < 0.85)
                self._take(event_id, moment, hit or it.elements[:1], rng)
            for key in list(self._open):
                self._close(key)
        finally:
            for file in self._open.values():
                file.finish()  # the compiled writer crashes the program when it is left open
        paths = [local(it.root, file.path) for file in self._done]
        sync_folders(paths)
        make_triggers(paths)
        return self._done

    def _take(self, event_id: int, moment: datetime, hit: tuple[ArrayElement, ...], rng: np.random.Generator) -> None:
        it = self._observation
        seconds, quarters = high_resolution(moment)
        ids = np.array([element.ae_id for element in hit], dtype=np.uint16)
        numbers = np.arange(len(hit), dtype=np.uint64) + np.uint64(event_id * 64)
        self._file("SUBARRAY").write(
            SUB.Event(
                event_id=event_id,
                trigger_type=1,
                sb_id=it.sb_id,
                obs_id=it.obs_id,
                event_time_s=seconds,
                event_time_qns=quarters,
                trigger_ids=_array(numbers),
                tel_ids_with_trigger=_array(ids),
                tel_ids_with_data=_array(ids),
            ),
            moment,
        )
        shower = Shower.random(rng)
        for element, number in zip(hit, numbers, strict=True):
            if self._triggers:
                self._file("TEL").write(
                    TRG.Trigger(
                        tel_id=element.ae_id,
                        trigger_id=int(number),
                        trigger_type=1,
                        trigger_time_s=seconds,
                        trigger_time_qns=quarters,
                        readout_requested=True,
                        data_available=True,
                        hardware_stereo_trigger_mask=1,
                    ),
                    moment,
                )
            event = telescope_event(event_id, element, moment, shower, rng)
            self._file(element.name).write(event, moment)

    def _file(self, key: str) -> "TableFile":
        file = self._open.get(key)
        if file and key in ELEMENTS and file.rows == self._chunk:
            self._close(key)
            file = None
        if file is None:
            self._chunks[key] = self._chunks.get(key, -1) + 1
            file = self._open[key] = self._new_file(key, self._chunks[key])
        return file

    def _new_file(self, key: str, chunk: int) -> "TableFile":
        it = self._observation
        if key in ELEMENTS:
            return telescope_file(it, ELEMENTS[key], chunk, self._chunk)
        path = it.path("ARRAY", "triggers", f"SUB{it.subarray_id:03d}", "SWAT001", key, chunk)
        if key == "SUBARRAY":
            stream = SUB.DataStream(subarray_id=it.subarray_id, sb_id=it.sb_id, obs_id=it.obs_id, producer_id=1)
            return TableFile(local(it.root, path), it.start, (("DataStream", stream),), "SubarrayEvents", self._events)
        ids = np.array([element.ae_id for element in it.elements], dtype=np.uint16)
        stream = TRG.DataStream(tel_ids=_array(ids), sb_id=it.sb_id, obs_id=it.obs_id, producer_id=1)
        rows = self._events * len(it.elements)
        return TableFile(local(it.root, path), it.start, (("DataStream", stream),), "Triggers", rows)

    def _close(self, key: str) -> None:
        it, file, chunk = self._observation, self._open.pop(key), self._chunks[key]
        content = file.finish()
        if key in ELEMENTS:
            meta = it.meta("Telescope", key, chunk, file.end, file.rows) | {"tel_id": ELEMENTS[key].ae_id}
        elif key == "SUBARRAY":
            meta = it.meta("Subarray", "ARRAY", chunk, file.end, file.rows) | {"subarray_id": it.subarray_id}
        else:
            tel_ids = [element.ae_id for element in it.elements]
            meta = it.meta("Trigger", "ARRAY", chunk, file.end, file.rows) | {"tel_ids": tel_ids}
        write(file.path, content)
        self._done.append(_night_file(it.root, file.path, content, meta))


def _night_file(
    root: Path, path: Path, content: bytes, meta: Mapping[str, MetaValue], fault: str = "", problem: str = ""
) -> NightFile:
    name = "/" + path.relative_to(root).as_posix()
    return NightFile(name, len(content), hashlib.sha256(content).hexdigest(), meta, fault, problem)


def _deliver_damaged(it: Observation, fault: Fault, rng: np.random.Generator) -> NightFile:
    element = it.elements[0]
    events = [telescope_event(number, element, it.start, Shower.random(rng), rng) for number in (1, 2)]
    file = telescope_file(it, element, 0, len(events), obs_id=it.obs_id + 50_000 if fault is OTHER_ID else None)
    for event in events:
        file.write(event, it.start)
    content = fault.damage(file.finish())
    path = file.path
    if fault is UNKNOWN_ELEMENT:
        path = it.root / str(path.relative_to(it.root)).replace(element.name, f"{element.name[:4]}-99", 1)
    if fault is NO_DATA:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_triggers([path])
        return NightFile("/" + path.relative_to(it.root).as_posix(), 0, "", {}, fault.name, fault.problem)
    write(path, content)
    sync_folders([path])
    make_triggers([path])
    return _night_file(it.root, path, content, {}, fault.name, fault.problem)
