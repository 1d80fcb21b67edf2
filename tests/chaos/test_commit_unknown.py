"""The answer to a COMMIT is lost, at random, while everything works: was it done or not? Nobody can know.

Whatever was lost is done again, and nothing is there twice.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg
import pytest
from psycopg_pool import PoolTimeout
from tests.chaos.clock import pass_time
from tests.conftest import World
from tests.engines.proxy import Commits, cutting_commits

from lightkeeper.context import Context
from lightkeeper.steps import audit, delete, heal, ingest, manifests, replicate, transfer, watch
from lightkeeper.store.db import Database

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
FILES = 6
DUTIES = (
    watch.scan,
    ingest.register_accepted,
    replicate.settle,
    transfer.carry_out,
    transfer.carry_out,
    delete.delete,
    audit.recheck,
    heal.release_abandoned,
    manifests.write_due,
)


@contextmanager
def behind_a_cutting_proxy(
    world: World, chance: random.Random, often: float, most: int
) -> Iterator[tuple[Context, Commits]]:
    """The world, its database over a proxy that cuts at most `most` COMMITs."""
    commits = Commits(cut=lambda: False)
    with cutting_commits(world.ctx.db.url, commits, chance) as url:
        database = Database(url, max_connections=4).open()
        commits.cut = lambda: commits.lost < most and chance.random() < often
        try:
            yield world.having(db=database).ctx, commits
        finally:
            database.close()


def live(world: World, chance: random.Random, points: int) -> Commits:
    """Let files come, be copied and be freed until that many COMMITs were cut, and everything is at rest."""
    with behind_a_cutting_proxy(world, chance, often=0.4, most=points) as (ctx, commits):
        number = rounds = 0
        while commits.lost < points or number == 0:
            if rounds % 20 == 0:
                for _ in range(FILES):
                    number += 1
                    world.deliver(f"/test/raw/n{number}.plain", content=f"light {number}")
            rounds += 1
            for duty in DUTIES:
                with suppress(psycopg.Error, PoolTimeout):
                    duty(ctx)
            pass_time(world, hours=1)  # every lease has ended
        for _ in range(20):
            for duty in DUTIES:
                while duty(ctx):
                    pass
            pass_time(world, hours=1)
    assert_each_file_is_there_once(world, number)
    return commits


def assert_each_file_is_there_once(world: World, files: int) -> None:
    assert world.violations() == []
    assert world.value("SELECT count(*) FROM file") == files
    assert world.value("SELECT count(*) FROM trigger WHERE state = 'Accepted'") == 0
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 0
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Done'") == 2 * files
    assert world.value("SELECT count(*) FROM verified_copy") == 2 * files
    assert world.value("SELECT count(*) FROM replica") == 2 * files, "the copies on site are freed"
    lying = [p for s in ("north", "east", "south") for p in (world.root / s / "test").rglob("*.plain")]
    assert len(lying) == 2 * files
    assert not list((world.root / "mountain" / "test").rglob("*.*")), "files and triggers on site are gone"


@pytest.mark.feature("X-02")
def test_when_the_answers_to_thirty_commits_are_lost_nothing_is_lost_or_doubled(world: World):
    commits = live(world, random.Random(SEED), points=30)
    assert commits.lost == 30
    assert commits.lost_before >= 5
    assert commits.lost_after >= 5


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_thousand_lost_answers_to_commits_lose_and_double_nothing(
    fresh_worlds: Callable[[], AbstractContextManager[World]],
):
    lost = 0
    for number in range(10):
        print("seed", SEED + number)
        with fresh_worlds() as world:
            lost += live(world, random.Random(SEED + number), points=100).lost
    assert lost == 1000
