"""Operations: the copies of many files are made, moved and deleted as one, which ends by itself or says why not."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from tests.conftest import World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.domain.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from lightkeeper.domain.operations import Facts, Kind, Stand, stand_of
from lightkeeper.ports import Copied
from lightkeeper.steps import audit, datasets, delete, deletions, operations, replicate, transfer
from lightkeeper.steps.datasets import NewDataset
from lightkeeper.steps.operations import NewOperation


def names(n: int) -> list[str]:
    return [f"/test/sim/n{i:05}.plain" for i in range(n)]


def go_on(world: World, turns: int = 20) -> None:
    """Everything the worker does, until nothing more happens."""
    for _ in range(turns):
        world.settle()
        audit.recheck(world.ctx)
        world.value("UPDATE operation SET not_before = now()")
        before = world.value("SELECT count(*) FROM history")
        operations.look_after(world.ctx)
        world.settle()
        if world.value("SELECT count(*) FROM history") == before:
            return


def a_dataset(world: World, n: int, storage: str = "north") -> list[str]:
    """Files that nothing is owed, on one storage, as a dataset."""
    lfns = names(n)
    world.register(*lfns, storage=storage, level=-1)
    datasets.create(world.ctx, NewDataset("sim", "level = -1"))
    return lfns


def move(world: World, **more: Any) -> str:
    new = NewOperation(Kind.MOVE, query="dataset = sim", target="south", source="north", **more)
    return operations.begin(world.ctx, new).name


def places(world: World, lfns: list[str]) -> set[tuple[str, ...]]:
    return {tuple(sorted(world.copies(lfn))) for lfn in lfns}


@pytest.mark.feature("S0-046", "S0-066", "S0-087")
def test_a_dataset_is_moved_by_one_operation_that_ends_by_itself(world: World):
    lfns = a_dataset(world, 100)
    begun = operations.begin(
        world.ctx, NewOperation(Kind.MOVE, query="dataset = sim", target="south", source="north"), dry_run=True
    )
    assert (begun.files, begun.done) == (100, 0)
    assert operations.find(world.ctx) == []
    name = move(world)
    told = operations.show(world.ctx, name)
    assert (str(told.state), told.percent, told.stands[Stand.UNDER_WAY].files) == ("Active", 0.0, 100)
    go_on(world)
    assert places(world, lfns) == {("south",)}
    told = operations.show(world.ctx, name)
    assert (str(told.state), told.percent) == ("Done", 100.0)
    assert world.value("SELECT count(*) FROM policy WHERE name LIKE 'operation%%'") == 0


@pytest.mark.feature("S0-046")
def test_a_dataset_is_replicated_and_copies_of_it_are_deleted_again(world: World):
    lfns = a_dataset(world, 5)
    new = NewOperation(Kind.REPLICATE, query="dataset = sim", target="south|east|vault", copies=2, name="twice")
    operations.begin(world.ctx, new)
    go_on(world)
    assert operations.show(world.ctx, "twice").percent == 100.0
    assert places(world, lfns) == {("east", "north", "south")}
    operations.begin(world.ctx, NewOperation(Kind.DELETE, query="dataset = sim", source="north", name="free"))
    go_on(world)
    assert places(world, lfns) == {("east", "south")}
    assert str(operations.show(world.ctx, "free").state) == "Done"
    operations.begin(world.ctx, NewOperation(Kind.DELETE, query="dataset = sim", source="south", name="more"))
    go_on(world)
    assert places(world, lfns) == {("east", "south")}, "what nothing is owed keeps two copies"
    (line, *_) = operations.files_of(world.ctx, "more", Stand.SOURCE_LEFT)
    assert line.next.startswith("1 of 2 data centres have a copy")
    operations.cancel(world.ctx, "more")
    assert str(operations.show(world.ctx, "more").state) == "Cancelled"


def test_what_other_policies_ask_for_stays(world: World):
    lfns = names(3)
    world.register(*lfns, storage="north", level=1)
    world.settle()
    there = {lfn: set(world.copies(lfn)) for lfn in lfns}
    operations.begin(world.ctx, NewOperation(Kind.DELETE, names=lfns, source="north", name="free"))
    go_on(world)
    assert {lfn: set(world.copies(lfn)) for lfn in lfns} == there
    assert "policy made wants 2 copies" in operations.files_of(world.ctx, "free")[0].next
    operations.cancel(world.ctx, "free")


class Breaking(StreamMover):
    """The link is down for one file, and another arrives damaged."""

    def carry(self, copies: Any) -> Any:
        for copy in copies:
            if copy.source_path.endswith("n00001.plain"):
                yield Copied(copy, error=Unavailable("the link is down"))
                continue
            for copied in super().carry([copy]):
                if copy.source_path.endswith("n00002.plain"):
                    yield Copied(copy, error=Corrupt("it arrived with sha256 000000000000"))
                else:
                    yield copied


@pytest.mark.feature("S0-067", "S0-068", "S0-069")
def test_a_move_that_is_stuck_is_brought_to_its_end(world: World):
    lfns = a_dataset(world, 100)
    name = move(world)
    (world.root / "north" / lfns[3][1:]).unlink()
    broken = world.having(mover=Breaking())
    go_on(broken)
    world.value("UPDATE transfer SET state_since = now() WHERE state = 'Failed'")
    told = operations.show(world.ctx, name)
    assert (str(told.state), told.percent) == ("Active", 97.0)
    stands = {line.lfn: (line.stand, line.error) for line in operations.files_of(world.ctx, name)}
    assert stands[lfns[0]] == (Stand.DONE, "")
    assert stands[lfns[1]] == (Stand.FAILED, "the link is down")
    assert stands[lfns[2]][0] is Stand.DAMAGED
    assert stands[lfns[3]][0] is Stand.LOST
    plan = operations.finalize(world.ctx, name)
    assert {(remedy.stand, remedy.files) for remedy in plan} == {
        (Stand.FAILED, 1), (Stand.DAMAGED, 1), (Stand.LOST, 1),
    }  # fmt: skip
    go_on(world)
    assert operations.show(world.ctx, name).percent == 97.0, "a plan changes nothing"
    operations.finalize(world.ctx, name, apply=True)
    go_on(world)
    told = operations.show(world.ctx, name)
    assert (str(told.state), told.percent) == ("Done", 100.0)
    assert places(world, [lfn for lfn in lfns if lfn != lfns[3]]) == {("south",)}
    world.value("DELETE FROM replica WHERE state = 'Lost'")


def test_a_transfer_that_is_stuck_is_cancelled_and_made_anew(world: World):
    lfns = a_dataset(world, 2)
    name = move(world)
    replicate.settle(world.ctx)
    held = transfer.claim(world.ctx)
    world.value("UPDATE transfer SET state_since = now() - interval '2 hours'")
    assert operations.show(world.ctx, name).stands[Stand.STUCK].files == 2
    operations.finalize(world.ctx, name, apply=True)
    with world.ctx.db.transaction() as conn:
        assert transfer.transfers.still_ours(conn, held) == set(), "its worker records nothing any more"
    go_on(world)
    assert places(world, lfns) == {("south",)}


def test_an_operation_waits_its_delay_and_what_is_undone_is_left_as_it_is(world: World):
    lfns = a_dataset(world, 3)
    slow = world.having(settings=world.ctx.settings.model_copy(update={"deletion_delay": timedelta(minutes=5)}))
    name = move(slow)
    go_on(slow)
    assert places(world, lfns) == {("north", "south")}
    assert operations.show(slow.ctx, name).stands[Stand.SOURCE_LEFT].files == 3
    (number, *_) = [i.intent_id for i in deletions.find(world.ctx, lfn=lfns[0])]
    assert deletions.undo(world.ctx, "maria", ids=[number]).undone == 1
    operations.finalize(slow.ctx, name, apply=True)
    go_on(slow)
    assert sorted(world.copies(lfns[0])) == ["north", "south"]
    assert places(world, lfns[1:]) == {("south",)}
    assert operations.show(world.ctx, name).percent == 100.0


def test_an_operation_is_cancelled_and_what_did_not_begin_is_undone(world: World):
    lfns = a_dataset(world, 3)
    slow = world.having(settings=world.ctx.settings.model_copy(update={"deletion_delay": timedelta(minutes=5)}))
    name = move(slow)
    go_on(slow)
    assert operations.cancel(slow.ctx, name, dry_run=True).undone == 3
    assert operations.cancel(slow.ctx, name).undone == 3
    go_on(slow)
    assert places(world, lfns) == {("north", "south")}
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 0
    with pytest.raises(Conflict, match="is Cancelled"):
        operations.cancel(slow.ctx, name)


def test_an_operation_that_cannot_be_is_refused_with_the_reason(world: World):
    a_dataset(world, 1)
    new = NewOperation(Kind.MOVE, query="dataset = sim", target="south", source="north")
    for wrong, error, words in (
        ({"target": ""}, Invalid, "must say where copies are to be made"),
        ({"target": "nowhere"}, Invalid, "there is no storage 'nowhere'"),
        ({"source": "south"}, Invalid, "is one that copies are to be moved to"),
        ({"copies": 2}, Invalid, "means 1 data centres"),
        ({"query": "level = 77"}, NotFound, "means no file"),
        ({"query": None, "names": ["/test/none.plain"]}, NotFound, "none.plain"),
        ({"query": None}, Invalid, "named, or a query"),
        ({"kind": Kind.DELETE}, Invalid, "needs no target"),
        ({"name": "a b"}, Invalid, "is not a name for a operation"),
    ):
        with pytest.raises(error, match=words):
            operations.begin(world.ctx, NewOperation(**{f: getattr(new, f) for f in new.__slots__} | wrong))
    with pytest.raises(NotFound, match="there is no operation"):
        operations.show(world.ctx, "nothing")
    assert world.value("SELECT count(*) FROM operation") == 0


def test_a_worker_that_dies_between_any_two_steps_leaves_an_operation_that_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    lfns = a_dataset(world, 4)
    name = move(world)

    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    for module, function in (
        (operations.delete, "approve"),
        (operations.operations, "looked_after"),
        (operations.rules, "withdraw"),
        (delete.deletions, "deleted"),
        (delete.deletions, "begin"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, function, crash)
            with suppress(Crash):
                go_on(world)
    go_on(world)
    assert places(world, lfns) == {("south",)}
    assert operations.show(world.ctx, name).percent == 100.0


def test_every_combination_of_facts_has_one_stand():
    yes_no = (False, True)
    for kind in Kind:
        for bits in range(2**9):
            flags = [yes_no[bits >> i & 1] for i in range(9)]
            for state in (None, "Waiting", "Running", "Failed"):
                facts = Facts(*flags[:7], state, *flags[7:])
                stand = stand_of(kind, facts)
                if stand is Stand.DONE and not facts.removed:
                    assert facts.copies_there
                    assert facts.readable
                    assert kind is Kind.REPLICATE or not facts.source_left
                if stand is Stand.LOST:
                    assert not facts.hope
