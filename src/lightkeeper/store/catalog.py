"""Files: registered in sets, found by name, by metadata, by copies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection
from pydantic_core import to_json

from lightkeeper.domain.catalog import MetaValue, NewFile, Vocabulary
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.domain.names import Lfn, parse_lfn, scope_of, split_lfn
from lightkeeper.domain.states import File
from lightkeeper.domain.states import Replica as ReplicaState
from lightkeeper.store import changes
from lightkeeper.store.db import notify, rows, values
from lightkeeper.store.sets import canonical, name_sets, share_registration
from lightkeeper.store.transitions import move_replicas


class Line(NamedTuple):
    """One file of a batch: where it goes, the number of its metadata set, and the values of its file-level keys."""

    file: NewFile
    directory: str
    name: str
    set_number: int
    extra: str | None


@dataclass(slots=True)
class Registered:
    """What a registration did: new files, files known with the same content (a repeat, not an error), and names that
    are taken by another content. Values are file ids."""

    added: dict[Lfn, int] = field(default_factory=dict[Lfn, int])
    known: dict[Lfn, int] = field(default_factory=dict[Lfn, int])
    conflicts: dict[Lfn, int] = field(default_factory=dict[Lfn, int])


# --- registration ------------------------------------------------------------------------------------------------
class Batch:
    """Files to be registered together, checked against the vocabulary; metadata they share are held once."""

    def __init__(self, files: Iterable[NewFile], vocabulary: Vocabulary) -> None:
        self.refused: list[tuple[NewFile, Invalid]] = []
        """Files whose metadata are not in the vocabulary; they are in no other list."""
        self.directories: dict[str, str] = {}
        """Scope by path."""
        self.sets: dict[str, int] = {}
        """Number in the batch by canonical text."""
        self.lines: list[Line] = []
        file_level = vocabulary.file_level
        known: dict[tuple[object, ...], int] = {}
        for file in files:
            shared = dict(file.meta)
            own = {key: shared.pop(key) for key in file_level & shared.keys()}
            try:
                text = to_json(vocabulary.split(own)[1]).decode() if own else None
                number = self._number(shared, vocabulary, known)
            except Invalid as error:
                self.refused.append((file, error))
                continue
            directory, name = split_lfn(file.lfn)
            if directory not in self.directories:
                self.directories[directory] = scope_of(file.lfn)
            self.lines.append(Line(file, directory, name, number, text))

    def keep(self, lfns: Iterable[str]) -> None:
        """Leave out all other files; what was named for them stays named."""
        kept = set(lfns)
        self.lines = [line for line in self.lines if line.file.lfn in kept]

    def _number(
        self,
        shared: dict[str, MetaValue],
        vocabulary: Vocabulary,
        known: dict[tuple[object, ...], int],
    ) -> int:
        """Files of a night say the same again and again: check and write it once."""
        said = (*shared.items(), *map(type, shared.values()))  # to Python true is 1, to the catalogue it is not
        try:
            return known[said]
        except KeyError:
            known[said] = number = self._number_of(shared, vocabulary)
            return number
        except TypeError:  # lists and maps cannot be remembered this way
            return self._number_of(shared, vocabulary)

    def _number_of(self, shared: dict[str, MetaValue], vocabulary: Vocabulary) -> int:
        return self.sets.setdefault(canonical(vocabulary.split(shared)[0]), len(self.sets))


@dataclass(frozen=True, slots=True)
class Names:
    """Ids of a batch's directories by path, and of its metadata sets by their number in the batch."""

    directories: dict[str, int]
    sets: list[int]


def name(conn: Connection, batch: Batch) -> Names:
    """Make the scopes, directories and metadata sets that a batch needs, and match new sets with transformations and
    policies. Run it in a short transaction of its own before `register`: other registrations may need the same
    names, and all make them in the same order, so none deadlocks."""
    share_registration(conn)
    directories = sorted(batch.directories.items())
    # Only what is new: an insertion that finds its row there uses up a number all the same, and scopes have 32767.
    conn.execute(
        """
        INSERT INTO scope (name)
        SELECT DISTINCT name
          FROM unnest(%s::text[]) AS w (name)
         WHERE NOT EXISTS (SELECT FROM scope s WHERE s.name = w.name)
         ORDER BY name
        ON CONFLICT DO NOTHING
        """,
        ([scope for _, scope in directories],),
    )
    conn.execute(
        """
        INSERT INTO directory (scope_id, path)
        SELECT scope_id, path
          FROM unnest(%s::text[], %s::text[]) AS w (path, scope)
          JOIN scope ON scope.name = w.scope
         WHERE NOT EXISTS (SELECT FROM directory d WHERE d.path = w.path)
         ORDER BY path
        ON CONFLICT DO NOTHING
        """,
        ([path for path, _ in directories], [scope for _, scope in directories]),
    )
    sets = name_sets(conn, list(batch.sets), File.CURRENT)
    paths = conn.execute(
        "SELECT path, dir_id FROM directory WHERE path = ANY(%s)", (list(batch.directories),)
    ).fetchall()
    return Names(dict(paths), sets)


def register(
    conn: Connection,
    batch: Batch,
    names: Names,
    made_by: int | Mapping[Lfn, int],
    *,
    produced_by: int | None = None,
    verified: bool = True,
) -> Registered:
    """Register a batch with metadata, provenance and first replicas; all of it or nothing.

    `made_by` is the activity of all files, or of each; `produced_by` the transformation whose job made them. Replicas
    that are not `verified` were only reported: they count for nothing until `steps.audit` has read them.
    Idempotent: a name known with the same content gets its replica and nothing else. Every file that gained a replica
    is compared with what it is owed, and new files become inputs of the transformations that want them, in this same
    transaction.
    """
    _stage(conn, batch, names, made_by)
    share_registration(conn)
    added = _add_files(conn)
    result = _sort_out(conn, batch, added)
    _settle(conn)  # locks known files, before any counter: every change of a file does it in this order
    _add_replicas(conn, verified=verified)
    _add_inputs(conn, produced_by)
    _add_counts(conn)
    if produced_by is not None and result.added:
        conn.execute(
            "INSERT INTO transformation_count (transformation_id, outputs) VALUES (%s, %s)",
            (produced_by, len(result.added)),
        )
    if result.known:
        changes.came_back(conn, values(conn, "SELECT DISTINCT file_id FROM reg_file WHERE known"))
    notify(conn, "unsettled")
    notify(conn, "input")
    return result


def _stage(conn: Connection, batch: Batch, names: Names, made_by: int | Mapping[Lfn, int]) -> None:
    conn.execute("""
        CREATE TEMP TABLE IF NOT EXISTS reg_file (
            file_id bigint NOT NULL DEFAULT nextval('file_id_seq'), set_id bigint, activity_id bigint, size bigint,
            dir_id int, adler32 int, number int, storage_id smallint, known boolean NOT NULL DEFAULT false,
            name text COLLATE "C", sha256 bytea, extra jsonb)
        ON COMMIT DELETE ROWS
    """)
    with conn.cursor().copy(
        "COPY reg_file (number, dir_id, name, set_id, extra, size, sha256, adler32, storage_id, activity_id) FROM STDIN"
    ) as copy:
        for number, (file, directory, name, set_number, extra) in enumerate(batch.lines):
            fixity = file.fixity
            adler32 = int(fixity.adler32, 16)
            copy.write_row((
                number,
                names.directories[directory],
                name,
                names.sets[set_number],
                extra,
                fixity.size,
                bytes.fromhex(fixity.sha256),
                adler32 - (1 << 32) if adler32 >> 31 else adler32,
                file.storage_id,
                made_by if isinstance(made_by, int) else made_by[file.lfn],
            ))  # fmt: skip


def _add_files(conn: Connection) -> int:
    return conn.execute("""
        INSERT INTO file (file_id, set_id, activity_id, size, dir_id, adler32, name, sha256, extra)
        SELECT file_id, set_id, activity_id, size, dir_id, adler32, name, sha256, extra
          FROM reg_file
         ORDER BY dir_id, name, number
        ON CONFLICT (dir_id, name) DO NOTHING
    """).rowcount


def _sort_out(conn: Connection, batch: Batch, added: int) -> Registered:
    """Give known names their file id. Those with another content are reported; they leave the batch, and so do those
    whose copy is known too, for which nothing is left to do."""
    result = Registered()
    if added < len(batch.lines):
        known = conn.execute("""
            UPDATE reg_file r
               SET file_id = f.file_id, known = true
              FROM file f
             WHERE f.dir_id = r.dir_id AND f.name = r.name AND f.file_id <> r.file_id
         RETURNING r.number, f.file_id, (r.size, r.sha256) = (f.size, f.sha256)
        """).fetchall()
        for number, file_id, same in known:
            (result.known if same else result.conflicts)[batch.lines[int(number)].file.lfn] = file_id
        if result.conflicts:
            conn.execute("""
                DELETE FROM reg_file r USING file f
                 WHERE f.file_id = r.file_id AND (f.size, f.sha256) <> (r.size, r.sha256)
            """)
        conn.execute("""
            DELETE FROM reg_file r USING replica p, file f, meta_set s
             WHERE r.known AND p.file_id = r.file_id AND p.storage_id = r.storage_id AND p.state = 'Available'
               AND f.file_id = r.file_id AND s.set_id = f.set_id AND s.state <> 'Removed'
        """)
    new = conn.execute("SELECT number, file_id FROM reg_file WHERE NOT known").fetchall()
    result.added = {batch.lines[int(number)].file.lfn: file_id for number, file_id in new}
    return result


def _add_replicas(conn: Connection, *, verified: bool) -> None:
    """New replicas are counted; what was lost or suspect is there again if it was verified now, and is read if not."""
    conn.execute(
        """
        WITH added AS (
            INSERT INTO replica (file_id, storage_id, verified_at)
            SELECT DISTINCT file_id, storage_id, CASE WHEN %s THEN now() ELSE 'epoch' END
              FROM reg_file
             WHERE storage_id IS NOT NULL
            ON CONFLICT DO NOTHING
            RETURNING file_id, storage_id),
        counted AS (
            SELECT storage_id, count(*) AS n, sum(size) AS bytes
              FROM added JOIN (SELECT DISTINCT file_id, size FROM reg_file) f USING (file_id)
             GROUP BY storage_id)
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT storage_id, n, bytes FROM counted ORDER BY storage_id
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
        """,
        (verified,),
    )
    found_again = conn.execute("""
        SELECT r.file_id, r.storage_id, r.state
          FROM replica r
          JOIN reg_file USING (file_id, storage_id)
         WHERE known AND r.state IN ('Lost', 'Suspect')
    """).fetchall()
    if not verified:
        recheck(conn, [(file_id, storage_id) for file_id, storage_id, _ in found_again])
        return
    for state in (ReplicaState.LOST, ReplicaState.SUSPECT):
        these = [(file_id, storage_id) for file_id, storage_id, is_in in found_again if is_in is state]
        if these:
            move_replicas(conn, these, state, ReplicaState.AVAILABLE, "delivered again and verified")


def _settle(conn: Connection) -> None:
    """Have files that gained a copy compared with what they are owed; a new one under no policy is owed nothing."""
    conn.execute("""
        INSERT INTO unsettled (file_id)
        SELECT DISTINCT file_id FROM reg_file
         WHERE known OR set_id IN (SELECT set_id FROM set_policy)
         ORDER BY file_id
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
           AND CASE WHEN t.parent_id IS NULL AND t.feeders = '{}' THEN t.open
                    ELSE NOT t.by_lineage OR %(produced_by)s = t.parent_id OR %(produced_by)s = ANY (t.feeders) END
           AND (t.file_query IS NULL OR coalesce(r.extra, '{}') @@ t.file_query)
         ORDER BY 1, 2
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
    conn.execute("""
        INSERT INTO dataset_count AS c (dataset_id, n_files, n_bytes)
        SELECT dataset_id, sum(n), sum(bytes)
          FROM (SELECT m.dataset_id, r.n, r.bytes
                  FROM (SELECT set_id, count(*) AS n, sum(size) AS bytes
                          FROM reg_file WHERE NOT known GROUP BY set_id) r
                  JOIN dataset_set m USING (set_id)
                  JOIN dataset d USING (dataset_id)
                 WHERE d.file_query IS NULL
                 UNION ALL
                SELECT m.dataset_id, 1, r.size
                  FROM reg_file r
                  JOIN dataset_set m USING (set_id)
                  JOIN dataset d USING (dataset_id)
                 WHERE NOT r.known AND coalesce(r.extra, '{}') @@ d.file_query) gained
         GROUP BY dataset_id
         ORDER BY dataset_id
        ON CONFLICT (dataset_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)


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


def known_files(conn: Connection, lfns: Sequence[str]) -> list[FileRow]:
    """The files of these names; raises NotFound when one is not registered."""
    found = files_by_lfn(conn, lfns)
    missing = {parse_lfn(lfn) for lfn in lfns} - {file.lfn for file in found}
    if missing:
        raise NotFound(f"{min(missing)} is not in the catalogue", hint="lightkeeper find 'name like \"…*\"'")
    return found


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


def recheck(conn: Connection, replicas: Sequence[tuple[int, int]]) -> None:
    """Have these copies, named by (file, storage), read again soon."""
    conn.execute(
        """
        INSERT INTO recheck (file_id, storage_id)
        SELECT * FROM unnest(%s::bigint[], %s::smallint[])
        ON CONFLICT DO NOTHING
        """,
        ([file_id for file_id, _ in replicas], [storage_id for _, storage_id in replicas]),
    )
    notify(conn, "recheck")


def take_recheck(conn: Connection, limit: int) -> list[Stored]:
    """Copies to be read now: those asked for, taken off the list; every Suspect one; those that were only reported. On
    tape storages those of the first two that are online: nobody mounts a tape to read what was reported."""
    return rows(
        conn,
        Stored,
        """
        WITH first AS MATERIALIZED ( -- looked for once; a join may look again, and take more
            SELECT file_id, storage_id FROM recheck JOIN storage_now USING (storage_id)
             WHERE readable AND (storage_id NOT IN (SELECT storage_id FROM tape_storage)
                                 OR EXISTS (SELECT FROM recall c
                                             WHERE c.file_id = recheck.file_id AND c.state = 'Online'
                                               AND c.storage_id = recheck.storage_id))
             LIMIT %(limit)s FOR UPDATE OF recheck SKIP LOCKED),
        asked AS (
            DELETE FROM recheck r USING first f
             WHERE (r.file_id, r.storage_id) = (f.file_id, f.storage_id)
            RETURNING r.file_id, r.storage_id),
        suspect AS (
            SELECT file_id, storage_id FROM replica r JOIN storage_now USING (storage_id)
             WHERE state = 'Suspect' AND readable
               AND (storage_id NOT IN (SELECT storage_id FROM tape_storage)
                    OR EXISTS (SELECT FROM recall c
                                WHERE c.file_id = r.file_id AND c.storage_id = r.storage_id AND c.state = 'Online'))
             ORDER BY random() LIMIT %(limit)s),
        unread AS (
            SELECT file_id, storage_id
              FROM storage_now s
             CROSS JOIN LATERAL (
                   SELECT file_id FROM replica r
                    WHERE r.storage_id = s.storage_id AND verified_at < written_at AND state = 'Available'
                    ORDER BY file_id LIMIT %(limit)s) r
             WHERE readable AND storage_id NOT IN (SELECT storage_id FROM tape_storage))
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM (SELECT * FROM asked UNION SELECT * FROM suspect UNION SELECT * FROM unread) w
          JOIN replica r USING (file_id, storage_id)
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
        """,
        limit=limit,
    )


def stored_on(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> list[Stored]:
    """The replicas of these files on one storage, in whatever state."""
    return rows(
        conn,
        Stored,
        """
        SELECT r.file_id, r.storage_id, d.path || '/' || f.name AS path, f.size, encode(f.sha256, 'hex') AS sha256
          FROM replica r
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE r.storage_id = %(storage)s AND r.file_id = ANY(%(ids)s)
        """,
        storage=storage_id,
        ids=list(file_ids),
    )


def verified_again(conn: Connection, replica: tuple[int, int]) -> None:
    """An Available copy was read back now and is in order."""
    conn.execute(
        "UPDATE replica SET verified_at = now() WHERE file_id = %s AND storage_id = %s AND state = 'Available'", replica
    )


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
