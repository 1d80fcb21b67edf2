"""Beside the walk: what is in the catalogue, and which keys describe it. Called by the API; safe to call twice.

A query is checked before the first file is looked at. Files come in pages, each in a transaction of its own: a file
that is registered meanwhile may or may not be among them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, nearest
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.query import (
    LISTS,
    FileCondition,
    Op,
    Query,
    Word,
    all_of,
    conditions,
    file_condition,
)
from lightkeeper.domain.query_text import KEYWORDS, read, to_text
from lightkeeper.domain.units import readable_bytes
from lightkeeper.steps.spool import kept_aside
from lightkeeper.store import catalog, datasets, db, metadata, queries, topology
from lightkeeper.store.catalog import FileRow
from lightkeeper.store.db import Connection
from lightkeeper.store.queries import FileName, Form, Place, Plan, Size, Way


# --- find ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody looks for: a query in any form, only files `at` a storage, sorted like '-size,name', at most
    `limit`; with `names` only their names and sizes are told."""

    query: str | Mapping[str, Any] = ""
    at: str | None = None
    sort: str = ""
    limit: int | None = None
    names: bool = False


def find(ctx: Context, wanted: Wanted) -> Iterator[FileRow | FileName]:
    """The files that are meant, by set and id when no order is asked for. Raises Invalid before it returns."""
    pages = _pages(ctx, wanted, queries.NAMES if wanted.names else queries.FILES)
    return (file for page in pages for file in page)


def lines(ctx: Context, wanted: Wanted) -> Iterator[bytes]:
    """The same as JSON, one file on each line, some lines at a time. Raises Invalid before it returns."""
    form = queries.NAME_LINES if wanted.names else queries.FILE_LINES
    if wanted.sort and (wanted.limit is None or wanted.limit > queries.SORTED_PAGE):
        sorts = queries.read_sort(wanted.sort)
        with ctx.db.transaction() as conn:
            plan = compiled(conn, read_query(conn, wanted.query, wanted.at))
            return kept_aside(map(_block, queries.sorted_whole(conn, plan, sorts, wanted.limit, form)))
    return (_block(page) for page in _pages(ctx, wanted, form) if page)


def _block(lines: list[str]) -> bytes:
    return "\n".join([*lines, ""]).encode()


def _pages(ctx: Context, wanted: Wanted, form: Form) -> Iterator[list[Any]]:
    with ctx.db.transaction() as conn:
        plan = compiled(conn, read_query(conn, wanted.query, wanted.at))
    sorts = queries.read_sort(wanted.sort) if wanted.sort else ()
    size = queries.SORTED_PAGE if sorts else queries.PAGE

    def pages() -> Iterator[list[Any]]:
        place: Place | None = Place()
        left = wanted.limit
        while place is not None and left != 0:
            with ctx.db.transaction() as conn:
                page = queries.page(conn, plan, sorts, place, size if left is None else min(size, left), form)
            yield page.files
            place = page.next
            left = left - len(page.files) if left is not None else None

    return pages()


def count(ctx: Context, wanted: Wanted) -> Size:
    """How many files are meant, and how large they are together."""
    with ctx.db.transaction() as conn:
        return queries.count(conn, compiled(conn, read_query(conn, wanted.query, wanted.at)))


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a query will be answered, in words; and the query in both its forms."""

    text: str
    json: dict[str, Any]
    words: list[str]


def explain(ctx: Context, wanted: Wanted) -> Explanation:
    """How the query will be answered."""
    with ctx.db.transaction() as conn:
        query = read_query(conn, wanted.query, wanted.at)
        plan = compiled(conn, query)
        words = list(_words(conn, plan))
    return Explanation(to_text(query), query.to_json(), words)


def _words(conn: Connection, plan: Plan) -> Iterator[str]:
    n_sets, holds = queries.sets_matching(conn, plan)
    left, files = _plural(n_sets, "metadata set"), _plural(holds.files, "file")
    if plan.set_path:
        how = "found by the index on metadata" if queries.index_used(conn, plan) else "found by looking at every set"
        yield f"set-level conditions leave {left} with {files}, {how}"
        yield f"condition on sets: {plan.set_path}"
    else:
        yield f"no condition on set-level keys: {left} with {files} are left"
    match plan.way:
        case Way.SETS:
            yield "files: set by set, by the index on (set, file)"
        case Way.LISTED:
            yield f"files: by the list of the frozen dataset {plan.listed}"
        case Way.FEW:
            yield "files: by the index on directories or origins that a condition names"
        case Way.WALK:
            yield "files: all, by the index on (set, file)"
    if plan.states is None:
        yield "also files that are superseded, corrupted or removed"
    if plan.by_counters:
        yield f"count and size: from counters, {files}, {readable_bytes(holds.bytes)}; no file is looked at"
    else:
        yield "count and size: by looking at the files, for the remaining conditions"


def _plural(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def read_query(conn: Connection, text: str | Mapping[str, Any], at: str | None = None) -> Query:
    """The query with `at` in it; raises for names of storages, sites, productions and files that nothing has."""
    query = read(text, topology.vocabulary(conn))
    if at is not None:
        query = Query(all_of([query.tree, file_condition(Word.STORAGE, Op.EQ, at)]))
    known: dict[Word, list[str]] = {}
    for condition in conditions(query.tree):
        if isinstance(condition, FileCondition) and condition.op in (Op.EQ, Op.NE, *LISTS):
            _check_names(conn, condition, known)
    return query


def _check_names(conn: Connection, condition: FileCondition, known: dict[Word, list[str]]) -> None:
    """Raises for a name that nothing has: such a condition is a slip, not an empty answer."""
    word = condition.word
    names: list[Any] = list(condition.value) if condition.op in LISTS else [condition.value]
    if word in (Word.STORAGE, Word.SITE, Word.SCOPE, Word.PRODUCED_BY):
        if word not in known:
            known[word] = queries.known_names(conn, word)
        for name in names:
            if isinstance(name, str) and name not in known[word]:
                raise Invalid(
                    f"{word} '{printable(name)}' does not exist",
                    hint=f'{nearest(name, known[word])}; the metadata key of that name is written "{word}"'
                    if word in {Word.SITE, Word.SCOPE}
                    else nearest(name, known[word]),
                )
        numbers = [name for name in names if isinstance(name, int)]
        if numbers and set(numbers) - set(queries.transformations(conn)):
            raise Invalid(f"there is no transformation {numbers[0]}", hint="lightkeeper transformation list")
    if word in (Word.ANCESTOR_OF, Word.DESCENDANT_OF):
        missing = set(names) - catalog.names_taken(conn, [parse_lfn(name) for name in names])
        if missing:
            raise NotFound(f"{min(missing)} is not in the catalogue", hint="its kin cannot be looked for")


def compiled(conn: Connection, query: Query) -> Plan:
    """The query as SQL, with the conditions of the datasets that it names."""
    vocabulary = topology.vocabulary(conn)
    return queries.compile_query(datasets.expanded(conn, query, vocabulary), vocabulary, db.now(conn))


# --- metadata keys ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class KeyStory:
    """A metadata key, and how it is used. `hint` says what should be changed about it; empty when nothing."""

    key: MetaKey
    sets: int
    examples: list[Any]
    hint: str


MANY = 100
"""Fewer files than these say nothing about how much a key varies."""


def define_key(ctx: Context, key: MetaKey) -> str:
    """Register a key; 'new', 'changed' or 'unchanged'. Raises Conflict when values in the catalogue forbid it."""
    parse_name(key.name, "metadata key")
    if key.name.lower() in KEYWORDS:
        raise Invalid(f"'{key.name}' is a word of the query language", hint="choose another name")
    with ctx.db.transaction() as conn:
        known = {k.name: k for k in topology.vocabulary(conn).keys}.get(key.name)
        if known == key:
            return "unchanged"
        if known is not None and (known.type, known.level) != (key.type, key.level):
            metadata.put_key(conn, key)  # first: it waits for registrations that would begin to use it
            if metadata.is_used(conn, key.name):
                raise Conflict(
                    f"metadata key '{key.name}' is in use as {known.level} {known.type}, "
                    f"so it cannot become {key.level} {key.type}",
                    hint="define a new key; type and level of a key in use do not change",
                )
            asking = metadata.asking(conn, key.name)
            if asking is not None:
                raise Conflict(
                    f"{asking} asks for metadata key '{key.name}' as {known.level} {known.type}, "
                    f"so it cannot become {key.level} {key.type}",
                    hint="remove that first, or define a new key",
                )
        else:
            metadata.put_key(conn, key)
    ctx.log.info("metadata key defined", key=key.name, type=str(key.type), level=str(key.level))
    return "new" if known is None else "changed"


def keys(ctx: Context) -> list[dict[str, Any]]:
    """Every key, with what should be changed about it."""
    with ctx.db.transaction() as conn:
        hints = _hints(conn)
        return [asdict(key) | {"hint": hints.get(key.name, "")} for key in topology.vocabulary(conn).keys]


def key_story(ctx: Context, name: str) -> KeyStory:
    """A key and how it is used; raises NotFound."""
    with ctx.db.transaction() as conn:
        known: Vocabulary = topology.vocabulary(conn)
        try:
            key = known.key(name)
        except Invalid as error:
            raise NotFound(f"there is no metadata key '{printable(name)}'", hint=error.hint) from None
        return KeyStory(
            key=key,
            sets=metadata.sets_using(conn, name),
            examples=metadata.examples(conn, name, key.level),
            hint=_hints(conn).get(name, ""),
        )


def _hints(conn: Connection) -> dict[str, str]:
    """What to say about set-level keys that have nearly as many values as there are files."""
    return {
        seen.key: f"{seen.n_values} values among the latest {seen.files} files: declare such a key file level"
        for seen in metadata.varied(conn)
        if seen.files >= MANY and seen.n_values * 2 > seen.files
    }


def read_key(name: str, type_: str, level: str, unit: str, description: str) -> MetaKey:
    """A key as somebody writes it; raises Invalid."""
    if type_ not in list(KeyType):
        raise Invalid(f"'{printable(type_)}' is no type of a metadata key", hint=nearest(type_, list(KeyType)))
    if level not in list(KeyLevel):
        raise Invalid(f"'{printable(level)}' is no level of a metadata key", hint=nearest(level, list(KeyLevel)))
    return MetaKey(name, KeyType(type_), KeyLevel(level), unit, description)
