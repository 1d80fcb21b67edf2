"""Metadata keys: how they are registered, who uses them, and with which values."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from lightkeeper.domain.catalog import KeyLevel, MetaKey
from lightkeeper.store.db import rows, value

SAMPLE = 5000
"""Sets, or files, that tell what a key's values look like: the latest."""


@dataclass(frozen=True, slots=True)
class Varied:
    """How many different values a set-level key has in the sample, and how many files those sets hold."""

    key: str
    n_values: int
    files: int


def put_key(conn: Connection, key: MetaKey) -> None:
    """Make the key so. Waits for registrations that are under way, which know the key as it was."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")
    conn.execute(
        """
        INSERT INTO meta_key (name, type, level, unit, description)
        VALUES (%(name)s, %(type)s::key_type, %(level)s::key_level, %(unit)s, %(description)s)
        ON CONFLICT (name) DO UPDATE
           SET type = excluded.type, level = excluded.level, unit = excluded.unit, description = excluded.description
        """,
        {
            "name": key.name,
            "type": str(key.type),
            "level": str(key.level),
            "unit": key.unit,
            "description": key.description,
        },
    )


def is_used(conn: Connection, name: str) -> bool:
    """Whether any metadata set or file has a value of this key."""
    return bool(
        value(
            conn,
            """
            SELECT EXISTS (SELECT FROM meta_set WHERE meta ? %(name)s)
                OR EXISTS (SELECT FROM file WHERE extra ? %(name)s)
            """,
            name=name,
        )
    )


def asking(conn: Connection, name: str) -> str | None:
    """A dataset, policy or transformation whose query names this key; it was compiled for the key as it is."""
    return value(
        conn,
        """
        SELECT what
          FROM (SELECT 'dataset ' || name AS what, query FROM dataset
                 UNION ALL
                SELECT 'policy ' || name, query FROM policy
                 UNION ALL
                SELECT 'transformation ' || name, query FROM transformation WHERE state <> 'Completed') asked
         WHERE query ? %(name)s
            OR jsonb_path_exists(query, '$.** ? (@.key == $name)', jsonb_build_object('name', %(name)s::text))
         ORDER BY what
         LIMIT 1
        """,
        name=name,
    )


def sets_using(conn: Connection, name: str) -> int:
    """How many metadata sets have a value of this key."""
    return int(value(conn, "SELECT count(*) FROM meta_set WHERE meta ? %(name)s", name=name))


def examples(conn: Connection, name: str, level: KeyLevel, limit: int = 5) -> list[Any]:
    """The commonest values of a key in the sample."""
    query = (
        """
        SELECT v FROM (SELECT meta -> %(name)s AS v FROM meta_set ORDER BY set_id DESC LIMIT %(sample)s) latest
         WHERE v IS NOT NULL GROUP BY v ORDER BY count(*) DESC, v LIMIT %(limit)s
        """
        if level is KeyLevel.SET
        else """
        SELECT v FROM (SELECT extra -> %(name)s AS v FROM file ORDER BY file_id DESC LIMIT %(sample)s) latest
         WHERE v IS NOT NULL GROUP BY v ORDER BY count(*) DESC, v LIMIT %(limit)s
        """
    )
    found = conn.execute(query, {"name": name, "sample": SAMPLE, "limit": limit}).fetchall()
    return [v for (v,) in found]


def varied(conn: Connection) -> list[Varied]:
    """Different values of each set-level key in the sample."""
    return rows(
        conn,
        Varied,
        """
        SELECT kv.key, count(DISTINCT kv.value) AS n_values, sum(n_files)::bigint AS files
          FROM (SELECT set_id, meta FROM meta_set ORDER BY set_id DESC LIMIT %(sample)s) latest
          JOIN set_count USING (set_id)
         CROSS JOIN LATERAL jsonb_each(meta) AS kv
         GROUP BY kv.key
        """,
        sample=SAMPLE,
    )
