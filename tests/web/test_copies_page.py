"""The page of copies: what is owed, what went where, what waits and why."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from tests.conftest import TOPOLOGY, SilentLog, World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.domain.errors import Unavailable
from lightkeeper.instance import Instance
from lightkeeper.ports import Copied
from lightkeeper.settings import Settings
from lightkeeper.steps import replicate, topology, transfer
from lightkeeper.store.traffic import Flow
from lightkeeper.web.copies import DAYS, chart

TODAY = date(2030, 1, 14)


def flow(days_ago: int, target: str, size: int) -> Flow:
    return Flow(TODAY - timedelta(days=days_ago), "Mountain", target, "preservation", 1, size, 0, 1.0)


def test_a_column_is_as_high_as_its_part_of_the_busiest_day():
    drawn = chart([flow(0, "North", 300), flow(0, "East", 100), flow(3, "North", 100)], TODAY)
    assert drawn.most == 400
    assert [piece.height for piece in drawn.columns[-1]] == [75, 25]
    assert [piece.height for piece in drawn.columns[-4]] == [25]
    assert [site.name for site in drawn.shares] == ["North", "East"], "what took most comes first, at the bottom"


def test_days_without_a_transfer_have_an_empty_column():
    drawn = chart([], TODAY)
    assert (len(drawn.labels), drawn.labels[-1], drawn.shares) == (DAYS, str(TODAY), [])
    assert not any(drawn.columns)


def test_more_destinations_than_colours_share_the_last_one():
    drawn = chart([flow(0, f"Site{n}", 100 - n) for n in range(9)], TODAY)
    assert [site.colour for site in drawn.shares] == [0, 1, 2, 3, 4, 5, 5, 5, 5]


class Away(StreamMover):
    def carry(self, copies: Any) -> Any:
        for copy in copies:
            yield Copied(copy, error=Unavailable("<script>alert(1)</script> does not answer"))


@pytest.mark.feature("S0-088")
def test_the_page_tells_what_is_owed_what_went_and_what_waits_without_believing_any_text(tmp_path: Path):
    for name in ("mountain", "north", "east", "south", "vault"):
        (tmp_path / name).mkdir()
    with Instance(Settings(home=tmp_path, port=0, retry_after=0.0), work=False, log=SilentLog()) as instance:
        world = World(instance.context, tmp_path)
        text = TOPOLOGY.replace("ROOT", str(tmp_path)).replace("{level:", "{data_level:")
        topology.apply(world.ctx, text.replace("executor: none", "executor: local"))
        for name in ("/test/a", "/test/b"):
            register(world, name)
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
        replicate.settle(world.ctx)
        transfer.carry_out(world.having(mover=Away()).ctx)
        page = httpx.get(instance.url + "/copies", trust_env=False, timeout=60)
    assert page.status_code == 200
    assert "raw" in page.text and "Transferred by day" in page.text
    assert "<script>alert" not in page.text and "&lt;script&gt;alert" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def register(world: World, name: str) -> None:
    from lightkeeper.adapters.storage_posix import PosixStorage
    from lightkeeper.domain.catalog import NewFile
    from lightkeeper.domain.fixity import fixity_of
    from lightkeeper.domain.names import parse_lfn
    from lightkeeper.store import catalog, provenance
    from lightkeeper.store import topology as places

    content = name.encode() * 1000
    (element,) = [s for s in world.storages if s.name == "mountain"]
    PosixStorage("mountain", element.root).write(name, [content])
    file = NewFile(parse_lfn(name), fixity_of([content]), {"data_level": 0}, element.storage_id)
    with world.ctx.db.transaction() as conn:
        activity = provenance.add_activity(conn, name="test", agent="test", software={})
        batch = catalog.Batch([file], places.vocabulary(conn))
        names = catalog.name(conn, batch)
    with world.ctx.db.transaction() as conn:
        catalog.register(conn, batch, names, activity)
