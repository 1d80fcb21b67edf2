"""Collections: the directories of the catalogue, each with all that lies below it."""

from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.store.db import rows


@dataclass(frozen=True, slots=True)
class Collection:
    """A directory: files right in it, files in all below it, and their bytes."""

    path: str
    own_files: int
    files: int
    bytes: int


def children(conn: Connection, path: str) -> list[Collection]:
    """The directories right below `path`, which ends without a slash: by name. Files are counted, not looked up."""
    return rows(
        conn,
        Collection,
        """
        SELECT %(path)s || '/' || split_part(substr(d.path, length(%(path)s) + 2), '/', 1) AS path,
               coalesce(sum(f.files) FILTER (
                   WHERE d.path = %(path)s || '/' || split_part(substr(d.path, length(%(path)s) + 2), '/', 1)),
                   0)::bigint AS own_files,
               sum(f.files)::bigint AS files, coalesce(sum(f.bytes), 0)::bigint AS bytes
          FROM directory d
         CROSS JOIN LATERAL (SELECT count(*) AS files, sum(size) AS bytes FROM file WHERE file.dir_id = d.dir_id) f
         WHERE d.path >= %(path)s || '/' AND d.path < %(path)s || '0'
         GROUP BY 1
         ORDER BY 1
        """,
        path=path,
    )


def chain(conn: Connection, paths: list[str]) -> list[Collection]:
    """These directories with what lies in and below each; those where nothing lies are left out."""
    return rows(
        conn,
        Collection,
        """
        SELECT w.path, coalesce(sum(f.files) FILTER (WHERE d.path = w.path), 0)::bigint AS own_files,
               sum(f.files)::bigint AS files, coalesce(sum(f.bytes), 0)::bigint AS bytes
          FROM unnest(%(paths)s::text[]) AS w (path)
          JOIN directory d ON d.path = w.path OR d.path >= w.path || '/' AND d.path < w.path || '0'
         CROSS JOIN LATERAL (SELECT count(*) AS files, sum(size) AS bytes FROM file WHERE file.dir_id = d.dir_id) f
         GROUP BY w.path
         ORDER BY w.path
        """,
        paths=paths,
    )
