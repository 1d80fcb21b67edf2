"""Step 3, its other half: what may go goes, within the hour's number; nothing else ever does, whoever hangs or dies."""

import os
import threading
from datetime import timedelta
from typing import Any

import pytest
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Conflict, Invalid, NotFound, Unavailable
from lightkeeper.domain.states import Intent
from lightkeeper.ports import Copied
from lightkeeper.steps import datasets, delete, deletions, expire, files, replicate, rules, topology, transfer
from lightkeeper.steps.datasets import NewDataset
from lightkeeper.steps.rules import NewRule
from lightkeeper.store import deletions as store
from lightkeeper.store.deletions import NewIntent

FILE = "/test/raw/n1.plain"


def names(n: int, area: str = "made") -> list[str]:
    return [f"/test/{area}/n{i:05}.plain" for i in range(n)]


def copied(world: World, lfns: list[str], *storages: str, **meta: Any) -> None:
    """Files with a verified copy at each of these storages, and no bytes that matter."""
    world.register(*lfns, storage=storages[0], **meta)
    ids = {s.name: s.storage_id for s in world.storages}
    for storage in storages[1:]:
        for lfn in lfns:
            root = world.root / storage
            PosixStorage(storage, root).write(lfn, [f"content of {lfn}".encode()])
        with world.ctx.db.transaction() as conn:
            conn.execute(
                "WITH new AS (INSERT INTO replica (file_id, storage_id)"
                " SELECT file_id, %s FROM file JOIN directory d USING (dir_id) WHERE d.path || '/' || name = ANY(%s)"
                " ON CONFLICT DO NOTHING RETURNING file_id)"
                " INSERT INTO storage_count AS c SELECT %s, count(*), sum(size) FROM new JOIN file USING (file_id)"
                " ON CONFLICT (storage_id) DO UPDATE SET n_files = c.n_files + excluded.n_files,"
                " n_bytes = c.n_bytes + excluded.n_bytes",
                (ids[storage], lfns, ids[storage]),
            )
    world.settle()


def ask(world: World, storage: str, why: str = "a test") -> dict[tuple[int, int], str]:
    """Approve the deletion of every copy at a storage that may go; what speaks against the others."""
    (storage_id,) = (s.storage_id for s in world.storages if s.name == storage)
    with world.ctx.db.transaction() as conn:
        pairs = conn.execute("SELECT file_id, storage_id FROM replica WHERE storage_id = %s", (storage_id,)).fetchall()
        return delete.approve(conn, pairs, "test", why)


def limited(world: World, **settings: Any) -> World:
    return world.having(settings=world.ctx.settings.model_copy(update=settings))


def open_intents(world: World) -> int:
    return world.value("SELECT count(*) FROM intent WHERE state = 'Approved'")


# --- what may go -----------------------------------------------------------------------------------------------
class Dead(StreamMover):
    def carry(self, copies: Any) -> Any:
        for copy in copies:
            yield Copied(copy, error=Unavailable("the link is down"))


def test_the_only_copy_stays_while_the_rule_elsewhere_fails_and_whoever_asks(world: World):
    """R1"""
    world.deliver(FILE)
    world.ingest()
    for _ in range(3):
        world.having(mover=Dead()).settle()
        assert "0 would be left" in next(iter(ask(world, "mountain").values()))
    assert world.copies(FILE) == {"mountain": "Available"}
    assert world.value("SELECT count(*) FROM intent") == 0


def test_the_last_copy_of_a_file_that_nothing_is_owed_stays(world: World):
    """R8"""
    copied(world, [FILE], "north", level=-1)
    assert next(iter(ask(world, "north").values())).startswith("0 of 2 data centres have a copy")
    assert world.copies(FILE) == {"north": "Available"}


def test_a_copy_too_many_goes_and_what_is_owed_stays(world: World):
    copied(world, names(3), "north", "east", "south", level=1)
    assert ask(world, "east") == {}
    assert set(ask(world, "south").values()) == {
        "policy made wants 2 copies on disk at distinct data centres; without this one 1 would be left"
    }
    world.settle()
    assert [sorted(world.copies(lfn)) for lfn in names(3)] == [["north", "south"]] * 3


def test_two_copies_of_a_file_that_are_asked_for_together_are_not_both_taken_for_the_others_evidence(world: World):
    copied(world, [FILE], "north", "east", "south", level=1)
    with world.ctx.db.transaction() as conn:
        pairs = conn.execute("SELECT file_id, storage_id FROM replica ORDER BY storage_id").fetchall()
        against = delete.approve(conn, pairs, "test", "all of them")
    assert len(against) == 2
    world.settle()
    assert len(world.copies(FILE)) == 2


def test_nothing_is_deleted_of_a_file_that_is_still_to_be_compared(world: World):
    """R3"""
    copied(world, [FILE], "north", "east", "south", level=1)
    ask(world, "south")
    world.value("INSERT INTO unsettled SELECT file_id FROM file RETURNING 1")
    assert delete.delete(world.ctx) == 0
    assert "south" in world.copies(FILE)
    assert "still to be compared" in next(iter(ask(world, "east").values()))
    world.settle()
    assert "south" not in world.copies(FILE)


def test_old_evidence_is_read_again_before_a_copy_goes(world: World):
    copied(world, [FILE], "north", "east", "south", level=1)
    world.value("UPDATE replica SET verified_at = now() - interval '8 days', written_at = now() - interval '9 days'")
    assert "0 of 2 data centres have a copy verified in the last 7 days" in next(iter(ask(world, "south").values()))
    assert world.value("SELECT count(*) FROM recheck") == 2


def test_a_copy_that_is_being_read_goes_later(world: World):
    copied(world, [FILE], "north", "east", "south", level=1)
    ask(world, "south")
    world.value(
        "INSERT INTO transfer (file_id, source_id, target_id, state)"
        " SELECT file_id, r.storage_id, v.storage_id, 'Running'"
        " FROM replica r JOIN storage s USING (storage_id), storage v WHERE s.name = 'south' AND v.name = 'vault'"
        " RETURNING 1"
    )
    assert delete.delete(world.ctx) == 0
    assert world.copies(FILE)["south"] == "Available"
    world.value("DELETE FROM transfer RETURNING 1")
    world.settle()
    assert "south" not in world.copies(FILE)


def test_a_deletion_is_void_when_a_rule_came_meanwhile(world: World):
    copied(world, [FILE], "north", "east", "south", level=1)
    ask(world, "south")
    rules.add(world.ctx, NewRule("three", "level = 1", 3))
    world.settle()
    assert len(world.copies(FILE)) == 3
    (told,) = deletions.find(world.ctx, lfn=FILE)
    assert "wants 3 copies" in (told.outcome or "")


# --- several workers, crashes ----------------------------------------------------------------------------------
class Hanging(PosixStorage):
    """Deletes on one storage hang until they are let go."""

    hangs = threading.Event()
    go = threading.Event()

    def delete(self, path: str) -> bool:
        if self.root.name == "south" and not path.startswith("/.lightkeeper"):
            Hanging.hangs.set()
            Hanging.go.wait(30)
        return super().delete(path)


def test_a_storage_that_hangs_holds_up_no_other_and_nobody_else_touches_its_files(world: World):
    """R5: what holds for a thread that hangs holds for a process that is stopped."""
    copied(world, names(3), "north", "south", "east", level=1)
    copied(world, names(2, "more"), "north", "south", "east", level=1)
    Hanging.hangs.clear()
    Hanging.go.clear()
    hanging = world.having(storage_drivers={"posix": Hanging})
    ids = {s.name: s.storage_id for s in world.storages}
    with world.ctx.db.transaction() as conn:
        pairs = conn.execute(
            "SELECT file_id, CASE WHEN d.path LIKE '%%made' THEN %s ELSE %s END::int"
            " FROM file JOIN directory d USING (dir_id)",
            (ids["south"], ids["east"]),
        ).fetchall()
        assert delete.approve(conn, pairs, "test", "a test") == {}
    late = threading.Thread(target=delete.delete, args=(hanging.ctx,))
    late.start()
    assert Hanging.hangs.wait(10)
    try:
        for _ in range(3):
            delete.delete(world.ctx)
        assert all("east" not in world.copies(lfn) for lfn in names(2, "more")), "the other storage goes on"
        assert {world.copies(lfn)["south"] for lfn in names(3)} == {"Deleting"}, "and nobody takes these over"
        replicate.settle(world.ctx)  # no row is locked that others need
        assert files.mark_corrupted(world.ctx, names(3), "a look at locks", dry_run=True).failed == []
    finally:
        Hanging.go.set()
        late.join()
    world.settle()
    assert all(sorted(world.copies(lfn)) == ["east", "north"] for lfn in names(3))
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 5, "each once"


def test_evidence_that_got_old_on_the_way_is_checked_again(world: World, monkeypatch: pytest.MonkeyPatch):
    copied(world, names(3), "north", "east", "south", level=1)
    ask(world, "south")
    with monkeypatch.context() as patch:
        patch.setattr(delete, "FRESH", -1.0)
        assert delete.delete(world.ctx) == 0, "the worker slept between check and unlink"
    assert {world.copies(lfn)["south"] for lfn in names(3)} == {"Deleting"}
    world.value(
        "UPDATE replica r SET state = 'Suspect' FROM storage s WHERE s.storage_id = r.storage_id AND s.name = 'east'"
    )
    delete.delete(world.ctx)
    assert {world.copies(lfn)["south"] for lfn in names(3)} == {"Available"}, "the other copy is in doubt now"
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Void'") == 3


def test_what_a_worker_had_begun_when_it_died_is_ended_by_the_next(world: World):
    """R4"""
    copied(world, names(4), "north", "east", "south", level=1)
    ask(world, "south")
    (south,) = (s for s in world.storages if s.name == "south")
    begun, _ = delete._begin(world.ctx, south)
    assert len(begun) == 4
    PosixStorage("south", south.root).delete(begun[0].path)
    world.settle()
    assert all(sorted(world.copies(lfn)) == ["east", "north"] for lfn in names(4))
    assert (open_intents(world), world.value("SELECT count(*) FROM replica WHERE state = 'Deleting'")) == (0, 0)


def test_two_workers_delete_exactly_what_the_hour_allows(world: World):
    """R2"""
    copied(world, names(60), "north", "east", "south", level=1)
    ask(world, "south")
    both = limited(world, deletions_per_hour=25, deletions_percent=0)
    workers = [threading.Thread(target=lambda: [delete.delete(both.ctx) for _ in range(5)]) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 25


# --- the hour's number -----------------------------------------------------------------------------------------
def test_a_mistake_that_marks_everything_stops_until_two_people_approve(world: World):
    """T27"""
    copied(world, names(40), "north", "east", "south", level=1)
    ask(world, "south", "a rule by mistake")
    few = limited(world, deletions_per_hour=10, deletions_percent=1)
    while delete.delete(few.ctx):
        pass
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 10
    (stopped,) = deletions.stopped(few.ctx)
    assert (stopped.storage, stopped.waiting) == ("south", 30)
    assert [e for e, _ in world.ctx.log.lines].count("deletions stopped") == 1, "told once"  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match="is not a name for a person"):
        deletions.approve(few.ctx, "south", "")
    assert deletions.approve(few.ctx, "south", "maria").cleared == 0
    assert deletions.approve(few.ctx, "south", "Maria").cleared == 0, "the same person twice is one"
    assert delete.delete(few.ctx) == 0
    assert deletions.approve(few.ctx, "south", "jon", dry_run=True).cleared == 30
    assert delete.delete(few.ctx) == 0
    assert deletions.approve(few.ctx, "south", "jon").cleared == 30
    while delete.delete(few.ctx):
        pass
    assert open_intents(world) == 0
    assert world.value("SELECT DISTINCT cleared_by FROM intent WHERE cleared_by IS NOT NULL") == ["maria", "jon"]
    assert deletions.stopped(few.ctx) == []
    with pytest.raises(Conflict, match="no deletion at south waits"):
        deletions.approve(few.ctx, "south", "jon")


def test_what_came_after_somebody_approved_needs_its_own_approval(world: World):
    copied(world, names(10), "north", "east", "south", level=1)
    ask(world, "south")
    few = limited(world, deletions_per_hour=2, deletions_percent=0)
    delete.delete(few.ctx)
    deletions.approve(few.ctx, "south", "maria")
    copied(world, names(5, "later"), "north", "east", "south", level=1)
    ask(world, "south")
    delete.delete(few.ctx)
    assert deletions.approve(few.ctx, "south", "jon").cleared == 8
    while delete.delete(few.ctx):
        pass
    assert open_intents(world) == 5
    assert deletions.stopped(few.ctx)[0].waiting == 5


def test_a_stop_ends_when_what_waits_is_undone(world: World):
    copied(world, names(5), "north", "east", "south", level=1)
    ask(world, "south")
    few = limited(world, deletions_per_hour=2, deletions_percent=0)
    delete.delete(few.ctx)
    assert deletions.undo(few.ctx, "maria", storage="south").undone == 3
    world.value("UPDATE intent SET state = state")
    copied(world, ["/test/made/other.plain"], "north", "east", "south", level=1)
    delete.delete(few.ctx)
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Void'") == 3


def test_what_a_policy_promised_before_the_files_came_is_not_stopped(world: World):
    few = limited(world, deletions_per_hour=1, deletions_percent=0)
    for n in range(6):
        world.deliver(f"/test/raw/n{n}.plain")
    few.ingest()
    few.settle()
    assert all("mountain" not in world.copies(f"/test/raw/n{n}.plain") for n in range(6))
    assert deletions.stopped(few.ctx) == []


def test_a_policy_that_is_changed_to_free_what_is_there_already_is_stopped(world: World):
    kept = TOPOLOGY.replace("copies: 2, free_on_site: true", "copies: 2").replace("ROOT", str(world.root))
    topology.apply(world.ctx, kept)
    few = limited(world, deletions_per_hour=2, deletions_percent=0)
    for n in range(6):
        world.deliver(f"/test/raw/n{n}.plain")
    few.ingest()
    few.settle()
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)))
    few.settle()
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 2
    assert deletions.stopped(few.ctx)[0].waiting == 4


def test_promised_deletions_have_a_number_of_their_own_and_the_rest_waits_for_its_hour(world: World):
    few = limited(world, promised_deletions_per_hour=4)
    for n in range(6):
        world.deliver(f"/test/raw/n{n}.plain")
    few.ingest()
    few.settle()
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 4
    world.value("UPDATE deletion_minute SET minute = minute - interval '61 minutes'")
    few.settle()
    assert open_intents(world) == 0


def test_a_storage_may_have_its_own_number(world: World):
    document = TOPOLOGY.replace('root: "ROOT/south"', 'root: "ROOT/south", deletions_per_hour: 3')
    changes = topology.apply(world.ctx, document.replace("ROOT", str(world.root)))
    assert changes == ["storage south: deletions_per_hour None → 3"]
    assert topology.apply(world.ctx, document.replace("ROOT", str(world.root))) == []
    copied(world, names(5), "north", "east", "south", level=1)
    ask(world, "south")
    world.settle()
    assert world.value("SELECT count(*) FROM history WHERE target = 'Deleted'") == 3


# --- undo, pause -----------------------------------------------------------------------------------------------
def test_a_deletion_that_somebody_asked_for_can_be_undone_until_it_begins(world: World):
    copied(world, names(3), "north", "east", "south", level=1)
    slow = limited(world, deletion_delay=timedelta(minutes=5))
    assert len(files.remove(slow.ctx, names(3), "outdated").done) == 3
    slow.settle()
    assert open_intents(world) == 9
    assert delete.delete(slow.ctx) == 0
    first = min(i.intent_id for i in deletions.find(world.ctx, lfn=names(3)[0]))
    assert deletions.undo(slow.ctx, "maria", ids=[first], dry_run=True).came_back == 1
    assert open_intents(world) == 9
    undone = deletions.undo(slow.ctx, "maria", ids=[first])
    assert (undone.came_back, undone.refused) == (1, {})
    assert open_intents(world) == 6, "a file comes back with all its copies"
    world.value("UPDATE intent SET not_before = now()")
    world.settle()
    assert len(world.copies(names(3)[0])) == 3
    assert world.copies(names(3)[1]) == {}
    assert deletions.undo(world.ctx, "maria", ids=[first]).refused == {f"there is no open deletion {first}": 1}


def test_what_a_policy_says_is_not_undone_and_says_so(world: World):
    world.deliver(FILE)
    world.ingest()
    for _ in range(3):
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
    refused = deletions.undo(world.ctx, "maria", storage="mountain").refused
    assert refused == {"policy raw says so: change the policy, or pause the storage's deletions": 1}
    world.settle()


def test_deletions_are_paused_and_go_on(world: World):
    copied(world, names(2), "north", "east", "south", level=1)
    ask(world, "south")
    with pytest.raises(NotFound, match="storage 'nowhere' does not exist"):
        deletions.pause(world.ctx, ["nowhere"], "maria", "")
    assert len(deletions.pause(world.ctx, [], "maria", "a disk is being looked at")) == 5
    assert delete.delete(world.ctx) == 0
    assert deletions.stopped(world.ctx)[0].paused == "maria: a disk is being looked at"
    deletions.resume(world.ctx, ["south"])
    world.settle()
    assert open_intents(world) == 0


def test_a_deletion_is_shown_with_its_evidence(world: World):
    copied(world, [FILE], "north", "east", "south", level=1)
    ask(world, "south", "there are enough")
    (one,) = deletions.find(world.ctx, storage="south", state=Intent.APPROVED)
    assert deletions.show(world.ctx, one.intent_id) == one
    assert (one.lfn, one.why, one.actor, one.evidence["wanted"]) == (FILE, "there are enough", "test", 2)
    assert [copy["storage"] for copy in one.evidence["copies"]] == ["east", "north"]  # type: ignore[attr-defined]
    with pytest.raises(NotFound):
        deletions.show(world.ctx, 99999)
    world.settle()


def test_a_deletion_without_evidence_is_a_violation(world: World):
    copied(world, [FILE], "north", "east", level=1)
    with world.ctx.db.transaction() as conn:
        (pair,) = conn.execute(
            "SELECT file_id, storage_id FROM replica JOIN storage USING (storage_id) WHERE name = 'east'"
        ).fetchall()
        store.add_intents(conn, [NewIntent(*pair, 2, "no reason")], "test")
    assert any(violation.startswith("I2") for violation in world.violations())
    world.value("UPDATE intent SET state = 'Void'")


# --- lifetimes -------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3-020", "S3-063")
def test_temporary_files_are_removed_when_their_lifetime_is_over_and_protected_ones_stay(world: World):
    document = TOPOLOGY + "  brief: {files: {level: 5}, copies: 1, remove_after_hours: 2}\n"
    short = document.replace('level: {">=": 1}', 'level: {"<": 5, ">=": 1}').replace("ROOT", str(world.root))
    topology.apply(world.ctx, short)
    assert topology.apply(world.ctx, short) == []
    copied(world, names(4), "north", level=5)
    copied(world, names(1, "kept"), "north", level=5, night="2031-01-01")
    assert expire.expire(world.ctx) == 0
    rules.add(world.ctx, NewRule("keep", "night = 2031-01-01", 1))
    datasets.create(world.ctx, NewDataset("frozen", f'name = "{names(1)[0].rpartition("/")[2]}"'))
    datasets.freeze(world.ctx, "frozen")
    world.settle()
    world.value("UPDATE file SET created = now() - interval '3 hours'")
    world.value("UPDATE policy SET promised = now() - interval '4 hours'")
    none = limited(world, deletions_per_hour=0, deletions_percent=0)
    assert expire.expire(none.ctx) == 3
    none.settle()
    assert [world.copies(lfn) for lfn in names(4)] == [{"north": "Available"}, {}, {}, {}]
    assert world.copies(names(1, "kept")[0]) == {"north": "Available"}
    assert world.value("SELECT count(*) FROM intent WHERE why = 'its lifetime by policy brief is over'") == 3


@pytest.mark.nightly
@pytest.mark.feature("S0-086")
def test_a_hundred_thousand_outdated_files_are_removed_and_protected_ones_stay(world: World):
    n = int(os.environ.get("LIGHTKEEPER_TEST_REMOVALS", "100000"))
    outdated, dear = names(n), names(n // 100, "dear")
    for lfns, kind in ((outdated, "outdated"), (dear, "dear")):
        for start in range(0, len(lfns), 10_000):
            copied(world, lfns[start : start + 10_000], "north", "east", level=1, kind=kind)
    rules.add(world.ctx, NewRule("dear", 'kind = "dear"', copies=2, at="name=north|name=east", protect=True))
    world.settle()
    removed = [files.remove(world.ctx, outdated[s : s + 1000], "reprocessed") for s in range(0, n, 1000)]
    assert sum(len(one.done) for one in removed) == n
    assert len(files.remove(world.ctx, dear, "a slip").failed) == len(dear)
    go = limited(world, deletion_delay=timedelta(0))
    go.settle()
    for storage in ("north", "east"):
        for person in ("maria", "jon"):
            deletions.approve(go.ctx, storage, person)
    go.settle()
    assert open_intents(world) == 0
    for storage in ("north", "east"):
        there = {path.name for path in (world.root / storage / "test/made").rglob("*")}
        assert not there
        assert len(list((world.root / storage / "test/dear").iterdir())) == len(dear)
