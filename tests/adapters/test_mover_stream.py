"""Copying through this process, and the damage that only reading back finds."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import NotFound, Unavailable
from lightkeeper.domain.fixity import Sums, chunks_of, fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import Mover
from lightkeeper.testing.faults import CorruptingMover
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
    assert mover.copy(source, PATH, target, OTHER, told.append) == fixity_of([whole])
    assert content(target, OTHER) == whole
    assert all_files(target) == {OTHER: len(whole)}
    assert told[-1] == len(whole)


def test_progress_grows_and_ends_with_the_size(source, target):
    source.write(PATH, [b"a" * MIB] * 3)
    told: list[int] = []
    StreamMover(progress_seconds=0).copy(source, PATH, target, PATH, told.append)
    assert told[:3] == [MIB, 2 * MIB, 3 * MIB]
    assert set(told[3:]) == {3 * MIB}, "while it is read back nothing more is written"


def test_progress_is_not_told_for_every_chunk(source, target):
    source.write(PATH, [b"a" * MIB] * 20)
    told: list[int] = []
    StreamMover().copy(source, PATH, target, PATH, told.append)
    assert len(told) < 20


def test_what_is_told_is_what_lies_at_the_target_not_what_was_sent(source, target):
    class Careless(PosixStorage):
        def write(self, path, chunks):
            return super().write(path, [b"".join(chunks)[:-1]])

    source.write(PATH, [b"complete"])
    careless = Careless("careless", target.root)
    assert StreamMover().copy(source, PATH, careless, PATH, ignore) == fixity_of([b"complet"])


def test_a_source_that_is_not_there_leaves_nothing_at_the_target(source, target):
    with pytest.raises(NotFound, match="la-palma has no file"):
        StreamMover().copy(source, PATH, target, PATH, ignore)
    assert all_files(target) == {}


def test_a_target_that_is_not_there_is_said_so(source, tmp_path):
    source.write(PATH, [b"bytes"])
    with pytest.raises(Unavailable, match="unmounted is not there"):
        StreamMover().copy(source, PATH, PosixStorage("unmounted", tmp_path / "none"), PATH, ignore)


def test_a_source_that_fails_midway_leaves_the_target_as_it_was(source, target):
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size) or next(failing([]))

    class Failing(PosixStorage):
        def open(self, path):
            return Breaking(b"a" * MIB)

    target.write(PATH, [b"old"])
    with pytest.raises(KeyError, match="source ended"):
        StreamMover().copy(Failing("failing", source.root), PATH, target, PATH, ignore)
    assert all_files(target) == {PATH: 3}


def test_memory_does_not_grow_with_the_file(source, target):
    source.write(PATH, (bytes([number]) * MIB for number in range(64)))
    before = resident()
    assert StreamMover().copy(source, PATH, target, PATH, ignore).size == 64 * MIB
    assert resident() - before < 20 * MIB


# --- damage on the way -------------------------------------------------------------------------------------
def test_the_corrupting_mover_damages_the_first_copies_and_reading_back_finds_it(source, target):
    whole = b"light" * 300_000
    source.write(PATH, [whole])
    source.write(OTHER, [b""])
    mover: Mover = CorruptingMover(StreamMover(), first=2)
    right = fixity_of([whole])
    assert mover.copy(source, OTHER, target, OTHER, ignore) == EMPTY
    for number in range(2):
        found = mover.copy(source, PATH, target, f"/bad-{number}", ignore)
        assert found != right
        assert found.size == right.size
        assert found == fixity_of([content(target, f"/bad-{number}")])
        assert sum(a != b for a, b in zip(content(target, f"/bad-{number}"), whole, strict=True)) == 1
    assert mover.copy(source, PATH, target, "/good", ignore) == right
    assert content(source, PATH) == whole
