"""What manifests have to tell of each storage, and what those on a storage told beside what the catalogue says."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from lightkeeper.domain.manifest import Document, Gone, Held, Item, Made, MetaSet
from lightkeeper.domain.names import Fixity, Lfn, split_lfn
from lightkeeper.domain.states import File
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.sets import canonical


# --- what is due -----------------------------------------------------------------------------------------------
def due(conn: Connection, lines: int, after: timedelta, tape_after: timedelta) -> list[int]:
    """Storages for which a manifest is to be written: so many lines are due, or one for so long."""
    return values(
        conn,
        """
        SELECT s.storage_id
          FROM storage s
         CROSS JOIN LATERAL (
               SELECT count(*) AS n, min(since) AS oldest
                 FROM (SELECT since FROM manifest_due q WHERE q.storage_id = s.storage_id LIMIT %(lines)s) q) q
         WHERE n >= %(lines)s
            OR oldest <= now() - CASE s.media WHEN 'tape' THEN %(tape_after)s ELSE %(after)s END
         ORDER BY s.storage_id
        """,
        lines=lines,
        after=after,
        tape_after=tape_after,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """A manifest that is ours to write until its lease ends. `known`: the moment of the last one before it."""

    storage_id: int
    stamp: datetime
    previous: datetime | None
    previous_sha256: str | None


def begin(conn: Connection, storage_id: int, lease: timedelta) -> Turn | None:
    """Begin a manifest; None while another one of this storage is being written. Its moment is later than that of
    every other one, whatever the clock says, and known to the catalogue before it lies on the storage."""
    conn.execute("SELECT FROM storage WHERE storage_id = %s FOR NO KEY UPDATE", (storage_id,))
    return row(
        conn,
        Turn,
        """
        WITH turn AS (
            INSERT INTO manifest (storage_id, stamp, lease_until)
            SELECT %(storage)s, greatest(clock_timestamp(), max(stamp) + interval '1 ms'), clock_timestamp() + %(lease)s
              FROM manifest
             WHERE storage_id = %(storage)s
            HAVING NOT coalesce(bool_or(written IS NULL AND lease_until > clock_timestamp()), false)
            RETURNING storage_id, stamp)
        SELECT storage_id, stamp, p.previous, p.previous_sha256
          FROM turn
          LEFT JOIN (SELECT stamp AS previous, encode(sha256, 'hex') AS previous_sha256
                       FROM manifest WHERE storage_id = %(storage)s AND written IS NOT NULL
                      ORDER BY stamp DESC LIMIT 1) p ON true
        """,
        storage=storage_id,
        lease=lease,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    due_id: int
    here: bool
    lfn: str | None
    size: int | None
    sha256: str | None
    adler32: str | None
    created: datetime | None
    set_id: int | None
    activity_id: int | None
    extra: dict[str, Any] | None
    by: str | None


def facts(conn: Connection, storage_id: int, lines: int) -> tuple[list[int], list[Item]]:
    """What is due on a storage, as it is now: ids of what is told by this, and the items in a manifest's order."""
    found = rows(
        conn,
        _Line,
        """
        SELECT q.due_id, coalesce(r.state <> 'Lost', false) AS here, d.path || '/' || coalesce(f.name, q.name) AS lfn,
               f.size, encode(f.sha256, 'hex') AS sha256, lpad(to_hex(f.adler32), 8, '0') AS adler32, f.created,
               f.set_id, f.activity_id, f.extra, bd.path || '/' || b.name AS by
          FROM (SELECT * FROM manifest_due WHERE storage_id = %(storage)s ORDER BY due_id LIMIT %(lines)s) q
          LEFT JOIN LATERAL (
               SELECT * FROM file WHERE file_id = q.file_id AND q.dir_id IS NULL
                UNION ALL
               SELECT * FROM file WHERE dir_id = q.dir_id AND name = q.name) f ON true
          LEFT JOIN directory d ON d.dir_id = coalesce(f.dir_id, q.dir_id)
          LEFT JOIN replica r ON r.file_id = f.file_id AND r.storage_id = %(storage)s
          LEFT JOIN supersession s ON s.file_id = f.file_id
          LEFT JOIN file b ON b.file_id = s.by_id
          LEFT JOIN directory bd ON bd.dir_id = b.dir_id
        """,
        storage=storage_id,
        lines=lines,
    )
    by_name = {line.lfn: line for line in found if line.lfn}
    here = [line for line in by_name.values() if line.here]
    items: list[Item] = [
        *_sets(conn, {line.set_id for line in here}),
        *_activities(conn, {line.activity_id for line in here}),
        *(Gone(Lfn(lfn)) for lfn, line in by_name.items() if not line.here),
        *(_held(line) for line in sorted(here, key=lambda line: line.lfn or "")),
    ]
    return [line.due_id for line in found], items


def _held(line: _Line) -> Held:
    assert line.lfn and line.size is not None and line.sha256 and line.adler32 and line.created  # noqa: S101
    assert line.set_id is not None and line.activity_id is not None  # noqa: S101
    fixity = Fixity(line.size, line.sha256, line.adler32)
    return Held(Lfn(line.lfn), fixity, line.set_id, line.activity_id, line.created, line.extra, line.by)


def _sets(conn: Connection, ids: Iterable[int | None]) -> list[MetaSet]:
    found = conn.execute(
        "SELECT set_id, state::text, meta FROM meta_set WHERE set_id = ANY(%s) ORDER BY set_id", (list(ids),)
    ).fetchall()
    return [MetaSet(set_id, File(state), meta) for set_id, state, meta in found]


def _activities(conn: Connection, ids: Iterable[int | None]) -> list[Item]:
    found = conn.execute(
        """
        SELECT a.activity_id, a.uuid::text, a.name, a.agent, a.software, a.started, a.ended,
               encode(a.environment, 'hex'), encode(a.configuration, 'hex'),
               ARRAY(SELECT d.path || '/' || f.name
                       FROM used u JOIN file f USING (file_id) JOIN directory d USING (dir_id)
                      WHERE u.activity_id = a.activity_id ORDER BY 1)
          FROM activity a
         WHERE a.activity_id = ANY(%s)
         ORDER BY a.activity_id
        """,
        (list(ids),),
    ).fetchall()
    made = [Made(*line) for line in found]
    shared = {digest for one in made for digest in (one.environment, one.configuration) if digest}
    documents = conn.execute(
        "SELECT encode(sha256, 'hex'), body FROM document WHERE encode(sha256, 'hex') = ANY(%s) ORDER BY 1",
        (list(shared),),
    ).fetchall()
    return [*(Document(*line) for line in documents), *made]


def end(conn: Connection, turn: Turn, sha256: str, size: int, items: Sequence[Item], told: Sequence[int]) -> bool:
    """A manifest lies on its storage: what it tells is due no more. False, and nothing is changed, when it was not
    ours any more; then another one tells the same."""
    ours = conn.execute(
        """
        UPDATE manifest
           SET written = now(), lease_until = NULL, sha256 = %s, n_bytes = %s, n_copies = %s, n_gone = %s
         WHERE storage_id = %s AND stamp = %s AND written IS NULL AND lease_until > clock_timestamp()
        """,
        (
            bytes.fromhex(sha256),
            size,
            sum(isinstance(item, Held) for item in items),
            sum(isinstance(item, Gone) for item in items),
            turn.storage_id,
            turn.stamp,
        ),
    ).rowcount
    if ours:
        conn.execute(
            "DELETE FROM manifest_due WHERE storage_id = %s AND due_id = ANY(%s)", (turn.storage_id, list(told))
        )
    return ours == 1


def give_up(conn: Connection, turn: Turn) -> None:
    """Nothing was written: another one may begin."""
    conn.execute(
        "DELETE FROM manifest WHERE storage_id = %s AND stamp = %s AND written IS NULL", (turn.storage_id, turn.stamp)
    )


def tell_again(conn: Connection, storage_id: int) -> int:
    """Have every copy on a storage told of anew; how many."""
    n = conn.execute(
        """
        INSERT INTO manifest_due (storage_id, file_id, since)
        SELECT storage_id, file_id, 'epoch'
          FROM replica
         WHERE storage_id = %s AND state <> 'Lost'
         ORDER BY file_id
        """,
        (storage_id,),
    ).rowcount
    notify(conn, "manifests")
    return n


@dataclass(frozen=True, slots=True)
class Written:
    """The manifests of a storage in numbers. `due`: lines to be written; `oldest`: since when the first waits."""

    storage_id: int
    storage: str
    manifests: int
    copies: int
    gone: int
    bytes: int
    last: datetime | None
    due: int
    oldest: datetime | None


def progress(conn: Connection) -> list[Written]:
    """The manifests of each storage, by name."""
    return rows(
        conn,
        Written,
        """
        SELECT s.storage_id, s.name AS storage, coalesce(m.n, 0) AS manifests, coalesce(m.copies, 0) AS copies,
               coalesce(m.gone, 0) AS gone, coalesce(m.bytes, 0) AS bytes, m.last, coalesce(q.n, 0) AS due, q.oldest
          FROM storage s
          LEFT JOIN (SELECT storage_id, count(*) AS n, sum(n_copies) AS copies, sum(n_gone) AS gone,
                            sum(n_bytes)::bigint AS bytes, max(written) AS last
                       FROM manifest WHERE written IS NOT NULL GROUP BY storage_id) m USING (storage_id)
          LEFT JOIN (SELECT storage_id, count(*) AS n, min(since) AS oldest
                       FROM manifest_due GROUP BY storage_id) q USING (storage_id)
         ORDER BY s.name
        """,
    )


def last_known(conn: Connection, storage_id: int) -> datetime | None:
    """The moment of the last manifest that was begun on a storage, as far as the catalogue knows."""
    return value(conn, "SELECT max(stamp) FROM manifest WHERE storage_id = %(storage)s", storage=storage_id)


def known(conn: Connection, storage_id: int) -> dict[datetime, str]:
    """Every manifest that was written to a storage: its sha256 by its moment."""
    found = conn.execute(
        "SELECT stamp, encode(sha256, 'hex') FROM manifest WHERE storage_id = %s AND written IS NOT NULL", (storage_id,)
    ).fetchall()
    return dict(found)


def take_over(conn: Connection, storage_id: int, found: Sequence[tuple[datetime, str, int]]) -> None:
    """Know these manifests, as (moment, sha256, bytes), that lie on a storage: later ones come after them."""
    stamps, digests, sizes = zip(*found, strict=True) if found else ((), (), ())
    conn.execute(
        """
        INSERT INTO manifest (storage_id, stamp, written, sha256, n_bytes)
        SELECT %s, stamp, stamp, decode(digest, 'hex'), size
          FROM unnest(%s::timestamptz[], %s::text[], %s::bigint[]) AS w (stamp, digest, size)
        ON CONFLICT DO NOTHING
        """,
        (storage_id, list(stamps), list(digests), list(sizes)),
    )


def alone(session: Connection) -> bool:
    """Whether nobody else makes rows again from manifests, for as long as this session lasts."""
    return bool(value(session, "SELECT pg_try_advisory_lock(hashtext('rebuild'))"))


# --- what was told ---------------------------------------------------------------------------------------------
class Telling:
    """What the manifests of one storage told, in temporary tables of a session; a later line holds over an earlier."""

    def __init__(self, session: Connection, storage_id: int) -> None:
        self._session = session
        self._storage_id = storage_id
        self._lines = 0
        self._sets: dict[tuple[str, str], int] = {}
        self._activities: dict[str, int] = {}
        session.execute("""
            DROP TABLE IF EXISTS told, told_set, told_activity, told_used, told_document, latest;
            CREATE TEMP TABLE told (
                line int, size bigint, created timestamptz, number int, activity int, adler32 int,
                directory text COLLATE "C", name text COLLATE "C", sha256 bytea, extra jsonb,
                by_directory text, by_name text);
            CREATE TEMP TABLE told_set (number int PRIMARY KEY, state file_state, meta jsonb);
            CREATE TEMP TABLE told_activity (
                number int PRIMARY KEY, uuid uuid, name text, agent text, software jsonb, started timestamptz,
                ended timestamptz, environment bytea, configuration bytea);
            CREATE TEMP TABLE told_used (number int, directory text, name text);
            CREATE TEMP TABLE told_document (sha256 bytea PRIMARY KEY, body jsonb)
        """)

    def add(self, items: Iterable[Item]) -> int:
        """Take one manifest in; how many lines of copies it has."""
        sets: dict[int, int] = {}
        activities: dict[int, int] = {}
        before = self._lines
        copies: list[tuple[Any, ...]] = []
        for item in items:
            match item:
                case Held():
                    copies.append(self._held(item, sets[item.set], activities[item.activity]))
                case Gone():
                    self._lines += 1
                    copies.append((self._lines, None, None, None, None, None, *split_lfn(item.lfn), *[None] * 4))
                case MetaSet():
                    sets[item.number] = self._set(item)
                case Made():
                    activities[item.number] = self._activity(item)
                case Document():
                    self._session.execute(
                        "INSERT INTO told_document VALUES (decode(%s, 'hex'), %s) ON CONFLICT DO NOTHING",
                        (item.sha256, Jsonb(dict(item.body))),
                    )
        with self._session.cursor().copy(
            "COPY told (line, size, created, number, activity, adler32, directory, name, sha256, extra, by_directory, "
            "by_name) FROM STDIN"
        ) as copy:
            for line in copies:
                copy.write_row(line)
        return self._lines - before

    def _held(self, item: Held, number: int, activity: int) -> tuple[Any, ...]:
        self._lines += 1
        adler32 = int(item.fixity.adler32, 16)
        return (
            self._lines,
            item.fixity.size,
            item.created,
            number,
            activity,
            adler32 - (1 << 32) if adler32 >> 31 else adler32,
            *split_lfn(item.lfn),
            bytes.fromhex(item.fixity.sha256),
            Jsonb(dict(item.extra)) if item.extra else None,
            *(split_lfn(Lfn(item.by)) if item.by else (None, None)),
        )

    def _set(self, item: MetaSet) -> int:
        key = (str(item.state), canonical(item.meta))
        if key not in self._sets:
            self._sets[key] = len(self._sets)
            self._session.execute("INSERT INTO told_set VALUES (%s, %s, %s::jsonb)", (self._sets[key], *key))
        return self._sets[key]

    def _activity(self, item: Made) -> int:
        if item.uuid in self._activities:
            return self._activities[item.uuid]
        number = self._activities[item.uuid] = len(self._activities)
        self._session.execute(
            "INSERT INTO told_activity VALUES (%s, %s, %s, %s, %s, %s, %s, decode(%s, 'hex'), decode(%s, 'hex'))",
            (
                number,
                item.uuid,
                item.name,
                item.agent,
                Jsonb(dict(item.software)),
                item.started,
                item.ended,
                item.environment,
                item.configuration,
            ),
        )
        with self._session.cursor().copy("COPY told_used (number, directory, name) FROM STDIN") as copy:
            for lfn in item.used:
                copy.write_row((number, *split_lfn(Lfn(lfn))))
        return number

    def complete(self) -> None:
        """Everything was taken in: compare it with the catalogue."""
        self._session.execute("ANALYZE told")
        self._session.execute(
            """
            CREATE TEMP TABLE latest AS
            SELECT t.*, f.file_id, r.state AS copy,
                   CASE WHEN t.size IS NULL THEN
                            CASE WHEN r.state IN ('Available', 'Suspect') THEN 'gone' END
                        WHEN f.file_id IS NULL THEN 'new'
                        WHEN (f.size, f.sha256) <> (t.size, t.sha256) THEN 'content'
                        WHEN coalesce(r.state = 'Lost', true) AND m.state <> 'Removed' THEN 'copy' END AS differs,
                   CASE WHEN t.size IS NOT NULL AND (f.size, f.sha256) = (t.size, t.sha256) THEN
                            CASE WHEN (m.meta, coalesce(f.extra, '{}')) <> (s.meta, coalesce(t.extra, '{}'))
                                 THEN 'metadata'
                                 WHEN m.state <> s.state THEN 'state'
                                 WHEN a.uuid <> v.uuid THEN 'provenance' END END AS conflict
              FROM (SELECT DISTINCT ON (directory, name) * FROM told ORDER BY directory, name, line DESC) t
              LEFT JOIN told_set s USING (number)
              LEFT JOIN told_activity v ON v.number = t.activity
              LEFT JOIN directory d ON d.path = t.directory
              LEFT JOIN file f ON f.dir_id = d.dir_id AND f.name = t.name
              LEFT JOIN meta_set m USING (set_id)
              LEFT JOIN activity a USING (activity_id)
              LEFT JOIN replica r ON r.file_id = f.file_id AND r.storage_id = %s
            """,
            (self._storage_id,),
        )
        self._session.execute("CREATE INDEX ON latest (directory, name)")
        self._session.execute("ANALYZE latest")

    def counts(self) -> dict[str, int]:
        """How many paths were told of, and how many of them differ from the catalogue, in each way."""
        found = self._session.execute("""
            SELECT differs, count(*) FROM latest WHERE differs IS NOT NULL GROUP BY 1
             UNION ALL
            SELECT conflict, count(*) FROM latest WHERE conflict IS NOT NULL GROUP BY 1
             UNION ALL
            SELECT 'copies', count(*) FROM latest WHERE size IS NOT NULL
        """).fetchall()
        return {str(what): int(n) for what, n in found}

    def conflicts(self, limit: int) -> list[tuple[str, str]]:
        """(what, path) of the first differences that are only reported."""
        return self._session.execute(
            """
            SELECT coalesce(conflict, differs), directory || '/' || name
              FROM latest
             WHERE conflict IS NOT NULL OR differs IN ('content', 'gone')
             ORDER BY 1, 2
             LIMIT %s
            """,
            (limit,),
        ).fetchall()

    def untold(self, limit: int | None = None, *, conflicts: bool = False) -> list[tuple[int, str]]:
        """(file, path) of copies that the catalogue has here, of which no manifest tells, and which are not due to be
        told of; with `conflicts` also those that are told of otherwise than the catalogue knows them."""
        return self._session.execute(
            """
            SELECT f.file_id, d.path || '/' || f.name
              FROM replica r
              JOIN file f USING (file_id)
              JOIN directory d USING (dir_id)
              LEFT JOIN latest l ON l.directory = d.path AND l.name = f.name
             WHERE r.storage_id = %(storage)s AND r.state IN ('Available', 'Suspect')
               AND (l.size IS NULL OR %(conflicts)s AND (l.differs = 'content' OR l.conflict IS NOT NULL))
               AND NOT EXISTS (SELECT FROM manifest_due q WHERE q.storage_id = %(storage)s AND q.file_id = r.file_id)
             ORDER BY 2
             LIMIT %(limit)s
            """,
            {"storage": self._storage_id, "limit": limit, "conflicts": conflicts},
        ).fetchall()

    def ghosts(self, limit: int | None = None) -> list[str]:
        """Paths of copies that manifests tell of, and the catalogue has not, and which are not due to be told gone."""
        return [
            path
            for (path,) in self._session.execute(
                """
                SELECT l.directory || '/' || l.name
                  FROM latest l
                  LEFT JOIN directory d ON d.path = l.directory
                 WHERE l.differs IN ('new', 'copy')
                   AND NOT EXISTS (SELECT FROM manifest_due q
                                    WHERE q.storage_id = %(storage)s AND q.file_id = l.file_id)
                   AND NOT EXISTS (SELECT FROM manifest_due q
                                    WHERE q.storage_id = %(storage)s AND q.dir_id = d.dir_id AND q.name = l.name)
                 ORDER BY 1
                 LIMIT %(limit)s
                """,
                {"storage": self._storage_id, "limit": limit},
            ).fetchall()
        ]

    def recreate_supersessions(self) -> None:
        """Note which files took the place of others, where both are known and nothing is noted yet."""
        self._session.execute("""
            INSERT INTO supersession (file_id, by_id)
            SELECT f.file_id, b.file_id
              FROM latest l
              JOIN directory d ON d.path = l.directory
              JOIN file f ON f.dir_id = d.dir_id AND f.name = l.name
              JOIN meta_set m USING (set_id)
              JOIN directory bd ON bd.path = l.by_directory
              JOIN file b ON b.dir_id = bd.dir_id AND b.name = l.by_name
             WHERE l.differs = 'new' AND m.state = 'Superseded'
            ON CONFLICT DO NOTHING
        """)

    def gone(self) -> list[int]:
        """Files whose copy here the catalogue believes in, though it was told to be gone."""
        return values(self._session, "SELECT file_id FROM latest WHERE differs = 'gone' ORDER BY file_id")

    def missing(self, block: int) -> Generator[list["Missing"]]:
        """What the catalogue lacks, a block at a time: files that it does not know, and copies of those it does."""
        query: LiteralString = """
            SELECT l.directory || '/' || l.name AS lfn, l.size, encode(l.sha256, 'hex') AS sha256,
                   lpad(to_hex(l.adler32), 8, '0') AS adler32, l.created, l.activity,
                   s.meta, s.state, l.extra, l.differs = 'new' AS new
              FROM latest l JOIN told_set s USING (number)
             WHERE l.differs IN ('new', 'copy')
             ORDER BY l.directory, l.name
        """
        with self._session.cursor("missing", row_factory=class_row(Missing), withhold=True) as cursor:
            cursor.execute(query)
            while found := cursor.fetchmany(block):
                yield found

    def recreate_activities(self) -> None:
        """Make the activities of files that the catalogue lacks, those that it does not know, with their documents. In
        one statement each; what they used follows when the files are there."""
        self._session.execute("INSERT INTO document SELECT * FROM told_document ON CONFLICT DO NOTHING")
        self._session.execute("""
            INSERT INTO activity (uuid, name, agent, software, started, ended, environment, configuration)
            SELECT uuid, name, agent, software, started, ended, environment, configuration
              FROM told_activity t
             WHERE EXISTS (SELECT FROM latest l WHERE l.activity = t.number AND l.differs IN ('new', 'copy'))
               AND NOT EXISTS (SELECT FROM activity a WHERE a.uuid = t.uuid)
        """)

    def activity_ids(self) -> dict[int, int]:
        """Ids in the catalogue of the activities that were told of, by their number."""
        found = self._session.execute(
            "SELECT number, activity_id FROM told_activity JOIN activity USING (uuid)"
        ).fetchall()
        return dict(found)

    def recreate_used(self) -> int:
        """Note what activities used, as far as those files are known; how many lines that were."""
        return self._session.execute("""
            INSERT INTO used (activity_id, file_id)
            SELECT DISTINCT a.activity_id, f.file_id
              FROM told_used u
              JOIN told_activity t USING (number)
              JOIN activity a USING (uuid)
              JOIN directory d ON d.path = u.directory
              JOIN file f ON f.dir_id = d.dir_id AND f.name = u.name
             WHERE NOT EXISTS (SELECT FROM file made WHERE made.activity_id = a.activity_id
                                                      AND made.file_id = f.file_id)
            ON CONFLICT DO NOTHING
        """).rowcount


@dataclass(frozen=True, slots=True)
class Missing:
    """A copy that a manifest tells of and the catalogue lacks. `new`: it does not know the file either."""

    lfn: str
    size: int
    sha256: str
    adler32: str
    created: datetime
    activity: int
    meta: dict[str, Any]
    state: File
    extra: dict[str, Any] | None
    new: bool


def made_then(conn: Connection, created: Sequence[tuple[int, datetime]]) -> None:
    """These files, as (file, moment), were registered then."""
    conn.execute(
        """
        UPDATE file SET created = w.created
          FROM unnest(%s::bigint[], %s::timestamptz[]) AS w (file_id, created)
         WHERE file.file_id = w.file_id
        """,
        ([file_id for file_id, _ in created], [at for _, at in created]),
    )


def told_already(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> None:
    """The manifests of a storage tell of these files' copies there as they are."""
    conn.execute("DELETE FROM manifest_due WHERE storage_id = %s AND file_id = ANY(%s)", (storage_id, list(file_ids)))


def tell(conn: Connection, storage_id: int, file_ids: Sequence[int]) -> None:
    """Have these files' copies on a storage told of in its next manifest, at once."""
    conn.execute(
        "INSERT INTO manifest_due (storage_id, file_id, since) SELECT %s, id, 'epoch' FROM unnest(%s::bigint[]) AS id",
        (storage_id, list(file_ids)),
    )
    notify(conn, "manifests")
