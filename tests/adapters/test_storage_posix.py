"""The storage on a directory: the suite every storage must pass, and what only directories can do wrong."""

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Corrupt, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.ports import LocalStorage
from lightkeeper.testing.storage_conformance import (
    MIB,
    OTHER,
    PATH,
    StorageConformance,
    all_files,
    content,
    hostile_paths,
    sizes,
)

NIGHT = "/ctao/dl0/2030-01-02"
INCOMING = "/.lightkeeper/incoming"


@pytest.fixture
def storage(tmp_path: Path) -> PosixStorage:
    (tmp_path / "around" / "root").mkdir(parents=True)
    (tmp_path / "around" / "canary").write_text("not ours")
    return PosixStorage("here-disk", tmp_path / "around" / "root")


class TestConformance(StorageConformance):
    @pytest.fixture
    def storage(self, storage):
        return storage

    def surroundings(self, storage):
        assert isinstance(storage, PosixStorage)
        around = storage.root.parent
        return sorted(path.name for path in around.parent.iterdir()), {
            path.name: (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
            for path in around.iterdir()
        }


def test_it_is_a_local_storage(storage):
    as_port: LocalStorage = storage
    as_port.write(PATH, [b"bytes"])
    assert as_port.local_path(PATH).read_bytes() == b"bytes"
    assert as_port.local_path("/not/yet") == storage.root / "not" / "yet"


def test_modes_follow_the_umask(storage):
    umask = os.umask(0o022)
    try:
        storage.write(PATH, [b"bytes"])
    finally:
        os.umask(umask)
    path = storage.local_path(PATH)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert {stat.S_IMODE(above.stat().st_mode) for above in list(path.parents)[:3]} == {0o755}


# --- the root ----------------------------------------------------------------------------------------------
def test_a_root_that_is_not_there_is_an_unavailable_storage_and_never_an_empty_one(tmp_path):
    storage = PosixStorage("unmounted", tmp_path / "mnt")
    for attempt in (
        lambda: storage.open(PATH),
        lambda: storage.write(PATH, [b""]),
        lambda: storage.rename(PATH, OTHER),
        lambda: storage.delete(PATH),
        lambda: storage.stat(PATH),
        lambda: list(storage.list()),
        storage.probe,
    ):
        with pytest.raises(Unavailable, match="unmounted is not there"):
            attempt()
    assert not (tmp_path / "mnt").exists()


def test_a_root_may_be_a_link_since_the_operator_sets_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    PosixStorage("here-disk", tmp_path / "link").write(PATH, [b"bytes"])
    assert (tmp_path / "disk" / PATH[1:]).read_bytes() == b"bytes"


# --- names and links ---------------------------------------------------------------------------------------
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=hostile_paths)
def test_no_local_path_leads_outside_the_root(storage, path):
    try:
        local = storage.local_path(path)
    except LightkeeperError:
        return
    assert Path(os.path.normpath(local)) == local
    assert local.is_relative_to(storage.root)
    assert path == "/" or local != storage.root


@pytest.mark.parametrize(
    "name", ["/../up", "/a/../../up", "/a//b", "/", "", "a/b", "/a\0b", "/.", "/a/.", "/" + "n" * 256]
)
def test_a_hostile_name_is_refused_with_the_storage_named(storage, name):
    with pytest.raises(Refused, match="here-disk"):
        storage.write(name, [b"x"])


def test_a_link_among_the_directories_is_refused_wherever_it_leads(storage):
    storage.write(PATH, [b"mine"])
    outside = storage.root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (storage.root / "out").symlink_to(outside)
    (storage.root / "in").symlink_to("ctao")
    for attempt in (
        lambda: storage.open("/out/secret"),
        lambda: storage.stat("/out/secret"),
        lambda: storage.delete("/out/secret"),
        lambda: storage.write("/out/new", [b"x"]),
        lambda: storage.rename(PATH, "/out/new"),
        lambda: storage.rename("/out/secret", "/stolen"),
        lambda: list(storage.list("/out")),
        lambda: storage.local_path("/out/secret"),
        lambda: storage.open("/in/dl0/2030-01-02/obs_1.fits"),
    ):
        with pytest.raises(Refused, match="symbolic link"):
            attempt()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert sizes(storage) == {PATH: 4}


def test_a_link_or_directory_under_a_files_name_is_no_file(storage):
    storage.write(PATH, [b"mine"])
    canary = storage.root.parent / "canary"
    (storage.root / "link").symlink_to(canary)
    for path in ("/link", NIGHT):
        assert storage.stat(path) is None
        with pytest.raises(Refused):
            storage.open(path)
        with pytest.raises(Refused):
            storage.delete(path)
        with pytest.raises(Refused):
            storage.rename(path, "/elsewhere")
    with pytest.raises(Refused):
        storage.write(NIGHT, [b"x"])
    with pytest.raises(Refused):
        storage.write(PATH + "/below", [b"x"])
    storage.write("/link", [b"replaces the link itself"])
    assert canary.read_text() == "not ours"
    assert all_files(storage) == {PATH: 4, "/link": 24}


def test_a_fifo_does_not_stop_us(storage):
    os.mkfifo(storage.root / "fifo")
    with pytest.raises(Refused):
        storage.open("/fifo")
    assert all_files(storage) == {}


def test_a_directory_swapped_for_a_link_again_and_again_lets_nothing_out(storage):
    outside = storage.root.parent / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret")
    storage.write("/a/b/f", [b"mine"])
    there, aside = storage.root / "a" / "b", storage.root / "a" / "aside"
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            try:
                there.rename(aside)
                there.symlink_to(outside)
                there.unlink()
                aside.rename(there)
            except OSError:  # a writer has made the directory anew meanwhile
                if there.is_symlink():
                    there.unlink()
                shutil.rmtree(aside, ignore_errors=True)

    swapper = threading.Thread(target=swap)
    swapper.start()
    won = 0
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                storage.write("/a/b/f", [b"mine"])
                assert content(storage, "/a/b/f") == b"mine"
                won += 1
            except (Refused, NotFound, Unavailable):
                pass
            with suppress(Refused):
                storage.delete("/a/b/f")
    finally:
        ended.set()
        swapper.join()
    assert won > 0
    assert (outside / "f").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["f"]


# --- listing -----------------------------------------------------------------------------------------------
def test_dot_directories_are_listed_only_when_named(storage):
    storage.write("/ctao/.snapshot/f", [b""])
    storage.write("/ctao/f", [b""])
    storage.write("/.lightkeeper/own", [b""])
    assert set(sizes(storage)) == {"/ctao/f"}
    assert set(sizes(storage, "/ctao/.snapshot")) == {"/ctao/.snapshot/f"}
    assert set(sizes(storage, "/.lightkeeper")) == {"/.lightkeeper/own"}


def test_files_removed_while_listing_do_not_disturb(storage):
    for number in range(50):
        storage.write(f"/d{number}/f", [b""])
    seen = []
    for entry in storage.list():
        seen.append(entry.path)
        if len(seen) == 1:
            for number in range(50):
                if f"/d{number}/f" != entry.path:
                    shutil.rmtree(storage.root / f"d{number}")
    assert len(seen) == len(set(seen)) < 50


# --- probe and leftovers -----------------------------------------------------------------------------------
def test_probe_removes_what_killed_writers_left_an_hour_ago(storage):
    storage.write(f"{INCOMING}/old", [b"partial"])
    storage.write(f"{INCOMING}/young", [b"partial"])
    os.utime(storage.local_path(f"{INCOMING}/old"), (time.time() - 3700, time.time() - 3700))
    storage.probe()
    assert all_files(storage) == {f"{INCOMING}/young": 7}


def test_probe_finds_a_storage_that_gives_back_other_bytes(storage):
    class Rotten(PosixStorage):
        def write(self, path, chunks):
            return super().write(path, [bytes(reversed(b"".join(chunks)))])

    with pytest.raises(Corrupt, match="here-disk"):
        Rotten("here-disk", storage.root).probe()
    assert all_files(storage) == {}


# --- what the operating system refuses ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "doing", "expected"),
    [
        (errno.ENOSPC, "write", Unavailable),
        (errno.EDQUOT, "write", Unavailable),
        (errno.EIO, "write", Unavailable),
        (errno.EIO, "read", Corrupt),
        (errno.EUCLEAN, "read", Corrupt),
        (errno.ENOENT, "read", NotFound),
        (errno.ENOENT, "write", Unavailable),
        (errno.EACCES, "read", Refused),
        (errno.EPERM, "delete", Refused),
        (errno.EROFS, "write", Refused),
        (errno.EISDIR, "rename", Refused),
        (errno.EXDEV, "write", Refused),
        (errno.ENAMETOOLONG, "write", Refused),
        (errno.EMFILE, "read", Unavailable),
        (errno.ESTALE, "read", Unavailable),
        (errno.ETIMEDOUT, "list", Unavailable),
    ],
)
def test_every_failure_names_storage_and_path_and_says_what_to_do(storage, number, doing, expected):
    error = storage.failure(OSError(number, os.strerror(number)), doing, PATH)
    assert type(error) is expected
    assert "here-disk" in error.message
    assert PATH in error.message
    assert str(storage.root) in error.hint


def test_what_the_source_raises_is_not_blamed_on_the_storage(storage):
    def chunks():
        yield b"x"
        raise OSError(errno.EIO, "the source's disk")

    with pytest.raises(OSError, match="the source's disk"):
        storage.write(PATH, chunks())
    assert all_files(storage) == {}


def test_without_the_right_to_write_it_refuses_and_says_who_needs_it(storage):
    """As another user in a child process: root may do anything."""
    if os.geteuid() != 0:
        storage.root.chmod(0o555)
        with pytest.raises(Refused, match="Permission denied"):
            storage.write(PATH, [b"x"])
        return
    storage.write(PATH, [b"x"])
    storage.local_path(PATH).chmod(0o600)
    for above in [storage.root, *storage.root.parents]:
        if not above.stat().st_mode & stat.S_IXOTH:
            above.chmod(above.stat().st_mode | stat.S_IXOTH)
        if above.name.startswith("pytest-of"):
            break
    seen = []
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            for attempt in (
                lambda: storage.open(PATH),
                lambda: storage.write(OTHER, [b"x"]),
                lambda: storage.delete(PATH),
                storage.probe,
            ):
                try:
                    attempt()
                except Refused as error:
                    seen.append("65534" in error.hint and "here-disk" in error.message)
            status = 0 if seen == [True] * 4 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(storage, PATH) == b"x"


@pytest.fixture
def tiny(tmp_path: Path):
    """A storage on a file system of two megabytes."""
    root = tmp_path / "tiny"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=40", "tmpfs", str(root)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield PosixStorage("tiny-disk", root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_full_disk_is_said_so_leaves_nothing_and_works_again_when_there_is_space(tiny):
    tiny.write(PATH, [b"a" * MIB])
    with pytest.raises(Unavailable, match=f"tiny-disk is full: {OTHER}") as caught:
        tiny.write(OTHER, [b"b" * MIB, b"b" * MIB])
    assert str(tiny.root) in caught.value.hint
    assert all_files(tiny) == {PATH: MIB}
    with pytest.raises(Unavailable, match="tiny-disk is full"):
        tiny.write(PATH, [b"c" * MIB, b"c" * MIB])
    assert content(tiny, PATH) == b"a" * MIB
    tiny.delete(PATH)
    assert tiny.write(OTHER, [b"b" * MIB]) == MIB


def test_a_disk_without_inodes_is_full_too(tiny):
    with pytest.raises(Unavailable, match="tiny-disk is full"):
        for number in range(60):
            tiny.write(f"/f{number}", [b""])
    assert set(sizes(tiny, "/.lightkeeper")) == set()


def test_a_read_only_disk_refuses_writes_and_can_be_read(tiny):
    tiny.write(PATH, [b"bytes"])
    subprocess.run(["mount", "-o", "remount,ro", str(tiny.root)], check=True)
    for attempt in (lambda: tiny.write(OTHER, [b"x"]), lambda: tiny.delete(PATH), tiny.probe):
        with pytest.raises(Refused, match="Read-only") as caught:
            attempt()
        assert "mounted read-only" in caught.value.hint
    assert content(tiny, PATH) == b"bytes"


def test_a_storage_across_file_systems_is_refused_with_advice(tiny):
    outer = PosixStorage("outer-disk", tiny.root.parent)
    with pytest.raises(Refused, match="outer-disk") as caught:
        outer.write("/tiny/f", [b"x"])
    assert "several file systems" in caught.value.hint
    assert all_files(outer) == {}
