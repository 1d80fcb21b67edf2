"""Size and both checksums of a stream of bytes, taken in one pass."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from lightkeeper.domain.names import Fixity

CHUNK = 1 << 20
"""Bytes read at once where whole files pass through."""


class Sums:
    """Sums that grow with the bytes they are shown; `fixity` may be asked at any time."""

    def __init__(self) -> None:
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._adler32 = zlib.adler32(b"")

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes into account."""
        self._size += memoryview(data).nbytes
        self._sha256.update(data)
        self._adler32 = zlib.adler32(data, self._adler32)

    def fixity(self) -> Fixity:
        """The fixity of all bytes so far."""
        return Fixity(self._size, self._sha256.hexdigest(), f"{self._adler32:08x}")


def fixity_of(chunks: Iterable[bytes]) -> Fixity:
    """The fixity of `chunks` joined, in one pass and constant memory."""
    sums = Sums()
    for chunk in chunks:
        sums.update(chunk)
    return sums.fixity()


def chunks_of(file: BinaryIO, size: int = CHUNK) -> Iterator[bytes]:
    """The rest of `file`, at most `size` bytes at a time."""
    while chunk := file.read(size):
        yield chunk
