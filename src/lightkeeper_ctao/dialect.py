"""Fields of production documents: what a key may say, and how it is told that it says something else.

Facts of the observatory's workload system, so that its documents run here. Which keys there are is in `step_types.py`,
what a whole step means in `production.py`; this module knows one field at a time.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.query import Op
from lightkeeper_ctao.marked_yaml import Node


@dataclass(frozen=True, slots=True)
class Field:
    """One key of the document with its place, so that what is wrong with it can be said in one sentence."""

    place: str
    key: str
    node: Node

    def wrong(self, what: str, hint: str = "") -> Invalid:
        """The error to raise."""
        return Invalid(f"line {self.node.line}, key '{printable(self.key)}' of {self.place}: {what}", hint=hint)


def fields(node: Node, place: str) -> dict[str, Field]:
    """The fields of a map; raises Invalid when it is none."""
    if not isinstance(node.value, dict):
        raise Invalid(f"line {node.line}, {place}: a map of keys and values is needed here")
    return {key: Field(place, key, value) for key, value in node.value.items()}


def unknown(
    given: Collection[Field], known: Collection[str], obsolete: Mapping[str, str] = MappingProxyType({})
) -> list[Invalid]:
    """What to say of each field that is not among `known`; `obsolete` are words of older documents, with advice."""
    return [
        field.wrong("unknown key", obsolete.get(field.key) or nearest(field.key, known))
        for field in given
        if field.key not in known
    ]


def known_only(given: Collection[Field], known: Collection[str]) -> None:
    """Raises Invalid for the first field that is not among `known`."""
    for problem in unknown(given, known):
        raise problem


# --- values ----------------------------------------------------------------------------------------------
DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}\Z")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}\Z")
LEVELS = {"MC0": -3, "R0": -2, "R1": -1, "DL0": 0, "DL1": 1, "DL2": 2, "DL3": 3, "DL4": 4, "DL5": 5}


def text(field: Field) -> str:
    """A text, as it is written; a number is taken as its text."""
    if isinstance(field.node.value, list | dict) or not field.node.text.strip():
        raise field.wrong("a text is needed here")
    return field.node.text.strip()


def version(field: Field) -> str:
    """A version, as it is written, also where other readers of YAML see a date or a number."""
    return text(field)


def is_read_otherwise(field: Field) -> str:
    """What other readers of YAML take an unquoted text for: a date, a number; empty when they read the same."""
    if not field.node.quoted and DATE.match(field.node.text.strip()):
        return "date"
    return "" if isinstance(field.node.value, str) else "number"


def integer(field: Field) -> int:
    """A whole number."""
    if not isinstance(field.node.value, int) or isinstance(field.node.value, bool):
        raise field.wrong(f"a whole number is needed, not {_shown(field)}")
    return field.node.value


def positive(field: Field) -> int:
    """A whole number from 1 on."""
    number = integer(field)
    if number < 1:
        raise field.wrong(f"must be at least 1, not {number}")
    return number


def number(field: Field) -> float:
    """Any number."""
    if not isinstance(field.node.value, int | float) or isinstance(field.node.value, bool):
        raise field.wrong(f"a number is needed, not {_shown(field)}")
    return float(field.node.value)


def yes_or_no(field: Field) -> bool:
    """True or false."""
    if not isinstance(field.node.value, bool):
        raise field.wrong(f"true or false is needed, not {_shown(field)}")
    return field.node.value


def level(field: Field) -> int:
    """A data level by its number."""
    found = integer(field)
    if found not in LEVELS.values():
        raise field.wrong(f"{found} is no data level", ", ".join(f"{name} is {n}" for name, n in LEVELS.items()))
    return found


def path(field: Field) -> str:
    """An absolute name in the catalogue, without a slash at its end."""
    try:
        return parse_lfn(text(field).rstrip("/"))
    except Invalid as error:
        raise field.wrong(error.message, error.hint) from None


def plain_name(field: Field) -> str:
    """A name of a step or site."""
    try:
        return parse_name(text(field), field.key)
    except Invalid as error:
        raise field.wrong(error.message, error.hint) from None


def extension(field: Field) -> str:
    """What output names end with, without the dot it may begin with."""
    found = text(field).removeprefix(".")
    if not PLAIN.match(found):
        raise field.wrong(f"'{printable(found)}' cannot end a file name", "like DL1.h5 or merged.DL2.h5")
    return found


def one_of(*allowed: str) -> "Callable[[Field], str]":
    """One of some texts."""

    def read(field: Field) -> str:
        found = text(field)
        if found not in allowed:
            raise field.wrong(f"'{printable(found)}' is not known here", nearest(found, allowed))
        return found

    return read


def words(field: Field) -> list[str]:
    """A list of words in one text, separated by commas."""
    found = [word.strip() for word in text(field).split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise field.wrong("words separated by commas are needed, each once", f"like {field.key}: first,second")
    return found


def site_names(field: Field) -> list[str]:
    """Names of sites, separated by commas."""
    try:
        return [parse_name(name, field.key) for name in words(field)]
    except Invalid as error:
        raise error if error.message.startswith("line ") else field.wrong(error.message, error.hint) from None


def words_of(*allowed: str) -> "Callable[[Field], list[str]]":
    """Some of these words."""

    def read(field: Field) -> list[str]:
        found = words(field)
        for word in found:
            if word not in allowed:
                raise field.wrong(f"'{printable(word)}' is not known here", nearest(word, allowed))
        return found

    return read


def one_list_of(*allowed: tuple[str, ...]) -> "Callable[[Field], list[str]]":
    """One of some lists of words."""

    def read(field: Field) -> list[str]:
        found = words(field)
        if tuple(found) not in allowed:
            lists = "; or ".join(", ".join(one) for one in allowed)
            raise field.wrong(f"'{printable(text(field))}' cannot be simulated", f"write {lists}")
        return found

    return read


def probability(field: Field) -> float:
    """A number from 0 to 1."""
    found = number(field)
    if not 0 <= found <= 1:
        raise field.wrong(f"must be from 0 to 1, not {found:g}")
    return found


def pointing(field: Field) -> float:
    """North or South as the direction showers come from, in degrees."""
    return {"North": 180.0, "South": 0.0}[one_of("North", "South")(field)]


def condition(field: Field) -> Any:  # JSON of any shape
    """A condition of a query: a value, or a map of operators. None when it is left empty."""
    match field.node.value:
        case list():
            wanted = ", ".join(item.text for item in field.node.value)
            raise field.wrong("a list needs an operator", f"{field.key}: {{in: [{wanted}]}}")
        case dict():
            return {op: _operand(field, op, node) for op, node in _operators(field)}
        case _:
            return field.node.value


def _operators(field: Field) -> list[tuple[str, Node]]:
    given = field.node.value
    if not isinstance(given, dict) or not given:
        raise field.wrong("a value or an operator is needed")
    for op, node in given.items():
        if op not in list(Op):
            raise Field(field.place, field.key, node).wrong(
                f"unknown operator '{printable(op)}'", nearest(op, list(Op))
            )
    return list(given.items())


def _operand(field: Field, op: str, node: Node) -> Any:  # JSON of any shape
    here = Field(field.place, field.key, node)
    if op in (Op.IN, Op.NOT_IN):
        if not isinstance(node.value, list) or not node.value:
            raise here.wrong(f"operator '{op}' needs a list of values", f"{field.key}: {{{op}: [a, b]}}")
        values = [item.value for item in node.value]
    else:
        values = [node.value]
    if any(value is None or isinstance(value, list | dict) for value in values):
        raise here.wrong(f"operator '{op}' needs plain values")
    return values if op in (Op.IN, Op.NOT_IN) else values[0]


def _shown(field: Field) -> str:
    if isinstance(field.node.value, list | dict):
        return "a list or map"
    return f"'{printable(field.node.text)}'"


# --- translated keys of queries --------------------------------------------------------------------------
def read_sct(field: Field) -> str:
    """True or False as text, or a text."""
    found = text(field)
    return found.capitalize() if found.lower() in ("true", "false") else found


MOON: Final = {"dark": 1, "half": 5, "full": 19}


def _moon(field: Field) -> int:
    return MOON[one_of(*MOON)(field)]


TRANSLATED: Final[Mapping[str, tuple[str, Callable[[Field], Any]]]] = {
    "pointing_dir": ("phiP", pointing),
    "zenith_angle": ("thetaP", number),
    "moon": ("nsb", _moon),
    "sct": ("sct", read_sct),
    "div_ang": ("div_ang", text),
}
"""Key of the document: key of the catalogue, and how its value is read."""


def translated(field: Field) -> tuple[str, Any]:
    """A field of a query as key and condition of the catalogue."""
    if field.key not in TRANSLATED:
        return field.key, condition(field)
    key, read = TRANSLATED[field.key]
    plain = condition(field)
    if plain is None:
        return key, None
    if isinstance(field.node.value, dict):
        return key, {op: _each(field, node, read) for op, node in field.node.value.items()}
    return key, plain if plain in ("Any", "Missing") else read(field)


def _each(field: Field, node: Node, read: Callable[[Field], Any]) -> Any:  # JSON of any shape
    if isinstance(node.value, list):
        return [read(Field(field.place, field.key, item)) for item in node.value]
    return read(Field(field.place, field.key, node))
