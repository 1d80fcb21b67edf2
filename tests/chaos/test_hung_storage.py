"""One of four storages hangs: its server takes connections and says nothing, or one byte a second.

The other three go on as if nothing were wrong, and what hangs is cut off.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.daemon import daemon
from tests.conftest import World, build_world
from tests.engines.proxy import Way, way_to
from tests.engines.webdav import Dav, nginx

from lightkeeper.store.db import Database

TOPOLOGY = """
version: 1
sites:
  Mountain: {kind: observatory}
  North: {}
  East: {}
  South: {}
  West: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  north: {site: North, driver: webdav, root: "NORTH"}
  east: {site: East, root: "ROOT/east"}
  south: {site: South, root: "ROOT/south"}
  west: {site: West, root: "ROOT/west"}
policies:
  north: {files: {level: 0}, copies: 1, at: "site=North", priority: 1}
  east: {files: {level: 0}, copies: 1, at: "site=East"}
  south: {files: {level: 0}, copies: 1, at: "site=South"}
  west: {files: {level: 0}, copies: 1, at: "site=West"}
"""
FILES = 30


@contextmanager
def four_storages(database: Database, tmp_path: Path) -> Iterator[tuple[World, Dav, Way]]:
    """A world in which each file goes to all four; the way to the first can be changed."""
    for name in ("world", "world/west", "dav"):
        (tmp_path / name).mkdir()
    with nginx(tmp_path / "dav") as server, way_to("127.0.0.1", int(server.url.rpartition(":")[2])) as way:
        url = f"http://127.0.0.1:{way.port}"
        yield build_world(database, tmp_path / "world", TOPOLOGY.replace("NORTH", url)), server, way
        os.killpg(server.process.pid, signal.SIGCONT)


def others_go_on(world: World, tmp_path: Path, within: float) -> None:
    """Every file reaches the three storages that are in order, while its copy to the first waits."""
    for number in range(FILES):
        world.deliver(f"/test/raw/n{number}.plain", content=f"light {number}" * 2000)
    log = (tmp_path / "log").open("ab")
    with daemon(world.ctx.db.url, world.root, log, retry_after=0.5, scan_every=0.2, transfer_threads=4):
        until = time.monotonic() + within
        while (made := copies(world)) < 3 * FILES:
            assert time.monotonic() < until, f"{made} of {3 * FILES} copies: the threads are exhausted"
            time.sleep(0.2)


def copies(world: World) -> int:
    return world.value("SELECT count(*) FROM verified_copy JOIN storage USING (storage_id) WHERE name <> 'north'")


def ends_well(world: World, tmp_path: Path) -> None:
    """The storage answers again: what waited is copied."""
    with daemon(world.ctx.db.url, world.root, (tmp_path / "log").open("ab"), retry_after=0.1):
        until = time.monotonic() + 120
        while world.value("SELECT count(*) FROM verified_copy") < 4 * FILES:
            world.value("UPDATE transfer SET not_before = now() WHERE state = 'Waiting'")
            world.value(
                "UPDATE transfer SET lease_until = now() WHERE state = 'Running' AND lease_until < now() + '20 s'"
            )
            assert time.monotonic() < until, "what waited is not copied"
            time.sleep(0.5)
    assert world.violations() == []


@pytest.mark.nightly
@pytest.mark.feature("S3-048")
def test_while_one_storage_hangs_the_other_three_get_their_copies(database: Database, tmp_path: Path):
    with four_storages(database, tmp_path) as (world, server, _):
        os.killpg(server.process.pid, signal.SIGSTOP)
        others_go_on(world, tmp_path, within=60)
        os.killpg(server.process.pid, signal.SIGCONT)
        ends_well(world, tmp_path)


@pytest.mark.nightly
def test_while_one_storage_gives_a_byte_a_second_the_other_three_get_their_copies(database: Database, tmp_path: Path):
    with four_storages(database, tmp_path) as (world, _, way):
        way.rate = 1
        others_go_on(world, tmp_path, within=60)
        way.rate = 0
        way.cut()
        ends_well(world, tmp_path)
