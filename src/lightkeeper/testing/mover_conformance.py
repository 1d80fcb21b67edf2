"""What every mover must do, as tests: a plug-in's own tests subclass `MoverConformance`."""

# ruff: noqa: D102  the tests' names are sentences

from collections.abc import Callable, Mapping

import pytest

from lightkeeper.domain.errors import NotFound, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import Copied, Copy, Mover, Storage
from lightkeeper.testing.storage_conformance import MIB, content, fixity, sizes

ARRIVALS = "/.lightkeeper/arrivals"
SIZES = (0, 1, 4095, 4096, 100_000, MIB, 5 * MIB + 3)


class MoverConformance:
    """Subclass it with fixtures `mover`, `source` and `target`: two empty storages between which it copies itself."""

    def files(self, source: Storage) -> dict[str, bytes]:
        """Files of many sizes at the source."""
        files = {f"/ctao/f{size}": bytes([size % 251]) * size for size in SIZES}
        for path, whole in files.items():
            source.write(path, [whole])
        return files

    def copies(self, source: Storage, target: Storage, files: Mapping[str, bytes]) -> list[Copy]:
        """A copy of each, to names of this attempt."""
        return [
            Copy(source, path, target, f"{ARRIVALS}/{number}.1", len(whole), key=f"{number}.1")
            for number, (path, whole) in enumerate(files.items())
        ]

    def by_source(self, ended: list[Copied]) -> dict[str, Copied]:
        """How each ended, each told once."""
        told = {one.copy.source_path: one for one in ended}
        assert len(told) == len(ended)
        return told

    def test_files_of_every_size_arrive_and_what_is_read_back_is_told(
        self, mover: Mover, source: Storage, target: Storage
    ) -> None:
        files = self.files(source)
        ended = self.by_source(list(mover.carry(self.copies(source, target, files))))
        assert {path: (one.fixity, one.error) for path, one in ended.items()} == {
            path: (fixity_of([whole]), None) for path, whole in files.items()
        }
        for path, one in ended.items():
            assert content(target, one.copy.target_path) == files[path]

    def test_nothing_to_do_is_done(self, mover: Mover) -> None:
        assert list(mover.carry([])) == []

    def test_a_file_that_is_not_there_stops_no_other_and_leaves_nothing(
        self, mover: Mover, source: Storage, target: Storage
    ) -> None:
        files = self.files(source)
        missing = {"/ctao/never": b"12345"}
        ended = self.by_source(list(mover.carry(self.copies(source, target, missing | files))))
        assert isinstance(ended.pop("/ctao/never").error, NotFound)
        assert all(one.error is None for one in ended.values())
        assert len(sizes(target, ARRIVALS)) == len(files)

    def test_what_is_told_is_what_lies_at_the_target_not_what_the_catalogue_says(
        self, mover: Mover, source: Storage, target: Storage
    ) -> None:
        source.write("/ctao/rotten", [b"rotten"])
        (ended,) = mover.carry([Copy(source, "/ctao/rotten", target, f"{ARRIVALS}/1.1", 6, key="1.1")])
        assert ended.fixity == fixity_of([b"rotten"]) == fixity(target, f"{ARRIVALS}/1.1")

    def test_a_copy_that_is_given_up_ends_with_the_reason_and_leaves_nothing(
        self, mover: Mover, source: Storage, target: Storage
    ) -> None:
        def give_up(_done: int) -> None:
            raise Unavailable("nobody wants it any more")

        source.write("/ctao/f", [b"x" * MIB])
        (ended,) = mover.carry([Copy(source, "/ctao/f", target, f"{ARRIVALS}/1.1", MIB, key="1.1", progress=give_up)])
        assert isinstance(ended.error, Unavailable)
        assert ended.error.message == "nobody wants it any more"
        assert sizes(target, ARRIVALS) == {}

    def test_progress_ends_with_the_size(self, mover: Mover, source: Storage, target: Storage) -> None:
        told: list[int] = []
        source.write("/ctao/f", [b"x" * MIB])
        list(mover.carry([Copy(source, "/ctao/f", target, f"{ARRIVALS}/1.1", MIB, key="1.1", progress=told.append)]))
        assert told == sorted(told)
        assert told[-1] == MIB

    def test_a_later_attempt_has_a_name_of_its_own_and_brings_the_whole_file(
        self, mover: Mover, source: Storage, target: Storage
    ) -> None:
        whole = b"light" * 50_000
        source.write("/ctao/f", [whole])
        target.write(f"{ARRIVALS}/1.1", [b"what an earlier attempt left"])
        later = Copy(source, "/ctao/f", target, f"{ARRIVALS}/1.2", len(whole), (f"{ARRIVALS}/1.1",), key="1.2")
        (ended,) = mover.carry([later])
        assert ended.fixity == fixity_of([whole]) == fixity(target, f"{ARRIVALS}/1.2")

    def test_a_caller_that_leaves_early_is_let_go(self, mover: Mover, source: Storage, target: Storage) -> None:
        outcomes = mover.carry(self.copies(source, target, self.files(source)))
        assert next(outcomes).error is None
        outcomes.close()
        with pytest.raises(StopIteration):
            next(outcomes)


def copied(
    mover: Mover,
    source: Storage,
    source_path: str,
    target: Storage,
    target_path: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Fixity:
    """The fixity of one copy; raises what went wrong."""
    found = source.stat(source_path)
    copy = Copy(source, source_path, target, target_path, found.size if found else 0, progress=progress)
    (ended,) = mover.carry([copy])
    if ended.error is not None:
        raise ended.error
    assert ended.fixity is not None
    return ended.fixity
