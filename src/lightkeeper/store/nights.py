"""Nights: counted from files and copies when they changed, read from the counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from lightkeeper.domain.names import Lfn, split_lfn
from lightkeeper.domain.nights import Part, Receipt, Stream, Summary
from lightkeeper.store import quality
from lightkeeper.store.db import rows, value, values


# --- counting --------------------------------------------------------------------------------------------------
def take_turn(conn: Connection, *, wait: bool) -> bool:
    """Until this transaction ends nobody else counts; False when somebody does and we do not wait."""
    if wait:
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('nights'))")
        return True
    return bool(value(conn, "SELECT pg_try_advisory_xact_lock(hashtext('nights'))"))


def due(conn: Connection, limit: int) -> list[tuple[int, int]]:
    """Metadata sets to be counted and how many files each has: the longest due first, up to so many files, or one."""
    found: list[tuple[int, int]] = conn.execute("""
        SELECT set_id, coalesce(n_files, 0)
          FROM (SELECT set_id, min(due_id) AS first FROM night_due GROUP BY set_id) d
          LEFT JOIN set_count USING (set_id)
         ORDER BY first
    """).fetchall()
    taken: list[tuple[int, int]] = []
    for set_id, files in found:
        if taken and limit < files:
            break
        taken.append((set_id, files))
        limit -= files
    return taken


def due_files(conn: Connection) -> int:
    """How many files have to be looked at to count everything that is due."""
    return value(
        conn,
        """
        SELECT coalesce(sum(n_files), 0)::bigint + (SELECT count(*) FROM (SELECT FROM night_due LIMIT 1) d)
          FROM set_count WHERE set_id IN (SELECT set_id FROM night_due)
        """,
    )


def count(conn: Connection, sets: Sequence[int]) -> list[int]:
    """Make the counts of these sets anew; ids of the nights that changed."""
    conn.execute("DELETE FROM night_due WHERE set_id = ANY(%s)", (list(sets),))
    conn.execute(
        """
        INSERT INTO night (name)
        SELECT DISTINCT s.meta ->> k.name
          FROM night_key k JOIN meta_set s ON s.meta ? k.name
         WHERE k.role = 'night' AND s.set_id = ANY(%s)
         ORDER BY 1
        ON CONFLICT DO NOTHING
        """,
        (list(sets),),
    )
    nights: list[int] = values(
        conn,
        """
        WITH fact AS MATERIALIZED (
            SELECT f.*, n.night_id
              FROM night_facts(%(sets)s::bigint[]) f JOIN night n ON n.name = f.night),
        gone AS (
            DELETE FROM night_count c
             WHERE set_id = ANY(%(sets)s)
               AND NOT EXISTS (SELECT FROM fact f
                                WHERE (f.set_id, f.element, f.stream) = (c.set_id, c.element, c.stream))
            RETURNING night_id),
        put AS (
            INSERT INTO night_count AS c (
                   set_id, n_files, n_bytes, n_removed, b_removed, n_on_site, b_on_site, n_preserved, b_preserved,
                   n_freed, b_freed, n_to_free, n_chunks, latest, night_id, last_chunk, level, member, members,
                   division, block, element, stream)
            SELECT set_id, n_files, n_bytes, n_removed, b_removed, n_on_site, b_on_site, n_preserved, b_preserved,
                   n_freed, b_freed, n_to_free, n_chunks, latest, night_id, last_chunk, level, member, members,
                   division, block, element, stream
              FROM fact
            ON CONFLICT (set_id, element, stream) DO UPDATE
               SET n_files = excluded.n_files, n_bytes = excluded.n_bytes, n_removed = excluded.n_removed,
                   b_removed = excluded.b_removed, n_on_site = excluded.n_on_site, b_on_site = excluded.b_on_site,
                   n_preserved = excluded.n_preserved, b_preserved = excluded.b_preserved, n_freed = excluded.n_freed,
                   b_freed = excluded.b_freed, n_to_free = excluded.n_to_free, n_chunks = excluded.n_chunks,
                   latest = excluded.latest, night_id = excluded.night_id, last_chunk = excluded.last_chunk,
                   level = excluded.level, member = excluded.member, members = excluded.members,
                   division = excluded.division, block = excluded.block
             WHERE c.* IS DISTINCT FROM excluded.*
            RETURNING night_id)
        SELECT night_id FROM gone UNION SELECT night_id FROM put ORDER BY 1
        """,
        sets=list(sets),
    )
    quality.count(conn, sets)
    conn.execute("UPDATE night SET changed = now() WHERE night_id = ANY(%s)", (nights,))
    match_expected(conn, nights)
    return nights


def match_expected(conn: Connection, night_ids: Sequence[int]) -> None:
    """Find the expected files that have come, and count those that have not."""
    conn.execute(
        """
        UPDATE night_expected e
           SET file_id = f.file_id
          FROM directory d, file f
         WHERE e.night_id = ANY(%s) AND e.file_id IS NULL
           AND d.path = regexp_replace(e.path, '/[^/]*$', '')
           AND f.dir_id = d.dir_id AND f.name = regexp_replace(e.path, '^.*/', '')
        """,
        (list(night_ids),),
    )
    conn.execute(
        """
        UPDATE night n
           SET n_expected = c.n, n_missing = c.missing, n_differing = c.differing
          FROM (SELECT e.night_id, count(*) AS n, count(*) FILTER (WHERE f.file_id IS NULL) AS missing,
                       count(*) FILTER (WHERE e.size <> f.size OR e.sha256 <> f.sha256) AS differing
                  FROM night_expected e LEFT JOIN file f USING (file_id)
                 WHERE e.night_id = ANY(%s)
                 GROUP BY 1) c
         WHERE n.night_id = c.night_id
           AND (n.n_expected, n.n_missing, n.n_differing) IS DISTINCT FROM (c.n, c.missing, c.differing)
        """,
        (list(night_ids),),
    )


def refused_without_night(conn: Connection, limit: int) -> list[tuple[int, str]]:
    """Refused deliveries whose night nobody has looked for; number and path."""
    return conn.execute(
        """
        SELECT trigger_id, path FROM trigger WHERE state = 'Quarantined' AND night IS NULL
         UNION ALL
        SELECT trigger_id, path FROM trigger WHERE state = 'Discarded' AND night IS NULL
         ORDER BY trigger_id LIMIT %s
        """,
        (limit,),
    ).fetchall()


def put_refused(conn: Connection, nights: Sequence[tuple[int, str]]) -> None:
    """Note which night refused deliveries, named by number, belong to; empty: nobody knows."""
    conn.execute(
        "INSERT INTO night (name) SELECT DISTINCT name FROM unnest(%s::text[]) AS name WHERE name <> '' ORDER BY name "
        "ON CONFLICT DO NOTHING",
        ([name for _, name in nights],),
    )
    conn.execute(
        """
        UPDATE trigger t SET night = w.night
          FROM unnest(%s::bigint[], %s::text[]) AS w (trigger_id, night)
         WHERE t.trigger_id = w.trigger_id AND t.state IN ('Quarantined', 'Discarded')
        """,
        ([trigger_id for trigger_id, _ in nights], [name for _, name in nights]),
    )


# --- reading ---------------------------------------------------------------------------------------------------
def summaries(conn: Connection, limit: int, night: str | None = None) -> list[Summary]:
    """Nights that raw files came for, were expected or refused; the latest first, or one."""
    return rows(
        conn,
        Summary,
        """
        SELECT n.name AS night, n.state, n.state_since AS since, n.changed, c.files, c.bytes, c.removed, c.on_site,
               c.preserved, c.freed, c.to_free, r.refused, n.n_expected AS expected, n.n_missing AS missing,
               n.n_differing AS differing,
               (SELECT max(revision) FROM night_receipt p WHERE p.night_id = n.night_id) AS receipt
          FROM night n
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(n_files), 0)::bigint AS files, coalesce(sum(n_bytes), 0)::bigint AS bytes,
                      coalesce(sum(n_removed), 0)::bigint AS removed, coalesce(sum(n_on_site), 0)::bigint AS on_site,
                      coalesce(sum(n_preserved), 0)::bigint AS preserved, coalesce(sum(n_freed), 0)::bigint AS freed,
                      coalesce(sum(n_to_free), 0)::bigint AS to_free
                 FROM night_count c
                WHERE c.night_id = n.night_id AND coalesce(c.level, 0) = 0) c
         CROSS JOIN LATERAL (
               SELECT (SELECT count(*) FROM trigger t WHERE t.state = 'Quarantined' AND t.night = n.name)
                    + (SELECT count(*) FROM trigger t WHERE t.state = 'Discarded' AND t.night = n.name) AS refused) r
         WHERE (%(night)s::text IS NULL OR n.name = %(night)s)
           AND (c.files > 0 OR n.n_expected > 0 OR r.refused > 0)
         ORDER BY n.name DESC
         LIMIT %(limit)s
        """,
        limit=limit,
        night=night,
    )


def elements(conn: Connection, night: str) -> list[Part]:
    """A night's raw files by array element."""
    return rows(
        conn,
        Part,
        """
        SELECT element AS name, sum(n_files)::bigint AS files, sum(n_bytes)::bigint AS bytes,
               sum(n_on_site)::bigint AS on_site, sum(n_preserved)::bigint AS preserved, sum(n_freed)::bigint AS freed
          FROM night_count JOIN night USING (night_id)
         WHERE name = %(night)s AND coalesce(level, 0) = 0
         GROUP BY element
         ORDER BY element
        """,
        night=night,
    )


def divisions(conn: Connection, night: str) -> list[Part]:
    """A night's raw files by division."""
    return rows(
        conn,
        Part,
        """
        SELECT division AS name, sum(n_files)::bigint AS files, sum(n_bytes)::bigint AS bytes,
               sum(n_on_site)::bigint AS on_site, sum(n_preserved)::bigint AS preserved, sum(n_freed)::bigint AS freed
          FROM night_count JOIN night USING (night_id)
         WHERE name = %(night)s AND coalesce(level, 0) = 0
         GROUP BY division
         ORDER BY 3 DESC, division
        """,
        night=night,
    )


@dataclass(frozen=True, slots=True)
class Volume:
    """Raw bytes of a division in a night."""

    night: str
    division: str
    bytes: int


def volumes(conn: Connection, nights: Sequence[str]) -> list[Volume]:
    """What these nights have, by division."""
    return rows(
        conn,
        Volume,
        """
        SELECT name AS night, division, sum(n_bytes)::bigint AS bytes
          FROM night_count JOIN night USING (night_id)
         WHERE name = ANY(%(nights)s) AND coalesce(level, 0) = 0
         GROUP BY 1, 2
        """,
        nights=list(nights),
    )


@dataclass(frozen=True, slots=True)
class Made:
    """Files and bytes of a night at one data level."""

    level: int
    files: int
    bytes: int


def levels(conn: Connection, night: str) -> list[Made]:
    """What there is of a night at each data level above raw, without what was removed."""
    return rows(
        conn,
        Made,
        """
        SELECT level, sum(n_files - n_removed)::bigint AS files, sum(n_bytes - b_removed)::bigint AS bytes
          FROM night_count JOIN night USING (night_id)
         WHERE name = %(night)s AND level > 0
         GROUP BY level
        HAVING sum(n_files - n_removed) > 0
         ORDER BY level
        """,
        night=night,
    )


def streams(conn: Connection, night: str) -> list[Stream]:
    """The streams of a night's raw files, by observation block."""
    found = conn.execute(
        """
        SELECT block, division, element, stream, n_chunks, last_chunk, member, members
          FROM night_count JOIN night USING (night_id)
         WHERE name = %s AND coalesce(level, 0) = 0
        """,
        (night,),
    ).fetchall()
    return [Stream(b, d, e, s, n, last, member, tuple(members)) for b, d, e, s, n, last, member, members in found]


def latest(conn: Connection, night: str) -> datetime | None:
    """When the last raw file of a night was registered."""
    return value(
        conn,
        """
        SELECT max(latest) FROM night_count JOIN night USING (night_id)
         WHERE name = %(night)s AND coalesce(level, 0) = 0
        """,
        night=night,
    )


def open_folders(conn: Connection) -> list[tuple[str, int]]:
    """Folders with deliveries that are being verified, and how many."""
    return conn.execute("""
        SELECT regexp_replace(path, '[^/]*$', ''), count(*) FROM trigger WHERE state = 'Accepted' GROUP BY 1
    """).fetchall()


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused delivery of a night, and when it was refused or discarded."""

    path: str
    reason: str
    at: datetime


def refused(conn: Connection, night: str, limit: int) -> list[Refused]:
    """What was refused of a night, in the order in which it came."""
    return rows(
        conn,
        Refused,
        """
        SELECT path, reason, at
          FROM (SELECT trigger_id, path, coalesce(reason, '') AS reason, state_since AS at
                  FROM trigger WHERE state = 'Quarantined' AND night = %(night)s
                 UNION ALL
                SELECT trigger_id, path, coalesce(reason, '') || '; its file was discarded', state_since
                  FROM trigger WHERE state = 'Discarded' AND night = %(night)s) t
         ORDER BY trigger_id LIMIT %(limit)s
        """,
        night=night,
        limit=limit,
    )


def received(conn: Connection, night: str) -> Iterator[tuple[str, str, bool]]:
    """Name and sha256 of every raw file of a night, sorted by name, and whether it was removed; in constant memory,
    while the transaction is open."""
    with conn.cursor(name="received") as cursor:
        cursor.itersize = 10_000
        yield from cursor.execute(
            """
            SELECT d.path || '/' || f.name, encode(f.sha256, 'hex'), s.state = 'Removed'
              FROM (SELECT DISTINCT set_id FROM night_count JOIN night USING (night_id)
                     WHERE name = %s AND coalesce(level, 0) = 0) c
              JOIN meta_set s USING (set_id)
              JOIN file f USING (set_id)
              JOIN directory d USING (dir_id)
             ORDER BY 1
            """,
            (night,),
        )


# --- what was expected -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Expected:
    """A file that a night will have; size and sha256 when they are known before."""

    lfn: Lfn
    size: int | None = None
    sha256: str | None = None


def night_id(conn: Connection, night: str, *, make: bool = False) -> int | None:
    """The night's id; with `make` also of one that nothing is known of yet."""
    if make:
        conn.execute("INSERT INTO night (name) VALUES (%s) ON CONFLICT DO NOTHING", (night,))
    return value(conn, "SELECT night_id FROM night WHERE name = %(night)s", night=night)


def expect(conn: Connection, night: str, files: Sequence[Expected]) -> int:
    """Add files to what a night is expected to have; what is said again replaces what was said. How many are new."""
    owner = night_id(conn, night, make=True)
    before = value(conn, "SELECT count(*) FROM night_expected WHERE night_id = %(id)s", id=owner)
    conn.execute(
        """
        INSERT INTO night_expected (night_id, path, size, sha256)
        SELECT DISTINCT ON (path) %s, path, size, decode(sha256, 'hex')
          FROM unnest(%s::text[], %s::bigint[], %s::text[]) AS w (path, size, sha256)
         ORDER BY path
        ON CONFLICT (night_id, path) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256
        """,
        (owner, ["/".join(split_lfn(f.lfn)) for f in files], [f.size for f in files], [f.sha256 for f in files]),
    )
    if owner is not None:
        match_expected(conn, [owner])
    return value(conn, "SELECT count(*) FROM night_expected WHERE night_id = %(id)s", id=owner) - before


def expected_among(conn: Connection, night_id: int, lfns: Sequence[Lfn]) -> int:
    """How many of these names a night is expected to have already."""
    return value(
        conn,
        "SELECT count(*) FROM night_expected WHERE night_id = %(id)s AND path = ANY(%(paths)s)",
        id=night_id,
        paths=["/".join(split_lfn(lfn)) for lfn in lfns],
    )


def expect_nothing(conn: Connection, night: str) -> int:
    """Forget the list of a night; how many files it had."""
    owner = night_id(conn, night)
    n = conn.execute("DELETE FROM night_expected WHERE night_id = %s", (owner,)).rowcount
    conn.execute("UPDATE night SET n_expected = NULL, n_missing = 0, n_differing = 0 WHERE night_id = %s", (owner,))
    return n


def missing(conn: Connection, night: str, limit: int) -> list[str]:
    """Expected files that have not come, by name."""
    return values(
        conn,
        """
        SELECT path FROM night_expected JOIN night USING (night_id)
         WHERE name = %(night)s AND file_id IS NULL ORDER BY path LIMIT %(limit)s
        """,
        night=night,
        limit=limit,
    )


# --- receipts --------------------------------------------------------------------------------------------------
def receipts(conn: Connection, night: str) -> list[Receipt]:
    """The receipts of a night, latest first."""
    return rows(
        conn,
        Receipt,
        """
        SELECT revision, made, n_files AS files, n_bytes AS bytes, size, encode(sha256, 'hex') AS sha256, key,
               closed_by, why
          FROM night_receipt JOIN night USING (night_id)
         WHERE name = %(night)s
         ORDER BY revision DESC
        """,
        night=night,
    )


def signature(conn: Connection, night: str, revision: int) -> bytes:
    """The signature of a receipt."""
    return value(
        conn,
        """
        SELECT signature FROM night_receipt JOIN night USING (night_id)
         WHERE name = %(night)s AND revision = %(revision)s
        """,
        night=night,
        revision=revision,
    )


def add_receipt(conn: Connection, night: str, receipt: Receipt, signature: bytes) -> None:
    """Note a receipt that was signed."""
    conn.execute(
        """
        INSERT INTO night_receipt (night_id, made, n_files, n_bytes, size, revision, sha256, signature, key, closed_by,
                                   why)
        SELECT night_id, %(made)s, %(files)s, %(bytes)s, %(size)s, %(revision)s, decode(%(sha256)s, 'hex'),
               %(signature)s, %(key)s, %(closed_by)s, %(why)s
          FROM night WHERE name = %(night)s
        """,
        {
            "night": night,
            "made": receipt.made,
            "files": receipt.files,
            "bytes": receipt.bytes,
            "size": receipt.size,
            "revision": receipt.revision,
            "sha256": receipt.sha256,
            "signature": signature,
            "key": receipt.key,
            "closed_by": receipt.closed_by,
            "why": receipt.why,
        },
    )


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed night whose counts are newer than its receipt."""

    night_id: int
    night: str


def closed(conn: Connection, night_ids: Sequence[int]) -> list[Closed]:
    """Those of these nights that are closed."""
    return rows(
        conn,
        Closed,
        "SELECT night_id, name AS night FROM night WHERE state = 'Closed' AND night_id = ANY(%(ids)s) ORDER BY name",
        ids=list(night_ids),
    )


def quiet(conn: Connection, seconds: float) -> list[str]:
    """Open nights that nothing changed of for so long, and that something came for."""
    return values(
        conn,
        """
        SELECT name FROM night n
         WHERE state = 'Open' AND changed < now() - %(seconds)s * interval '1 second'
           AND EXISTS (SELECT FROM night_count c WHERE c.night_id = n.night_id)
         ORDER BY name
        """,
        seconds=seconds,
    )


def by_name(conn: Connection, night: str) -> Summary | None:
    """One night."""
    return next(iter(summaries(conn, 1, night)), None)
