"""Real PostgreSQL, real directories, a small observatory: the world that tests put together.

`world` is a Context on a fresh database with one observatory site and three data centres. Nothing runs by itself in it:
a test calls the steps. Every test that uses it ends with all invariants checked.
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.context import Context, Log
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, delete, ingest, replicate, topology, transfer, watch
from lightkeeper.store import catalog, postgres, provenance
from lightkeeper.store import topology as topology_store
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate
from lightkeeper.testing.observatory import PlainObservatory

SHARED = Path(__file__).parents[1].parent / "shared"

TOPOLOGY = """
version: 1
sites:
  Mountain: {kind: observatory}
  North: {computing: {executor: none, pilots: 2}}
  East: {computing: {executor: none, pilots: 2}}
  South: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  north: {site: North, root: "ROOT/north"}
  east: {site: East, root: "ROOT/east"}
  south: {site: South, root: "ROOT/south"}
  vault: {site: South, root: "ROOT/vault", media: tape}
policies:
  raw: {files: {level: 0}, copies: 2, free_on_site: true}
  made: {files: {level: {">=": 1}}, copies: 2}
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server for all tests of this process; LIGHTKEEPER_TEST_DATABASE names another."""
    if given := os.environ.get("LIGHTKEEPER_TEST_DATABASE"):
        yield given
        return
    with postgres.start(tmp_path_factory.mktemp("pg"), shared_buffers_mb=64) as running:
        yield running.url


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """A database with our schema that others are copied from."""
    _execute(server, "CREATE DATABASE lk_template")
    migrate(_named(server, "lk_template"))
    return "lk_template"


_numbers = itertools.count(1)


@pytest.fixture
def database_url(server: str, template: str) -> Iterator[str]:
    """A fresh database with our schema."""
    name = f"lk_{os.getpid()}_{next(_numbers)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield _named(server, name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, max_connections=8).open()
    yield database
    database.close()


class SilentLog:
    """Keeps what was said, for tests that ask."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    warning = error = info


class NoPilots:
    """An executor that starts nothing: jobs are claimed by the test itself."""

    def start(self, order: object) -> str:
        return "none"

    def running(self, handles: list[str]) -> set[str]:
        return set(handles)

    def stop(self, handles: list[str]) -> None: ...


@dataclass
class World:
    """A Context and short words for what tests do with it."""

    ctx: Context
    root: Path

    def deliver(self, path: str, content: str = "light", trigger: bool = True, **meta: Any) -> Path:
        """Put a file of the small observatory on the mountain, and its trigger."""
        file = self.root / "mountain" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"level": 0, "night": "2030-01-02"} | meta) + "\n" + content)
        if trigger:
            file.with_name(file.name + ".trigger").symlink_to(file.name)
        return file

    def ingest(self) -> None:
        """Scan and register until nothing is left to do."""
        watch.scan(self.ctx)
        while ingest.register_accepted(self.ctx):
            pass

    def settle(self) -> None:
        """Replicate, transfer and delete until nothing is left to do."""
        while replicate.settle(self.ctx) + transfer.carry_out(self.ctx) + delete.delete(self.ctx):
            pass

    def register(
        self, *names: str, storage: str = "north", produced_by: int | None = None, **meta: Any
    ) -> dict[str, int]:
        """Register files with bytes at a storage, as an ingest would; ids by name."""
        elements = {s.name: s for s in self.storages}
        files = []
        with self.ctx.db.transaction() as conn:
            activity = provenance.add_activity(conn, name="test", agent="test", software={})
        for name in names:
            content = f"content of {name}".encode()
            PosixStorage(storage, elements[storage].root).write(name, [content])
            own = {"level": 0, "night": "2030-01-02"} | meta
            files.append(NewFile(parse_lfn(name), fixity_of([content]), own, elements[storage].storage_id))
        with self.ctx.db.transaction() as conn:
            batch = catalog.Batch(files, topology_store.vocabulary(conn))
            names = catalog.name(conn, batch)
        with self.ctx.db.transaction() as conn:
            result = catalog.register(conn, batch, names, activity, produced_by=produced_by)
        return {**result.added, **result.known}

    @property
    def storages(self) -> list[Any]:
        with self.ctx.db.transaction() as conn:
            return topology_store.storages(conn)

    def files(self) -> list[catalog.FileRow]:
        """Every file in the catalogue, by name."""
        with self.ctx.db.transaction() as conn:
            ids = conn.execute("SELECT file_id FROM file").fetchall()
            return catalog.files_by_id(conn, [file_id for (file_id,) in ids])

    def copies(self, lfn: str) -> dict[str, str]:
        """State of each replica by storage."""
        with self.ctx.db.transaction() as conn:
            files = catalog.files_by_lfn(conn, [lfn])
            return {r.storage: str(r.state) for r in catalog.replicas_of(conn, [f.file_id for f in files])}

    def value(self, query: str, *params: Any) -> Any:
        """One value straight from the database."""
        with self.ctx.db.transaction() as conn:
            cursor = conn.execute(query, params or None)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def violations(self) -> list[str]:
        return [f"{v.id} {v.detail}" for v in audit.fsck(self.ctx, read_bytes=True).violations]

    def having(self, **changes: Any) -> "World":
        """The same world with other plug-ins or settings."""
        return World(replace(self.ctx, **changes), self.root)


def build_context(database: Database, root: Path, log: Log | None = None, **settings: Any) -> Context:
    """A Context of the small observatory; with `settings` that are not those of most tests."""
    return Context(
        db=database,
        settings=Settings(
            **{"home": root, "trigger_patience": 0.0, "retry_after": 0.0, "lease": 30.0, "deletion_delay": 0.0}
            | settings
        ),
        log=log or SilentLog(),
        storage_drivers={"posix": PosixStorage, "webdav": WebdavStorage},
        mover=StreamMover(),
        executors={"none": NoPilots()},
        observatories=(PlainObservatory(),),
    )


def build_world(database: Database, root: Path, storages: str = TOPOLOGY, **settings: Any) -> World:
    """A world with its topology, on an empty database and an empty folder."""
    ctx = build_context(database, root, **settings)
    with database.transaction() as conn:
        topology_store.put_keys(conn, ctx.metadata_keys)
    for name in ("mountain", "north", "east", "south", "vault"):
        (root / name).mkdir(exist_ok=True)
    topology.apply(ctx, storages.replace("ROOT", str(root)))
    return World(ctx, root)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    world = build_world(database, tmp_path)
    yield world
    assert [v for v in world.violations() if " is dark since " not in v] == [], "dark files are the test's own"


@pytest.fixture
def fresh_worlds(server: str, template: str, tmp_path: Path) -> Callable[[], AbstractContextManager[World]]:
    """Makes a world as often as wanted, for tests that live through many histories."""

    @contextmanager
    def fresh() -> Iterator[World]:
        number = next(_numbers)
        name, root = f"lk_{os.getpid()}_{number}", tmp_path / str(number)
        root.mkdir()
        _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        database = Database(_named(server, name), max_connections=8).open()
        try:
            yield build_world(database, root)
        finally:
            database.close()
            _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
            shutil.rmtree(root)

    return fresh


@pytest.fixture
def shared() -> Path:
    """Real telescope files; tests that need them are skipped without."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of real telescope files beside the project")
    return SHARED


@pytest.fixture
def sql(database: Database) -> Callable[..., Any]:
    """Run one statement in a transaction of its own and return its rows."""

    def run(query: str, *params: Any) -> list[Any]:
        with database.transaction() as conn:
            cursor = conn.execute(query, params or None)
            return cursor.fetchall() if cursor.description else []

    return run


def _named(url: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(url, dbname=name)


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(statement)
