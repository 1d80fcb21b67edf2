"""Reading over a network that is as bad as it can be."""

import time

import pytest

from lightkeeper.adapters.remote import RemoteFile
from lightkeeper.domain.errors import Unavailable


class Trickle:
    """A stream of one byte every now and then."""

    def __init__(self, pause: float) -> None:
        self._pause = pause

    def __next__(self) -> bytes:
        time.sleep(self._pause)
        return b"x"

    def close(self) -> None: ...


def test_a_file_that_trickles_is_not_waited_for_for_ever():
    file = RemoteFile("the file", 10_000, lambda _: Trickle(0.01), Trickle(0.01), slow_seconds=0.2)
    with pytest.raises(Unavailable, match="bytes per second"):
        file.readall()


def test_a_slow_reader_of_a_fast_file_is_not_taken_for_a_slow_file():
    class Fast(Trickle):
        def __next__(self) -> bytes:
            return b"x" * 1000

    file = RemoteFile("the file", 5000, lambda _: Fast(0), Fast(0), slow_seconds=0.05)
    got = b""
    while piece := file.read(1000):
        got += piece
        time.sleep(0.03)
    assert len(got) == 5000
