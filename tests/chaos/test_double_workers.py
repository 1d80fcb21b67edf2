"""Three workers on one database; they are stopped for longer than their leases, wake up again, and are killed.

Whoever wakes up too late changes nothing: no action is done twice, and nothing is held by two.
"""

import os
import random
import signal
import time
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


def three_workers(world: World, tmp_path: Path, seconds: float, chance: random.Random) -> None:
    """Deliver, stop, continue and kill for so long; then all of it comes to rest."""
    settings = {"lease": LEASE, "retry_after": 0.1, "scan_every": 0.3, "transfer_threads": 2}
    log = (tmp_path / "log").open("ab")
    url, root = world.ctx.db.url, world.root
    until = time.monotonic() + seconds
    number = stops = kills = 0
    while time.monotonic() < until:
        with (
            daemon(url, root, log, **settings) as one,
            daemon(url, root, log, **settings) as two,
            daemon(url, root, log, **settings) as three,
        ):
            end = min(until, time.monotonic() + 10)
            while time.monotonic() < end:
                for _ in range(3):
                    number += 1
                    world.deliver(f"/test/raw/n{number}.plain", content="light" * chance.randrange(60_000))
                victim = chance.choice([one, two, three])
                victim.send_signal(signal.SIGSTOP)
                stops += 1
                time.sleep(chance.choice([0.2, 2 * LEASE]))
                victim.send_signal(signal.SIGCONT)
                assert broken(world) == []
        kills += 3
    with daemon(url, root, log, **settings):
        end = time.monotonic() + 60
        while busy(world, number):
            pass_time_without_files(world)
            assert time.monotonic() < end, "it does not come to rest"
            time.sleep(0.3)
    assert stops > 2
    assert kills > 2
    assert_nothing_was_done_twice(world, number)


def pass_time_without_files(world: World) -> None:
    """The leases of workers that are dead have ended, those of deliveries too."""
    world.value("UPDATE trigger SET lease_until = now() WHERE state = 'Accepted' AND lease_until > now() + '2 s'")


@pytest.mark.feature("S3-048")
def test_of_three_workers_one_sleeps_beyond_its_lease_or_is_killed_and_nothing_is_done_twice(
    world: World, tmp_path: Path
):
    three_workers(world, tmp_path, 10, random.Random(SEED))


@pytest.mark.nightly
@pytest.mark.feature("X-02")
@pytest.mark.timeout(1800)
def test_for_ten_minutes_three_workers_sleep_and_die_and_nothing_is_done_twice(world: World, tmp_path: Path):
    print("seed", SEED)
    three_workers(world, tmp_path, 600, random.Random(SEED))
