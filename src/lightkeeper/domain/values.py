"""Values of metadata keys as people write them: on a command line, in a column of a table."""

import json
import math

from lightkeeper.domain.catalog import KeyType, MetaKey, MetaValue, normalise
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import printable

_EXAMPLES = {
    KeyType.INT: "a whole number like 42",
    KeyType.FLOAT: "a number like 20.5",
    KeyType.BOOL: "true or false",
    KeyType.TIME: "a time like 2026-03-14T20:00:00",
    KeyType.JSON: 'a list or map like {"alt": 70}',
}


def from_text(key: MetaKey, text: str) -> MetaValue:
    """The value of the key's type that `text` says; raises Invalid with an example of what would be read."""
    try:
        return normalise(key, _read(key.type, text))
    except (ValueError, RecursionError, Invalid):
        raise Invalid(
            f"metadata key '{key.name}' is of type {key.type}; '{printable(text)}' is not",
            hint=f"write {_EXAMPLES.get(key.type, 'a text')}",
        ) from None


def _read(type_: KeyType, text: str) -> object:
    match type_:
        case KeyType.INT:
            return int(text) if text.strip().lstrip("+-").isdigit() else text
        case KeyType.FLOAT:
            number = float(text)
            return number if math.isfinite(number) else text
        case KeyType.BOOL:
            return {"true": True, "false": False}[text.strip().lower()] if text.strip().lower() in _BOOLS else text
        case KeyType.JSON:
            return json.loads(text)
        case _:
            return text


_BOOLS = ("true", "false")
