"""The metadata query language: which files are meant.

A query is a conjunction of conditions on registered metadata keys. It is read from a map as DIRAC writes it,
``{"site": "LaPalma", "thetaP": {"<": 40}, "particle": {"in": ["gamma", "proton"]}}``, checked against the
vocabulary, and compiled to two jsonpath predicates: one on set-level keys, one on file-level keys.
`matches` is the plain meaning that the compiled form must agree with.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaValue, Vocabulary, normalise
from lightkeeper.domain.errors import Invalid, nearest


class Op(StrEnum):
    """Operators, named as in DIRAC's catalogue."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "nin"
    EXISTS = "exists"
    MISSING = "missing"


_SYMBOL = {Op.EQ: "==", Op.NE: "!=", Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}
_ORDERED = {Op.LT, Op.LE, Op.GT, Op.GE}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one key. `value` is a tuple for IN and NOT_IN, None for EXISTS and MISSING."""

    key: str
    op: Op
    value: Any = None

    def matches(self, meta: Mapping[str, MetaValue]) -> bool:
        """Whether metadata fulfil the condition; a missing key fulfils only MISSING."""
        if self.key not in meta:
            return self.op is Op.MISSING
        have = meta[self.key]
        match self.op:
            case Op.EQ:
                return have == self.value
            case Op.NE:
                return have != self.value
            case Op.IN:
                return have in self.value
            case Op.NOT_IN:
                return have not in self.value
            case Op.EXISTS:
                return True
            case Op.MISSING:
                return False
            case Op.LT:
                return have < self.value  # type: ignore[operator]
            case Op.LE:
                return have <= self.value  # type: ignore[operator]
            case Op.GT:
                return have > self.value  # type: ignore[operator]
            case Op.GE:
                return have >= self.value  # type: ignore[operator]

    def to_jsonpath(self) -> str:
        """The condition as a jsonpath predicate; strings are JSON literals, so no value can end the text early."""
        variable = f"$.{json.dumps(self.key)}"
        match self.op:
            case Op.EXISTS:
                return f"exists({variable})"
            case Op.MISSING:
                return f"!exists({variable})"
            case Op.IN:
                return "(" + " || ".join(f"{variable} == {_literal(v)}" for v in self.value) + ")"
            case Op.NOT_IN:
                parts = [f"{variable} != {_literal(v)}" for v in self.value]
                return "(" + " && ".join([f"exists({variable})", *parts]) + ")"
            case _:
                return f"{variable} {_SYMBOL[self.op]} {_literal(self.value)}"


def _literal(value: MetaValue) -> str:
    return json.dumps(value, ensure_ascii=True)


@dataclass(frozen=True, slots=True)
class Query:
    """A conjunction of conditions. An empty query matches every file."""

    conditions: tuple[Condition, ...] = ()

    @classmethod
    def from_map(cls, query: Mapping[str, Any], vocabulary: Vocabulary) -> Self:
        """Read the DIRAC-style map; raises Invalid for unknown keys, operators and wrong types."""
        conditions: list[Condition] = []
        for name, wanted in query.items():
            if isinstance(wanted, Mapping):
                operators: Mapping[Any, Any] = wanted  # type: ignore[assignment]
                conditions += [_condition(name, str(op), value, vocabulary) for op, value in operators.items()]
            elif wanted in ("Any", "Missing"):
                op = Op.EXISTS if wanted == "Any" else Op.MISSING
                conditions.append(Condition(vocabulary.key(name).name, op))
            elif isinstance(wanted, list):
                raise Invalid(
                    f"a list for key '{name}' needs an operator", hint=f"{name}: {{in: {json.dumps(wanted)}}}"
                )
            else:
                conditions.append(_condition(name, "=", wanted, vocabulary))
        return cls(tuple(conditions))

    def to_map(self) -> dict[str, Any]:
        """The map that `from_map` reads back to an equal query."""
        result: dict[str, Any] = {}
        for condition in self.conditions:
            if condition.op in (Op.IN, Op.NOT_IN):
                value: Any = list(condition.value)
            elif condition.value is None:
                value = True
            else:
                value = condition.value
            result.setdefault(condition.key, {})[str(condition.op)] = value
        return {key: ops["="] if list(ops) == ["="] else ops for key, ops in result.items()}

    def matches(self, meta: Mapping[str, MetaValue]) -> bool:
        """Whether a file with these metadata is meant."""
        return all(condition.matches(meta) for condition in self.conditions)

    def jsonpath(self, vocabulary: Vocabulary, level: KeyLevel) -> str | None:
        """The conditions on keys of `level` as one jsonpath predicate; None when there are none."""
        parts = [c.to_jsonpath() for c in self.conditions if vocabulary.key(c.key).level is level]
        return " && ".join(f"({part})" for part in parts) or None


def _condition(name: str, op_text: str, value: Any, vocabulary: Vocabulary) -> Condition:
    key = vocabulary.key(name)
    try:
        op = Op(op_text)
    except ValueError:
        raise Invalid(f"unknown operator '{op_text}' for key '{name}'", hint=nearest(op_text, list(Op))) from None
    if op in (Op.EXISTS, Op.MISSING):
        return Condition(key.name, op)
    if op in (Op.IN, Op.NOT_IN):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise Invalid(f"operator '{op}' for key '{name}' needs a list of values", hint=f"{name}: {{{op}: [a, b]}}")
        values: list[Any] = [*value]  # pyright: ignore[reportUnknownVariableType]
        return Condition(key.name, op, tuple(normalise(key, v) for v in values))
    if op in _ORDERED and key.type in (KeyType.BOOL, KeyType.JSON):
        raise Invalid(f"key '{name}' of type {key.type} has no order, so '{op}' means nothing for it")
    return Condition(key.name, op, normalise(key, value))
