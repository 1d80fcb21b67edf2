"""One pass over the bytes of a FITS file: checksums of the whole, and whether every HDU is what was written.

FITS standard 4.0: 2880-byte blocks, 80-character cards, CHECKSUM and DATASUM as in appendix J. Nothing here
interprets tables. Constant memory for any size; whatever the bytes are, the answer is a list of problems.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from zlib_ng.zlib_ng import adler32  # ten times as fast as zlib's

from lightkeeper.domain.names import Fixity, printable

BLOCK = 2880
CARD = 80
CHUNK = 364 * BLOCK  # about 1 MiB; a multiple of the block, so that no block lies in two chunks
MAX_HEADER_BLOCKS = 100
MAX_HDUS = 100
MAX_PROBLEMS = 50
MAX_KEPT = 16 * 1024 * 1024
MAX_DATA = 2**62

_END = b"END".ljust(CARD)
_ALLOWED = bytes(range(32, 127))
_ONES = 0xFFFFFFFF
_WORDS = np.dtype(">u4")
_COMMENTARY = frozenset({"COMMENT ", "HISTORY ", "HIERARCH", "CONTINUE", "        "})
_CARDS = re.compile("(.{8})(.{72})", re.DOTALL)
_STRING = re.compile(r"= +'((?:[^']|'')*)'")
_BARE = re.compile(r"= *([^ /]+)")
_INT = re.compile(r"[+-]?\d{1,20}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hdu:
    """Header of one HDU; its `data` only when asked for. `cards` maps 8-character keywords to the rest."""

    name: str
    cards: Mapping[str, str]
    data: bytes | None = None

    def text(self, key: str) -> str | None:
        """Value of card `key` as text, without trailing blanks; None when there is no card or no value."""
        rest = self.cards.get(key.ljust(8))
        if rest is None:
            return None
        if rest[:3] == "= '" and (end := rest.find("'", 3)) > 0 and rest[end + 1] != "'":
            return rest[3:end].rstrip()  # as nearly all are
        if found := _STRING.match(rest):
            return found[1].replace("''", "'").rstrip()
        found = _BARE.match(rest)
        return found[1] if found else None

    def integer(self, key: str) -> int | None:
        """Value of card `key` as a number; None when there is no card or its value is not an integer."""
        rest = self.cards.get(key.ljust(8), "")
        if rest[22:24] in ("  ", " /") and rest[:1] == "=" and (bare := rest[1:22].strip()).isdecimal():
            return int(bare)  # as nearly all are
        text = self.text(key)
        return int(text) if text is not None and _INT.match(text) else None


@dataclass(frozen=True, slots=True)
class Walk:
    """What one pass told: fixity of all bytes, the HDUs, all problems.

    `complete` is False when the HDUs could not be followed to the end of the file: it is cut, is not FITS…
    """

    fixity: Fixity
    hdus: tuple[Hdu, ...]
    problems: tuple[str, ...]
    complete: bool

    def hdu(self, name: str) -> Hdu | None:
        """The first HDU of that name."""
        return next((hdu for hdu in self.hdus if hdu.name == name), None)


def walk(file: BinaryIO, *, keep: Collection[str] = (), sums_needed: bool = True) -> Walk:
    """Read `file` to its end, once. Data of the first HDU of each name in `keep` are returned with it. Without
    `sums_needed` an HDU may lack its checksums; those that it has must be right."""
    hdus: list[Hdu] = []
    problems: list[str] = []
    wanted = set(keep)
    complete = False
    stream = _Stream(file)
    try:
        while not stream.at_end():
            hdus.append(_read_hdu(stream, len(hdus), wanted, problems, sums_needed))
            if len(problems) > MAX_PROBLEMS:
                raise _Lost("and so on: there are too many problems to list them all")
        if not hdus:
            raise _Lost("the file is empty")
        complete = True
    except _Lost as lost:
        problems.append(str(lost))
    stream.drain()
    return Walk(stream.fixity(), tuple(hdus), tuple(problems), complete)


def ones_complement(data: bytes | memoryview, start: int = 0) -> int:
    """32-bit ones' complement sum of `data`, whose length is a multiple of four, added to `start`."""
    total = start + int(np.add.reduce(np.frombuffer(data, _WORDS), dtype=np.uint64))
    while total > _ONES:
        total = (total & _ONES) + (total >> 32)
    return total


class _Lost(Exception):
    """From here on nobody can tell where the next HDU would be."""


class _Stream:
    """The file in blocks, while its checksums are taken: bytes are summed while they are in the processor's cache."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._chunk = memoryview(b"")
        self._at = 0
        self._sha256 = hashlib.sha256()
        self._adler32 = 1
        self._buffer: memoryview | None = None
        self.size = 0

    def at_end(self) -> bool:
        """Whether no byte is left."""
        return self._at == len(self._chunk) and not self._fill()

    def take(self, limit: int) -> memoryview:
        """At most `limit` bytes, as many as lie ready; none at the end."""
        if self.at_end():
            return memoryview(b"")
        part = self._chunk[self._at : self._at + limit]
        self._at += len(part)
        return part

    def drain(self) -> int:
        """Read what is left and return how much it was."""
        left = len(self._chunk) - self._at
        while self._fill():
            left += len(self._chunk)
        self._at = len(self._chunk)
        return left

    def fixity(self) -> Fixity:
        """Size and checksums of the bytes so far; after `drain`, of the file."""
        return Fixity(self.size, self._sha256.hexdigest(), f"{self._adler32:08x}")

    def _fill(self) -> bool:
        data = memoryview(self._first()) if self._buffer is None else self._next(self._buffer)
        self._chunk, self._at = data, 0
        self.size += len(data)
        if len(data) == CHUNK and self._buffer is None:
            self._buffer = memoryview(bytearray(CHUNK))
        self._sha256.update(data)
        self._adler32 = adler32(data, self._adler32)
        return bool(data)

    def _first(self) -> bytes:
        """All of a small file."""
        parts: list[bytes] = []
        missing = CHUNK
        while missing and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next(self, buffer: memoryview) -> memoryview:
        """Into the one buffer; what was taken of it before is no longer looked at."""
        size = 0
        while size < CHUNK and (more := self._file.readinto(buffer[size:])):  # type: ignore[attr-defined]
            size += more
        return buffer[:size]


def _read_hdu(stream: _Stream, number: int, wanted: set[str], problems: list[str], sums_needed: bool) -> Hdu:
    if number == MAX_HDUS:
        raise _Lost(f"the file has more than {MAX_HDUS} HDUs")
    written = _read_header(stream, number)
    header = written.decode("latin1")
    cards = dict(_CARDS.findall(header))
    hdu = Hdu("", cards)
    name = "PRIMARY" if number == 0 else printable(hdu.text("EXTNAME") or f"number {number + 1}")
    if written.translate(None, _ALLOWED):
        problems.append(f"the header of HDU {name} holds characters that FITS does not allow")
    _find_duplicates(name, header, cards, problems)

    size = _data_size(hdu, name)
    kept: list[bytes] | None = [] if name in wanted and size <= MAX_KEPT else None
    if name in wanted and kept is None:
        problems.append(f"the data of HDU {name} are too large to be what they should be: {size} bytes")
    wanted.discard(name)
    data_sum = _read_data(stream, name, size, kept)
    _verify(hdu, name, ones_complement(written, data_sum), data_sum, problems, sums_needed)
    return Hdu(name, cards, b"".join(kept)[:size] if kept is not None else None)


def _read_header(stream: _Stream, number: int) -> bytes:
    blocks: list[bytes] = []
    while True:
        block = bytes(stream.take(BLOCK))
        if not blocks and number == 0 and not block.startswith(b"SIMPLE  ="):
            raise _Lost("this is not a FITS file: it does not begin with a SIMPLE card")
        if not blocks and number > 0 and not block.startswith(b"XTENSION="):
            raise _Lost(f"{len(block) + stream.drain()} bytes follow the last HDU")
        if len(block) < BLOCK:
            raise _Lost(f"the file is cut: it ends inside the header of HDU number {number + 1}, before an END card")
        blocks.append(block)
        end = block.find(_END)
        while end > 0 and end % CARD:
            end = block.find(_END, end + 1)
        if end >= 0:
            return b"".join(blocks)
        if len(blocks) == MAX_HEADER_BLOCKS:
            raise _Lost(f"the header of HDU number {number + 1} has no END card in {MAX_HEADER_BLOCKS} blocks")


def _find_duplicates(name: str, header: str, cards: Mapping[str, str], problems: list[str]) -> None:
    used = -(-len(header.rstrip()) // CARD)
    if len(cards) - (" " * 8 in cards) == used:
        return
    seen: set[str] = set()
    twice: set[str] = set()
    for i in range(0, len(header), CARD):
        key = header[i : i + 8]
        (twice if key in seen else seen).add(key)
    for key in sorted(twice - _COMMENTARY)[:10]:
        problems.append(f"HDU {name} carries the card {printable(key).rstrip()} more than once")


def _data_size(hdu: Hdu, name: str) -> int:
    def must(key: str, default: int | None = None) -> int:
        value = hdu.integer(key)
        if value is None:
            if default is not None and key.ljust(8) not in hdu.cards:
                return default
            raise _Lost(f"HDU {name} has no usable {key} card; what follows cannot be found")
        return value

    bits, axes = must("BITPIX"), must("NAXIS")
    if bits not in (8, 16, 32, 64, -32, -64) or not 0 <= axes <= 999:
        raise _Lost(f"HDU {name} has an impossible size: BITPIX {bits}, NAXIS {axes}")
    if axes == 0:
        return 0
    elements = 1
    for axis in range(1, axes + 1):
        length = must(f"NAXIS{axis}")
        elements *= length
        if length < 0 or elements > MAX_DATA:
            raise _Lost(f"HDU {name} has an impossible size: NAXIS{axis} is {length}")
    parameters, groups = must("PCOUNT", 0), must("GCOUNT", 1)
    size = abs(bits) // 8 * groups * (parameters + elements)
    if parameters < 0 or groups < 0 or size > MAX_DATA:
        raise _Lost(f"HDU {name} has an impossible size: PCOUNT {parameters}, GCOUNT {groups}")
    return size


def _read_data(stream: _Stream, name: str, size: int, kept: list[bytes] | None) -> int:
    total, left = 0, -(-size // BLOCK) * BLOCK
    while left:
        part = stream.take(left)
        if not part or (len(part) < left and len(part) % BLOCK):
            have = -(-size // BLOCK) * BLOCK - left + len(part)
            raise _Lost(f"the file is cut: HDU {name} has {have} bytes of the data, its header says {size}")
        total = ones_complement(part, total)
        left -= len(part)
        if kept is not None:
            kept.append(bytes(part))
    return total


def _verify(hdu: Hdu, name: str, whole: int, data: int, problems: list[str], sums_needed: bool) -> None:
    # Sixteen zeros, or nothing, is how the standard writes "not computed".
    if (hdu.text("CHECKSUM") or "").strip("0") == "":
        if sums_needed:
            problems.append(f"HDU {name} carries no CHECKSUM")
    elif whole != _ONES:
        problems.append(f"CHECKSUM of HDU {name} is wrong: its header or data are not what was written")
    stated = hdu.text("DATASUM")
    if not stated:
        if sums_needed:
            problems.append(f"HDU {name} carries no DATASUM")
    elif not stated.strip().isdecimal() or int(stated.strip()[:20]) % _ONES != data % _ONES:
        problems.append(f"DATASUM of HDU {name} is wrong: its data are not what was written")
