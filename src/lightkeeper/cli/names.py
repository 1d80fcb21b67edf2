"""Names of files as people give them: plain, with wildcards, in a list, from a pipe, by a query; and values of keys."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lightkeeper.client import Client
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, MetaValue, Vocabulary
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.domain.values import from_text

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Names of files; with * and ? for several; @FILE for a list, one on each line; - for one from a pipe.",
        show_default=False,
    ),
]
ByQuery = Annotated[str | None, typer.Option("--query", metavar="QUERY", help="Also the files that a query means.")]
Meta = Annotated[
    list[str] | None,
    typer.Option("--meta", metavar="KEY=VALUE", help="A metadata value; as often as needed.", show_default=False),
]


def names(given: Sequence[str], query: str | None, api: Client) -> Iterator[str]:
    """The files that are meant, each once, in the order in which they were given; those of the query come last.

    Plain names are checked, not looked for. Raises what was wrong: nothing was given, a list is missing or empty, a
    name cannot be one, nothing matches a wildcard or the query.
    """
    if not given and query is None:
        raise Invalid("no file is named", hint="give names, a wildcard like '/ctao/…/*.fits', @LIST, - or --query")
    seen: set[str] = set()
    for name in _all(given, query, api):
        if name not in seen:
            seen.add(name)
            yield name


def _all(given: Sequence[str], query: str | None, api: Client) -> Iterator[str]:
    for text in given:
        if text == "-":
            yield from _listed(sys.stdin, "the standard input", api)
        elif text.startswith("@"):
            path = Path(text[1:])
            try:
                with path.open(encoding="utf-8") as file:
                    yield from _listed(file, str(path), api)
            except OSError as error:
                raise Invalid(
                    f"the list {printable(str(path))} cannot be read: {error.strerror}",
                    hint="@FILE is a text file with one name on each line",
                ) from error
        else:
            yield from _meant(text, api)
    if query is not None:
        yield from _found(query, f"the query {printable(query)}", api)


def _listed(lines: Iterable[str], where: str, api: Client) -> Iterator[str]:
    empty = True
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            empty = False
            yield from _meant(text, api)
    if empty:
        raise Invalid(f"{where} names no file", hint="one name on each line; lines that begin with # are left out")


def _meant(text: str, api: Client) -> Iterator[str]:
    if "*" not in text and "?" not in text:
        yield parse_lfn(text)
        return
    directory, slash, name = text.rpartition("/")
    if slash and not text.startswith("/"):
        raise Invalid(f"'{printable(text)}' matches nothing: names begin with a slash", hint=f"write '/{text}'")
    conditions: list[dict[str, Any]] = [{"file": "name", "op": "like", "value": name}]
    if slash:
        like = "like" if "*" in directory or "?" in directory else "="
        conditions.append({"file": "directory", "op": like, "value": directory})
    yield from _found({"and": conditions}, f"'{printable(text)}'", api)


def _found(query: str | dict[str, Any], said: str, api: Client) -> Iterator[str]:
    empty = True
    for file in api.find(query, names=True):
        empty = False
        yield file["lfn"]
    if empty:
        raise NotFound(f"no file in the catalogue matches {said}", hint="lightkeeper find shows what there is")


def read_vocabulary(keys: Iterable[dict[str, Any]]) -> Vocabulary:
    """The server's metadata keys."""
    return Vocabulary(
        MetaKey(key["name"], KeyType(key["type"]), KeyLevel(key["level"]), key["unit"], key["description"])
        for key in keys
    )


def read_values(pairs: Sequence[str], keys: Iterable[dict[str, Any]]) -> dict[str, MetaValue]:
    """Metadata from `key=value` texts, of the types that the server's keys have; raises Invalid."""
    vocabulary = read_vocabulary(keys)
    values: dict[str, MetaValue] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign:
            raise Invalid(f"'{printable(pair)}' is no metadata value", hint="write KEY=VALUE, like data_level=1")
        key = vocabulary.key(name.strip())
        if key.name in values:
            raise Invalid(f"metadata key '{key.name}' is given twice", hint="give each key once")
        values[key.name] = from_text(key, text)
    return values
