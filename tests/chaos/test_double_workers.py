"""Three workers on one database; they are stopped for longer than their leases, wake up again, and are killed.

Whoever wakes up too late changes nothing: no action is done twice, and nothing is held by two.
"""

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.chaos.daemon import daemon
from tests.conftest import World

from lightkeeper.store import invariants

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
LEASE = 1.0


def busy(world: World, files: int) -> bool:
    return (
        world.value("SELECT count(*) FROM file") < files
        or world.value("SELECT count(*) FROM verified_copy") < 2 * files
        or world.value("SELECT count(*) FROM replica") > 2 * files
        or world.value("SELECT count(*) FROM unsettled") > 0
        or any((world.root / "mountain/test").rglob("*.trigger"))
    )


def broken(world: World) -> list[str]:
    with world.ctx.db.transaction() as conn:
        return [f"{v.id} {v.detail}" for v in invariants.violations(conn)]


def assert_nothing_was_done_twice(world: World, files: int) -> None:
    assert world.value("SELECT count(*) FROM file") == files
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Done'") == 2 * files
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Done'") == files
    assert (
        world.value(
            "SELECT count(*) FROM (SELECT FROM history WHERE kind = 'replica' AND target = 'Deleted'"
            " GROUP BY id, part HAVING count(*) > 1) twice"
        )
        == 0
    )
    lying = [p for s in ("north", "east", "south") for p in (world.root / s / "test").rglob("*.plain")]
    assert len(lying) == 2 * files


def three_workers(world: World, tmp_path: Path, kills: int, chance: random.Random) -> int:
    """Deliver, and of three workers stop one, let it go on, or kill it and start another, until so many were killed;
    then all of it comes to rest. How many files there were."""
    settings = {"lease": LEASE, "retry_after": 0.1, "scan_every": 0.3, "transfer_threads": 2}
    url, root, log = world.ctx.db.url, world.root, (tmp_path / "log").open("ab")
    number = killed = 0
    with ExitStack() as stack:
        workers = [stack.enter_context(daemon(url, root, log, **settings)) for _ in range(3)]
        time.sleep(2)
        while killed < kills:
            for _ in range(3):
                number += 1
                world.deliver(f"/test/raw/n{number}.plain", content="light" * chance.randrange(60_000))
            time.sleep(chance.random())
            victim = chance.randrange(3)
            if chance.random() < 0.5:
                workers[victim].send_signal(signal.SIGSTOP)
                time.sleep(chance.choice([0.2, 2 * LEASE]))
                workers[victim].send_signal(signal.SIGCONT)
            else:
                workers[victim].kill()
                killed += 1
                workers[victim] = stack.enter_context(daemon(url, root, log, **settings))
            assert broken(world) == []
    with daemon(url, root, log, **settings):
        end = time.monotonic() + 120
        while busy(world, number):
            leases_of_the_dead_end(world)
            assert time.monotonic() < end, "it does not come to rest"
            time.sleep(0.3)
    assert_nothing_was_done_twice(world, number)
    return number


def leases_of_the_dead_end(world: World) -> None:
    """The leases of workers that are dead have ended, those of deliveries too."""
    world.value("UPDATE trigger SET lease_until = now() WHERE state = 'Accepted' AND lease_until > now() + '2 s'")


@pytest.mark.feature("S3-048", "S2-060")
def test_of_three_workers_one_sleeps_beyond_its_lease_or_is_killed_and_nothing_is_done_twice(
    world: World, tmp_path: Path
):
    three_workers(world, tmp_path, 2, random.Random(SEED))


@pytest.mark.nightly
@pytest.mark.feature("X-02", "S3-048")
@pytest.mark.timeout(3600)
def test_two_hundred_times_one_of_three_workers_is_killed_and_nothing_is_lost_or_done_twice(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = three_workers(world, tmp_path, 200, random.Random(SEED))
    with capsys.disabled():
        print(f"\nseed {SEED}: 200 workers killed, {files} files")
