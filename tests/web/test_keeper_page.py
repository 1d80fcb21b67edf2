"""The page of the keeper and the page of a report: what a person must decide, in words, and no text is believed."""

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.conftest import TOPOLOGY, SilentLog, World
from tests.steps.test_keeper import one_of
from tests.steps.test_work import Hands, go_on

from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import tell, topology
from lightkeeper.store import topology as places
from lightkeeper.testing.observatory import PlainObservatory


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[World, str]]:
    for name in ("mountain", "north", "east", "south", "vault"):
        (tmp_path / name).mkdir()
    with Instance(Settings(home=tmp_path, port=0, retry_after=0.0), work=False, log=SilentLog()) as instance:
        world = World(instance.context, tmp_path).having(observatories=(PlainObservatory(),))
        with world.ctx.db.transaction() as conn:
            places.put_keys(conn, world.ctx.metadata_keys)
        text = TOPOLOGY.replace("ROOT", str(tmp_path)).replace("executor: none", "executor: local")
        topology.apply(world.ctx, text + "keeper: {tell: [ops@example.org, 'https://chat.example.org/canary']}\n")
        yield world, instance.url


@pytest.mark.feature("S1-075", "S1-032", "S1-059")
def test_the_pages_say_what_must_be_decided_and_show_the_report(page: tuple[World, str]):
    world, url = page
    one_of(world, "Merging", "a", files=3)
    hands = Hands.at(world, "North")
    go_on(world)
    for _ in range(4):
        while job := hands.claim():
            hands.fail(job, "exit code 1: <script>alert(1)</script>")
        go_on(world)
    tell.gather(world.ctx)
    told = httpx.get(f"{url}/keeper").text
    assert "3 of 3 tasks failed in every attempt" in told
    assert "lightkeeper transformation retry 1" in told
    assert "ops@example.org" in told
    assert "canary" not in told
    told = httpx.get(f"{url}/transformations/1").text
    for text in (
        "Transformation: 1",
        "ApplicationStatus",
        "Total: Failed",
        "3 (100.0%)",
        "Total # tasks:",
        "Generated",
    ):
        assert text in told
    assert "<script>alert" not in told
    rows = httpx.get(f"{url}/api/v1/transformations/1/report").json()["rows"]
    assert all(row["total"] in told for row in rows)
    assert httpx.get(f"{url}/transformations/99").status_code == 404


def test_a_world_without_work_needs_nobody(page: tuple[World, str]):
    _, url = page
    told = httpx.get(f"{url}/keeper").text
    assert "Nobody is needed." in told
    assert "No transformation is at work." in told
