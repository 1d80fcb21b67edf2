"""Files that are registered change their metadata and their state; their content never does."""

from typing import Any

import pytest
from tests.conftest import World

from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.steps import audit, catalogue, datasets, files, replicate
from lightkeeper.steps.catalogue import Wanted
from lightkeeper.steps.datasets import NewDataset
from lightkeeper.steps.files import Changed
from lightkeeper.steps.register import Listed, Listing, read, register, start

A, B, C = "/ctao/a/one.fits", "/ctao/a/two.fits", "/ctao/a/three.fits"


def found(world: World, query: str = "", **more: Any) -> list[str]:
    return sorted(file.lfn for file in catalogue.find(world.ctx, Wanted(query, **more)))


def reasons(changed: Changed) -> dict[str, str]:
    return {failure.lfn: failure.error for failure in changed.failed}


def listed(world: World, *lines: str, **how: Any) -> Listed:
    """Register a list, as the API would."""
    listing, told = Listing(**how), Listed()
    block = read(world.ctx, listing, 1, [line.encode() for line in lines])
    register(world.ctx, listing, start(world.ctx, listing), block, told)
    return told


def test_stat_tells_what_is_known_and_what_is_not(world: World):
    world.register(A, number=7)
    world.register(A, storage="east")
    known, failed = files.stat(world.ctx, [A, "/ctao/a/none", "no name", A])
    assert [(s.file.lfn, s.state, s.copies, s.file.meta["number"]) for s in known] == [(A, "Current", 2, 7)]
    assert {f.lfn for f in failed} == {"/ctao/a/none", "no name"}


@pytest.mark.feature("S0-039")
def test_replicas_are_told_with_their_state_and_last_reading(world: World):
    world.register(A)
    copies, failed = files.replicas(world.ctx, [A, B])
    assert [(c.lfn, c.storage, c.site, str(c.state)) for c in copies] == [(A, "north", "North", "Available")]
    assert [f.lfn for f in failed] == [B]


def test_names_are_sorted_by_their_number_of_copies(world: World):
    world.register(A, B)
    world.register(A, storage="east")
    listed(world, '{"lfn": "/ctao/v/virtual"}', virtual=True)
    told = files.check(world.ctx, [C, B, A, "/ctao/v/virtual"])
    assert (told.none, told.one, told.several, told.missing) == (["/ctao/v/virtual"], [B], [A], [C])


# --- metadata ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S4-027", "S0-092")
def test_metadata_are_set_in_bulk_and_counters_datasets_and_queries_follow(world: World):
    world.register(A, B, C)
    datasets.create(world.ctx, NewDataset("second", "level = 1"))
    datasets.create(world.ctx, NewDataset("seven", "level = 1 and number = 7"))
    changed = files.set_metadata(world.ctx, [A, B, "/ctao/a/none"], {"level": 1, "number": 7})
    assert (changed.done, list(reasons(changed))) == ([A, B], ["/ctao/a/none"])
    assert found(world, "level = 1 and number = 7") == [A, B]
    assert [(d.name, d.files) for d in datasets.find(world.ctx)] == [("second", 2), ("seven", 2)]
    files.set_metadata(world.ctx, [A], {}, ["number"])
    assert [(d.name, d.files) for d in datasets.find(world.ctx)] == [("second", 2), ("seven", 1)]
    assert catalogue.count(world.ctx, Wanted("level = 0")).files == 1


def test_a_wrong_key_changes_nothing(world: World):
    world.register(A)
    with pytest.raises(Invalid, match="levle"):
        files.set_metadata(world.ctx, [A], {"level": 3, "levle": 1})
    assert found(world, "level = 0") == [A]


def test_a_dry_run_decides_everything_and_does_nothing(world: World):
    world.register(A, B)
    assert files.set_metadata(world.ctx, [A], {"level": 3}, dry_run=True).done == [A]
    assert files.mark_corrupted(world.ctx, [A], "test", dry_run=True).done == [A]
    assert files.remove(world.ctx, [A], "test", dry_run=True).done == [A]
    assert files.supersede(world.ctx, [(A, B)], "test", dry_run=True).done == [A]
    assert found(world, "level = 0") == [A, B]
    assert world.value("SELECT count(*) FROM history WHERE kind = 'file'") == 0


# --- states --------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-111")
def test_a_new_version_is_what_queries_find_and_the_old_one_is_kept(world: World):
    world.register(A, B)
    datasets.create(world.ctx, NewDataset("all", "level = 0"))
    assert files.supersede(world.ctx, [(A, B)], "calibration 2").done == [A]
    assert found(world) == [B]
    assert found(world, "file_state = Superseded") == [A]
    assert found(world, "file_state in (Current, Superseded)") == [A, B]
    assert datasets.show(world.ctx, "all").files == 1
    known, _ = files.stat(world.ctx, [A])
    assert (known[0].state, known[0].superseded_by) == ("Superseded", B)
    assert world.copies(A) == {"north": "Available"}
    assert files.restore(world.ctx, [A], "it was right").done == [A]
    assert found(world) == [A, B]
    assert files.stat(world.ctx, [A])[0][0].superseded_by is None


def test_what_cannot_take_a_place_is_told(world: World):
    world.register(A, B, C)
    files.mark_corrupted(world.ctx, [C], "bad pixels")
    changed = files.supersede(world.ctx, [(A, C), (B, B)], "x")
    assert changed.done == []
    assert reasons(changed) == {A: f"{C} is not Current itself", B: "a file cannot take its own place"}
    assert reasons(files.supersede(world.ctx, [(A, "/ctao/a/none")], "x")) == {
        A: "/ctao/a/none is not in the catalogue"
    }
    with pytest.raises(Invalid, match="named twice"):
        files.supersede(world.ctx, [(A, B), (A, C)], "x")


def test_a_newer_name_that_cannot_be_one_stops_no_other_pair(world: World):
    world.register(A, B, C)
    changed = files.supersede(world.ctx, [(A, "no name"), (B, C)], "x")
    assert (changed.done, reasons(changed)) == ([B], {A: "no name is not in the catalogue"})


def test_a_corrupted_file_is_found_by_no_query_and_feeds_no_transformation(world: World):
    world.register(A, B)
    assert files.mark_corrupted(world.ctx, [A], "bad pixels").done == [A]
    assert files.mark_corrupted(world.ctx, [A], "again").done == [A]
    assert found(world) == [B]
    assert world.value("SELECT count(*) FROM history WHERE kind = 'file'") == 1


# --- removing ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-005")
def test_a_removed_file_loses_every_copy_and_is_still_known(world: World):
    world.register(A)
    world.register(A, storage="east")
    assert files.remove(world.ctx, [A], "not needed").done == [A]
    world.settle()
    assert world.copies(A) == {}
    assert not (world.root / "north" / A[1:]).exists()
    assert not (world.root / "east" / A[1:]).exists()
    assert files.stat(world.ctx, [A])[0][0].state == "Removed"
    assert found(world) == []
    assert world.value("SELECT count(*) FROM intent WHERE removal AND state = 'Done'") == 2


def test_a_removed_file_whose_copies_are_suspect_or_lost_goes_too(world: World):
    world.register(A)
    world.register(A, storage="east")
    (world.root / "north" / A[1:]).write_text("rot")
    (world.root / "east" / A[1:]).unlink()
    with world.ctx.db.transaction() as conn:
        from lightkeeper.domain.states import Replica
        from lightkeeper.store.transitions import move_replicas

        copies = conn.execute("SELECT file_id, storage_id FROM replica").fetchall()
        move_replicas(conn, copies, Replica.AVAILABLE, Replica.SUSPECT, "test")
        move_replicas(conn, copies[:1], Replica.SUSPECT, Replica.LOST, "test")
    files.remove(world.ctx, [A], "test")
    world.settle()
    assert world.copies(A) == {}
    assert world.value("SELECT sum(n_files) FROM storage_count") == 0


def test_the_same_content_registered_again_brings_a_removed_file_back(world: World):
    world.register(A)
    files.remove(world.ctx, [A], "test")
    world.settle()
    world.register(A)
    assert found(world) == [A]


def test_a_superseded_file_that_was_removed_and_comes_back_is_superseded_no_more(world: World):
    world.register(A, B)
    files.supersede(world.ctx, [(A, B)], "better")
    files.remove(world.ctx, [A], "test")
    world.settle()
    world.register(A)
    (known,), _ = files.stat(world.ctx, [A])
    assert (known.state, known.superseded_by) == ("Current", None)


def test_a_file_that_comes_back_before_its_copies_went_keeps_the_new_one(world: World):
    world.register(A)
    files.remove(world.ctx, [A], "test")
    from lightkeeper.steps import replicate

    replicate.settle(world.ctx)  # approved, not carried out
    world.register(A, storage="east")
    world.settle()
    assert found(world) == [A]
    assert "east" in world.copies(A)


def test_what_the_observatory_took_is_never_removed_by_a_command(world: World):
    world.deliver("/test/raw/a.plain")
    world.ingest()
    changed = files.remove(world.ctx, ["/test/raw/a.plain"], "test")
    assert reasons(changed) == {"/test/raw/a.plain": "it was taken by the observatory and cannot be made again"}
    assert found(world) == ["/test/raw/a.plain"]


def test_a_file_of_a_frozen_dataset_stays(world: World):
    world.register(A, B)
    datasets.create(world.ctx, NewDataset("paper", "level = 0"))
    datasets.freeze(world.ctx, "paper")
    assert reasons(files.remove(world.ctx, [A], "x")) == {A: "it is in the frozen dataset paper"}
    datasets.release(world.ctx, "paper")
    assert files.remove(world.ctx, [A], "x").done == [A]
    world.settle()


# --- unregistering -------------------------------------------------------------------------------------------
LINE = '{"lfn": "%s", "size": 5, "sha256": "%s", "adler32": "62a20259", "meta": {"level": 0}}'


def line(lfn: str, content: bytes = b"light") -> str:
    from lightkeeper.domain.fixity import fixity_of

    fixity = fixity_of([content])
    return (
        f'{{"lfn": "{lfn}", "size": {fixity.size}, "sha256": "{fixity.sha256}", "adler32": "{fixity.adler32}", '
        '"meta": {"level": 0}}'
    )


def test_what_a_list_registered_by_mistake_can_be_forgotten(world: World):
    target = world.root / "north" / A[1:]
    target.parent.mkdir(parents=True)
    target.write_bytes(b"light")
    listed(world, line(A), at="north")
    datasets.create(world.ctx, NewDataset("all", "level = 0"))
    assert files.unregister(world.ctx, [A], "wrong list").done == [A]
    assert files.stat(world.ctx, [A])[0] == []
    assert target.read_bytes() == b"light"
    assert datasets.show(world.ctx, "all").files == 0
    assert world.value("SELECT why FROM history WHERE target = 'Forgotten'").startswith(A)


def test_what_was_taken_or_made_here_is_not_forgotten(world: World):
    world.register(A)
    assert "its story stays known" in reasons(files.unregister(world.ctx, [A], "x"))[A]


def test_one_replica_is_forgotten_unless_it_is_the_last(world: World):
    world.register(A)
    assert "the only one" in reasons(files.unregister(world.ctx, [A], "x", at="north"))[A]
    world.register(A, storage="east")
    assert files.unregister(world.ctx, [A], "x", at="north").done == [A]
    assert world.copies(A) == {"east": "Available"}
    assert "no copy recorded" in reasons(files.unregister(world.ctx, [A], "x", at="north"))[A]
    with pytest.raises(NotFound, match="nort"):
        files.unregister(world.ctx, [A], "x", at="nort")


def test_the_last_copy_that_may_be_read_is_not_forgotten(world: World):
    world.register(A)
    world.value("UPDATE replica SET state = 'Suspect'")
    assert "no other can be read" in reasons(files.unregister(world.ctx, [A], "x", at="north"))[A]
    world.value("UPDATE replica SET state = 'Available'")


def test_a_copy_that_is_about_to_be_deleted_is_not_forgotten(world: World):
    for storage in ("north", "east"):
        world.register(A, storage=storage)
    files.remove(world.ctx, [A], "x")
    replicate.settle(world.ctx)
    assert "is being deleted" in reasons(files.unregister(world.ctx, [A], "x", at="north"))[A]
    world.settle()
    assert world.violations() == []


def test_what_went_over_a_link_stays_counted_when_its_file_is_forgotten(world: World):
    target = world.root / "north" / A[1:]
    target.parent.mkdir(parents=True)
    target.write_bytes(b"light")
    listed(world, line(A), at="north")
    audit.recheck(world.ctx)
    world.settle()
    assert len(world.copies(A)) == 2
    assert files.unregister(world.ctx, [A], "wrong list").done == [A]
    assert world.violations() == []
    assert world.value("SELECT sum(n_transfers) FROM transfer_log") == 1


# --- lists ---------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-091", "S0-039")
def test_a_copy_on_a_list_counts_when_it_was_read(world: World):
    for name, content in ((A, b"light"), (B, b"dark!")):
        target = world.root / "north" / name[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    told = listed(world, line(A), line(B), line(C), at="north")
    assert (told.added, told.known, told.failed) == (3, 0, 0)
    assert files.replicas(world.ctx, [A])[0][0].verified_at is None
    assert world.value("SELECT count(*) FROM verified_copy") == 0
    audit.recheck(world.ctx)
    assert world.copies(A) == {"north": "Available"}
    assert world.copies(B) == world.copies(C) == {"north": "Lost"}
    assert files.replicas(world.ctx, [A])[0][0].verified_at is not None
    assert files.unregister(world.ctx, [B, C], "they never were there").done == [C, B]  # by name


def test_a_list_registers_all_it_can_and_tells_the_rest_by_line(world: World):
    world.register(A)
    told = listed(
        world,
        line(A),
        line("/ctao/a/new"),
        line("no name"),
        "",
        "not json",
        '{"lfn": "/ctao/a/x", "sise": 3}',
        line("/ctao/a/new"),
        line("/ctao/a/new", b"other"),
        line("/ctao/a/y").replace('"level"', '"levle"'),
        line("/ctao/a/z").replace('"size": 5', '"size": -5'),
        line("/ctao/a/w")[:-1] + ', "storage": "nort"}',
        at="east",
        dry_run=True,
    )
    assert (told.added, told.known) == (1, 1)
    lines = {f.line: f.error for f in told.failures}
    assert lines.keys() == {1, 3, 5, 6, 8, 9, 10, 11}
    assert "already with another content" in lines[1]
    assert "already with another content" in lines[8]
    assert "levle" in lines[9]
    assert found(world) == [A]


def test_a_registration_uses_up_no_number_for_a_scope_or_directory_that_is_known(world: World):
    world.register(A)
    used = "SELECT (SELECT last_value FROM scope_scope_id_seq), (SELECT last_value FROM directory_dir_id_seq)"
    with world.ctx.db.transaction() as conn:
        before = conn.execute(used).fetchone()
    for name in (A, B, C):
        world.register(name)
    with world.ctx.db.transaction() as conn:
        assert conn.execute(used).fetchone() == before


def test_a_list_may_be_given_twice(world: World):
    first = listed(world, line(A), at="north")
    again = listed(world, line(A), line(A), at="north")
    assert (first.added, again.added, again.known) == (1, 0, 1)
    assert world.value("SELECT n_files FROM storage_count") == 1
    files.unregister(world.ctx, [A], "its bytes are not there")


def test_names_without_data_are_found_and_need_no_copy(world: World):
    told = listed(
        world, '{"lfn": "/ctao/v/run1", "meta": {"level": 0, "number": 1}}', "", '"/ctao/v/run2"', virtual=True
    )
    assert (told.added, told.failed) == (2, 0)
    assert found(world, "number = 1") == ["/ctao/v/run1"]
    world.settle()


def test_true_is_not_1_even_when_a_file_before_said_1(world: World):
    told = listed(
        world,
        '{"lfn": "/ctao/v/one", "meta": {"level": 1}}',
        '{"lfn": "/ctao/v/two", "meta": {"level": true}}',
        virtual=True,
    )
    assert (told.added, [f.line for f in told.failures]) == (1, [2])
