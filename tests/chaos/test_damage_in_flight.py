"""What a server sends and gets is damaged on the way, at random: flipped, cut off, of the wrong length, another page.

Nothing damaged is taken for a copy, each copy is made all the same, and little is sent twice.
"""

import http.client
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.conftest import build_world
from tests.engines.hostile_http import Answer, Asked, hostile
from tests.engines.webdav import nginx

from lightkeeper.store.db import Database

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
TRANSFERS = int(os.environ.get("LIGHTKEEPER_TEST_TRANSFERS", "10000"))
SIZE = 20_000
PAGE = b"<!DOCTYPE html><html><body>The service is down for maintenance.</body></html>"
TOPOLOGY = """
version: 1
sites:
  Mountain: {kind: observatory}
  North: {}
  East: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  north: {site: North, driver: webdav, root: "NORTH"}
  east: {site: East, driver: webdav, root: "EAST"}
policies:
  raw: {files: {level: 0}, copies: 2, free_on_site: true}
"""


@dataclass
class BadWay:
    """The way to a WebDAV server: of the bodies that are files, one in `one_of` is damaged."""

    backend: str
    chance: random.Random
    one_of: int = 0
    bodies: int = 0
    bytes: int = 0
    damaged: Counter[str] = field(default_factory=Counter)

    def answer(self, asked: Asked) -> Answer | None:
        """Ask the server, and tell its answer; damaged on the way there or back when it is its turn."""
        body, how = asked.body, ""
        is_file = len(body) >= SIZE if asked.method == "PUT" else asked.method == "GET"
        if is_file:
            self.bodies += 1
            if self.one_of and self.chance.random() < 1 / self.one_of:
                how = self.chance.choice(("flipped", "cut", "wrong length", "page"))
        if asked.method == "PUT" and how:
            self.damaged[f"PUT {how}"] += 1
            if how == "page":
                return 200, {"Content-Type": "text/html"}, PAGE
            body = flipped(body, self.chance) if how == "flipped" else body[: self.chance.randrange(len(body))]
        status, headers, content = self._forward(asked, body)
        if is_file:
            self.bytes += len(body) + len(content)
        if asked.method == "GET" and how and len(content) > 1000:
            self.damaged[f"GET {how}"] += 1
            if how == "flipped":
                content = flipped(content, self.chance)
            elif how == "cut":
                headers["Content-Length"] = str(len(content))
                content = content[: self.chance.randrange(len(content))]
            elif how == "wrong length":
                headers["Content-Length"] = str(len(content) - self.chance.randrange(1, 100))
            else:
                return 200, {"Content-Type": "text/html"}, PAGE
        return status, headers, content

    def _forward(self, asked: Asked, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = urlsplit(self.backend)
        connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=30)
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in ("host", "transfer-encoding")}
        headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            if name.lower() == "destination":
                headers[name] = self.backend + urlsplit(value).path
        try:
            connection.request(asked.method, asked.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            told = {
                k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding", "date")
            }
        finally:
            connection.close()
        if asked.method != "HEAD":
            told.pop("Content-Length", None)
        return answer.status, told, content


def flipped(body: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(body)
    damaged[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


@contextmanager
def bad_way(home: Path, chance: random.Random) -> Iterator[tuple[str, Path, BadWay]]:
    """A server behind such a way: the address of the way, the folder of the server, and the way."""
    with nginx(home) as server, hostile() as front:
        way = BadWay(server.url, chance)
        front.answer = way.answer
        yield front.url, server.data, way


@dataclass
class Told:
    """What a run of transfers showed: the damage that was done, and bytes sent over those that undamaged ones need."""

    damaged: Counter[str]
    traffic: float
    again: int

    def __str__(self) -> str:
        return f"damaged {dict(self.damaged)}, {self.again} made again, traffic {self.traffic:.3f}"


def transfer_all(database: Database, root: Path, files: int, one_of: int) -> Told:
    """Deliver so many files and copy each to both centres, a tenth over good ways, the others over bad ones; look at
    every byte by other means."""
    chance = random.Random(SEED)
    (root / "world").mkdir()
    with (
        bad_way(root / "n", chance) as (north, north_data, north_way),
        bad_way(root / "e", chance) as (east, east_data, east_way),
    ):
        ways = [north_way, east_way]
        world = build_world(database, root / "world", TOPOLOGY.replace("NORTH", north).replace("EAST", east))
        contents: dict[str, bytes] = {}

        def copied(more: int) -> float:
            """Deliver and copy some; how many bytes passed for each."""
            before = sum(way.bytes for way in ways)
            for _ in range(more):
                path = f"/test/raw/n{len(contents)}.plain"
                contents[path] = world.deliver(path, content=chance.randbytes(SIZE // 2).hex()).read_bytes()
            world.ingest()
            world.settle()
            return (sum(way.bytes for way in ways) - before) / more

        needed = copied(files // 10)
        for way in ways:
            way.one_of = one_of
        sent = copied(files - files // 10)
        for way in ways:
            way.one_of = 0
        for data in (north_data, east_data):
            lying = {"/" + str(p.relative_to(data)): p for p in data.rglob("*.plain")}
            assert lying.keys() == contents.keys()
            assert all(p.read_bytes() == contents[path] for path, p in lying.items())
        assert world.violations() == []
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Done'") == 2 * files
    assert world.value("SELECT count(*) FROM transfer WHERE state <> 'Done'") == 0
    assert world.value("SELECT count(*) FROM verified_copy") == 2 * files
    assert world.value("SELECT count(*) FROM replica") == 2 * files, "freed on site, and nowhere else"
    assert world.value("SELECT count(*) FROM history WHERE kind = 'replica' AND target = 'Lost'") == 0
    again = world.value("SELECT sum(attempts - 1) FROM transfer")
    return Told(sum((way.damaged for way in ways), Counter()), sent / needed, again)


@pytest.mark.feature("X-02")
def test_of_three_hundred_transfers_over_a_bad_way_none_brings_anything_damaged(database: Database, tmp_path: Path):
    told = transfer_all(database, tmp_path, 150, one_of=30)
    print(told)
    assert told.damaged.total() > 10


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_of_ten_thousand_transfers_none_brings_anything_damaged_and_little_is_sent_twice(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = transfer_all(database, tmp_path, TRANSFERS // 2, one_of=250)
    with capsys.disabled():
        print(f"\n{told}")
    assert told.damaged.total() > TRANSFERS // 400
    assert told.traffic < 1.05
