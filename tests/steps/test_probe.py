"""Storages that do not answer: found by probes and by work, left alone, and back by themselves."""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from tests.conftest import World
from tests.steps.test_storages import configure, element

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Unavailable
from lightkeeper.domain.states import Health
from lightkeeper.steps import audit, replicate, topology, transfer
from lightkeeper.steps.probe import Prober

A = "/test/raw/a.plain"


def probe(world: World, times: int = 1, prober: Prober | None = None) -> list[Health]:
    """East's health after each of several rounds of probes."""
    prober = prober or Prober()
    lived: list[Health] = []
    for _ in range(times):
        world.value("UPDATE probe SET due = now()")
        prober(world.ctx)
        lived.append(element(world, "east").health)
    return lived


def away(world: World, name: str = "east") -> Callable[[], None]:
    """Move a storage's root away; returns how it comes back."""
    root = world.root / name
    root.rename(root.with_name(f"{name}-away"))
    return lambda: None if root.exists() else root.with_name(f"{name}-away").rename(root) and None


@pytest.mark.feature("S0-055")
def test_a_storage_whose_disk_is_gone_is_banned_and_comes_back_by_itself(world: World):
    assert probe(world) == [Health.GOOD]
    back = away(world)
    assert probe(world, 3) == [Health.DEGRADED, Health.DEGRADED, Health.BANNED]
    assert not element(world, "east").readable
    assert [s.health for s in world.storages].count(Health.GOOD) == 4, "the others are left in peace"
    back()
    assert probe(world, 3) == [Health.BANNED, Health.DEGRADED, Health.GOOD]
    moves = world.value("SELECT string_agg(target, ' ' ORDER BY at) FROM history WHERE kind = 'health'")
    assert moves == "Degraded Banned Degraded Good"


def test_an_empty_folder_where_the_disk_should_be_is_no_answer(world: World):
    probe(world)
    back = away(world)
    (world.root / "east").mkdir()
    assert probe(world, 3)[-1] is Health.BANNED
    (world.root / "east").rmdir()
    back()


def test_copies_on_a_banned_storage_are_not_lost_and_count_for_no_deletion(world: World):
    world.deliver(A)
    world.ingest()
    while set(world.copies(A)) != {"mountain", "east", "south"} and (
        replicate.settle(world.ctx) + transfer.carry_out(world.ctx)
    ):
        pass
    back = away(world)
    probe(world, 3)
    audit.scrub(world.ctx)
    audit.recheck(world.ctx)
    world.settle()
    assert world.copies(A)["east"] == "Available"
    assert "mountain" in world.copies(A), "with one centre that answers the copy on site stays"
    back()
    probe(world, 3)
    world.value("UPDATE unsettled SET not_before = now()")
    world.settle()
    assert "mountain" not in world.copies(A)


class NoPools(PosixStorage):
    """A storage that says what a dCache without write pools says, or one that is out of memory, while it is told so."""

    fails: ClassVar[dict[str, str]] = {}

    def write(self, path: str, chunks: object) -> int:
        if self.name in self.fails:
            raise Unavailable(f"storage {self.name}: {self.fails[self.name]}")
        return super().write(path, chunks)  # type: ignore[arg-type]

    def arrive(self, path: str, earlier: Sequence[str] = ()) -> object:
        if self.name in self.fails:
            raise Unavailable(f"storage {self.name}: {self.fails[self.name]}")
        return super().arrive(path, earlier)


@pytest.fixture
def failing() -> object:
    yield NoPools.fails
    NoPools.fails.clear()


@pytest.mark.feature("S4-018")
def test_without_write_pools_a_storage_is_left_alone_and_copies_go_elsewhere(world: World, failing: dict[str, str]):
    world = world.having(storage_drivers={"posix": NoPools})
    world.register(*(f"/test/raw/{n}.plain" for n in range(3)), level=1)
    failing["east"] = "No write pools online"
    probe(world, 3)
    assert element(world, "east").health is Health.BANNED
    world.settle()
    for n in range(3):
        assert set(world.copies(f"/test/raw/{n}.plain")) == {"north", "south"}
    failing.clear()
    assert probe(world, 3)[-1] is Health.GOOD, "it is used again"


@pytest.mark.feature("S4-016", "S4-018")
def test_transfers_that_fail_have_their_target_probed_and_what_waits_goes_elsewhere(
    world: World, failing: dict[str, str]
):
    world = world.having(storage_drivers={"posix": NoPools})
    configure(world, "south", status="{write: off}")
    world.register(A)
    replicate.settle(world.ctx)
    configure(world, "south")
    failing["east"] = "out of direct memory"
    probe(world)
    world.value("UPDATE probe SET due = now() + interval '1 h', last = now() - interval '1 min'")
    transfer.carry_out(world.ctx)
    due = world.value("SELECT name FROM probe JOIN storage USING (storage_id) WHERE due <= now()")
    assert due == "east", "the storage that the error names is probed at once, no other"
    probe(world, 3)
    world.settle()
    assert set(world.copies(A)) == {"north", "south"}
    failing.clear()
    probe(world, 4)
    assert element(world, "east").health is Health.GOOD


def test_less_is_asked_of_a_storage_on_which_much_work_fails(world: World):
    probe(world)
    east = element(world, "east")
    for _ in range(6):
        world.value("INSERT INTO work_failure (storage_id, error) VALUES (%s, 'HTTP 500')", east.storage_id)
    assert probe(world) == [Health.DEGRADED]
    assert element(world, "east").streams == 1
    world.value("UPDATE work_failure SET at = now() - interval '1 h'")
    assert probe(world, 3)[-1] is Health.GOOD


def test_a_storage_that_hangs_holds_up_no_other(world: World):
    hangs = threading.Event()

    class Hanging(PosixStorage):
        def probe(self) -> None:
            if self.name == "east":
                hangs.wait()
            super().probe()

    settings = world.ctx.settings.model_copy(update={"probe_timeout": timedelta(seconds=0.3)})
    world = world.having(storage_drivers={"posix": Hanging}, settings=settings)
    prober = Prober()
    before = threading.active_count()
    assert probe(world, 3, prober)[-1] is Health.BANNED
    assert threading.active_count() <= before + 1, "one thread hangs, however often it was probed"
    assert "did not answer within 0.3 s" in world.value("SELECT error FROM probe WHERE error <> ''")
    assert [s.health for s in world.storages].count(Health.GOOD) == 4
    hangs.set()
    assert probe(world, 4, prober)[-1] is Health.GOOD


# --- protocols ---------------------------------------------------------------------------------------------------
class Second(PosixStorage):
    """Another way to the same files."""


def test_the_next_protocol_is_used_when_one_does_not_answer_and_the_first_again_when_it_does(world: World):
    world = world.having(storage_drivers={"posix": PosixStorage, "second": Second})
    protocols = f"[{{driver: second, root: {world.root}/east}}, {{driver: posix, root: {world.root}/east}}]"
    document = f"storages: {{east: {{site: East, protocols: {protocols}}}}}"
    topology.apply(world.ctx, document)
    assert topology.apply(world.ctx, document) == []
    assert element(world, "east").driver == "second"

    class Broken(Second):
        def probe(self) -> None:
            raise Unavailable("switched off")

        def write(self, path: str, chunks: object) -> int:
            raise Unavailable("switched off")

        def arrive(self, path: str, earlier: Sequence[str] = ()) -> object:
            raise Unavailable("switched off")

    cut = world.having(storage_drivers={"posix": PosixStorage, "second": Broken})
    configure(cut, "south", status="{write: off}")
    cut.register(A)
    cut.settle()
    assert cut.copies(A) == {"north": "Available", "east": "Available"}, "the copy went by the other protocol at once"
    assert probe(cut) == [Health.GOOD], "a storage that answers by one of its protocols is in order"
    assert element(cut, "east").driver == "posix"
    probe(world)
    assert element(world, "east").driver == "posix", "one answer is not enough"
    probe(world)
    assert element(world, "east").driver == "second"
    assert Path(element(world, "east").root) == world.root / "east"
    configure(world, "east")
