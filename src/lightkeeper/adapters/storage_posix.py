"""A storage on a directory of this machine: local disks and anything mounted, NFS and the like included.

A file is written under a temporary name in `.lightkeeper/incoming` of the same file system, synced, renamed
into place; then every directory from its own up to the root is synced. Every one, not only those just made:
a writer that was killed after its mkdir leaves a directory that looks finished and is not yet on the disk.

Every path is walked from the root, one part at a time, and a symbolic link among the parts is refused: no
name and no link that somebody plants meanwhile leads outside the root. The root itself must exist. It is
never made here, because a missing root mostly means that the disk is not mounted.
"""

import ctypes
import errno
import fcntl
import io
import os
import stat as modes
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import MAX_PART, printable
from lightkeeper.ports import ALIGNED, Entry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

INCOMING = ("", ".lightkeeper", "incoming")
PROBES = ("", ".lightkeeper", "probe")
STALE_SECONDS = 3600.0
SMALLEST_STRAIGHT = 1 << 20
"""Smaller reads are quicker through the cache, which reads ahead."""

_C = ctypes.CDLL(None, use_errno=True)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody left among the files must not wait for its writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_CONTINUE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MISSING = (FileNotFoundError, NotADirectoryError)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MEDIUM = {errno.EIO, errno.EBADMSG, errno.EUCLEAN}
_RIGHTS = {errno.EACCES, errno.EPERM}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EEXIST}


class PosixStorage:
    """Storage on directory `root`, which must exist. Threads and processes may share it."""

    def __init__(self, name: str, root: str | Path) -> None:
        self.name = name
        self.root = Path(root)
        if not self.root.is_absolute():
            raise Invalid(f"the root of storage {name}, '{root}', is relative", hint="write the whole path, from /")

    # --- files -------------------------------------------------------------------------------------------
    def open(self, path: str) -> BinaryIO:
        """The file for reading, from the medium: what the page cache holds of it is dropped first."""
        directory, name = self._split(path)
        with self._failures("read", path), self._directories(directory) as chain:
            return self._opened(chain[-1], name, path)

    def open_all(self, paths: Sequence[str]) -> Iterator[BinaryIO | LightkeeperError]:
        """Open each as `open` does; the directory of one is still open for the next."""
        last: tuple[str, ...] | None = None
        chain: Sequence[int] = [-1]
        with ExitStack() as opened:
            for path in paths:
                try:
                    directory, name = self._split(path)
                    with self._failures("read", path):
                        if directory != last:
                            last = None
                            opened.close()
                            chain = opened.enter_context(self._directories(directory))
                            last = directory
                        file = self._opened(chain[-1], name, path)
                except LightkeeperError as error:
                    yield error
                else:
                    yield file

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write a new file and return its bytes. Durable and complete when it returns.

        When it raises, `path` is as it was before, with one exception: if the very last sync fails, after the
        rename, the whole new file may be there. It is left, since by then it may be another writer's.
        What `chunks` raises passes through as it is.
        """
        directory, name = self._split(path)
        with ExitStack() as opened:
            with self._failures("write", path):
                incoming = opened.enter_context(self._directories(INCOMING, make=True))[-1]
                chain = opened.enter_context(self._directories(directory, make=True))
            temporary = uuid4().hex
            try:
                size = self._fill(incoming, temporary, path, chunks)
                with self._failures("write", path):
                    os.rename(temporary, name, src_dir_fd=incoming, dst_dir_fd=chain[-1])
                    _sync(chain)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=incoming)
                raise
        return size

    def arrive(self, path: str, earlier: Sequence[str] = ()) -> "_PosixArrival":
        """A file to be written under the temporary name `path`. Where the file system allows it, its bytes go straight
        to the device and come straight from there.

        It is locked until it is closed; the kernel lets go of it when its writer dies, and not before. So what an
        attempt left can be taken over from one that was killed, never from one that only sleeps and may wake up and
        write on. Its name is not made durable: that is done when it is renamed.
        """
        directory, name = self._split(path)
        with self._failures("write", path), self._directories(directory, make=True) as chain:
            fd = self._taken_over(chain[-1], name, earlier)
            if fd is None:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=chain[-1])
                fd = os.open(name, _CONTINUE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=chain[-1])
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _PosixArrival(self, path, fd)

    def rename(self, source: str, target: str) -> None:
        """Move within the storage, atomic and durable, parents made.

        The file is synced first: it may have been written by a program that never does. When the source is
        gone since an earlier, interrupted call moved it, that move is made durable; then NotFound is raised.
        """
        directory, name = self._split(source)
        to_directory, to_name = self._split(target)
        with (
            self._failures("rename", source),
            self._directories(directory) as chain,
            self._directories(to_directory, make=True) as to_chain,
        ):
            try:
                self._synced(chain[-1], name, source)
            except FileNotFoundError:
                _sync(to_chain)
                os.fsync(chain[-1])
                raise
            os.rename(name, to_name, src_dir_fd=chain[-1], dst_dir_fd=to_chain[-1])
            # The target first: a file system without a journal then shows the file twice rather than never.
            _sync(to_chain)
            os.fsync(chain[-1])

    def rename_all(self, names: Sequence[tuple[str, str]]) -> list[LightkeeperError | None]:
        """Rename each as `rename` does, and sync every directory once."""
        failed: list[LightkeeperError | None] = []
        with ExitStack() as opened:
            chains: dict[tuple[str, ...], Sequence[int]] = {}

            def chain_of(directory: tuple[str, ...], *, make: bool) -> Sequence[int]:
                if directory not in chains:
                    chains[directory] = opened.enter_context(self._directories(directory, make=make))
                return chains[directory]

            for source, target in names:
                try:
                    directory, name = self._split(source)
                    to_directory, to_name = self._split(target)
                    with self._failures("rename", source):
                        above, to_above = chain_of(directory, make=False)[-1], chain_of(to_directory, make=True)[-1]
                        self._synced(above, name, source)
                        os.rename(name, to_name, src_dir_fd=above, dst_dir_fd=to_above)
                    failed.append(None)
                except LightkeeperError as error:
                    failed.append(error)
            try:
                with self._failures("rename", names[0][1] if names else "/"):
                    # The targets first, as in `rename`; each directory once, those below before those above.
                    targets = {self._split(target)[0] for _, target in names} & chains.keys()
                    for parts in sorted(targets, key=len, reverse=True):
                        _sync(chains[parts])
                    for parts in chains.keys() - targets:
                        os.fsync(chains[parts][-1])
            except LightkeeperError as error:
                return [earlier or error for earlier in failed]
        return failed

    def delete(self, path: str) -> bool:
        """Remove a file, durably. False when it was not there; then an earlier removal is durable too."""
        directory, name = self._split(path)
        with self._failures("delete", path):
            try:
                with self._directories(directory) as chain:
                    try:
                        self._must_be_a_file(os.lstat(name, dir_fd=chain[-1]), path)
                        os.unlink(name, dir_fd=chain[-1])
                        return True
                    except FileNotFoundError:
                        return False
                    finally:
                        os.fsync(chain[-1])
            except _MISSING:
                return False

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None when there is no regular file."""
        directory, name = self._split(path)
        with self._failures("look at", path):
            try:
                with self._directories(directory) as chain:
                    found = os.lstat(name, dir_fd=chain[-1])
            except _MISSING:
                return None
        return Entry(path, found.st_size, found.st_mtime) if modes.S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        """Every regular file below directory `prefix`, streamed; none when there is no such directory.

        Directories whose names begin with '.' are left out unless `prefix` leads into them. A directory that
        cannot be read raises: a listing never looks complete when it is not.
        """
        start = tuple(self._parts(prefix.rstrip("/"))) if prefix != "/" else ("",)
        with (
            self._failures("list", prefix),
            self._directories(("",)),
        ):  # held open: cannot be unmounted meanwhile
            yield from self._files_below(start)

    def probe(self) -> None:
        """Write, read back and remove a small file; also remove what killed writers left behind."""
        self._remove_stale()
        path = "/".join((*PROBES, uuid4().hex))
        content = os.urandom(4096)
        self.write(path, [content])
        try:
            with self.open(path) as file:
                back = file.read()
        finally:
            self.delete(path)
        if back != content:
            raise Corrupt(
                f"storage {self.name} gives back other bytes than were written",
                hint=f"take {self.name} out of use and examine the disk below {self.root}",
            )

    def local_path(self, path: str) -> Path:
        """Where the file lies here, whether it exists or not; "/" is the root. Links made later are not seen."""
        if path == "/":
            return self.root
        directory, name = self._split(path)
        with self._failures("look at", path), suppress(*_MISSING), self._directories(directory):
            pass
        return self.root.joinpath(*directory[1:], name)

    def sync(self) -> None:
        """All of the file system that holds the root lies on the medium when this returns, names included."""
        with self._failures("sync", "/"), self._directories(("",)) as chain:
            if _C.syncfs(chain[0]) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    # --- helpers -----------------------------------------------------------------------------------------
    def _fill(self, incoming: int, temporary: str, path: str, chunks: Iterable[bytes]) -> int:
        """Write `chunks` to the new file `temporary`, sync it, and make later reads come from the medium."""
        with self._failures("write", path):
            fd = os.open(temporary, _NEW, 0o666, dir_fd=incoming)
        try:
            size = 0
            for chunk in chunks:
                with self._failures("write", path):
                    _write_all(fd, chunk)
                size += len(chunk)
            with self._failures("write", path):
                os.fsync(fd)
                _forget_cached(fd)
        finally:
            os.close(fd)
        return size

    def _opened(self, above: int, name: str, path: str) -> BinaryIO:
        fd = os.open(name, _READ, dir_fd=above)
        try:
            self._must_be_a_file(os.fstat(fd), path)
            _forget_cached(fd)
            return io.BufferedReader(_MediumFile(self, path, fd))
        except BaseException:
            os.close(fd)
            raise

    def _synced(self, above: int, name: str, path: str) -> None:
        """Sync the file `name`: it may have been written by a program that never does."""
        fd = os.open(name, _READ, dir_fd=above)
        try:
            self._must_be_a_file(os.fstat(fd), path)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _taken_over(self, above: int, name: str, earlier: Sequence[str]) -> int | None:
        """The first of `earlier` that nobody writes to, with its new name, locked and open for writing."""
        for older in earlier:
            directory, older_name = self._split(older)
            with suppress(*_MISSING, NotFound), self._directories(directory) as chain:
                fd = os.open(older_name, _CONTINUE, dir_fd=chain[-1])
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found = os.fstat(fd)
                    self._must_be_a_file(found, older)
                    if os.lstat(older_name, dir_fd=chain[-1]).st_ino != found.st_ino:
                        raise BlockingIOError  # somebody took it over between our two looks
                    os.rename(older_name, name, src_dir_fd=chain[-1], dst_dir_fd=above)
                    os.ftruncate(fd, found.st_size - found.st_size % ALIGNED)
                    return fd
                except BlockingIOError:
                    os.close(fd)
                except BaseException:
                    os.close(fd)
                    raise
        return None

    def _files_below(self, start: tuple[str, ...]) -> Iterator[Entry]:
        waiting = [start]
        while waiting:
            parts = waiting.pop()
            # A directory may be gone by now.
            with suppress(*_MISSING), self._directories(parts) as chain, os.scandir(chain[-1]) as entries:
                for entry in entries:
                    below = (*parts, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            waiting.append(below)
                    elif entry.is_file(follow_symlinks=False):
                        with suppress(FileNotFoundError):
                            found = entry.stat(follow_symlinks=False)
                            yield Entry("/".join(below), found.st_size, found.st_mtime)

    def _remove_stale(self) -> None:
        for directory in (INCOMING, PROBES):
            for entry in self.list("/".join(directory)):
                if time.time() - entry.modified > STALE_SECONDS:
                    self.delete(entry.path)

    def _split(self, path: str) -> tuple[tuple[str, ...], str]:
        """Directory, as parts from the root on, and name."""
        *directory, name = self._parts(path)
        return tuple(directory), name

    def _parts(self, path: str) -> Sequence[str]:
        """The parts of `path` after an empty one that stands for the root; checked, although names were."""
        root, *parts = path.split("/")
        if root or not parts:
            raise self._refused(path, "it does not begin with '/'")
        for part in parts:
            if part in ("", ".", "..") or "\0" in part:
                raise self._refused(path, f"part '{printable(part)}' is not a file name")
            try:
                too_long = len(os.fsencode(part)) > MAX_PART
            except UnicodeEncodeError:
                raise self._refused(path, "it cannot be encoded") from None
            if too_long:
                raise self._refused(path, f"a part is longer than {MAX_PART} bytes")
        return ("", *parts)

    @contextmanager
    def _directories(self, parts: Sequence[str], *, make: bool = False) -> Iterator[Sequence[int]]:
        """Open descriptors of the root and of each of `parts` below it, none of them reached by a link."""
        with ExitStack() as opened:
            chain = [self._open_root()]
            opened.callback(os.close, chain[0])
            for depth in range(1, len(parts)):
                chain.append(self._open_directory(chain[-1], parts[: depth + 1], make))
                opened.callback(os.close, chain[-1])
            yield chain

    def _open_root(self) -> int:
        try:
            # The root may be a link: it comes from the settings, not from a name.
            return os.open(self.root, _DIRECTORY & ~os.O_NOFOLLOW)
        except _MISSING:
            raise Unavailable(
                f"storage {self.name} is not there: {self.root} is not a directory",
                hint=f"mount or make {self.root}, then probe storage {self.name}",
            ) from None

    def _open_directory(self, above: int, parts: Sequence[str], make: bool) -> int:
        part = parts[-1]
        try:
            if make:
                with suppress(FileNotFoundError):
                    return os.open(part, _DIRECTORY, dir_fd=above)
                with suppress(FileExistsError):  # another writer was faster
                    os.mkdir(part, dir_fd=above)
            return os.open(part, _DIRECTORY, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP) and modes.S_ISLNK(os.lstat(part, dir_fd=above).st_mode):
                raise self._refused("/".join(parts), "it is a symbolic link") from None
            raise

    def _must_be_a_file(self, found: os.stat_result, path: str) -> None:
        if not modes.S_ISREG(found.st_mode):
            kind = "a directory" if modes.S_ISDIR(found.st_mode) else "a link or a device"
            raise self._refused(path, f"it is {kind}, not a file")

    def _refused(self, path: str, why: str) -> Refused:
        return Refused(
            f"storage {self.name} refuses {printable(path)}: {why}",
            hint=f"look at it below {self.root}, or use another name",
        )

    @contextmanager
    def _failures(self, doing: str, path: str) -> Iterator[None]:
        """Turn what the operating system raises inside into the errors that storages promise."""
        try:
            yield
        except OSError as error:
            raise self.failure(error, doing, path) from error

    def failure(self, error: OSError, doing: str, path: str) -> LightkeeperError:
        """The error that storages promise for what the operating system said."""
        path = printable(path)
        why = f"storage {self.name} cannot {doing} {path}: {error.strerror}"
        if isinstance(error, _MISSING) and doing not in ("write", "list"):
            return NotFound(f"storage {self.name} has no file {path}", hint=f"look below {self.root}")
        if error.errno in _FULL:
            return Unavailable(
                f"storage {self.name} is full: {path} was not written",
                hint=f"free space or raise the quota of {self.root}; what waits is tried again",
            )
        if error.errno in _MEDIUM and doing == "read":
            return Corrupt(why, hint=f"the disk below {self.root} fails; repair the file from another copy")
        if error.errno == errno.EROFS:
            return Refused(why, hint=f"{self.root} is mounted read-only; after a disk error Linux does so by itself")
        if error.errno in _RIGHTS:
            return Refused(why, hint=f"user {os.geteuid()} needs the right to {doing} below {self.root}")
        if error.errno in _IN_THE_WAY:
            return Refused(why, hint=f"something else lies under that name below {self.root}")
        if error.errno == errno.EXDEV:
            return Refused(why, hint=f"{self.root} spans several file systems; make one storage of each")
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG):
            return Refused(why, hint=f"the file system of {self.root} does not allow it")
        return Unavailable(why, hint=f"look at the disk or mount of {self.root} and at the system's log")


class _MediumFile(io.FileIO):
    """A file whose failing reads say which storage and path failed."""

    def __init__(self, storage: PosixStorage, path: str, fd: int) -> None:
        super().__init__(fd, "rb")
        self._storage = storage
        self._path = path
        self._straight = False
        self._never_straight = False

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        """Read on; straight from the device into a large buffer that lies as devices want it."""
        straight = not self._never_straight and self.tell() % ALIGNED == 0 and _can_go_straight(buffer)
        if straight != self._straight:
            self._straight = _goes_straight(self.fileno(), straight)
        try:
            return super().readinto(buffer)
        except OSError as error:
            if error.errno == errno.EINVAL and self._straight:  # some file systems find out late that they cannot
                self._never_straight = True
                return self.readinto(buffer)
            raise self._storage.failure(error, "read", self._path) from error

    def readall(self) -> bytes:
        try:
            return super().readall() or b""
        except OSError as error:
            raise self._storage.failure(error, "read", self._path) from error


class _PosixArrival:
    """A file that is being written and read back."""

    def __init__(self, storage: PosixStorage, path: str, fd: int) -> None:
        self._storage = storage
        self._path = path
        self._fd = fd
        self._done = os.fstat(fd).st_size
        self._direct = _goes_straight(fd, True)

    @property
    def done(self) -> int:
        """Its bytes so far."""
        return self._done

    def write(self, data: memoryview) -> None:
        """Append; what is no whole number of blocks at the end passes through the cache."""
        with self._storage._failures("write", self._path):  # pyright: ignore[reportPrivateUsage]
            rest = data.nbytes % ALIGNED if self._direct else 0
            self._write(data[: data.nbytes - rest])
            if rest:
                _goes_straight(self._fd, False)
                self._write(data[data.nbytes - rest :])
                _goes_straight(self._fd, True)

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                count = os.pwrite(self._fd, data, self._done)
            except OSError as error:
                self._give_up_direct(error)
                continue
            self._done += count
            data = data[count:]

    def sync(self) -> None:
        """On the medium, and out of the cache, when it returns."""
        with self._storage._failures("write", self._path):  # pyright: ignore[reportPrivateUsage]
            os.fdatasync(self._fd)
            if not self._direct:
                _forget_cached(self._fd)

    def read(self, position: int, into: memoryview) -> int:
        """Some bytes from there on, from the medium."""
        with self._storage._failures("read", self._path):  # pyright: ignore[reportPrivateUsage]
            while True:
                try:
                    return os.preadv(self._fd, [into], position)
                except OSError as error:
                    self._give_up_direct(error)
                    _forget_cached(self._fd)

    def close(self) -> None:
        """Let go of it, and of the lock."""
        os.close(self._fd)

    def _give_up_direct(self, error: OSError) -> None:
        """Some file systems find out late that they cannot: go through the cache from now on."""
        if error.errno != errno.EINVAL or not self._direct:
            raise error
        self._direct = False
        _goes_straight(self._fd, False)


def _can_go_straight(buffer: "WriteableBuffer") -> bool:
    view = memoryview(buffer)
    if view.nbytes < SMALLEST_STRAIGHT or view.nbytes % ALIGNED:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNED == 0


def _goes_straight(fd: int, whether: bool) -> bool:
    """Have what is read or written pass by the cache, or through it; False when the file system knows no other way."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if whether else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return whether


def _write_all(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync(chain: Sequence[int]) -> None:
    """Make a new name durable: its directory first, then each one above, up to the root."""
    for fd in reversed(chain):
        os.fsync(fd)


def _forget_cached(fd: int) -> None:
    with suppress(OSError):  # advice only; not every file system takes it
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
