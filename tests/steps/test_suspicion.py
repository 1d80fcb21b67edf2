"""Step 7: failed reads lead to the copy, or to the storage; what is lost is made again, by itself or when asked."""

import random
from typing import Any

import pytest
from tests.conftest import World
from tests.steps.test_audit import an_hour_ago, flip, heal_copies, names, on_disk, scrub_now

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.auditing import MANY, SILENT, Doubt, doubt
from lightkeeper.domain.errors import NotFound, Unavailable
from lightkeeper.steps import audit, compare, content, delete, repair, replicate, suspicion, topology, transfer
from lightkeeper.steps.repair import Action
from lightkeeper.store.suspicion import FailedRead

FILE = "/test/raw/n1.plain"


def silent(world: World, storage: str) -> World:
    """The same world, where every read from a storage times out."""

    class Silent(PosixStorage):
        def open(self, path: str) -> Any:
            if self.name == storage and "lightkeeper" not in path:
                raise Unavailable(f"storage {storage} gives no answer")
            return super().open(path)

    return world.having(storage_drivers={"posix": Silent})


def fails(world: World, file_id: int, storage: str, reader: str, *, wrong: bool) -> Doubt:
    storage_id = next(s.storage_id for s in world.storages if s.name == storage)
    with world.ctx.db.transaction() as conn:
        read = FailedRead(file_id, storage_id, reader, "it failed")
        return suspicion.failed(world.ctx, conn, read, wrong=wrong)


# --- suspicion -------------------------------------------------------------------------------------------------
def test_other_bytes_doubt_the_copy_at_once_silence_only_the_third_time_and_many_files_their_storage():
    assert doubt(True, 1, 1) is Doubt.COPY
    assert doubt(False, SILENT - 1, 1) is Doubt.NOTHING
    assert doubt(False, SILENT, 1) is Doubt.COPY
    assert doubt(True, 1, MANY) is Doubt.STORAGE


def test_a_copy_that_gives_no_answer_three_times_is_suspect_and_read_again(world: World):
    world.register(FILE)
    away = silent(world, "north")
    for n in range(SILENT):
        assert world.copies(FILE) == {"north": "Available"}, n
        with pytest.raises(Unavailable):
            content.read_copy(away.ctx, FILE)
    assert world.copies(FILE) == {"north": "Suspect"}
    (copy,) = suspicion.suspicious(world.ctx).copies
    assert (copy.lfn, copy.storage, copy.failures, copy.readers) == (FILE, "north", SILENT, ["get"])
    assert suspicion.suspicious(world.ctx, "east").copies == []
    audit.recheck(world.ctx)
    assert world.copies(FILE) == {"north": "Available"}
    assert suspicion.suspicious(world.ctx).copies == [], "what failed before says nothing any more"


def test_who_fails_to_read_is_told_with_the_copy(world: World):
    lfns = names(3)
    ids = world.register(*lfns)
    fails(world, ids[lfns[0]], "north", "job 7", wrong=True)
    fails(world, ids[lfns[1]], "north", "transfer 3", wrong=False)
    fails(world, ids[lfns[1]], "north", "job 8", wrong=False)
    flip(on_disk(world, "north", lfns[2]), 9)
    scrub_now(world, "north")
    told = {copy.lfn: copy for copy in suspicion.suspicious(world.ctx, "north").copies}
    assert {lfn: copy.readers for lfn, copy in told.items()} == {
        lfns[0]: ["job"],
        lfns[1]: ["job", "transfer"],
        lfns[2]: ["scrub"],
    }
    assert [told[lfn].state for lfn in lfns] == ["Suspect", "Available", "Suspect"]
    with pytest.raises(NotFound):
        suspicion.suspicious(world.ctx, "nowhere")
    on_disk(world, "north", lfns[2]).write_bytes(f"content of {lfns[2]}".encode())
    heal_copies(world)


def test_many_failures_on_one_storage_point_to_it_and_start_no_flood_of_copies(world: World):
    lfns = names(MANY + 10)
    ids = world.register(*lfns)
    world.settle()
    before = world.value("SELECT count(*) FROM replica")
    said = [fails(world, ids[lfn], "north", f"job {n}", wrong=True) for n, lfn in enumerate(lfns)]
    assert said.count(Doubt.STORAGE) == 11
    assert suspicion.suspicious(world.ctx).storages == {"north": MANY + 10}
    assert [world.copies(lfn)["north"] for lfn in lfns].count("Available") == 11
    assert any(event == "storage in doubt" for event, _ in world.ctx.log.lines)  # type: ignore[attr-defined]
    unread = world.value("SELECT count(*) FROM verified_copy JOIN storage USING (storage_id) WHERE name = 'north'")
    assert unread == 0, "what was not read since is no evidence for a deletion"
    heal_copies(world)
    assert world.value("SELECT count(*) FROM replica") <= before + MANY - 1
    assert {world.copies(lfn)["north"] for lfn in lfns} == {"Available"}
    assert world.value("SELECT count(*) FROM verified_copy JOIN storage USING (storage_id) WHERE name = 'north'")


# --- repair ----------------------------------------------------------------------------------------------------
def test_a_repair_says_what_it_would_do_and_then_does_it(world: World):
    lfns = names(4)
    world.register(*lfns)
    world.settle()
    good = {lfn: on_disk(world, "north", lfn).read_bytes() for lfn in lfns}
    elsewhere = {lfn: next(s for s in world.copies(lfn) if s != "north") for lfn in lfns}
    on_disk(world, "north", lfns[0]).unlink()
    fails(world, world.value("SELECT file_id FROM file WHERE name = 'n0000.plain'"), "north", "get", wrong=True)
    audit.recheck(world.ctx)
    assert world.copies(lfns[0])["north"] == "Lost"
    wanted = [*lfns[:2], "/test/nobody", "no name"]
    plan = repair.repair(world.ctx, wanted, dry_run=True)
    actions = {(step.lfn, step.storage): step.action for step in plan.steps}
    assert actions[lfns[0], "north"] is Action.COPY
    assert actions[lfns[0], elsewhere[lfns[0]]] is Action.KEEP
    assert {failure.lfn for failure in plan.failed} == {"/test/nobody", "no name"}
    assert world.value("SELECT count(*) FROM transfer WHERE state = 'Waiting'") == 0
    assert repair.repair(world.ctx, wanted) == plan
    assert world.value("SELECT priority FROM transfer WHERE state = 'Waiting'") == 0, "before everything that waits"
    transfer.carry_out(world.ctx)
    assert world.copies(lfns[0])["north"] == "Available"
    assert on_disk(world, "north", lfns[0]).read_bytes() == good[lfns[0]]
    assert repair.repair(world.ctx, [lfns[1]], every=True).steps[0].action is Action.READ
    assert world.value("SELECT count(*) FROM recheck") == 2
    world.settle()
    heal_copies(world)


def test_a_file_that_is_lost_everywhere_is_told_so_and_comes_back_when_its_bytes_are_found(world: World):
    world.register(FILE)
    world.settle()
    good = on_disk(world, "north", FILE).read_bytes()
    for storage in world.copies(FILE):
        on_disk(world, storage, FILE).unlink()
    world.value("UPDATE replica SET state = 'Suspect'")
    audit.recheck(world.ctx)
    assert set(world.copies(FILE).values()) == {"Lost"}
    told = [step for step in repair.repair(world.ctx, [FILE], dry_run=True).steps if step.action is Action.GIVE_UP]
    assert len(told) == 1
    assert "adopt" in told[0].why
    assert [v for v in world.violations() if v.startswith("I1 ")], "and fsck says so too"
    found = on_disk(world, "vault", FILE)
    found.parent.mkdir(parents=True)
    found.write_bytes(good)
    eager = world.having(settings=world.ctx.settings.model_copy(update={"dark_after": world.ctx.settings.lease * 0}))
    compare.compare(eager.ctx, "vault")
    assert compare.adopt(eager.ctx, "vault", [FILE], {}).failed == []
    world.settle()
    assert repair.repair(world.ctx, [FILE]).steps
    world.settle()
    assert sorted(world.copies(FILE).values()).count("Available") >= 3


def test_bytes_that_are_back_in_their_place_are_a_copy_again_when_they_were_read(world: World):
    world.register(FILE)
    good = on_disk(world, "north", FILE).read_bytes()
    on_disk(world, "north", FILE).unlink()
    world.value("UPDATE replica SET state = 'Suspect'")
    audit.recheck(world.ctx)
    assert world.copies(FILE) == {"north": "Lost"}
    on_disk(world, "north", FILE).write_bytes(good)
    assert {step.action for step in repair.repair(world.ctx, [FILE]).steps} == {Action.READ, Action.GIVE_UP}
    audit.recheck(world.ctx)
    assert world.copies(FILE) == {"north": "Available"}


# --- a lost centre ---------------------------------------------------------------------------------------------
FOUR = """
version: 1
sites: {West: {}}
storages:
  west: {site: West, root: "ROOT/west"}
"""


@pytest.mark.feature("S3-009", "S3-015")
def test_a_centre_that_is_lost_is_told_and_all_it_held_is_copied_again_to_the_three_others(world: World):
    (world.root / "west").mkdir()
    topology.apply(world.ctx, FOUR.replace("ROOT", str(world.root)))
    lfns = names(40)
    for n, lfn in enumerate(lfns):
        world.register(lfn, storage=("north", "east", "south", "west")[n % 4], kind=f"k{n % 7}")
    world.settle()
    held = [lfn for lfn in lfns if "east" in world.copies(lfn)]
    assert len(held) >= 10
    (world.root / "east").rename(world.root / "burnt")
    told = [v for v in world.violations() if "east" in v]
    assert len(told) == 1, "the audit says it once, for the storage"
    assert "not mounted" in told[0] or "is not there" in told[0]
    world.settle()
    assert all(world.copies(lfn)["east"] == "Available" for lfn in held), "a storage that does not answer loses nothing"
    down = "storages: {east: {site: East, root: 'ROOT/east', enabled: false}}"
    topology.apply(world.ctx, "version: 1\n" + down.replace("ROOT", str(world.root)))
    world.settle()
    for lfn in lfns:
        good = [s for s, state in world.copies(lfn).items() if s != "east" and state == "Available"]
        assert len(good) >= 2, lfn
        assert all(on_disk(world, s, lfn).read_bytes() == f"content of {lfn}".encode() for s in good)
    assert world.value("SELECT count(*) FROM intent") == 0
    assert world.violations() == []


# --- scrub at size ---------------------------------------------------------------------------------------------
def flipped_bits_are_found_and_repaired(world: World, files: int, flips: int) -> None:
    """T12: bits flipped in random replicas; one full scrub finds all of them, all are repaired, nothing is deleted."""
    chosen = random.Random(files)
    lfns = names(files)
    for first in range(0, files, 2000):
        world.register(*lfns[first : first + 2000])
    world.settle()
    copies = sorted(
        (lfn, storage)
        for storage in ("north", "east", "south")
        for lfn in lfns
        if on_disk(world, storage, lfn).exists()
    )
    assert len(copies) == 2 * files
    damaged: dict[str, str] = {}
    for lfn, storage in chosen.sample(copies, 2 * flips):
        if len(damaged) < flips and lfn not in damaged:  # a file whose every copy is damaged cannot be repaired
            damaged[lfn] = storage
    assert len(damaged) == flips
    for lfn, storage in damaged.items():
        flip(on_disk(world, storage, lfn), chosen.randrange(8 * 20))
    kept = {on_disk(world, storage, lfn) for lfn, storage in copies}
    scrub_now(world, "north", "east", "south")
    assert sum(audit.scrubs(world.ctx, s)[0].faults for s in ("north", "east", "south")) == flips
    assert all(path.exists() for path in kept), "none deleted elsewhere meanwhile"
    heal_copies(world)
    assert world.value("SELECT count(*) FROM intent") == 0
    for lfn in damaged:
        good = [s for s, state in world.copies(lfn).items() if state == "Available"]
        assert len(good) == 2
        assert {on_disk(world, s, lfn).read_bytes() for s in good} == {f"content of {lfn}".encode()}


def test_every_flipped_bit_is_found_in_one_scrub_and_repaired(world: World):
    flipped_bits_are_found_and_repaired(world, files=300, flips=60)


@pytest.mark.nightly
def test_a_thousand_flipped_bits_among_a_hundred_thousand_copies_are_found_and_repaired(world: World):
    flipped_bits_are_found_and_repaired(world, files=50_000, flips=1000)


# --- changed after it was verified -----------------------------------------------------------------------------
def changed_after_it_was_verified(world: World, n: int) -> None:
    """T14: copies change between their last reading and the deletion of the on-site one. What the deletion relies on
    was read within MAX_VERIFY_AGE; what changed since is found by the next scrub and repaired from the other copy."""
    lfns = names(n)
    for lfn in lfns:
        world.deliver(lfn)
    world.ingest()
    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx):
        pass
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == n
    good = {lfn: on_disk(world, "mountain", lfn).read_bytes() for lfn in lfns}
    for lfn in lfns:
        flip(on_disk(world, sorted(world.copies(lfn).keys() - {"mountain"})[0], lfn), 77)
    while delete.delete(world.ctx):
        pass
    assert world.value(
        "SELECT count(*) FROM intent i, jsonb_array_elements(evidence -> 'copies') c "
        "WHERE (c ->> 'verified_at')::timestamptz < i.created - interval '7 d'"
    ) == 0  # fmt: skip
    an_hour_ago(world)
    scrub_now(world, "north", "east", "south")
    heal_copies(world)
    for lfn in lfns:
        copies = [s for s, state in world.copies(lfn).items() if state == "Available"]
        assert len(copies) == 2
        assert {on_disk(world, s, lfn).read_bytes() for s in copies} == {good[lfn]}


def test_what_changed_after_it_was_verified_is_found_and_repaired_from_the_other_copy(world: World):
    changed_after_it_was_verified(world, 8)


@pytest.mark.nightly
def test_five_hundred_that_changed_after_they_were_verified_are_repaired(world: World):
    changed_after_it_was_verified(world, 500)


def test_a_deletion_never_relies_on_a_copy_that_was_read_too_long_ago(world: World):
    world.deliver(FILE)
    world.ingest()
    while transfer.carry_out(world.ctx) + replicate.settle(world.ctx):
        pass
    world.value(
        "UPDATE replica SET verified_at = verified_at - interval '8 d', written_at = written_at - interval '9 d'"
    )
    flip(on_disk(world, sorted(world.copies(FILE).keys() - {"mountain"})[0], FILE), 5)
    world.settle()
    assert on_disk(world, "mountain", FILE).exists(), "it is read again first, and found damaged"
    heal_copies(world)
    world.value("UPDATE unsettled SET not_before = now()")
    heal_copies(world)
    good = [s for s, state in world.copies(FILE).items() if state == "Available" and s != "mountain"]
    assert len(good) == 2
