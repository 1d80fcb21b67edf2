"""Nights: what was expected and what came, when a night is complete, and what its receipt says."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Night
from lightkeeper.domain.units import readable_bytes

RAW = 0
"""The level of files as they come."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A night in numbers. Files and bytes are of raw files that ever came; `on_site`, `preserved`, `freed` how many of
    them are there now, have as many verified copies as they are owed, and had to leave the site since. `expected` by
    somebody's list, of which `missing` did not come and `differing` came with another content; None: there is no list.
    `refused` lie in the quarantine. `receipt`: the last one's revision."""

    night: str
    state: Night
    since: datetime
    changed: datetime
    files: int
    bytes: int
    removed: int
    on_site: int
    preserved: int
    freed: int
    to_free: int
    refused: int
    expected: int | None
    missing: int
    differing: int
    receipt: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """One array element, division or level of a night, or all of it."""

    name: str
    files: int
    bytes: int
    on_site: int
    preserved: int
    freed: int


@dataclass(frozen=True, slots=True)
class Product:
    """What was made of a night at one data level. `reduction`: bytes of the raw files for each of its bytes."""

    level: int
    files: int
    bytes: int
    reduction: float


@dataclass(frozen=True, slots=True)
class Stream:
    """The files of one observation block, division, element and stream: how many different numbers they have, from 0,
    and the highest. `member`: the element's number in `members`, the elements whose data these files announce."""

    block: str
    division: str
    element: str
    stream: str
    chunks: int
    last_chunk: int | None
    member: str | None
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Files that an observation block lets expect and that did not come; how many, at least."""

    block: str
    what: str
    files: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was signed when a night was closed: sha256 of the receipt and of the public key."""

    revision: int
    made: datetime
    files: int
    bytes: int
    size: int
    sha256: str
    key: str
    closed_by: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything there is to say of a night. `expected` is that of a list, or what the observation blocks let expect;
    `open` deliveries are being verified; `lacks`: why it is not complete, `alarms`: quality figures out of range, both
    in words."""

    summary: Summary
    expected: int
    by_list: bool
    missing: int
    open: int
    elements: list[Part]
    divisions: list[Part]
    products: list[Product]
    gaps: list[Gap]
    receipts: list[Receipt]
    lacks: list[str] = field(default_factory=list[str])
    alarms: list[str] = field(default_factory=list[str])


def gaps(streams: Iterable[Stream]) -> list[Gap]:
    """What the observation blocks let expect: numbers that are left out, and announced elements without a file."""
    found: list[Gap] = []
    numbered: defaultdict[tuple[str, str, str, str], tuple[int, int]] = defaultdict(lambda: (0, -1))
    there: defaultdict[str, set[str]] = defaultdict(set)
    announced: defaultdict[str, set[str]] = defaultdict(set)
    for one in streams:
        key = one.block, one.element, one.division, one.stream
        chunks, last = numbered[key]
        numbered[key] = chunks + one.chunks, max(last, -1 if one.last_chunk is None else one.last_chunk)
        if one.member is not None:
            there[one.block].add(one.member)
        announced[one.block].update(one.members)
    for (block, element, division, stream), (chunks, last) in sorted(numbered.items()):
        if last + 1 > chunks:
            what = " ".join(filter(None, (element, division, stream))) or "its files"
            found.append(Gap(block, f"{what}: {last + 1 - chunks} of the numbers up to {last}", last + 1 - chunks))
    for block, members in sorted(announced.items()):
        silent = sorted(members - there[block], key=lambda number: (len(number), number))
        if silent:
            found.append(Gap(block, f"data of {', '.join(silent)}, which took part", len(silent)))
    return found


def lacks(night: Summary, missing: int, open_: int) -> list[str]:
    """Why a night is not complete, in words; nothing: it is. What was refused is accounted for and does not count."""
    told: list[str] = []
    if not night.files:
        told.append("nothing has come")
    if missing:
        told.append(f"{_n(missing, 'expected file')} did not come")
    if night.differing:
        told.append(f"{_n(night.differing, 'file')} came with another content than was expected")
    if open_:
        told.append(f"{_n(open_, 'delivery', 'deliveries')} {_are(open_)} being verified")
    if owed := night.files - night.removed - night.preserved:
        told.append(f"{_n(owed, 'file')} {'has' if owed == 1 else 'have'} too few verified copies")
    if night.to_free:
        told.append(f"{_n(night.to_free, 'file')} {_are(night.to_free)} still to be freed on site")
    return told


def is_due(night: Summary, lack: Sequence[str], now: datetime, quiet: timedelta) -> bool:
    """Whether a night closes by itself: it is complete, and nothing changed for a while. No time: never."""
    return bool(quiet) and night.state is Night.OPEN and not lack and now - night.changed >= quiet


def is_late(night: Summary, latest: datetime, receipt: Receipt) -> bool:
    """Whether a closed night has files that its receipt does not name."""
    return night.files > receipt.files or latest > receipt.made


def receipt_head(report: Report, *, revision: int, made: datetime, closed_by: str, why: str) -> list[str]:
    """The first lines of a receipt: what was expected, received, refused, preserved and freed, each behind a '#'. The
    files follow, one on each line, as `sha256sum` writes and checks them."""
    night = report.summary
    before = report.receipts[0] if report.receipts else None
    lines = [
        "Lightkeeper night receipt",
        f"night: {printable(night.night)}",
        f"revision: {revision}",
        f"made: {made:%Y-%m-%dT%H:%M:%S.%fZ}",
        f"closed by: {printable(closed_by)}",
        *([f"why: {printable(why)}"] if why else []),
        *([f"replaces: revision {before.revision}, sha256 {before.sha256}"] if before else []),
        f"expected: {_n(report.expected, 'file')}, {'as listed' if report.by_list else 'by the observation blocks'}",
        f"received: {_amount(night.files, night.bytes)}",
        f"missing: {report.missing}",
        f"differing: {night.differing}",
        f"refused: {night.refused}",
        f"preserved: {night.preserved}",
        f"on site: {night.on_site}",
        f"freed on site: {night.freed}",
        f"removed: {night.removed}",
        *(f"element {printable(p.name) or '-'}: {_amount(p.files, p.bytes)}" for p in report.elements),
        *(f"division {printable(p.name) or '-'}: {_amount(p.files, p.bytes)}" for p in report.divisions),
        *(f"level {p.level}: {_amount(p.files, p.bytes)}, reduction {p.reduction:.3g}" for p in report.products),
        *(f"lacks: {sentence}" for sentence in report.lacks),
        *(f"quality: {printable(sentence)}" for sentence in report.alarms),
        *(f"gap: block {printable(gap.block) or '-'}: {printable(gap.what)}" for gap in report.gaps),
    ]
    return [f"# {line}" for line in lines]


def _amount(files: int, size: int) -> str:
    return f"{_n(files, 'file')}, {size} bytes ({readable_bytes(size)})"


def _n(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
