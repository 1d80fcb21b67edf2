"""Each disk there is is full for a while: nothing is noted that is not so, somebody is told, and it goes on by itself.

A full log stops nothing at all.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import PoolTimeout
from tests.chaos.clock import pass_time
from tests.chaos.daemon import daemon
from tests.conftest import World, build_world
from tests.engines.disks import Disk, small_disk

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.steps import audit, delete, heal, ingest, manifests, replicate, transfer, watch
from lightkeeper.store import postgres
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
DUTIES = (
    watch.scan,
    ingest.register_accepted,
    replicate.settle,
    transfer.carry_out,
    delete.delete,
    audit.recheck,
    heal.release_abandoned,
    manifests.write_due,
)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[str, Disk]]:
    """Every disk storage of the world that is made next is a small disk of its own."""
    names = ("mountain", "north", "east", "south")
    with (
        small_disk(tmp_path / names[0], 1) as mountain,
        small_disk(tmp_path / names[1], 1) as north,
        small_disk(tmp_path / names[2], 1) as east,
        small_disk(tmp_path / names[3], 1) as south,
    ):
        yield dict(zip(names, (mountain, north, east, south), strict=True))


@pytest.fixture
def small_world(disks: dict[str, Disk], database: Database, tmp_path: Path) -> Iterator[World]:
    world = build_world(database, tmp_path)
    yield world
    assert world.violations() == []


def work(world: World, rounds: int = 3) -> None:
    """Some rounds of every duty, as the worker would: what a duty raises does not stop the others."""
    for _ in range(rounds):
        for duty in DUTIES:
            with suppress(LightkeeperError, OSError, psycopg.Error, PoolTimeout):
                while duty(world.ctx):
                    pass
        pass_time(world, minutes=30)


def all_preserved(world: World, files: int) -> bool:
    return (
        world.value("SELECT count(*) FROM file") == files
        and world.value("SELECT count(*) FROM verified_copy") == 2 * files
        and world.value("SELECT count(*) FROM replica") == 2 * files
        and not world.value("SELECT count(*) FROM unsettled")
    )


# --- at a data centre --------------------------------------------------------------------------------------
@pytest.mark.feature("X-02")
def test_copies_for_a_full_data_centre_wait_and_are_made_when_there_is_room(disks, small_world: World):
    disks["north"].fill()
    disks["east"].fill()
    for number in range(6):
        small_world.deliver(f"/test/raw/n{number}.plain", content="light" * 2000)
    work(small_world)
    assert small_world.violations() == []
    told = small_world.value("SELECT string_agg(DISTINCT error, ';') FROM transfer WHERE state <> 'Done'")
    assert "is full" in told
    assert small_world.value("SELECT count(*) FROM replica WHERE storage_id = 1") == 6, "nothing on site is freed"
    assert small_world.value("SELECT count(*) FROM replica WHERE storage_id IN (2, 3)") == 0
    disks["north"].free()
    disks["east"].free()
    work(small_world, 6)
    assert all_preserved(small_world, 6)


def test_ten_times_a_disk_is_full_at_a_random_moment_and_nothing_is_noted_that_is_not_so(disks, small_world: World):
    chance = random.Random(SEED)
    for number in range(10):
        disk = disks[chance.choice(("north", "east", "south"))]
        disk.fill(leave=chance.randrange(40_000))
        for part in range(2):
            small_world.deliver(f"/test/raw/n{number}.{part}.plain", content="light" * chance.randrange(2000))
        work(small_world, 1)
        assert small_world.violations() == []
        disk.free()
    work(small_world, 6)
    assert all_preserved(small_world, 20)


# --- on site -----------------------------------------------------------------------------------------------
def test_on_a_full_disk_on_site_good_files_are_registered_and_freed_and_bad_ones_wait(disks, small_world: World):
    good = small_world.deliver("/test/raw/good.plain", content="light" * 2000)
    bad = small_world.deliver("/test/raw/bad.plain", content="size=1\n" + "dark" * 2000)
    bad.write_text("this is no file of ours")
    disks["mountain"].fill()
    work(small_world, 3)
    assert small_world.value("SELECT count(*) FROM file") == 1
    assert small_world.value("SELECT count(*) FROM verified_copy") == 2
    assert not good.exists()
    disks["mountain"].free()
    work(small_world)
    assert not bad.exists()
    assert small_world.value("SELECT count(*) FROM trigger WHERE state = 'Quarantined'") == 1
    assert all_preserved(small_world, 1)


# --- the database ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("volume", ["data", "WAL"])
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_database_has_a_full_disk_and_goes_on_when_there_is_room(volume: str, tmp_path: Path):
    (tmp_path / "world").mkdir()
    with small_disk(tmp_path / "pg", 400) as disk, small_disk(tmp_path / "wal", 100) as wal:
        home = tmp_path / "pg" / "home"
        if volume == "WAL":
            postgres.start(home, shared_buffers_mb=16).stop()
            log = home / "data" / "pg_wal"
            moved = wal.at / "pg_wal"
            os.system(f"cp -a {log} {moved} && rm -r {log} && ln -s {moved} {log}")  # noqa: S605
            disk = wal
        with postgres.start(home, shared_buffers_mb=16) as server:
            migrate(server.url)
            database = Database(server.url, max_connections=4).open()
            world = build_world(database, tmp_path / "world")
            for number in range(60):
                world.deliver(f"/test/raw/n{number}.plain", content=f"light {number}")
            for duty in (watch.scan, ingest.register_accepted):
                duty(world.ctx)
            disk.fill()
            failures = hinder(world)
            assert failures, "the disk was full, and nobody noticed"
            disk.free()
            go_on(world, 120)
            assert world.violations() == []
            database.close()


def hinder(world: World) -> list[str]:
    """Work on the full disk, with more files than it has room for; what the duties raised."""
    for number in range(60, 120):
        world.deliver(f"/test/raw/n{number}.plain", content=f"light {number}")
    failures: list[str] = []
    until = time.monotonic() + 8
    while time.monotonic() < until:
        for duty in (*DUTIES, fill_a_segment):
            try:
                duty(world.ctx)
            except (psycopg.Error, PoolTimeout, LightkeeperError) as error:
                failures.append(str(error))
    return failures


def fill_a_segment(ctx: Context) -> int:
    """Others write too: the next segment of the WAL is begun."""
    with ctx.db.transaction() as conn:
        conn.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 8000000)), pg_switch_wal()")
    return 0


def go_on(world: World, files: int) -> None:
    until = time.monotonic() + 120
    while True:
        with suppress(psycopg.Error, PoolTimeout):
            work(world, 1)
            if all_preserved(world, files):
                return
        assert time.monotonic() < until, "it does not go on"


# --- the log -----------------------------------------------------------------------------------------------
@pytest.mark.feature("S3-048")
def test_a_full_log_stops_neither_ingest_nor_transfers_nor_deletions(world: World, tmp_path: Path):
    with small_disk(tmp_path / "log", 0.1) as disk, (disk.at / "log").open("ab") as log:
        disk.fill()
        with daemon(world.ctx.db.url, world.root, stderr=log, retry_after=0.1, scan_every=0.2) as process:
            for number in range(5):
                world.deliver(f"/test/raw/n{number}.plain", content=f"light {number}")
                time.sleep(0.2)
            until = time.monotonic() + 40
            while not all_preserved(world, 5):
                assert process.poll() is None, "it ended"
                assert time.monotonic() < until, "it does not go on"
                time.sleep(0.1)
            disk.free()
            world.deliver("/test/raw/last.plain", content="the last light")
            while b"lines of the log were lost" not in (disk.at / "log").read_bytes():
                assert time.monotonic() < until, "nobody is told that lines were lost"
                time.sleep(0.1)
