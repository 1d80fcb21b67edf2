"""Copies files through this process: any storage to any other, without a transfer service.

Where the target's files can be read back while they arrive, four things go on at once, each in a thread of its own:
reading the source, writing the target, reading back what has been synced, and summing up what comes back. They hand on
windows of bytes, of one large file or of many small ones; a window is synced as a whole, which costs little more for
many small files than for one. Elsewhere a file is written, then read back; small files several at once.

The outgoing stream is not hashed: that would cost a second hash of every byte, and only the read-back proves the copy.
When the fixity differs from the catalogue's, the caller learns by one more read who is to blame: if
`fixity_of(chunks_of(file))` of the source is the catalogue's, it was corrupted on the way, else the source is bad.
"""

import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, TypeVar, cast

from lightkeeper.adapters.remote import CONNECTIONS
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.fixity import CHUNK, Sums, chunks_of
from lightkeeper.domain.names import Fixity
from lightkeeper.ports import ALIGNED, Arrival, ArrivingStorage, Copied, Copy, Storage

BLOCK = 4 << 20
"""Bytes read or written at once; a multiple of ALIGNED."""
WINDOW = 64 << 20
"""Bytes that are synced together, and then read back while the next are written."""
FILES = 32
"""Files that are synced together at most; each is open meanwhile."""
KEPT_FROM = 64 << 20
"""A broken-off copy of fewer bytes is not worth being continued."""
AT_ONCE = CONNECTIONS // 2
"""Small files copied at once where each costs ways there and back."""

_FAILURES = (LightkeeperError, OSError)
T = TypeVar("T")


class StreamMover:
    """Copies by reading and writing. Remembers nothing; threads may share it."""

    def __init__(self, progress_seconds: float = 1.0) -> None:
        self._progress_seconds = progress_seconds

    def carry(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Copy each, read it back, and tell how it ended."""
        near = [copy for copy in copies if _is_near(copy.target)]
        if near:
            yield from self._overlapped(near)
        small: list[Copy] = []
        for copy in copies:
            if _is_near(copy.target):
                continue
            if isinstance(copy.target, ArrivingStorage) and copy.size > BLOCK:
                yield from self._overlapped([copy])
            else:
                small.append(copy)
        if len(small) == 1:
            yield self._one_after_the_other(small[0])
        elif small:
            yield from self._side_by_side(small)

    def _side_by_side(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Several at once. Whoever listens no longer has no more of them begun."""
        untold: set[Future[Copied]] = set()
        try:
            with ThreadPoolExecutor(min(AT_ONCE, len(copies)), "copy") as pool:
                untold |= {pool.submit(self._one_after_the_other, copy) for copy in copies}
                try:
                    for ended in as_completed(list(untold)):
                        untold.remove(ended)
                        yield ended.result()
                finally:
                    untold = {future for future in untold if not future.cancel()}
        finally:
            for ended in untold:
                _discard(ended.result().copy)

    def _one_after_the_other(self, copy: Copy) -> Copied:
        told = _Told(copy, self._progress_seconds)
        try:
            with copy.source.open(copy.source_path) as file:
                told.at(copy.target.write(copy.target_path, told.over(chunks_of(file))), last=True)
            return Copied(copy, read_back(copy, told.again))
        except _FAILURES as error:
            _discard(copy)
            return Copied(copy, error=error)

    # --- all at once -------------------------------------------------------------------------------------
    def _overlapped(self, copies: Sequence[Copy]) -> Iterator[Copied]:
        """Each stage is a generator that runs ahead of the next one, in a thread of its own."""
        files = [_File(copy, _Told(copy, self._progress_seconds)) for copy in copies]
        try:
            with _Stages() as stages:
                read = stages.ahead(_read(files, stages.blocks(4)), 4)
                written = stages.ahead(_write(read), 1)
                for piece in stages.ahead(_read_back(written, stages.blocks(3)), 3):
                    if piece.block is None:
                        yield piece.file.ended()
                    else:
                        _sum_up(piece.file.sums, piece.data)
                        piece.free()
                        piece.file.tell_again()
        finally:
            for file in files:
                file.let_go()


def read_back(copy: Copy, going_on: Callable[[], None]) -> Fixity:
    """The fixity of a copy as it lies at its target: of a large one, more is read while what came is summed up.
    `going_on` is called for every piece."""
    sums = Sums()
    with copy.target.open(copy.target_path) as back:
        if copy.size <= BLOCK:
            for chunk in chunks_of(back):
                sums.update(chunk)
        else:
            with _Stages() as stages:
                for chunk in stages.ahead(chunks_of(back), 8):
                    sums.update(chunk)
                    going_on()
    return sums.fixity()


def _read(files: "Sequence[_File]", blocks: "_Channel[mmap.mmap]") -> "Iterator[_Piece]":
    """The bytes of the sources, one file after the other; after each file a piece without any."""
    for file in files:
        try:
            with file.copy.source.open(file.copy.source_path) as source:
                file.begin()
                source.seek(file.at) if file.at else None
                whole = True
                while whole and file.error is None:
                    block = blocks.get()
                    wanted = CHUNK if file.copy.paced else BLOCK
                    count = _filled(source, memoryview(block)[:wanted])
                    whole = count == wanted
                    yield _Piece(file, count, block, blocks)
        except _FAILURES as error:
            file.error = error
        yield _Piece(file)


def _write(pieces: "Iterator[_Piece]") -> "Iterator[list[_Stretch]]":
    """Write them, and tell of what was written in windows."""
    window: list[_Stretch] = []
    size = 0
    for piece in pieces:
        file = piece.file
        try:
            if file.error is None and file.arrival is not None and piece.count:
                file.told.before(file.at + piece.count)
                file.arrival.write(piece.data)
                size += piece.count
                file.at += piece.count
                file.told.after(file.at)
            if file.error is None and piece.block is None:
                file.told.at(file.at, last=True)
        except _FAILURES as error:
            file.error = error
        finally:
            piece.free()
        if window and window[-1].file is file:
            window.pop()
        window.append(_Stretch(file, file.at, last=piece.block is None))
        if size >= WINDOW or len(window) >= FILES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _read_back(windows: "Iterator[list[_Stretch]]", blocks: "_Channel[mmap.mmap]") -> "Iterator[_Piece]":
    """Sync each window, then read it from the medium; after each file a piece without bytes."""
    for window in windows:
        for stretch in window:
            stretch.file.sync()
        for stretch in window:
            file, arrival = stretch.file, stretch.file.arrival
            while file.error is None and arrival is not None and file.back < stretch.end:
                block = blocks.get()
                try:
                    count = arrival.read(file.back, memoryview(block)[: min(BLOCK, _aligned(stretch.end - file.back))])
                except _FAILURES as error:
                    file.error, count = error, 0
                if not count:
                    blocks.put(block)
                    break  # less came back than was written: its fixity tells
                file.back += count
                yield _Piece(file, count, block, blocks)
            if stretch.last:
                yield _Piece(file)


# --- what the stages hand on -------------------------------------------------------------------------------
@dataclass(eq=False, slots=True)
class _File:
    """One copy on its way. A failure anywhere is noted here; the other stages then pass its bytes over."""

    copy: Copy
    told: "_Told"
    arrival: Arrival | None = None
    sums: Sums = field(default_factory=Sums)
    at: int = 0
    back: int = 0
    error: LightkeeperError | OSError | None = None

    def begin(self) -> None:
        """Open the arrival, as far as an earlier attempt brought it."""
        copy, target = self.copy, cast(ArrivingStorage, self.copy.target)
        self.arrival = target.arrive(copy.target_path, copy.earlier if copy.size >= KEPT_FROM else ())
        if self.arrival.done > copy.size:  # what lies there is of something else
            self.arrival.close()
            self.arrival = target.arrive(copy.target_path)
        self.at = self.arrival.done

    def sync(self) -> None:
        """What was written is on the medium."""
        if self.arrival is not None and self.error is None:
            try:
                self.arrival.sync()
            except _FAILURES as error:
                self.error = error

    def tell_again(self) -> None:
        """It goes on, although nothing more is written."""
        try:
            self.told.again()
        except _FAILURES as error:
            self.error = error

    def ended(self) -> Copied:
        """How it ended; what is left of a failure is kept if it is worth it."""
        self.let_go()
        if self.error is None:
            return Copied(self.copy, self.sums.fixity())
        if self.at < KEPT_FROM:
            _discard(self.copy)
        return Copied(self.copy, error=self.error)

    def let_go(self) -> None:
        """Close the arrival, if it is open."""
        arrival, self.arrival = self.arrival, None
        if arrival is not None:
            try:
                arrival.close()
            except _FAILURES as error:
                self.error = self.error or error


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Of a window: the file was written up to `end`; `last`: nothing more comes."""

    file: _File
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some bytes of a file, in a block; without one: that was all of it."""

    file: _File
    count: int = 0
    block: mmap.mmap | None = None
    blocks: "_Channel[mmap.mmap] | None" = None

    @property
    def data(self) -> memoryview:
        return memoryview(self.block or b"")[: self.count]

    def free(self) -> None:
        """Its block can be used for others."""
        if self.block is not None and self.blocks is not None:
            self.blocks.put(self.block)


class _Stopped(Exception):
    """Whoever wanted the result is gone."""


class _Channel(Generic[T]):
    """Hands things from thread to thread, `most` of them waiting at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._failure: BaseException | None = None

    def put(self, thing: T) -> None:
        """Hand it over; waits for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._waiting) < self._most)
            if self._stopped:
                raise _Stopped
            self._waiting.append(thing)
            self._changed.notify_all()

    def get(self) -> T:
        """The next; waits for it. Raises _Stopped after the last, or what the thread that hands over raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended or bool(self._waiting))
            if self._waiting and not self._stopped:
                self._changed.notify_all()
                return self._waiting.popleft()
            raise self._failure or _Stopped

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                yield self.get()
            except _Stopped:
                return

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Stages:
    """Threads that work for one another, all of them at an end when the block is left."""

    def __init__(self) -> None:
        self._channels: list[_Channel[Any]] = []
        self._threads: list[threading.Thread] = []

    def blocks(self, count: int) -> "_Channel[mmap.mmap]":
        """Blocks of memory that are used over and over; aligned, so that a device can take and fill them."""
        free: _Channel[mmap.mmap] = _Channel(count)
        for _ in range(count):
            free.put(mmap.mmap(-1, BLOCK))
        self._channels.append(free)
        return free

    def ahead(self, stage: Iterator[T], most: int) -> Iterator[T]:
        """What `stage` gives, which runs in a thread of its own, `most` things ahead."""
        channel: _Channel[T] = _Channel(most)

        def run() -> None:
            failure: BaseException | None = None
            try:
                for thing in stage:
                    channel.put(thing)
            except _Stopped:
                pass
            except BaseException as error:  # noqa: BLE001  handed on to whoever waits for the next thing
                failure = error
            channel.end(failure)

        self._channels.append(channel)
        self._threads.append(threading.Thread(target=run, name="copy", daemon=True))
        self._threads[-1].start()
        return iter(channel)

    def __enter__(self) -> "_Stages":
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.stop()
        for thread in self._threads:
            thread.join()


# --- helpers -----------------------------------------------------------------------------------------------
class _Told:
    """Tells of progress now and then, one thread at a time."""

    def __init__(self, copy: Copy, every: float) -> None:
        self._tell = copy.progress
        self._every = every
        self._paced = copy.paced
        self._done = 0
        self._told = time.monotonic()
        self._telling = threading.Lock()

    def at(self, done: int, *, last: bool = False) -> None:
        """So many bytes are written; the last time it is told in any case."""
        with self._telling:
            self._done = done
            if last or self._paced or time.monotonic() - self._told >= self._every:
                self._tell(done)
                self._told = time.monotonic()

    def before(self, done: int) -> None:
        """So many bytes will be written next: a rate is kept by waiting before, not after."""
        if self._paced:
            self.at(done)

    def after(self, done: int) -> None:
        """So many bytes are written."""
        if not self._paced:
            self.at(done)

    def again(self) -> None:
        """It goes on, although nothing more is written."""
        if time.monotonic() - self._told >= self._every and self._telling.acquire(blocking=False):
            try:
                self._tell(self._done)
                self._told = time.monotonic()
            finally:
                self._telling.release()

    def over(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """`chunks`, told of as they go."""
        done = 0
        for chunk in chunks:
            done += len(chunk)
            self.before(done)
            yield chunk
            self.after(done)


def _is_near(storage: Storage) -> bool:
    """Whether its files are files of this machine, so that a way there and back costs nothing."""
    return isinstance(storage, ArrivingStorage) and hasattr(storage, "local_path")


def _filled(source: BinaryIO, into: memoryview) -> int:
    """Read until it is full or the file ends."""
    count = 0
    readinto = cast(Any, source).readinto
    while count < into.nbytes:
        more = readinto(into[count:])
        if not more:
            break
        count += more
    return count


def _sum_up(sums: Sums, data: memoryview) -> None:
    for start in range(0, data.nbytes, CHUNK):  # while they are in the processor's cache
        sums.update(data[start : start + CHUNK])


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


def _discard(copy: Copy) -> None:
    with suppress(LightkeeperError):  # it is in the way of nobody
        copy.target.delete(copy.target_path)
