"""What people see of transfers, and having them begin at once."""

import pytest
from tests.conftest import World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.domain.errors import Invalid, NotFound, Unavailable
from lightkeeper.domain.states import Transfer
from lightkeeper.ports import Copied
from lightkeeper.steps import replicate, traffic, transfer

FILES = [f"/test/raw/n{n}.plain" for n in range(3)]


class Away(StreamMover):
    def carry(self, copies):
        for copy in copies:
            yield Copied(copy, error=Unavailable("east does not answer", hint="wait"))


def given_up(world: World) -> None:
    """Three transfers whose attempts all failed."""
    world.register(*FILES)
    replicate.settle(world.ctx)
    few = world.ctx.settings.model_copy(update={"transfer_attempts": 1})
    for _ in FILES:
        transfer.carry_out(world.having(mover=Away(), settings=few).ctx)
        world.value("UPDATE transfer SET not_before = now() RETURNING 1")


@pytest.mark.feature("S0-088")
def test_volume_number_and_time_are_told_by_day_link_and_activity(world: World):
    world.register(*FILES, storage="north")
    world.settle()
    (flow,) = traffic.flows(world.ctx, 1)
    assert (flow.source, flow.activity, flow.transfers, flow.failed_attempts) == ("North", "preservation", 3, 0)
    assert flow.bytes == world.value("SELECT sum(size) FROM file")
    assert flow.seconds > 0


def test_what_is_older_than_the_days_that_were_asked_for_is_not_told(world: World):
    world.register(*FILES)
    world.settle()
    world.value("UPDATE transfer_log SET hour = hour - interval '2 days' RETURNING 1")
    assert traffic.flows(world.ctx, 2) == []
    assert len(traffic.flows(world.ctx, 3)) == 1
    with pytest.raises(Invalid):
        traffic.flows(world.ctx, 0)


def test_transfers_are_listed_as_they_wait_with_their_last_error(world: World):
    world.register(*FILES)
    replicate.settle(world.ctx)
    transfer.carry_out(world.having(mover=Away()).ctx)
    listed = traffic.listed(world.ctx, [Transfer.WAITING], None, 10)
    assert {one.lfn for one in listed} == set(FILES)
    assert [one.error for one in listed].count("east does not answer") == 1
    target = listed[0].target
    assert len(traffic.listed(world.ctx, [Transfer.WAITING], target, 2)) == 2
    with pytest.raises(NotFound, match="norht"):
        traffic.listed(world.ctx, [Transfer.WAITING], "norht", 1)
    world.settle()


@pytest.mark.feature("S4-019")
def test_every_attempt_and_its_error_can_be_read_later_and_the_transfer_made_again(world: World):
    given_up(world)
    failed = traffic.listed(world.ctx, [Transfer.FAILED], None, 10)
    lines = traffic.history(world.ctx, failed[0].transfer_id)
    assert [(line.target, line.why) for line in lines] == [("Running", ""), ("Failed", "east does not answer")]
    begun = traffic.retry(world.ctx, None).begun
    assert begun == sorted(one.transfer_id for one in failed)
    assert world.value("SELECT bool_and(attempts = 0) FROM transfer WHERE state = 'Waiting'")
    world.settle()
    assert all(len(world.copies(name)) == 2 for name in FILES)


def test_a_dry_run_of_a_retry_changes_nothing(world: World):
    given_up(world)
    assert len(traffic.retry(world.ctx, None, dry_run=True).begun) == 3
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Failed'") == 3
    world.settle()


def test_what_was_made_meanwhile_is_passed_over(world: World):
    given_up(world)
    (one, *_) = traffic.listed(world.ctx, [Transfer.FAILED], None, 10)
    world.value("UPDATE transfer SET state_since = now() - interval '2 h' WHERE state = 'Failed' RETURNING 1")
    with world.ctx.db.transaction() as conn:
        replicate.transfers.unsettle(conn, [world.value("SELECT min(file_id) FROM file")])
        replicate.transfers.unsettle(conn, [world.value("SELECT max(file_id) FROM file")])
    world.settle()
    told = traffic.retry(world.ctx, [one.transfer_id, 999_999])
    assert 999_999 in told.passed_over
    world.settle()


def test_a_transfer_that_is_not_there_is_named(world: World):
    with pytest.raises(NotFound, match="no transfer 7"):
        traffic.history(world.ctx, 7)
