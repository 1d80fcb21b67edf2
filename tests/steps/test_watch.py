"""Step 1: triggers are found by events, by looking, and when the one fails by the other."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import World
from tests.engines.disks import small_disk

from lightkeeper.steps import folders, topology, watch
from lightkeeper.steps.folders import Folders, tells_events
from lightkeeper.steps.inotify import OVERFLOWED

TOLD = "/test/raw/n1.plain.trigger"


@pytest.fixture(params=[True, False], ids=["by events", "by looking"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Folders, Callable[[], set[str]]]]:
    """An empty folder that is watched, and what tells what came since."""
    one = Folders(tmp_path, events=request.param)
    list(one.look())
    yield one, lambda: set(one.hear() if request.param else one.look())
    one.close()


def put(root: Path, trigger: str) -> Path:
    path = root / trigger[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_trigger_in_new_folders_is_found(watched, tmp_path: Path):
    _, found = watched
    put(tmp_path, TOLD)
    assert found() == {TOLD}
    put(tmp_path, "/test/raw/n2.plain.trigger")
    assert "/test/raw/n2.plain.trigger" in found()


def test_a_trigger_that_is_renamed_into_place_or_is_a_link_is_found(watched, tmp_path: Path):
    _, found = watched
    put(tmp_path, "/test/raw/n1.part").rename(tmp_path / TOLD[1:])
    (tmp_path / "test/raw/n2.plain.trigger").symlink_to("n2.plain")
    assert found() == {TOLD, "/test/raw/n2.plain.trigger"}


def test_a_folder_that_is_renamed_is_known_by_its_new_name_only(watched, tmp_path: Path):
    _, found = watched
    put(tmp_path, TOLD)
    put(tmp_path, "/test/raw/deep/n1.plain.trigger")
    found()
    (tmp_path / "test").rename(tmp_path / "later")
    found()
    put(tmp_path, "/later/raw/deep/n2.plain.trigger")
    told = found()
    assert "/later/raw/deep/n2.plain.trigger" in told
    assert not any(one.startswith("/test/") for one in told)
    put(tmp_path, TOLD)
    assert TOLD in found()


def test_a_folder_that_is_moved_away_is_watched_no_more_and_one_that_is_moved_here_is_looked_through(
    watched, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    _, found = watched
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(tmp_path, TOLD)
    found()
    (tmp_path / "test").rename(elsewhere / "test")
    put(elsewhere, "/test/raw/n2.plain.trigger")
    assert found() == set()
    (elsewhere / "test").rename(tmp_path / "back")
    assert found() == {"/back/raw/n1.plain.trigger", "/back/raw/n2.plain.trigger"}


def test_folders_that_are_removed_and_made_again_are_found_again(watched, tmp_path: Path):
    _, found = watched
    for _ in range(3):
        put(tmp_path, TOLD)
        assert found() == {TOLD}
        (tmp_path / TOLD[1:]).unlink()
        (tmp_path / "test/raw").rmdir()
        (tmp_path / "test").rmdir()
        found()


def test_names_of_ours_names_that_are_no_text_and_folders_with_a_triggers_name_are_left_alone(watched, tmp_path: Path):
    _, found = watched
    put(tmp_path, "/.lightkeeper/quarantine/n1.plain.trigger")
    put(tmp_path, "/test/n\n1.plain.trigger")
    put(tmp_path, "/folder.trigger/n1.plain.trigger")
    put(tmp_path, "/test/.trigger")
    strange = os.fsencode(tmp_path) + b"/test/bad\xff.trigger"
    os.close(os.open(strange, os.O_CREAT))
    assert found() == {"/folder.trigger/n1.plain.trigger", "/test/.trigger"}
    os.remove(strange)  # noqa: PTH107


def test_what_comes_in_the_same_tick_of_the_clock_as_the_last_look_is_found_by_the_next(tmp_path: Path):
    one = Folders(tmp_path, events=False)
    assert set(one.look()) == set()
    before = tmp_path.stat()
    put(tmp_path, "/n1.plain.trigger")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as on a file system that counts whole seconds
    assert set(one.look()) == {"/n1.plain.trigger"}


@pytest.mark.feature("S3-048")
def test_when_more_happens_than_events_can_tell_it_is_found_by_looking(tmp_path: Path):
    one = Folders(tmp_path, events=True)
    list(one.look())
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    wanted = {f"/test/raw/n{n}.plain.trigger" for n in range(most + 100)}
    (tmp_path / "test/raw").mkdir(parents=True)
    assert set(one.hear()) == set()
    for trigger in wanted:
        (tmp_path / trigger[1:]).touch()
    assert one.queue
    events = one.queue.read()
    assert events[-1].mask & OVERFLOWED
    assert len(events) < len(wanted)
    assert {found for event in events[-1:] for found in (one.look() if event.mask & OVERFLOWED else ())} == wanted
    one.close()


def test_when_no_more_folders_can_be_watched_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.Inotify, "add", full)
    one = Folders(tmp_path, events=True)
    assert set(one.look()) == set()
    assert one.why_unwatched == "No space left on device"
    put(tmp_path, TOLD)
    assert set(one.look()) == {TOLD}
    one.close()


@pytest.mark.parametrize(
    ("kind", "tells"), [("ext4", True), ("nfs4", False), ("fuse.sshfs", False), ("xfs", True), ("lustre", False)]
)
def test_which_file_systems_tell_events_is_known_by_their_kind(tmp_path: Path, kind: str, tells: bool):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path}/with\\040space {kind} rw 0 0\n")
    (tmp_path / "with space" / "raw").mkdir(parents=True)
    assert tells_events(tmp_path / "with space" / "raw", str(mounts)) is tells
    assert tells_events(tmp_path, str(mounts))


# --- the duty ----------------------------------------------------------------------------------------------------
def until(duty: watch.Watch, world: World, wanted: int) -> None:
    """Turns until so many deliveries are open; an event is told at once, so few are needed."""
    for _ in range(10):
        duty(world.ctx)
        if world.value("SELECT count(*) FROM trigger WHERE state = 'Accepted'") == wanted:
            return
    raise AssertionError("the triggers are not found")


@pytest.mark.parametrize("how", ["events", "scan"])
def test_the_duty_accepts_what_comes_each_name_once(world: World, how: str):
    where = f"{{site: Mountain, root: {world.root}/mountain, ingest: true, attributes: {{watch: {how}}}}}"
    topology.apply(world.ctx, f"storages:\n  mountain: {where}\n")
    one, other = watch.Watch(), watch.Watch()
    one(world.ctx)
    other(world.ctx)
    for n in range(5):
        world.deliver(f"/test/raw/n{n}.plain")
    until(one, world, 5)
    assert other(world.ctx) == 0, "it is started twice, and accepts nothing twice"
    world.ingest()
    assert len(world.files()) == 5


def test_storages_that_come_and_go_are_watched_as_long_as_they_are_there(world: World):
    duty = watch.Watch()
    duty(world.ctx)
    (world.root / "valley").mkdir()
    more = f"storages:\n  valley: {{site: Mountain, root: {world.root}/valley, ingest: true}}\n"
    topology.apply(world.ctx, more)
    put(world.root / "valley", TOLD)
    until(duty, world, 1)
    (world.root / "valley").rename(world.root / "away")
    duty(world.ctx)
    (world.root / "valley").mkdir()
    put(world.root / "valley", "/test/raw/n2.plain.trigger")
    until(duty, world, 2)
    shutil.rmtree(world.root / "valley")
    (world.root / "away").rename(world.root / "valley")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount an image")
def test_a_disk_that_is_mounted_over_an_interface_directory_is_watched_instead(world: World):
    duty = watch.Watch()
    duty(world.ctx)
    with small_disk(world.root / "mountain", 4):
        put(world.root / "mountain", TOLD)
        until(duty, world, 1)
    put(world.root / "mountain", "/test/raw/n2.plain.trigger")
    until(duty, world, 2)


def test_what_was_found_while_the_database_was_away_is_found_again(world: World):
    class Away(Exception):
        pass

    duty = watch.Watch()
    duty(world.ctx)
    put(world.root / "mountain", TOLD)
    world.value("ALTER TABLE trigger ADD CONSTRAINT never CHECK (path <> '/test/raw/n1.plain')")
    with pytest.raises(Exception, match="never"):
        until(duty, world, 1)
    world.value("ALTER TABLE trigger DROP CONSTRAINT never")
    until(duty, world, 1)


def test_a_quiet_folder_of_many_files_costs_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for n in range(20):
        put(tmp_path, f"/test/d{n}/n.plain.trigger")
    monkeypatch.setattr(folders, "COARSE", 0.0)
    one = Folders(tmp_path, events=False)
    assert len(set(one.look())) == 20
    time.sleep(0.01)
    list(one.look())
    assert set(one.look()) == set()
    put(tmp_path, "/test/d7/more.plain.trigger")
    assert set(one.look()) == {"/test/d7/n.plain.trigger", "/test/d7/more.plain.trigger"}
