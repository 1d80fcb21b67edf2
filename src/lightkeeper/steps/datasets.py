"""Beside the walk: datasets, which are named queries. Called by the API; a second call changes nothing or is refused.

A dynamic dataset is what its query means now. Files that come, change or go are counted in the transaction that
changes them, so number and bytes are always right. A frozen one is the list of files that it meant when it was frozen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from psycopg.errors import UniqueViolation

from lightkeeper.context import Context
from lightkeeper.domain.catalog import MetaKey, Vocabulary
from lightkeeper.domain.datasets import (
    MAX_DESCRIPTION,
    by_keys,
    check_query,
    fixes,
    parse_dataset_name,
    parts_of,
    read_fractions,
)
from lightkeeper.domain.errors import Conflict, Invalid
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.query import Op, Query, Word, all_of, file_condition, glob_to_like, key_condition
from lightkeeper.domain.query_text import to_text
from lightkeeper.domain.values import from_text
from lightkeeper.steps.catalogue import compiled, read_query
from lightkeeper.steps.spool import kept_aside
from lightkeeper.store import catalog, changes, datasets, queries, topology
from lightkeeper.store.datasets import DatasetRow
from lightkeeper.store.db import Connection, until_free
from lightkeeper.store.queries import Plan, Size, Usage
from lightkeeper.store.sets import hold_registration

SPLIT_KEY = "split"
SPLIT_NAMES = ("train_en", "train_cl", "test")
CHANGED_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset that somebody wants: its name, its query in any form, and a few words about it."""

    name: str
    query: str | Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset and what it holds; `text` is its query to be read by people, `digest` the sha256 of the sorted names
    of a frozen one."""

    name: str
    status: str
    files: int
    bytes: int
    text: str
    query: dict[str, Any]
    description: str
    created: str
    changed: str
    digest: str | None


# --- looking ---------------------------------------------------------------------------------------------------
def find(ctx: Context, pattern: str = "*", *, texts: bool = True) -> list[Dataset]:
    """Datasets whose name, or the last part of it, fits the pattern of `*` and `?`, by name; their queries are written
    out for people only when `texts` are asked for."""
    with ctx.db.transaction() as conn:
        return _told(conn, datasets.datasets(conn, glob_to_like(pattern)), texts=texts)


def show(ctx: Context, name: str) -> Dataset:
    """One dataset; raises NotFound, or Conflict for a short name of several."""
    with ctx.db.transaction() as conn:
        return _told(conn, [datasets.dataset(conn, name)])[0]


def usage(ctx: Context, name: str) -> list[Usage]:
    """What each storage holds of it."""
    with ctx.db.transaction() as conn:
        return queries.usage(conn, _plan(conn, datasets.dataset(conn, name)))


def that_fix(ctx: Context, values: Mapping[str, str]) -> list[Dataset]:
    """Datasets whose query says `key = value` for each of `values`, texts of the keys' types."""
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        wanted = [(vocabulary.key(name), from_text(vocabulary.key(name), text)) for name, text in values.items()]
        found = [
            row
            for row in datasets.datasets(conn)
            if all(fixes(Query.from_map(row.query, vocabulary), key, value) for key, value in wanted)
        ]
        return _told(conn, found)


def that_hold(ctx: Context, lfn: str) -> list[Dataset]:
    """Datasets that the file is in; raises NotFound for an unknown file."""
    with ctx.db.transaction() as conn:
        file = catalog.known_files(conn, [parse_lfn(lfn)])[0]
        rows = datasets.datasets(conn)
        return _told(conn, [row for row in rows if queries.holds(conn, _plan(conn, row), file.file_id)])


def names(ctx: Context, name: str) -> Iterator[bytes]:
    """The names of all its files, sorted, one on each line: the same every time as long as its files are the same.

    They are read at once and kept aside, so that a slow reader holds no transaction. Raises before it returns.
    """
    with ctx.db.transaction() as conn:
        found = queries.in_order_of_name(conn, _plan(conn, datasets.dataset(conn, name)))
        return kept_aside(lfn.encode() + b"\n" for _, lfn in found)


# --- making ----------------------------------------------------------------------------------------------------
def create(ctx: Context, new: NewDataset, *, dry_run: bool = False) -> Size:
    """Make a dynamic dataset; what it holds now. Conditions of datasets in its query are taken over as they are now.
    Raises Invalid for an unknown key or a wrong value, Conflict when there is a dataset of that name."""
    parse_dataset_name(new.name)
    if len(new.description) > MAX_DESCRIPTION:
        raise Invalid(f"a description has at most {MAX_DESCRIPTION} characters, not {len(new.description)}")
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        size = _create(conn, new)
    if not dry_run:
        ctx.log.info("dataset created", dataset=new.name, files=size.files)
    return size


def freeze(ctx: Context, name: str) -> Dataset:
    """Make a dataset the list of files that it means now, for ever; one that is frozen stays as it is."""
    return _freeze(ctx, name)


def _freeze(ctx: Context, name: str, instead: Query | None = None) -> Dataset:
    """Freeze a dataset as the files that it means, or those of another query `instead`."""
    with ctx.db.transaction() as conn:
        hold_registration(conn)
        row = datasets.dataset(conn, name)
        if row.frozen is None:
            plan = compiled(conn, instead) if instead else _plan(conn, row)
            size = queries.put_list(conn, plan, row.dataset_id)
            datasets.freeze(conn, row.dataset_id)
            datasets.put_count(conn, row.dataset_id, size.files, size.bytes)
    if row.digest is None:
        _take_digest(ctx, row.name)
    ctx.log.info("dataset frozen", dataset=row.name)
    return show(ctx, row.name)


def release(ctx: Context, name: str, *, dry_run: bool = False) -> Dataset:
    """Throw the list of a frozen dataset away: it is its query again. A dynamic one stays as it is. What it holds
    then, or with `dry_run` would hold."""
    with ctx.db.transaction() as conn, conn.transaction(force_rollback=dry_run):
        hold_registration(conn)
        row = datasets.dataset(conn, name)
        if row.frozen is not None:
            _refuse_used(conn, row)
            datasets.release(conn, row.dataset_id)
            _match_and_count(conn, row.dataset_id, Query.from_map(row.query, topology.vocabulary(conn)))
        told = _told(conn, [datasets.dataset(conn, row.name)])[0]
    if not dry_run:
        ctx.log.info("dataset released", dataset=row.name)
    return told


@dataclass(frozen=True, slots=True)
class Recount:
    """What the counters of a dataset said, and what its files say. They only differ after a fault."""

    dataset: str
    said: Size
    counted: Size


def update(ctx: Context, name: str) -> Recount:
    """Count the files of a dataset one by one and mend its counters."""
    with ctx.db.transaction() as conn:
        hold_registration(conn)
        row = datasets.dataset(conn, name)
        counted = queries.recount(conn, _plan(conn, row))
        said = Size(row.files, row.bytes) if row.files is not None and row.bytes is not None else counted
        if row.files is not None:
            datasets.put_count(conn, row.dataset_id, counted.files, counted.bytes)
    if said != counted:
        ctx.log.error("dataset was counted wrongly", dataset=row.name, said=said, counted=counted)
    return Recount(row.name, said, counted)


def describe(ctx: Context, name: str, description: str) -> Dataset:
    """Say something else about a dataset."""
    if len(description) > MAX_DESCRIPTION:
        raise Invalid(f"a description has at most {MAX_DESCRIPTION} characters, not {len(description)}")
    with ctx.db.transaction() as conn:
        row = datasets.dataset(conn, name)
        datasets.describe(conn, row.dataset_id, description)
    return show(ctx, row.name)


def remove(ctx: Context, name: str, *, dry_run: bool = False) -> str:
    """Forget a dataset, not its files; its whole name. Raises Conflict when a transformation works on its list."""
    with ctx.db.transaction() as conn:
        hold_registration(conn)  # a registration that counts a file into it would find it gone
        row = datasets.dataset(conn, name)
        _refuse_used(conn, row)
        if not dry_run:
            datasets.remove(conn, row.dataset_id)
            ctx.log.info("dataset removed", dataset=row.name)
    return row.name


# --- splitting -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Part:
    """A part of a dataset that was split: the value of `split` of its files, and the dataset of them."""

    value: str
    dataset: str
    files: int


def split(
    ctx: Context, name: str, fractions: str, labels: Sequence[str] = (), *, again: bool = False, dry_run: bool = False
) -> list[Part]:
    """Cut a dataset in parts by the order of names: each file's key `split` becomes the label of its part, and each
    part a dataset `<name>_<label>`, frozen if this one is.

    Doing it twice does it once. Raises Conflict for files that are split otherwise already, unless `again`.
    """
    wanted = read_fractions(fractions)
    labels = list(labels) or list(SPLIT_NAMES[: len(wanted)])
    if len(labels) != len(wanted) or len(set(labels)) < len(labels):
        raise Invalid(f"{len(wanted)} fractions need {len(wanted)} different names, not: {', '.join(labels)}")
    with ctx.db.transaction() as conn:
        row = datasets.dataset(conn, name)
        vocabulary = topology.vocabulary(conn)
        files = [file_id for file_id, _ in queries.in_order_of_name(conn, _plan(conn, row))]
        key = vocabulary.key(SPLIT_KEY)
        parts = [
            (Part(label, f"{row.name}_{label}", end - begin), files[begin:end])
            for label, (begin, end) in zip(labels, parts_of(len(files), wanted), strict=True)
        ]
        new = [
            NewDataset(
                part.dataset, _with(_conditions(row, vocabulary), key, part.value).to_json(), f"part of {row.name}"
            )
            for part, _ in parts
        ]
        for one in new:
            _check_part(conn, one, again=again)
        n = 0 if again else sum(datasets.split_otherwise(conn, ids, SPLIT_KEY, part.value) for part, ids in parts)
        if n:
            raise Conflict(
                f"{n} file{'' if n == 1 else 's'} of {row.name} {'is' if n == 1 else 'are'} split already, "
                "into other parts",
                hint="--again splits them anew; datasets of the old parts lose them",
            )
    if not dry_run:
        for part, ids in parts:
            for begin in range(0, len(ids), CHANGED_AT_ONCE):
                until_free(partial(_label, ctx, ids[begin : begin + CHANGED_AT_ONCE], part.value, vocabulary))
        for one, (part, _) in zip(new, parts, strict=True):
            _create_if_new(ctx, one)
            if row.frozen is not None:
                _freeze(ctx, one.name, _with(_itself(row, vocabulary), key, part.value))
        ctx.log.info("dataset split", dataset=row.name, parts={part.value: part.files for part, _ in parts})
    return [part for part, _ in parts]


def _check_part(conn: Connection, part: NewDataset, *, again: bool) -> None:
    """Raises when there cannot be a dataset of this part: before any file is changed."""
    parse_dataset_name(part.name)
    there = datasets.named(conn, part.name)
    if there is not None and there.query != part.query:
        raise _is_there(part.name)
    if there is not None and there.frozen is not None and again:
        raise Conflict(f"{part.name} is frozen, so its files stay", hint=f"lightkeeper dataset release {part.name}")


def _label(ctx: Context, file_ids: Sequence[int], label: str, vocabulary: Vocabulary) -> None:
    with ctx.db.transaction() as conn:
        changes.set_metadata(conn, file_ids, {SPLIT_KEY: label}, (), vocabulary)


def _with(query: Query, key: MetaKey, value: str) -> Query:
    return Query(all_of([query.tree, key_condition(key, (), Op.EQ, value)]))


def _create_if_new(ctx: Context, new: NewDataset) -> None:
    try:
        create(ctx, new)
    except Conflict:
        with ctx.db.transaction() as conn:
            there = datasets.named(conn, new.name)
        if there is None or there.query != new.query:
            raise


# --- how -------------------------------------------------------------------------------------------------------
def _create(conn: Connection, new: NewDataset) -> Size:
    vocabulary = topology.vocabulary(conn)
    query = datasets.expanded(conn, read_query(conn, new.query), vocabulary)
    check_query(query)
    try:
        dataset_id = datasets.add(conn, new.name, new.description, query.to_json(), by_keys(query, vocabulary))
    except UniqueViolation:
        raise _is_there(new.name) from None
    return _match_and_count(conn, dataset_id, query)


def _is_there(name: str) -> Conflict:
    return Conflict(
        f"there is a dataset '{name}' already", hint="choose another name, or remove it first: its files stay"
    )


def _match_and_count(conn: Connection, dataset_id: int, query: Query) -> Size:
    datasets.match(conn, dataset_id)
    size = queries.count(conn, compiled(conn, query))
    if by_keys(query, topology.vocabulary(conn)):
        datasets.put_count(conn, dataset_id, size.files, size.bytes)
    return size


def _take_digest(ctx: Context, name: str) -> None:
    """The list does not change any more, so registration need not wait for this."""
    digest = sha256()
    for block in names(ctx, name):
        digest.update(block)
    with ctx.db.transaction() as conn:
        datasets.put_digest(conn, datasets.dataset(conn, name).dataset_id, digest.digest())


def _refuse_used(conn: Connection, row: DatasetRow) -> None:
    users = datasets.users_of(conn, row.dataset_id)
    if users:
        raise Conflict(
            f"{users[0]} takes its files from the list of {row.name}",
            hint="wait until that transformation is Completed",
        )


def _conditions(row: DatasetRow, vocabulary: Vocabulary) -> Query:
    return Query.from_map(row.query, vocabulary)


def _itself(row: DatasetRow, vocabulary: Vocabulary) -> Query:
    """The files of a dataset: its conditions, or its list."""
    if row.frozen is None:
        return _conditions(row, vocabulary)
    return Query(file_condition(Word.DATASET, Op.EQ, row.name))


def _plan(conn: Connection, row: DatasetRow) -> Plan:
    return compiled(conn, _itself(row, topology.vocabulary(conn)))


def _told(conn: Connection, rows: Sequence[DatasetRow], *, texts: bool = True) -> list[Dataset]:
    vocabulary = topology.vocabulary(conn)
    told: list[Dataset] = []
    for row in rows:
        known = row.files is not None and row.bytes is not None
        size = Size(row.files or 0, row.bytes or 0) if known else queries.count(conn, _plan(conn, row))
        told.append(
            Dataset(
                name=row.name,
                status="Dynamic" if row.frozen is None else "Frozen",
                files=size.files,
                bytes=size.bytes,
                text=to_text(_conditions(row, vocabulary)) if texts else "",
                query=row.query,
                description=row.description,
                created=row.created.isoformat(),
                changed=row.changed.isoformat(),
                digest=row.digest,
            )
        )
    return told
