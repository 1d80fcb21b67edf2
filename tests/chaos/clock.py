"""Time passes for a whole world at once, without waiting: everything that was noted is older.

Every decision compares a time that was noted with the database's now(), so to move all notes back is the same as to
move the clock on. No statement, no setting and no server knows of it.
"""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from psycopg.errors import UniqueViolation
from psycopg.sql import SQL, Identifier
from tests.conftest import World

FAR = timedelta(days=100_000)


def pass_time(world: World, **amount: float) -> None:
    """Move every time that database and storages noted back by timedelta(**amount). Nothing else may work meanwhile."""
    by = timedelta(**amount)
    with world.ctx.db.transaction() as conn:
        noted = conn.execute("""
            SELECT table_name, array_agg(column_name::text)
              FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND data_type = 'timestamp with time zone'
               AND column_name <> 'stamp' -- of manifests: it is the name of a file, not compared with now()
             GROUP BY 1 ORDER BY 1
        """).fetchall()
        for table, columns in noted:
            moved = SQL(", ").join(SQL("{0} = {0} - %(by)s").format(Identifier(column)) for column in columns)
            update = SQL("UPDATE {} SET {}").format(Identifier(table), moved)
            try:
                with conn.transaction():
                    conn.execute(update, {"by": by})
            except UniqueViolation:  # a row on its way met one that is still to be moved: all go far away, and back
                conn.execute(update, {"by": FAR})
                conn.execute(update, {"by": by - FAR})
    for storage in world.root.iterdir():
        for path in storage.rglob("*"):
            _older(path, by.total_seconds())


def _older(path: Path, seconds: float) -> None:
    with suppress(FileNotFoundError):
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))
