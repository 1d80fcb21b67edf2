"""The text form of the query language: `data_level = 0 and zenith < 40deg and not (particle in (gamma, proton))`.

`read` takes every form (text, JSON, DIRAC's map); `parse` and `to_text` convert text and tree into each other. Errors
say where, what was expected, and the nearest word that is known.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

from lightkeeper.domain.catalog import KeyType, MetaKey, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import printable
from lightkeeper.domain.query import (
    DURATIONS,
    LISTS,
    MAX_DEPTH,
    MAX_VALUES,
    NO_VALUE,
    SIZES,
    WORDS,
    And,
    Condition,
    FileCondition,
    Not,
    Op,
    Or,
    Query,
    Tree,
    Word,
    all_of,
    any_of,
    check_size,
    file_condition,
    key_condition,
    unknown_key,
)

MAX_TEXT = 64_000
MAX_JSON = 1_000_000
KEYWORDS = frozenset({"and", "or", "not", "in", "between", "like", "exists", "missing"})


_OPERATORS = "=, !=, <, <=, >, >=, in, not in, between, like, exists, missing"


class Kind(Enum):
    """What a piece of the text is."""

    WORD = auto()
    TEXT = auto()
    NUMBER = auto()
    TIME = auto()
    SIGN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text. `position` counts from 1; `value` is what a quoted text says; `unit` stands at a number."""

    kind: Kind
    text: str
    position: int
    value: str = ""
    unit: str = ""


_WORD = r"[^\W\d](?:[\w:+@/*?-]|\.(?!\.))*|[/*?](?:[\w:+@/*?-]|\.(?!\.))*"
_TOKEN = re.compile(
    rf"""
    (?P<space>\s+)
  | (?P<time>\d{{4}}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{{1,6}})?)?(?:Z|[+-]\d\d:?\d\d)?)?(?![\w-]))
  | (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?P<unit>(?:[^\W\d_]|[%°])(?:[\w/*^%-]|\.(?!\.))*)?
  | (?P<double>"(?:[^"\\]|\\.)*")
  | (?P<single>'(?:[^'\\]|\\.)*')
  | (?P<sign><=|>=|!=|<>|==|\.\.|[=<>(),.])
  | (?P<word>{_WORD})
    """,
    re.VERBOSE | re.DOTALL,
)


# --- reading ---------------------------------------------------------------------------------------------------
def read(query: str | Mapping[str, Any], vocabulary: Vocabulary) -> Query:
    """A query in any form: text; JSON or a DIRAC map, which begin with a brace; or such a map itself."""
    if not isinstance(query, str):
        return Query.from_map(query, vocabulary)
    if not query.lstrip().startswith("{"):
        return parse(query, vocabulary)
    if len(query) > MAX_JSON:
        raise Invalid(f"the query has {len(query)} characters; at most {MAX_JSON} are read")
    try:
        told: object = json.loads(query)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            f"the query begins with a brace but is not JSON: {error}",
            hint='write it like {"data_level": 0}, or as text: data_level = 0',
        ) from error
    if not isinstance(told, dict):
        raise Invalid("the query must be a map of metadata keys", hint='write it like {"data_level": 0}')
    return Query.from_map(cast("dict[str, Any]", told), vocabulary)


def parse(text: str, vocabulary: Vocabulary) -> Query:
    """The query that a text says; raises Invalid with the position. An empty text means every file."""
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT:
        raise Invalid(f"the query is longer than {MAX_TEXT} bytes", hint="send long lists as JSON")
    reader = _Reader(_tokens(text), vocabulary)
    if reader.peek().kind is Kind.END:
        return Query()
    tree = reader.either(1)
    if reader.peek().kind is not Kind.END:
        raise _expected(reader.peek(), "'and', 'or' or the end")
    check_size(tree)
    return Query(tree)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            what = "a text whose quotes end" if text[at] in "\"'" else "a key, a value or an operator"
            raise _expected(Token(Kind.SIGN, text[at : at + 20], at + 1), what)
        said, position = found[0], at + 1
        match found.lastgroup:
            case "space":
                pass
            case "double":
                try:
                    tokens.append(Token(Kind.TEXT, said, position, json.loads(said, strict=False)))
                except ValueError:
                    raise _wrong(
                        position, Invalid(f"{printable(said)} is not a text: a backslash that means nothing")
                    ) from None
            case "single":
                tokens.append(Token(Kind.TEXT, said, position, re.sub(r"\\(.)", r"\1", said[1:-1], flags=re.DOTALL)))
            case "number" | "unit":
                tokens.append(Token(Kind.NUMBER, said, position, found["number"], found["unit"] or ""))
            case "time":
                tokens.append(Token(Kind.TIME, said, position, said))
            case "word":
                tokens.append(Token(Kind.WORD, said, position, said))
            case _:
                tokens.append(Token(Kind.SIGN, said, position, said))
        at = found.end()
    return [*tokens, Token(Kind.END, "the end", len(text) + 1)]


class _Reader:
    """Recursive descent: either → both → one → condition."""

    def __init__(self, tokens: list[Token], vocabulary: Vocabulary) -> None:
        self.tokens = tokens
        self.at = 0
        self.vocabulary = vocabulary
        self.known = {key.name: key for key in vocabulary.keys}
        self.values = 0

    def peek(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def said(self, *words: str) -> bool:
        """Whether the next token is one of these words or signs; it is taken then."""
        token = self.peek()
        if token.kind in (Kind.WORD, Kind.SIGN) and token.text.lower() in words:
            self.at += 1
            return True
        return False

    def need(self, sign: str) -> None:
        if not self.said(sign):
            raise _expected(self.peek(), f"'{sign}'")

    def either(self, depth: int) -> Tree:
        parts = [self.both(depth)]
        while self.said("or"):
            parts.append(self.both(depth))
        return any_of(parts)

    def both(self, depth: int) -> Tree:
        parts = [self.one(depth)]
        while self.said("and"):
            parts.append(self.one(depth))
        return all_of(parts)

    def one(self, depth: int) -> Tree:
        if depth > 2 * MAX_DEPTH:  # `not (` opens two; what counts is the depth of the tree
            raise _wrong(self.peek().position, Invalid(f"the query is nested deeper than {MAX_DEPTH}"))
        if self.said("not"):
            return Not(self.one(depth + 1))
        if self.said("("):
            inside = self.either(depth + 1)
            self.need(")")
            return inside
        for word in ("exists", "missing"):
            if self.said(word):
                self.need("(")
                start = self.peek()
                key, path = self.key()
                self.need(")")
                return self.made(start, key, path, Op(word), None)
        return self.condition()

    def condition(self) -> Tree:
        start = self.peek()
        key, path = self.key()
        op = self.operator(start)
        if op in NO_VALUE:
            return self.made(start, key, path, op, None)
        if op in LISTS:
            self.need("(")
            values = [self.value(key)]
            while self.said(","):
                values.append(self.value(key))
            if not self.said(")"):
                raise _expected(self.peek(), "',' or ')'")
            return self.made(start, key, path, op, values)
        if op is Op.BETWEEN:
            low = self.value(key)
            self.need("..")
            return self.made(start, key, path, op, [low, self.value(key)])
        return self.made(start, key, path, op, self.value(key))

    def key(self) -> tuple[MetaKey | Word, list[str]]:
        """A word of the catalogue, or a metadata key with the path to a part of it."""
        token = self.take()
        if token.kind not in (Kind.WORD, Kind.TEXT) or (token.kind is Kind.WORD and token.text.lower() in KEYWORDS):
            raise _expected(token, "a metadata key, a word of the catalogue, 'not' or '('")
        names, goes_on = _names(token)
        while goes_on or self.said("."):
            part = self.take()
            if part.kind not in (Kind.WORD, Kind.TEXT):
                raise _expected(part, "the name of a part")
            more, goes_on = _names(part)
            names += more
        name = names[0]
        if token.kind is Kind.WORD and name in WORDS and len(names) == 1:
            return Word(name), []
        if name not in self.known:
            error = unknown_key(name, self.vocabulary, words=True)
            if token.kind is Kind.WORD and token.text in self.known:
                error = Invalid(error.message, hint=f'a key with dots is written in double quotes: "{token.text}"')
            raise _wrong(token.position, error)
        return self.known[name], names[1:]

    def operator(self, start: Token) -> Op:
        token = self.take()
        said = token.text.lower()
        if token.kind is Kind.SIGN and said in ("=", "==", "!=", "<>", "<", "<=", ">", ">="):
            return Op({"==": "=", "<>": "!="}.get(said, said))
        if token.kind is Kind.WORD and said in ("in", "between", "like", "exists", "missing"):
            return Op(said)
        if token.kind is Kind.WORD and said == "not":
            if not self.said("in"):
                raise _expected(self.peek(), "'in' after 'not'")
            return Op.NOT_IN
        raise _expected(
            token,
            f"an operator after '{printable(start.text)}': {_OPERATORS}",
        )

    def value(self, key: MetaKey | Word) -> Any:
        token = self.take()
        self.values += 1
        if self.values > MAX_VALUES:
            raise _wrong(
                token.position, Invalid(f"the query holds more than {MAX_VALUES} values", hint="ask in several")
            )
        if token.kind in (Kind.SIGN, Kind.END) or (token.kind is Kind.WORD and token.text.lower() in KEYWORDS):
            raise _expected(token, "a value")
        try:
            return _word_value(key, token) if isinstance(key, Word) else _key_value(key, token)
        except Invalid as error:
            raise _wrong(token.position, error) from None

    def made(self, start: Token, key: MetaKey | Word, path: list[str], op: Op, value: Any) -> Tree:
        """The condition, checked."""
        try:
            return file_condition(key, op, value) if isinstance(key, Word) else key_condition(key, path, op, value)
        except Invalid as error:
            raise _wrong(start.position, error) from None


def _names(token: Token) -> tuple[list[str], bool]:
    """A path as far as one token says it, and whether it ends with a dot, so that a quoted name must follow."""
    if token.kind is Kind.TEXT:
        return [token.value], False
    return token.text.removesuffix(".").split("."), token.text.endswith(".")


def _word_value(word: Word, token: Token) -> Any:
    if token.kind is not Kind.NUMBER:
        return token.value
    if word in (Word.SIZE, Word.AGE):
        return token.text
    if token.unit:
        raise Invalid(f"'{word}' has no unit, so '{printable(token.text)}' means nothing for it")
    return _number(token)


def _key_value(key: MetaKey, token: Token) -> Any:
    """What a token says as a value of this key: bare words are texts where texts are meant."""
    free = key.type is KeyType.JSON
    if token.kind is Kind.NUMBER:
        if key.type is KeyType.STRING:
            raise Invalid(
                f"metadata key '{key.name}' is of type string; {printable(token.text)} is a number",
                hint=f'write it in quotes: "{printable(token.text)}"',
            )
        if token.unit and (free or token.unit != key.unit):
            has = f"is in '{key.unit}'" if key.unit and not free else "has no unit"
            raise Invalid(f"metadata key '{key.name}' {has}, so '{printable(token.text)}' means nothing for it")
        return _number(token)
    if token.kind is Kind.WORD and (free or key.type is KeyType.BOOL) and token.text.lower() in ("true", "false"):
        return token.text.lower() == "true"
    return token.value


def _number(token: Token) -> int | float:
    if len(token.value) > 400:
        raise Invalid("a number has too many digits")
    whole = token.value.lstrip("+-").isdigit()
    number = int(token.value) if whole else float(token.value)
    if abs(number) == float("inf"):
        raise Invalid(f"{printable(token.text)} is too large")
    return number


def _wrong(position: int, error: Invalid) -> Invalid:
    if error.message.startswith("query, position"):
        return error
    return Invalid(f"query, position {position}: {error.message}", hint=error.hint)


def _expected(token: Token, what: str) -> Invalid:
    return _wrong(token.position, Invalid(f"expected {what}, found {_found(token)}"))


def _found(token: Token) -> str:
    return "the end" if token.kind is Kind.END else f"'{printable(token.text)}'"


# --- writing ---------------------------------------------------------------------------------------------------
def to_text(query: Query) -> str:
    """The text that `parse` reads back to an equal query."""
    return "" if query.tree == And() else _written(query.tree)


def _written(tree: Tree) -> str:
    match tree:
        case Or(parts):
            return " or ".join(_written(part) for part in parts)
        case And(parts):
            return " and ".join(f"({_written(part)})" if isinstance(part, Or) else _written(part) for part in parts)
        case Not(part):
            return f"not {_written(part)}" if isinstance(part, Not) else f"not ({_written(part)})"
        case Condition():
            name = ".".join(_name(part) for part in (tree.key, *tree.path))
            if tree.key in WORDS:
                name = json.dumps(tree.key) + "".join(f".{_name(part)}" for part in tree.path)
            return _said(name, tree.op, tree.value, _value)
        case FileCondition():
            shown = {Word.SIZE: _size, Word.AGE: _age}.get(tree.word, _value)
            return _said(str(tree.word), tree.op, tree.value, shown)


def _said(name: str, op: Op, value: Any, shown: Any) -> str:
    if op in NO_VALUE:
        return f"{op}({name})"
    if op in LISTS:
        return f"{name} {'not in' if op is Op.NOT_IN else 'in'} ({', '.join(shown(one) for one in value)})"
    if op is Op.BETWEEN:
        return f"{name} between {shown(value[0])}..{shown(value[1])}"
    return f"{name} {op} {shown(value)}"


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def _name(name: str) -> str:
    return name if _PLAIN_NAME.match(name) and name.lower() not in KEYWORDS else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _size(value: int) -> str:
    return next(
        (f"{value // n}{unit}" for unit, n in reversed(SIZES.items()) if n > 1 and value and value % n == 0), str(value)
    )


def _age(value: float) -> str:
    return next(
        (f"{value // n}{unit}" for unit, n in reversed(DURATIONS.items()) if isinstance(value, int) and value % n == 0),
        f"{value:.40f}".rstrip("0") + "s",
    )
