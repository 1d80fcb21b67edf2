"""What every tape storage plug-in must pass beside StorageConformance: give it a `tape` and say what sends to tape.

    class TestMyTape(TapeConformance):
        @pytest.fixture
        def tape(self):
            return MyTape("vault", "https://…")

        def only_on_tape(self, tape, paths):
            have the storage write these files to tape and drop them from its disk

The storage is empty at first. Needs pytest.
"""

# ruff: noqa: D102  the tests' names are sentences

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from lightkeeper.domain.errors import NotFound, Offline
from lightkeeper.ports import Locality, Staging, TapeStorage

LONG = timedelta(hours=1)
PATIENCE = 60.0
FILES = [f"/ctao/dl0/2030-01-02/obs_{n}.fits" for n in range(5)]


class TapeConformance:
    """One promise of the port per test."""

    @pytest.fixture
    def tape(self) -> TapeStorage:
        """The storage under test, empty."""
        raise NotImplementedError("a subclass gives the storage")

    def only_on_tape(self, tape: TapeStorage, paths: Sequence[str]) -> None:
        """Return when these files lie on tape and nowhere else."""
        raise NotImplementedError("a subclass says how")

    def test_what_was_written_can_be_read_at_once_and_is_on_tape_later(self, tape: TapeStorage) -> None:
        tape.write(FILES[0], [b"light"])
        assert tape.localities([FILES[0]])[FILES[0]] in (Locality.DISK, Locality.DISK_AND_TAPE)
        assert content(tape, FILES[0]) == b"light"
        until(lambda: tape.localities([FILES[0]])[FILES[0]].on_tape)

    def test_a_file_on_tape_only_is_not_read_before_it_was_staged(self, tape: TapeStorage) -> None:
        tape.write(FILES[0], [b"light"])
        self.only_on_tape(tape, FILES[:1])
        with pytest.raises(Offline, match="lies on tape"):
            tape.open(FILES[0])
        request = tape.stage(FILES[:1], LONG)
        until(lambda: tape.staged(request)[FILES[0]].state is Staging.ONLINE)
        assert content(tape, FILES[0]) == b"light"
        assert tape.localities(FILES[:1]) == {FILES[0]: Locality.DISK_AND_TAPE}

    def test_looking_and_naming_stage_nothing(self, tape: TapeStorage) -> None:
        for path in FILES:
            tape.write(path, [path.encode()])
        self.only_on_tape(tape, FILES)
        entry = tape.stat(FILES[0])
        assert entry is not None
        assert entry.size == len(FILES[0])
        assert {e.path for e in tape.list()} == set(FILES)
        tape.rename(FILES[1], "/ctao/other.fits")
        assert tape.delete(FILES[2])
        found = tape.localities([FILES[0], "/ctao/other.fits", FILES[2]])
        assert list(found.values()) == [Locality.TAPE, Locality.TAPE, Locality.NONE]

    def test_one_request_brings_many_and_tells_of_each(self, tape: TapeStorage) -> None:
        for path in FILES:
            tape.write(path, [path.encode()])
        self.only_on_tape(tape, FILES)
        request = tape.stage([*FILES, "/ctao/never.fits"], LONG)
        until(lambda: all(one.state is not Staging.WAITING for one in tape.staged(request).values()))
        told = tape.staged(request)
        assert {path for path, one in told.items() if one.state is Staging.ONLINE} == set(FILES)
        assert told["/ctao/never.fits"].state is Staging.FAILED
        assert told["/ctao/never.fits"].error
        assert [content(tape, path) for path in FILES] == [path.encode() for path in FILES]

    def test_what_is_online_is_staged_at_once_and_asking_twice_is_no_fault(self, tape: TapeStorage) -> None:
        tape.write(FILES[0], [b"light"])
        requests = {tape.stage(FILES[:1], LONG) for _ in range(2)}
        for request in requests:
            until(lambda r=request: tape.staged(r)[FILES[0]].state is Staging.ONLINE)

    def test_release_and_cancel_may_be_said_twice_and_to_a_request_that_is_gone(self, tape: TapeStorage) -> None:
        tape.write(FILES[0], [b"light"])
        self.only_on_tape(tape, FILES[:1])
        request = tape.stage(FILES[:1], LONG)
        for _ in range(2):
            tape.cancel(request, FILES[:1])
            tape.release(request, FILES[:1])
        tape.release("0b8a1d0e-0000-0000-0000-000000000000", FILES[:1])
        tape.cancel("0b8a1d0e-0000-0000-0000-000000000000", FILES[:1])

    def test_a_request_that_is_not_known_is_not_found(self, tape: TapeStorage) -> None:
        with pytest.raises(NotFound):
            tape.staged("0b8a1d0e-0000-0000-0000-000000000000")


def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def content(tape: TapeStorage, path: str) -> bytes:
    """All bytes of a file."""
    with tape.open(path) as file:
        return file.read()
