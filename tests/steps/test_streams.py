"""Transfers in streams: what goes first, together and at which rate, and what the log says of it."""

import time
from datetime import timedelta
from typing import Any

import pytest
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Copied
from lightkeeper.steps import heal, replicate, topology, transfer
from lightkeeper.store import meters

LINKS = """
links:
  - {from: North, to: East, max_transfers: 1}
  - {from: North, to: South, max_transfers: 1}
"""


def apply(world: World, more: str) -> None:
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)) + more)


@pytest.mark.feature("S2-027")
def test_ten_urgent_files_overtake_a_thousand_that_wait(world: World):
    apply(world, LINKS + "  - {from: Mountain, to: North, max_transfers: 1}\n")
    topology.apply(world.ctx, "policies:\n  urgent: {files: {kind: urgent}, copies: 2, priority: 0}\n")
    world.register(*(f"/test/raw/low{n}.plain" for n in range(1000)))
    replicate.settle(world.ctx)
    first = transfer.claim(world.ctx)
    urgent = {f"/test/raw/high{n}.plain" for n in range(10)}
    world.register(*urgent, kind="urgent")
    replicate.settle(world.ctx)
    heal.after_restart(world.ctx)
    done: list[str] = []
    while not urgent <= set(done):
        stream = transfer.claim(world.ctx)
        done += [t.path for t in stream]
        with world.ctx.db.transaction() as conn:
            transfer.transfers.still_ours(conn, stream)
            transfer.transfers.give_back(conn, stream, timedelta(hours=1), "seen")
    assert first and not {t.path for t in first} & urgent
    assert set(done[: len(urgent)]) == urgent, "the urgent ones were the next to go, before any of the thousand"
    world.value("UPDATE transfer SET not_before = now() RETURNING 1")


def test_when_a_storage_stops_answering_the_rest_of_the_stream_waits_and_loses_no_attempt(world: World):
    class Away(StreamMover):
        asked = 0

        def carry(self, copies: Any) -> Any:
            for copy in copies:
                type(self).asked += 1
                if self.asked > 1:
                    yield Copied(copy, error=Unavailable("east does not answer"))
                else:
                    yield from super().carry([copy])

    apply(world, LINKS)
    world.register(*(f"/test/raw/n{n}.plain" for n in range(12)))
    replicate.settle(world.ctx)
    tried = transfer.carry_out(world.having(mover=Away()).ctx)
    assert tried == Away.asked == 3, "one connection may break; who does not answer twice is left alone"
    assert world.value("SELECT array_agg(attempts ORDER BY transfer_id) FROM transfer") == [1, 1, 1] + [0] * 9
    world.settle()


def test_the_streams_of_a_link_share_its_rate(world: World):
    rates = {"link North to East": 1_000_000}
    began = time.monotonic()
    waits = []
    for _ in range(5):
        with world.ctx.db.transaction() as conn:
            waits.append(meters.reserve(conn, rates, 200_000))
    passed = time.monotonic() - began
    assert waits[0] <= 0.001
    for n, wait in enumerate(waits):
        assert n * 0.2 - passed <= wait <= n * 0.2 + 0.001


def test_the_slowest_limit_on_the_way_holds(world: World):
    with world.ctx.db.transaction() as conn:
        meters.reserve(conn, {"link": 10_000_000, "storage": 100_000}, 100_000)
        wait = meters.reserve(conn, {"link": 10_000_000, "storage": 100_000}, 100_000)
    assert 0.5 < wait <= 1.001


@pytest.mark.feature("S0-088")
def test_the_log_has_volume_and_number_by_hour_way_and_activity(world: World):
    topology.apply(world.ctx, "shares: {preservation: 2}\n")
    world.register(*(f"/test/raw/n{n}.plain" for n in range(3)), storage="north")
    world.settle()
    sizes = world.value("SELECT sum(size) FROM file")
    assert world.value("SELECT sum(n_transfers) FROM transfer_log") == 3
    assert world.value("SELECT sum(n_bytes) FROM transfer_log WHERE activity = 'preservation'") == sizes
    assert world.value("SELECT bool_and(hour = date_trunc('hour', hour, 'UTC')) FROM transfer_log")
    assert world.value("SELECT sum(n_failed) FROM transfer_log") == 0
    assert world.value("SELECT bool_and(seconds > 0) FROM transfer_log")


def test_a_copy_that_stands_still_is_taken_over(world: World):
    class Hung(StreamMover):
        def carry(self, copies: Any) -> Any:
            time.sleep(1.0)
            assert heal.release_abandoned(world.ctx) == 1
            return super().carry(copies)

    world.register("/test/raw/n.plain")
    replicate.settle(world.ctx)
    brief = world.ctx.settings.model_copy(
        update={"lease": timedelta(seconds=0.4), "stalled_after": timedelta(seconds=0.05)}
    )
    transfer.carry_out(world.having(mover=Hung(), settings=brief).ctx)
    assert world.value("SELECT state::text FROM transfer") == "Waiting", "what came late is not recorded"
    world.settle()


def test_a_second_attempt_reads_another_copy(world: World):
    world.register("/test/raw/n.plain", storage="north")
    world.settle()
    topology.apply(world.ctx, "policies:\n  raw: {files: {level: 0}, copies: 3, free_on_site: true}\n")
    replicate.settle(world.ctx)
    (one,) = transfer.claim(world.ctx)
    first = one.source_id
    with world.ctx.db.transaction() as conn:
        transfer.transfers.still_ours(conn, [one])
        transfer.transfers.did_not_arrive(conn, [transfer.transfers.Failure(one, "it does not answer", timedelta(0))])
    (one,) = transfer.claim(world.ctx)
    assert one.source_id != first
    heal.after_restart(world.ctx)
    world.settle()
