"""Copying through this process, and the damage that only reading back finds."""

import errno
import io
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import NotFound, Unavailable
from lightkeeper.domain.fixity import Sums, chunks_of, fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import ALIGNED, Copy, Mover
from lightkeeper.testing.faults import CorruptingMover
from lightkeeper.testing.mover_conformance import copied
from lightkeeper.testing.storage_conformance import MIB, OTHER, PATH, all_files, content, failing, resident

EMPTY = Fixity(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "00000001")


def make_storage(root: Path) -> PosixStorage:
    root.mkdir()
    return PosixStorage(root.name, root)


@pytest.fixture
def source(tmp_path):
    return make_storage(tmp_path / "la-palma")


@pytest.fixture
def target(tmp_path):
    return make_storage(tmp_path / "pic")


def ignore(_written: int) -> None:
    pass


# --- fixity ------------------------------------------------------------------------------------------------
def test_fixity_of_nothing():
    assert fixity_of([]) == fixity_of([b"", b""]) == EMPTY


def test_leading_zeros_of_adler32_are_kept():
    assert fixity_of([b"Wikipedia"]).adler32 == "11e60398"
    assert fixity_of([b"a"]).adler32 == "00620062"


@given(st.lists(st.binary(max_size=50)))
def test_fixity_does_not_depend_on_how_the_bytes_are_cut(chunks):
    sums = Sums()
    for chunk in chunks:
        sums.update(memoryview(chunk))
    assert sums.fixity() == fixity_of(chunks) == fixity_of([b"".join(chunks)])


def test_sums_may_be_asked_between_updates():
    sums = Sums()
    assert sums.fixity() == EMPTY
    sums.update(b"light")
    assert sums.fixity() == fixity_of([b"light"])
    sums.update(bytearray(b"keeper"))
    assert sums.fixity() == fixity_of([b"lightkeeper"])


def test_chunks_are_of_the_asked_size_and_complete(source):
    source.write(PATH, [b"0123456789"])
    with source.open(PATH) as file:
        assert list(chunks_of(file, 4)) == [b"0123", b"4567", b"89"]


# --- copies ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("whole", [b"", b"x", b"a" * MIB, b"ab" * MIB + b"c"], ids=["0", "1", "1Mi", "2Mi+1"])
def test_a_copy_has_the_bytes_and_tells_their_fixity(source, target, whole):
    mover: Mover = StreamMover()
    source.write(PATH, [whole])
    told: list[int] = []
    assert copied(mover, source, PATH, target, OTHER, told.append) == fixity_of([whole])
    assert content(target, OTHER) == whole
    assert all_files(target) == {OTHER: len(whole)}
    assert told[-1] == len(whole)


def test_progress_grows_and_ends_with_the_size(source, target):
    source.write(PATH, [b"a" * MIB] * 9)
    told: list[int] = []
    copied(StreamMover(progress_seconds=0), source, PATH, target, PATH, told.append)
    assert told == sorted(told)
    assert len(set(told)) > 1
    assert told[-1] == 9 * MIB


def test_a_copy_that_keeps_to_a_rate_is_told_of_every_megabyte(source, target):
    source.write(PATH, [b"a" * MIB] * 9)
    told: list[int] = []
    list(StreamMover().carry([Copy(source, PATH, target, PATH, 9 * MIB, progress=told.append, paced=True)]))
    assert sorted(set(told)) == [MIB * n for n in range(1, 10)]


def test_progress_is_not_told_for_every_chunk(source, target):
    source.write(PATH, [b"a" * MIB] * 20)
    told: list[int] = []
    copied(StreamMover(), source, PATH, target, PATH, told.append)
    assert len(told) < 20


def test_what_is_told_is_what_lies_at_the_target_not_what_was_sent(source, target):
    class Careless(PosixStorage):
        def arrive(self, path, earlier=()):
            arrival = super().arrive(path, earlier)
            write = arrival.write
            arrival.write = lambda data: write(data[:-1])
            return arrival

    source.write(PATH, [b"complete"])
    careless = Careless("careless", target.root)
    assert copied(StreamMover(), source, PATH, careless, PATH, ignore) == fixity_of([b"complet"])


def test_a_source_that_is_not_there_leaves_nothing_at_the_target(source, target):
    with pytest.raises(NotFound, match="la-palma has no file"):
        copied(StreamMover(), source, PATH, target, PATH, ignore)
    assert all_files(target) == {}


def test_a_target_that_is_not_there_is_said_so(source, tmp_path):
    source.write(PATH, [b"bytes"])
    with pytest.raises(Unavailable, match="unmounted is not there"):
        copied(StreamMover(), source, PATH, PosixStorage("unmounted", tmp_path / "none"), PATH, ignore)


def test_a_source_that_fails_midway_leaves_nothing(source, target):
    class Breaking(io.BytesIO):
        def readinto(self, buffer, /):
            if count := super().readinto(buffer):
                return count
            raise OSError(errno.EIO, "Input/output error")

    class Failing(PosixStorage):
        def open(self, path):
            return Breaking(b"a" * MIB)

    before = open_files()
    with pytest.raises(OSError, match="Input/output error"):
        copied(StreamMover(), Failing("failing", source.root), PATH, target, PATH, ignore)
    assert all_files(target) == {}
    assert open_files() == before


def test_what_nobody_foresaw_is_raised_and_leaves_no_thread_and_no_open_file(source, target):
    class Broken(PosixStorage):
        def open(self, path):
            return next(failing([]))

    before, threads = open_files(), threading.active_count()
    with pytest.raises(KeyError, match="source ended"):
        copied(StreamMover(), Broken("broken", source.root), PATH, target, PATH, ignore)
    assert (open_files(), threading.active_count()) == (before, threads)


def test_a_caller_that_wants_no_more_leaves_no_thread_and_no_open_file(source, target):
    names = [f"/ctao/{n}" for n in range(100)]
    for name in names:
        source.write(name, [b"a" * MIB])
    before, threads = open_files(), threading.active_count()
    outcomes = StreamMover().carry([Copy(source, name, target, name, MIB) for name in names])
    assert next(outcomes).error is None
    outcomes.close()
    assert (open_files(), threading.active_count()) == (before, threads)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_memory_does_not_grow_with_the_file(source, target):
    source.write(PATH, (bytes([number]) * MIB for number in range(128)))
    before = resident()
    assert copied(StreamMover(), source, PATH, target, PATH, ignore).size == 128 * MIB
    assert resident() - before < 40 * MIB


# --- many files ---------------------------------------------------------------------------------------------
def test_many_files_are_copied_together_and_one_that_fails_stops_no_other(source, target):
    files = {f"/ctao/{n}": bytes([n % 251]) * (n * 999) for n in range(80)}
    for name, whole in files.items():
        source.write(name, [whole])
    copies = [Copy(source, name, target, f"/new{name}", len(whole)) for name, whole in files.items()]
    copies.insert(40, Copy(source, "/ctao/not-there", target, "/new/not-there", 5))
    ended = list(StreamMover().carry(copies))
    assert [one.copy for one in ended] == copies
    assert [one.copy.source_path for one in ended if one.error] == ["/ctao/not-there"]
    assert all(one.fixity == fixity_of([files[one.copy.source_path]]) for one in ended if not one.error)
    assert all_files(target) == {f"/new{name}": len(whole) for name, whole in files.items()}


# --- going on where an attempt broke off ---------------------------------------------------------------------
BIG = 200 * MIB
LATER = "/.lightkeeper/arrivals/7.2"
EARLIER = "/.lightkeeper/arrivals/7.1"


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A storage with one file that is worth being continued, and what it is."""
    storage = make_storage(tmp_path_factory.mktemp("big") / "la-palma")
    storage.write(PATH, (os.urandom(MIB) for _ in range(BIG // MIB)))
    with storage.open(PATH) as file:
        return storage, fixity_of(chunks_of(file))


def broken_off(source, target, path):
    """A copy that ended after more than half."""

    def give_up(done):
        if done > BIG // 2:
            raise Unavailable("the link is down")

    (ended,) = StreamMover(0).carry([Copy(source, PATH, target, path, BIG, progress=give_up)])
    assert isinstance(ended.error, Unavailable)
    found = target.stat(path)
    return found.size if found else 0


def test_a_large_file_goes_on_where_it_broke_off_and_is_read_back_as_a_whole(big, target):
    source, right = big
    left = broken_off(source, target, EARLIER)
    assert left > BIG // 2
    told: list[int] = []
    again = Copy(source, PATH, target, LATER, BIG, (EARLIER,), progress=told.append)
    (ended,) = StreamMover(0).carry([again])
    assert ended.fixity == right
    assert told[0] > left, "what was there is not sent again"
    assert all_files(target) == {LATER: BIG}


def test_damage_in_what_an_earlier_attempt_left_is_found(big, target):
    source, right = big
    broken_off(source, target, EARLIER)
    with target.local_path(EARLIER).open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"damage")
    (ended,) = StreamMover().carry([Copy(source, PATH, target, LATER, BIG, (EARLIER,))])
    assert ended.fixity not in (None, right)


def test_what_a_writer_still_holds_is_not_taken_over(big, target):
    source, right = big
    slower = target.arrive(EARLIER)
    slower.write(memoryview(b"a" * ALIGNED))
    (ended,) = StreamMover().carry([Copy(source, PATH, target, LATER, BIG, (EARLIER,))])
    slower.write(memoryview(b"b" * ALIGNED))
    slower.sync()
    slower.close()
    assert ended.fixity == right
    assert all_files(target) == {LATER: BIG, EARLIER: 2 * ALIGNED}
    assert fixity_of([content(target, LATER)]) == right


def test_what_is_left_of_a_small_file_is_thrown_away(source, target):
    source.write(PATH, [b"a" * MIB])

    def give_up(_done):
        raise Unavailable("the link is down")

    (ended,) = StreamMover(0).carry([Copy(source, PATH, target, LATER, MIB, progress=give_up)])
    assert isinstance(ended.error, Unavailable)
    assert all_files(target) == {}


# --- damage on the way -------------------------------------------------------------------------------------
def test_the_corrupting_mover_damages_the_first_copies_and_reading_back_finds_it(source, target):
    whole = b"light" * 300_000
    source.write(PATH, [whole])
    source.write(OTHER, [b""])
    mover: Mover = CorruptingMover(StreamMover(), first=2)
    right = fixity_of([whole])
    assert copied(mover, source, OTHER, target, OTHER, ignore) == EMPTY
    for number in range(2):
        found = copied(mover, source, PATH, target, f"/bad-{number}", ignore)
        assert found != right
        assert found.size == right.size
        assert found == fixity_of([content(target, f"/bad-{number}")])
        assert sum(a != b for a, b in zip(content(target, f"/bad-{number}"), whole, strict=True)) == 1
    assert copied(mover, source, PATH, target, "/good", ignore) == right
    assert content(source, PATH) == whole


def test_of_many_small_copies_no_more_are_begun_when_nobody_listens_any_more(tmp_path):
    """A storage that breaks one connection does not have all files of a stream sent to it for nothing."""

    class Far:
        """A storage behind a network, as far as the mover can tell."""

        def __init__(self, storage):
            self._storage = storage
            self.written = 0

        def write(self, path, chunks):
            self.written += 1
            time.sleep(0.02)
            return self._storage.write(path, chunks)

        def __getattr__(self, name):
            if name in ("open", "delete", "stat", "list", "rename", "probe"):
                return getattr(self._storage, name)
            raise AttributeError(name)

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    source, target = PosixStorage("here", tmp_path / "here"), Far(PosixStorage("there", tmp_path / "there"))
    for number in range(100):
        source.write(f"/{number}", [b"light"])
    copies = [Copy(source, f"/{n}", target, f"/{n}", 5, (), key=str(n), progress=lambda _: None) for n in range(100)]
    outcomes = StreamMover().carry(copies)
    told = next(outcomes)
    outcomes.close()
    assert target.written < 50
    assert [entry.path for entry in target.list()] == [told.copy.target_path]
