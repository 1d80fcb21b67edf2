"""Reader of simulated R1 files as sim_telarray writes them: one compressed stream of events of one run.

    /ctao/simulation/<MCCampaign>/<name>.simtel.zst

That is how runs are handed in. Elsewhere lie those that productions simulate: their names and metadata are told by the
job type, and only their bytes are judged here.

Names come in two fashions, and North and South do not mean the same in both:

- `gamma_diffuse_run000010_za20deg_azm000deg_North_alpha_6.0.0_test_file`: North is the site whose telescopes
  were simulated (La Palma), the azimuth is counted from geographic north; phiP, the direction in which the
  particles fly, is azimuth + 180 degrees.
- `proton_20deg_180deg_run000012___cta-prod6-paranal-…`: the numbers are thetaP and phiP themselves; the site
  is spelled out behind `___`, or not at all. North and South there, as in production documents, are
  directions of pointing and tell no site.
"""

import hashlib
import re
import struct
import zlib
from typing import Any, BinaryIO

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, printable
from lightkeeper.ports import Product

FOLDER = "simulation"
CHUNK = 256 * 1024
MAX_RATIO = 200
FREE_OUTPUT = 256 * 1024 * 1024  # below this no ratio is suspicious
MAX_WINDOW = 128 * 1024 * 1024
MAX_PIECES = 10_000  # frames or members, one behind the other

_SITES = {"North": "LaPalma", "South": "Paranal"}
_OBJECT_MARK = b"\x37\x8a\x1f\xd4"

_BY_AZIMUTH = re.compile(
    r"(?:.*__)?(?P<particle>[a-z]+(?:_[a-z]+)?)_run(?P<run>\d{1,8})_za(?P<zenith>\d{1,3})deg_azm(?P<azimuth>\d{1,3})deg"
    r"_(?P<layout>(?P<north>North|South)_[A-Za-z0-9.-]+_\d+\.\d+\.\d+)(?:_[\w.-]+)?",
    re.ASCII,
)
_BY_DIRECTION = re.compile(
    r"(?P<particle>[a-z]+(?:[-_][a-z]+)?)_(?P<zenith>\d{1,3}(?:\.\d)?)deg_(?P<phi>\d{1,3}(?:\.\d)?)deg_run(?P<run>\d{1,8})"
    r"___(?P<layout>cta-[A-Za-z0-9._-]+)",
    re.ASCII,
)
_CONE = re.compile(r"_cone(\d+(?:\.\d+)?)\Z", re.ASCII)
_RUN = re.compile(r"run\d", re.ASCII)


class SimtelReader:
    """Reads and verifies simulated R1 files."""

    def recognises(self, path: str) -> bool:
        """Compressed files of sim_telarray."""
        return path.endswith((".simtel.zst", ".simtel.gz"))

    def read(self, file: BinaryIO, path: str) -> Product:
        """Decompress `file` completely in one pass, keeping nothing; see ports.ProductReader."""
        problems: list[str] = []
        lfn = _lfn(path, problems)
        meta = _meta_of_path(path, problems)
        tee = _Tee(file)
        problems += _verify(tee, zstd=path.endswith(".zst"))
        tee.drain()
        return Product(lfn, tee.fixity(), meta, tuple(problems))


def parse_run(name: str) -> tuple[dict[str, MetaValue], list[str]]:
    """Metadata that the file name `name` tells, and what is wrong with it."""
    stem = re.sub(r"\.simtel\.(zst|gz)\Z", "", name)
    if found := _BY_AZIMUTH.fullmatch(stem):
        phi = (float(found["azimuth"]) + 180) % 360
        site: str | None = _SITES[found["north"]]
        layout, cone = found["layout"], None
    elif found := _BY_DIRECTION.fullmatch(stem):
        phi = float(found["phi"])
        layout = found["layout"]
        lower = layout.lower()
        site = "LaPalma" if "lapalma" in lower else "Paranal" if "paranal" in lower else None
        cone = _CONE.search(layout)
        layout = _CONE.sub("", layout)
    else:
        if not _RUN.search(stem):
            return {}, [f"the name '{printable(name)}' has no run number (run000010)"]
        return {}, [
            f"the name '{printable(name)}' does not follow a known pattern: "
            "<particle>_run<n>_za<deg>deg_azm<deg>deg_<North or South>_<layout> or "
            "<particle>_<deg>deg_<deg>deg_run<n>___cta-<production>"
        ]
    zenith = float(found["zenith"])
    meta: dict[str, MetaValue] = {
        "data_level": -1,
        "outputType": "Data",
        "tel_sim_prog": "sim_telarray",
        "particle": found["particle"].replace("_", "-"),
        "runNumber": f"{int(found['run']):08d}",
        "thetaP": zenith,
        "phiP": phi,
        "array_layout": layout,
    }
    if site:
        meta["site"] = site
    if cone:
        meta["view_cone"] = float(cone[1])
    wrong = [f"a zenith angle of {zenith:g} degrees is below the horizon"] if zenith > 90 else []
    return meta, wrong


# --- path --------------------------------------------------------------------------------------------------
def _lfn(path: str, problems: list[str]) -> Lfn | None:
    try:
        return parse_lfn(path)
    except Invalid as error:
        problems.append(error.message)
        return None


def _meta_of_path(path: str, problems: list[str]) -> dict[str, MetaValue]:
    meta, wrong = parse_run(path.rpartition("/")[2])
    parts = path.split("/")[1:]
    if parts[1:2] != [FOLDER]:
        return meta
    problems += wrong
    if len(parts) != 4:
        problems.append(f"'{printable(path)}' is outside the layout: simulations lie at /vo/{FOLDER}/<campaign>/<name>")
    else:
        meta["MCCampaign"] = parts[2]
    return meta


# --- bytes -------------------------------------------------------------------------------------------------
class _Tee:
    """The file, hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._adler32 = 1
        self.size = 0

    def read(self, size: int = CHUNK) -> bytes:
        """At most `size` bytes; none at the end."""
        data = self._file.read(size if size > 0 else CHUNK)
        self._sha256.update(data)
        self._adler32 = zlib.adler32(data, self._adler32)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what is left."""
        while self.read():
            pass

    def fixity(self) -> Fixity:
        """Size and checksums of what was read."""
        return Fixity(self.size, self._sha256.hexdigest(), f"{self._adler32:08x}")


class _Damaged(Exception):
    """The stream cannot be what was written."""


def _verify(tee: _Tee, *, zstd: bool) -> list[str]:
    objects = _Objects()
    try:
        (_unzstd if zstd else _gunzip)(tee, objects)
        objects.finish()
    except _Damaged as error:
        return [str(error)]
    return []


def _unzstd(tee: _Tee, objects: "_Objects") -> None:
    import zstandard  # not needed to read other files, and reading must be quick to import

    decoder: Any = None
    rest = b""
    try:
        # Small bites: one of 2 KiB cannot become more than 64 MiB, whoever made it.
        while piece := rest or tee.read(2048):
            if decoder is None:
                objects.begin_piece()
                decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
            objects.feed(decoder.decompress(piece), tee.size)
            rest = decoder.unused_data if decoder.eof else b""
            if decoder.eof:
                decoder = None
    except zstandard.ZstdError as error:
        raise _Damaged(f"the compressed stream is damaged: {error}") from None
    _demand_end(tee, decoder)


def _gunzip(tee: _Tee, objects: "_Objects") -> None:
    decoder = None
    rest = b""
    try:
        while piece := rest or tee.read():
            if decoder is None:
                objects.begin_piece()
                decoder = zlib.decompressobj(wbits=31)
            objects.feed(decoder.decompress(piece, 4 * CHUNK), tee.size)
            rest = decoder.unconsumed_tail or (decoder.unused_data if decoder.eof else b"")
            if decoder.eof:
                decoder = None
        while decoder and (data := decoder.decompress(b"", 4 * CHUNK)):
            objects.feed(data, tee.size)
        if decoder and decoder.eof:
            decoder = None
    except zlib.error as error:
        raise _Damaged(f"the compressed stream is damaged: {error}") from None
    _demand_end(tee, decoder)


def _demand_end(tee: _Tee, decoder: object) -> None:
    if not tee.size:
        raise _Damaged("the file is empty")
    if decoder is not None:
        raise _Damaged(f"the file is cut: the compressed stream does not end within its {tee.size} bytes")


class _Objects:
    """Follows the chain of eventio objects through the stream: every one must be there to its end."""

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self._count = 0
        self._size = 0
        self._pieces = 0

    def begin_piece(self) -> None:
        """A new compressed stream begins; normally there is one, or one for each of many megabytes."""
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise _Damaged(f"the file is made of more than {MAX_PIECES} compressed streams; this is not a run")

    def feed(self, data: bytes, compressed: int) -> None:
        """The next bytes; `compressed` is how many bytes of the file they and all before came from."""
        self._size += len(data)
        if self._size > FREE_OUTPUT and self._size > MAX_RATIO * compressed:
            raise _Damaged(f"the compressed stream swells to more than {MAX_RATIO} times its size; this is not a run")
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = 16 - len(self._head)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == 16:
                self._open()

    def finish(self) -> None:
        """To be called at the end of the stream."""
        if self._skip or self._head:
            raise _Damaged(f"the run is cut: the last of its {self._count} data objects is not complete")
        if not self._count:
            raise _Damaged("the run holds no data")

    def _open(self) -> None:
        mark, kind, _, length = struct.unpack("<4sIII", self._head)
        if mark != _OBJECT_MARK:
            raise _Damaged(f"what was compressed is not a run: no data object begins after {self._count} objects")
        extended = bool(kind & (1 << 17))
        # An extended header has four more bytes with the upper bits of the length; such objects exceed 1 GiB.
        if extended:
            raise _Damaged("the run holds a data object of more than 1 GiB, which this reader does not know")
        self._skip = length & 0x3FFFFFFF
        self._head = b""
        self._count += 1
