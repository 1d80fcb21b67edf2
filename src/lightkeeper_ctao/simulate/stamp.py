"""Files made from a template: other numbers, other times, any size, right checksums. Nothing but bytes, so it is quick.

A template is a whole file in which the ids and times are marks. A larger file has a longer heap behind its last table;
whoever reads the table does not notice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from lightkeeper_ctao.fits import BLOCK, CARD, CHUNK, ones_complement
from lightkeeper_ctao.simulate.faults import encoded, spans_of

SB_MARK, OBS_MARK = 0x0123456789ABCDEF, 0x0FEDCBA987654321
BEGIN_MARK = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
END_MARK = BEGIN_MARK + timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Template:
    """A file with marks, and where its headers, data and checksums are: begin, data, end, CHECKSUM and DATASUM of each
    HDU. The last HDU says at `heap_at` how long its heap is: `heap` bytes."""

    content: bytes
    hdus: tuple[tuple[int, int, int, int, int], ...]
    heap: int
    heap_at: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is written over the marks; `size` is how large the file is to be, if that is more than the template is."""

    sb_id: int
    obs_id: int
    begin: datetime
    end: datetime
    size: int = 0


def template_of(content: bytes) -> Template:
    """A file that was written with the marks, as a template."""
    hdus: list[tuple[int, int, int, int, int]] = []
    for begin, end in spans_of(content):
        data = begin + _header_size(content[begin:end])
        checksum, datasum = (content.index(key, begin, data) for key in (b"CHECKSUM= '", b"DATASUM = '"))
        hdus.append((begin, data, end, checksum, datasum))
    heap_at = content.index(b"PCOUNT  =", *hdus[-1][:2])
    heap = int(content[heap_at + 9 : heap_at + CARD].partition(b"/")[0])
    return Template(content, tuple(hdus), heap, heap_at)


def stamped(template: Template, stamp: Stamp) -> Iterator[bytes]:
    """The bytes of one file, in pieces."""
    content = bytearray(template.content)
    for mark, value in ((SB_MARK, stamp.sb_id), (OBS_MARK, stamp.obs_id)):
        content = content.replace(mark.to_bytes(8, "little"), value.to_bytes(8, "little"))
    for moment, value in ((BEGIN_MARK, stamp.begin), (END_MARK, stamp.end)):
        content = content.replace(_card_time(moment), _card_time(value))
    more = max(-(-(stamp.size - len(content)) // BLOCK), 0) * BLOCK
    if more:
        heap = template.heap + more
        content[template.heap_at : template.heap_at + CARD] = b"PCOUNT  = %20d" % heap + b" " * 50
    for begin, data, end, checksum, datasum in template.hdus:
        content[checksum + 11 : checksum + 27] = b"0" * 16
        total = ones_complement(memoryview(content)[data:end], _filling_sum(more) if end == len(content) else 0)
        content[datasum : datasum + CARD] = b"DATASUM = '%10d'" % total + b" " * 58
        content[checksum + 11 : checksum + 27] = encoded(ones_complement(memoryview(content)[begin:data], total))
    yield bytes(content)
    for at in range(0, more, CHUNK):
        yield _FILLING[: more - at]


_FILLING = np.random.default_rng(1).bytes(CHUNK)
_WHOLE = ones_complement(_FILLING)


def _filling_sum(size: int) -> int:
    """Ones' complement sum of so many bytes of filling."""
    whole, rest = divmod(size, CHUNK)
    return _WHOLE * whole + ones_complement(_FILLING[:rest])


def _card_time(moment: datetime) -> bytes:
    return f"{moment:%Y-%m-%dT%H:%M:%S}".encode()


def _header_size(hdu: bytes) -> int:
    at = next(i for i in range(0, len(hdu), CARD) if hdu[i : i + 8] == b"END     ")
    return (at // BLOCK + 1) * BLOCK
