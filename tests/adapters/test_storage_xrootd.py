"""The storage behind an XRootD server: the suite every storage must pass, and servers killed, stuck or full."""

import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest
from tests.engines.xrootd import free_port, xrootd

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_xrootd import BLOCK, INCOMING, XrootdStorage
from lightkeeper.domain.errors import Corrupt, Invalid, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.testing.mover_conformance import copied
from lightkeeper.testing.storage_conformance import (
    MIB,
    OTHER,
    PATH,
    StorageConformance,
    all_files,
    content,
    resident,
    sizes,
)

if importlib.util.find_spec("XRootD") is None:
    pytest.skip("needs the XRootD client: pip install '.[xrootd]'", allow_module_level=True)


@pytest.fixture(scope="module")
def shared():
    """A server for all tests that do not break it."""
    with xrootd() as server:
        yield server


@pytest.fixture
def server():
    """A server of this test alone."""
    with xrootd() as server:
        yield server


@pytest.fixture
def storage(shared):
    around = uuid4().hex
    (shared.make(f"/{around}") / "canary").write_text("not ours")
    shared.make(f"/{around}/root")
    return XrootdStorage("pic-disk", shared.url(f"/{around}/root"))


class TestConformance(StorageConformance):
    @pytest.fixture
    def storage(self, storage):
        return storage

    @pytest.fixture(autouse=True)
    def _server(self, shared):
        self.server = shared

    def surroundings(self, storage):
        around = self.server.data / storage.root.split("/")[-2]
        return (
            sorted(path.name for path in self.server.data.iterdir()),
            sorted(path.name for path in self.server.home.iterdir()),
            {path.name: path.read_bytes() if path.is_file() else None for path in around.iterdir()},
        )


def local(server, storage, path=""):
    return server.home / storage.root.split("//", 2)[2] / path.lstrip("/")


def took_less_than(seconds, since):
    assert time.monotonic() - since < seconds


# --- the root ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "root",
    [
        "/data",
        "http://host/data",
        "root://host",
        "root://host/data",
        "root://host//data?authz=x",
        "root:////data",
        "",
        "root://me:secret@host//data",
    ],
)
def test_a_root_that_is_no_servers_is_refused_at_once(root):
    with pytest.raises(Invalid, match="is not of an XRootD server"):
        XrootdStorage("pic-disk", root)


def test_a_root_that_leads_upwards_is_refused():
    with pytest.raises(Refused, match="not a file name"):
        XrootdStorage("pic-disk", "root://host//data/../etc")


def test_a_root_that_is_not_there_is_an_unavailable_storage_and_never_an_empty_one(shared):
    storage = XrootdStorage("unmounted", shared.url("/never"))
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
    assert not (shared.data / "never").exists()


def test_what_is_not_exported_is_refused(shared):
    with pytest.raises(Refused, match="disallowed"):
        XrootdStorage("elsewhere", f"root://127.0.0.1:{shared.port}//etc").probe()


def test_without_the_client_the_storage_says_what_to_install_and_others_go_on(tmp_path):
    program = f"""
import sys
sys.modules["XRootD"] = None
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.errors import Unavailable
try:
    XrootdStorage("pic-disk", "root://127.0.0.1:{free_port()}//data").stat("/x")
except Unavailable as error:
    print(error, error.hint)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "storage pic-disk needs the XRootD client" in ended.stdout
    assert "lightkeeper[xrootd]" in ended.stdout


# --- names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "100%41",
        "a&b=c",
        "a#b",
        "obs.meta4",
        "é",
        "-rf",
        "*",
        "a\\b",
        "~",
        "a:b@c",
        "x" * 254,
        "a+b",
        "'q'",
        "a//b",
    ],
)
def test_an_odd_name_is_taken_as_it_is_or_refused(storage, name):
    path = f"/ctao/{name}"
    if "//" in name:
        with pytest.raises(Refused):
            storage.write(path, [b"odd"])
        return
    storage.write(path, [b"odd"])
    assert content(storage, path) == b"odd"
    assert sizes(storage) == {path: 3}
    storage.rename(path, f"/moved/{name}/file")
    assert sizes(storage) == {f"/moved/{name}/file": 3}
    assert storage.delete(f"/moved/{name}/file")


def test_a_path_longer_than_the_server_takes_is_refused(storage):
    storage.write(PATH, [b"bytes"])
    long = "/part".ljust(200, "x") * 30
    for attempt in (
        lambda: storage.write(long, [b"x"]),
        lambda: storage.rename(PATH, long),
        lambda: storage.open(long),
        lambda: storage.delete(long),
    ):
        with pytest.raises(Refused):
            attempt()
    assert all_files(storage) == {PATH: 5}


def test_a_name_that_listings_would_cut_is_refused_and_makes_a_listing_fail(shared, storage):
    with pytest.raises(Refused, match="longer than 254 bytes"):
        storage.write("/" + "x" * 255, [b"x"])
    local(shared, storage, "x" * 255).write_bytes(b"planted")
    with pytest.raises(Unavailable, match="which is not there"):
        list(storage.list())


def test_what_would_end_the_name_on_the_wire_is_refused(storage):
    storage.write("/ctao/a", [b"mine"])
    for attempt in (
        lambda: storage.open("/ctao/a?b"),
        lambda: storage.stat("/ctao/a?b"),
        lambda: storage.delete("/ctao/a?b"),
        lambda: storage.write("/ctao/a?b", [b""]),
        lambda: list(storage.list("/ctao?x")),
    ):
        with pytest.raises(Refused):
            attempt()
    assert sizes(storage) == {"/ctao/a": 4}


# --- what lies in the way ----------------------------------------------------------------------------------
def test_a_directory_is_not_a_file(storage):
    storage.write(PATH, [b"bytes"])
    for attempt in (
        lambda: storage.open("/ctao/dl0"),
        lambda: storage.write("/ctao/dl0", [b"x"]),
        lambda: storage.delete("/ctao/dl0"),
        lambda: storage.rename("/ctao/dl0", "/y"),
        lambda: storage.rename(PATH, "/ctao/dl0"),
    ):
        with pytest.raises(Refused, match="directory"):
            attempt()
    assert all_files(storage) == {PATH: 5}


def test_an_empty_directory_is_not_deleted_as_a_file(shared, storage):
    shared.own(local(shared, storage)).joinpath("empty").mkdir()
    with pytest.raises(Refused, match="directory"):
        storage.delete("/empty")
    assert local(shared, storage, "empty").is_dir()


def test_nothing_is_written_below_a_file(storage):
    storage.write(PATH, [b"bytes"])
    with pytest.raises(Refused, match="is a file"):
        storage.write(PATH + "/below", [b"x"])
    storage.write(OTHER, [b"y"])
    with pytest.raises(Refused, match="is a file"):
        storage.rename(OTHER, PATH + "/deep/below")
    assert list(storage.list(PATH)) == []
    assert storage.delete(PATH + "/below") is False
    assert all_files(storage) == {PATH: 5, OTHER: 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="the server's account is this one: nothing can be kept from it")
def test_what_the_server_may_not_touch_is_refused(shared, storage):
    storage.write(PATH, [b"bytes"])
    night = local(shared, storage, PATH).parent
    os.chown(night, 0, 0)
    night.chmod(0o700)
    for attempt in (
        lambda: storage.open(PATH),
        lambda: storage.write(PATH, [b"x"]),
        lambda: list(storage.list()),
    ):
        with pytest.raises(Refused, match="permission denied"):
            attempt()
    assert set(sizes(storage, "/.lightkeeper")) == set()


def test_a_read_only_server_refuses_to_write():
    with xrootd("r/o") as server:
        (server.data / "have").write_bytes(b"bytes")
        storage = XrootdStorage("archive", server.url())
        assert content(storage, "/have") == b"bytes"
        for attempt in (
            lambda: storage.write(PATH, [b"x"]),
            lambda: storage.rename("/have", "/y"),
            lambda: storage.delete("/have"),
            storage.probe,
        ):
            with pytest.raises(Refused, match="archive cannot"):
                attempt()
        assert sizes(storage) == {"/have": 5}


# --- big and many ------------------------------------------------------------------------------------------
def test_two_hundred_megabytes_pass_in_constant_memory(storage):
    chunk = os.urandom(MIB)
    storage.write(PATH, [chunk])
    content(storage, PATH)
    before = resident()
    highest = before

    def chunks():
        nonlocal highest
        for _ in range(200):
            highest = max(highest, resident())
            yield chunk

    assert storage.write(PATH, chunks()) == 200 * MIB
    with storage.open(PATH) as file:
        for back in chunks_of(file):
            assert back == chunk
            highest = max(highest, resident())
    assert highest - before < 24 * MIB


def test_a_chunk_larger_than_a_block_and_many_small_ones_arrive_whole(storage):
    whole = os.urandom(2 * BLOCK + 17)
    chunks = [whole, *(whole[start : start + 1000] for start in range(0, len(whole), 1000)), b""]
    assert storage.write(PATH, chunks) == 2 * len(whole)
    assert content(storage, PATH) == whole * 2


def test_reading_here_and_there_gives_the_right_bytes(storage):
    whole = os.urandom(3 * BLOCK)
    storage.write(PATH, [whole])
    with storage.open(PATH) as file:
        for position, count in ((0, 10), (BLOCK - 5, 10), (17, 3 * BLOCK), (3 * BLOCK - 1, 5), (5 * BLOCK, 5), (1, 1)):
            file.seek(position)
            assert file.tell() == position
            assert file.read(count) == whole[position : position + count]
        assert file.seek(-7, io.SEEK_END) == 3 * BLOCK - 7
        assert file.read() == whole[-7:]
    assert file.closed


def test_five_thousand_files_are_listed(shared, storage):
    for directory in range(10):
        below = local(shared, storage, f"night-{directory}")
        below.mkdir()
        for number in range(500):
            (below / f"f{number}").write_bytes(b"x")
    found = list(storage.list())
    assert len({entry.path for entry in found}) == len(found) == 5000
    assert {entry.size for entry in found} == {1}


def test_dot_directories_are_listed_only_when_they_are_named(storage):
    storage.write("/.hidden/a", [b"1"])
    storage.write("/seen/.deep/b", [b"1"])
    storage.write("/seen/.file", [b"1"])
    assert set(sizes(storage)) == {"/seen/.file"}
    assert set(sizes(storage, "/.hidden")) == {"/.hidden/a"}


@pytest.mark.skipif(os.geteuid() != 0, reason="the server's account is this one: nothing can be kept from it")
def test_files_that_the_server_cannot_describe_make_the_listing_fail_not_shorter(shared, storage):
    storage.write(PATH, [b"bytes"])
    night = local(shared, storage, PATH).parent
    os.chown(night, 0, 0)
    night.chmod(0o744)  # may be read, not entered
    with pytest.raises(Refused, match="permission denied"):
        list(storage.list())


@pytest.mark.parametrize("name", [b"a\nb", b"\xff\xfe"])
def test_a_name_that_the_protocol_cannot_tell_makes_the_listing_fail_not_shorter(shared, storage, name):
    storage.write(PATH, [b"bytes"])
    (local(shared, storage) / os.fsdecode(name)).write_bytes(b"planted")
    with pytest.raises((Refused, Unavailable)):
        list(storage.list())


def test_a_link_to_nothing_is_no_file(shared, storage):
    storage.write(PATH, [b"bytes"])
    (local(shared, storage) / "dangling").symlink_to("/nowhere")
    assert sizes(storage) == {PATH: 5}
    assert storage.stat("/dangling") is None


def test_a_directory_that_cannot_be_named_makes_the_listing_fail_not_shorter(shared, storage):
    local(shared, storage, "a?b").mkdir()
    with pytest.raises(Refused):
        list(storage.list())


def test_copies_between_a_disk_and_the_server_come_back_unchanged(storage, tmp_path):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    here, there = PosixStorage("here", tmp_path / "from"), PosixStorage("there", tmp_path / "to")
    whole = os.urandom(3 * MIB + 5)
    here.write(PATH, [whole])
    told: list[int] = []
    assert copied(StreamMover(), here, PATH, storage, OTHER, told.append) == fixity_of([whole])
    assert copied(StreamMover(), storage, OTHER, there, PATH, told.append) == fixity_of([whole])
    assert content(there, PATH) == whole


# --- checksums ---------------------------------------------------------------------------------------------
def test_the_server_tells_adler32(storage):
    for whole in (b"a", b"Wikipedia", b"light" * 100_000, b""):
        storage.write(PATH, [whole])
        assert storage.adler32(PATH) == f"{zlib.adler32(whole):08x}"
    with pytest.raises(NotFound):
        storage.adler32(OTHER)
    with pytest.raises(Refused, match="directory"):
        storage.adler32("/ctao/dl0")


def test_a_server_without_checksums_tells_none():
    with xrootd(checksums=False) as server:
        storage = XrootdStorage("plain", server.url())
        storage.write(PATH, [b"bytes"])
        assert storage.adler32(PATH) is None


# --- a server that fails -----------------------------------------------------------------------------------
def test_a_server_killed_during_a_write_leaves_nothing_and_is_said_unavailable(server):
    storage = XrootdStorage("pic-disk", server.url())
    storage.write(OTHER, [b"old"])

    def chunks(path):
        yield os.urandom(3 * BLOCK)
        server.kill()
        yield os.urandom(3 * BLOCK)

    for path in (PATH, OTHER):
        since = time.monotonic()
        with pytest.raises(Unavailable, match="pic-disk"):
            storage.write(path, chunks(path))
        took_less_than(20, since)
        server.start()
        assert sizes(storage) == {OTHER: 3}
        assert content(storage, OTHER) == b"old"


def test_a_server_killed_after_the_last_chunk_leaves_nothing(server):
    storage = XrootdStorage("pic-disk", server.url())

    def chunks():
        yield b"x" * BLOCK
        server.kill()

    with pytest.raises(Unavailable):
        storage.write(PATH, chunks())
    server.start()
    assert sizes(storage) == {}


def test_a_server_that_comes_back_during_a_write_does_not_get_half_a_file(server):
    storage = XrootdStorage("pic-disk", server.url())

    def chunks():
        yield b"x" * BLOCK
        server.kill()
        server.start()
        yield b"y" * BLOCK

    with pytest.raises(Unavailable):
        storage.write(PATH, chunks())
    assert sizes(storage) == {}


def test_a_server_killed_during_a_read_is_said_unavailable_and_never_the_end_of_the_file(server):
    storage = XrootdStorage("pic-disk", server.url())
    storage.write(PATH, [b"x" * (20 * MIB)])
    with storage.open(PATH) as file:
        assert len(file.read(MIB)) == MIB
        server.kill()
        since = time.monotonic()
        with pytest.raises(Unavailable, match="pic-disk"):
            list(chunks_of(file))
        took_less_than(20, since)
    server.start()
    assert storage.stat(PATH) is not None


def test_what_was_replaced_while_the_server_was_away_is_not_mixed_into_a_read(server):
    storage = XrootdStorage("pic-disk", server.url())
    storage.write(PATH, [b"old" * 7 * MIB])
    with storage.open(PATH) as file:
        assert file.read(3) == b"old"
        server.kill()
        (server.data / PATH.lstrip("/")).write_bytes(b"new" * 7 * MIB)
        server.start()
        with pytest.raises(Unavailable):
            file.read()
    assert content(storage, PATH) == b"new" * 7 * MIB


def test_using_many_files_leaves_the_interpreter_as_it_was(storage):
    storage.write(PATH, [b"x"])
    before = sys.getrefcount(True)
    for _ in range(300):
        content(storage, PATH)
    assert sys.getrefcount(True) > before - 100


@pytest.mark.parametrize(
    ("call", "error", "kind", "told"),
    [
        ("pwrite64", "EDQUOT", Unavailable, "full"),
        ("pwrite64", "EIO", Unavailable, "cannot write"),
        ("fsync", "EIO", Unavailable, "cannot write"),
        ("pread64", "EIO", Corrupt, "cannot read"),
    ],
)
def test_a_failing_disk_of_the_server_is_told_and_leaves_the_old_content(server, call, error, kind, told):
    storage = XrootdStorage("pic-disk", server.url(), answer_seconds=5)
    storage.write(PATH, [b"old"])
    with failing_calls(server, call, error), pytest.raises(kind, match=told):
        if kind is Corrupt:
            content(storage, PATH)
        else:
            storage.write(PATH, [b"new"])
    assert all_files(storage) == {PATH: 3}
    assert content(storage, PATH) == b"old"


@contextmanager
def failing_calls(server, call, error):
    """The server's system calls `call` fail; the first written or synced is its own journal, which is spared."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    first = 1 if call == "pread64" else 2
    command = ["strace", "-f", "-o", server.home / "trace", "-e", f"trace={call}", "-p", str(server.process.pid)]
    command += ["-e", f"inject={call}:error={error}:when={first}+"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace is not allowed here: {said.strip()}")
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def test_a_server_killed_during_a_listing_makes_it_fail(server):
    storage = XrootdStorage("pic-disk", server.url())
    for number in range(3):
        storage.write(f"/{number}/file", [b"x"])
    listing = storage.list()
    next(listing)
    server.kill()
    with pytest.raises(Unavailable):
        list(listing)


def test_a_server_that_is_not_there_is_unavailable_in_time():
    storage = XrootdStorage("gone", f"root://127.0.0.1:{free_port()}//data")
    since = time.monotonic()
    for attempt in (
        lambda: storage.open(PATH),
        lambda: storage.write(PATH, [b""]),
        lambda: storage.rename(PATH, OTHER),
        lambda: storage.delete(PATH),
        lambda: storage.stat(PATH),
        lambda: list(storage.list()),
        lambda: storage.adler32(PATH),
        storage.probe,
    ):
        with pytest.raises(Unavailable, match="gone"):
            attempt()
    took_less_than(20, since)


def test_a_server_that_hangs_is_unavailable_in_time_and_good_again_when_it_goes_on(server):
    storage = XrootdStorage("stuck", server.url(), answer_seconds=2)
    storage.write(PATH, [b"x" * BLOCK * 2])

    def chunks():
        yield b"y" * BLOCK
        server.signal(signal.SIGSTOP)
        yield b"y" * BLOCK

    since = time.monotonic()
    with pytest.raises(Unavailable, match="stuck"):
        storage.write(OTHER, chunks())
    took_less_than(20, since)
    with pytest.raises(Unavailable, match="stuck"):
        storage.stat(PATH)
    server.signal(signal.SIGCONT)
    with storage.open(PATH) as file:
        file.read(1)
        server.signal(signal.SIGSTOP)
        since = time.monotonic()
        with pytest.raises(Unavailable, match="stuck"):
            file.read()
    took_less_than(15, since)
    server.signal(signal.SIGCONT)
    assert content(storage, PATH) == b"x" * BLOCK * 2
    assert sizes(storage) == {PATH: 2 * BLOCK}


def test_a_killed_writer_leaves_nothing_that_a_probe_does_not_clear(server):
    storage = XrootdStorage("pic-disk", server.url())
    writer = f"""
import os, signal
from lightkeeper.adapters.storage_xrootd import XrootdStorage
def chunks():
    yield b"x" * {2 * BLOCK}
    os.kill(os.getpid(), signal.SIGKILL)
XrootdStorage("pic-disk", {server.url()!r}).write("/never", chunks())
"""
    ended = subprocess.run([sys.executable, "-c", writer], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert sizes(storage) == {}
    for old in (server.data / INCOMING.lstrip("/")).iterdir():
        os.utime(old, (time.time() - 7200, time.time() - 7200))
    storage.write(INCOMING + "/left", [b"left"])
    os.utime(server.data / INCOMING.lstrip("/") / "left", (time.time() - 7200, time.time() - 7200))
    storage.write(INCOMING + "/fresh", [b"somebody writes"])
    storage.probe()
    assert set(sizes(storage, "/.lightkeeper")) == {INCOMING + "/fresh"}


def test_a_full_server_is_unavailable_and_keeps_the_old_content(server):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = server.make("/small")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", small], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    try:
        storage = XrootdStorage("small", server.url("/small"))
        storage.write(PATH, [b"old"])
        with pytest.raises(Unavailable, match="small is full"):
            storage.write(PATH, (b"x" * MIB for _ in range(20)))
        assert all_files(storage) == {PATH: 3}
        assert content(storage, PATH) == b"old"
        storage.write(OTHER, [b"x" * MIB])
    finally:
        server.kill()
        subprocess.run(["umount", small], check=True)


def test_many_threads_share_one_storage(storage):
    failures: list[Exception] = []

    def work(number):
        try:
            for turn in range(10):
                path = f"/{number}/{turn}"
                storage.write(path, [path.encode()])
                assert content(storage, path) == path.encode()
                storage.delete(path)
        except Exception as error:  # noqa: BLE001  shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all_files(storage) == {}


# --- what the server says ----------------------------------------------------------------------------------
@dataclass
class Said:
    """A status as the client's library gives it."""

    code: int
    errno: int
    message: str = "[ERROR] Server responded with an error: [3007] Unable to read; input/output error\n"


@pytest.mark.parametrize(
    ("said", "doing", "kind"),
    [
        (Said(400, 3007), "read", Corrupt),
        (Said(400, 3007), "write", Unavailable),
        (Said(400, 3019), "read", Corrupt),
        (Said(305, 0), "read", Corrupt),
        (Said(400, 3009), "write", Unavailable),
        (Said(400, 3021), "write", Unavailable),
        (Said(400, 3024), "write", Unavailable),
        (Said(400, 3012), "read", Unavailable),
        (Said(400, 3011), "read", NotFound),
        (Said(400, 3011), "write", Unavailable),
        (Said(400, 3010), "write", Refused),
        (Said(400, 3030), "read", Refused),
        (Said(204, 0), "read", Refused),
        (Said(400, 3025), "write", Refused),
        (Said(206, 0), "read", Unavailable),
        (Said(108, 3010), "read", Unavailable),
    ],
)
def test_what_the_server_says_becomes_what_storages_promise(said, doing, kind):
    error = XrootdStorage("pic-disk", "root://host//data").failure(said, doing, PATH)
    assert type(error) is kind
    assert "pic-disk" in error.message
    assert PATH in error.message
    assert error.hint
