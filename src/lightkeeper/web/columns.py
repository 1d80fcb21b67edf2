"""Columns of bytes, one beside the other, each piled up of parts: what the charts of the pages are drawn of."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightkeeper.web.words import size

COLOURS = 6
"""Parts with a colour of their own; the smallest share the last one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a column: x in columns, y and height in percent of the highest column."""

    x: float
    y: float
    height: float
    colour: int
    told: str


@dataclass(frozen=True, slots=True)
class Share:
    """What one part has in all columns together, and its colour."""

    name: str
    colour: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Columns with their labels, from left to right. `most`: bytes of the highest column."""

    labels: list[str]
    shares: list[Share]
    columns: list[list[Piece]]
    most: int


def chart(
    labels: Sequence[str], volumes: Mapping[tuple[str, str], int], told: Callable[[str], str] = lambda part: part
) -> Chart:
    """The chart of bytes by label and part, the part that has most at the bottom. `told` says in words what bytes of a
    part are."""
    of_part: Counter[str] = Counter()
    for (_, part), bytes_ in volumes.items():
        of_part[part] += bytes_
    names = sorted((name for name in of_part if of_part[name]), key=lambda name: (-of_part[name], name))
    shares = [Share(name, min(n, COLOURS - 1), of_part[name]) for n, name in enumerate(names)]
    most = max((sum(volumes.get((label, name), 0) for name in names) for label in labels), default=0)
    columns: list[list[Piece]] = []
    for n, label in enumerate(labels):
        top, column = 100.0, list[Piece]()
        for share in shares:
            if bytes_ := volumes.get((label, share.name), 0):
                height = 100 * bytes_ / most
                top -= height
                text = f"{label}: {size(bytes_)} {told(share.name)}"
                column.append(Piece(n + 0.14, round(top, 2), round(height, 2), share.colour, text))
        columns.append(column)
    return Chart(list(labels), shares, columns, most)
