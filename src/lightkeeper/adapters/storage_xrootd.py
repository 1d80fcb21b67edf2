"""A storage behind an XRootD server: root `root://host:1094//base/path`, or `roots://` with TLS.

A file is written under a temporary name in `.lightkeeper/incoming`, synced and closed, its size is compared; then
it is renamed into place by the server. A temporary file is opened as "persist on successful close": the server
removes it by itself when the writer dies. The base path must exist. It is never made here, because a missing one
mostly means that the server's disk is not mounted.

What the protocol does not give: there is no way to sync a directory, so a name is on the server's disk only when its
file system writes its journal, and bytes that are read back may come from the server's memory.

Name one server or a door that shows a whole name space (EOS, dCache): a listing asks one server only. The client
finds its credentials as all XRootD programs do, by X509_USER_PROXY or BEARER_TOKEN_FILE. It belongs to the
extra `xrootd`, and is loaded when a storage is first used.
"""

import ctypes
import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from lightkeeper.adapters.remote import STALE_SECONDS, directory_of, parts_of
from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import ALIGNED, Entry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

INCOMING = "/.lightkeeper/incoming"
PROBES = "/.lightkeeper/probe"

ANSWER_SECONDS = 20
CLEAN_UP_SECONDS = 5
SYNC_SECONDS = 300
CHECKSUM_SECONDS = 3600  # the server reads the whole file before it answers
BLOCK = 4 << 20
MAX_LISTED = 254  # servers of release 5 cut longer names when they list them
_FIRST_READ = 256 << 10

_ROOT = re.compile(r"(roots?://(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9._:\[\]-]+)/(/[^?#]*)\Z")

# Of the whole process, and weaker than XRD_… in the environment. A lost host is noticed by keep-alive in 25 s.
# Without an error window a server is asked again as soon as it is back. A file named *.meta4 is a file, not a metalink.
_SETTINGS = {
    "ConnectionWindow": 10,
    "ConnectionRetry": 1,
    "RequestTimeout": ANSWER_SECONDS,
    "StreamErrorWindow": 0,
    "TimeoutResolution": 1,
    "TCPKeepAlive": 1,
    "TCPKeepAliveTime": 10,
    "TCPKeepAliveInterval": 5,
    "TCPKeepAliveProbes": 3,
    "MetalinkProcessing": 0,
}
_RECOVERY = ("ReadRecovery", "WriteRecovery")

# Numbers of the protocol, kXR_…, and of the client's library.
_READ, _NEW, _MAKE_PATH, _ON_CLOSE = 0x10, 0x08, 0x100, 0x1000
_UPDATE, _REPLACE = 0x20, 0x02
_WITH_STAT = 1
_MAKE_PARENTS = 1
_IS_DIRECTORY, _IS_OTHER = 2, 4
_CHECKSUM = 3
_PARTIAL = 3
_ANSWERED = 400  # the server answered with an error number
_CLIENT_REFUSED = {9, 13, 204}  # invalid argument, not supported, authentication failed
_CLIENT_CORRUPT = {14, 305}
_NO_CHECKSUM = {3013, 3000}
_FS_ERROR, _IO_ERROR, _NO_FILE, _EXISTS = 3005, 3007, 3011, 3018
_NO_DIRECTORY = {_FS_ERROR, 3015}
_FULL = {3009, 3021}
_RIGHTS = {3010, 3030}
_IN_THE_WAY = {3015, 3016, 3018}
_READ_ONLY = 3025
_NOT_ALLOWED = {3000, 3001, 3002, 3006, 3013, 3022, 3028, 3031, 3032}
_CHECKSUM_WRONG = 3019


class XrootdStorage:
    """Storage on base path of an XRootD server. Threads may share it."""

    def __init__(self, name: str, root: str, *, answer_seconds: int = ANSWER_SECONDS) -> None:
        self.name = name
        self.root = str(root)
        matched = _ROOT.match(self.root)
        if not matched:
            raise Invalid(
                f"the root of storage {name}, '{printable(self.root)}', is not of an XRootD server",
                hint="write root://host:1094//base/path, without '?' and what follows it",
            )
        self._server = matched[1]
        self.answer_seconds = answer_seconds
        self.clean_up_seconds = min(answer_seconds, CLEAN_UP_SECONDS)
        # Names that no file may have are no base either.
        self._base = "".join(f"/{part}" for part in directory_of(name, matched[2])) if matched[2] != "/" else ""

    # --- files -------------------------------------------------------------------------------------------
    def open(self, path: str) -> BinaryIO:
        """The file for reading, seekable. Each read is bounded in time and in size; reading ahead grows to 4 MiB."""
        remote = self._remote(path)
        file = self._new_file()
        status, _ = file.open(f"{self._server}/{remote}", _READ, 0, self.answer_seconds)
        if not status.ok:
            if self._says_nothing_there(status, remote):
                self._must_have_root()
                raise self._not_found(path)
            raise self.failure(status, "read", path)
        return io.BufferedReader(_RemoteFile(self, path, file), BLOCK)

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write a new file and return its bytes: synced by the server, closed and complete when it returns.

        When it raises, `path` is as it was before, with one exception: if the connection is lost during the very
        last step, the renaming, the whole new file may be there. What `chunks` raises passes through as it is.
        """
        remote = self._remote(path)
        temporary = self._remote(f"{INCOMING}/{uuid4().hex}")
        self._must_have_root()
        self._make_directory(remote.rpartition("/")[0], "write", path)
        try:
            size = self._fill(temporary, path, chunks)
            self._move(temporary, remote, "write", path)
        except BaseException:
            with suppress(LightkeeperError):
                self.told(self._file_system().rm, temporary, self.clean_up_seconds, doing="delete", path=path)
            raise
        return size

    def arrive(self, path: str, earlier: Sequence[str] = ()) -> "_XrootdArrival":
        """A file to be written under the temporary name `path`. A server lets nobody open a file that another has open
        for writing, so what an attempt left is taken over only when its connection is gone."""
        remote = self._remote(path)
        self._must_have_root()
        self._make_directory(remote.rpartition("/")[0], "write", path)
        for older in earlier:
            from_remote = self._remote(older)
            found = self._look(from_remote, "write", older)
            if found is None or not _is_file(found):
                continue
            file = self._new_file()
            status, _ = file.open(f"{self._server}/{from_remote}", _UPDATE, 0o644, self.answer_seconds)
            if not status.ok:
                continue  # somebody writes to it, or takes it away
            file.close(self.clean_up_seconds)
            with suppress(LightkeeperError):  # taken over by another one, who was faster
                self._move(from_remote, remote, "write", path)
                return self._arrival(path, remote, _UPDATE, found.size - found.size % ALIGNED)
        return self._arrival(path, remote, _UPDATE | _REPLACE | _MAKE_PATH, 0)

    def _arrival(self, path: str, remote: str, flags: int, done: int) -> "_XrootdArrival":
        file = self._new_file()
        self.told(file.open, f"{self._server}/{remote}", flags, 0o644, self.answer_seconds, doing="write", path=path)
        if done:
            self.told(file.truncate, done, self.answer_seconds, doing="write", path=path)
        return _XrootdArrival(self, path, file, done)

    def rename(self, source: str, target: str) -> None:
        """Move within the storage, atomic, parents made; an existing target is replaced."""
        remote, to_remote = self._remote(source), self._remote(target)
        if self._found(remote, "rename", source) is None:
            raise self._not_found(source)
        self._make_directory(to_remote.rpartition("/")[0], "rename", source)
        self._move(remote, to_remote, "rename", source)

    def delete(self, path: str) -> bool:
        """Remove a file. False when it was not there."""
        remote = self._remote(path)
        # The server's own "rm" removes empty directories too.
        if self._found(remote, "delete", path) is None:
            return False
        try:
            self.told(self._file_system().rm, remote, self.answer_seconds, doing="delete", path=path)
        except NotFound:  # somebody was faster
            return False
        return True

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None when there is no regular file."""
        found = self._look(self._remote(path), "look at", path)
        return Entry(path, found.size, float(found.mtime)) if found is not None and _is_file(found) else None

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        """Every regular file below directory `prefix`, a directory at a time; none when there is no such directory.

        Directories whose names begin with '.' are left out unless `prefix` leads into them. What cannot be listed
        raises: a listing never looks complete when it is not. Links are followed, since the server does not show
        them as links.
        """
        start = "".join(f"/{part}" for part in directory_of(self.name, prefix))
        self._must_have_root()
        waiting = [start]
        while waiting:
            directory = waiting.pop()
            for name, found in self._entries(directory):
                below = f"{directory}/{name}"
                if found.flags & _IS_DIRECTORY:
                    if not name.startswith("."):
                        waiting.append(below)
                elif _is_file(found):
                    yield Entry(below, found.size, float(found.mtime))

    def probe(self) -> None:
        """Write, read back and remove a small file; also remove what killed writers left behind."""
        for directory in (INCOMING, PROBES):
            for entry in self.list(directory):
                if time.time() - entry.modified > STALE_SECONDS:
                    self.delete(entry.path)
        path = f"{PROBES}/{uuid4().hex}"
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
                hint=f"take {self.name} out of use and examine the server of {self.root}",
            )

    def adler32(self, path: str) -> str | None:
        """The file's adler32 as the server tells it, 8 hexadecimal digits; None when it does not offer that.

        The server may tell one that it took earlier: this finds a wrong copy, not a disk that has gone bad since.
        """
        remote = self._remote(path)
        if self._found(remote, "sum up", path) is None:
            raise self._not_found(path)
        query = f"{remote}?cks.type=adler32"
        status, answer = self._file_system().query(_CHECKSUM, query, timeout=CHECKSUM_SECONDS)
        if not status.ok:
            if status.code == _ANSWERED and status.errno in _NO_CHECKSUM:
                return None
            raise self.failure(status, "read", path)
        kind, _, digits = answer.decode("ascii", "replace").strip("\0\n ").partition(" ")
        if kind.lower() != "adler32" or not re.fullmatch(r"[0-9A-Fa-f]{1,8}", digits):
            return None
        return digits.lower().zfill(8)

    def address(self, path: str) -> str:
        """The file's whole address, as one server is told of a file of another."""
        return f"{self._server}/{self._remote(path)}"

    # --- helpers -----------------------------------------------------------------------------------------
    def _fill(self, temporary: str, path: str, chunks: Iterable[bytes]) -> int:
        """Write `chunks` to the new file `temporary`; it is complete on the server when this returns."""
        file = self._new_file()
        flags = _NEW | _MAKE_PATH | _ON_CLOSE
        self.told(file.open, f"{self._server}/{temporary}", flags, 0o644, self.answer_seconds, doing="write", path=path)
        size = 0
        seconds = self.clean_up_seconds
        try:
            for block in _blocks(chunks):
                self.told(file.write, block, size, 0, self.answer_seconds, doing="write", path=path)
                size += len(block)
            self.told(file.sync, SYNC_SECONDS, doing="write", path=path)
            seconds = SYNC_SECONDS
        except BaseException:
            with suppress(LightkeeperError):
                self.told(file.close, seconds, doing="write", path=path)
            raise
        self.told(file.close, seconds, doing="write", path=path)
        found = self._look(temporary, "write", path)
        if found is None or found.size != size:
            raise Unavailable(
                f"storage {self.name} kept {found.size if found else 0} of {size} bytes of {printable(path)}",
                hint=f"look at the server of {self.root} and at its log; what waits is tried again",
            )
        return size

    def _entries(self, directory: str) -> Iterator[tuple[str, Any]]:
        """Name and description of what lies in `directory`; nothing when it is not there any more."""
        remote = self._remote(directory) if directory else self._base or "/"
        # A listing with descriptions leaves out what the server cannot describe, a plain one does not.
        names = [entry.name for entry in self._listing(remote, directory, 0)]
        described = {entry.name: entry.statinfo for entry in self._listing(remote, directory, _WITH_STAT)}
        for name in names:
            found = described.get(name)
            cut = len(name.encode()) >= MAX_LISTED
            if found is None or cut or (found.id == "0" and not found.flags):
                found = self._look(f"{remote}/{name}", "list", directory)
            if found is None and cut:
                raise Unavailable(
                    f"storage {self.name} lists {printable(name)} in {printable(directory)}, which is not there",
                    hint=f"its name may be too long to be listed; look at it below {self.root}",
                )
            if found is not None:
                yield name, found

    def _listing(self, remote: str, directory: str, flags: int) -> Iterable[Any]:
        shown = directory or "/"
        try:
            status, listing = self._file_system().dirlist(remote, flags, timeout=self.answer_seconds)
        except (SystemError, UnicodeDecodeError) as error:
            raise self._refused(shown, "a name in it is not UTF-8") from error
        if not status.ok:
            if self._says_nothing_there(status, f"{remote}/any"):
                return ()
            raise self.failure(status, "list", shown)
        if status.code == _PARTIAL:
            raise Unavailable(
                f"storage {self.name} listed {printable(shown)} in part only",
                hint=f"a server behind {self.root} does not answer; what waits is tried again",
            )
        return listing

    def _found(self, remote: str, doing: str, path: str) -> Any | None:
        """What the server tells of a file; None when it is not there, Refused when it is something else."""
        found = self._look(remote, doing, path)
        if found is not None and not _is_file(found):
            kind = "a directory" if found.flags & _IS_DIRECTORY else "a device"
            raise self._refused(path, f"it is {kind}, not a file")
        return found

    def _look(self, remote: str, doing: str, path: str) -> Any | None:
        """What the server tells of whatever lies there; None when nothing does."""
        status, found = self._file_system().stat(remote, timeout=self.answer_seconds)
        if status.ok:
            return found
        if self._says_nothing_there(status, remote):
            self._must_have_root()
            return None
        raise self.failure(status, doing, path)

    def _says_nothing_there(self, status: Any, remote: str) -> bool:
        """Whether a failure means that nothing lies at `remote`."""
        if status.code != _ANSWERED:
            return False
        # "Not a directory" has no number of its own.
        return status.errno == _NO_FILE or (status.errno in _NO_DIRECTORY and self._below_a_file(remote))

    def _below_a_file(self, remote: str) -> bool:
        """Whether something above `remote` is a file."""
        above = remote.rpartition("/")[0]
        while len(above) > len(self._base):
            status, found = self._file_system().stat(above, timeout=self.answer_seconds)
            if status.ok:
                return not found.flags & _IS_DIRECTORY
            if status.code != _ANSWERED:
                return False
            above = above.rpartition("/")[0]
        return False

    def _make_directory(self, remote: str, doing: str, path: str) -> None:
        status, _ = self._file_system().mkdir(remote or "/", _MAKE_PARENTS, 0o755, timeout=self.answer_seconds)
        if not status.ok and not (status.code == _ANSWERED and status.errno == _EXISTS):
            if self._says_nothing_there(status, f"{remote}/any"):
                raise self._refused(path, "a part of the new name is a file")
            raise self.failure(status, doing, path)

    def _move(self, remote: str, to_remote: str, doing: str, path: str) -> None:
        status, _ = self._file_system().mv(remote, to_remote, timeout=self.answer_seconds)
        if status.ok:
            return
        if status.code == _ANSWERED and status.errno == _FS_ERROR:
            if self._below_a_file(to_remote):
                raise self._refused(path, "a part of the new name is a file")
            self._found(to_remote, doing, path)
        raise self.failure(status, doing, path)

    def _must_have_root(self) -> None:
        base = self._base or "/"
        status, found = self._file_system().stat(base, timeout=self.answer_seconds)
        missing = status.code == _ANSWERED and status.errno in (_NO_FILE, _FS_ERROR)
        if not status.ok and not missing:
            raise self.failure(status, "look at", "/")
        if missing or not found.flags & _IS_DIRECTORY:
            raise Unavailable(
                f"storage {self.name} is not there: {self.root} is not a directory",
                hint=f"mount or make it on the server, then probe storage {self.name}",
            )

    def told(self, call: Any, *arguments: Any, doing: str, path: str) -> Any:
        """The answer to a call of the client's library; raises what storages promise."""
        try:
            status, answer = call(*arguments)
        except ValueError as error:  # the library has closed the file, after an earlier failure
            raise Unavailable(
                f"storage {self.name} cannot {doing} {printable(path)}: the connection was lost",
                hint=f"is the server of {self.root} up? what waits is tried again",
            ) from error
        if not status.ok:
            raise self.failure(status, doing, path)
        return answer

    def _file_system(self) -> Any:
        return self._binding().FileSystem(f"{self._server}/")

    def _new_file(self) -> Any:
        """A file of the library, not open yet. When its connection is lost it stays lost: by default the library opens
        it again by its name, and goes on in what may be another content, or one that lost what had been written."""
        file = self._binding().File()
        for name in _RECOVERY:
            # The library (6.2) hands out the constant True without counting it: without this, Python aborts later.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(True))
            file.set_property(name, "false")
        return file

    def _binding(self) -> Any:
        try:
            return _library()
        except ImportError as error:
            raise Unavailable(
                f"storage {self.name} needs the XRootD client: {error}", hint="pip install 'lightkeeper[xrootd]'"
            ) from error

    def _remote(self, path: str) -> str:
        """The path on the server, of a checked one."""
        parts = parts_of(self.name, path)
        # What follows a '?' is not part of the name on the wire.
        if any("?" in part for part in parts):
            raise self._refused(path, "a part holds a '?'")
        if any(len(part.encode()) > MAX_LISTED for part in parts):
            raise self._refused(path, f"a part is longer than {MAX_LISTED} bytes, and listings would cut it")
        return "/".join((self._base, *parts))

    def _refused(self, path: str, why: str) -> Refused:
        return Refused(
            f"storage {self.name} refuses {printable(path)}: {why}",
            hint=f"look at it below {self.root}, or use another name",
        )

    def _not_found(self, path: str) -> NotFound:
        return NotFound(f"storage {self.name} has no file {printable(path)}", hint=f"look below {self.root}")

    def failure(self, status: Any, doing: str, path: str) -> LightkeeperError:
        """The error that storages promise for what the server or the client's library said."""
        path = printable(path)
        said = printable(re.sub(r"^\[\w+\] (Server responded with an error: )?", "", status.message).strip())
        why = f"storage {self.name} cannot {doing} {path}: {said}"
        number = status.errno if status.code == _ANSWERED else 0
        if number == _NO_FILE and doing not in ("write", "list"):
            return self._not_found(path)
        if number in _FULL:
            return Unavailable(
                f"storage {self.name} is full: {path} was not written",
                hint=f"free space or raise the quota of {self.root}; what waits is tried again",
            )
        if number == _CHECKSUM_WRONG or status.code in _CLIENT_CORRUPT or (number == _IO_ERROR and doing == "read"):
            return Corrupt(why, hint=f"the disk of {self.root} fails; repair the file from another copy")
        # An export that is configured read-only has no number of its own.
        if number == _READ_ONLY or (number == _FS_ERROR and "read/only" in said):
            return Refused(why, hint=f"{self.root} is read-only; after a disk error the server's system does so itself")
        if number in _RIGHTS or status.code in _CLIENT_REFUSED:
            return Refused(why, hint=f"the server must let us {doing} below {self.root}; are the credentials good?")
        if number in _IN_THE_WAY:
            return Refused(why, hint=f"something else lies under that name below {self.root}")
        if number in _NOT_ALLOWED:
            return Refused(why, hint=f"the server of {self.root} does not allow it")
        return Unavailable(why, hint=f"is the server of {self.root} up? what waits is tried again")


class _RemoteFile(io.RawIOBase):
    """An open file on the server, of the size it had when it was opened."""

    def __init__(self, storage: XrootdStorage, path: str, file: Any) -> None:
        super().__init__()
        self._storage = storage
        self._path = path
        self._file = file
        self._size = int(storage.told(file.stat, False, storage.answer_seconds, doing="read", path=path).size)
        self._position = 0
        self._expected = 0
        self._ahead = _FIRST_READ

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        into = memoryview(buffer).cast("B")
        # Who reads on gets more at once; who jumps does not wait for what is not wanted.
        self._ahead = min(2 * self._ahead, BLOCK) if self._position == self._expected else _FIRST_READ
        count = min(len(into), self._ahead, self._size - self._position)
        if count <= 0:
            return 0
        data = self._storage.told(
            self._file.read, self._position, count, self._storage.answer_seconds, doing="read", path=self._path
        )
        if not data:
            raise Unavailable(
                f"file {printable(self._path)} of storage {self._storage.name} ended at byte {self._position} "
                f"of {self._size}",
                hint=f"look at the server of {self._storage.root}; what waits is tried again",
            )
        into[: len(data)] = data
        self._position += len(data)
        self._expected = self._position
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with suppress(LightkeeperError):  # everything that was wanted has been read
                self._storage.told(self._file.close, self._storage.clean_up_seconds, doing="read", path=self._path)
        super().close()


class _XrootdArrival:
    """A file on the server that is being written and read back."""

    def __init__(self, storage: XrootdStorage, path: str, file: Any, done: int) -> None:
        self._storage = storage
        self._path = path
        self._file = file
        self._done = done

    @property
    def done(self) -> int:
        """Its bytes so far."""
        return self._done

    def write(self, data: memoryview) -> None:
        """Append."""
        self._told(self._file.write, bytes(data), self._done, 0, self._storage.answer_seconds, doing="write")
        self._done += data.nbytes

    def sync(self) -> None:
        """The server has synced it when this returns."""
        self._told(self._file.sync, SYNC_SECONDS, doing="write")

    def read(self, position: int, into: memoryview) -> int:
        """Some bytes from there on, as the server reads them; maybe from its memory."""
        data = self._told(self._file.read, position, into.nbytes, self._storage.answer_seconds, doing="read")
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of it."""
        self._told(self._file.close, SYNC_SECONDS, doing="write")

    def _told(self, call: Any, *arguments: Any, doing: str) -> Any:
        return self._storage.told(call, *arguments, doing=doing, path=self._path)


@lru_cache(maxsize=1)
def _library() -> Any:
    """The client's library, told how patient to be."""
    library = import_module("XRootD.client")
    for name, value in _SETTINGS.items():
        library.EnvPutInt(name, value)
    return library


def _is_file(found: Any) -> bool:
    return not found.flags & (_IS_DIRECTORY | _IS_OTHER)


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of 4 MiB and a rest: every request costs a way there and back."""
    waiting = bytearray()
    for chunk in chunks:
        for start in range(0, len(chunk), BLOCK):
            waiting += memoryview(chunk)[start : start + BLOCK]
            if len(waiting) >= BLOCK:
                yield bytes(memoryview(waiting)[:BLOCK])
                del waiting[:BLOCK]
    if waiting:
        yield bytes(waiting)
