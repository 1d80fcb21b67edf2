"""The only place where a query of the query language becomes SQL. Every value travels as a parameter.

The tree is split: conditions on set-level keys are answered by the metadata sets (thousands of rows, an index), the
rest by looking at files. Answers come in pages by keyset, each in a short transaction; nobody holds more than one page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString, TypeGuard

from psycopg import Connection
from psycopg.sql import SQL, Composed, Placeholder

from lightkeeper.domain.catalog import KeyLevel, Vocabulary
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import Lfn, printable, split_lfn
from lightkeeper.domain.query import (
    LISTS,
    And,
    Condition,
    FileCondition,
    Not,
    Op,
    Or,
    Query,
    Tree,
    Word,
    as_time,
    conditions,
    glob_to_like,
    to_jsonpath,
)
from lightkeeper.domain.states import File
from lightkeeper.store.catalog import FileRow

PAGE = 1000
SORTED_PAGE = 5000
MOST_FILES = 50_000
"""Files that one statement looks at while it walks through metadata sets."""
FEW_SETS = 100
MOST_SETS = 2000
"""Metadata sets that are looked for at once: few for the first page, more when it goes on."""


class Way(StrEnum):
    """How the files are reached."""

    SETS = "sets"
    """The metadata sets that match, in order, and the files of each."""
    FEW = "few"
    """By an index on files that a condition on directory, origin or kin allows."""
    LISTED = "listed"
    """The list of a frozen dataset, in order."""
    WALK = "walk"
    """Every file, in order."""


SORTS: dict[str, LiteralString] = {
    "size": "f.size",
    "created": "f.created",
    "name": "f.name",
    "directory": "d.path",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled query. `set_path` is the part that metadata sets decide alone, `states` those of files that are meant
    (None: any), `listed` the frozen dataset they are in, `rest` what each file must fulfil besides."""

    way: Way
    set_path: str | None
    rest: Composed | None
    states: tuple[str, ...] | None = (str(File.CURRENT),)
    listed: str | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def by_counters(self) -> bool:
        """Whether number and bytes of the files are known without looking at a file."""
        return self.rest is None and self.listed is None


# --- compiling -------------------------------------------------------------------------------------------------
def compile_query(query: Query, vocabulary: Vocabulary, now: datetime) -> Plan:
    """`query` as SQL; ages are measured at `now`."""
    levels = {key.name: key.level for key in vocabulary.keys}
    parts = query.tree.parts if isinstance(query.tree, And) else (query.tree,)
    of_sets = [part for part in parts if _level(part, levels) is KeyLevel.SET]
    others = [part for part in parts if _level(part, levels) is not KeyLevel.SET]
    listed = next((part for part in others if _is_of(part, Word.DATASET)), None)
    states = next((part for part in others if _is_of(part, Word.FILE_STATE)), None)
    others = [part for part in others if part is not listed and part is not states]
    meant = _states(states, others, listed)
    on_lists = tuple(_lists(And(tuple(others))))
    if meant and not states and on_lists:  # in a part of the query: its files are meant in every state, others not
        others.append(Or((FileCondition(Word.FILE_STATE, Op.EQ, str(File.CURRENT)), *on_lists)))
        meant = None
    compiler = _Compiler(levels, now)
    rest = SQL("\n   AND ").join(compiler.sql(part) for part in others) if others else None
    set_path = to_jsonpath(And(tuple(of_sets))) if of_sets else None
    way = Way.SETS if set_path else Way.WALK
    if any(_is_narrow(part) for part in others):
        way = Way.FEW
    if listed:
        way = Way.LISTED
    return Plan(way, set_path, rest, meant, listed.value if listed else None, compiler.params)


def _is_of(tree: Tree, word: Word) -> TypeGuard[FileCondition]:
    """Whether it names one dataset, or the states of files that are meant."""
    allowed = (Op.EQ,) if word is Word.DATASET else (Op.EQ, Op.IN)
    return isinstance(tree, FileCondition) and tree.word is word and tree.op in allowed


def _states(
    asked: FileCondition | None, others: Sequence[Tree], listed: FileCondition | None
) -> tuple[str, ...] | None:
    """Files that are not Current are meant only when a query asks for their state, or for the list of a dataset."""
    if asked:
        return tuple(asked.value) if asked.op is Op.IN else (asked.value,)
    asks = any(isinstance(c, FileCondition) and c.word is Word.FILE_STATE for tree in others for c in conditions(tree))
    return None if asks or listed else (str(File.CURRENT),)


def _lists(tree: Tree, wanted: bool = True) -> Iterator[FileCondition]:
    """Conditions that a file is on a dataset's list, wherever they stand; not those that it is on none."""
    match tree:
        case And(parts) | Or(parts):
            for part in parts:
                yield from _lists(part, wanted)
        case Not(part):
            yield from _lists(part, not wanted)
        case FileCondition() if tree.word is Word.DATASET and wanted:
            yield tree
        case _:
            pass


def _level(tree: Tree, levels: dict[str, KeyLevel]) -> KeyLevel | None:
    """The level of every condition in the tree; None when they differ or look at the catalogue."""
    found = {levels[c.key] if isinstance(c, Condition) else None for c in conditions(tree)}
    return found.pop() if len(found) == 1 else None


def _is_narrow(tree: Tree) -> bool:
    """Whether an index leads to the files that fulfil it."""
    if not isinstance(tree, FileCondition) or tree.op not in (Op.EQ, Op.IN):
        return False
    return tree.word in (Word.DIRECTORY, Word.PRODUCED_BY, Word.ANCESTOR_OF, Word.DESCENDANT_OF)


class _Compiler:
    """Gives each value a parameter; the text of the statement holds only their numbers."""

    def __init__(self, levels: dict[str, KeyLevel], now: datetime) -> None:
        self.levels = levels
        self.now = now
        self.params: dict[str, Any] = {}

    def value(self, value: Any, type_: LiteralString) -> Composed:
        """A placeholder for `value`."""
        name = f"v{len(self.params)}"
        self.params[name] = value
        return SQL("{}::" + type_).format(Placeholder(name))

    def sql(self, tree: Tree) -> Composed:
        """A condition on aliases f (file), d (directory) and s (meta_set) that is true or false, never unknown."""
        match _level(tree, self.levels):
            case KeyLevel.SET:
                return SQL("coalesce(s.meta @@ {}, false)").format(self.value(to_jsonpath(tree), "jsonpath"))
            case KeyLevel.FILE:
                return SQL("coalesce(coalesce(f.extra, '{{}}') @@ {}, false)").format(
                    self.value(to_jsonpath(tree), "jsonpath")
                )
            case None:
                pass
        match tree:
            case And(parts):
                return _joined(parts, " AND ", self.sql) if parts else Composed([SQL("true")])
            case Or(parts):
                return _joined(parts, " OR ", self.sql)
            case Not(part):
                return SQL("NOT ({})").format(self.sql(part))
            case Condition():
                raise AssertionError("a condition on a key has a level")
            case FileCondition():
                return self.of_file(tree)

    def of_file(self, c: FileCondition) -> Composed:
        """One condition on what the catalogue knows."""
        match c.word:
            case Word.SIZE:
                return self.compared(SQL("f.size"), c.op, c.value, "numeric")
            case Word.CREATED:
                wanted = _each(c.value, as_time)
                return self.compared(SQL("f.created"), c.op, wanted, "timestamptz")
            case Word.AGE:
                wanted = _each(c.value, _seconds)
                return self.compared(
                    SQL("({} - f.created)").format(self.value(self.now, "timestamptz")), c.op, wanted, "interval"
                )
            case Word.NAME:
                return self.compared(SQL("f.name"), c.op, c.value, "text")
            case Word.DIRECTORY:
                return self.compared(SQL("d.path"), c.op, c.value, "text")
            case Word.SCOPE:
                return SQL("d.scope_id IN (SELECT scope_id FROM scope WHERE {})").format(
                    self.compared(SQL("scope.name"), c.op, c.value, "text")
                )
            case Word.COPIES:
                return self.compared(
                    SQL("(SELECT count(DISTINCT rs.site_id) FROM replica r JOIN storage rs USING (storage_id)"
                        " WHERE r.file_id = f.file_id AND r.state = 'Available')"),
                    c.op, c.value, "numeric",
                )  # fmt: skip
            case Word.STORAGE:
                return self.among(_AVAILABLE, SQL("rs.name"), c)
            case Word.SITE:
                return self.among(_AVAILABLE, SQL("site.name"), c)
            case Word.STATE:
                return self.among(_REPLICAS, SQL("r.state::text"), c)
            case Word.PRODUCED_BY:
                return self.among_activities(c)
            case Word.ANCESTOR_OF:
                return self.kin(_ANCESTORS, c)
            case Word.DESCENDANT_OF:
                return self.kin(_DESCENDANTS, c)
            case Word.DATASET:
                return self.in_list(c)
            case Word.FILE_STATE:
                return self.compared(SQL("s.state::text"), c.op, c.value, "text")

    def compared(self, target: SQL | Composed, op: Op, wanted: Any, type_: LiteralString) -> Composed:
        """`target`, one value that is always there, with what is wanted."""
        match op:
            case Op.IN:
                return SQL("{} = ANY({})").format(target, self.value(list(wanted), type_ + "[]"))
            case Op.NOT_IN:
                return SQL("NOT {} = ANY({})").format(target, self.value(list(wanted), type_ + "[]"))
            case Op.BETWEEN:
                low, high = self.value(wanted[0], type_), self.value(wanted[1], type_)
                return SQL("({0} >= {1} AND {0} <= {2})").format(target, low, high)
            case Op.LIKE:
                return SQL("{} LIKE {}").format(target, self.value(glob_to_like(wanted), "text"))
            case Op.EXISTS | Op.MISSING:
                raise AssertionError(op)
            case _:
                return SQL("{} " + _SYMBOLS[op] + " {}").format(target, self.value(wanted, type_))

    def among(self, rows: SQL, target: SQL, c: FileCondition) -> Composed:
        """Whether any row, or for != and not in some row but none of those, has what is wanted."""
        some = SQL("EXISTS (SELECT {})").format(rows)
        if c.op is Op.EXISTS:
            return some
        if c.op is Op.MISSING:
            return SQL("NOT {}").format(some)
        equal = {Op.NE: Op.EQ, Op.NOT_IN: Op.IN}.get(c.op, c.op)
        one = SQL("EXISTS (SELECT {} AND {})").format(rows, self.compared(target, equal, c.value, "text"))
        return one if equal is c.op else SQL("({} AND NOT {})").format(some, one)

    def among_activities(self, c: FileCondition) -> Composed:
        """Whether a transformation, of those that are wanted, made the file."""
        some = SQL("f.activity_id IN (SELECT a.{})").format(_MADE)
        if c.op is Op.EXISTS:
            return some
        if c.op is Op.MISSING:
            return SQL("NOT {}").format(some)
        wanted = list(c.value) if c.op in LISTS else [c.value]
        one = SQL(
            "f.activity_id IN (SELECT a.{} AND (t.transformation_id = ANY({}) OR p.name = ANY({})))"
        ).format(
            _MADE,
            self.value([v for v in wanted if not isinstance(v, str)], "numeric[]"),
            self.value([v for v in wanted if isinstance(v, str)], "text[]"),
        )  # fmt: skip
        return SQL("({} AND NOT {})").format(some, one) if c.op in (Op.NE, Op.NOT_IN) else one

    def in_list(self, c: FileCondition) -> Composed:
        """Whether the file is on the list of a frozen dataset; what dynamic ones mean was put in their place."""
        names = list(c.value) if c.op in LISTS else [c.value]
        found = SQL(
            "EXISTS (SELECT FROM dataset_file m JOIN dataset k USING (dataset_id)"
            " WHERE m.file_id = f.file_id AND k.name = ANY({}))"
        ).format(self.value(names, "text[]"))
        return SQL("NOT {}").format(found) if c.op in (Op.NE, Op.NOT_IN) else found

    def kin(self, walk: SQL, c: FileCondition) -> Composed:
        """Whether the file is among the ancestors or descendants of those named."""
        names = [split_lfn(Lfn(lfn)) for lfn in (c.value if c.op in LISTS else [c.value])]
        paths, files = (self.value([name[i] for name in names], "text[]") for i in (0, 1))
        found = walk.format(_NAMED.format(paths, files))
        return SQL("NOT {}").format(found) if c.op in (Op.NE, Op.NOT_IN) else found


_SYMBOLS: dict[Op, LiteralString] = {Op.EQ: "=", Op.NE: "<>", Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}
_REPLICAS = SQL("FROM replica r WHERE r.file_id = f.file_id")
_AVAILABLE = SQL(
    "FROM replica r JOIN storage rs USING (storage_id) JOIN site USING (site_id)"
    " WHERE r.file_id = f.file_id AND r.state = 'Available'"
)
_MADE = SQL(
    "activity_id FROM activity a JOIN job USING (job_id)"
    " JOIN transformation t USING (transformation_id) JOIN production p USING (production_id) WHERE true"
)
_NAMED = SQL("""
    named AS (
        SELECT k.file_id, k.activity_id
          FROM unnest({}, {}) AS w (path, name)
          JOIN directory kd ON kd.path = w.path
          JOIN file k ON k.dir_id = kd.dir_id AND k.name = w.name)""")
_ANCESTORS = SQL("""f.file_id IN (
    WITH RECURSIVE {},
    kin (file_id) AS (
        SELECT used.file_id FROM named JOIN used USING (activity_id)
         UNION
        SELECT used.file_id FROM kin JOIN file k USING (file_id) JOIN used USING (activity_id))
    SELECT file_id FROM kin)""")
_DESCENDANTS = SQL("""f.file_id IN (
    WITH RECURSIVE {},
    kin (file_id) AS (
        SELECT k.file_id FROM named JOIN used ON used.file_id = named.file_id
          JOIN file k ON k.activity_id = used.activity_id
         UNION
        SELECT k.file_id FROM kin JOIN used ON used.file_id = kin.file_id
          JOIN file k ON k.activity_id = used.activity_id)
    SELECT file_id FROM kin)""")


def _joined(parts: Sequence[Tree], by: LiteralString, sql: Any) -> Composed:
    return SQL("({})").format(SQL(by).join(sql(part) for part in parts))


def _each(value: Any, change: Any) -> Any:
    return tuple(change(one) for one in value) if isinstance(value, tuple) else change(value)  # pyright: ignore[reportUnknownVariableType]


def _seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


# --- counting --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Size:
    """How many files, and their bytes together."""

    files: int
    bytes: int


def count(conn: Connection, plan: Plan) -> Size:
    """How many files a query means, and how large they are."""
    if not plan.by_counters:
        return recount(conn, plan)
    query = SQL("""
        SELECT coalesce(sum(c.n_files), 0)::bigint, coalesce(sum(c.n_bytes), 0)::bigint
          FROM set_count c JOIN meta_set s USING (set_id)
         WHERE {}
    """).format(_of_set(plan))
    line = conn.execute(query, _params(plan)).fetchone()
    return Size(*line) if line else Size(0, 0)


def recount(conn: Connection, plan: Plan) -> Size:
    """The same by looking at the files themselves, whatever counters say."""
    query = SQL("""
        SELECT count(*), coalesce(sum(f.size), 0)::bigint
          FROM {}
         WHERE {}
           AND {}
    """).format(_from(plan), _of_set(plan), _rest(plan))
    line = conn.execute(query, _params(plan)).fetchone()
    return Size(*line) if line else Size(0, 0)


def sets_matching(conn: Connection, plan: Plan) -> tuple[int, Size]:
    """How many metadata sets the set-level part leaves, and what they hold."""
    query = SQL("""
        SELECT count(*), coalesce(sum(c.n_files), 0)::bigint, coalesce(sum(c.n_bytes), 0)::bigint
          FROM meta_set s LEFT JOIN set_count c USING (set_id)
         WHERE {}
    """).format(_of_set(plan))
    line = conn.execute(query, _params(plan)).fetchone()
    return (line[0], Size(line[1], line[2])) if line else (0, Size(0, 0))


def index_used(conn: Connection, plan: Plan) -> bool:
    """Whether the database finds the metadata sets by their index."""
    query = SQL("EXPLAIN (FORMAT JSON) SELECT FROM meta_set s WHERE {}").format(_of_set(plan))
    return "meta_set_meta" in str(conn.execute(query, _params(plan)).fetchone())


def _from(plan: Plan) -> Composed:
    """The files that may be meant, as f with directory d and metadata set s."""
    listed = """
        (SELECT file_id FROM dataset_file JOIN dataset USING (dataset_id) WHERE name = %(listed)s) m
          JOIN file f USING (file_id)"""
    return SQL("{} JOIN directory d USING (dir_id) JOIN meta_set s USING (set_id)").format(
        SQL(listed if plan.listed else "file f")
    )


def _of_set(plan: Plan) -> Composed:
    path = SQL("s.meta @@ {}::jsonpath").format(Placeholder("set_path")) if plan.set_path else SQL("true")
    return Composed([path, SQL(" AND s.state = ANY(%(states)s::file_state[])" if plan.states else "")])


def _params(plan: Plan, **more: Any) -> dict[str, Any]:
    states = list(plan.states or ())
    return plan.params | {"set_path": plan.set_path, "states": states, "listed": plan.listed} | more


@dataclass(frozen=True, slots=True)
class Usage:
    """What one storage holds of the files that are meant: Available replicas and their bytes."""

    storage: str
    site: str
    files: int
    bytes: int


def usage(conn: Connection, plan: Plan) -> list[Usage]:
    """Every storage with a copy of the files that are meant, counted from the copies themselves."""
    query = SQL("""
        SELECT w.name, site.name, count(*), sum(f.size)::bigint
          FROM {}
          JOIN replica r ON r.file_id = f.file_id AND r.state = 'Available'
          JOIN storage w ON w.storage_id = r.storage_id
          JOIN site ON site.site_id = w.site_id
         WHERE {}
           AND {}
         GROUP BY 1, 2
         ORDER BY 1
    """).format(_from(plan), _of_set(plan), _rest(plan))
    return [Usage(*line) for line in conn.execute(query, _params(plan)).fetchall()]


def put_list(conn: Connection, plan: Plan, dataset_id: int) -> Size:
    """Make the files that are meant now the list of a dataset."""
    query = SQL("""
        WITH listed AS (
            INSERT INTO dataset_file (dataset_id, file_id)
            SELECT %(dataset)s, f.file_id FROM {} WHERE {} AND {} ORDER BY f.file_id
            RETURNING file_id)
        SELECT count(*), coalesce(sum(size), 0)::bigint FROM listed JOIN file USING (file_id)
    """).format(_from(plan), _of_set(plan), _rest(plan))
    line = conn.execute(query, _params(plan, dataset=dataset_id)).fetchone()
    return Size(*line) if line else Size(0, 0)


def meant_by(plan: Plan) -> tuple[Composed, dict[str, Any]]:
    """The files that are meant, as f, to stand behind FROM, with what it needs: for statements of others."""
    return SQL("{} WHERE {} AND {}").format(_from(plan), _of_set(plan), _rest(plan)), _params(plan)


def put_members(conn: Connection, plan: Plan, policy_id: int) -> None:
    """Make the files that are meant now the members of a policy."""
    query = SQL("""
        INSERT INTO file_policy (policy_id, file_id)
        SELECT %(policy)s, f.file_id FROM {} WHERE {} AND {} ORDER BY f.file_id
    """).format(_from(plan), _of_set(plan), _rest(plan))
    conn.execute(query, _params(plan, policy=policy_id))


def holds(conn: Connection, plan: Plan, file_id: int) -> bool:
    """Whether the file is among those that are meant."""
    query = SQL("SELECT FROM {} WHERE f.file_id = %(one)s AND {} AND {}").format(
        _from(plan), _of_set(plan), _rest(plan)
    )
    return conn.execute(query, _params(plan, one=file_id)).fetchone() is not None


def in_order_of_name(conn: Connection, plan: Plan) -> Iterator[tuple[int, str]]:
    """Id and name of every file that is meant, sorted by name; in constant memory, while the transaction is open."""
    query = SQL("""
        SELECT f.file_id, d.path || '/' || f.name FROM {} WHERE {} AND {} ORDER BY 2
    """).format(_from(plan), _of_set(plan), _rest(plan))
    with conn.cursor(name="in_order_of_name") as cursor:
        cursor.itersize = 10_000
        yield from cursor.execute(query, _params(plan))


# --- pages -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Sort:
    """One key to sort by."""

    key: str
    down: bool = False


def read_sort(text: str) -> tuple[Sort, ...]:
    """`-size,name`: the largest first, by name where they are equal; raises Invalid."""
    sorts = tuple(Sort(part.strip().removeprefix("-"), part.strip().startswith("-")) for part in text.split(","))
    for sort in sorts:
        if sort.key not in SORTS:
            raise Invalid(f"files cannot be sorted by '{printable(sort.key)}'", hint=nearest(sort.key, SORTS))
    if len({sort.key for sort in sorts}) < len(sorts):
        raise Invalid(f"'{printable(text)}' names a key twice")
    return sorts


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the files after it are still to come. `keys` are those of the last file that was seen.

    On the way through metadata sets: `ahead` are sets that match and their numbers of files, `fetch` how many are
    looked for when these are used up (0: there are no more), `budget` how many files the next statement may look at.
    """

    set_id: int = 0
    file_id: int = 0
    keys: tuple[Any, ...] = ()
    ahead: tuple[tuple[int, int], ...] = ()
    fetch: int = FEW_SETS
    budget: int = PAGE


@dataclass(frozen=True, slots=True)
class FileName:
    """A file's name and size, when nothing else is asked."""

    lfn: str
    size: int


@dataclass(frozen=True, slots=True)
class Form:
    """How files are told: the columns that are read, of which the first two are set and file, and what is made of the
    rows of a page."""

    columns: SQL
    make: Callable[[Connection, Sequence[tuple[Any, ...]]], list[Any]]


def _file_names(_conn: Connection, lines: Sequence[tuple[Any, ...]]) -> list[FileName]:
    return [FileName(lfn, size) for _, _, lfn, size in lines]


def _file_rows(conn: Connection, lines: Sequence[tuple[Any, ...]]) -> list[FileRow]:
    """What a metadata set says is fetched once for all its files."""
    sets = _metas(conn, lines, as_text=False)
    return [FileRow(*line[1:-1], meta=sets[line[0]] | (line[-1] or {})) for line in lines]


def _name_lines(_conn: Connection, lines: Sequence[tuple[Any, ...]]) -> list[str]:
    return [f'{{"lfn":"{lfn}","size":{size}}}' for _, _, lfn, size in lines]


def _file_lines(conn: Connection, lines: Sequence[tuple[Any, ...]]) -> list[str]:
    """JSON put together from what the database has as JSON already: keys of a set and of a file are never the same, and
    a name holds nothing that would have to be escaped."""
    sets = _metas(conn, lines, as_text=True)
    told: list[str] = []
    for set_id, file_id, lfn, size, sha256, adler32, created, activity_id, extra in lines:
        meta = sets[set_id]
        if extra:
            meta = f"{meta[:-1]},{extra[1:]}" if meta != "{}" else extra
        told.append(
            f'{{"file_id":{file_id},"lfn":"{lfn}","size":{size},"sha256":"{sha256}","adler32":"{adler32}",'
            f'"created":"{created}","activity_id":{activity_id},"meta":{meta}}}'
        )
    return told


def _metas(conn: Connection, lines: Sequence[tuple[Any, ...]], *, as_text: bool) -> dict[int, Any]:
    query = "SELECT set_id, meta::text FROM meta_set" if as_text else "SELECT set_id, meta FROM meta_set"
    return dict(
        conn.execute(SQL(query) + SQL(" WHERE set_id = ANY(%s)"), (list({line[0] for line in lines}),)).fetchall()
    )


NAMES = Form(SQL("f.set_id, f.file_id, d.path || '/' || f.name AS lfn, f.size"), _file_names)
"""`FileName`s."""
FILES = Form(
    SQL("""f.set_id, f.file_id, d.path || '/' || f.name AS lfn, f.size, encode(f.sha256, 'hex') AS sha256,
           lpad(to_hex(f.adler32), 8, '0') AS adler32, f.created, f.activity_id, f.extra"""),
    _file_rows,
)
"""`FileRow`s."""
NAME_LINES = Form(NAMES.columns, _name_lines)
"""JSON texts of `FileName`s."""
FILE_LINES = Form(
    SQL("""f.set_id, f.file_id, d.path || '/' || f.name AS lfn, f.size, encode(f.sha256, 'hex') AS sha256,
           lpad(to_hex(f.adler32), 8, '0') AS adler32,
           to_char(f.created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created, f.activity_id,
           f.extra::text"""),
    _file_lines,
)
"""JSON texts of `FileRow`s."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the files in the form that was asked for, and where the next page begins; None after the last."""

    files: list[Any]
    next: Place | None


def page(conn: Connection, plan: Plan, sorts: Sequence[Sort], place: Place, limit: int, form: Form) -> Page:
    """The next files after `place`, at most `limit`; there may be fewer although more are to come."""
    if sorts:
        return _sorted_page(conn, plan, sorts, place, limit, form)
    if plan.way is Way.SETS:
        return _page_of_sets(conn, plan, place, limit, form)
    return _page_of_files(conn, plan, place, limit, form)


def _page_of_sets(conn: Connection, plan: Plan, place: Place, limit: int, form: Form) -> Page:
    """Walk through as many matching sets as the page needs, and in each through its files."""
    ahead, fetch = place.ahead, place.fetch
    if not ahead:
        ahead = tuple(_sets_after(conn, plan, place.set_id, fetch)) if fetch else ()
        fetch = min(MOST_SETS, fetch * 4) if len(ahead) == fetch else 0
    if not ahead:
        return Page([], None)
    budget = max(limit, place.budget)
    sets: list[int] = []
    for set_id, n_files in ahead:
        if budget <= 0:
            break
        sets.append(set_id)
        budget -= n_files
    query = SQL("""
        SELECT found.*
          FROM unnest(%(sets)s::bigint[]) AS w (set_id)
         CROSS JOIN LATERAL (
               SELECT {}
                 FROM file f
                 JOIN directory d USING (dir_id)
                 JOIN meta_set s USING (set_id)
                WHERE f.set_id = w.set_id
                  AND f.file_id > CASE WHEN w.set_id = %(set_id)s THEN %(file_id)s ELSE 0 END
                  AND {}
                ORDER BY f.file_id
                LIMIT %(limit)s) found
         ORDER BY found.set_id, found.file_id
         LIMIT %(limit)s
    """).format(form.columns, _rest(plan))
    lines = conn.execute(
        query, _params(plan, sets=sets, set_id=place.set_id, file_id=place.file_id, limit=limit)
    ).fetchall()
    files = form.make(conn, lines)
    if len(lines) == limit:
        reached, file_id = lines[-1][:2]
        ahead = tuple(one for one in ahead if one[0] >= reached)
        return Page(files, Place(reached, file_id, ahead=ahead, fetch=fetch, budget=place.budget))
    ahead = ahead[len(sets) :]
    if not ahead and not fetch:
        return Page(files, None)
    wider = min(MOST_FILES, place.budget * 4) if plan.rest and len(lines) * 2 < limit else place.budget
    return Page(files, Place(sets[-1], ahead=ahead, fetch=fetch, budget=wider))


def _sets_after(conn: Connection, plan: Plan, set_id: int, limit: int) -> list[tuple[int, int]]:
    """Sets that match and hold files, and how many; at most `limit`."""
    query = SQL("""
        SELECT s.set_id, c.n_files
          FROM meta_set s JOIN set_count c USING (set_id)
         WHERE {}
           AND s.set_id > %(set_id)s
           AND c.n_files > 0
         ORDER BY s.set_id
         LIMIT %(limit)s
    """).format(_of_set(plan))
    return conn.execute(query, _params(plan, set_id=set_id, limit=limit)).fetchall()


def _page_of_files(conn: Connection, plan: Plan, place: Place, limit: int, form: Form) -> Page:
    order = SQL("m.file_id") if plan.listed else SQL("f.set_id, f.file_id")
    after = SQL("m.file_id > %(file_id)s" if plan.listed else "(f.set_id, f.file_id) > (%(set_id)s, %(file_id)s)")
    query = SQL("""
        SELECT {}
          FROM {}
         WHERE {}
           AND {}
           AND {}
         ORDER BY {}
         LIMIT %(limit)s
    """).format(form.columns, _from(plan), after, _of_set(plan), _rest(plan), order)
    lines = conn.execute(query, _params(plan, set_id=place.set_id, file_id=place.file_id, limit=limit)).fetchall()
    return Page(form.make(conn, lines), Place(lines[-1][0], lines[-1][1]) if len(lines) == limit else None)


def _sorted_page(conn: Connection, plan: Plan, sorts: Sequence[Sort], place: Place, limit: int, form: Form) -> Page:
    """The page after the keys of the last file; where all of them are equal, after its id."""
    columns = [SQL(SORTS[sort.key]) for sort in sorts]
    after = Composed([SQL("true")])
    params: dict[str, Any] = {"limit": limit, "file_id": place.file_id}
    if place.keys:
        params |= {f"k{i}": key for i, key in enumerate(place.keys)}
        after = SQL("f.file_id > %(file_id)s").format()
        for i in reversed(range(len(sorts))):
            beyond: LiteralString = "({0} < {1} OR ({0} = {1} AND {2}))" if sorts[i].down else (
                "({0} > {1} OR ({0} = {1} AND {2}))"
            )  # fmt: skip
            after = SQL(beyond).format(columns[i], Placeholder(f"k{i}"), after)
    query = SQL("""
        SELECT {}, {}
          FROM {}
         WHERE {}
           AND {}
           AND {}
         ORDER BY {}, f.file_id
         LIMIT %(limit)s
    """).format(form.columns, SQL(", ").join(columns), _from(plan), _of_set(plan), _rest(plan), after, _order(sorts))
    lines = conn.execute(query, _params(plan, **params)).fetchall()
    n = len(sorts)
    files = form.make(conn, [line[:-n] for line in lines])
    if len(lines) < limit:
        return Page(files, None)
    return Page(files, Place(lines[-1][0], lines[-1][1], keys=lines[-1][-n:]))


def sorted_whole(
    conn: Connection, plan: Plan, sorts: Sequence[Sort], limit: int | None, form: Form
) -> Iterator[list[Any]]:
    """All files in order, some at a time, sorted once; in constant memory, while the transaction is open."""
    query = SQL("""
        SELECT {}
          FROM {}
         WHERE {}
           AND {}
         ORDER BY {}, f.file_id
         LIMIT %(limit)s
    """).format(form.columns, _from(plan), _of_set(plan), _rest(plan), _order(sorts))
    with conn.cursor(name="sorted_whole") as cursor:
        cursor.execute(query, _params(plan, limit=limit))
        while lines := cursor.fetchmany(SORTED_PAGE):
            yield form.make(conn, lines)


def _order(sorts: Sequence[Sort]) -> Composed:
    return SQL(", ").join(SQL(SORTS[sort.key] + (" DESC" if sort.down else "")) for sort in sorts)


def _rest(plan: Plan) -> Composed:
    return plan.rest or Composed([SQL("true")])


# --- what there is ---------------------------------------------------------------------------------------------
def known_names(conn: Connection, word: Word) -> list[str]:
    """Every name that a condition on storages, sites or productions may use."""
    tables: dict[Word, LiteralString] = {
        Word.STORAGE: "SELECT name FROM storage",
        Word.SITE: "SELECT name FROM site",
        Word.PRODUCED_BY: "SELECT name FROM production",
        Word.SCOPE: "SELECT name FROM scope",
        Word.DATASET: "SELECT name FROM dataset",
    }
    return [name for (name,) in conn.execute(tables[word]).fetchall()]


def transformations(conn: Connection) -> Iterator[int]:
    """Number of every transformation."""
    yield from (number for (number,) in conn.execute("SELECT transformation_id FROM transformation").fetchall())
