"""Quality figures: numbers that products of a kind have, how they go from night to night, and when they alarm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightkeeper.domain.catalog import KeyType, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_name


@dataclass(frozen=True, slots=True)
class Figure:
    """A quality figure of the files that `files`, a map of metadata keys and values, means. Its value is that of the
    metadata key `key`, wherever it came from: a header, a job, or somebody who measured it; with `per`, two keys of
    times, it is divided by the seconds between them. It is in order from `low` to `high`; None: without a bound.

    With `reduction_to` it is a figure of nights instead: the bytes of raw files for each byte at that data level.
    """

    name: str
    key: str = ""
    per: tuple[str, str] | None = None
    reduction_to: int | None = None
    files: Mapping[str, Any] = field(default_factory=dict[str, Any])
    low: float | None = None
    high: float | None = None
    unit: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class NightValue:
    """A figure in one night, of one array element or of all (`element` is empty). `below` and `above` its range are so
    many files; a figure of nights has one value, which counts as one file."""

    night: str
    element: str
    files: int
    mean: float
    least: float
    most: float
    below: int
    above: int

    @property
    def out_of_range(self) -> int:
        """Files whose value is not in order."""
        return self.below + self.above


@dataclass(frozen=True, slots=True)
class Alarm:
    """A figure that is out of range in a night that is open."""

    figure: str
    unit: str
    low: float | None
    high: float | None
    value: NightValue

    @property
    def told(self) -> str:
        """The alarm in one sentence."""
        of = f" of {self.value.element}" if self.value.element else ""
        worst = self.value.least if self.value.below else self.value.most
        bound, word = (self.low, "below") if self.value.below else (self.high, "above")
        unit = f" {self.unit}" if self.unit else ""
        n = self.value.out_of_range
        return (
            f"{self.figure}{of} in night {self.value.night}: {worst:.4g}{unit} is {word} {bound:.4g}{unit}"
            f" ({n} {'value' if n == 1 else 'values'} out of range)"
        )


def check(figure: Figure, vocabulary: Vocabulary) -> None:
    """Raises Invalid for a figure that cannot be."""
    parse_name(figure.name, "quality figure")
    if (figure.reduction_to is None) == (not figure.key):
        raise Invalid(f"figure {figure.name} needs a key, or a level for reduction_to, and not both")
    if figure.reduction_to is not None and (figure.per or figure.files):
        raise Invalid(f"figure {figure.name}: a reduction is of whole nights, so it has no files and no per")
    if figure.key and vocabulary.key(figure.key).type not in (KeyType.INT, KeyType.FLOAT):
        raise Invalid(f"figure {figure.name}: the metadata key '{figure.key}' is no number")
    for key in figure.per or ():
        if vocabulary.key(key).type is not KeyType.TIME:
            raise Invalid(f"figure {figure.name}: the metadata key '{key}' is no time")
    if figure.low is not None and figure.high is not None and figure.low > figure.high:
        raise Invalid(f"figure {figure.name}: its range ends at {figure.high:g}, before it begins at {figure.low:g}")
    if figure.low is None and figure.high is None:
        raise Invalid(f"figure {figure.name} has no range", hint="give it low, high, or both")
