"""The query language: which files are meant, as a tree of conditions with one meaning.

Before: `query_text` read a text, or a map came as JSON.    After: the store compiles the tree to SQL.

A condition looks at one registered metadata key, or at what the catalogue itself knows of a file (`Word`). It holds
when any of the values it looks at does; `!=` and `not in` hold when there are values and none is meant. A file without
the key fulfils only `missing`. `not X` is the exact complement of X, so `not (zenith < 40)` includes files without
zenith. `Query.matches` is this meaning in plain Python; the compiled form must agree with it.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self, TypeAlias, cast

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary, normalise
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.domain.states import File, Replica

MAX_DEPTH = 50
MAX_VALUES = 10_000
MAX_PATTERN = 1000
MAX_DIGITS = 100
MAX_AGE = 1000 * 365 * 86400


class Op(StrEnum):
    """Operators, named as in DIRAC's catalogue; the text form writes NOT_IN as `not in`."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "nin"
    BETWEEN = "between"
    LIKE = "like"
    EXISTS = "exists"
    MISSING = "missing"


class Word(StrEnum):
    """What the catalogue itself knows of a file."""

    SIZE = "size"
    AGE = "age"
    CREATED = "created"
    SCOPE = "scope"
    DIRECTORY = "directory"
    NAME = "name"
    STORAGE = "storage"
    SITE = "site"
    COPIES = "copies"
    STATE = "state"
    PRODUCED_BY = "produced_by"
    ANCESTOR_OF = "ancestor_of"
    DESCENDANT_OF = "descendant_of"
    DATASET = "dataset"
    FILE_STATE = "file_state"


WORDS = frozenset(str(word) for word in Word)
NO_VALUE = frozenset({Op.EXISTS, Op.MISSING})
LISTS = frozenset({Op.IN, Op.NOT_IN})
_ORDER = frozenset({Op.LT, Op.LE, Op.GT, Op.GE, Op.BETWEEN})
_EQUALITY = frozenset({Op.EQ, Op.NE, Op.IN, Op.NOT_IN})
_SYMBOL = {Op.EQ: "==", Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}

OPERATORS: Mapping[Word, frozenset[Op]] = {
    Word.SIZE: _EQUALITY | _ORDER,
    Word.AGE: _EQUALITY | _ORDER,
    Word.CREATED: _EQUALITY | _ORDER,
    Word.COPIES: _EQUALITY | _ORDER,
    Word.SCOPE: _EQUALITY | {Op.LIKE},
    Word.DIRECTORY: _EQUALITY | {Op.LIKE},
    Word.NAME: _EQUALITY | {Op.LIKE},
    Word.STORAGE: _EQUALITY | NO_VALUE | {Op.LIKE},
    Word.SITE: _EQUALITY | NO_VALUE | {Op.LIKE},
    Word.STATE: _EQUALITY | NO_VALUE,
    Word.PRODUCED_BY: _EQUALITY | NO_VALUE,
    Word.ANCESTOR_OF: _EQUALITY,
    Word.DESCENDANT_OF: _EQUALITY,
    Word.DATASET: _EQUALITY,
    Word.FILE_STATE: _EQUALITY,
}


# --- facts -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a condition can look at. `storages` and `sites` are those of Available replicas; `states` of all;
    `produced_by` holds the transformation's number and the production's name; `now` is what ages are measured by."""

    meta: Mapping[str, Any]
    lfn: str = "/"
    size: int = 0
    scope: str = ""
    created: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    storages: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    produced_by: frozenset[int | str] = frozenset()
    ancestor_of: frozenset[str] = frozenset()
    descendant_of: frozenset[str] = frozenset()
    datasets: frozenset[str] = frozenset()
    file_state: str = str(File.CURRENT)

    def of(self, word: Word) -> Iterable[Any]:
        """The values that a condition on `word` looks at."""
        directory, _, name = self.lfn.rpartition("/")
        match word:
            case Word.SIZE:
                return [self.size]
            case Word.AGE:
                return [(self.now - self.created).total_seconds()]
            case Word.CREATED:
                return [self.created]
            case Word.SCOPE:
                return [self.scope]
            case Word.DIRECTORY:
                return [directory]
            case Word.NAME:
                return [name]
            case Word.STORAGE:
                return self.storages
            case Word.SITE:
                return self.sites
            case Word.COPIES:
                return [len(self.sites)]
            case Word.STATE:
                return self.states
            case Word.PRODUCED_BY:
                return self.produced_by
            case Word.ANCESTOR_OF:
                return self.ancestor_of
            case Word.DESCENDANT_OF:
                return self.descendant_of
            case Word.DATASET:
                return self.datasets
            case Word.FILE_STATE:
                return [self.file_state]


# --- tree ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one metadata key; `path` leads to a part of a JSON key's value. `value` is a tuple for IN,
    NOT_IN and BETWEEN, None for EXISTS and MISSING."""

    key: str
    op: Op
    value: Any = None
    path: tuple[str, ...] = ()
    nested: bool = field(default=False, compare=False)
    """Whether the key is of type JSON: lists in it are looked through."""

    def matches(self, facts: Facts) -> bool:
        """Whether the file's metadata fulfil the condition."""
        if self.key not in facts.meta:
            return self.op is Op.MISSING
        found = [facts.meta[self.key]]
        for part in self.path:
            inside = _looked_through(found)
            found = [cast("dict[str, Any]", one)[part] for one in inside if isinstance(one, dict) and part in one]
        if self.op in NO_VALUE:
            return (self.op is Op.EXISTS) is bool(found)
        compared = _looked_through(_looked_through(found)) if self.nested else found
        if self.op in (Op.NE, Op.NOT_IN):
            return bool(found) and not _holds(compared, Op.IN if self.op is Op.NOT_IN else Op.EQ, self.value)
        return _holds(compared, self.op, self.value)

    def to_jsonpath(self, *, negated: bool = False) -> str:
        """The condition, or its complement, as a jsonpath predicate; strings are JSON literals, so no value can end
        the text early."""
        target = "$" + "".join(f".{json.dumps(part)}" for part in (self.key, *self.path))
        match self.op:
            case Op.EXISTS | Op.MISSING:
                there = (self.op is Op.EXISTS) is not negated
                return f"exists({target})" if there else f"!(exists({target}))"
            case Op.NE | Op.NOT_IN:
                equal = self._compared(target, Op.IN if self.op is Op.NOT_IN else Op.EQ)
                if negated:
                    return f"(!(exists({target})) || {equal})"
                return f"(exists({target}) && !({equal}))"
            case _:
                compared = self._compared(target, self.op)
                return f"!({compared})" if negated else compared

    def _compared(self, target: str, op: Op) -> str:
        return f"exists({target} ? ({_predicate('@', op, self.value)}))" if self.nested else _predicate(
            target, op, self.value
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileCondition:
    """One condition on what the catalogue knows of a file: bytes, seconds of age, times as ISO 8601 in UTC."""

    word: Word
    op: Op
    value: Any = None

    def matches(self, facts: Facts) -> bool:
        """Whether the catalogue's facts fulfil the condition."""
        found = list(facts.of(self.word))
        if self.op in NO_VALUE:
            return (self.op is Op.EXISTS) is bool(found)
        wanted = self.value
        if self.word is Word.CREATED:
            wanted = tuple(as_time(v) for v in wanted) if isinstance(wanted, tuple) else as_time(wanted)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if self.op in (Op.NE, Op.NOT_IN):
            equal = Op.IN if self.op is Op.NOT_IN else Op.EQ
            always = self.word in (Word.ANCESTOR_OF, Word.DESCENDANT_OF, Word.DATASET)
            return (always or bool(found)) and not _holds(found, equal, wanted)
        return _holds(found, self.op, wanted)


@dataclass(frozen=True, slots=True)
class Not:
    """The complement."""

    part: "Tree"


@dataclass(frozen=True, slots=True)
class And:
    """All of them. Without parts, only as a whole query: every file."""

    parts: tuple["Tree", ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """Any of them."""

    parts: tuple["Tree", ...]


Tree: TypeAlias = And | Or | Not | Condition | FileCondition


def all_of(parts: Iterable[Tree]) -> Tree:
    """`parts` joined by and, in the one form this has: flat, and never of one part."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, And) else (part,))]
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(parts: Iterable[Tree]) -> Tree:
    """`parts` joined by or, in the one form this has."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Or) else (part,))]
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def conditions(tree: Tree) -> Iterable[Condition | FileCondition]:
    """Every condition of a tree, in order."""
    match tree:
        case And(parts) | Or(parts):
            for part in parts:
                yield from conditions(part)
        case Not(part):
            yield from conditions(part)
        case _:
            yield tree


def matches(tree: Tree, facts: Facts) -> bool:
    """The meaning of a tree."""
    match tree:
        case And(parts):
            return all(matches(part, facts) for part in parts)
        case Or(parts):
            return any(matches(part, facts) for part in parts)
        case Not(part):
            return not matches(part, facts)
        case _:
            return tree.matches(facts)


def to_jsonpath(tree: Tree, *, negated: bool = False) -> str:
    """A tree of conditions on metadata keys, or its complement, as one jsonpath predicate.

    `not` is carried down to the conditions: PostgreSQL's GIN index answers `!(a && b)` as `!(b)` when it cannot look
    for a, and so loses rows.
    """
    match tree:
        case And(parts) | Or(parts):
            if not parts:
                return "true"
            joined_by = " && " if isinstance(tree, And) is not negated else " || "
            return _balanced([to_jsonpath(part, negated=negated) for part in parts], joined_by)
        case Not(part):
            return to_jsonpath(part, negated=not negated)
        case Condition():
            return tree.to_jsonpath(negated=negated)
        case FileCondition():
            raise Invalid(
                f"a condition on '{tree.word}' cannot be used here: only metadata keys decide",
                hint=f'if you mean the metadata key of that name, write "{tree.word}" in double quotes',
            )


def replaced(tree: Tree, condition: Callable[[FileCondition], Tree]) -> Tree:
    """The tree with `condition` of every condition on the catalogue in its place."""
    match tree:
        case And(parts):
            return all_of(replaced(part, condition) for part in parts)
        case Or(parts):
            return any_of(replaced(part, condition) for part in parts)
        case Not(part):
            return Not(replaced(part, condition))
        case FileCondition():
            return condition(tree)
        case Condition():
            return tree


def as_time(text: str) -> datetime:
    """A time of the tree as an aware datetime."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def glob_to_regex(pattern: str) -> str:
    """`*` any characters, `?` one; everything else itself. Means the same to Python and to PostgreSQL."""
    return "^" + "".join(_GLOB.get(c) or (c if c.isalnum() or ord(c) > 127 else _escaped(c)) for c in pattern) + "$"


def glob_to_like(pattern: str) -> str:
    """The same pattern for LIKE, whose escape character is the backslash."""
    for sign in ("\\", "%", "_"):
        pattern = pattern.replace(sign, "\\" + sign)
    return pattern.replace("*", "%").replace("?", "_")


_GLOB = {"*": ".*", "?": "."}


def _escaped(c: str) -> str:
    return f"\\{c}" if c.isprintable() and c not in " _" else c


def _looked_through(found: list[Any]) -> list[Any]:
    inside: list[Any] = []
    for one in found:
        if isinstance(one, list):
            inside.extend(cast("list[Any]", one))
        else:
            inside.append(one)
    return inside


def _holds(found: Sequence[Any], op: Op, wanted: Any) -> bool:
    """Whether any value that was found fulfils it."""
    test: Callable[[Any], bool]
    match op:
        case Op.EQ:
            test = lambda have: _alike(have, wanted) and have == wanted  # noqa: E731
        case Op.IN:
            test = lambda have: any(_alike(have, one) and have == one for one in wanted)  # noqa: E731
        case Op.LT:
            test = lambda have: _alike(have, wanted) and have < wanted  # noqa: E731
        case Op.LE:
            test = lambda have: _alike(have, wanted) and have <= wanted  # noqa: E731
        case Op.GT:
            test = lambda have: _alike(have, wanted) and have > wanted  # noqa: E731
        case Op.GE:
            test = lambda have: _alike(have, wanted) and have >= wanted  # noqa: E731
        case Op.BETWEEN:
            low, high = wanted
            test = lambda have: _alike(have, low) and low <= have <= high  # noqa: E731
        case Op.LIKE:
            pattern = re.compile(glob_to_regex(wanted).removesuffix("$") + r"\Z", re.DOTALL)
            test = lambda have: isinstance(have, str) and pattern.match(have) is not None  # noqa: E731
        case _:
            raise AssertionError(op)
    return any(test(have) for have in found)


def _alike(have: Any, wanted: Any) -> bool:
    """Values of different types are neither equal nor ordered; true is not 1."""
    for kind in (bool, (int, float), str, datetime):
        if isinstance(wanted, kind):
            return isinstance(have, kind) and isinstance(have, bool) is isinstance(wanted, bool)
    return False


def _predicate(target: str, op: Op, value: Any) -> str:
    match op:
        case Op.IN:
            return _balanced([f"{target} == {_literal(one)}" for one in value], " || ")
        case Op.BETWEEN:
            return f"({target} >= {_literal(value[0])} && {target} <= {_literal(value[1])})"
        case Op.LIKE:
            return f'{target} like_regex {_literal(glob_to_regex(value))} flag "s"'
        case _:
            return f"{target} {_SYMBOL[op]} {_literal(value)}"


def _balanced(parts: Sequence[str], joined_by: str) -> str:
    """The parts joined so that the depth grows with the logarithm of their number: the database recurses on it."""
    if len(parts) == 1:
        return f"({parts[0]})"
    middle = len(parts) // 2
    return f"({_balanced(parts[:middle], joined_by)}{joined_by}{_balanced(parts[middle:], joined_by)})"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


# --- making conditions -----------------------------------------------------------------------------------------
def key_condition(key: MetaKey, path: Sequence[str], op: Op, value: Any) -> Condition:
    """A checked condition on a metadata key; raises Invalid for a value or operator that means nothing for it."""
    nested = key.type is KeyType.JSON
    for part in path:
        _sound(part)
    if path and not nested:
        raise Invalid(f"metadata key '{key.name}' is of type {key.type} and has no parts like '{printable(path[0])}'")
    if op in NO_VALUE:
        return Condition(key.name, op, None, tuple(path), nested)
    if op in _ORDER and key.type is KeyType.BOOL:
        raise Invalid(f"key '{key.name}' of type {key.type} has no order, so '{op}' means nothing for it")
    if op is Op.LIKE:
        if key.type not in (KeyType.STRING, KeyType.JSON):
            raise Invalid(f"'like' compares texts, and metadata key '{key.name}' is of type {key.type}")
        return Condition(key.name, op, _pattern(value), tuple(path), nested)

    def one(item: Any) -> Any:
        if not nested:
            return _sound(normalise(key, item))
        if isinstance(item, bool) and op in _ORDER:
            raise Invalid(f"true and false have no order, so '{op}' means nothing for key '{key.name}'")
        if not isinstance(item, str | int | float) or (isinstance(item, float) and abs(item) in (float("inf"),)):
            raise Invalid(
                f"metadata key '{key.name}' of type json is compared with texts, numbers, true and false, "
                f"not with {printable(repr(item))}"
            )
        if item != item:
            raise Invalid(f"key '{key.name}' cannot be compared with NaN")
        return _sound(item)

    return Condition(key.name, op, _each(key.name, op, value, one), tuple(path), nested)


def file_condition(word: Word, op: Op, value: Any) -> FileCondition:
    """A checked condition on what the catalogue knows; raises Invalid."""
    if op not in OPERATORS[word]:
        raise Invalid(
            f"'{op}' means nothing for '{word}'",
            hint=f"operators of '{word}' are: {', '.join(_shown(o) for o in Op if o in OPERATORS[word])}",
        )
    if op in NO_VALUE:
        return FileCondition(word, op)
    if op is Op.LIKE:
        return FileCondition(word, op, _pattern(value))
    return FileCondition(word, op, _each(word, op, value, lambda item: _file_value(word, item)))


def _each(name: str, op: Op, value: Any, one: Callable[[Any], Any]) -> Any:
    """The value of an operator, or each of its values, checked."""
    if op not in LISTS and op is not Op.BETWEEN:
        return one(value)
    items: list[Any] = list(cast("Sequence[Any]", value)) if isinstance(value, list | tuple) else []
    if not items:
        raise Invalid(f"operator '{_shown(op)}' for key '{name}' needs a list of values", hint=f"{name} {op} (a, b)")
    if len(items) > MAX_VALUES:
        raise Invalid(f"the query holds more than {MAX_VALUES} values", hint="ask in several queries")
    checked = tuple(one(item) for item in items)
    if op is Op.BETWEEN:
        if len(checked) != 2 or isinstance(checked[0], str) is not isinstance(checked[1], str):
            raise Invalid(f"'between' for key '{name}' needs two values of one type: {name} between 1..9")
        if checked[0] > checked[1]:
            raise Invalid(f"the range of key '{name}' is empty: {checked[0]} is more than {checked[1]}")
    return checked


def _file_value(word: Word, item: Any) -> Any:
    match word:
        case Word.SIZE | Word.AGE:
            return _amount(word, item)
        case Word.COPIES:
            return _sound(normalise(MetaKey("copies", KeyType.INT), item))
        case Word.CREATED:
            return _sound(normalise(MetaKey("created", KeyType.TIME), item))
        case Word.PRODUCED_BY:
            if isinstance(item, int) and not isinstance(item, bool):
                return _sound(item)
            return _text(word, item)
        case Word.STATE | Word.FILE_STATE:
            of, states = ("a replica", Replica) if word is Word.STATE else ("a file", File)
            if item not in list(states):
                raise Invalid(f"'{printable(str(item))}' is no state of {of}", hint=nearest(str(item), list(states)))
            return str(item)
        case Word.ANCESTOR_OF | Word.DESCENDANT_OF:
            return str(parse_lfn(_text(word, item)))
        case Word.DIRECTORY:
            return _text(word, item).rstrip("/")
        case _:
            return _text(word, item)


SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
DURATIONS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_AMOUNT = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE]\+?[0-9]{1,2})?)\s*([A-Za-z]*)\Z")


def _amount(word: Word, item: Any) -> int | float:
    """Bytes or seconds; `item` is a number of them, or a text like '10MB' or '2d'."""
    units, example = (SIZES, "10MB") if word is Word.SIZE else (DURATIONS, "2d")
    if isinstance(item, str):
        read = _AMOUNT.match(item)
        if read is None or (read[2] and read[2] not in units) or (word is Word.AGE and not read[2]):
            raise Invalid(
                f"'{printable(item)}' is no {'size' if word is Word.SIZE else 'duration'}",
                hint=f"write it like {example}; units are {', '.join(units)}",
            )
        exact = Decimal(read[1]) * units[read[2] or "B"]
        item = int(exact) if exact == exact.to_integral_value() else float(exact)
    if isinstance(item, bool) or not isinstance(item, int | float) or item != item or item < 0:
        raise Invalid(f"'{word}' is compared with a number that is not negative, like {example}")
    if isinstance(item, float) and word is Word.AGE and item < MAX_AGE:
        item = round(item, 6)
    if isinstance(item, float) and item.is_integer():
        item = int(item)
    if word is Word.SIZE and (isinstance(item, float) or item >= 1 << 63):
        raise Invalid(f"{item} is no whole number of bytes that a file can have")
    if word is Word.AGE and item > MAX_AGE:
        raise Invalid("an age is at most a thousand years")
    return item


def _text(word: str, item: Any) -> str:
    if not isinstance(item, str):
        raise Invalid(f"'{word}' is compared with a text, not with {printable(repr(item))}")
    return _sound(item)


def _pattern(value: Any) -> str:
    text = _text("like", value)
    if len(text) > MAX_PATTERN:
        raise Invalid(f"a pattern may have {MAX_PATTERN} characters, not {len(text)}")
    return text


def _sound(value: Any) -> Any:
    """Refuses what no database holds: NUL, halves of characters, numbers without bounds."""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise Invalid(f"the text '{printable(value)}' holds a character that no name and no value can have")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise Invalid(f"a number has more than {MAX_DIGITS} digits")
    return value


def _shown(op: Op) -> str:
    return "not in" if op is Op.NOT_IN else str(op)


def read_op(text: str, name: str) -> Op:
    """The operator `text`; raises Invalid with the nearest known one."""
    try:
        return Op.NOT_IN if text == "not in" else Op(text)
    except ValueError:
        raise Invalid(
            f"unknown operator '{printable(text)}' for key '{printable(name)}'", hint=nearest(text, list(Op))
        ) from None


def unknown_key(name: str, vocabulary: Vocabulary, *, words: bool) -> Invalid:
    """Nobody registered this key."""
    known = {key.name for key in vocabulary.keys} | (WORDS if words else set[str]())
    return Invalid(f"unknown metadata key '{printable(name)}'", hint=nearest(name, known))


# --- the query -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Query:
    """A checked tree. An empty query matches every file."""

    tree: Tree = And()

    @classmethod
    def from_map(cls, query: Mapping[str, Any], vocabulary: Vocabulary) -> Self:
        """Read the JSON form, or a map as DIRAC writes it, `{"thetaP": {"<": 40}, "particle": {"in": ["gamma"]}}`;
        raises Invalid for unknown keys, operators and wrong types."""
        tree = _from_json(query, vocabulary, 1) if _is_tree(query) else all_of(_from_dirac(query, vocabulary))
        check_size(tree)
        return cls(tree)

    def to_map(self) -> dict[str, Any]:
        """The map that `from_map` reads back to an equal query: DIRAC's form where it can say it, else JSON."""
        return self.to_dirac() or self.to_json()

    def to_dirac(self) -> dict[str, Any]:
        """The map as DIRAC writes it; empty when the query says more than such a map can."""
        return _to_dirac(self.tree)

    def to_json(self) -> dict[str, Any]:
        """The JSON form: `{"and": [{"key": "zenith", "op": "<", "value": 40.0}, {"file": "size", …}]}`."""
        return {} if self.tree == And() else _to_json(self.tree)

    def matches(self, facts: Facts | Mapping[str, Any]) -> bool:
        """Whether the file with these facts, or just these metadata, is meant."""
        if not isinstance(facts, Facts):
            if any(isinstance(c, FileCondition) for c in conditions(self.tree)):
                raise Invalid("this query asks more than metadata can tell")
            facts = Facts(facts)
        return matches(self.tree, facts)

    def jsonpath(self, vocabulary: Vocabulary, level: KeyLevel) -> str | None:
        """The conditions on keys of `level` as one jsonpath predicate; None when there are none. Raises Invalid when
        the query is more than a conjunction of conditions on set-level keys and conditions on file-level keys."""
        parts = self.tree.parts if isinstance(self.tree, And) else (self.tree,)
        mine: list[Tree] = []
        for part in parts:
            to_jsonpath(part)
            levels = {vocabulary.key(c.key).level for c in conditions(part) if isinstance(c, Condition)}
            if len(levels) > 1:
                raise Invalid(
                    "here a part of a query may not join set-level and file-level keys by 'or' or 'not'",
                    hint="lightkeeper metadata list shows the level of each key",
                )
            if level in levels:
                mine.append(part)
        return to_jsonpath(And(tuple(mine))) if mine else None


def check_size(tree: Tree) -> None:
    """Raises Invalid for more values than any answer needs."""
    values: list[Any] = [c.value for c in conditions(tree)]
    n = sum(len(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else 1 for value in values)
    if n > MAX_VALUES:
        raise Invalid(f"the query holds more than {MAX_VALUES} values", hint="ask in several queries")
    if _depth(tree) > MAX_DEPTH:
        raise Invalid(f"the query is nested deeper than {MAX_DEPTH}")


def _depth(tree: Tree) -> int:
    match tree:
        case And(parts) | Or(parts):
            return 1 + max((_depth(part) for part in parts), default=0)
        case Not(part):
            return 1 + _depth(part)
        case _:
            return 1


# --- DIRAC's form ----------------------------------------------------------------------------------------------
def _from_dirac(query: Mapping[str, Any], vocabulary: Vocabulary) -> Iterable[Condition]:
    for name, wanted in query.items():
        key = vocabulary.key(name)
        if isinstance(wanted, Mapping):
            operators = cast("Mapping[Any, Any]", wanted)
            for op, value in operators.items():
                yield key_condition(key, (), read_op(str(op), name), value)
        elif wanted in ("Any", "Missing"):
            yield key_condition(key, (), Op.EXISTS if wanted == "Any" else Op.MISSING, None)
        elif isinstance(wanted, list):
            raise Invalid(
                f"a list for key '{name}' needs an operator", hint=f"{name}: {{in: {json.dumps(wanted, default=str)}}}"
            )
        else:
            yield key_condition(key, (), Op.EQ, wanted)


def _to_dirac(tree: Tree) -> dict[str, Any]:
    """The map, or an empty one when DIRAC's form cannot say it."""
    result: dict[str, dict[str, Any]] = {}
    for part in tree.parts if isinstance(tree, And) else (tree,):
        if not isinstance(part, Condition) or part.path or str(part.op) in result.get(part.key, {}):
            return {}
        if part.key in result and part.key != list(result)[-1]:
            return {}
        result.setdefault(part.key, {})[str(part.op)] = True if part.op in NO_VALUE else _plain(part.value)
    told = {key: ops["="] if list(ops) == ["="] else ops for key, ops in result.items()}
    plain = all(value not in ("Any", "Missing") for value in told.values())
    return told if plain and not _is_tree(told) else {}


def _plain(value: Any) -> Any:
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


# --- the JSON form ---------------------------------------------------------------------------------------------
def _is_tree(query: Mapping[str, Any]) -> bool:
    """Whether a map is the JSON form, not DIRAC's."""
    if len(query) == 1:
        ((name, inner),) = query.items()
        if name in ("and", "or"):
            return isinstance(inner, list)
        if name == "not":
            return isinstance(inner, Mapping) and _is_tree(cast("Mapping[str, Any]", inner))
    return "op" in query and ("key" in query or "file" in query) and query.keys() <= {*_FIELDS}


_FIELDS = ("key", "file", "path", "op", "value")


def _from_json(node: Any, vocabulary: Vocabulary, depth: int) -> Tree:
    if depth > MAX_DEPTH:
        raise Invalid(f"the query is nested deeper than {MAX_DEPTH}")
    if not isinstance(node, Mapping):
        raise Invalid(
            f"a part of a query must be a map, not {printable(json.dumps(node, default=str))}",
            hint='like {"key": "zenith", "op": "<", "value": 40}',
        )
    told = cast("Mapping[str, Any]", node)
    if len(told) == 1 and (name := next(iter(told))) in ("and", "or"):
        if not isinstance(told[name], list):
            raise Invalid(f"'{name}' needs a list of parts")
        inner = [_from_json(part, vocabulary, depth + 1) for part in cast("list[Any]", told[name])]
        if not inner and (depth > 1 or name == "or"):
            raise Invalid(f"'{name}' needs at least one part")
        return all_of(inner) if name == "and" else any_of(inner)
    if len(told) == 1 and "not" in told:
        inside = _from_json(told["not"], vocabulary, depth + 1)
        if inside == And():
            raise Invalid("'not' needs a part")
        return Not(inside)
    for name in told:
        if name not in _FIELDS:
            raise Invalid(
                f"a query has no '{printable(str(name))}'", hint=nearest(str(name), ["and", "or", "not", *_FIELDS])
            )
    if ("key" in told) is ("file" in told) or not isinstance(told.get("op"), str):
        raise Invalid("a condition needs 'op', and either 'key' or 'file'", hint=", ".join(_FIELDS))
    if "file" in told:
        word = told["file"]
        if not isinstance(word, str) or word not in WORDS or "path" in told:
            raise Invalid(f"the catalogue knows no '{printable(str(word))}' of a file", hint=nearest(str(word), WORDS))
        return file_condition(Word(word), read_op(told["op"], word), told.get("value"))
    path: Any = told.get("path", [])
    if not isinstance(told["key"], str) or not isinstance(path, list):
        raise Invalid("'key' is a name and 'path' a list of names")
    parts = cast("list[Any]", path)
    if not all(isinstance(part, str) for part in parts) or len(parts) > MAX_DEPTH:
        raise Invalid(f"'path' is a list of at most {MAX_DEPTH} names")
    return key_condition(vocabulary.key(told["key"]), parts, read_op(told["op"], told["key"]), told.get("value"))


def _to_json(tree: Tree) -> dict[str, Any]:
    match tree:
        case And(parts):
            return {"and": [_to_json(part) for part in parts]}
        case Or(parts):
            return {"or": [_to_json(part) for part in parts]}
        case Not(part):
            return {"not": _to_json(part)}
        case Condition():
            told: dict[str, Any] = {"key": tree.key} | ({"path": list(tree.path)} if tree.path else {})
        case FileCondition():
            told = {"file": str(tree.word)}
    return told | {"op": _shown(tree.op)} | ({} if tree.op in NO_VALUE else {"value": _plain(tree.value)})
