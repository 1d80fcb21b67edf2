"""Storages behind real servers, from the plan to the verified copy: one that is reached by two protocols, three kinds
of storage at once, and a server that fails in the middle of streams."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.adapters.test_mover_tpc import Fake
from tests.conftest import World, build_world
from tests.engines.hostile_http import Answer, Asked, Hostile, hostile
from tests.engines.s3 import S3Server, moto
from tests.engines.webdav import Dav, nginx
from tests.engines.xrootd import XrootdServer, xrootd

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_s3 import S3Storage
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.steps import content, replicate, topology, transfer
from lightkeeper.steps.content import Wanted
from lightkeeper.steps.probe import Prober
from lightkeeper.store.db import Database

MEGABYTE = 1_000_000
DRIVERS: Mapping[str, Any] = {
    "posix": PosixStorage,
    "webdav": WebdavStorage,
    "xrootd": XrootdStorage,
    "s3": S3Storage,
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("XRootD") is None, reason="pip install '.[xrootd]'")


def deliver(world: World, names: list[str], size: int = MEGABYTE) -> None:
    """A file of so many bytes for each name, each an observation of its own, on the mountain and in the catalogue."""
    for name in names:
        world.deliver(name, content=(name * (size // len(name) + 1))[:size], kind=name)
    world.ingest()


def work(world: World) -> None:
    """Plan, copy, and probe what did not answer, until nothing is left to do."""
    prober = Prober()
    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx):
        prober(world.ctx)


def told_by(world: World) -> Counter[str]:
    """What the log told, and how often."""
    return Counter(event for event, _ in world.ctx.log.lines)


def element(world: World, name: str) -> StorageElement:
    return next(s for s in world.storages if s.name == name)


# --- two protocols -----------------------------------------------------------------------------------------------
@dataclass
class Seen:
    """By which drivers copies got their names at a storage, and by which they were read there."""

    brought: Counter[tuple[str, str]] = field(default_factory=Counter)
    read: Counter[tuple[str, str]] = field(default_factory=Counter)

    def driver(self, name: str) -> type:
        """The driver `name`, which tells what is asked of it."""
        seen = self

        class Watched(DRIVERS[name]):
            def rename(self, source: str, target: str) -> None:
                super().rename(source, target)
                seen.brought[self.name, name] += 1

            def open(self, path: str) -> Any:
                opened = super().open(path)
                seen.read[self.name, name] += path.startswith("/test/")
                return opened

        return Watched

    def taken(self) -> tuple[dict[str, int], dict[str, int]]:
        """What came to East and what was read from there since this was asked the last time, by driver."""
        told = tuple({d: n for (at, d), n in one.items() if at == "east" and n} for one in (self.brought, self.read))
        self.brought.clear()
        self.read.clear()
        return told[0], told[1]


@dataclass
class TwoWays:
    """East behind XRootD and WebDAV, which serve one directory, and what else is owed a copy, made from East."""

    world: World
    server: XrootdServer
    seen: Seen
    onwards: tuple[str, ...] = ()

    def send_onwards_to_south(self) -> None:
        topology.apply(self.world.ctx, "policies: {out_of: {files: {level: 0}, copies: 1, at: south, source: east}}")
        self.onwards = ("south",)

    def bring(self, names: list[str]) -> None:
        deliver(self.world, names)
        work(self.world)

    def probe(self) -> str:
        """Probe every protocol; the driver that East is spoken to by from then on."""
        self.world.value("UPDATE probe SET due = now()")
        Prober()(self.world.ctx)
        return element(self.world, "east").driver

    def all_arrived_at_the_first_attempt(self, files: int) -> None:
        for name in ("east", *self.onwards):
            verified = self.world.value(
                "SELECT count(*) FROM verified_copy JOIN storage USING (storage_id) WHERE name = %s", name
            )
            assert verified == files, name
        assert "not copied" not in told_by(self.world)
        assert self.world.violations() == [], "every copy reads as it should"


@pytest.fixture
def two_ways(database: Database, tmp_path: Path) -> Iterator[Callable[[str], TwoWays]]:
    with xrootd() as server, nginx(server.home / "dav", data=server.data, account="nobody nogroup") as web:
        yield lambda first: _two_ways(database, tmp_path, server, web, first)


def _two_ways(database: Database, root: Path, server: XrootdServer, web: Dav, first: str) -> TwoWays:
    seen = Seen()
    world = build_world(database, root, "version: 1")
    world = world.having(storage_drivers={"posix": PosixStorage} | {n: seen.driver(n) for n in ("xrootd", "webdav")})
    base = server.make("/east").name
    ways = [f"{{driver: xrootd, root: '{server.url(f'/{base}')}'}}", f"{{driver: webdav, root: '{web.url}/{base}'}}"]
    if first == "webdav":
        ways.reverse()
    topology.apply(
        world.ctx,
        f"""
        sites: {{Mountain: {{kind: observatory}}, East: {{}}, South: {{}}}}
        storages:
          mountain: {{site: Mountain, root: "{root}/mountain", ingest: true}}
          east: {{site: East, protocols: [{", ".join(ways)}]}}
          south: {{site: South, root: "{root}/south"}}
        policies:
          into: {{files: {{level: 0}}, copies: 1, at: east}}
        """,
    )
    return TwoWays(world, server, seen)


def names(of: str, n: int) -> list[str]:
    return [f"/test/raw/{of}-{i:03}.plain" for i in range(n)]


@pytest.mark.feature("S2-011", "S2-017")
def test_when_the_first_protocol_is_switched_off_files_go_by_the_second_at_once_and_by_the_first_when_it_is_on_again(
    two_ways: Callable[[str], TwoWays],
):
    east = two_ways("xrootd")
    east.send_onwards_to_south()
    assert east.probe() == "xrootd"
    east.bring(names("first", 15))
    brought, read = east.seen.taken()
    assert set(brought) == set(read) == {"xrootd"}

    east.server.kill()
    east.bring(names("second", 15))
    brought, read = east.seen.taken()
    assert brought == {"webdav": 15}
    assert set(read) == {"webdav"}
    assert east.probe() == "webdav"
    east.all_arrived_at_the_first_attempt(30)
    assert str(element(east.world, "east").health) == "Good", "it answers"

    east.server.start()
    east.probe()
    assert east.probe() == "xrootd"
    east.seen.taken()
    east.bring(names("again", 3))
    brought, read = east.seen.taken()
    assert set(brought) == set(read) == {"xrootd"}
    east.all_arrived_at_the_first_attempt(33)


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("webdav", marks=pytest.mark.feature("S2-015")),
        pytest.param("xrootd", marks=pytest.mark.feature("S2-016")),
    ],
)
def test_three_hundred_files_of_a_megabyte_are_brought_and_read_by_one_protocol(
    two_ways: Callable[[str], TwoWays], driver: str
):
    east = two_ways(driver)
    east.bring(names("test", 300))
    east.all_arrived_at_the_first_attempt(300)
    assert east.seen.taken() == ({driver: 300}, {driver: 300})


# --- three kinds of storage --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dav, XrootdServer, S3Server]]:
    """WebDAV, XRootD and S3."""
    with nginx(tmp_path_factory.mktemp("web")) as web, xrootd() as server, moto(tmp_path_factory.mktemp("s3")) as s3:
        yield web, server, s3


@pytest.fixture
def three(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    servers: tuple[Dav, XrootdServer, S3Server],
) -> Iterator[World]:
    """Three empty centres behind WebDAV, XRootD and S3."""
    web, server, s3 = servers
    base = uuid4().hex
    secrets = tmp_path / "credentials.yaml"
    secrets.touch(mode=0o600)
    secrets.write_text("south: {access_key: somebody, secret_key: something}\n")
    monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(secrets))
    (web.data / base).mkdir()
    server.make(f"/{base}")
    s3.make_bucket(base)
    world = build_world(database, tmp_path, "version: 1").having(storage_drivers=DRIVERS)
    topology.apply(
        world.ctx,
        f"""
        sites: {{Mountain: {{kind: observatory}}, North: {{}}, East: {{}}, South: {{}}}}
        storages:
          mountain: {{site: Mountain, root: "{tmp_path}/mountain", ingest: true}}
          north: {{site: North, driver: webdav, root: "{web.url}/{base}"}}
          east: {{site: East, driver: xrootd, root: "{server.url(f"/{base}")}"}}
          south: {{site: South, driver: s3, root: "s3://{base}/files?endpoint={s3.url}"}}
        policies:
          raw: {{files: {{level: 0}}, copies: 2, free_on_site: true}}
        """,
    )
    yield world
    assert world.violations() == [], "every copy reads as it should"


@pytest.mark.feature("S4-032")
def test_files_are_spread_evenly_over_three_kinds_of_storage(three: World):
    deliver(three, names("spread", 30))
    three.settle()
    copies = [set(three.copies(name)) for name in names("spread", 30)]
    assert [len(at) for at in copies] == [2] * 30
    assert set.union(*copies) == {"north", "east", "south"}, "and none is left on site"
    held = Counter(at for one in copies for at in one)
    assert all(abs(n - 20) <= 3 for n in held.values()), held
    assert three.value("SELECT count(*) FROM verified_copy") == 60


@pytest.mark.feature("S4-007")
@pytest.mark.parametrize("at", ["north", "east", "south"])
def test_a_file_is_put_to_the_storage_that_is_named_and_reads_back_as_it_was(three: World, at: str):
    whole = bytes(range(256)) * 12_000
    stored = content.put(three.ctx, Wanted("/test/put/result", at, {"level": 1}), [whole])
    assert three.copies("/test/put/result") == {at: "Available"}
    opened = content.read_copy(three.ctx, "/test/put/result", at=at)
    assert opened.storage == at
    assert fixity_of(opened.chunks).sha256 == stored.sha256 == fixity_of([whole]).sha256


# --- HTTP 500 ----------------------------------------------------------------------------------------------------
class FailsInStreams(Fake):
    """A WebDAV server that answers 500 to large streams: to the first few, or to each whose length is not told."""

    def __init__(self, server: Hostile, few: int = 0):
        super().__init__(server)
        self.few = few
        self.failed = 0

    def on_put(self, asked: Asked, path: str) -> Answer:
        untold = asked.headers.get("Transfer-Encoding") == "chunked"
        if untold and len(asked.body) > 1000 and (self.failed < self.few or not self.few):
            self.failed += 1
            return 500, {}, b"java.lang.OutOfMemoryError"
        return super().on_put(asked, path)


@contextmanager
def behind_a_failing_server(database: Database, root: Path, few: int) -> Iterator[tuple[World, FailsInStreams]]:
    """One centre, whose WebDAV server fails `few` times, or whenever it is not told the length."""
    with hostile() as server:
        failing = FailsInStreams(server, few)
        world = build_world(database, root, "version: 1")
        topology.apply(
            world.ctx,
            f"""
            sites: {{Mountain: {{kind: observatory}}, East: {{}}}}
            storages:
              mountain: {{site: Mountain, root: "{root}/mountain", ingest: true}}
              east: {{site: East, driver: webdav, root: "{server.url}/base"}}
            policies:
              raw: {{files: {{level: 0}}, copies: 1, at: east}}
            """,
        )
        yield world, failing


@pytest.mark.feature("S4-017")
@pytest.mark.parametrize("few", [pytest.param(1, id="once"), pytest.param(0, id="whenever-the-length-is-not-told")])
def test_after_a_500_in_the_middle_of_a_stream_the_file_goes_with_its_length_told_first(
    database: Database, tmp_path: Path, few: int
):
    with behind_a_failing_server(database, tmp_path, few) as (world, server):
        for name in names("stream", 3):
            deliver(world, [name], size=3 * MEGABYTE)
            work(world)
            assert world.copies(name) == {"mountain": "Available", "east": "Available"}
        assert server.failed == 1
        assert told_by(world)["not copied"] == 1
        assert world.violations() == []
