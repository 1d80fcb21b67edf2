"""What an operator does to a storage by hand: switch it, empty it, end it."""

import pytest
from tests.conftest import TOPOLOGY, World

from lightkeeper.domain.errors import Conflict, Invalid, NotFound, Refused
from lightkeeper.steps import delete, replicate, switches, topology, transfer

FILES = [f"/test/raw/n{n}.plain" for n in range(6)]


def may(world: World, name: str) -> str:
    (element,) = [s for s in world.storages if s.name == name]
    words = {"r": element.readable, "w": element.writable, "d": element.deletable}
    return "".join(letter for letter, may in words.items() if may)


def test_a_switch_stands_whatever_is_applied_and_goes_when_the_document_says_the_same(world: World):
    assert switches.set_(world.ctx, "north", {"write": False}, "controller replaced") == ["write on → off"]
    assert may(world, "north") == "rd"
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)))
    assert may(world, "north") == "rd"
    (switch,) = switches.show(world.ctx, "north").switches
    assert (switch.operation, switch.is_on, switch.why) == ("write", False, "controller replaced")
    document = f'storages:\n  north: {{site: North, root: "{world.root}/north", status: {{write: off}}}}\n'
    topology.apply(world.ctx, document)
    assert switches.show(world.ctx, "north").switches == []
    assert may(world, "north") == "rd"


def test_a_switch_is_taken_back(world: World):
    switches.set_(world.ctx, "north", {"write": False, "delete": False}, "x")
    assert switches.set_(world.ctx, "north", {"write": None, "delete": None}, "") == [
        "write off → on",
        "delete off → on",
    ]
    assert may(world, "north") == "rwd"


def test_a_switch_needs_a_reason_a_storage_and_something_to_switch(world: World):
    with pytest.raises(Invalid, match="reason"):
        switches.set_(world.ctx, "north", {"write": False}, " ")
    with pytest.raises(NotFound, match="norht"):
        switches.set_(world.ctx, "norht", {"write": False}, "x")
    with pytest.raises(Invalid, match="read, write, delete"):
        switches.set_(world.ctx, "north", {"burn": False}, "x")


def test_a_dry_run_tells_what_would_change_and_changes_nothing(world: World):
    assert switches.set_(world.ctx, "north", {"read": False}, "x", dry_run=True) == ["read on → off"]
    assert may(world, "north") == "rwd"
    assert switches.drain(world.ctx, "north", "x", dry_run=True).changes == ["draining off → on"]
    assert may(world, "north") == "rwd"


def test_what_waits_for_a_storage_that_is_switched_off_goes_elsewhere(world: World):
    world.register(*FILES)
    replicate.settle(world.ctx)
    (target,) = {
        name for name in ("east", "south") if world.value("SELECT count(*) FROM transfer t JOIN storage s "
        "ON s.storage_id = t.target_id WHERE s.name = %s AND t.state = 'Waiting'", name)
    }  # fmt: skip
    switches.set_(world.ctx, target, {"write": False}, "full of dust")
    world.settle()
    assert all(target not in world.copies(name) and len(world.copies(name)) == 2 for name in FILES)


def test_a_storage_is_emptied_and_every_file_has_its_copies_elsewhere(world: World):
    world.register(*FILES, storage="north")
    world.settle()
    switches.drain(world.ctx, "north", "end of support")
    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx) + delete.delete(world.ctx):
        pass
    assert switches.show(world.ctx, "north").left.files == 0
    assert all(set(world.copies(name)) == {"east", "south"} for name in FILES)
    switches.decommission(world.ctx, "north")
    assert may(world, "north") == ""
    with pytest.raises(Conflict, match="decommissioned"):
        switches.set_(world.ctx, "north", {"read": True}, "x")
    world.value("UPDATE storage SET enabled = true WHERE name = 'north' RETURNING 1")  # fsck looks at it once more


def test_emptying_is_ended_and_what_is_still_there_stays(world: World):
    world.register(*FILES, storage="north")
    world.settle()
    switches.drain(world.ctx, "north", "a mistake")
    replicate.settle(world.ctx)
    assert switches.drain(world.ctx, "north", "", undo=True).changes == ["draining on → off"]
    world.settle()
    assert all("north" in world.copies(name) for name in FILES)


def test_a_storage_is_not_emptied_when_there_is_nowhere_to_go(world: World):
    for name in ("east", "south"):
        switches.set_(world.ctx, name, {"write": False}, "x")
    with pytest.raises(Refused, match="fewer than two other data centres"):
        switches.drain(world.ctx, "north", "x")


def test_a_storage_in_use_is_not_ended_and_is_told_why(world: World):
    world.register(*FILES, storage="north")
    with pytest.raises(Refused, match="6 copies are recorded there"):
        switches.decommission(world.ctx, "north")
    with pytest.raises(Refused, match="deliveries are made there"):
        switches.decommission(world.ctx, "mountain")
    assert may(world, "north") == "rwd"
    world.settle()


def test_many_moves_at_once_are_checked_in_a_moment(world: World):
    world.value("INSERT INTO transfer (file_id, target_id) SELECT n, 1 FROM generate_series(1, 20000) AS n RETURNING 1")
    with world.ctx.db.transaction() as conn:
        conn.execute("SET LOCAL statement_timeout = '60 s'")
        conn.execute("UPDATE transfer SET state = 'Failed'")
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Failed'") == 20000
