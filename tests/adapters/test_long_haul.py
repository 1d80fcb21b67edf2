"""Copies to a centre far away: every answer takes long, the line is shared with others, files are tiny or huge.

The centre is a real WebDAV server behind a way that delays what passes, or lets only so much through.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import World, build_world
from tests.engines.proxy import Way, way_to
from tests.engines.webdav import rclone

from lightkeeper.steps import replicate, rules, topology, transfer
from lightkeeper.steps.rules import NewRule
from lightkeeper.store.db import Database

TOPOLOGY = """
version: 1
sites: {Mountain: {kind: observatory}, Near: {}, Far: {}, Other: {}}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  near: {site: Near, root: "ROOT/north"}
  far: {site: Far, driver: webdav, root: "URL", max_transfers: 32}
  other: {site: Other, root: "ROOT/east"}
links:
  - {from: Mountain, to: Far, max_transfers: STREAMS}
"""


@dataclass
class Haul:
    """An observatory, a centre far away, and the way to it."""

    world: World
    way: Way
    url: str

    def apply(self, streams: int = 4, more: str = "") -> None:
        text = TOPOLOGY.replace("ROOT", str(self.world.root)).replace("URL", self.url)
        topology.apply(self.world.ctx, text.replace("STREAMS", f"{streams}{more}"))

    def bring(self, folder: str, sizes: list[int], workers: int) -> float:
        """Take files of these sizes in and copy them to the centre with so many workers; the seconds it took."""
        for n, size in enumerate(sizes):
            self.world.deliver(f"/test/{folder}/n{n}.plain", content="x" * max(0, size - 45), kind=folder)
        self.world.ingest()
        rules.add(self.world.ctx, NewRule(folder, f"kind = {folder}", copies=1, at="far"))
        while replicate.settle(self.world.ctx):
            pass
        began = time.monotonic()
        self.work(workers)
        return time.monotonic() - began

    def work(self, workers: int) -> None:
        threads = [threading.Thread(target=self._carry_out) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _carry_out(self) -> None:
        while self.world.value("SELECT count(*) FROM transfer WHERE state = 'Waiting'"):
            if not transfer.carry_out(self.world.ctx):
                time.sleep(0.05)

    def there(self) -> int:
        """How many files have a verified copy at the centre."""
        return self.world.value("SELECT count(*) FROM verified_copy JOIN storage USING (storage_id) WHERE name = 'far'")


@pytest.fixture
def haul(database: Database, tmp_path: Path) -> Iterator[Callable[..., AbstractContextManager[Haul]]]:
    @contextmanager
    def made(delay: float = 0.0, rate: float = 0.0) -> Iterator[Haul]:
        with rclone(tmp_path / "dav") as server, way_to("127.0.0.1", int(server.url.rpartition(":")[2])) as way:
            (tmp_path / "world").mkdir()
            url = f"http://127.0.0.1:{way.port}"
            here = TOPOLOGY.replace("URL", server.url).replace("STREAMS", "4")
            world = build_world(database, tmp_path / "world", here)
            way.delay, way.rate = delay, rate
            haul = Haul(world, way, url)
            haul.apply()
            yield haul
            way.delay = way.rate = 0
            assert world.violations() == []

    yield made


@pytest.mark.feature("S2-007", "S2-025")
def test_with_200_ms_to_the_centre_streams_go_side_by_side_and_every_file_arrives(
    haul: Callable[..., AbstractContextManager[Haul]],
):
    with haul(delay=0.1) as far:
        far.bring("raw", [100_000] * 16, workers=4)
        assert far.there() == 16
        assert far.way.most >= 4, "four streams, each on its own connection"


@pytest.mark.nightly
@pytest.mark.feature("S4-022")
def test_twice_the_limit_of_a_link_is_twice_the_rate(haul: Callable[..., AbstractContextManager[Haul]]):
    with haul() as far:
        far.apply(more=", max_rate: 2 MB/s")
        slow = far.bring("slow", [500_000] * 40, workers=4)
        far.apply(more=", max_rate: 4 MB/s")
        fast = far.bring("fast", [500_000] * 40, workers=4)
        assert slow / fast == pytest.approx(2, rel=0.2)


@pytest.mark.feature("S2-026")
@pytest.mark.parametrize("largest", [64_000_000, pytest.param(2_000_000_000, marks=pytest.mark.nightly)])
def test_files_from_a_kilobyte_to_the_largest_go_side_by_side_and_small_ones_together(
    haul: Callable[..., AbstractContextManager[Haul]], largest: int
):
    with haul() as far:
        sizes = [1_000] * 100 + [10_000, 100_000, 1_000_000, 10_000_000, largest]
        far.bring("mixed", sizes, workers=2)
        assert far.there() == len(sizes)
        streams = far.world.value("SELECT count(DISTINCT stream) FROM transfer WHERE state = 'Done'")
        assert streams < 20, "a hundred small files did not go one by one"


@pytest.mark.feature("S4-009")
def test_when_others_fill_the_line_it_is_told_early_and_the_files_still_arrive(
    haul: Callable[..., AbstractContextManager[Haul]],
):
    with haul() as far:
        for n in range(15):
            far.world.deliver(f"/test/raw/n{n}.plain", content="x" * 20_000, kind="raw")
        far.world.ingest()
        far.apply(streams=1, more=", max_rate: 100 kB/s")
        rules.add(far.world.ctx, NewRule("soon", "kind = raw", copies=1, at="far", deadline="6 s"))
        while replicate.settle(far.world.ctx):
            pass
        transfer.carry_out(far.world.ctx)
        assert rules.late(far.world.ctx) == [], "with the whole line there is time"
        far.way.rate = 25_000  # of a line of 100 kB/s
        transfer.carry_out(far.world.ctx)
        assert [rule.name for rule in rules.late(far.world.ctx)] == ["soon"]
        rules.watch_deadlines(far.world.ctx)
        assert any(event == "rule will be late" for event, _ in far.world.ctx.log.lines)  # type: ignore[attr-defined]
        far.way.rate = 0
        far.work(1)
        assert far.there() == 15
