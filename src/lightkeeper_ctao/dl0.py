"""Reader of DL0 files as the array control system hands them over: FITS tables with protobuf columns.

A file is good when its bytes are what was written (fits.py), when it says everything the archive needs, and
when what it says agrees with its name and place (layout.py). Everything that is not so is a problem; nothing
is a warning.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import Lfn, parse_lfn, printable
from lightkeeper.ports import Product
from lightkeeper_ctao.fits import Hdu, Walk, walk
from lightkeeper_ctao.layout import Delivery, in_night, parse_delivery

DATA_STREAM = "DataStream"


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of file: its long table, what that holds, and which columns of DataStream are metadata."""

    stream: str
    table: str
    rows: str
    columns: tuple[str, ...]


_KINDS = {
    "DL0v1.Telescope.DataStream": _Kind("Telescope", "Events", "DL0v1.Telescope.Event", ("sb_id", "obs_id", "tel_id")),
    "DL0v1.Subarray.DataStream": _Kind(
        "Subarray", "SubarrayEvents", "DL0v1.Subarray.Event", ("sb_id", "obs_id", "subarray_id")
    ),
    "DL0v1.Trigger.DataStream": _Kind("Trigger", "Triggers", "DL0v1.Trigger.Trigger", ("sb_id", "obs_id", "tel_ids")),
}
_DIVISIONS = {"events": "Event", "triggers": "Event", "monitoring": "Monitoring", "service": "Service"}
_FITS_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\Z", re.ASCII)

# No column of a DataStream is longer than this.
_MAX_COLUMN = 1024 * 1024
_WIDTHS = {"B": 1, "I": 2, "J": 4, "K": 8}


class Dl0Reader:
    """Reads and verifies DL0 files."""

    def recognises(self, path: str) -> bool:
        """FITS files of the array, compressed tables or not: all that lie in its scope, or anywhere as DL0."""
        return path.endswith((".fits.fz", ".fits")) and ("/DL0/" in path or path.split("/")[2:3] == ["acada"])

    def read(self, file: BinaryIO, path: str) -> Product:
        """Verify `file` in one pass and read its metadata; see ports.ProductReader."""
        walked = walk(file, keep=(DATA_STREAM,))
        problems = list(walked.problems)
        lfn = _lfn(path, problems)
        delivery, wrong = parse_delivery(path)
        problems += wrong
        meta: dict[str, MetaValue] = {}
        if delivery:
            meta |= _meta_of_path(delivery, problems)
        if walked.complete:
            meta |= _meta_of_content(walked, problems)
            if delivery:
                _compare(delivery, meta, problems)
        return Product(lfn, walked.fixity, meta, tuple(problems))


# --- metadata ----------------------------------------------------------------------------------------------
def _lfn(path: str, problems: list[str]) -> Lfn | None:
    try:
        return parse_lfn(path)
    except Invalid as error:
        problems.append(error.message)
        return None


def _meta_of_path(delivery: Delivery, problems: list[str]) -> dict[str, MetaValue]:
    if delivery.level != "DL0":
        problems.append(f"the folder says level {printable(delivery.level)}; only DL0 is ingested from the array")
    meta: dict[str, MetaValue] = {
        "data_level": 0,
        "observing_night": delivery.night.isoformat(),
        "array_element": delivery.array_element,
    }
    if delivery.site:
        meta["site"] = delivery.site
    if delivery.chunk_id is not None:
        meta["chunk_id"] = delivery.chunk_id
    if delivery.product:
        meta["product_type"] = delivery.product
    if division := _DIVISIONS.get(delivery.product_type):
        meta["division"] = division
        meta["data_type"] = division.lower()
    return meta


def _meta_of_content(walked: Walk, problems: list[str]) -> dict[str, MetaValue]:
    stream = _table(walked, DATA_STREAM, problems)
    if stream is None:
        return {}
    meta: dict[str, MetaValue] = {}
    if origin := stream.text("ORIGIN"):
        meta["observatory"] = origin
    else:
        problems.append(f"the table {DATA_STREAM} does not name its observatory: card ORIGIN is missing")
    if start := _time(stream, ("DATE",), problems):
        meta["start_time"] = start

    message = stream.text("PBFHEAD")
    if not message:
        problems.append(f"the table {DATA_STREAM} does not say what kind of data this is: card PBFHEAD is missing")
        return meta
    kind = _KINDS.get(message)
    if kind is None:
        problems.append(f"'{printable(message)}' (card PBFHEAD) is no kind of DL0 data; known are {', '.join(_KINDS)}")
        return meta
    meta["stream"] = kind.stream
    try:
        meta |= _first_row(stream, kind.columns)
    except _Unreadable as error:
        problems.append(f"the first row of table {DATA_STREAM} cannot be read: {error}")
    table = _table(walked, kind.table, problems)
    return meta | _meta_of_rows(table, kind, meta, problems) if table else meta


def _table(walked: Walk, name: str, problems: list[str]) -> Hdu | None:
    found = [hdu for hdu in walked.hdus if hdu.name == name]
    if len(found) != 1:
        problems.append(f"the file has {'more than one' if found else 'no'} table {name}")
    return found[0] if found else None


def _meta_of_rows(table: Hdu, kind: _Kind, so_far: dict[str, MetaValue], problems: list[str]) -> dict[str, MetaValue]:
    meta: dict[str, MetaValue] = {}
    if (message := table.text("PBFHEAD")) != kind.rows:
        problems.append(f"the table {kind.table} must hold {kind.rows}, its PBFHEAD says '{printable(message or '')}'")
    rows = table.integer("ZNAXIS2" if table.text("ZTABLE") == "T" else "NAXIS2")
    if rows is None or rows < 0:
        problems.append(f"the table {kind.table} does not say how many rows it has")
    else:
        meta["n_rows"] = rows
    end = _time(table, ("DATE-END", "DATEEND"), problems)
    if end:
        meta["end_time"] = end
        start = so_far.get("start_time")
        if isinstance(start, str) and datetime.fromisoformat(end) < datetime.fromisoformat(start):
            problems.append(f"the data end ({end}) before they begin ({start})")
    return meta


def _time(table: Hdu, keys: tuple[str, ...], problems: list[str]) -> str | None:
    text = next((value for key in keys if (value := table.text(key))), None)
    if text is None:
        problems.append(f"the table {table.name} carries no time: card {keys[0]} is missing")
        return None
    try:
        if _FITS_TIME.match(text):
            return datetime.fromisoformat(text).isoformat()
    except ValueError:
        pass
    problems.append(
        f"'{printable(text)}' (card {keys[0]} of table {table.name}) is not a time like 2026-03-14T21:00:23"
    )
    return None


def _compare(delivery: Delivery, meta: dict[str, MetaValue], problems: list[str]) -> None:
    said = {
        "sb_id": delivery.sb_id,
        "obs_id": delivery.obs_id,
        "tel_id": delivery.tel_id,
        "subarray_id": delivery.subarray_id,
    }
    for key, value in said.items():
        if value is not None and key in meta and meta[key] != value:
            problems.append(f"the name says {key} {value}, the content {meta[key]}")

    stream = meta.get("stream")
    expected = {"TEL": "Telescope", "SUB": "Trigger" if delivery.stream == "TEL" else "Subarray"}.get(delivery.owner)
    if stream and stream != expected:
        problems.append(f"the name is that of a {expected or 'device'} stream, the content is a {stream} stream")

    start = meta.get("start_time")
    if isinstance(start, str):
        moment = datetime.fromisoformat(start).replace(tzinfo=UTC)
        if not in_night(moment, delivery.night, delivery.site):
            problems.append(f"the data begin at {start}, which is not in the observing night {delivery.night}")


# --- the one row of DataStream -----------------------------------------------------------------------------
class _Unreadable(Exception):
    """The table is not as this reader knows it."""


def _first_row(table: Hdu, columns: tuple[str, ...]) -> dict[str, MetaValue]:
    """The wanted columns. A column that is not there had the value 0: the writer drops zeros."""
    fields = table.integer("TFIELDS") or 0
    if table.text("ZTABLE") != "T":
        raise _Unreadable("it is not a compressed table (card ZTABLE)")
    if not 0 < fields <= 999:
        raise _Unreadable(f"it has {fields} columns")
    if (table.integer("ZNAXIS2") or 0) < 1 or table.data is None:
        raise _Unreadable("it has no row")
    numbers = {table.text(f"TTYPE{i}"): i for i in range(1, fields + 1)}
    row: dict[str, MetaValue] = {}
    for name in columns:
        is_list = name == "tel_ids"
        if name not in numbers:
            row[name] = [] if is_list else 0
            continue
        try:
            values = _column(table, table.data, numbers[name], is_list)
        except (struct.error, zlib.error, IndexError) as error:
            raise _Unreadable(f"column {name} is damaged ({error})") from None
        except _Unreadable as error:
            raise _Unreadable(f"column {name} {error}") from None
        row[name] = values if is_list else values[0]
    return row


def _column(table: Hdu, data: bytes, number: int, is_list: bool) -> list[int]:
    # The catalogue at the start of the data has a big-endian pair (size, offset in the heap) for each column.
    heap = table.integer("ZHEAPPTR") or table.integer("THEAP") or 0
    size, offset = struct.unpack_from(">qq", data, 16 * (number - 1))
    if heap < 0 or data[heap : heap + 4] != b"TILE":
        raise _Unreadable("cannot be found: there is no tile where the header says")
    if size < 12 or offset < 16 or heap + offset + size > len(data):
        raise _Unreadable("lies outside the table")
    values = _decode(data[heap + offset : heap + offset + size])

    form = table.text(f"ZFORM{number}") or ""
    letter = form[-1:]
    if letter not in _WIDTHS:
        raise _Unreadable(f"holds '{printable(form)}', not integers")
    width, signed = _WIDTHS[letter], table.text(f"TZERO{number}") is None
    count, at = 1, 0
    if is_list:
        (length,) = struct.unpack_from("<I", values, 0)
        count, at = length // width, 4
    if at + count * width > len(values):
        raise _Unreadable("is shorter than it says")
    return [
        int.from_bytes(values[i : i + width], "little", signed=signed) for i in range(at, at + count * width, width)
    ]


def _decode(block: bytes) -> bytes:
    """A block is its size (8 bytes), an ordering, the number of encodings, their codes; then the values."""
    size, _, steps = struct.unpack_from("<qcB", block, 0)
    if size != len(block):
        raise _Unreadable("is not as long as its own header says")
    codes = struct.unpack_from(f"<{steps}H", block, 10)
    values = block[10 + 2 * steps :]
    match codes:
        case () | (0,):  # raw
            return values
        case (7,):  # zlib
            return zlib.decompressobj().decompress(values, _MAX_COLUMN)
        case (23,):  # zstd
            return _unzstd(values)
        case _:
            raise _Unreadable(f"is compressed in a way this reader does not know (codes {codes})")


def _unzstd(values: bytes) -> bytes:
    import zstandard  # rarely needed, and reading must be quick to import

    try:
        with zstandard.ZstdDecompressor().stream_reader(values) as reader:
            return reader.read(_MAX_COLUMN)
    except zstandard.ZstdError as error:
        raise _Unreadable(f"is damaged ({error})") from None
