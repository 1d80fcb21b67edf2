"""Datasets: named queries that are matched and counted as files come, and the lists of those that are frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.catalog import Vocabulary
from lightkeeper.domain.errors import Conflict, NotFound, nearest
from lightkeeper.domain.names import printable
from lightkeeper.domain.query import (
    LISTS,
    FileCondition,
    Not,
    Op,
    Query,
    Tree,
    Word,
    any_of,
    file_condition,
    replaced,
)
from lightkeeper.store.db import rows, value, values


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset as it is. `files` and `bytes` are None when more than metadata keys decides, so that they must be
    counted; `digest` is the sha256 of the sorted names of a frozen one, once it was taken."""

    dataset_id: int
    name: str
    description: str
    query: dict[str, Any]
    created: datetime
    changed: datetime
    frozen: datetime | None
    digest: str | None
    files: int | None
    bytes: int | None


def datasets(conn: Connection, pattern: str = "%") -> list[DatasetRow]:
    """Datasets whose name, or its last part, is like the SQL pattern, by name."""
    return rows(
        conn,
        DatasetRow,
        """
        SELECT d.dataset_id, d.name, d.description, d.query, d.created, d.changed, d.frozen,
               encode(d.digest, 'hex') AS digest,
               CASE WHEN d.set_query IS NOT NULL OR d.frozen IS NOT NULL THEN coalesce(c.n_files, 0) END AS files,
               CASE WHEN d.set_query IS NOT NULL OR d.frozen IS NOT NULL THEN coalesce(c.n_bytes, 0) END AS bytes
          FROM dataset d
          LEFT JOIN dataset_count c USING (dataset_id)
         WHERE d.name LIKE %(pattern)s OR d.name LIKE '%%/' || %(pattern)s
         ORDER BY d.name
        """,
        pattern=pattern,
    )


def dataset(conn: Connection, name: str) -> DatasetRow:
    """The dataset of this name, or the only one whose name ends with it; raises NotFound, or Conflict for several."""
    literal = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = datasets(conn, literal)
    exact = [one for one in found if one.name == name]
    if exact or len(found) == 1:
        return (exact or found)[0]
    if found:
        raise Conflict(
            f"'{printable(name)}' may be any of {len(found)} datasets: {', '.join(one.name for one in found[:3])}…",
            hint="write the whole name",
        )
    raise NotFound(
        f"there is no dataset '{printable(name)}'", hint=nearest(name, values(conn, "SELECT name FROM dataset"))
    )


def named(conn: Connection, name: str) -> DatasetRow | None:
    """The dataset of exactly this name, if there is one."""
    try:
        found = dataset(conn, name)
    except (NotFound, Conflict):
        return None
    return found if found.name == name else None


def split_otherwise(conn: Connection, file_ids: Sequence[int], key: str, label: str) -> int:
    """How many of these files have another value of `key` than `label`."""
    return value(
        conn,
        """
        SELECT count(*)
          FROM file f JOIN meta_set s USING (set_id)
         WHERE f.file_id = ANY(%(ids)s)
           AND coalesce(f.extra -> %(key)s, s.meta -> %(key)s) <> to_jsonb(%(label)s::text)
        """,
        ids=list(file_ids),
        key=key,
        label=label,
    )


def expanded(conn: Connection, query: Query, vocabulary: Vocabulary) -> Query:
    """The query with the conditions of dynamic datasets in the place of their names. Frozen ones stay, one at a time
    and by their whole name: their lists decide. Raises as `dataset` does."""

    def meant(condition: FileCondition) -> Tree:
        if condition.word is not Word.DATASET:
            return condition
        named = [dataset(conn, name) for name in (condition.value if condition.op in LISTS else [condition.value])]
        tree = any_of(
            Query.from_map(one.query, vocabulary).tree
            if one.frozen is None
            else file_condition(Word.DATASET, Op.EQ, one.name)
            for one in named
        )
        return Not(tree) if condition.op in (Op.NE, Op.NOT_IN) else tree

    return Query(replaced(query.tree, meant))


# --- making and changing ---------------------------------------------------------------------------------------
def add(
    conn: Connection, name: str, description: str, query: Mapping[str, Any], by_keys: tuple[str, str | None] | None
) -> int:
    """A new dynamic dataset; its id. The caller holds registration."""
    set_query, file_query = by_keys or (None, None)
    return value(
        conn,
        """
        INSERT INTO dataset (name, description, query, set_query, file_query)
        VALUES (%(name)s, %(description)s, %(query)s, %(set_query)s::jsonpath, %(file_query)s::jsonpath)
        RETURNING dataset_id
        """,
        name=name,
        description=description,
        query=Jsonb(dict(query)),
        set_query=set_query,
        file_query=file_query,
    )


def match(conn: Connection, dataset_id: int) -> None:
    """Find the metadata sets that a dynamic dataset takes. The caller holds registration."""
    conn.execute(
        """
        INSERT INTO dataset_set (set_id, dataset_id)
        SELECT s.set_id, d.dataset_id
          FROM dataset d JOIN meta_set s ON s.meta @@ d.set_query
         WHERE d.dataset_id = %s AND s.state = 'Current'
        ON CONFLICT DO NOTHING
        """,
        (dataset_id,),
    )


def freeze(conn: Connection, dataset_id: int) -> None:
    """From now on the dataset is what `dataset_file` lists. The caller holds registration and has made the list."""
    conn.execute("DELETE FROM dataset_set WHERE dataset_id = %s", (dataset_id,))
    conn.execute(
        "UPDATE dataset SET frozen = now(), changed = now(), digest = NULL WHERE dataset_id = %s", (dataset_id,)
    )


def release(conn: Connection, dataset_id: int) -> None:
    """Throw the list away: the dataset is its query again. The caller holds registration."""
    conn.execute("DELETE FROM dataset_file WHERE dataset_id = %s", (dataset_id,))
    conn.execute("DELETE FROM dataset_count WHERE dataset_id = %s", (dataset_id,))
    conn.execute(
        "UPDATE dataset SET frozen = NULL, changed = now(), digest = NULL WHERE dataset_id = %s", (dataset_id,)
    )


def put_count(conn: Connection, dataset_id: int, n_files: int, n_bytes: int) -> None:
    """What the dataset holds, as it was counted. The caller holds registration."""
    conn.execute(
        """
        INSERT INTO dataset_count (dataset_id, n_files, n_bytes) VALUES (%s, %s, %s)
        ON CONFLICT (dataset_id) DO UPDATE SET n_files = excluded.n_files, n_bytes = excluded.n_bytes
        """,
        (dataset_id, n_files, n_bytes),
    )


def put_digest(conn: Connection, dataset_id: int, digest: bytes) -> None:
    """Note the sha256 of a frozen dataset's names."""
    conn.execute(
        "UPDATE dataset SET digest = %s WHERE dataset_id = %s AND frozen IS NOT NULL AND digest IS NULL",
        (digest, dataset_id),
    )


def describe(conn: Connection, dataset_id: int, description: str) -> None:
    """Say something else about a dataset."""
    conn.execute(
        "UPDATE dataset SET description = %s, changed = now() WHERE dataset_id = %s", (description, dataset_id)
    )


def users_of(conn: Connection, dataset_id: int) -> list[str]:
    """Names of transformations that take their files from this frozen dataset's list."""
    return values(
        conn,
        "SELECT name FROM transformation WHERE dataset_id = %(id)s AND state <> 'Completed' ORDER BY 1",
        id=dataset_id,
    )


def remove(conn: Connection, dataset_id: int) -> None:
    """Forget a dataset, not its files. Completed transformations forget that they took them from it."""
    conn.execute("UPDATE transformation SET dataset_id = NULL WHERE dataset_id = %s", (dataset_id,))
    conn.execute("DELETE FROM dataset_file WHERE dataset_id = %s", (dataset_id,))
    conn.execute("DELETE FROM dataset WHERE dataset_id = %s", (dataset_id,))


def holding(conn: Connection, file_ids: Sequence[int]) -> list[tuple[int, str]]:
    """Frozen datasets that these files are in, as (file, name)."""
    return conn.execute(
        "SELECT file_id, name FROM dataset_file JOIN dataset USING (dataset_id) WHERE file_id = ANY(%s) ORDER BY 1, 2",
        (list(file_ids),),
    ).fetchall()
