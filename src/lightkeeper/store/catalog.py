"""Files: registered in sets, found by name, by metadata, by copies."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Connection

from lightkeeper.domain.catalog import NewFile, Vocabulary
from lightkeeper.domain.names import Lfn, parse_lfn, scope_of, split_lfn
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store.db import notify, rows
from lightkeeper.store.transitions import move_replicas


@dataclass(slots=True)
class Registered:
    """What a registration did: new files, files known with the same content (a repeat, not an error), and names that
    are taken by another content. Values are file ids."""

    added: dict[Lfn, int] = field(default_factory=dict[Lfn, int])
    known: dict[Lfn, int] = field(default_factory=dict[Lfn, int])
    conflicts: dict[Lfn, int] = field(default_factory=dict[Lfn, int])


# --- registration ------------------------------------------------------------------------------------------------
def name_sets(conn: Connection, files: Sequence[NewFile], vocabulary: Vocabulary) -> None:
    """Make the scopes, directories and metadata sets that `files` need, and match new sets with transformations and
    policies. Run it in a short transaction of its own before `register`: other registrations may need the same
    names, and all make them in the same order, so none deadlocks."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('transformation'))")
    directories = sorted({split_lfn(f.lfn)[0]: scope_of(f.lfn) for f in files}.items())
    sets = sorted({_canonical(vocabulary.split(f.meta)[0]) for f in files})
    conn.execute(
        "INSERT INTO scope (name) SELECT DISTINCT unnest(%s::text[]) AS name ORDER BY name ON CONFLICT DO NOTHING",
        ([scope for _, scope in directories],),
    )
    conn.execute(
        """
        INSERT INTO directory (scope_id, path)
        SELECT scope_id, path
          FROM unnest(%s::text[], %s::text[]) AS d (path, scope)
          JOIN scope ON scope.name = d.scope
         ORDER BY path
        ON CONFLICT DO NOTHING
        """,
        ([path for path, _ in directories], [scope for _, scope in directories]),
    )
    conn.execute(
        """
        WITH new_set AS (
            INSERT INTO meta_set (hash, meta)
            SELECT DISTINCT ON (hash) hash, meta
              FROM (SELECT md5(m::text)::uuid AS hash, m AS meta FROM unnest(%s::jsonb[]) AS m) s
             ORDER BY hash
            ON CONFLICT (hash) DO NOTHING
            RETURNING set_id, meta),
        owed AS (
            INSERT INTO set_policy (set_id, policy_id)
            SELECT DISTINCT ON (s.set_id) s.set_id, p.policy_id
              FROM new_set s JOIN policy p ON s.meta @@ p.set_query
             ORDER BY s.set_id, p.name)
        INSERT INTO transformation_set (set_id, transformation_id)
        SELECT s.set_id, t.transformation_id
          FROM new_set s JOIN transformation t ON s.meta @@ t.set_query
         WHERE t.state NOT IN ('New', 'Completed')
        """,
        (sets,),
    )


def register(
    conn: Connection, files: Sequence[NewFile], vocabulary: Vocabulary, produced_by: int | None = None
) -> Registered:
    """Register `files` with metadata, provenance and their first replicas; all of it or nothing.

    After `name_sets`. `produced_by` is the transformation whose job made them. Idempotent: a name known with the
    same content gets its replica and nothing else. Every file that gained a replica is compared with what it is
    owed, and new files become inputs of the transformations that want them, in this same transaction.
    """
    _stage(conn, files, vocabulary)
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('transformation'))")
    _add_files(conn)
    result = _sort_out(conn)
    _add_replicas(conn)
    _add_inputs(conn, produced_by)
    _add_counts(conn)
    notify(conn, "unsettled")
    notify(conn, "input")
    return result


def _stage(conn: Connection, files: Sequence[NewFile], vocabulary: Vocabulary) -> None:
    conn.execute("""
        CREATE TEMP TABLE IF NOT EXISTS reg_file (
            file_id bigint NOT NULL DEFAULT nextval('file_id_seq'), dir_id int, set_id bigint, activity_id bigint,
            storage_id smallint, size bigint, adler32 int, known boolean NOT NULL DEFAULT false,
            path text COLLATE "C", name text COLLATE "C", hash uuid, sha256 bytea, meta jsonb, extra jsonb)
        ON COMMIT DELETE ROWS
    """)
    with conn.cursor().copy(
        "COPY reg_file (path, name, meta, extra, size, sha256, adler32, storage_id, activity_id) FROM STDIN"
    ) as copy:
        for file in files:
            shared, own = vocabulary.split(file.meta)
            path, name = split_lfn(file.lfn)
            adler32 = int(file.fixity.adler32, 16)
            copy.write_row((
                path,
                name,
                _canonical(shared),
                _canonical(own) if own else None,
                file.fixity.size,
                bytes.fromhex(file.fixity.sha256),
                adler32 - (1 << 32) if adler32 >> 31 else adler32,
                file.storage_id,
                file.activity_id,
            ))  # fmt: skip
    conn.execute("""
        UPDATE reg_file r
           SET dir_id = d.dir_id, set_id = s.set_id
          FROM directory d, meta_set s
         WHERE d.path = r.path AND s.hash = md5(r.meta::text)::uuid
    """)


def _add_files(conn: Connection) -> None:
    conn.execute("""
        INSERT INTO file (file_id, set_id, activity_id, size, dir_id, adler32, name, sha256, extra)
        SELECT file_id, set_id, activity_id, size, dir_id, adler32, name, sha256, extra
          FROM reg_file
         ORDER BY dir_id, name
        ON CONFLICT (dir_id, name) DO NOTHING
    """)


def _sort_out(conn: Connection) -> Registered:
    """Give known names their file id; drop those with another content from the batch and report them."""
    result = Registered()
    known = conn.execute("""
        UPDATE reg_file r
           SET file_id = f.file_id, known = true
          FROM file f
         WHERE f.dir_id = r.dir_id AND f.name = r.name AND f.file_id <> r.file_id
     RETURNING r.path || '/' || r.name, f.file_id, (r.size, r.sha256) = (f.size, f.sha256)
    """).fetchall()
    for lfn, file_id, same in known:
        (result.known if same else result.conflicts)[Lfn(lfn)] = file_id
    if result.conflicts:
        conn.execute(
            """
            DELETE FROM reg_file r USING file f
             WHERE f.file_id = r.file_id AND (f.size, f.sha256) <> (r.size, r.sha256)
            """
        )
    added = conn.execute("SELECT path || '/' || name, file_id FROM reg_file WHERE NOT known").fetchall()
    result.added = {Lfn(lfn): file_id for lfn, file_id in added}
    return result


def _add_replicas(conn: Connection) -> None:
    conn.execute("""
        WITH added AS (
            INSERT INTO replica (file_id, storage_id)
            SELECT file_id, storage_id FROM reg_file WHERE storage_id IS NOT NULL
            ON CONFLICT DO NOTHING
            RETURNING file_id, storage_id),
        counted AS (
            SELECT storage_id, count(*) AS n, sum(size) AS bytes
              FROM added JOIN reg_file USING (file_id, storage_id)
             GROUP BY storage_id)
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT storage_id, n, bytes FROM counted ORDER BY storage_id
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)
    found_again = conn.execute("""
        SELECT r.file_id, r.storage_id, r.state
          FROM replica r
          JOIN reg_file USING (file_id, storage_id)
         WHERE known AND r.state IN ('Lost', 'Suspect')
    """).fetchall()
    for state in (ReplicaState.LOST, ReplicaState.SUSPECT):
        these = [(file_id, storage_id) for file_id, storage_id, is_in in found_again if is_in is state]
        if these:
            move_replicas(conn, these, state, ReplicaState.AVAILABLE, "delivered again and verified")
    conn.execute("""
        INSERT INTO unsettled (file_id)
        SELECT DISTINCT file_id FROM reg_file ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
    """)


def _add_inputs(conn: Connection, produced_by: int | None) -> None:
    conn.execute(
        """
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT t.transformation_id, r.file_id
          FROM reg_file r
          JOIN transformation_set USING (set_id)
          JOIN transformation t USING (transformation_id)
         WHERE NOT r.known
           AND t.state IN ('Active', 'Flush', 'Stopped')
           AND CASE WHEN t.parent_id IS NULL THEN t.open ELSE t.parent_id = %(produced_by)s END
           AND (t.file_query IS NULL OR coalesce(r.extra, '{}') @@ t.file_query)
        ON CONFLICT DO NOTHING
        """,
        {"produced_by": produced_by},
    )


def _add_counts(conn: Connection) -> None:
    conn.execute("""
        INSERT INTO set_count AS c (set_id, n_files, n_bytes)
        SELECT set_id, count(*), sum(size) FROM reg_file WHERE NOT known GROUP BY set_id ORDER BY set_id
        ON CONFLICT (set_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)


def _canonical(meta: dict[str, Any]) -> str:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"))


# --- reading -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class FileRow:
    """A file as the catalogue knows it. Checksums in canonical hex."""

    file_id: int
    lfn: Lfn
    size: int
    sha256: str
    adler32: str
    created: datetime
    activity_id: int
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """A replica with the names of its storage and site."""

    file_id: int
    storage: str
    site: str
    state: ReplicaState
    verified_at: datetime


def files_by_lfn(conn: Connection, lfns: Iterable[str]) -> list[FileRow]:
    """Those of `lfns` that are registered."""
    parts = [split_lfn(parse_lfn(lfn)) for lfn in lfns]
    return rows(
        conn,
        FileRow,
        """
        SELECT f.file_id, d.path || '/' || f.name AS lfn, f.size, encode(f.sha256, 'hex') AS sha256,
               lpad(to_hex(f.adler32), 8, '0') AS adler32, f.created, f.activity_id,
               s.meta || coalesce(f.extra, '{}') AS meta
          FROM unnest(%(paths)s::text[], %(names)s::text[]) AS w (path, name)
          JOIN directory d USING (path)
          JOIN file f ON f.dir_id = d.dir_id AND f.name = w.name
          JOIN meta_set s USING (set_id)
         ORDER BY 2
        """,
        paths=[path for path, _ in parts],
        names=[name for _, name in parts],
    )


def files_by_id(conn: Connection, file_ids: Sequence[int]) -> list[FileRow]:
    """The files with these ids, by name."""
    return rows(
        conn,
        FileRow,
        """
        SELECT f.file_id, d.path || '/' || f.name AS lfn, f.size, encode(f.sha256, 'hex') AS sha256,
               lpad(to_hex(f.adler32), 8, '0') AS adler32, f.created, f.activity_id,
               s.meta || coalesce(f.extra, '{}') AS meta
          FROM file f
          JOIN directory d USING (dir_id)
          JOIN meta_set s USING (set_id)
         WHERE f.file_id = ANY(%(ids)s)
         ORDER BY 2
        """,
        ids=list(file_ids),
    )


def files_matching(
    conn: Connection, set_query: str | None, file_query: str | None, after: int, limit: int
) -> list[FileRow]:
    """A page of the files that fulfil a compiled query, by id, after file id `after`."""
    return rows(
        conn,
        FileRow,
        """
        SELECT f.file_id, d.path || '/' || f.name AS lfn, f.size, encode(f.sha256, 'hex') AS sha256,
               lpad(to_hex(f.adler32), 8, '0') AS adler32, f.created, f.activity_id,
               s.meta || coalesce(f.extra, '{}') AS meta
          FROM file f
          JOIN directory d USING (dir_id)
          JOIN meta_set s USING (set_id)
         WHERE f.file_id > %(after)s
           AND (%(set_query)s::jsonpath IS NULL OR s.meta @@ %(set_query)s::jsonpath)
           AND (%(file_query)s::jsonpath IS NULL OR coalesce(f.extra, '{}') @@ %(file_query)s::jsonpath)
         ORDER BY f.file_id
         LIMIT %(limit)s
        """,
        set_query=set_query,
        file_query=file_query,
        after=after,
        limit=limit,
    )


def replicas_of(conn: Connection, file_ids: Sequence[int]) -> list[ReplicaRow]:
    """Every replica of these files."""
    return rows(
        conn,
        ReplicaRow,
        """
        SELECT r.file_id, s.name AS storage, site.name AS site, r.state, r.verified_at
          FROM replica r
          JOIN storage s USING (storage_id)
          JOIN site USING (site_id)
         WHERE r.file_id = ANY(%(ids)s)
         ORDER BY r.file_id, s.name
        """,
        ids=list(file_ids),
    )


def names_taken(conn: Connection, lfns: Iterable[Lfn]) -> set[Lfn]:
    """Those of `lfns` that are registered."""
    return {file.lfn for file in files_by_lfn(conn, lfns)}


@dataclass(frozen=True, slots=True)
class Stored:
    """A replica with the path and the bytes it must have."""

    file_id: int
    storage_id: int
    path: str
    size: int
    sha256: str


def available_on(conn: Connection, storage_id: int, after: int, limit: int) -> list[Stored]:
    """A page of the Available replicas on one storage by file id."""
    return rows(
        conn,
        Stored,
        """
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM replica r
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE r.storage_id = %(storage_id)s AND r.state = 'Available' AND r.file_id > %(after)s
         ORDER BY r.file_id
         LIMIT %(limit)s
        """,
        storage_id=storage_id,
        after=after,
        limit=limit,
    )
