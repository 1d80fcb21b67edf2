"""Connections: a pool, transactions, rows as dataclasses, and NOTIFY as the way to wake a duty at once."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import Connection
from psycopg.errors import DeadlockDetected
from psycopg.rows import class_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg_pool import ConnectionPool, PoolTimeout

from lightkeeper.domain.errors import Unavailable
from lightkeeper.domain.states import KINDS

T = TypeVar("T")
CHANNEL = "lightkeeper"
PATIENCE: Mapping[str, Any] = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server whose network is gone is noticed within half a minute, whether something is asked of it (milliseconds) or
not (seconds). Without it the system waits for a quarter of an hour, and longer."""


class Database:
    """A PostgreSQL database with our schema. Thread-safe; connections are checked before they are handed out, so
    that work goes on after a restart of the server."""

    def __init__(self, url: str, *, max_connections: int = 40) -> None:
        self.url = url
        self._enums: list[EnumInfo] | None = None
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=1,
            max_size=max_connections,
            timeout=30,
            kwargs={"autocommit": True, **PATIENCE},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            open=False,
            name="lightkeeper",
        )

    def open(self) -> "Database":
        """Connect; raises Unavailable when the server does not answer within 30 s."""
        self._pool.open()
        try:
            self._pool.wait(30)
        except PoolTimeout as error:
            self.close()
            raise Unavailable(
                "the database does not answer", hint="check database_url, and that the server is running"
            ) from error
        return self

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """One transaction: committed at the end, rolled back when an exception leaves the block."""
        with self._pool.connection() as conn, conn.transaction():
            yield conn

    @contextmanager
    def listen(self) -> Generator[Connection]:
        """A connection of its own that hears NOTIFY; use `conn.notifies(timeout=...)`."""
        with psycopg.connect(self.url, autocommit=True, **PATIENCE) as conn:
            conn.execute("LISTEN lightkeeper")
            yield conn

    @contextmanager
    def session(self) -> Generator[Connection]:
        """A connection of its own, without a transaction: for temporary tables and locks that live longer than one."""
        with psycopg.connect(self.url, autocommit=True, **PATIENCE) as conn:
            self._configure(conn)
            yield conn

    def _configure(self, conn: Connection) -> None:
        """Load state columns as members of their enum."""
        if self._enums is None:
            found = [EnumInfo.fetch(conn, f"{name}_state") for name in KINDS]
            if None in found:  # a database without our schema yet: its first connection creates it
                return
            self._enums = [info for info in found if info]
        for info, kind in zip(self._enums, KINDS.values(), strict=True):
            register_enum(info, conn, kind, mapping={member: member.value for member in kind})


def until_free(transaction: Callable[[], T]) -> T:
    """Run a transaction; again when the database ended it because it and another one waited for each other."""
    for _ in range(5):
        with suppress(DeadlockDetected):
            return transaction()
    return transaction()


def rows(conn: Connection, kind: type[T], query: LiteralString, /, **params: Any) -> list[T]:
    """All rows of `query` as instances of the dataclass `kind`, columns by name."""
    with conn.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, params).fetchall()


def row(conn: Connection, kind: type[T], query: LiteralString, /, **params: Any) -> T | None:
    """The first row of `query` as an instance of `kind`, or None."""
    with conn.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, params).fetchone()


def values(conn: Connection, query: LiteralString, /, **params: Any) -> list[Any]:
    """The first column of `query`."""
    return [line[0] for line in conn.execute(query, params).fetchall()]


def value(conn: Connection, query: LiteralString, /, **params: Any) -> Any:
    """The first column of the first row of `query`, or None."""
    line = conn.execute(query, params).fetchone()
    return line[0] if line else None


def now(conn: Connection) -> datetime:
    """The time of this transaction by the database's clock, which every lease and age is measured by."""
    return value(conn, "SELECT now()")


def notify(conn: Connection, topic: str) -> None:
    """Wake the duties that wait for `topic`, when this transaction commits."""
    conn.execute("SELECT pg_notify('lightkeeper', %s)", (topic,))
