"""Steps 2 and 3: two verified copies at distinct centres, then free on site; and nothing else, whatever breaks."""

import errno
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Invalid, Unavailable
from lightkeeper.ports import Copied
from lightkeeper.steps import audit, delete, heal, replicate, report, topology, transfer
from lightkeeper.store import catalog
from lightkeeper.testing.faults import CorruptingMover

FILE = "/test/raw/n1.plain"


def bytes_at(world: World, storage: str, lfn: str = FILE) -> bytes | None:
    path = world.root / storage / lfn.lstrip("/")
    return path.read_bytes() if path.exists() else None


@pytest.mark.feature("S0-026", "S0-028", "S2-003", "S2-023", "S2-024", "S2-020")
def test_a_night_is_copied_to_two_centres_and_freed_on_site(world: World):
    original = world.deliver(FILE).read_bytes()
    world.ingest()
    world.settle()
    copies = world.copies(FILE)
    assert len(copies) == 2
    assert set(copies.values()) == {"Available"}
    assert "mountain" not in copies
    assert [bytes_at(world, storage) for storage in copies] == [original, original]
    assert bytes_at(world, "mountain") is None
    assert world.value("SELECT evidence -> 'copies' -> 1 ->> 'site' FROM intent WHERE state = 'Done'")


def test_the_second_copy_is_made_from_the_first_centre_so_that_the_sites_line_is_used_once(world: World):
    world.deliver(FILE)
    world.ingest()
    world.settle()
    sources = world.value(
        "SELECT array_agg(s.name ORDER BY t.transfer_id) FROM transfer t JOIN storage s ON s.storage_id = t.source_id"
    )
    assert sources[0] == "mountain"
    assert sources[1] != "mountain"


def test_a_copy_corrupted_on_the_way_never_counts_and_is_made_again(world: World):
    world.deliver(FILE)
    world.ingest()
    faulty = world.having(mover=CorruptingMover(StreamMover(), first=2))
    faulty.settle()
    assert sorted(world.copies(FILE).values()) == ["Available", "Available"]
    assert world.value("SELECT count(*) FROM remedy WHERE kind = 'transfer' AND what LIKE '%thrown away%'") == 2
    assert world.value("SELECT max(attempts) FROM transfer") == 3


def test_a_source_that_rotted_is_found_by_the_copy_and_not_spread(world: World):
    names = [f"/test/raw/n{n}.plain" for n in range(2)]
    world.register(*names, storage="north")
    replicate.settle(world.ctx)
    rotten = world.root / "north" / names[0].lstrip("/")
    rotten.write_bytes(b"X" + rotten.read_bytes()[1:])
    world.settle()
    assert world.copies(names[0]) == {"north": "Suspect"}
    assert len(world.copies(names[1])) == 2
    assert any(v.startswith("I1") for v in world.violations())
    rotten.write_bytes(f"content of {names[0]}".encode())
    audit.recheck(world.ctx)
    world.settle()
    assert len(world.copies(names[0])) == 2, "read again and in order, it is copied after all"


def test_a_copy_that_rotted_is_given_up_and_made_again_in_its_place_from_a_good_one(world: World):
    world.register(FILE, storage="north")
    world.settle()
    (other,) = set(world.copies(FILE)) - {"north"}
    (world.root / other / FILE.lstrip("/")).write_bytes(b"rotten")
    elements = {s.name: s.storage_id for s in world.storages}
    with world.ctx.db.transaction() as conn:
        (file_id,) = conn.execute("SELECT file_id FROM file").fetchone() or (0,)
        catalog.recheck(conn, [(file_id, elements[other])])
    audit.recheck(world.ctx)
    assert world.copies(FILE)[other] == "Lost"
    world.settle()
    assert sorted(world.copies(FILE).values())[:2] == ["Available", "Available"]
    assert "given up" in world.value("SELECT what FROM remedy WHERE kind = 'file'")


def test_copies_read_back_weeks_ago_are_read_again_before_the_site_is_freed(world: World):
    world.deliver(FILE)
    world.ingest()
    for _ in range(2):
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
    world.value("UPDATE replica SET verified_at = now() - interval '30 days', written_at = now() - interval '40 days'")
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM intent") == 0
    assert audit.recheck(world.ctx) == 2
    world.settle()
    assert "mountain" not in world.copies(FILE)
    assert report.why_file(world.ctx, FILE).waits == []


def test_nothing_is_deleted_while_only_one_centre_can_take_copies(world: World):
    one_centre = TOPOLOGY.replace('root: "ROOT/east"', 'root: "ROOT/east", enabled: false').replace(
        'root: "ROOT/south"', 'root: "ROOT/south", enabled: false'
    )
    topology.apply(world.ctx, one_centre.replace("ROOT", str(world.root)))
    world.deliver(FILE)
    world.ingest()
    world.settle()
    assert world.copies(FILE) == {"mountain": "Available", "north": "Available"}
    assert "only 1 can hold one" in report.why_file(world.ctx, FILE).waits[0]
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)))
    world.settle()
    assert "mountain" not in world.copies(FILE), "when the centres are back it goes on by itself"


class Dead(StreamMover):
    def carry(self, copies: Any) -> Any:
        for copy in copies:
            yield Copied(copy, error=Unavailable("the link is down"))


@pytest.mark.feature("S4-018")
def test_a_dead_link_is_tried_again_until_it_is_given_up_and_nothing_is_lost(world: World):
    world.deliver(FILE)
    world.ingest()
    world.having(mover=Dead()).settle()
    assert world.value("SELECT array_agg(state::text || attempts) FROM transfer") == ["Failed10"] * 3, (
        "each centre once"
    )
    assert world.copies(FILE) == {"mountain": "Available"}
    assert any("others failed" in str(facts) for event, facts in world.ctx.log.lines if event == "copies blocked")
    world.value("UPDATE transfer SET state_since = now() - interval '1 hour' RETURNING 1")
    world.value("UPDATE unsettled SET not_before = now() RETURNING 1")
    world.settle()
    assert len(world.copies(FILE)) == 2, "when the link is back it goes on by itself"


def test_a_deletion_is_void_when_its_evidence_no_longer_holds(world: World):
    world.deliver(FILE)
    world.ingest()
    for _ in range(4):
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 1
    centre = next(name for name in world.copies(FILE) if name != "mountain")
    world.value(
        "UPDATE replica SET state = 'Suspect' FROM storage WHERE storage.storage_id = replica.storage_id"
        " AND storage.name = %s RETURNING 1",
        centre,
    )
    delete.delete(world.ctx)
    assert world.copies(FILE)["mountain"] == "Available"
    assert bytes_at(world, "mountain") is not None
    assert world.value("SELECT state::text FROM intent") == "Void"


def test_a_crash_between_unlink_and_commit_ends_in_the_same_state(world: World, monkeypatch: pytest.MonkeyPatch):
    world.deliver(FILE)
    world.ingest()

    class Crash(Exception):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(delete.deletions, "deleted", crash)
        with pytest.raises(Crash):
            world.settle()
    assert bytes_at(world, "mountain") is None
    assert world.copies(FILE)["mountain"] == "Deleting", "it must not count as a copy"
    world.settle()
    assert "mountain" not in world.copies(FILE)
    assert report.why_file(world.ctx, FILE).waits == []
    assert world.value("SELECT state::text FROM intent") == "Done"


def test_a_crash_between_arrival_and_commit_copies_again_over_itself(world: World, monkeypatch: pytest.MonkeyPatch):
    world.deliver(FILE)
    world.ingest()

    class Crash(Exception):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(transfer.transfers, "arrived", crash)
        with pytest.raises(Crash):
            world.settle()
    heal.after_restart(world.ctx)
    world.settle()
    assert len(world.copies(FILE)) == 2


def test_a_copy_that_was_made_and_not_recorded_is_read_back_and_not_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.register(FILE)

    class Crash(Exception):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(transfer.transfers, "arrived", crash)
        with pytest.raises(Crash):
            world.settle()
    heal.after_restart(world.ctx)
    world.value("UPDATE transfer SET not_before = now() RETURNING 1")
    transfer.carry_out(world.having(mover=Dead()).ctx)
    assert len(world.copies(FILE)) == 2
    assert world.value("SELECT state::text || attempts FROM transfer") == "Done2"


def test_a_copy_that_is_there_with_other_bytes_is_made_again(world: World):
    world.register(FILE)
    replicate.settle(world.ctx)
    faulty = world.having(mover=Dead())
    transfer.carry_out(faulty.ctx)
    element = {s.storage_id: s for s in world.storages}[world.value("SELECT target_id FROM transfer")]
    whole = bytes_at(world, "north")
    assert whole is not None
    PosixStorage(element.name, element.root).write(FILE, [b"x" * len(whole)])
    world.settle()
    assert bytes_at(world, element.name) == whole


def test_a_late_worker_whose_transfer_was_taken_over_records_nothing(world: World):
    world.register(FILE)
    replicate.settle(world.ctx)
    (late,) = transfer.claim(world.ctx)
    heal.after_restart(world.ctx)
    (ours,) = transfer.claim(world.ctx)
    with world.ctx.db.transaction() as conn:
        assert transfer.transfers.still_ours(conn, [late]) == set()
        assert transfer.transfers.still_ours(conn, [ours]) == {ours.transfer_id}
    world.value("UPDATE transfer SET lease_until = now() - interval '1 s' RETURNING 1")
    heal.release_abandoned(world.ctx)
    world.settle()


@pytest.mark.feature("S0-024")
def test_a_link_carries_no_more_than_it_may(world: World):
    link = (
        "links:\n  - {from: Mountain, to: North, max_transfers: 2}\n  - {from: Mountain, to: East, max_transfers: 1}\n"
    )
    link += "  - {from: Mountain, to: South, max_transfers: 1}\n"
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)) + link)
    for n in range(20):
        world.deliver(f"/test/raw/n{n}.plain", night=f"2030-01-{1 + n % 3:02}")
    world.ingest()
    replicate.settle(world.ctx)
    names = {s.storage_id: s.name for s in world.storages}
    per_target = []
    while stream := transfer.claim(world.ctx):
        per_target.append(names[stream[0].target_id])
    assert {name: per_target.count(name) for name in set(per_target)} == {"north": 2, "east": 1, "south": 1}
    heal.after_restart(world.ctx)
    world.settle()


def test_every_storage_that_is_listed_holds_what_the_catalogue_says(world: World):
    for n in range(5):
        world.deliver(f"/test/raw/n{n}.plain")
    world.ingest()
    world.settle()
    for storage in world.storages:
        on_disk = {str(p.relative_to(storage.root)) for p in Path(storage.root).rglob("*.plain")}
        known = world.value("SELECT count(*) FROM replica WHERE storage_id = %s", storage.storage_id)
        counted = world.value(
            "SELECT coalesce((SELECT n_files FROM storage_count WHERE storage_id = %s), 0)", storage.storage_id
        )
        assert len(on_disk) == known == counted


class Unreadable(StreamMover):
    """The disk of the source gives an error in the middle of the file."""

    def carry(self, copies: Any) -> Any:
        for copy in copies:
            yield Copied(copy, error=OSError(errno.EIO, "Input/output error"))


def test_a_disk_error_at_the_source_is_an_attempt_that_failed_and_stops_nothing_else(world: World):
    names = [f"/test/raw/n{n}.plain" for n in range(3)]
    world.register(*names)
    replicate.settle(world.ctx)
    unreadable = world.having(mover=Unreadable())
    while transfer.carry_out(unreadable.ctx) and not world.value("SELECT bool_and(attempts > 0) FROM transfer"):
        pass
    assert world.value("SELECT array_agg(DISTINCT error) FROM transfer") == ["reading failed: Input/output error"]
    world.settle()
    assert all(len(world.copies(name)) == 2 for name in names)


def test_a_storage_that_is_away_makes_no_copy_lost(world: World):
    world.register(FILE, storage="north")
    world.settle()
    (world.root / "north").rename(world.root / "unmounted")
    elements = {s.name: s.storage_id for s in world.storages}
    with world.ctx.db.transaction() as conn:
        (file_id,) = conn.execute("SELECT file_id FROM file").fetchone() or (0,)
        catalog.recheck(conn, [(file_id, elements["north"])])
    audit.recheck(world.ctx)
    assert world.copies(FILE)["north"] == "Available"
    (world.root / "unmounted").rename(world.root / "north")


def ready_to_free(world: World) -> None:
    """Two verified copies, and an intent to delete the original that is not carried out yet."""
    world.deliver(FILE)
    world.ingest()
    for _ in range(3):
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 1


def test_of_two_workers_that_delete_the_one_whose_intent_was_voided_touches_nothing(world: World):
    ready_to_free(world)
    storage = world.value("SELECT storage_id FROM storage WHERE name = 'mountain'")
    with world.ctx.db.transaction() as conn:
        (stale,) = delete.deletions.next_intents(conn, storage, promised=True, cleared=False, limit=10)
    centre = next(name for name in world.copies(FILE) if name != "mountain")
    suspect = "UPDATE replica r SET state = 'Suspect' FROM storage s WHERE s.storage_id = r.storage_id AND s.name = %s"
    world.value(suspect, centre)
    delete.delete(world.ctx)
    delete._record(world.ctx, [stale], [])
    assert world.copies(FILE)["mountain"] == "Available"
    audit.recheck(world.ctx)
    world.settle()


def test_one_deletion_that_cannot_be_done_does_not_stop_the_others(world: World, monkeypatch: pytest.MonkeyPatch):
    other = "/test/raw/n2.plain"
    world.deliver(other)
    ready = PosixStorage.delete

    def failing(self: PosixStorage, path: str) -> bool:
        if path == FILE:
            raise Unavailable("the disk is read-only")
        return ready(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "delete", failing)
        world.deliver(FILE)
        world.ingest()
        world.settle()
        assert "mountain" in world.copies(FILE)
        assert "mountain" not in world.copies(other)
    world.settle()
    assert "mountain" not in world.copies(FILE)


def test_a_deletion_on_a_disk_that_is_not_mounted_is_not_taken_for_done_against_the_evidence(world: World):
    ready_to_free(world)
    (mountain,) = (s for s in world.storages if s.name == "mountain")
    assert len(delete._begin(world.ctx, mountain)[0]) == 1, "and the worker is gone"
    suspect = "UPDATE replica r SET state = 'Suspect' FROM storage s WHERE s.storage_id = r.storage_id AND s.name <> %s"
    world.value(suspect, "mountain")
    original = world.root / "mountain" / FILE[1:]
    original.rename(world.root / "away")
    delete.delete(world.ctx)
    assert world.copies(FILE)["mountain"] == "Lost"
    assert world.value("SELECT state::text FROM intent") == "Void"
    audit.recheck(world.ctx)
    world.settle()


def test_a_transfer_that_takes_longer_than_its_lease_is_not_taken_for_abandoned(world: World):
    class Slow(StreamMover):
        def carry(self, copies: Any) -> Any:
            time.sleep(1.2)
            heal.release_abandoned(world.ctx)
            return super().carry(copies)

    world.register(FILE)
    replicate.settle(world.ctx)
    brief = world.ctx.settings.model_copy(update={"lease": timedelta(seconds=0.8)})
    transfer.carry_out(world.having(mover=Slow(), settings=brief).ctx)
    assert world.value("SELECT state::text || attempts FROM transfer") == "Done1"


def test_a_late_arrival_of_a_transfer_that_was_taken_over_is_not_recorded(world: World):
    world.register(FILE)
    replicate.settle(world.ctx)

    class Overtaken(StreamMover):
        def carry(self, copies: Any) -> Any:
            heal.after_restart(world.ctx)
            return super().carry(copies)

    transfer.carry_out(world.having(mover=Overtaken()).ctx)
    assert world.value("SELECT state::text FROM transfer") == "Waiting"
    assert world.copies(FILE) == {"north": "Available"}
    world.settle()


def test_a_policy_that_could_never_free_is_refused(world: World):
    document = "policies:\n  raw: {files: {level: 0}, copies: 1, free_on_site: true}\n"
    with pytest.raises(Invalid, match="needs at least 2 copies"):
        topology.apply(world.ctx, document)
