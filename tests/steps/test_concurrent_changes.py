"""Many at once: registrations, changes and datasets in parallel, and connections that break. Nothing is lost."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from tests.conftest import World
from tests.steps.test_datasets import create, names, sizes, virtual
from tests.steps.test_files import found, line, listed

from lightkeeper.domain.errors import Conflict, LightkeeperError, NotFound
from lightkeeper.steps import catalogue, datasets, files
from lightkeeper.steps.catalogue import Wanted


def at_once(*works: Callable[[], Any]) -> list[BaseException]:
    """Run these at the same moment; what they raised."""
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> BaseException | None:
        begin.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told to the test
            return error
        return None

    with ThreadPoolExecutor(len(works)) as pool:
        return [error for error in pool.map(run, works) if error is not None]


def lists(seed: int, n: int, names: int = 60) -> Iterator[list[str]]:
    """Lists of files in any order, with overlapping names and metadata; their copies are reported, and not there."""
    chance = random.Random(seed)
    for _ in range(n):
        meta = [f'{{"level": {chance.randint(0, 3)}, "number": {chance.randint(0, 3)}}}' for _ in range(3)]
        lfns = [f"/ctao/v/n{chance.randint(0, names)}" for _ in range(chance.randint(1, 20))]
        yield [line(lfn, lfn.encode()).replace('{"level": 0}', chance.choice(meta)) for lfn in lfns]


def test_changes_in_parallel_leave_right_counters_and_deadlock_nobody(world: World):
    for number in range(4):
        create(world, f"level{number}", f"level = {number}")
        create(world, f"both{number}", f"level = {number} and number = {number}")

    def register(seed: int) -> None:
        for lines in lists(seed, 25):
            listed(world, *lines, at=("north", "east")[seed % 2])

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            some = [f"/ctao/v/n{chance.randint(0, 60)}" for _ in range(10)]
            match chance.randint(0, 4):
                case 0 | 1:
                    files.set_metadata(world.ctx, some, {"level": chance.randint(0, 3)})
                case 2:
                    files.mark_corrupted(world.ctx, some, "test")
                case 3:
                    files.restore(world.ctx, some, "test")
                case _:
                    choose = files.remove if chance.random() < 0.5 else files.unregister
                    choose(world.ctx, some, "test")

    def organise(seed: int) -> None:
        for number in range(12):
            name = f"mine{seed}-{number}"
            create(world, name, f"level = {number % 4}")
            datasets.freeze(world.ctx, name)
            frozen = names(world, name)
            assert len(frozen) == datasets.show(world.ctx, name).files
            datasets.release(world.ctx, name)
            if number % 2:
                datasets.remove(world.ctx, name)

    errors = at_once(
        *(lambda seed=seed: register(seed) for seed in range(3)),
        *(lambda seed=seed: change(seed) for seed in range(10, 13)),
        *(lambda seed=seed: organise(seed) for seed in range(2)),
    )
    assert errors == []
    assert len(sizes(world)) == 8 + 12
    for name, files_ in sizes(world).items():
        recount = datasets.update(world.ctx, name)
        assert recount.said == recount.counted
        assert files_ == len(found(world, f'dataset = "{name}"'))
    left = found(world, "file_state in (Current, Superseded, Corrupted, Removed)")
    assert files.unregister(world.ctx, left, "their bytes never were").failed == []


def test_of_many_who_create_one_dataset_one_does(world: World):
    errors = at_once(*(lambda: create(world, "one", "level = 0") for _ in range(8)))
    assert [type(error) for error in errors] == [Conflict] * 7
    assert datasets.show(world.ctx, "one").files == 0


def test_files_that_come_while_datasets_are_removed_are_registered(world: World):
    """A registration counts files into datasets: it must not find them half gone."""

    def come_and_go(seed: int) -> None:
        for number in range(30):
            create(world, f"d{seed}-{number}", "level = 1")
            datasets.remove(world.ctx, f"d{seed}-{number}")

    def register(seed: int) -> None:
        for number in range(30):
            listed(world, f'{{"lfn": "/ctao/v/{seed}/n{number}", "meta": {{"level": 1}}}}', virtual=True)

    assert at_once(*(lambda s=s: come_and_go(s) for s in range(3)), *(lambda s=s: register(s) for s in range(4))) == []
    assert len(found(world, "level = 1")) == 120


def test_of_two_that_take_each_others_place_one_does(world: World):
    first, second = virtual(world, 2, level=0)
    for _ in range(10):
        told: list[Any] = []
        assert at_once(
            lambda: told.append(files.supersede(world.ctx, [(first, second)], "x")),  # noqa: B023
            lambda: told.append(files.supersede(world.ctx, [(second, first)], "x")),  # noqa: B023
        ) == []  # fmt: skip
        assert sorted(len(changed.done) for changed in told) == [0, 1]
        assert len(found(world)) == 1
        files.restore(world.ctx, [first, second], "again")


# --- connections that break ----------------------------------------------------------------------------------
@contextmanager
def cutter(world: World, every: float) -> Iterator[list[int]]:
    """Ends a random connection that is at work, again and again; the numbers of those that were."""
    stop, cut = threading.Event(), list[int]()
    settled = psycopg.conninfo.make_conninfo(world.ctx.db.url, dbname="postgres")
    name = psycopg.conninfo.conninfo_to_dict(world.ctx.db.url)["dbname"]

    def run() -> None:
        with psycopg.connect(settled, autocommit=True) as conn:
            while not stop.wait(every):
                found = conn.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend' "
                    "AND state <> 'idle' ORDER BY random() LIMIT 1", (name,),
                ).fetchone()  # fmt: skip
                if found and conn.execute("SELECT pg_terminate_backend(%s)", found).fetchone() == (True,):
                    cut.append(found[0])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield cut
    finally:
        stop.set()
        thread.join()


@pytest.mark.feature("S0-093")
def test_connections_that_break_lose_no_update(world: World):
    """Who was told that it is done finds it done; who was not may say it again, and it is done once."""
    for number in range(4):
        create(world, f"level{number}", f"level = {number}")
    told: dict[str, int] = {}
    broken = threading.Semaphore(0)

    def insist(work: Callable[[], Any]) -> Any:
        while True:
            try:
                return work()
            except psycopg.OperationalError:
                broken.release()

    def register(seed: int) -> None:
        for number in range(40):
            lines = [f'{{"lfn": "/ctao/v/{seed}/n{number}-{i}", "meta": {{"level": {seed}}}}}' for i in range(20)]
            result = insist(lambda: listed(world, *lines, virtual=True))  # noqa: B023
            assert result.failed == 0
            if number % 2:
                changed = insist(lambda: files.set_metadata(world.ctx, [f"/ctao/v/{seed}/n{number}-1"], {"level": 3}))  # noqa: B023
                told.update(dict.fromkeys(changed.done, 3))

    def look() -> None:
        for _ in range(60):
            with suppress(LightkeeperError):
                insist(lambda: catalogue.count(world.ctx, Wanted("level = 1")))
                insist(lambda: list(catalogue.find(world.ctx, Wanted("level = 2", names=True))))

    with cutter(world, 0.03) as cut:
        errors = at_once(*(lambda seed=seed: register(seed) for seed in range(3)), look)
    assert errors == []
    assert len(cut) > 10
    assert broken.acquire(blocking=False)  # some of them were at work
    assert len(found(world)) == 3 * 40 * 20
    assert found(world, "level = 3") == sorted(told)
    assert sizes(world) == {"level0": 780, "level1": 780, "level2": 780, "level3": 60}


def test_a_dataset_that_is_frozen_over_a_broken_connection_is_frozen_or_not(world: World):
    virtual(world, 300, level=0)
    create(world, "x", "level = 0")
    with cutter(world, 0.02):
        for _ in range(15):
            for change in (datasets.freeze, datasets.release):
                with suppress(psycopg.OperationalError, NotFound):
                    change(world.ctx, "x")
    frozen = datasets.freeze(world.ctx, "x")
    assert (frozen.files, len(names(world, "x"))) == (300, 300)
    assert frozen.digest is not None
