"""Toy showers: a gaussian spot in a camera, as every telescope sees it from where it stands."""

import gzip
import io
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from protozfits import numpy_to_any_array as _array

from lightkeeper_ctao.fits import walk
from lightkeeper_ctao.layout import ArrayElement
from lightkeeper_ctao.simulate.observation import OFFSET, PIXELS, SAMPLES, SCALE, TEL

_TAI_UTC = 37  # seconds that atomic time is ahead since 2017
_FOCAL_LENGTH, _MAXIMUM = 29.3, 10_000.0  # metres: of the mirror; height of the shower's maximum
_GROUND = {1: (-70.9, -52.1), 2: (-35.3, 66.1), 3: (75.3, 50.5), 4: (30.9, -64.5)}


@dataclass(frozen=True, slots=True)
class Shower:
    """Direction in the camera and core on the ground, metres; light, photo-electrons per telescope."""

    x: float
    y: float
    north: float
    west: float
    light: float
    length: float
    width: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Shower":
        """Any shower."""
        x, y = rng.uniform(-0.35, 0.35, 2)
        north, west = rng.uniform(-130, 130, 2)
        light = 10 ** rng.uniform(2.6, 3.6)
        return cls(x, y, north, west, light, length=rng.uniform(0.10, 0.22), width=rng.uniform(0.04, 0.07))


def telescope_event(
    event_id: int, element: ArrayElement, moment: datetime, shower: Shower, rng: np.random.Generator
) -> Any:
    """What one telescope sees of a shower."""
    seconds, quarters = high_resolution(moment)
    x, y = pixels()
    north, west = _GROUND.get(element.ae_id, (0.0, 30.0 * (element.ae_id % 10 - 5)))
    # Seen from the telescope the shower's maximum is displaced towards the core; so the image points back.
    along = np.array([shower.north - north, shower.west - west]) * (_FOCAL_LENGTH / _MAXIMUM)
    distance = float(np.hypot(*along)) or 1e-9
    dx, dy = x - (shower.x - along[0]), y - (shower.y + along[1])
    cos, sin = -along[0] / distance, along[1] / distance
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    image = np.exp(-0.5 * (u / shower.length) ** 2 - 0.5 * (v / shower.width) ** 2)
    electrons = rng.poisson(shower.light * image / image.sum())
    kept = (electrons > 1) | (rng.random(PIXELS) < 0.01)
    samples = np.arange(SAMPLES)
    peak = 14 + 6 * np.clip(u[kept], -1, 2) + rng.normal(0, 0.5, kept.sum())
    pulse = 0.35 * np.exp(-0.5 * ((samples[None] - peak[:, None]) / 1.3) ** 2)
    wave = rng.normal(0, 0.3, (kept.sum(), SAMPLES)) + electrons[kept, None] * pulse
    return TEL.Event(
        event_id=event_id,
        tel_id=element.ae_id,
        event_type=32,
        event_time_s=seconds,
        event_time_qns=quarters,
        pixel_status=_array(np.where(kept, 0b00001101, 0).astype(np.uint8)),
        waveform=_array(np.clip((wave + OFFSET) * SCALE, 0, 65535).astype(np.uint16).ravel()),
        num_channels=1,
        num_samples=SAMPLES,
        num_pixels_survived=int(kept.sum()),
    )


_pixel_positions: list[tuple[Any, Any]] = []


def pixels() -> tuple[Any, Any]:
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
    side = int(np.ceil(np.sqrt(PIXELS)))
    grid = (np.arange(side) - side / 2) * 0.05
    x, y = np.meshgrid(grid, grid)
    return x.ravel()[:PIXELS], y.ravel()[:PIXELS]


def high_resolution(moment: datetime) -> tuple[int, int]:
    """A moment as the cameras count: seconds of atomic time, quarters of a nanosecond."""
    return int(moment.timestamp()) + _TAI_UTC, moment.microsecond * 4000
