"""Beside the walk: collections, which are the catalogue's directories: a day of one telescope, its month, its year.

Before: files were registered, and with them the directories that they lie in.    After: people look. Called by the API.
Nobody makes a collection: a file's name says all those that it is in, so none can be missing, double or wrongly hung.
"""

from dataclasses import dataclass

from lightkeeper.context import Context
from lightkeeper.domain.errors import NotFound
from lightkeeper.domain.names import collections_of, parse_lfn
from lightkeeper.store import collections
from lightkeeper.store.collections import Collection


@dataclass(frozen=True, slots=True)
class Shown:
    """A collection, those that it lies in from the outermost on, and those right in it."""

    collection: Collection
    within: list[Collection]
    holds: list[Collection]


def show(ctx: Context, path: str) -> Shown:
    """One collection; raises NotFound when nothing lies there."""
    directory = parse_lfn(path.rstrip("/"))
    with ctx.db.transaction() as conn:
        found = {one.path: one for one in collections.chain(conn, [*collections_of(directory), directory])}
        holds = collections.children(conn, directory)
    if directory not in found:
        raise NotFound(f"no file lies in {directory}", hint="lightkeeper collection list")
    return Shown(found.pop(directory), list(found.values()), holds)


def outermost(ctx: Context) -> list[Collection]:
    """The collections that lie in no other."""
    with ctx.db.transaction() as conn:
        return collections.children(conn, "")
