"""Ten hours of four centres, two of which lose their network now and then, in a minute.

Everything happens in one process, in an order that a seed decides, by a clock that the test moves: the same seed gives
the same ten hours. The duties are the worker's own table, each as often as it says, with the settings of operation.
"""

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from tests.chaos.clock import pass_time
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.settings import Settings
from lightkeeper.steps import topology
from lightkeeper.store import invariants
from lightkeeper.testing.faults import Network
from lightkeeper.worker import Duty, duties

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
HOURS = 10
TICK = timedelta(minutes=10)
WEST = TOPOLOGY.replace("  South: {}\n", "  South: {}\n  West: {}\n").replace(
    "  vault: {", '  west: {site: West, root: "ROOT/west"}\n  vault: {'
)


@dataclass
class Simulation:
    """The observatory, its network and its clock."""

    world: World
    chance: random.Random
    network: Network = field(default_factory=Network)
    clock: timedelta = timedelta(0)
    delivered: int = 0
    outage: dict[str, timedelta] = field(default_factory=dict)
    longest: timedelta = timedelta(0)
    _next: dict[str, timedelta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.world.root / "west").mkdir()
        topology.apply(self.world.ctx, WEST.replace("ROOT", str(self.world.root)))
        drivers = {"posix": self.network.driver(PosixStorage)}
        settings = Settings(home=self.world.root)
        self.ctx: Context = replace(self.world.ctx, storage_drivers=drivers, settings=settings)
        self.table: list[Duty] = duties(self.ctx, "http://127.0.0.1:1")

    def tick(self, *, faults: bool) -> None:
        """Ten minutes."""
        if faults:
            self._deliver()
            self._change_network()
        order = list(self.table)
        self.chance.shuffle(order)
        for duty in order:
            if self._next.get(duty.name, self.clock) <= self.clock:
                self._do(duty)
                self._next[duty.name] = self.clock + timedelta(
                    seconds=duty.every() if callable(duty.every) else duty.every
                )
        pass_time(self.world, seconds=TICK.total_seconds())
        self.clock += TICK
        with self.ctx.db.transaction() as conn:
            assert invariants.violations(conn) == [], f"after {self.clock}"

    def _deliver(self) -> None:
        for _ in range(self.chance.randrange(2)):
            self.delivered += 1
            self.world.deliver(f"/test/raw/n{self.delivered}.plain", content="light" * self.chance.randrange(3000))

    def _change_network(self) -> None:
        """South and West lose their network for minutes to hours, or come back."""
        for name, outage in list(self.outage.items()):
            if outage <= self.clock:
                del self.outage[name]
                self.network.cut.discard(name)
        for name in ("south", "west"):
            if name not in self.outage and self.chance.random() < 0.05:
                length = timedelta(minutes=self.chance.choice((5, 10, 30, 90, 180)))
                self.longest = max(self.longest, length)
                self.outage[name] = self.clock + length
                self.network.cut.add(name)

    def _do(self, duty: Duty) -> None:
        """As long as it does something, as the worker does; the network may change in the middle of it."""
        for _ in range(100):
            try:
                if not duty.do(self.ctx):
                    return
            except (LightkeeperError, OSError):
                return

    def settled(self) -> bool:
        """Every file has two verified copies at two centres and none on site, and nothing is under way."""
        return not self.world.value("SELECT count(*) FROM unsettled") and self.delivered == self.world.value(
            """
            SELECT count(*)
              FROM file f
             WHERE 2 = (SELECT count(DISTINCT site_id) FROM verified_copy c WHERE c.file_id = f.file_id)
               AND 2 = (SELECT count(*) FROM replica r WHERE r.file_id = f.file_id)
            """
        )


def ten_hours(world: World, seed: int) -> str:
    """Live through them; afterwards everything comes to rest by itself."""
    simulation = Simulation(world, random.Random(seed))
    while simulation.clock < timedelta(hours=HOURS):
        simulation.tick(faults=True)
    simulation.network.cut.clear()
    back = simulation.clock
    while not simulation.settled():
        simulation.tick(faults=False)
        assert simulation.clock - back < timedelta(hours=12), "it does not come to rest"
    assert world.violations() == []
    with suppress(FileNotFoundError):
        assert not list((world.root / "mountain/test").rglob("*.*"))
    return (
        f"seed {seed}: {simulation.delivered} files, longest outage {simulation.longest}, "
        f"at rest {simulation.clock - back} after the last"
    )


@pytest.mark.feature("S3-048")
def test_ten_hours_in_which_two_of_four_centres_lose_their_network_end_with_every_file_preserved(world: World):
    print(ten_hours(world, SEED))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(SEED, SEED + 20))
def test_twenty_times_ten_hours(
    fresh_worlds: Callable[[], AbstractContextManager[World]], seed: int, capsys: pytest.CaptureFixture[str]
):
    with fresh_worlds() as world:
        told = ten_hours(world, seed)
    with capsys.disabled():
        print(f"\n{told}")
