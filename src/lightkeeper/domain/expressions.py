"""Storage expressions: which storages are meant, in Rucio's syntax: `tier=2&media=disk\\country=IT`.

A term is a storage's name, `key=value`, `key!=value`, `key<number`, `key>number`, or `*` for every storage; in names
and values `*` stands for any characters. `&` are those in both, `|` those in either, `\\` those in the first and not in
the second. They are read from left to right, all alike, as Rucio does; brackets group.

Every storage has the attributes `site`, `country`, `media`, `kind` (`observatory` or `data-centre`), and those that the
topology gives it. Source: Rucio documentation, "RSE Expressions".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import printable

MAX_LENGTH = 2000
MAX_DEPTH = 20
_TOKEN = re.compile(r"\s*(?:([&|\\()])|([A-Za-z0-9_*][A-Za-z0-9_.*-]*)\s*(?:(!=|[=<>])\s*([A-Za-z0-9_.*-]+))?)")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition on a storage; without `op` its name."""

    key: str
    op: str = ""
    value: str = ""

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether a storage with these attributes is meant; one without the key is only by `!=`."""
        if not self.op:
            return _fits(attributes["name"], self.key)
        have = attributes.get(self.key)
        if self.op == "!=":
            return have is None or not _fits(have, self.value)
        if have is None:
            return False
        if self.op == "=":
            return _fits(have, self.value)
        try:
            return float(have) < float(self.value) if self.op == "<" else float(have) > float(self.value)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Both:
    """Two expressions joined by `&`, `|` or `\\`."""

    first: "Expression"
    sign: str
    second: "Expression"


Expression: TypeAlias = Term | Both


def parse_expression(text: str) -> Expression:
    """The expression that `text` says; raises Invalid with the position."""
    if len(text) > MAX_LENGTH:
        raise Invalid(f"the storage expression has {len(text)} characters; at most {MAX_LENGTH} are read")
    reader = _Reader(text)
    expression = reader.expression(1)
    if reader.at < len(reader.tokens):
        raise reader.wrong("an operator (&, |, \\) or the end")
    return expression


def meant(expression: Expression, storage: StorageElement) -> bool:
    """Whether the expression means this storage."""
    match expression:
        case Term():
            return expression.holds(attributes_of(storage))
        case Both(first, "&", second):
            return meant(first, storage) and meant(second, storage)
        case Both(first, "|", second):
            return meant(first, storage) or meant(second, storage)
        case Both(first, _, second):
            return meant(first, storage) and not meant(second, storage)


def attributes_of(storage: StorageElement) -> dict[str, str]:
    """Everything that an expression may ask of a storage."""
    return {
        **storage.attributes,
        "name": storage.name,
        "site": storage.site,
        "country": storage.country,
        "media": str(storage.media),
        "kind": str(storage.site_kind).replace(" ", "-"),
    }


def check_keys(expression: Expression, storages: list[StorageElement]) -> None:
    """Raises Invalid for an attribute or a storage name that no storage has: a slip, not an empty answer."""
    keys = {key for storage in storages for key in attributes_of(storage)}
    names = [storage.name for storage in storages]
    for term in _terms(expression):
        if term.op and term.key not in keys:
            raise Invalid(f"no storage has an attribute '{term.key}'", hint=nearest(term.key, keys))
        if not term.op and "*" not in term.key and term.key not in names:
            raise Invalid(f"there is no storage '{term.key}'", hint=nearest(term.key, names))


def _terms(expression: Expression) -> list[Term]:
    if isinstance(expression, Term):
        return [expression]
    return [*_terms(expression.first), *_terms(expression.second)]


def _fits(have: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), have) is not None


class _Reader:
    """Recursive descent: an expression is parts joined from left to right; a part is a term or brackets."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[int, str | Term]] = []
        self.at = 0
        self.length = len(text)
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                said = printable(text[position : position + 20].strip())
                raise Invalid(
                    f"storage expression, position {position + 1}: '{said}' means nothing here",
                    hint="write it like tier=2&media=disk\\country=IT",
                )
            sign, key, op, value = found.groups()
            self.tokens.append((found.start() + 1, sign or Term(key, op or "", value or "")))
            position = found.end()

    def expression(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise Invalid(f"the storage expression is nested deeper than {MAX_DEPTH}")
        first = self.part(depth)
        while self.at < len(self.tokens) and self.tokens[self.at][1] in ("&", "|", "\\"):
            sign = str(self.tokens[self.at][1])
            self.at += 1
            first = Both(first, sign, self.part(depth))
        return first

    def part(self, depth: int) -> Expression:
        if self.at < len(self.tokens):
            part = self.tokens[self.at][1]
            self.at += 1
            if isinstance(part, Term):
                return part
            if part == "(":
                inside = self.expression(depth + 1)
                if self.at >= len(self.tokens) or self.tokens[self.at][1] != ")":
                    raise self.wrong("')'")
                self.at += 1
                return inside
            self.at -= 1
        raise self.wrong("a storage, an attribute like tier=2, or '('")

    def wrong(self, expected: str) -> Invalid:
        if self.at < len(self.tokens):
            position, token = self.tokens[self.at]
            found = token.key + token.op + token.value if isinstance(token, Term) else token
            return Invalid(f"storage expression, position {position}: expected {expected}, found '{found}'")
        return Invalid(f"storage expression, position {self.length + 1}: expected {expected}, found the end")
