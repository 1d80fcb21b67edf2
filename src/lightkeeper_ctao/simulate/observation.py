"""One observation: which telescopes, when, under which numbers; and how its files are called and begun."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from protozfits import DL0v1_Subarray_pb2, DL0v1_Telescope_pb2, DL0v1_Trigger_pb2
from protozfits import numpy_to_any_array as _array

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper_ctao.layout import ELEMENTS, NORTH, ArrayElement
from lightkeeper_ctao.simulate.places import DELIVERY, local
from lightkeeper_ctao.simulate.tables import TableFile, fits_time

# Generated modules: their classes are made when they are imported, and have no types.
SUB: Any = DL0v1_Subarray_pb2
TEL: Any = DL0v1_Telescope_pb2
TRG: Any = DL0v1_Trigger_pb2
SUBARRAYS = ((1, {1}), (2, {1, 2, 3, 4}), (3, {5, 6, 7, 8, 9}))  # as ctapipe_io_zfits knows them
OTHER_SUBARRAY = 9
PIXELS, MODULES, SAMPLES = 1855, 265, 36
SCALE, OFFSET = 80.0, 5.0
_PRODUCTS = {
    "Telescope": "Telescope/AirShower",
    "Subarray": "Subarray/Trigger",
    "Trigger": "Subarray/TelescopeTriggers",
}


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation of some telescopes."""

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
            "product_type": f"DL0/Event/{_PRODUCTS[stream]}",
            "division": "Event",
            "data_type": "event",
            "array_element": folder,
            "chunk_id": chunk,
            "start_time": fits_time(self.start),
            "end_time": fits_time(end),
            "n_rows": rows,
        }


def telescopes_of(telescopes: Sequence[str]) -> tuple[ArrayElement, ...]:
    """Telescopes by their names, each once; raises Invalid unless all are of one site."""
    for name in telescopes:
        if name not in ELEMENTS or not ELEMENTS[name].is_telescope:
            raise Invalid(f"'{name}' is not a telescope of the observatory", hint=nearest(name, ELEMENTS))
    elements = tuple(ELEMENTS[name] for name in dict.fromkeys(telescopes))
    if len({element.site for element in elements}) != 1:
        raise Invalid("a night needs telescopes, all of one site")
    return elements


def new_observation(
    root: Path,
    night: date,
    elements: tuple[ArrayElement, ...],
    number: int,
    spacing: timedelta,
    rng: np.random.Generator,
    place: int | None = None,
) -> Observation:
    """Observation `number` of a night, at its own place in time or at another."""
    hour = 20 if elements[0].site == NORTH else 24
    begin = datetime(night.year, night.month, night.day, tzinfo=UTC) + timedelta(hours=hour)
    begin += spacing * (number if place is None else place)
    ids = {element.ae_id for element in elements}
    creator = 2_000_000_000 + (night - date(2020, 1, 1)).days % 100_000 * 1000
    return Observation(
        root=root,
        night=night,
        elements=elements,
        subarray_id=next((subarray for subarray, members in SUBARRAYS if ids <= members), OTHER_SUBARRAY),
        sb_id=creator + number // 4 + 1,
        obs_id=creator + number + 1,
        start=begin.replace(microsecond=0) + timedelta(seconds=int(rng.integers(0, 50))),
    )


def telescope_file(
    it: Observation, element: ArrayElement, chunk: int, max_rows: int, obs_id: int | None = None
) -> TableFile:
    """A file of one telescope, begun: its DataStream and camera are written."""
    obs_id = obs_id or it.obs_id
    path = it.path(element.name, "events", f"TEL{element.ae_id:03d}", "SDH001", "TEL_SHOWER", chunk)
    stream = TEL.DataStream(
        tel_id=element.ae_id, sb_id=it.sb_id, obs_id=obs_id, waveform_scale=SCALE, waveform_offset=OFFSET
    )
    camera = TEL.CameraConfiguration(
        tel_id=element.ae_id,
        local_run_id=obs_id % 100_000,
        config_time_s=it.start.timestamp(),
        camera_config_id=1,
        pixel_id_map=_array(np.arange(PIXELS, dtype=np.uint16)),
        module_id_map=_array(np.arange(MODULES, dtype=np.uint16)),
        num_pixels=PIXELS,
        num_channels=2,
        num_samples_nominal=SAMPLES,
        num_modules=MODULES,
        sampling_frequency=1024,
        data_model_version="1.0",
    )
    tables = (("DataStream", stream), ("CameraConfiguration", camera))
    return TableFile(local(it.root, path), it.start, tables, "Events", max_rows)
