"""One production document for many cases: `$layout` in it stands for a value that is given when it is submitted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_name, printable

MAX_VARIANTS = 1_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}\Z")


@dataclass(frozen=True, slots=True)
class Variant:
    """A document with every value in its place, and the name of its production."""

    name: str
    document: str


def variants(name: str, document: str, values: Mapping[str, Sequence[str]]) -> list[Variant]:
    """One for each combination of values, the last word changing fastest; raises Invalid. Without values it is the
    document itself. A production's name ends with its values."""
    for word, choices in values.items():
        if not _NAME.match(word):
            raise Invalid(f"'{printable(word)}' cannot stand for values", hint="like layout: letters, digits and '_'")
        if not re.search(_mark(word), document):
            raise Invalid(f"the document does not say ${word}", hint=f"write ${word} where the value belongs")
        if not choices or len(set(choices)) < len(choices):
            raise Invalid(f"${word} needs values, each once", hint=f"--for {word}=A,B")
        for choice in choices:
            if not _VALUE.match(choice):
                raise Invalid(
                    f"'{printable(choice)}' cannot be a value of ${word}", hint="letters, digits, '.', '_', '-'"
                )
    combinations = list(product(*values.values()))
    if len(combinations) > MAX_VARIANTS:
        raise Invalid(f"these are {len(combinations)} productions", hint=f"at most {MAX_VARIANTS} at once")
    return [_variant(name, document, dict(zip(values, chosen, strict=True))) for chosen in combinations]


def _variant(name: str, document: str, chosen: Mapping[str, str]) -> Variant:
    for word, value in chosen.items():
        document = re.sub(_mark(word), value, document)
    return Variant(parse_name("_".join([name, *chosen.values()]).replace("+", "_"), "production"), document)


def _mark(word: str) -> str:
    """Where a word stands in a document: $word or ${word}, not as the begin of a longer one."""
    return rf"\$(?:\{{{word}\}}|{word}(?![A-Za-z0-9_]))"
