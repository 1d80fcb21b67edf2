"""Make the schema, or bring an older one here. `schema.sql` is the text to read; `migrations/NNNN_*.sql` lead to it.

A new database is made from `schema.sql` at once and counts every migration as applied. A test keeps both ways equal.
Migrations only go forward and are never edited once released.
"""

from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from typing import LiteralString, cast

import psycopg
from psycopg import Connection

from lightkeeper.domain.errors import Conflict, Unavailable
from lightkeeper.domain.states import MOVES

_HERE = files(__name__)


def migrate(url: str) -> list[str]:
    """Bring the database at `url` to this program's schema; return the migrations applied now. Safe to run at once
    from several programs."""
    with _connected(url) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('lightkeeper schema'))")
        conn.execute(
            "CREATE TABLE IF NOT EXISTS migration "
            "(name text PRIMARY KEY, sha256 text NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
        )
        applied = dict(conn.execute("SELECT name, sha256 FROM migration").fetchall())
        known = _migrations()
        _refuse_foreign(applied, known)
        if not applied:
            conn.execute(_literal((_HERE / "schema.sql").read_text()))
            fresh = dict.fromkeys(known, "")
        else:
            fresh = {name: text for name, text in known.items() if name not in applied}
        for name, text in fresh.items():
            if text:
                conn.execute(_literal(text))
            conn.execute("INSERT INTO migration (name, sha256) VALUES (%s, %s)", (name, _digest(known[name])))
        _load_moves(conn)
    return list(fresh)


@contextmanager
def _connected(url: str) -> Generator[Connection]:
    try:
        conn = psycopg.connect(url)
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"the database does not answer: {' '.join(str(error).split())}",
            hint="check database_url, and that the server is running",
        ) from error
    with conn:
        yield conn


def migrate_stepwise(conn: Connection) -> None:
    """Build the schema by every migration in turn, as a database that has lived through them all. For tests."""
    for text in _migrations().values():
        conn.execute(_literal(text))


def _migrations() -> dict[str, str]:
    found = [entry for entry in (_HERE / "migrations").iterdir() if entry.name.endswith(".sql")]
    return {entry.name: entry.read_text() for entry in sorted(found, key=lambda entry: entry.name)}


def _refuse_foreign(applied: dict[str, str], known: dict[str, str]) -> None:
    for name, digest in applied.items():
        if name not in known:
            raise Conflict(
                f"the database has migration {name}, which this version of Lightkeeper does not know",
                hint="it was last used by a newer version: use that one",
            )
        if digest != _digest(known[name]):
            raise Conflict(
                f"migration {name} is not the one that was applied",
                hint="this home was made by another build of Lightkeeper: use that one, or another home",
            )


def _load_moves(conn: Connection) -> None:
    """Make the table of states that guards the database equal to the one in `domain/states.py`."""
    wanted = [
        (kind.__name__.lower(), str(source), str(target), maker)
        for kind, moves in MOVES.items()
        for (source, target), maker in moves.items()
    ]
    conn.execute("DELETE FROM state_move")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO state_move (kind, source, target, maker) VALUES (%s, %s, %s, %s)",
            wanted,
        )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _literal(text: str) -> LiteralString:
    """SQL that ships with the program is as literal as if it stood here."""
    return cast(LiteralString, text)
