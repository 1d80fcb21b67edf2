"""What is asked about many files at once, by name: one statement for any number of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from lightkeeper.domain.names import Lfn, split_lfn
from lightkeeper.domain.states import File, Replica
from lightkeeper.store.db import rows, values


@dataclass(frozen=True, slots=True)
class Found:
    """A registered file: its state, the number of its Available copies, and the name of what registered it."""

    file_id: int
    lfn: str
    state: File
    copies: int
    activity: str


def find(conn: Connection, lfns: Sequence[str]) -> list[Found]:
    """Those of these names that are registered, by name."""
    return rows(
        conn,
        Found,
        """
        SELECT f.file_id, d.path || '/' || f.name AS lfn, s.state, a.name AS activity,
               (SELECT count(*) FROM replica r WHERE r.file_id = f.file_id AND r.state = 'Available') AS copies
          FROM unnest(%(paths)s::text[], %(names)s::text[]) AS w (path, name)
          JOIN directory d USING (path)
          JOIN file f ON f.dir_id = d.dir_id AND f.name = w.name
          JOIN meta_set s USING (set_id)
          JOIN activity a USING (activity_id)
         ORDER BY 2
        """,
        **_parts(lfns),
    )


def ids(conn: Connection, lfns: Sequence[str]) -> list[int]:
    """Ids of those of these names that are registered."""
    return values(
        conn,
        """
        SELECT f.file_id
          FROM unnest(%(paths)s::text[], %(names)s::text[]) AS w (path, name)
          JOIN directory d USING (path)
          JOIN file f ON f.dir_id = d.dir_id AND f.name = w.name
        """,
        **_parts(lfns),
    )


@dataclass(frozen=True, slots=True)
class ReplicaOf:
    """One replica of a named file. `verified_at` is when its bytes were last read and agreed; None: not yet."""

    lfn: str
    storage: str
    site: str
    state: Replica
    verified_at: datetime | None


def replicas(conn: Connection, lfns: Sequence[str]) -> list[ReplicaOf]:
    """Every replica of these files, by name and storage."""
    return rows(
        conn,
        ReplicaOf,
        """
        SELECT d.path || '/' || f.name AS lfn, s.name AS storage, site.name AS site, r.state,
               CASE WHEN r.verified_at >= r.written_at THEN r.verified_at END AS verified_at
          FROM unnest(%(paths)s::text[], %(names)s::text[]) AS w (path, name)
          JOIN directory d USING (path)
          JOIN file f ON f.dir_id = d.dir_id AND f.name = w.name
          JOIN replica r USING (file_id)
          JOIN storage s USING (storage_id)
          JOIN site USING (site_id)
         ORDER BY 1, 2
        """,
        **_parts(lfns),
    )


def superseded_by(conn: Connection, file_ids: Sequence[int]) -> dict[int, str]:
    """Names of the files that took the place of these, by id of the older."""
    return dict(
        conn.execute(
            """
            SELECT p.file_id, d.path || '/' || f.name
              FROM supersession p
              JOIN file f ON f.file_id = p.by_id
              JOIN directory d USING (dir_id)
             WHERE p.file_id = ANY(%s)
            """,
            (list(file_ids),),
        ).fetchall()
    )


def copies_at(conn: Connection, file_ids: Sequence[int], storage_id: int) -> dict[int, str]:
    """States of the replicas of these files on one storage; one whose deletion is approved is Deleting."""
    return dict(
        conn.execute(
            """
            SELECT r.file_id, CASE WHEN i.intent_id IS NULL THEN r.state::text ELSE 'Deleting' END
              FROM replica r
              LEFT JOIN intent i ON i.file_id = r.file_id AND i.storage_id = r.storage_id AND i.state = 'Approved'
             WHERE r.file_id = ANY(%s) AND r.storage_id = %s
            """,
            (list(file_ids), storage_id),
        ).fetchall()
    )


def open_tasks(conn: Connection, file_ids: Sequence[int]) -> dict[int, int]:
    """A task that is to be done, or is under way, on each of these files."""
    return dict(
        conn.execute(
            """
            SELECT i.file_id, max(task.task_id)
              FROM task_input i JOIN task USING (task_id)
             WHERE i.file_id = ANY(%(ids)s) AND task.state IN ('Ready', 'Running')
             GROUP BY i.file_id
             UNION ALL
            SELECT u.file_id, max(task.task_id)
              FROM companion_in_use u JOIN task USING (transformation_id)
             WHERE u.file_id = ANY(%(ids)s) AND task.state IN ('Ready', 'Running')
             GROUP BY u.file_id
            """,
            {"ids": list(file_ids)},
        ).fetchall()
    )


def ties(conn: Connection, file_ids: Sequence[int]) -> dict[int, str]:
    """What else in the catalogue refers to these files, in words."""
    return dict(
        conn.execute(
            """
            SELECT file_id, 'files were made from it' FROM used WHERE file_id = ANY(%(ids)s)
             UNION ALL
            SELECT file_id, 'it is an input of task ' || task_id FROM task_input WHERE file_id = ANY(%(ids)s)
             UNION ALL
            SELECT file_id, 'every job of transformation ' || transformation_id || ' reads it'
              FROM companion WHERE file_id = ANY(%(ids)s)
             UNION ALL
            SELECT file_id, 'a copy of it is under way' FROM transfer
             WHERE file_id = ANY(%(ids)s) AND state IN ('Waiting', 'Running')
             UNION ALL
            SELECT file_id, 'a copy of it is being deleted' FROM replica
             WHERE file_id = ANY(%(ids)s) AND state = 'Deleting'
             UNION ALL
            SELECT file_id, 'a copy of it is to be deleted' FROM intent
             WHERE file_id = ANY(%(ids)s) AND state = 'Approved'
            """,
            {"ids": list(file_ids)},
        ).fetchall()
    )


def _parts(lfns: Sequence[str]) -> dict[str, list[str]]:
    parts = [split_lfn(Lfn(lfn)) for lfn in lfns]
    return {"paths": [path for path, _ in parts], "names": [name for _, name in parts]}
