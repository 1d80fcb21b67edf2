"""What is refused is kept with its reason until a person decides: verified again, released, or discarded."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.conftest import World

from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.settings import Settings
from lightkeeper.steps import quarantine
from lightkeeper.steps.quarantine import Which
from lightkeeper.store import catalog
from lightkeeper.store import quarantine as store

FILE = "/test/raw/n1.plain"
ALL = Which(pattern="*")


def lfns(world: World) -> set[str]:
    return {file.lfn for file in world.files()}


def refuse(world: World, path: str = FILE, content: str = "size=1", **meta: object) -> int:
    """A delivery that was refused; its number."""
    world.deliver(path, content, **meta)
    world.ingest()
    (one,) = quarantine.find(world.ctx, Which(pattern=path))
    return one.number


def lying(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if not path.is_dir()} if folder.exists() else set()


def home_of(world: World) -> Path:
    return world.root / "mountain" / ".lightkeeper" / "quarantine"


def test_refused_deliveries_are_found_by_number_pattern_and_storage(world: World):
    first, second = refuse(world), refuse(world, "/test/other/n2.plain")
    find = quarantine.find
    assert [one.number for one in find(world.ctx, Which())] == [second, first]
    assert [one.number for one in find(world.ctx, Which((first,)))] == [first]
    assert [one.path for one in find(world.ctx, Which(pattern="*/other/*"))] == ["/test/other/n2.plain"]
    assert find(world.ctx, Which(storage="north")) == []
    with pytest.raises(NotFound, match="'nowhere' does not exist"):
        find(world.ctx, Which(storage="nowhere"))


def test_a_refused_delivery_tells_its_story(world: World):
    number = refuse(world)
    story = quarantine.show(world.ctx, number)
    assert "has 1 bytes" in story.delivery.reason
    assert [(turn.source, turn.target) for turn in story.turns] == [("Accepted", "Quarantined")]
    assert set(story.files) == {"n1.plain", "n1.plain.trigger", "n1.plain.reason"}
    with pytest.raises(NotFound):
        quarantine.show(world.ctx, number + 1)


def test_what_was_repaired_is_verified_again_and_registered(world: World):
    number = refuse(world, "/test/raw/n1.plain", "light", nigth="2030-01-02")
    lies = home_of(world) / str(number) / FILE[1:]
    lies.write_text('{"level": 0, "night": "2030-01-02"}\nlight')
    decided = quarantine.retry(world.ctx, Which((number,)), "maria")
    assert ([one.number for one in decided.done], decided.failed) == ([number], [])
    assert lying(home_of(world)) == set()
    world.ingest()
    assert lfns(world) == {FILE}
    assert world.copies(FILE) == {"mountain": "Available"}
    turns = world.value("SELECT array_agg(target ORDER BY at) FROM history WHERE kind = 'trigger' AND id = %s", number)
    assert turns == ["Quarantined", "Accepted", "Registered"]


def test_what_is_still_wrong_is_refused_again_with_all_that_belongs_to_it(world: World):
    number = refuse(world)
    quarantine.retry(world.ctx, ALL, "maria")
    world.ingest()
    (again,) = quarantine.find(world.ctx, Which())
    assert (again.number, lfns(world)) == (number, set())
    assert "has 1 bytes" in again.reason
    assert {"n1.plain", "n1.plain.reason"} <= lying(home_of(world))


def test_what_a_person_releases_is_registered_as_it_is_in_his_name(world: World):
    number = refuse(world)
    decided = quarantine.release(world.ctx, Which((number,)), "maria", "the size is a typing error", {"kind": "muon"})
    assert decided.failed == []
    assert lfns(world) == set(), "it goes the way of every delivery"
    world.ingest()
    assert lfns(world) == {FILE}
    with world.ctx.db.transaction() as conn:
        (file,) = catalog.files_by_lfn(conn, [FILE])
    assert file.meta["kind"] == "muon"
    agent = world.value("SELECT agent FROM activity WHERE activity_id = %s AND name = 'ingest'", file.activity_id)
    assert agent == "maria"
    assert "has 1 bytes" in str(
        world.value("SELECT body FROM document d JOIN activity a ON a.configuration = d.sha256")
    )
    world.settle()
    assert len(world.copies(FILE)) >= 2, "it is preserved as any file"


def test_a_release_repairs_metadata_that_are_missing_or_wrong(world: World):
    number = refuse(world, FILE, "light", level="zero")
    quarantine.release(world.ctx, Which((number,)), "maria", "level 0 it is", {"level": 0})
    world.ingest()
    assert lfns(world) == {FILE}


def test_a_release_with_metadata_that_the_catalogue_does_not_know_is_invalid_and_changes_nothing(world: World):
    number = refuse(world)
    with pytest.raises(Invalid, match="unknown metadata key 'nigth'"):
        quarantine.release(world.ctx, Which((number,)), "maria", "why not", {"nigth": "x"})
    assert [one.number for one in quarantine.find(world.ctx, Which())] == [number]


def test_what_cannot_be_registered_stays_refused_whoever_releases_it(world: World):
    world.deliver("/test/raw/n 1.plain")
    world.ingest()
    quarantine.release(world.ctx, ALL, "maria", "it is only a name")
    world.ingest()
    assert lfns(world) == set()
    assert len(quarantine.find(world.ctx, Which())) == 1


def test_another_content_under_a_known_name_is_not_released(world: World):
    world.deliver(FILE, "first")
    world.ingest()
    number = refuse(world, FILE, "second")
    quarantine.release(world.ctx, Which((number,)), "maria", "take it")
    world.ingest()
    assert "registered already with another content" in quarantine.find(world.ctx, Which())[0].reason
    assert world.copies(FILE)["mountain"] == "Lost"
    world.deliver(FILE, "first")
    world.ingest()


def test_what_is_discarded_is_deleted_and_stays_known(world: World):
    number = refuse(world)
    decided = quarantine.discard(world.ctx, Which((number,)), "maria", "a test of the camera")
    assert [one.number for one in decided.done] == [number]
    assert lying(home_of(world)) == set()
    assert not (home_of(world) / str(number)).exists(), "no empty folders are left"
    assert quarantine.find(world.ctx, Which()) == []
    (kept,) = quarantine.find(world.ctx, Which(), discarded=True)
    assert (kept.number, kept.path, str(kept.state)) == (number, FILE, "Discarded")
    assert quarantine.show(world.ctx, number).turns[-1].why == "discarded by maria: a test of the camera"
    refuse(world)  # the same name may be delivered again


def test_nothing_happens_when_it_is_only_asked_what_would(world: World):
    number = refuse(world)
    for decided in (
        quarantine.retry(world.ctx, ALL, "maria", dry_run=True),
        quarantine.release(world.ctx, ALL, "maria", "why", dry_run=True),
        quarantine.discard(world.ctx, ALL, "maria", "why", dry_run=True),
    ):
        assert [one.number for one in decided.done] == [number]
    assert len(lying(home_of(world))) == 3
    assert [one.number for one in quarantine.find(world.ctx, Which())] == [number]


def test_one_delivery_that_cannot_be_brought_back_stops_no_other(world: World):
    first, second = refuse(world), refuse(world, "/test/raw/n2.plain")
    in_the_way = world.root / "mountain" / FILE[1:]
    in_the_way.write_text("something else")
    decided = quarantine.retry(world.ctx, Which((first, second, 9999)), "maria")
    assert [one.number for one in decided.done] == [second]
    assert {one.number for one in decided.failed} == {first, 9999}
    assert any("another file lies where it was delivered" in one.error for one in decided.failed)
    assert in_the_way.read_text() == "something else"
    in_the_way.unlink()
    assert [one.number for one in quarantine.retry(world.ctx, Which((first,)), "maria").done] == [first]
    world.ingest()


def test_a_name_that_is_being_delivered_again_waits_for_that(world: World):
    number = refuse(world)
    world.deliver(FILE)
    from lightkeeper.steps import watch

    watch.scan(world.ctx)
    (failed,) = quarantine.retry(world.ctx, Which((number,)), "maria").failed
    assert "is being delivered again" in failed.error
    world.ingest()
    assert lfns(world) == {FILE}


def test_two_people_do_not_decide_about_the_same_delivery_at_once(world: World):
    number = refuse(world)
    with world.ctx.db.transaction() as conn:
        (held,) = store.hold(conn, [number], timedelta(minutes=1))
    (failed,) = quarantine.discard(world.ctx, Which((number,)), "jonas", "why not").failed
    assert "somebody else is deciding" in failed.error
    assert len(lying(home_of(world))) == 3
    with world.ctx.db.transaction() as conn:
        store.let_go(conn, [held])
    assert quarantine.discard(world.ctx, Which((number,)), "jonas", "why not").failed == []


def test_a_crash_after_the_file_went_back_is_completed_by_the_same_command(world: World):
    number = refuse(world, FILE, "light", nigth="x")
    lies = home_of(world) / str(number) / FILE[1:]
    back = world.root / "mountain" / FILE[1:]
    lies.rename(back)
    back.write_text('{"level": 0, "night": "2030-01-02"}\nlight')
    assert [one.number for one in quarantine.retry(world.ctx, Which((number,)), "maria").done] == [number]
    world.ingest()
    assert lfns(world) == {FILE}


@pytest.mark.parametrize("which", [Which(), Which(storage="mountain")])
def test_nothing_is_decided_about_deliveries_that_nobody_named(world: World, which: Which):
    refuse(world)
    with pytest.raises(Invalid, match="no delivery is named"):
        quarantine.discard(world.ctx, which, "maria", "why")


@pytest.mark.parametrize(("by", "why"), [("", "reason"), ("maria", " ")])
def test_who_discards_and_why_must_be_told(world: World, by: str, why: str):
    refuse(world)
    with pytest.raises(Invalid):
        quarantine.discard(world.ctx, ALL, by, why)


def test_the_quarantine_may_have_another_name(world: World):
    named = world.having(settings=world.ctx.settings.model_copy(update={"quarantine": Path("INVALID_DL0")}))
    number = refuse(named)
    lies = world.root / "mountain/.lightkeeper/INVALID_DL0" / str(number) / FILE[1:]
    assert lies.exists()
    named.ingest()
    assert len(quarantine.find(world.ctx, Which())) == 1, "what lies there is not delivered again"


def test_the_quarantine_may_lie_elsewhere_also_on_another_disk(world: World, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = Path("/dev/shm") if Path("/dev/shm").stat().st_dev != world.root.stat().st_dev else Path("/var/tmp")
    folder = elsewhere / f"quarantine-{world.root.name}-{id(world)}"
    try:
        other = world.having(settings=world.ctx.settings.model_copy(update={"quarantine": folder}))
        number = refuse(other)
        assert lying(folder / "mountain" / str(number)) == {"n1.plain", "n1.plain.trigger", "n1.plain.reason"}
        assert not (world.root / "mountain" / FILE[1:]).exists()
        assert set(quarantine.show(other.ctx, number).files) == lying(folder)
        quarantine.release(world.ctx, Which((number,)), "maria", "fine", dry_run=False)
        world.ingest()
        assert lfns(world) == {FILE}
        assert lying(folder) == set()
    finally:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def test_a_quarantine_where_deliveries_are_made_is_not_used(world: World):
    inside = world.root / "mountain" / "bad"
    other = world.having(settings=world.ctx.settings.model_copy(update={"quarantine": inside}))
    refuse(other)
    assert not inside.exists()
    assert len(lying(home_of(world))) == 3


def test_a_quarantine_that_cannot_be_written_leaves_the_delivery_where_it_is(world: World):
    blocked = world.root / "blocked"
    blocked.write_text("a file")
    other = world.having(settings=world.ctx.settings.model_copy(update={"quarantine": blocked, "lease": timedelta(0)}))
    delivered = world.deliver(FILE, "size=1")
    from lightkeeper.steps import ingest, watch

    watch.scan(other.ctx)
    ingest.register_accepted(other.ctx)
    assert delivered.exists()
    assert lfns(world) == set()
    blocked.unlink()
    world.value("UPDATE trigger SET lease_until = NULL, not_before = now()")
    world.ingest()
    assert len(quarantine.find(world.ctx, Which())) == 1


@pytest.mark.parametrize("wrong", ["../out", "a/b", ".hidden", "/data/../etc"])
def test_a_quarantine_that_leads_elsewhere_is_no_setting(tmp_path: Path, wrong: str):
    with pytest.raises(ValidationError):
        Settings(home=tmp_path, quarantine=Path(wrong))


def test_how_an_interface_directory_stands(world: World):
    from lightkeeper.steps import watch

    refuse(world)
    world.deliver("/test/raw/n2.plain")
    watch.scan(world.ctx)
    (stands,) = quarantine.standing(world.ctx)
    assert (stands.storage, stands.waiting, stands.refused) == ("mountain", 1, 1)
    world.ingest()
