"""Faults on purpose, for the demo and for tests. Nothing here is used in operation."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Copied, Copy, Entry, Mover, Storage


class CorruptingMover:
    """A mover whose first `first` copies arrive with one byte flipped.

    The wrong byte really lies at the target: the inner mover writes it there and finds it when it reads the
    copy back. Works with movers that pass the bytes through `target.write`. Empty files do not count.
    """

    def __init__(self, inner: Mover, first: int = 1) -> None:
        self._inner = inner
        self._left = first
        self._lock = threading.Lock()

    def carry(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Copy as the inner mover does; flip a byte of the first chunk of those whose turn it is."""
        theirs = {copy.target_path: copy for copy in copies}
        for ended in self._inner.carry([replace(copy, target=_BadWay(copy.target, self._flipped)) for copy in copies]):
            yield replace(ended, copy=theirs[ended.copy.target_path])

    def _flipped(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        whole = False
        for chunk in chunks:
            if chunk and not whole:
                whole = True
                yield _with_one_byte_flipped(chunk) if self._my_turn() else chunk
            else:
                yield chunk

    def _my_turn(self) -> bool:
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            return True


class _BadWay:
    """A storage whose writes pass through `damage`; everything else is the storage's own."""

    def __init__(self, storage: Storage, damage: Callable[[Iterable[bytes]], Iterator[bytes]]) -> None:
        self._storage = storage
        self._damage = damage

    def open(self, path: str) -> BinaryIO:
        return self._storage.open(path)

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        return self._storage.write(path, self._damage(chunks))

    def rename(self, source: str, target: str) -> None:
        self._storage.rename(source, target)

    def delete(self, path: str) -> bool:
        return self._storage.delete(path)

    def stat(self, path: str) -> Entry | None:
        return self._storage.stat(path)

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        return self._storage.list(prefix)

    def probe(self) -> None:
        self._storage.probe()


def _with_one_byte_flipped(chunk: bytes) -> bytes:
    damaged = bytearray(chunk)
    damaged[len(damaged) // 2] ^= 0xFF
    return bytes(damaged)


class Network:
    """Which storages nobody reaches now, and which are full. `driver` is for `Context.storage_drivers`: a storage of
    another driver that does not answer while its name is in `cut`, also in the middle of a file, and takes nothing
    while it is in `full`."""

    def __init__(self) -> None:
        self.cut: set[str] = set()
        self.full: set[str] = set()

    def driver(self, inner: Callable[[str, str], Storage]) -> Callable[[str, str], Storage]:
        """The maker of storages behind this network."""
        return lambda name, root: _Behind(self, name, inner(name, root))

    def check(self, name: str) -> None:
        """Raise Unavailable when the storage cannot be reached."""
        if name in self.cut:
            raise Unavailable(f"storage {name} does not answer", hint="look at its network")

    def check_room(self, name: str) -> None:
        """Raise Unavailable when the storage is full."""
        if name in self.full:
            raise Unavailable(f"storage {name} is full", hint="free space")


class _Behind:
    """A storage behind a network."""

    def __init__(self, network: Network, name: str, storage: Storage) -> None:
        self._check = lambda: network.check(name)
        self._check_room = lambda: network.check_room(name)
        self._storage = storage
        if isinstance(storage, PosixStorage):
            self.local_path = storage.local_path  # what lies on site is looked at without a network

    def __reduce__(self) -> tuple[Callable[[Storage], Storage], tuple[Storage]]:
        """To another process it is the storage itself."""
        return _itself, (self._storage,)

    def open(self, path: str) -> BinaryIO:
        self._check()
        return cast(BinaryIO, _Checked(self._storage.open(path), self._check))

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        self._check()
        size = self._storage.write(path, self._checked(chunks))
        self._check()
        return size

    def rename(self, source: str, target: str) -> None:
        self._check()
        self._storage.rename(source, target)

    def delete(self, path: str) -> bool:
        self._check()
        return self._storage.delete(path)

    def stat(self, path: str) -> Entry | None:
        self._check()
        return self._storage.stat(path)

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        self._check()
        return self._storage.list(prefix)

    def probe(self) -> None:
        self._check()
        self._storage.probe()

    def _checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            self._check_room()
            yield chunk
        self._check()


class _Checked:
    """An open file whose reads ask the network first."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> "_Checked":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _itself(storage: Storage) -> Storage:
    return storage
