"""A file gets its name: who may do it now. Whoever renames bytes to an LFN and registers them holds the name first."""

from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.names import Lfn, split_lfn
from lightkeeper.domain.states import File, Replica
from lightkeeper.store.catalog import FileRow, files_by_lfn
from lightkeeper.store.db import row, value
from lightkeeper.store.transfers import unsettle


def hold_names(conn: Connection, lfns: Iterable[Lfn]) -> None:
    """Until this transaction ends nobody else promotes a file to one of these names, on any storage."""
    for lfn in sorted(lfns):
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('promotion'), hashtext(%s))", (lfn,))


def lock_file(conn: Connection, lfn: Lfn) -> FileRow | None:
    """The file of this name, when it is registered; until this transaction ends none of its copies is deleted.
    `unsettled` comes first: the planner locks in that order too."""
    directory, name = split_lfn(lfn)
    file_id: int | None = value(
        conn,
        """
        SELECT f.file_id
          FROM file f
          JOIN directory d USING (dir_id)
         WHERE d.path = %(directory)s AND f.name = %(name)s
        """,
        directory=directory,
        name=name,
    )
    if file_id is None:
        return None
    unsettle(conn, [file_id])
    conn.execute("SELECT FROM file WHERE file_id = %s FOR UPDATE", (file_id,))
    return next(iter(files_by_lfn(conn, [lfn])), None)


@dataclass(frozen=True, slots=True)
class Held:
    """A file's copy on one storage. One that is not `verified` was only reported; nobody has read it yet."""

    state: Replica
    verified: bool


def copy_at(conn: Connection, file_id: int, storage_id: int) -> Held | None:
    """A file's copy on one storage; None when it has none there."""
    return row(
        conn,
        Held,
        """
        SELECT state, verified_at >= written_at AS verified
          FROM replica
         WHERE file_id = %(file)s AND storage_id = %(storage)s
        """,
        file=file_id,
        storage=storage_id,
    )


def is_removed(conn: Connection, file_id: int) -> bool:
    """Whether the bytes of a file were given up: copies that are left are about to go."""
    state: str | None = value(
        conn, "SELECT s.state::text FROM file f JOIN meta_set s USING (set_id) WHERE f.file_id = %(id)s", id=file_id
    )
    return state == File.REMOVED
