"""What every storage plug-in must pass: subclass `StorageConformance` and give it a `storage`.

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def storage(self, tmp_path):
            return MyStorage("here", tmp_path)

        def surroundings(self, storage):
            return what can be seen outside of the storage's root

The storage is empty at first. Needs pytest and hypothesis.
"""

# ruff: noqa: D102  the tests' names are sentences

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightkeeper.domain.errors import LightkeeperError, NotFound
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import Entry, Storage

MIB = 1 << 20
PATH = "/ctao/dl0/2030-01-02/obs_1.fits"
OTHER = "/ctao/dl1/2030-01-02/obs_1.h5"

_HOSTILE = (
    *(
        "",
        ".",
        "..",
        "...",
        "%2e%2e",
        "%2e%2e%2fup",
        "..\\up",
        "~",
        "-rf",
        " ",
        "*",
        "$HOME",
        "`id`",
        "C:",
        "name.",
    ),
    *("a\nb", "a\x00b", "a\x1b[31m", "\u00e9", "e\u0301", "\u202egnp", "\ud800", "\udcff"),
    *("n" * 255, "n" * 256, "\u00e9" * 128),
)
hostile_parts = st.sampled_from(_HOSTILE) | st.text(max_size=20)
hostile_paths = st.builds(
    lambda root, parts, end: root + "/".join(parts) + end,
    st.sampled_from(["/", "", "//", "/../", "./", "/ctao/../../"]),
    st.lists(hostile_parts, max_size=6),
    st.sampled_from(["", "/", "/..", "/."]),
)


class StorageConformance:
    """One promise of the storage port per test."""

    @pytest.fixture
    def storage(self) -> Storage:
        """The storage under test, empty."""
        raise NotImplementedError("a subclass gives the storage")

    def surroundings(self, storage: Storage) -> object:  # noqa: ARG002
        """All that lies around the storage's root, comparable; hostile names must leave it as it is."""
        return None

    # --- write -------------------------------------------------------------------------------------------
    def test_what_was_written_is_read_back(self, storage: Storage) -> None:
        chunks = [b"light", b"", b"keeper" * 1000]
        assert storage.write(PATH, chunks) == 6005
        assert content(storage, PATH) == b"".join(chunks)

    def test_an_empty_file_is_a_file(self, storage: Storage) -> None:
        assert storage.write(PATH, []) == 0
        assert content(storage, PATH) == b""
        assert sizes(storage) == {PATH: 0}

    def test_writing_again_replaces_the_content(self, storage: Storage) -> None:
        storage.write(PATH, [b"a long first content"])
        storage.write(PATH, [b"second"])
        assert content(storage, PATH) == b"second"
        assert sizes(storage) == {PATH: 6}

    def test_a_file_is_not_there_before_it_is_complete(self, storage: Storage) -> None:
        seen: list[Entry | None] = []

        def chunks() -> Iterator[bytes]:
            yield b"a" * MIB
            seen.append(storage.stat(PATH))
            seen.extend(storage.list())
            yield b"b"

        storage.write(PATH, chunks())
        assert seen == [None]

    def test_a_reader_of_the_old_content_is_not_disturbed_by_a_new_one(self, storage: Storage) -> None:
        storage.write(PATH, [b"old" * MIB])
        with storage.open(PATH) as file:
            start = file.read(3)
            storage.write(PATH, [b"new"])
            assert start + file.read() == b"old" * MIB

    def test_a_failed_writer_leaves_nothing(self, storage: Storage) -> None:
        with pytest.raises(KeyError, match="source ended"):
            storage.write(PATH, failing([b"a" * MIB, b"b"]))
        assert storage.stat(PATH) is None
        assert all_files(storage) == {}

    def test_a_failed_writer_leaves_the_old_content(self, storage: Storage) -> None:
        storage.write(PATH, [b"old"])
        with pytest.raises(KeyError, match="source ended"):
            storage.write(PATH, failing([b"new"]))
        assert content(storage, PATH) == b"old"
        assert all_files(storage) == {PATH: 3}

    def test_a_hundred_megabytes_pass_in_constant_memory(self, storage: Storage) -> None:
        before = resident()
        highest = before

        def chunks() -> Iterator[bytes]:
            nonlocal highest
            for number in range(100):
                highest = max(highest, resident())
                yield bytes([number]) * MIB

        assert storage.write(PATH, chunks()) == 100 * MIB
        with storage.open(PATH) as file:
            for number, chunk in enumerate(chunks_of(file)):
                assert chunk == bytes([number]) * MIB
                highest = max(highest, resident())
        assert highest - before < 20 * MIB

    def test_of_several_writers_to_one_path_one_wins_whole(self, storage: Storage) -> None:
        contents = [bytes([number]) * 300_000 for number in range(4)]
        allowed = {fixity_of([whole]) for whole in contents}
        seen: set[Fixity] = set()
        failures: list[Exception] = []

        def write(whole: bytes) -> None:
            try:
                for _ in range(5):
                    storage.write(PATH, [whole[:100_000], whole[100_000:]])
                    seen.add(fixity(storage, PATH))
            except Exception as error:  # noqa: BLE001  shown by the assertion below
                failures.append(error)

        writers = [threading.Thread(target=write, args=(whole,)) for whole in contents]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        seen.add(fixity(storage, PATH))
        assert failures == []
        assert seen <= allowed
        assert all_files(storage) == {PATH: 300_000}

    # --- open and stat -----------------------------------------------------------------------------------
    def test_opening_what_is_not_there_says_so_and_names_it(self, storage: Storage) -> None:
        storage.write(OTHER, [b"x"])
        for path in (PATH, "/ctao/dl1/2030-01-02/other.h5", OTHER + "/below"):
            with pytest.raises(NotFound, match=path):
                storage.open(path)

    def test_an_opened_file_can_be_read_in_pieces_and_from_anywhere(self, storage: Storage) -> None:
        storage.write(PATH, [bytes(range(256)) * 4096])
        with storage.open(PATH) as file:
            assert file.read(4) == b"\x00\x01\x02\x03"
            file.seek(256 * 4095 + 250)
            assert file.read(100) == b"\xfa\xfb\xfc\xfd\xfe\xff"
            assert file.read(1) == b""

    def test_stat_tells_size_and_time_of_a_file_and_nothing_of_others(self, storage: Storage) -> None:
        storage.write(PATH, [b"12345"])
        entry = storage.stat(PATH)
        assert entry is not None
        assert (entry.path, entry.size) == (PATH, 5)
        assert entry.modified > 1_600_000_000
        assert storage.stat(OTHER) is None
        assert storage.stat("/ctao/dl0") is None
        assert storage.stat(PATH + "/below") is None

    # --- list --------------------------------------------------------------------------------------------
    def test_list_shows_every_file_once_and_no_directory(self, storage: Storage) -> None:
        paths = {f"/ctao/dl{level}/night-{night}/f{number}" for level in "01" for night in "12" for number in range(20)}
        for path in paths:
            storage.write(path, [path.encode()])
        found = list(storage.list())
        assert sorted(entry.path for entry in found) == sorted(paths)
        assert all(storage.stat(entry.path) == entry for entry in found)

    def test_list_shows_what_lies_below_the_prefix_only(self, storage: Storage) -> None:
        for path in ("/ctao/a/1", "/ctao/a/b/2", "/ctao/ab/3", "/x"):
            storage.write(path, [b""])
        assert set(sizes(storage, "/ctao/a")) == {"/ctao/a/1", "/ctao/a/b/2"}
        assert set(sizes(storage, "/ctao/a/")) == {"/ctao/a/1", "/ctao/a/b/2"}

    def test_list_of_a_directory_that_is_not_there_is_empty(self, storage: Storage) -> None:
        assert list(storage.list()) == []
        assert list(storage.list("/ctao/never")) == []

    def test_list_answers_before_it_has_seen_everything(self, storage: Storage) -> None:
        for number in range(5):
            storage.write(f"/ctao/{number}", [b""])
        listing = storage.list()
        assert not isinstance(listing, list | tuple)
        first = next(listing)
        rest = {entry.path for entry in listing}
        assert len(rest) == 4
        assert first.path not in rest

    # --- rename and delete -------------------------------------------------------------------------------
    def test_rename_moves_a_file_and_makes_the_parents(self, storage: Storage) -> None:
        storage.write(PATH, [b"bytes"])
        storage.rename(PATH, OTHER)
        assert content(storage, OTHER) == b"bytes"
        assert all_files(storage) == {OTHER: 5}

    def test_rename_replaces_the_target(self, storage: Storage) -> None:
        storage.write(PATH, [b"new"])
        storage.write(OTHER, [b"older"])
        storage.rename(PATH, OTHER)
        assert content(storage, OTHER) == b"new"
        assert all_files(storage) == {OTHER: 3}

    def test_renaming_what_is_not_there_says_so_and_keeps_the_target(self, storage: Storage) -> None:
        storage.write(OTHER, [b"kept"])
        with pytest.raises(NotFound, match=PATH):
            storage.rename(PATH, OTHER)
        assert content(storage, OTHER) == b"kept"

    def test_a_file_is_deleted_once(self, storage: Storage) -> None:
        storage.write(PATH, [b"bytes"])
        storage.write(OTHER, [b"kept"])
        assert storage.delete(PATH) is True
        assert storage.delete(PATH) is False
        assert storage.delete("/never/there") is False
        assert all_files(storage) == {OTHER: 4}

    # --- names and health --------------------------------------------------------------------------------
    @settings(
        max_examples=250,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(path=hostile_paths)
    def test_no_name_leads_outside_the_root(self, storage: Storage, path: str) -> None:
        before = self.surroundings(storage)
        with suppress(LightkeeperError):
            storage.open(path).close()
        with suppress(LightkeeperError):
            storage.stat(path)
        with suppress(LightkeeperError):
            list(storage.list(path))
        with suppress(LightkeeperError):
            storage.write(path, [b"hostile"])
            assert content(storage, path) == b"hostile"
            assert storage.delete(path)
        storage.write(PATH, [b"mine"])
        with suppress(LightkeeperError):
            storage.rename(PATH, path)
        with suppress(LightkeeperError):
            storage.delete(path)
        storage.delete(PATH)
        assert self.surroundings(storage) == before

    def test_a_healthy_storage_passes_its_probe_and_keeps_nothing_of_it(self, storage: Storage) -> None:
        storage.write(PATH, [b"bytes"])
        storage.probe()
        assert all_files(storage) == {PATH: 5}


# --- helpers, also for further tests of a plug-in -----------------------------------------------------------
def content(storage: Storage, path: str) -> bytes:
    """All bytes of a file."""
    with storage.open(path) as file:
        return file.read()


def fixity(storage: Storage, path: str) -> Fixity:
    """The fixity of a file, by reading it."""
    with storage.open(path) as file:
        return fixity_of(chunks_of(file))


def sizes(storage: Storage, prefix: str = "/") -> dict[str, int]:
    """Path and size of every file that `list` shows."""
    return {entry.path: entry.size for entry in storage.list(prefix)}


def all_files(storage: Storage) -> dict[str, int]:
    """Like `sizes`, temporary files included."""
    return sizes(storage) | sizes(storage, "/.lightkeeper")


def failing(chunks: list[bytes]) -> Iterator[bytes]:
    """`chunks`, then the failure of the source."""
    yield from chunks
    raise KeyError("source ended")


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
