"""Many small files go from disk to tape, and come back, while workers are killed again and again."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.steps import tape_work
from tests.steps.test_stage import TAPE

from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.steps import stage, topology
from lightkeeper.steps.stage import NewOrder
from lightkeeper.store import catalog, provenance
from lightkeeper.store import topology as topology_store
from lightkeeper.testing.tape_server import Machine, TapeServer

MACHINE = Machine(
    mount_seconds=0.05, file_seconds=0, migrate_after=0, bytes_per_second=1e12, keep=False, cartridge=2_000_000
)
RULE = "policies:\n  archive: {files: {level: 0}, copies: 1, media: tape, at: real=yes}\n"


@pytest.mark.feature("S2-019")
def test_hundreds_of_files_go_to_tape_and_back_while_the_worker_is_killed(fresh_worlds: Any, tmp_path: Path):
    campaign(fresh_worlds, tmp_path, files=200, kills=2)


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
@pytest.mark.feature("S0-085")
def test_a_hundred_thousand_files_go_to_tape_and_back_while_the_worker_is_killed(fresh_worlds: Any, tmp_path: Path):
    campaign(fresh_worlds, tmp_path, files=100_000, kills=10)


def campaign(fresh_worlds: Any, folder: Path, files: int, kills: int) -> None:
    """Archive so many files by a rule, then recall them all to another disk; kill the worker so often in each half."""
    chance = random.Random(files)
    with fresh_worlds() as world, TapeServer(folder / "silo", MACHINE) as server:
        world.ctx = tape_work.context(world.ctx.db.url, world.root)
        topology.apply(world.ctx, TAPE.replace("ROOT", server.root).replace("MORE", "attributes: {real: yes}"))
        with world.ctx.db.transaction() as conn:
            conn.execute("DELETE FROM policy")  # what the small world owes besides
        began = time.monotonic()
        names = registered(world, files)
        topology.apply(world.ctx, RULE)
        arrived = "SELECT count(*) FROM replica JOIN storage USING (storage_id) WHERE name = '{}'"
        assert worked(world, arrived.format("silo"), files, kills) >= 2
        there = "SELECT count(*) FROM replica JOIN tape_storage USING (storage_id) WHERE state = 'Available'"
        assert world.value(there) == files
        assert server.library.statistics()["on_tape"] == files
        assert world.value("SELECT count(*) FROM transfer WHERE state = 'Done'") == files  # each was recorded once
        in_buffer = server.library.statistics()["on_disk"]  # what was read just when it was to go stayed there
        archived = time.monotonic()
        rests = f'storages:\n  north: {{site: North, root: "{world.root}/north", status: {{read: false}}}}\n'
        topology.apply(world.ctx, rests)
        stage.order(world.ctx, NewOrder(query="level = 0", to="east"))
        assert worked(world, arrived.format("east"), files, kills) >= 1
        east = (
            "SELECT count(*) FROM replica JOIN storage USING (storage_id) WHERE name = 'east' AND state = 'Available'"
        )
        assert world.value(east) == files
        statistics = server.library.statistics()
        assert statistics["pinned"] == 0
        assert statistics["staged"] >= files - in_buffer
        for name in chance.sample(names, min(files, 50)):
            assert (world.root / "east" / name[1:]).read_bytes() == body(name)
        assert world.violations() == []
        ended = time.monotonic()
        told = {
            "files": files,
            "archived_per_s": files / (archived - began),
            "recalled_per_s": files / (ended - archived),
        }
        print(json.dumps(told | statistics))


def worked(world: Any, progress: str, files: int, kills: int) -> int:
    """Start the worker until it ends by itself, killing it so often as it comes on; how often it was killed."""
    targets = [files * (n + 1) // (kills + 1) for n in range(kills)]
    killed = 0
    while True:
        command = [sys.executable, tape_work.__file__, world.ctx.db.url, str(world.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            while worker.poll() is None:
                time.sleep(0.01)
                if targets and world.value(progress) >= targets[0]:
                    targets.pop(0)
                    worker.kill()
                    worker.wait()
                    killed += 1
            if worker.returncode == 0:
                return killed
            assert worker.returncode == -9


def registered(world: Any, files: int) -> list[str]:
    """So many small files at north, all known."""
    names = [f"/test/{n // 1000:04d}/obs{n:06d}.plain" for n in range(files)]
    north = next(s for s in world.storages if s.name == "north")
    for first in range(0, files, 10_000):
        part = names[first : first + 10_000]
        for name in part:
            path = world.root / "north" / name[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body(name))
        new = [NewFile(parse_lfn(n), fixity_of([body(n)]), {"level": 0}, north.storage_id) for n in part]
        with world.ctx.db.transaction() as conn:
            activity = provenance.add_activity(conn, name="test", agent="test", software={})
            batch = catalog.Batch(new, topology_store.vocabulary(conn))
            known = catalog.name(conn, batch)
        with world.ctx.db.transaction() as conn:
            catalog.register(conn, batch, known, activity)
    return names


def body(name: str) -> bytes:
    """What is in a file."""
    return f"light of {name}".encode() * 5
