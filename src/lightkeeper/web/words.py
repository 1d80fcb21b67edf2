"""Numbers, times and texts as people read them on a page."""

from collections.abc import Sequence
from datetime import UTC, datetime

from lightkeeper.domain.units import readable_bytes

LONGEST = 600
"""Characters of a text from outside that a page shows."""


def size(n: float) -> str:
    """'1.5 GB' with a space that does not break."""
    return readable_bytes(n).replace(" ", "\u00a0")


def number(n: int) -> str:
    """'1 234 567' with narrow spaces that do not break."""
    return f"{n:,}".replace(",", "\u202f")


def count(n: int, one: str, many: str = "") -> str:
    """'1 file', '2 files'."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def utc(at: datetime) -> str:
    """'2030-01-02 03:04:05'."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: datetime) -> str:
    """'2030-01-02T03:04:05.678Z', for programs."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(text: str) -> str:
    """A text from files or users without characters that are not seen or that turn the text around."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:LONGEST])
    return shown + "…" if len(text) > LONGEST else shown


def file_name(path: str) -> str:
    """The last part of a path."""
    return plain(path.rpartition("/")[2] or path)


def share(part: float, whole: float) -> float:
    """Percent of the whole, between 0 and 100; something is never nothing, and not all is never all."""
    if whole <= 0 or part <= 0:
        return 0
    if part >= whole:
        return 100
    return round(min(max(100 * part / whole, 0.5), 99.5), 1)


def told(parts: Sequence[tuple[str, int, str]], whole: int) -> str:
    """The parts (class, number, word) of a bar in words: '3 processed, 1 failed, of 9'."""
    return ", ".join([*(f"{number(n)} {word}" for _, n, word in parts if n), f"of {number(whole)}"])
