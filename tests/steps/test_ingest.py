"""Step 1: what comes in is verified and registered, or refused with the reason; never anything between."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import World
from tests.steps.hostile import HostileObservatory, SometimesAway

from lightkeeper.steps import ingest, topology, watch
from lightkeeper.store import catalog, triggers

FILE = "/test/raw/n1.plain"


def files(world: World) -> set[str]:
    return {file.lfn for file in world.files()}


def reasons(world: World) -> dict[str, str]:
    with world.ctx.db.transaction() as conn:
        return dict(conn.execute("SELECT path, reason FROM trigger WHERE state = 'Quarantined'").fetchall())


def quarantine(world: World) -> dict[str, Path]:
    folder = world.root / "mountain" / ".lightkeeper" / "quarantine"
    return {path.name: path for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.feature("S0-091", "S0-092", "S0-039")
def test_a_delivered_file_is_registered_with_its_metadata_replica_and_provenance_and_then_its_trigger_goes(
    world: World,
):
    delivered = world.deliver(FILE, kind="muon", number=7)
    world.ingest()
    with world.ctx.db.transaction() as conn:
        (file,) = catalog.files_by_lfn(conn, [FILE])
        (activity,) = conn.execute("SELECT name FROM activity WHERE activity_id = %s", (file.activity_id,)).fetchall()
    assert file.meta == {"level": 0, "night": "2030-01-02", "kind": "muon", "number": 7}
    assert file.size == delivered.stat().st_size
    assert world.copies(FILE) == {"mountain": "Available"}
    assert activity[0] == "ingest"
    assert not delivered.with_name(delivered.name + ".trigger").is_symlink()


@pytest.mark.feature("S3-029")
def test_a_file_without_a_trigger_is_not_touched(world: World):
    delivered = world.deliver(FILE, trigger=False)
    world.ingest()
    assert files(world) == set()
    assert delivered.exists()


def test_a_night_of_many_files_shares_its_metadata_set(world: World):
    for n in range(50):
        world.deliver(f"/test/raw/n{n}.plain", number=n)
    world.ingest()
    assert len(files(world)) == 50
    assert world.value("SELECT count(*) FROM meta_set") == 1
    assert world.value("SELECT n_files FROM set_count") == 50


@pytest.mark.parametrize(
    ("content", "meta", "why"),
    [
        ("size=1", {}, "has 1 bytes, but has"),
        ("light", {"nigth": "2030-01-02"}, "unknown metadata key 'nigth'"),
        ("light", {"level": "zero"}, "'level' is of type int"),
    ],
)
def test_a_bad_file_is_quarantined_with_its_trigger_and_the_reason_and_never_registered(
    world: World, content: str, meta: dict[str, Any], why: str
):
    delivered = world.deliver(FILE, content, **meta)
    before = delivered.read_bytes()
    world.ingest()
    assert files(world) == set()
    assert why in reasons(world)[FILE]
    kept = quarantine(world)
    assert set(kept) == {"n1.plain", "n1.plain.trigger", "n1.plain.reason"}
    assert kept["n1.plain"].read_bytes() == before
    assert why in kept["n1.plain.reason"].read_text()
    assert not delivered.exists()
    assert not delivered.with_name("n1.plain.trigger").is_symlink()


def test_one_bad_file_does_not_stop_the_others(world: World):
    world.deliver("/test/raw/bad.plain", "size=1")
    world.deliver("/test/raw/good.plain")
    world.ingest()
    assert files(world) == {"/test/raw/good.plain"}
    assert set(reasons(world)) == {"/test/raw/bad.plain"}


def test_a_trigger_whose_data_file_does_not_come_is_quarantined_when_patience_ends(world: World):
    (world.root / "mountain/test").mkdir()
    (world.root / "mountain/test/never.plain.trigger").touch()
    world.ingest()
    assert "its data file did not come" in reasons(world)["/test/never.plain"]


def test_a_data_file_that_comes_later_than_its_trigger_is_registered(world: World):
    patient = world.having(settings=world.ctx.settings.model_copy(update={"trigger_patience": timedelta(minutes=5)}))
    (world.root / "mountain/test").mkdir()
    (world.root / "mountain/test/late.plain.trigger").touch()
    patient.ingest()
    assert reasons(world) == {}
    world.deliver("/test/late.plain", trigger=False)
    world.value("UPDATE trigger SET not_before = now() RETURNING 1")
    patient.ingest()
    assert files(world) == {"/test/late.plain"}


def test_a_name_that_no_reader_knows_is_refused(world: World):
    world.deliver("/test/raw/n1.unknown")
    world.ingest()
    assert "no installed reader" in reasons(world)["/test/raw/n1.unknown"]


def test_a_name_that_cannot_be_in_the_catalogue_is_refused(world: World):
    world.deliver("/test/raw/n 1.plain")
    world.ingest()
    assert "part 'n 1.plain' is not allowed" in reasons(world)["/test/raw/n 1.plain"]


def test_a_trigger_that_names_a_folder_or_a_link_to_elsewhere_is_refused(world: World):
    (world.root / "mountain/test/folder.plain").mkdir(parents=True)
    (world.root / "mountain/test/folder.plain.trigger").touch()
    (world.root / "secret").write_text("{}\n")
    (world.root / "mountain/test/link.plain").symlink_to(world.root / "secret")
    (world.root / "mountain/test/link.plain.trigger").touch()
    (world.root / "mountain/test/.trigger").touch()
    world.ingest()
    assert files(world) == set()
    assert {"/test/folder.plain", "/test/link.plain"} <= set(reasons(world))
    assert (world.root / "secret").exists()
    assert not list((world.root / "mountain/test").glob("*.trigger")), "no trigger is looked at for ever"


def test_delivering_the_same_file_again_is_the_same_delivery(world: World):
    for _ in range(3):
        world.deliver(FILE)
        world.ingest()
    assert files(world) == {FILE}
    assert world.value("SELECT count(*) FROM replica") == 1
    assert world.value("SELECT count(*) FROM trigger WHERE state = 'Registered'") == 3


def test_another_content_under_a_known_name_is_quarantined_and_the_overwritten_replica_counts_no_more(world: World):
    world.deliver(FILE, "first")
    world.ingest()
    world.settle()
    world.deliver(FILE, "second")
    world.ingest()
    assert "registered already with another content" in reasons(world)[FILE]
    assert "second" in quarantine(world)["n1.plain"].read_text()
    assert sorted(world.copies(FILE).values()) == ["Available", "Available"]
    with world.ctx.db.transaction() as conn:
        (file,) = catalog.files_by_lfn(conn, [FILE])
    assert file.size == len('{"level": 0, "night": "2030-01-02"}\nfirst')


def test_overwriting_the_only_copy_is_not_hidden(world: World):
    world.deliver(FILE, "first")
    world.ingest()
    world.deliver(FILE, "second")
    world.ingest()
    assert world.copies(FILE) == {"mountain": "Lost"}
    assert [v for v in world.violations() if v.startswith("I1")], "fsck must say that the last copy is gone"
    world.deliver(FILE, "first")
    world.ingest()
    assert world.copies(FILE) == {"mountain": "Available"}, "delivered again as it was, it is in order again"


def test_a_crash_after_the_commit_and_before_the_trigger_is_removed_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    delivered = world.deliver(FILE)
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_remove_trigger_files", lambda *_: None)
        world.ingest()
    assert delivered.with_name("n1.plain.trigger").is_symlink()
    world.ingest()
    assert files(world) == {FILE}
    assert not delivered.with_name("n1.plain.trigger").is_symlink()


def test_a_worker_that_lost_its_claim_registers_nothing(world: World):
    world.deliver(FILE)
    watch.scan(world.ctx)
    with world.ctx.db.transaction() as conn:
        (stale,) = triggers.claim(conn, 10, timedelta(seconds=-1))
    with world.ctx.db.transaction() as conn:
        (ours,) = triggers.claim(conn, 10, timedelta(minutes=1))
    with world.ctx.db.transaction() as conn:
        assert triggers.still_ours(conn, [stale]) == set()
        assert triggers.still_ours(conn, [ours]) == {ours.trigger_id}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_with_the_reason(world: World):
    world.deliver(FILE).chmod(0)
    world.ingest()
    assert FILE in reasons(world)


def test_a_reader_that_fails_stops_only_its_own_file(world: World):
    world = world.having(observatories=(HostileObservatory(),))
    world.deliver("/test/raw/fail-1.plain")
    world.deliver("/test/raw/good.plain")
    world.ingest()
    assert files(world) == {"/test/raw/good.plain"}
    assert "its reader failed: RecursionError" in reasons(world)["/test/raw/fail-1.plain"]


def test_a_storage_that_does_not_answer_makes_deliveries_wait_and_not_go_into_quarantine(world: World):
    world = world.having(storage_drivers={"posix": SometimesAway})
    world.deliver(FILE)
    (world.root / "away").touch()
    world.ingest()
    assert reasons(world) == {}
    (world.root / "away").unlink()
    world.value("UPDATE trigger SET not_before = now()")
    world.ingest()
    assert files(world) == {FILE}


def test_a_trigger_named_like_a_folder_moves_no_folder(world: World):
    world.deliver(FILE)
    world.ingest()
    (world.root / "mountain/test.trigger").touch()
    world.ingest()
    assert "/test" in reasons(world)
    assert world.copies(FILE) == {"mountain": "Available"}
    assert (world.root / "mountain" / FILE[1:]).exists()


def test_a_damaged_redelivery_of_a_registered_file_takes_its_replica_out_of_account(world: World):
    world.deliver(FILE)
    world.ingest()
    world.settle()
    world.deliver(FILE)
    world.ingest()
    assert world.copies(FILE)["mountain"] == "Available"
    world.deliver(FILE, "size=1")
    world.ingest()
    assert "has 1 bytes" in reasons(world)[FILE]
    assert world.copies(FILE)["mountain"] == "Lost"


def test_names_that_are_no_text_or_too_long_do_not_stop_the_scan(world: World):
    strange = os.fsencode(world.root / "mountain") + b"/bad\xff"
    os.mkdir(strange)  # noqa: PTH102  # a name that is no text
    with open(strange + b"/x.plain.trigger", "wb"):  # noqa: PTH123
        pass
    deep = world.root / "mountain"
    for _ in range(6):
        deep /= "d" * 200
        deep.mkdir()
    (deep / "x.plain.trigger").touch()
    world.deliver(FILE)
    world.ingest()
    assert files(world) == {FILE}
    os.remove(strange + b"/x.plain.trigger")  # noqa: PTH107
    os.rmdir(strange)  # noqa: PTH106


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 of a character"])
def test_metadata_that_no_catalogue_can_keep_refuse_their_own_file_only(world: World, text: str):
    world.deliver("/test/raw/bad.plain", kind=text)
    world.deliver(FILE)
    world.ingest()
    assert files(world) == {FILE}
    assert "no catalogue can keep" in reasons(world)["/test/raw/bad.plain"]


def test_the_same_name_with_other_content_at_two_interfaces_is_registered_once_and_refused_once(world: World):
    (world.root / "valley").mkdir()
    more = f"storages:\n  valley: {{site: Mountain, root: {world.root}/valley, ingest: true}}\n"
    topology.apply(world.ctx, more)
    world.deliver(FILE, "first")
    other = world.root / "valley" / FILE[1:]
    other.parent.mkdir(parents=True)
    other.write_text('{"level": 0, "night": "2030-01-02"}\nsecond')
    other.with_name(other.name + ".trigger").touch()
    world.ingest()
    world.value("UPDATE trigger SET not_before = now() WHERE state = 'Accepted'")
    world.ingest()
    assert "another content" in reasons(world)[FILE]
    assert list(world.copies(FILE).values()) == ["Available"]


def test_a_trigger_that_is_written_anew_while_its_file_is_registered_is_a_new_delivery(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    delivered = world.deliver(FILE)
    trigger = delivered.with_name("n1.plain.trigger")
    register = ingest._register

    def slowly(*arguments: Any) -> Any:
        outcome = register(*arguments)
        trigger.unlink()
        trigger.touch()
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_register", slowly)
        watch.scan(world.ctx)
        ingest.register_accepted(world.ctx)
    assert trigger.exists()
    ingest.register_accepted(world.ctx)
    assert not trigger.exists()
    assert world.value("SELECT count(*) FROM trigger WHERE state = 'Registered'") == 2
