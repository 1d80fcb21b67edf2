"""What storages behind a network have in common: which names they take, and reading that survives a lost connection."""

import io
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from lightkeeper.domain.errors import Refused, Unavailable
from lightkeeper.domain.names import MAX_PART, printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
CONNECTIONS = 16
BUFFER = 1 << 20
STALE_SECONDS = 3600.0
SLOWEST = 1024
"""Bytes per second: a storage that gives fewer for SLOW_SECONDS does not answer, although it says something."""
SLOW_SECONDS = 60.0

_SKIP = 256 << 10  # a gap up to this is read over: cheaper than a new request
_TRIES = 2
_NO_CHARACTERS = {"\x7f", "\ufffe", "\uffff"}


def parts_of(storage: str, path: str) -> tuple[str, ...]:
    """The parts of `path`, checked although names were: none leads elsewhere or cannot be told in XML.

    Raises Refused.
    """
    root, *parts = path.split("/")
    if root or not parts:
        raise _refused(storage, path, "it does not begin with '/'")
    for part in parts:
        why = wrong_with(part)
        if why:
            raise _refused(storage, path, why)
    return tuple(parts)


def directory_of(storage: str, prefix: str) -> tuple[str, ...]:
    """The parts of a directory's path, with or without '/' at its end; none for the root."""
    return () if prefix == "/" else parts_of(storage, prefix.removesuffix("/"))


def wrong_with(part: str) -> str:
    """Why `part` is no file name, empty when it is one."""
    if part in ("", ".", ".."):
        return f"part '{part}' is not a file name"
    if "/" in part or any(c < " " or c in _NO_CHARACTERS or "\ud800" <= c <= "\udfff" for c in part):
        return "a part holds a character that no file name may have"
    if len(part.encode()) > MAX_PART:
        return f"a part is longer than {MAX_PART} bytes"
    return ""


class Stream(Protocol):
    """Bytes that arrive from one position on."""

    def __next__(self) -> bytes:
        """The next bytes; StopIteration at the end, Unavailable when the connection is lost."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


class Hanging(Unavailable):
    """A storage that says something, but so slowly that to ask again does not help."""


class RemoteFile(io.RawIOBase):
    """A remote file of a known size, seekable. `open_at` opens its bytes from a position on; it must see to it that
    they are the same content each time. A stream that ends early is opened again where it ended; when that brings no
    byte either, or a stream hardly moves, Unavailable is raised: a read never looks like the end of the file when it is
    not, and comes to an end."""

    def __init__(
        self,
        what: str,
        size: int,
        open_at: Callable[[int], Stream],
        first: Stream,
        *,
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        super().__init__()
        self._what = what
        self._size = size
        self._open_at = open_at
        self._stream: Stream | None = first
        self._at = 0  # position of the stream, rest included
        self._rest = memoryview(b"")
        self._position = 0
        self._slow_seconds = slow_seconds
        self._waited = 0.0  # for the last `_got` bytes
        self._got = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go there; nothing is asked of the storage before the next read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Some of the bytes from here on; none at the end only."""
        into = memoryview(buffer).cast("B")
        into = into[: max(0, self._size - self._position)]
        if not into:
            return 0
        if not self._rest or self._at != self._position:
            self._fetch()
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._at += count
        self._position += count
        return count

    def close(self) -> None:
        """Let the connection go."""
        if not self.closed:
            self._drop()
        super().close()

    def _fetch(self) -> None:
        """Have at least one byte in `_rest`, and `_at` where we are."""
        failure: Unavailable | None = None
        for _ in range(_TRIES):
            try:
                if self._stream is None or not 0 <= self._position - self._at <= _SKIP:
                    self._drop()
                    self._stream = self._open_at(self._position)
                    self._at = self._position
                if self._advance(self._stream):
                    return
                failure = None
            except Hanging:
                self._drop()
                raise
            except Unavailable as error:
                failure = error
            self._drop()
        raise failure or Unavailable(
            f"{self._what} ended at byte {self._position} of {self._size}",
            hint="look at the storage's server; what waits is tried again",
        )

    def _advance(self, stream: Stream) -> bool:
        while True:
            skip = min(self._position - self._at, len(self._rest))
            self._rest = self._rest[skip:]
            self._at += skip
            if self._rest:
                return True
            began = time.monotonic()
            try:
                self._rest = memoryview(next(stream))
            except StopIteration:
                return False
            self._must_not_be_slow(time.monotonic() - began, len(self._rest))

    def _must_not_be_slow(self, waited: float, got: int) -> None:
        self._waited += waited
        self._got += got
        if self._waited < self._slow_seconds:
            return
        if self._got < SLOWEST * self._waited:
            raise Hanging(
                f"{self._what} came at {self._got / self._waited:.0f} bytes per second",
                hint="look at the storage's server; what waits is tried again",
            )
        self._waited, self._got = 0.0, 0

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._rest = memoryview(b"")


def buffered(file: RemoteFile) -> io.BufferedReader:
    """`file` as it is handed out."""
    return io.BufferedReader(file, BUFFER)


def gathered(chunks: Iterator[bytes], size: int) -> tuple[list[bytes], bool]:
    """The next chunks until they have `size` bytes or more, and whether that was all there is."""
    taken: list[bytes] = []
    length = 0
    for chunk in chunks:
        taken.append(chunk)
        length += len(chunk)
        if length >= size:
            return taken, False
    return taken, True


def _refused(storage: str, path: str, why: str) -> Refused:
    return Refused(f"storage {storage} refuses {printable(path)}: {why}", hint="use another name")
