"""Transfers to a storage that is reached through FTS."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from tests.adapters.test_mover_conformance import Addressed
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.mover_fts import FtsMover
from lightkeeper.domain.errors import NotFound
from lightkeeper.steps import heal, replicate, topology, transfer
from lightkeeper.testing.fts_server import Fts, fts

FILES = [f"/test/raw/n{n:02}.plain" for n in range(40)]


@contextmanager
def through_fts(world: World) -> Iterator[tuple[World, Fts]]:
    """The same world, with every data centre behind one FTS."""
    roots = {s.name: s.root for s in world.storages}
    with fts({f"mock://{name}": Addressed(name, root) for name, root in roots.items()}) as service:
        document = TOPOLOGY.replace("ROOT", str(world.root))
        for name in ("north", "east", "south"):
            document = document.replace(f'/{name}"}}', f'/{name}", attributes: {{fts: "{service.url}"}}}}')
        topology.apply(world.ctx, document)

        def mover(url: str) -> FtsMover:
            return FtsMover(url, poll_seconds=0.02, patience=2)

        yield world.having(storage_drivers={"posix": Addressed}, services={"fts": mover}), service


@pytest.mark.feature("S0-047", "S3-054")
def test_files_go_through_the_service_and_all_come_although_one_in_ten_fails(world: World):
    with through_fts(world) as (there, service):
        asked = count()
        service.failing = lambda _address: "TRANSFER [110] timed out" if next(asked) % 10 == 0 else ""
        world.register(*FILES)
        there.settle()
        assert service.submissions > 1, "what failed was submitted again"
        failed = sum(state == "FAILED" for _, state in service.files())
    assert failed >= 4
    assert all(len(world.copies(name)) == 2 for name in FILES)
    assert world.value("SELECT count(*) FROM transfer WHERE state <> 'Done'") == 0
    assert world.value("SELECT sum(n_transfers) FROM transfer_log") == len(FILES), "each is counted once"


@pytest.mark.feature("S3-056")
def test_waiting_transfers_are_submitted_by_priority(world: World):
    with through_fts(world) as (there, service):
        world.register(*FILES)
        replicate.settle(there.ctx)
        urgent = world.value("SELECT max(transfer_id) FROM transfer")
        world.value("UPDATE transfer SET priority = 0 WHERE transfer_id = %s RETURNING 1", urgent)
        there.settle()
        assert service.begun[0].endswith(f"/{urgent}.1")


def test_a_worker_that_died_after_it_submitted_is_followed_by_one_whose_copies_count(world: World):
    """R7, R11: nothing of the first attempt is recorded, whatever the service still does for it."""
    with through_fts(world) as (there, service):
        world.register(*FILES[:5])
        replicate.settle(there.ctx)
        service.held = True
        stream = transfer.claim(there.ctx)
        service.answer(
            "POST",
            "/jobs",
            {},
            b'{"files": [{"sources": ["mock://north%s"], "destinations": ["mock://east/.lightkeeper/arrivals/%d.1"]}],'
            b' "params": {"job_metadata": {"lightkeeper": "k"}}}' % (stream[0].path.encode(), stream[0].transfer_id),
        )
        heal.after_restart(there.ctx)
        service.begin()
        there.settle()
        assert all(len(world.copies(name)) == 2 for name in FILES[:5])
        assert world.value("SELECT count(*) FROM replica") == 10


def test_a_service_whose_plug_in_is_not_installed_is_said_so(world: World):
    with through_fts(world) as (there, _service):
        element = next(s for s in there.storages if s.name == "north")
        with pytest.raises(NotFound, match="whose plug-in is not installed"):
            there.having(services={}).ctx.mover_to(element)
