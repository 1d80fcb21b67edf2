"""A worker is killed, or the power of its storages fails, at one system call after the other of each step.

Each time it goes on, all promises hold with every byte read, and the file has two verified copies and none on site.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.chaos.clock import pass_time
from tests.chaos.daemon import TREE, command
from tests.conftest import World, build_world
from tests.engines.disks import PoweredDisk
from tests.steps.test_work import Hands, go_on, submit

from lightkeeper.steps import heal, manifests, replicate, run, transfer, watch
from lightkeeper.store import jobs
from lightkeeper.store.db import Database

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
CALLS = ("sendto", "write", "pwrite64", "fsync", "fdatasync", "syncfs", "renameat", "unlinkat", "unlink", "mkdirat")


@pytest.fixture(autouse=True)
def _strace() -> None:
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], check=False) if shutil.which("strace") else None
    if tried is None or tried.returncode:
        pytest.skip("strace is not installed or not allowed: apt-get install strace")


# --- up to the step that dies ------------------------------------------------------------------------------
def delivered(world: World, path: str) -> None:
    world.deliver(path, content="light" * 1000)
    watch.scan(world.ctx)


def to_be_copied(world: World, path: str) -> None:
    delivered(world, path)
    world.ingest()
    replicate.settle(world.ctx)


def half_way(world: World, path: str) -> None:
    """One copy is made, the second is waiting."""
    to_be_copied(world, path)
    transfer.carry_out(world.ctx)
    replicate.settle(world.ctx)


def to_be_freed(world: World, path: str) -> None:
    half_way(world, path)
    transfer.carry_out(world.ctx)
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 1


STEPS: dict[str, Callable[[World, str], None]] = {
    "ingest": delivered,
    "transfer": to_be_copied,
    "transfer again": half_way,
    "delete": to_be_freed,
}


# --- the matrix --------------------------------------------------------------------------------------------
def dies(world: World, step: str, call: str, number: int) -> bool:
    """Run the step in a process of its own, which, or one that reads files for it, is killed at its `number`-th `call`;
    False when there is none so late."""
    log = world.root / "killed"
    tracer = ("strace", "-q", "-f", "-o", str(log), "-e", f"trace={call}")
    inject = ("-e", f"inject={call}:signal=SIGKILL:when={number}")
    duty = command(world.ctx.db.url, world.root, "--once", step.split()[0])
    ended = subprocess.run([*tracer, *inject, *duty], cwd=TREE, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, -9, 137), ended.stderr
    return "killed by SIGKILL" in log.read_text()


def deliver_again_unless_known(world: World, path: str) -> None:
    """What the array control had not synced may be gone, or be there without its bytes, until it is registered."""
    file = world.root / "mountain" / path[1:]
    if not world.value("SELECT count(*) FROM file WHERE name = %s", file.name):
        for left in (file, file.with_name(file.name + ".trigger")):
            left.unlink(missing_ok=True)
        delivered(world, path)


def recovers(world: World, path: str) -> None:
    pass_time(world, hours=1)
    heal.release_abandoned(world.ctx)
    for _ in range(2):
        world.ingest()
        world.settle()
        manifests.write_due(world.ctx)
        pass_time(world, hours=1)
    copies = world.copies(path)
    assert len(copies) == 2, f"{path}: {copies}"
    assert set(copies.values()) == {"Available"}
    assert "mountain" not in copies
    assert not list((world.root / "mountain/test").rglob("*.*"))
    assert world.violations() == []


def points(world: World, step: str, chosen: Callable[[str, int], bool], after: Callable[[], None]) -> int:
    """Die at every chosen point of a step; how many there were."""
    found = 0
    for call in CALLS:
        for number in count(1):
            if not chosen(call, number):
                if number > 200:
                    break
                continue
            path = f"/test/{step.replace(' ', '-')}/{call}-{number}.plain"
            STEPS[step](world, path)
            dead = dies(world, step, call, number)
            if dead:
                found += 1
                after()
                deliver_again_unless_known(world, path)
            recovers(world, path)
            if not dead:
                break
    return found


# --- outputs of jobs (T4) ------------------------------------------------------------------------------------
def reported(world: World, name: str) -> int:
    """A job whose outputs are uploaded and reported, and which nobody has accepted; its number."""
    world.register(f"/test/raw/{name}.plain", night=name)
    submit(world, {"query": {"night": name}, "group_size": 1}, name=name)
    go_on(world)
    hands = Hands.at(world, "North", name)
    job = hands.claim()
    assert job
    report = {key: value for key, value in hands.upload(job).items() if key in ("storage", "outputs", "provenance")}
    with world.ctx.db.transaction() as conn:
        assert jobs.reported(conn, {job["job_id"]: report}, hands.pilot.pilot_id)
    world.value("UPDATE job SET state_since = now() - interval '1 minute' WHERE job_id = %s", job["job_id"])
    return job["job_id"]


def is_accepted_once(world: World, job_id: int) -> None:
    """Whoever died at it: the next one ends it, its output is there once, and nothing half-done is visible."""
    world.value("UPDATE job SET state_since = now() - interval '1 minute' WHERE job_id = %s", job_id)
    run.accept_reported(world.ctx)
    assert world.value("SELECT state::text FROM job WHERE job_id = %s", job_id) == "Done"
    made = "SELECT count(*) FROM file JOIN activity USING (activity_id) WHERE job_id = %s"
    assert world.value(made, job_id) == 1
    go_on(world)
    world.settle()
    assert [v for v in world.violations() if " is dark since " not in v] == []


def accept_points(world: World, chosen: Callable[[str, int], bool], after: Callable[[], None]) -> int:
    """Die at every chosen point of accepting; how many there were."""
    found = 0
    for call in CALLS:
        for number in count(1):
            if not chosen(call, number):
                if number > 200:
                    break
                continue
            job_id = reported(world, f"{call}-{number}")
            dead = dies(world, "accept", call, number)
            if dead:
                found += 1
                after()
            is_accepted_once(world, job_id)
            if not dead:
                break
    return found


@pytest.mark.feature("S0-125")
def test_killed_at_some_system_calls_of_accepting_outputs_appear_once(world: World):
    chance = random.Random(f"{SEED} accept")
    some = {("renameat", 1), ("fsync", chance.randrange(1, 4)), ("sendto", chance.randrange(5, 40))}
    assert accept_points(world, lambda call, number: (call, number) in some, lambda: None) >= 1


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.feature("S0-125")
def test_killed_at_any_system_call_of_accepting_outputs_appear_once(world: World, capsys):
    found = accept_points(world, lambda _call, _number: True, lambda: None)
    with capsys.disabled():
        print(f"\naccept: killed at {found} points")
    assert found > 20


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.feature("X-02")
def test_killed_at_some_system_calls_of_a_step_nothing_is_lost(world: World, step: str):
    chance = random.Random(f"{SEED} {step}")
    some = {(call, chance.randrange(1, most)) for call, most in (("fsync", 6), ("sendto", 30), ("sendto", 30))}
    some |= {("syncfs", 1), ("write", 2)} if step == "ingest" else set()
    assert points(world, step, lambda call, number: (call, number) in some, lambda: None) >= 1


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.feature("X-02")
def test_killed_at_any_system_call_of_a_step_nothing_is_lost(world: World, step: str, capsys):
    found = points(world, step, lambda _call, _number: True, lambda: None)
    with capsys.disabled():
        print(f"\n{step}: killed at {found} points")
    assert found > 20


@pytest.fixture
def powered(tmp_path: Path, database: Database) -> Iterator[tuple[World, PoweredDisk]]:
    """A world all of whose storages lie on one disk whose power can be cut."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image")
    disk = PoweredDisk(tmp_path / "world", tmp_path / "image")
    try:
        yield build_world(database, disk.at), disk
    finally:
        disk.close()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", STEPS)
def test_without_power_at_any_system_call_of_a_step_nothing_is_lost(
    powered: tuple[World, PoweredDisk], step: str, capsys
):
    world, disk = powered

    def cut_power() -> None:
        disk.cut_power()
        assert world.violations() == [], "what was acknowledged is not there"

    found = points(world, step, lambda _call, _number: True, cut_power)
    with capsys.disabled():
        print(f"\n{step}: without power at {found} points")
    assert found > 20


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_without_power_at_any_system_call_of_accepting_outputs_appear_once(powered: tuple[World, PoweredDisk], capsys):
    world, disk = powered

    def cut_power() -> None:
        disk.cut_power()
        assert [v for v in world.violations() if " is dark since " not in v] == [], "what was acknowledged is not there"

    found = accept_points(world, lambda _call, _number: True, cut_power)
    with capsys.disabled():
        print(f"\naccept: without power at {found} points")
    assert found > 20
