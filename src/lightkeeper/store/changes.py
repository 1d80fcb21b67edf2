"""Files that are registered change: their metadata, their state. Their content never does.

A file changes by going to another metadata set. What follows from the set follows at once, in the same transaction:
counters, datasets, the transformations that want the file, the policy it falls under.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.catalog import MetaValue, Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.states import File, allowed
from lightkeeper.store.db import notify, values
from lightkeeper.store.sets import canonical, name_sets, share_registration


# --- metadata --------------------------------------------------------------------------------------------------
def set_metadata(
    conn: Connection,
    file_ids: Sequence[int],
    meta: Mapping[str, MetaValue],
    unset: Sequence[str],
    vocabulary: Vocabulary,
) -> int:
    """Give these files the values of `meta` and take those of the keys in `unset` away; how many files that changed.

    Transformations that want files as they now are get them, and those that still wait for one they no longer want
    lose it. Tasks that were made keep their inputs. Raises Invalid for keys and values outside the vocabulary.
    """
    shared, own = vocabulary.split(meta)
    for key in unset:
        vocabulary.key(key)
    _begin(conn, file_ids)
    held = conn.execute("""
        SELECT s.state::text, s.set_id, s.meta
          FROM meta_set s
         WHERE s.set_id IN (SELECT old_set FROM changed)
    """).fetchall()
    for state in File:
        olds = {set_id: {**_without(old, unset), **shared} for is_in, set_id, old in held if is_in == state}
        _to_sets(conn, {set_id: canonical(new) for set_id, new in olds.items()}, state)
    conn.execute(
        """
        UPDATE changed
           SET new_extra = nullif((coalesce(old_extra, '{}') - %s::text[]) || %s::jsonb, '{}')
        """,
        (list(unset), Jsonb(own)),
    )
    return _carry_out(conn)


def _without(meta: Mapping[str, Any], unset: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key not in unset}


# --- states ----------------------------------------------------------------------------------------------------
def move_files(conn: Connection, file_ids: Sequence[int], source: File, target: File, why: str) -> list[int]:
    """Move those of these files that are in `source`; return them, in order. Each leaves a line of history."""
    if not allowed(source, target):
        raise Invalid(f"a file may not move from {source} to {target}")
    _begin(conn, file_ids)
    conn.execute(
        "DELETE FROM changed USING meta_set s WHERE s.set_id = old_set AND s.state <> %s::file_state", (str(source),)
    )
    held = conn.execute("SELECT set_id, meta FROM meta_set WHERE set_id IN (SELECT old_set FROM changed)").fetchall()
    _to_sets(conn, {set_id: canonical(meta) for set_id, meta in held}, target)
    moved = values(conn, "SELECT file_id FROM changed ORDER BY file_id")
    _carry_out(conn)
    conn.execute(
        """
        INSERT INTO history (kind, id, source, target, why)
        SELECT 'file', id, %(source)s, %(target)s, %(why)s FROM unnest(%(ids)s::bigint[]) AS id
        """,
        {"ids": moved, "source": str(source), "target": str(target), "why": why},
    )
    return moved


def came_back(conn: Connection, file_ids: Sequence[int]) -> None:
    """Files that were Removed and have a copy again are Current."""
    removed = values(
        conn,
        """
        SELECT f.file_id
          FROM file f JOIN meta_set s USING (set_id)
         WHERE f.file_id = ANY(%(ids)s) AND s.state = 'Removed'
           AND EXISTS (SELECT FROM replica r WHERE r.file_id = f.file_id AND r.state = 'Available')
        """,
        ids=list(file_ids),
    )
    if removed:
        move_files(conn, removed, File.REMOVED, File.CURRENT, "registered again with the same content")
        supersede_no_more(conn, removed)


def supersede(conn: Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Note which file (second) took the place of which (first)."""
    conn.execute(
        """
        INSERT INTO supersession (file_id, by_id)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[])
        ON CONFLICT (file_id) DO UPDATE SET by_id = excluded.by_id
        """,
        ([old for old, _ in pairs], [new for _, new in pairs]),
    )


def supersede_no_more(conn: Connection, file_ids: Sequence[int]) -> None:
    """Forget what took the place of these files."""
    conn.execute("DELETE FROM supersession WHERE file_id = ANY(%s)", (list(file_ids),))


# --- how -------------------------------------------------------------------------------------------------------
def lock(conn: Connection, file_ids: Sequence[int]) -> None:
    """Nobody else changes these files, or what is recorded of their copies by plan, until this transaction ends.
    `unsettled` comes first: the planner locks in that order too."""
    share_registration(conn)
    conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT file_id FROM file WHERE file_id = ANY(%s) ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        (list(file_ids),),
    )
    conn.execute("SELECT FROM file WHERE file_id = ANY(%s) ORDER BY file_id FOR UPDATE", (list(file_ids),))


def _begin(conn: Connection, file_ids: Sequence[int]) -> None:
    """Lock these files and note what they are."""
    lock(conn, file_ids)
    conn.execute("""
        CREATE TEMP TABLE IF NOT EXISTS changed (
            file_id bigint, old_set bigint, new_set bigint, size bigint, old_extra jsonb, new_extra jsonb)
        ON COMMIT DELETE ROWS
    """)
    conn.execute("DELETE FROM changed")
    conn.execute(
        """
        INSERT INTO changed
        SELECT file_id, set_id, set_id, size, extra, extra FROM file WHERE file_id = ANY(%s)
        """,
        (list(file_ids),),
    )


def _to_sets(conn: Connection, becomes: Mapping[int, str], state: File) -> None:
    """Have files of these old sets go to the sets with the given values, canonical texts, and state."""
    distinct = sorted(set(becomes.values()))
    if not distinct:
        return
    ids = dict(zip(distinct, name_sets(conn, distinct, state), strict=True))
    conn.execute(
        """
        UPDATE changed SET new_set = w.new_set
          FROM unnest(%s::bigint[], %s::bigint[]) AS w (old_set, new_set)
         WHERE changed.old_set = w.old_set
        """,
        (list(becomes), [ids[text] for text in becomes.values()]),
    )


def _carry_out(conn: Connection) -> int:
    """Make the files what `changed` says, and everything that follows from it; how many files changed."""
    conn.execute("DELETE FROM changed WHERE (old_set, old_extra) IS NOT DISTINCT FROM (new_set, new_extra)")
    n = conn.execute("""
        UPDATE file SET set_id = c.new_set, extra = c.new_extra FROM changed c WHERE file.file_id = c.file_id
    """).rowcount
    if n:
        _change_inputs(conn)
        _change_counts(conn)
        notify(conn, "unsettled")
        notify(conn, "input")
    return n


def _change_inputs(conn: Connection) -> None:
    conn.execute("""
        DELETE FROM pending_input p
         USING changed c, meta_set s, transformation t
         WHERE p.file_id = c.file_id AND s.set_id = c.new_set AND t.transformation_id = p.transformation_id
           AND (s.state <> 'Current'
             OR t.dataset_id IS NULL
                AND NOT (EXISTS (SELECT FROM transformation_set m
                                  WHERE m.set_id = c.new_set AND m.transformation_id = t.transformation_id)
                     AND (t.file_query IS NULL OR coalesce(c.new_extra, '{}') @@ t.file_query)))
    """)
    conn.execute("""
        INSERT INTO pending_input (transformation_id, file_id)
        SELECT t.transformation_id, c.file_id
          FROM changed c
          JOIN transformation_set m ON m.set_id = c.new_set
          JOIN transformation t USING (transformation_id)
          JOIN file f USING (file_id)
          LEFT JOIN activity a USING (activity_id)
          LEFT JOIN job USING (job_id)
         WHERE t.state IN ('Active', 'Flush', 'Stopped')
           AND CASE WHEN t.parent_id IS NULL AND t.feeders = '{}' THEN t.open
                    ELSE NOT t.by_lineage OR job.transformation_id = t.parent_id
                         OR job.transformation_id = ANY (t.feeders) END
           AND (t.file_query IS NULL OR coalesce(c.new_extra, '{}') @@ t.file_query)
           AND NOT EXISTS (SELECT FROM task_input i
                            WHERE i.file_id = c.file_id AND i.transformation_id = t.transformation_id)
           AND NOT EXISTS (SELECT FROM input_aside a
                            WHERE a.file_id = c.file_id AND a.transformation_id = t.transformation_id)
        ON CONFLICT DO NOTHING
    """)


def _change_counts(conn: Connection) -> None:
    """Count files out of their old sets and, where they have one, into their new ones."""
    conn.execute("""
        INSERT INTO set_count AS c (set_id, n_files, n_bytes)
        SELECT set_id, sum(sign), sum(sign * size)
          FROM (SELECT old_set AS set_id, -1 AS sign, size FROM changed
                 UNION ALL
                SELECT new_set, 1, size FROM changed WHERE new_set IS NOT NULL) moved
         GROUP BY set_id
         ORDER BY set_id
        ON CONFLICT (set_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)
    conn.execute("""
        INSERT INTO dataset_count AS c (dataset_id, n_files, n_bytes)
        SELECT dataset_id, sum(sign), sum(sign * size)
          FROM (SELECT old_set AS set_id, old_extra AS extra, -1 AS sign, size FROM changed
                 UNION ALL
                SELECT new_set, new_extra, 1, size FROM changed) moved
          JOIN dataset_set m USING (set_id)
          JOIN dataset d USING (dataset_id)
         WHERE d.file_query IS NULL OR coalesce(extra, '{}') @@ d.file_query
         GROUP BY dataset_id
         ORDER BY dataset_id
        ON CONFLICT (dataset_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)


# --- forgetting ------------------------------------------------------------------------------------------------
def forget(conn: Connection, file_ids: Sequence[int], why: str) -> int:
    """Take these files and their replicas out of the catalogue, as if they had never been registered; nothing on any
    storage changes. The caller has made sure that nothing refers to them. A line of history keeps each name."""
    _begin(conn, file_ids)
    conn.execute("""
        INSERT INTO history (kind, id, source, target, why)
        SELECT 'file', f.file_id, s.state::text, 'Forgotten',
               d.path || '/' || f.name || ' sha256 ' || encode(f.sha256, 'hex') || ': ' || %s
          FROM changed c JOIN file f USING (file_id) JOIN directory d USING (dir_id) JOIN meta_set s USING (set_id)
    """, (why,))  # fmt: skip
    conn.execute("""
        WITH gone AS (
            DELETE FROM replica r USING changed c WHERE r.file_id = c.file_id
            RETURNING r.storage_id, c.size)
        INSERT INTO storage_count AS c (storage_id, n_files, n_bytes)
        SELECT storage_id, -count(*), -sum(size) FROM gone GROUP BY storage_id ORDER BY storage_id
        ON CONFLICT (storage_id) DO UPDATE
           SET n_files = c.n_files + excluded.n_files, n_bytes = c.n_bytes + excluded.n_bytes
    """)
    conn.execute("DELETE FROM unsettled u USING changed c WHERE u.file_id = c.file_id")
    conn.execute("DELETE FROM file_policy p USING changed c WHERE p.file_id = c.file_id")
    conn.execute("DELETE FROM recheck r USING changed c WHERE r.file_id = c.file_id")
    conn.execute("DELETE FROM pending_input p USING changed c WHERE p.file_id = c.file_id")
    conn.execute("DELETE FROM input_aside a USING changed c WHERE a.file_id = c.file_id")
    conn.execute("DELETE FROM supersession s USING changed c WHERE s.file_id = c.file_id OR s.by_id = c.file_id")
    n = conn.execute("DELETE FROM file f USING changed c WHERE f.file_id = c.file_id").rowcount
    conn.execute("UPDATE changed SET new_set = NULL")
    _change_counts(conn)
    return n


def forget_replicas(conn: Connection, file_ids: Sequence[int], storage_id: int, why: str) -> int:
    """Take one storage's replicas of these files out of the catalogue; nothing on the storage changes."""
    _begin(conn, file_ids)
    n = conn.execute("""
        WITH gone AS (
            DELETE FROM replica r USING changed c
             WHERE r.file_id = c.file_id AND r.storage_id = %(storage)s AND r.state <> 'Deleting'
            RETURNING r.file_id, r.state::text AS state, c.size),
        line AS (
            INSERT INTO history (kind, id, part, source, target, why)
            SELECT 'replica', file_id, %(storage)s, state, 'Forgotten', %(why)s FROM gone),
        counted AS (
            UPDATE storage_count c
               SET n_files = c.n_files - g.n, n_bytes = c.n_bytes - g.bytes
              FROM (SELECT count(*) AS n, coalesce(sum(size), 0) AS bytes FROM gone) g
             WHERE c.storage_id = %(storage)s)
        SELECT file_id FROM gone
    """, {"storage": storage_id, "why": why}).rowcount  # fmt: skip
    notify(conn, "unsettled")
    return n
