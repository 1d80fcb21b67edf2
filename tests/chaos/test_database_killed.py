"""The database is killed, throws everybody out, or loses its power, while files are delivered.

A trigger goes only when its file is registered for good: so whatever has no trigger any more is in the catalogue.
"""

import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.chaos.daemon import daemon
from tests.conftest import World, build_world
from tests.engines.disks import PoweredDisk

from lightkeeper.store import postgres
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))


def world_on(url: str, root: Path) -> World:
    migrate(url)
    root.mkdir(exist_ok=True)
    return build_world(Database(url, max_connections=4).open(), root)


def acknowledged(world: World, delivered: set[str]) -> set[str]:
    """Deliveries whose trigger has gone."""
    return {path for path in delivered if not os.path.lexists(f"{world.root}/mountain{path}.trigger")}


def deliver(world: World, delivered: set[str], number: int) -> None:
    for _ in range(number):
        path = f"/test/raw/n{len(delivered)}.plain"
        world.deliver(path)
        delivered.add(path)


def registered(world: World) -> set[str]:
    """What the catalogue has, as soon as it answers."""
    until = time.monotonic() + 60
    while True:
        try:
            return {file.lfn for file in world.files()}
        except psycopg.Error:
            assert time.monotonic() < until
            time.sleep(0.2)


def come_to_rest(world: World, delivered: set[str]) -> None:
    until = time.monotonic() + 120
    while acknowledged(world, delivered) != delivered:
        assert time.monotonic() < until, "it does not go on"
        time.sleep(0.2)
    assert registered(world) == delivered
    assert [v for v in world.violations() if " is dark since " not in v] == []


def thrown_out(url: str, seconds: float) -> None:
    """Every connection is ended, five times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        time.sleep(0.2)


def leave(process: "subprocess.Popen[bytes]", world: World, server: postgres.Server) -> None:
    process.kill()
    process.wait()
    world.ctx.db.close()
    server.stop()


def killed(tmp_path: Path, kills: int, seconds: float) -> None:
    chance = random.Random(SEED)
    delivered: set[str] = set()
    with postgres.start(tmp_path / "pg", shared_buffers_mb=16) as server:
        world = world_on(server.url, tmp_path / "world")
        with daemon(server.url, world.root, retry_after=0.1, lease=2.0):
            for _ in range(kills):
                deliver(world, delivered, 20)
                time.sleep(chance.random())
                done = acknowledged(world, delivered)
                os.kill(server.pid, signal.SIGKILL)
                assert done <= registered(world), "a registration that was told is lost"
            deliver(world, delivered, 20)
            thrown_out(server.url, seconds)
            come_to_rest(world, delivered)
        world.ctx.db.close()


@pytest.mark.feature("S3-048")
def test_a_database_that_is_killed_or_throws_everybody_out_loses_no_delivery(tmp_path: Path):
    killed(tmp_path, 1, 2)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_database_that_is_killed_twenty_times_loses_no_delivery(tmp_path: Path):
    killed(tmp_path, 20, 120)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_database_that_loses_its_power_has_every_registration_that_was_told(tmp_path: Path):
    cuts = int(os.environ.get("LIGHTKEEPER_TEST_CUTS", "50"))
    chance = random.Random(SEED)
    delivered: set[str] = set()
    disk = PoweredDisk(tmp_path / "disk", tmp_path / "image", 512)
    home = disk.at / "pg"
    try:
        for _ in range(cuts):
            server = postgres.start(home, shared_buffers_mb=16)
            world = world_on(server.url, tmp_path / "world")
            with daemon(server.url, world.root, retry_after=0.1, lease=2.0) as process:
                deliver(world, delivered, 50)
                time.sleep(1 + chance.random() * 2)
                done = acknowledged(world, delivered)
                disk.cut_power(partial(leave, process, world, server))
            with postgres.start(home, shared_buffers_mb=16) as again:
                world = world_on(again.url, tmp_path / "world")
                assert done <= registered(world), "a registration that was told is lost"
                world.ctx.db.close()
        with postgres.start(home, shared_buffers_mb=16) as last:
            world = world_on(last.url, tmp_path / "world")
            with daemon(last.url, world.root, retry_after=0.1, lease=2.0):
                come_to_rest(world, delivered)
            world.ctx.db.close()
    finally:
        disk.close()
