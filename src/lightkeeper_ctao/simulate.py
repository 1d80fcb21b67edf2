"""A toy observatory: nights of DL0 files as the array control system hands them over, good and damaged.

The files are real in form (tables, protobuf columns, checksums, names, places, triggers) and toys in content:
gaussian showers in the camera of the large telescopes. ctapipe reads and reconstructs them; no physics claim
may be made from them.
"""

import filecmp
import gzip
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from protozfits import DL0v1_Subarray_pb2, DL0v1_Telescope_pb2, DL0v1_Trigger_pb2, FlatProtobufZOFits
from protozfits import numpy_to_any_array as _array

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Conflict, Invalid, nearest
from lightkeeper_ctao.fits import BLOCK, CARD, ones_complement, walk
from lightkeeper_ctao.layout import ELEMENTS, NORTH, ArrayElement
from lightkeeper_ctao.simtel import parse_run

LSTS = ("LSTN-01", "LSTN-02", "LSTN-03", "LSTN-04")
TRIGGER = ".trigger"
DELIVERY = Path("ctao/acada")
MANIFEST = "MANIFEST.json"

# Generated modules: their classes are made when they are imported, and have no types.
_SUB: Any = DL0v1_Subarray_pb2
_TEL: Any = DL0v1_Telescope_pb2
_TRG: Any = DL0v1_Trigger_pb2

_ROWS_PER_TILE = 20
_TAI_UTC = 37  # seconds that atomic time is ahead since 2017
_SUBARRAYS = ((1, {1}), (2, {1, 2, 3, 4}), (3, {5, 6, 7, 8, 9}))  # as ctapipe_io_zfits knows them
_OTHER_SUBARRAY = 9
_PIXELS, _MODULES, _SAMPLES = 1855, 265, 36
_SCALE, _OFFSET = 80.0, 5.0
_FOCAL_LENGTH, _MAXIMUM = 29.3, 10_000.0  # metres: of the mirror; height of the shower's maximum
_GROUND = {1: (-70.9, -52.1), 2: (-35.3, 66.1), 3: (75.3, 50.5), 4: (30.9, -64.5)}


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


@dataclass(frozen=True, slots=True)
class HandedIn:
    """Simulated runs that were handed in, and files whose names are not those of runs."""

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]


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
    elements = _elements(telescopes)
    if not 0 <= observations <= _FIRST_BAD or not 0 <= bad < 100 or events < 1 or chunk < 1:
        raise Invalid(f"a night has 0 to {_FIRST_BAD} observations, 0 to 99 bad deliveries, and events in chunks")
    rng = np.random.default_rng([seed, night.toordinal()])
    spacing = timedelta(hours=12) / max(observations + bad, 29)
    files: list[NightFile] = []
    ids: list[int] = []
    with _quiet_writer():
        for number in range(observations):
            observation = _observation(root, night, elements, number, spacing, rng)
            files += _Observing(observation, events, chunk, triggers).run(rng)
            ids.append(observation.obs_id)
        for number in range(bad):
            observation = _observation(
                root, night, elements[:1], _FIRST_BAD + number, spacing, rng, observations + number
            )
            files.append(_deliver_damaged(observation, _FAULTS[number % len(_FAULTS)], rng))
    return NightManifest(root, night, tuple(ids), tuple(files))


def hand_in(source: Path, root: Path) -> list[Path]:
    """Copy the night folder `source` below `<root>/ctao/acada`, make the triggers, return what was copied.

    A file that is there already with the same bytes is left alone, and so is its trigger, present or not.
    When the source has triggers of its own, only those are made.
    """
    found = sorted(path for path in source.rglob("*") if not path.name.startswith("."))
    own = {path.relative_to(source) for path in found if path.name.endswith(TRIGGER)}
    data = [path for path in found if path.is_file() and path.name != MANIFEST and not path.name.endswith(TRIGGER)]
    copied = [
        target for path in data if _copy(path, target := root / DELIVERY / path.relative_to(source))
    ]  # fmt: skip
    _sync_folders(copied)
    base = root / DELIVERY
    wanted = [target for target in copied if not own or _trigger_of(target).relative_to(base) in own]
    for orphan in sorted(own - {_trigger_of(path).relative_to(source) for path in data}):
        target = base / orphan
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted.append(target.with_name(target.name.removesuffix(TRIGGER)))
    _make_triggers(wanted)
    return copied


def hand_in_runs(source: Path, root: Path, *, runs: int, campaign: str) -> HandedIn:
    """Copy every simulated run below `source` to `<root>/ctao/simulation/<campaign>`, `runs` times each.

    Copies get run numbers of their own (10, 110, 210…), different for all files together, and triggers.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    copied: list[Path] = []
    used: set[int] = set()
    for path in sorted(path for path in source.rglob("*") if path.name.endswith((".simtel.zst", ".simtel.gz"))):
        meta, problems = parse_run(path.name)
        if problems:
            skipped.append(path)
            continue
        first = int(str(meta["runNumber"]))
        for number in range(runs):
            run = first + 100 * number
            while run in used:
                run += 1
            used.add(run)
            name = re.sub(r"run(\d+)", lambda old, run=run: f"run{run:0{len(old[1])}d}", path.name, count=1)
            target = root / "ctao" / "simulation" / campaign / name
            if _copy(path, target):
                copied.append(target)
            files.append(target)
    _sync_folders(copied)
    _make_triggers(copied)
    return HandedIn(tuple(files), tuple(skipped))


# --- one observation ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Observation:
    root: Path
    night: date
    elements: tuple[ArrayElement, ...]
    subarray_id: int
    sb_id: int
    obs_id: int
    start: datetime

    def path(self, folder: str, product_type: str, owner: str, source: str, stream: str, chunk: int) -> str:
        """Path of a file of this observation below the root."""
        user = "ctao-acada-n" if self.elements[0].site == NORTH else "ctao-acada-s"
        return (
            f"/{DELIVERY}/DL0/{folder}/{user}/acada-adh/{product_type}/{self.night:%Y/%m/%d}/"
            f"{owner}_{source}_{self.start:%Y%m%dT%H%M%S}_SBID{self.sb_id:019d}_OBSID{self.obs_id:019d}"
            f"_{stream}_CHUNK{chunk:03d}.fits.fz"
        )

    def meta(self, stream: str, folder: str, chunk: int, end: datetime, rows: int) -> dict[str, MetaValue]:
        """What a reader must find in such a file, ids of telescopes and subarrays aside."""
        return {
            "data_level": 0,
            "observatory": "CTAO",
            "site": self.elements[0].site,
            "observing_night": self.night.isoformat(),
            "sb_id": self.sb_id,
            "obs_id": self.obs_id,
            "stream": stream,
            "division": "Event",
            "data_type": "event",
            "array_element": folder,
            "chunk_id": chunk,
            "start_time": _fits_time(self.start),
            "end_time": _fits_time(end),
            "n_rows": rows,
        }


def _elements(telescopes: Sequence[str]) -> tuple[ArrayElement, ...]:
    for name in telescopes:
        if name not in ELEMENTS or not ELEMENTS[name].is_telescope:
            raise Invalid(f"'{name}' is not a telescope of the observatory", hint=nearest(name, ELEMENTS))
    elements = tuple(ELEMENTS[name] for name in dict.fromkeys(telescopes))
    if len({element.site for element in elements}) != 1:
        raise Invalid("a night needs telescopes, all of one site")
    return elements


def _observation(
    root: Path,
    night: date,
    elements: tuple[ArrayElement, ...],
    number: int,
    spacing: timedelta,
    rng: np.random.Generator,
    place: int | None = None,
) -> _Observation:
    hour = 20 if elements[0].site == NORTH else 24
    begin = datetime(night.year, night.month, night.day, tzinfo=UTC) + timedelta(hours=hour)
    begin += spacing * (number if place is None else place)
    ids = {element.ae_id for element in elements}
    creator = 2_000_000_000 + (night - date(2020, 1, 1)).days % 100_000 * 1000
    return _Observation(
        root=root,
        night=night,
        elements=elements,
        subarray_id=next((subarray for subarray, members in _SUBARRAYS if ids <= members), _OTHER_SUBARRAY),
        sb_id=creator + number // 4 + 1,
        obs_id=creator + number + 1,
        start=begin.replace(microsecond=0) + timedelta(seconds=int(rng.integers(0, 50))),
    )


class _Observing:
    """Writes one observation: the files of the subarray, of the triggers, and of each telescope."""

    def __init__(self, observation: _Observation, events: int, chunk: int, triggers: bool) -> None:
        self._observation = observation
        self._events = events
        self._chunk = min(chunk, events)
        self._triggers = triggers
        self._open: dict[str, _TableFile] = {}
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
        paths = [_local(it.root, file.path) for file in self._done]
        _sync_folders(paths)
        _make_triggers(paths)
        return self._done

    def _take(self, event_id: int, moment: datetime, hit: tuple[ArrayElement, ...], rng: np.random.Generator) -> None:
        it = self._observation
        seconds, quarters = _high_resolution(moment)
        ids = np.array([element.ae_id for element in hit], dtype=np.uint16)
        numbers = np.arange(len(hit), dtype=np.uint64) + np.uint64(event_id * 64)
        self._file("SUBARRAY").write(
            _SUB.Event(
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
        shower = _Shower.random(rng)
        for element, number in zip(hit, numbers, strict=True):
            if self._triggers:
                self._file("TEL").write(
                    _TRG.Trigger(
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
            event = _telescope_event(event_id, element, moment, shower, rng)
            self._file(element.name).write(event, moment)

    def _file(self, key: str) -> "_TableFile":
        file = self._open.get(key)
        if file and key in ELEMENTS and file.rows == self._chunk:
            self._close(key)
            file = None
        if file is None:
            self._chunks[key] = self._chunks.get(key, -1) + 1
            file = self._open[key] = self._new_file(key, self._chunks[key])
        return file

    def _new_file(self, key: str, chunk: int) -> "_TableFile":
        it = self._observation
        if key in ELEMENTS:
            return _telescope_file(it, ELEMENTS[key], chunk, self._chunk)
        path = it.path("ARRAY", "triggers", f"SUB{it.subarray_id:03d}", "SWAT001", key, chunk)
        if key == "SUBARRAY":
            stream = _SUB.DataStream(subarray_id=it.subarray_id, sb_id=it.sb_id, obs_id=it.obs_id, producer_id=1)
            return _TableFile(
                _local(it.root, path), it.start, (("DataStream", stream),), "SubarrayEvents", self._events
            )
        ids = np.array([element.ae_id for element in it.elements], dtype=np.uint16)
        stream = _TRG.DataStream(tel_ids=_array(ids), sb_id=it.sb_id, obs_id=it.obs_id, producer_id=1)
        rows = self._events * len(it.elements)
        return _TableFile(_local(it.root, path), it.start, (("DataStream", stream),), "Triggers", rows)

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
        _write(file.path, content)
        self._done.append(_night_file(it.root, file.path, content, meta))


# --- toy showers -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Shower:
    """Direction in the camera and core on the ground, metres; light, photo-electrons per telescope."""

    x: float
    y: float
    north: float
    west: float
    light: float
    length: float
    width: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "_Shower":
        x, y = rng.uniform(-0.35, 0.35, 2)
        north, west = rng.uniform(-130, 130, 2)
        light = 10 ** rng.uniform(2.6, 3.6)
        return cls(x, y, north, west, light, length=rng.uniform(0.10, 0.22), width=rng.uniform(0.04, 0.07))


def _telescope_event(
    event_id: int, element: ArrayElement, moment: datetime, shower: _Shower, rng: np.random.Generator
) -> Any:
    seconds, quarters = _high_resolution(moment)
    x, y = _pixels()
    north, west = _GROUND.get(element.ae_id, (0.0, 30.0 * (element.ae_id % 10 - 5)))
    # Seen from the telescope the shower's maximum is displaced towards the core; so the image points back.
    along = np.array([shower.north - north, shower.west - west]) * (_FOCAL_LENGTH / _MAXIMUM)
    distance = float(np.hypot(*along)) or 1e-9
    dx, dy = x - (shower.x - along[0]), y - (shower.y + along[1])
    cos, sin = -along[0] / distance, along[1] / distance
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    image = np.exp(-0.5 * (u / shower.length) ** 2 - 0.5 * (v / shower.width) ** 2)
    electrons = rng.poisson(shower.light * image / image.sum())
    kept = (electrons > 1) | (rng.random(_PIXELS) < 0.01)
    samples = np.arange(_SAMPLES)
    peak = 14 + 6 * np.clip(u[kept], -1, 2) + rng.normal(0, 0.5, kept.sum())
    pulse = 0.35 * np.exp(-0.5 * ((samples[None] - peak[:, None]) / 1.3) ** 2)
    wave = rng.normal(0, 0.3, (kept.sum(), _SAMPLES)) + electrons[kept, None] * pulse
    return _TEL.Event(
        event_id=event_id,
        tel_id=element.ae_id,
        event_type=32,
        event_time_s=seconds,
        event_time_qns=quarters,
        pixel_status=_array(np.where(kept, 0b00001101, 0).astype(np.uint8)),
        waveform=_array(np.clip((wave + _OFFSET) * _SCALE, 0, 65535).astype(np.uint16).ravel()),
        num_channels=1,
        num_samples=_SAMPLES,
        num_pixels_survived=int(kept.sum()),
    )


def _telescope_file(
    it: _Observation, element: ArrayElement, chunk: int, max_rows: int, obs_id: int | None = None
) -> "_TableFile":
    obs_id = obs_id or it.obs_id
    path = it.path(element.name, "events", f"TEL{element.ae_id:03d}", "SDH001", "TEL_SHOWER", chunk)
    stream = _TEL.DataStream(
        tel_id=element.ae_id, sb_id=it.sb_id, obs_id=obs_id, waveform_scale=_SCALE, waveform_offset=_OFFSET
    )
    camera = _TEL.CameraConfiguration(
        tel_id=element.ae_id,
        local_run_id=obs_id % 100_000,
        config_time_s=it.start.timestamp(),
        camera_config_id=1,
        pixel_id_map=_array(np.arange(_PIXELS, dtype=np.uint16)),
        module_id_map=_array(np.arange(_MODULES, dtype=np.uint16)),
        num_pixels=_PIXELS,
        num_channels=2,
        num_samples_nominal=_SAMPLES,
        num_modules=_MODULES,
        sampling_frequency=1024,
        data_model_version="1.0",
    )
    tables = (("DataStream", stream), ("CameraConfiguration", camera))
    return _TableFile(_local(it.root, path), it.start, tables, "Events", max_rows)


_pixel_positions: list[tuple[Any, Any]] = []


def _pixels() -> tuple[Any, Any]:
    """Where the pixels of the LST camera are; a square of them when ctapipe_io_zfits is not installed."""
    if not _pixel_positions:
        _pixel_positions.append(_installed_pixels() or _square_pixels())
    return _pixel_positions[0]


def _installed_pixels() -> tuple[Any, Any] | None:
    spec = find_spec("ctapipe_io_zfits")  # only found, not imported: that would take seconds
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "resources" / "LSTCam.camgeom.fits.gz"
    if not file.exists():
        return None
    table = walk(io.BytesIO(gzip.decompress(file.read_bytes())), keep=("number 2",)).hdu("number 2")
    if table is None:
        return None
    types = {"J": ">i4", "K": ">i8", "D": ">f8", "E": ">f4", "I": ">i2"}
    columns = range(1, (table.integer("TFIELDS") or 0) + 1)
    row = np.dtype([(table.text(f"TTYPE{i}") or "", types[(table.text(f"TFORM{i}") or "")[-1]]) for i in columns])
    pixels = np.frombuffer(table.data or b"", row, count=table.integer("NAXIS2") or 0)
    return pixels["pix_x"].astype(float), pixels["pix_y"].astype(float)


def _square_pixels() -> tuple[Any, Any]:
    side = int(np.ceil(np.sqrt(_PIXELS)))
    grid = (np.arange(side) - side / 2) * 0.05
    x, y = np.meshgrid(grid, grid)
    return x.ravel()[:_PIXELS], y.ravel()[:_PIXELS]


def _high_resolution(moment: datetime) -> tuple[int, int]:
    return int(moment.timestamp()) + _TAI_UTC, moment.microsecond * 4000


# --- files -------------------------------------------------------------------------------------------------
class _TableFile:
    """One file in the making: tables of one row, then one long table. Outside the layout until finished."""

    def __init__(
        self, path: Path, start: datetime, tables: Sequence[tuple[str, Any]], long_table: str, max_rows: int
    ) -> None:
        self.path = path
        self.rows = 0
        self.end = start + timedelta(seconds=1)
        self._start = start
        self._folder = tempfile.TemporaryDirectory(prefix="night-")
        self._draft = Path(self._folder.name) / "draft"
        # With fewer tiles than it needs, the compiled writer makes files whose header is wrong.
        tiles = max_rows // _ROWS_PER_TILE + 2
        self._zfits = FlatProtobufZOFits(tiles, _ROWS_PER_TILE, compression_block_size_kb=64 * 1024)
        self._zfits.open(str(self._draft))
        for name, message in tables:
            self._table(name)
            self._zfits.set_string("DATE-END", _fits_time(self.end), "File closing date")
            self._zfits.write_message(message)
        self._table(long_table)

    def write(self, message: Any, moment: datetime) -> None:
        """Append a row."""
        self._zfits.write_message(message)
        self.rows += 1
        self.end = moment.replace(microsecond=0) + timedelta(seconds=1)

    def finish(self) -> bytes:
        """Close the file and return what is in it."""
        self._zfits.set_string("DATE-END", _fits_time(self.end), "File closing date")
        self._zfits.close()
        content = self._draft.read_bytes()
        self._folder.cleanup()
        return content

    def _table(self, name: str) -> None:
        self._zfits.move_to_new_table(name)
        self._zfits.set_string("ORIGIN", "CTAO", "Institution that wrote the file")
        self._zfits.set_string("DATE", _fits_time(self._start), "File creation date")


def _fits_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def _local(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _night_file(
    root: Path, path: Path, content: bytes, meta: Mapping[str, MetaValue], fault: str = "", problem: str = ""
) -> NightFile:
    name = "/" + path.relative_to(root).as_posix()
    return NightFile(name, len(content), hashlib.sha256(content).hexdigest(), meta, fault, problem)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _copy(source: Path, target: Path) -> bool:
    """Whether `source` had to be copied. Complete and durable under its name, or not there."""
    if target.exists():
        if filecmp.cmp(source, target, shallow=False):
            return False
        raise Conflict(f"{target} is there already with other content than {source}", hint="remove one of them")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    return True


def _sync_folders(files: Sequence[Path]) -> None:
    for folder in sorted({file.parent for file in files}):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _trigger_of(path: Path) -> Path:
    return path.with_name(path.name + TRIGGER)


def _make_triggers(files: Sequence[Path]) -> None:
    for path in files:
        trigger = _trigger_of(path)
        if not trigger.is_symlink():
            trigger.symlink_to(path.name)


@contextmanager
def _quiet_writer() -> Iterator[None]:
    # The compiled writer reports every file it closes on standard output, which belongs to our caller.
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


# --- faults ------------------------------------------------------------------------------------------------
_FIRST_BAD = 900


@dataclass(frozen=True, slots=True)
class _Fault:
    name: str
    problem: str
    damage: Callable[[bytes], bytes] = bytes


def _deliver_damaged(it: _Observation, fault: _Fault, rng: np.random.Generator) -> NightFile:
    element = it.elements[0]
    events = [_telescope_event(number, element, it.start, _Shower.random(rng), rng) for number in (1, 2)]
    file = _telescope_file(it, element, 0, len(events), obs_id=it.obs_id + 50_000 if fault is _OTHER_ID else None)
    for event in events:
        file.write(event, it.start)
    content = fault.damage(file.finish())
    path = file.path
    if fault is _UNKNOWN_ELEMENT:
        path = it.root / str(path.relative_to(it.root)).replace(element.name, f"{element.name[:4]}-99", 1)
    if fault is _NO_DATA:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_triggers([path])
        return NightFile("/" + path.relative_to(it.root).as_posix(), 0, "", {}, fault.name, fault.problem)
    _write(path, content)
    _sync_folders([path])
    _make_triggers([path])
    return _night_file(it.root, path, content, {}, fault.name, fault.problem)


def _flipped(content: bytes, position: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 0x10
    return bytes(damaged)


def _without(content: bytes, key: str, table: str) -> bytes:
    """`content` without card `key` in the header of `table`, with right checksums."""
    damaged = bytearray(content)
    begin, end = next(span for span in _spans(content) if f"EXTNAME = '{table}'".encode() in content[slice(*span)])
    card = content.index(f"{key:8s}=".encode(), begin, end)
    damaged[card : card + CARD] = b" " * CARD
    at = damaged.index(b"CHECKSUM= '", begin) + 11
    damaged[at : at + 16] = b"0" * 16
    damaged[at : at + 16] = _encoded(ones_complement(bytes(damaged[begin:end])))
    return bytes(damaged)


def _without_sums(content: bytes) -> bytes:
    return re.sub(rb"(?:CHECKSUM|DATASUM )= '.{69}", b" " * CARD, content)


def _spans(content: bytes) -> list[tuple[int, int]]:
    begins = [at for at in range(0, len(content), BLOCK) if content.startswith((b"SIMPLE  =", b"XTENSION="), at)]
    return list(zip(begins, [*begins[1:], len(content)], strict=True))


def _encoded(total: int) -> bytes:
    """The complement of `total` as sixteen characters without punctuation; FITS standard, appendix J."""
    complement = 0xFFFFFFFF ^ total
    characters = [0] * 16
    for i in range(4):
        quotient, remainder = divmod(complement >> (24 - 8 * i) & 0xFF, 4)
        four = [quotient + remainder + 48, quotient + 48, quotient + 48, quotient + 48]
        while any(58 <= c <= 64 or 91 <= c <= 96 for c in four):
            for j in (0, 2):
                if any(58 <= c <= 64 or 91 <= c <= 96 for c in four[j : j + 2]):
                    four[j] += 1
                    four[j + 1] -= 1
        for j in range(4):
            characters[4 * j + i] = four[j]
    return bytes([characters[15], *characters[:15]])


_NO_DATA = _Fault("trigger without a data file", "")
_OTHER_ID = _Fault("observation id differs from the name", "the name says obs_id")
_UNKNOWN_ELEMENT = _Fault("unknown array element", "is not an array element of the observatory")
_FAULTS = (
    _Fault(
        "flipped data byte",
        "DATASUM of HDU Events is wrong",
        lambda c: _flipped(c, _spans(c)[-1][1] - 2 * BLOCK),
    ),
    _Fault("cut in the middle", "the file is cut", lambda c: c[: _spans(c)[-1][1] - BLOCK - 1001]),
    _Fault("empty", "the file is empty", lambda _: b""),
    _Fault("card PBFHEAD missing", "card PBFHEAD is missing", lambda c: _without(c, "PBFHEAD", "DataStream")),
    _Fault("not FITS", "this is not a FITS file", lambda c: b"\x1f\x8b" + c[2:]),
    _OTHER_ID,
    _NO_DATA,
    _Fault("card DATE-END missing", "card DATE-END is missing", lambda c: _without(c, "DATE-END", "Events")),
    _Fault("bytes after the end", "bytes follow the last HDU", lambda c: c + b"X" * 1234),
    _UNKNOWN_ELEMENT,
    _Fault(
        "flipped header byte",
        "CHECKSUM of HDU Events is wrong",
        lambda c: _flipped(c, c.rindex(b"COMPILED") + 12),
    ),
    _Fault("no checksums", "carries no CHECKSUM", _without_sums),
    _Fault("card ORIGIN missing", "card ORIGIN is missing", lambda c: _without(c, "ORIGIN", "DataStream")),
)
