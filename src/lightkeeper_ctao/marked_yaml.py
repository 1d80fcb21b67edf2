"""YAML 1.2 as a tree that remembers its lines, read within bounds.

A production document comes from anybody, so this reads events, not objects: no tags, no second document, no
key twice, and never more than MAX_NODES nodes, aliases counted at their full size. What text means follows
the core schema of YAML 1.2, so `2022-08-03` and `yes` are text; a scalar keeps the text it was written with.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import printable

MAX_TEXT = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 20

Scalar: TypeAlias = str | int | float | bool | None
_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_PREFIXED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line where it is named. `text` is a scalar as written, `quoted` whether with quotes."""

    line: int
    value: "Scalar | list[Node] | dict[str, Node]"
    text: str = ""
    quoted: bool = False

    def plain(self) -> Any:  # JSON of any shape
        """The value without its lines; a new copy each time, so what is done to it stays with who asked."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case _:
                return self.value


def read_yaml(text: str) -> Node:
    """The one document in `text`; raises Invalid with the line of what is wrong."""
    if len(text) > MAX_TEXT:
        raise Invalid(f"the document has {len(text)} characters", hint=f"at most {MAX_TEXT} are read")
    try:
        return _tree(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark else "the document"
        raise Invalid(f"{where}: not YAML: {printable(str(error.problem or error.context))}") from error
    except (
        YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        # The scanner trips over some hostile text in ways of its own.
        raise Invalid(f"the document is not YAML: {printable(str(error))}") from error


@dataclass(slots=True)
class _Open:
    """A list or map that has begun: its content so far, and for a map the key that waits for its value."""

    line: int
    content: "list[Node] | dict[str, Node]"
    anchor: str | None
    nodes_before: int
    key: Node | None = None


def _tree(events: Iterable[Any]) -> Node:
    builder = _Builder()
    for event in events:
        builder.take(event)
    if builder.root is None:
        raise Invalid("the document is empty", hint="a production document holds ProdSteps and Common")
    return builder.root


class _Builder:
    """Puts events together to one tree, without recursion."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:  # events share no useful base class
        """Add what `event` tells."""
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise Invalid(
                f"line {line}: tag '{printable(str(event.tag))}'", hint="tags mean nothing here; leave it out"
            )
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise Invalid(f"line {line}: a second document begins", hint="one file holds one production")
            case MappingStartEvent() | SequenceStartEvent():
                if len(self._open) == MAX_DEPTH:
                    raise Invalid(f"line {line}: nested deeper than {MAX_DEPTH} levels")
                content: list[Node] | dict[str, Node] = {} if isinstance(event, MappingStartEvent) else []
                self._open.append(_Open(line, content, event.anchor, self._nodes))
                self._count(1, line)
            case MappingEndEvent() | SequenceEndEvent():
                done = self._open.pop()
                self._add(Node(done.line, done.content), done.anchor, self._nodes - done.nodes_before)
            case ScalarEvent():
                self._count(1, line)
                if not all(c.isprintable() or c in "\n\t" for c in event.value):
                    raise Invalid(f"line {line}: '{printable(event.value)}' holds characters that cannot be printed")
                quoted = event.style is not None
                value = event.value if quoted else _scalar(event.value, line)
                self._add(Node(line, value, event.value, quoted), event.anchor, 1)
            case AliasEvent():
                if event.anchor not in self._anchors:
                    raise Invalid(f"line {line}: '*{printable(event.anchor)}' names nothing that is complete before it")
                node, size = self._anchors[event.anchor]
                self._count(size, line)
                self._add(replace(node, line=line), None, size)
            case _:
                pass

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Invalid(f"line {line}: more than {MAX_NODES} values, aliases counted at full size")

    def _add(self, node: Node, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = node, size
        if not self._open:
            self.root = node
            return
        inside = self._open[-1]
        if isinstance(inside.content, list):
            inside.content.append(node)
        elif inside.key is None:
            self._begin_field(inside, node)
        else:
            # What is wrong with a value is told with the line of its key.
            inside.content[inside.key.text] = replace(node, line=inside.key.line)
            inside.key = None

    def _begin_field(self, inside: _Open, key: Node) -> None:
        if isinstance(key.value, list | dict):
            raise Invalid(f"line {key.line}: a list or map cannot be a key")
        if key.text in inside.content:
            raise Invalid(f"line {key.line}: key '{printable(key.text)}' is given twice in one map")
        inside.key = key


def _scalar(text: str, line: int) -> Scalar:
    """A plain scalar by the core schema of YAML 1.2; infinities and not-a-number stay text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > 40:
        return text
    if _INTEGER.match(text) or _PREFIXED.match(text):
        number = int(text, 0) if _PREFIXED.match(text) else int(text)
        if abs(number) >= 2**63:
            raise Invalid(f"line {line}: number {text} is too large", hint="put it in quotes if it is a name")
        return number
    if _FLOAT.match(text):
        value = float(text)
        if not math.isfinite(value):
            raise Invalid(f"line {line}: number {text} is too large", hint="put it in quotes if it is a name")
        return value
    return text
