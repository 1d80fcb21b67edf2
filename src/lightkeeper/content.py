"""Files between this machine and the storages: many at once, checked, resumed. Used by the command line and in Python.

    with connect(Settings()) as client:
        outcome = get(client, ["/ctao/acada/DL0/…/TEL001.fits.fz"], Path("night"))
        outcome = put(client, [Path("sky.fits")], "/ctao/user/maria", at="PIC-disk", meta={"data_level": 3})

What was loaded is complete and has the size and sha256 of the catalogue; until then its name ends in `.incomplete`.
One bad file does not stop the others.
"""

import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lightkeeper.client import Client, Content
from lightkeeper.domain.errors import Conflict, Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import Sums, chunks_of
from lightkeeper.domain.names import Lfn, lfn_below, parse_lfn, printable

INCOMPLETE = ".incomplete"
TRIES = 4
"""Attempts at one file when a connection breaks, each from where the last one came to."""
COPIES = 4
"""Copies of one file that are given up before it is."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PART = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """A file that is where it should be. `state`: 'loaded' or 'put' now, or 'there' already; 'new' or 'copy' is what
    would have been put."""

    name: str
    path: str
    state: str
    size: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that is not, and why. `name` is what it was asked for as."""

    name: str
    error: LightkeeperError


@dataclass(slots=True)
class Outcome:
    """What was done, and what was not with the reason, each in the order in which it was asked for."""

    done: list[Done] = field(default_factory=list[Done])
    failed: list[Failed] = field(default_factory=list[Failed])


class Progress:
    """Told, from several threads, how files come along. This one keeps it to itself."""

    def begin(self, name: str, size: int, done: int) -> None:
        """A file of `size` bytes begins, `done` of which are there already."""

    def more(self, name: str, size: int) -> None:
        """So many bytes more came; fewer than zero were thrown away."""

    def end(self, name: str) -> None:
        """The file came to its end, whatever that is."""


class _Stopped(Exception):
    """The user has had enough."""


# --- get ---------------------------------------------------------------------------------------------------------
def get(
    client: Client,
    names: Iterable[str],
    to: Path,
    *,
    parallel: int = 8,
    tree: bool = False,
    skip_existing: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Load files into the folder `to`, which is made: as `to/<file name>`, with `tree` as `to/<whole name>`.

    A local file that is there counts as loaded when its bytes are the catalogue's, or unread with `skip_existing`; one
    with other bytes makes that file fail, or is replaced with `overwrite`. Two names for one local file are Invalid,
    before anything is loaded. After an interruption the same call goes on where it was.
    """
    wanted = list(dict.fromkeys(names))
    outcome = Outcome()
    lfns: dict[str, Lfn] = {}
    for name in wanted:
        try:
            lfns[name] = parse_lfn(name)
        except Invalid as error:
            outcome.failed.append(Failed(name, error))
    _refuse_same_place(lfns.values(), tree)
    with _local_errors(str(to)):
        to.mkdir(parents=True, exist_ok=True)
        root = os.open(to, _FOLDER & ~os.O_NOFOLLOW)
    told = progress or Progress()
    stop = threading.Event()

    def load(name: str) -> Done:
        return _Load(client, lfns[name], to, root, tree, skip_existing, overwrite, told, stop).run()

    try:
        _each(load, list(lfns), parallel, stop, outcome)
    finally:
        os.close(root)
    return outcome


def _refuse_same_place(lfns: Iterable[Lfn], tree: bool) -> None:
    taken: dict[str, Lfn] = {}
    for lfn in lfns:
        place = lfn if tree else lfn.rpartition("/")[2]
        for path in (place, place + INCOMPLETE):
            if path in taken:
                raise Invalid(
                    f"{taken[path]} and {lfn} would be the same local file",
                    hint="keep their directories with --tree, or load them into different folders",
                )
            taken[path] = lfn


@dataclass(slots=True)
class _Load:
    """One file on its way here."""

    client: Client
    lfn: Lfn
    to: Path
    root: int
    tree: bool
    skip_existing: bool
    overwrite: bool
    progress: Progress
    stop: threading.Event

    @property
    def path(self) -> str:
        return str(self.to / (self.lfn[1:] if self.tree else self.name))

    @property
    def name(self) -> str:
        return self.lfn.rpartition("/")[2]

    def run(self) -> Done:
        parts = self.lfn[1:].split("/")[:-1] if self.tree else []
        with _local_errors(self.path), _folder(self.root, parts) as folder:
            there = self._there(folder)
            if there is not None:
                return there
            with _part(folder, self.name + INCOMPLETE, self.path) as part:
                try:
                    size = self._fill(part)
                finally:
                    self.progress.end(self.lfn)
                part.flush()
                os.fsync(part.fileno())
                if not self.overwrite:
                    self._refuse_other(folder)
                os.rename(self.name + INCOMPLETE, self.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        return Done(self.lfn, self.path, "loaded", size)

    def _there(self, folder: int) -> Done | None:
        """What lies under the local name already, when that is the file or is to be left."""
        try:
            found = os.stat(self.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if self.skip_existing:
            return Done(self.lfn, self.path, "there", found.st_size)
        if stat.S_ISREG(found.st_mode):
            facts = self.client.file_facts(self.lfn)
            if found.st_size == facts["size"] and self._digest(folder) == facts["sha256"]:
                return Done(self.lfn, self.path, "there", found.st_size)
        if stat.S_ISDIR(found.st_mode) or not self.overwrite:
            raise self._other()
        return None

    def _refuse_other(self, folder: int) -> None:
        """Somebody may have made a file of this name meanwhile."""
        with suppress(FileNotFoundError):
            os.stat(self.name, dir_fd=folder, follow_symlinks=False)
            raise self._other()

    def _other(self) -> Conflict:
        return Conflict(
            f"{printable(self.path)} is there and is not {self.lfn}",
            hint="replace it with --overwrite, or move it away",
        )

    def _digest(self, folder: int) -> str:
        sums = Sums()
        with os.fdopen(os.open(self.name, _READ, dir_fd=folder), "rb") as file:
            for chunk in chunks_of(file):
                self._go_on()
                sums.update(chunk)
        return sums.fixity().sha256

    def _fill(self, part: BinaryIO) -> int:
        """Complete the part; its size. What it holds already is kept unless the whole is then wrong."""
        sums = self._resumed(part)
        bad: list[str] = []
        tries = wrong = 0
        while True:
            begun = sums.fixity().size
            sources: set[str] = set() if begun == 0 else {""}
            try:
                facts = self._receive(part, sums, bad, sources)
            except Unavailable:
                tries = tries + 1 if sums.fixity().size == begun else 1
                if tries >= TRIES or self.stop.wait(0.2 * 2**tries):
                    raise
                continue
            found = sums.fixity()
            if (found.size, found.sha256) == facts:
                return found.size
            self.progress.more(self.lfn, -found.size)
            sums = _empty(part)
            why = f"reads as {found.size} bytes, sha256 {found.sha256[:12]}…, instead of {facts[0]}, {facts[1][:12]}…"
            if len(sources) == 1 and "" not in sources:  # else nobody knows whose bytes were wrong
                bad += sources
                with suppress(LightkeeperError):
                    self.client.suspect(self.lfn, bad[-1], why)
            wrong += 1
            if wrong > COPIES:
                raise Corrupt(f"{self.lfn} {why} ({', '.join(bad)})", hint=f"lightkeeper why {self.lfn}")

    def _resumed(self, part: BinaryIO) -> Sums:
        """The sums of what an earlier call left; none when that cannot be the beginning of the file."""
        if os.fstat(part.fileno()).st_size == 0:
            return _empty(part)
        sums = Sums()
        for chunk in chunks_of(part):
            self._go_on()
            sums.update(chunk)
        return sums

    def _receive(self, part: BinaryIO, sums: Sums, bad: Sequence[str], sources: set[str]) -> tuple[int, str]:
        """Append what is missing, from one copy; the size and sha256 that the whole must have."""
        start = sums.fixity().size
        if start:
            facts = self.client.file_facts(self.lfn)
            if start >= facts["size"]:
                self.progress.begin(self.lfn, facts["size"], start)
                return facts["size"], facts["sha256"]
        try:
            with self.client.open_content(self.lfn, not_at=bad, start=start) as content:
                sources.add(content.storage)
                self._append(part, sums, content)
                return content.size, content.sha256
        except (NotFound, Unavailable) as error:
            if bad and not sources - {""}:
                raise Corrupt(f"{self.lfn} read wrong at {', '.join(bad)}: {error.message}", hint=error.hint) from error
            raise

    def _append(self, part: BinaryIO, sums: Sums, content: Content) -> None:
        self.progress.begin(self.lfn, content.size, content.start)
        for chunk in content.chunks:
            self._go_on()
            part.write(chunk)
            sums.update(chunk)
            self.progress.more(self.lfn, len(chunk))

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise _Stopped


def _empty(part: BinaryIO) -> Sums:
    part.seek(0)
    part.truncate()
    return Sums()


@contextmanager
def _folder(root: int, parts: Sequence[str]) -> Generator[int]:
    """A folder below `root`, made when needed, reached without following a link."""
    folder = os.dup(root)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _part(folder: int, name: str, path: str) -> Generator[BinaryIO]:
    """The part under this name, ours alone, at its start."""
    with os.fdopen(os.open(name, _PART, 0o666, dir_fd=folder), "r+b") as part:
        found = os.fstat(part.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise Refused(f"{printable(path)}{INCOMPLETE} is no file of its own", hint="move it away")
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another program is loading {printable(path)}", hint="let it finish") from None
        if not _is_there(folder, name, found):  # finished by another program while we came
            raise Conflict(f"another program has just loaded {printable(path)}", hint="look again")
        try:
            yield part
        except BaseException:
            if os.fstat(part.fileno()).st_size == 0:
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
            raise


def _is_there(folder: int, name: str, found: os.stat_result) -> bool:
    try:
        now = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


# --- put ---------------------------------------------------------------------------------------------------------
def put(
    client: Client,
    paths: Iterable[Path],
    to: str,
    *,
    at: str,
    meta: Mapping[str, Any],
    parallel: int = 4,
    recursive: bool = False,
    below: Path | None = None,
    without: str = "",
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Put local files into the catalogue's directory `to`, as `to/<file name>`, with these metadata and a first copy
    `at` a storage. With `recursive` folders too, as `to/<folder>/…`. With `below` they lie in that folder as they will
    in the catalogue: a name is `to` and what follows the folder. Files whose names end `without` are left out. With
    `dry_run` only say what would be put.

    What is there already, with the same content, counts as done. Raises, before anything is read, when the storage or
    the metadata cannot be, and when two files would get one name.
    """
    client.plan_put(at, meta)
    outcome = Outcome()
    files: dict[str, tuple[Path, Lfn]] = {}
    names: dict[Lfn, str] = {}
    for path, name in _expanded(paths, recursive):
        if without and name.endswith(without):
            continue
        try:
            directory = to.rstrip("/")
            if below is None:
                lfn = parse_lfn(f"{directory}/{name}")
            else:
                lfn = lfn_below(path.absolute(), below.absolute(), directory)
        except Invalid as error:
            outcome.failed.append(Failed(str(path), error))
            continue
        if names.setdefault(lfn, str(path)) != str(path):
            raise Invalid(f"{names[lfn]} and {path} would both be {lfn}", hint="put them into different directories")
        files[str(path)] = path, lfn
    told = progress or Progress()
    stop = threading.Event()

    def send(name: str) -> Done:
        path, lfn = files[name]
        with _local_errors(name):
            return _put_one(client, path, lfn, at, meta, dry_run, told, stop)

    _each(send, list(files), parallel, stop, outcome)
    return outcome


def _expanded(paths: Iterable[Path], recursive: bool) -> Iterator[tuple[Path, str]]:
    """Files with their names below the target directory."""
    for path in paths:
        if not path.is_dir():
            yield path, path.name
            continue
        if not recursive:
            raise Invalid(f"{path} is a folder", hint="put what is in it with --recursive")
        base = path if path.name in ("", "..") else path.parent
        for folder, below, files in os.walk(path):
            below.sort()
            linked = [name for name in below if (Path(folder) / name).is_symlink()]
            for name in sorted([*files, *linked]):
                file = Path(folder) / name
                yield file, str(file.relative_to(base))


def _put_one(
    client: Client,
    path: Path,
    lfn: Lfn,
    at: str,
    meta: Mapping[str, Any],
    dry_run: bool,
    progress: Progress,
    stop: threading.Event,
) -> Done:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Invalid(f"{printable(str(path))} is no file", hint="put regular files")
        digest, size = hashlib.sha256(), 0
        for chunk in chunks_of(file):
            if stop.is_set():
                raise _Stopped
            digest.update(chunk)
            size += len(chunk)
        sha256 = digest.hexdigest()
        state = client.plan_put(at, meta, lfn, sha256)
        if state == "known":
            return Done(lfn, str(path), "there", size)
        if dry_run:
            return Done(lfn, str(path), str(state), size)
        progress.begin(lfn, size, 0)
        try:
            for attempt in range(TRIES):
                try:
                    if attempt and client.plan_put(at, meta, lfn, sha256) == "known":
                        return Done(lfn, str(path), "put", size)  # only the answer was lost
                    file.seek(0)
                    sent = client.put_content(lfn, at, _sent(file, lfn, size, progress, stop), size, sha256, meta)
                    return Done(lfn, str(path), "there" if sent["state"] == "known" else "put", size)
                except Unavailable:
                    if attempt + 1 == TRIES or stop.wait(0.5 * 2**attempt):
                        raise
                    progress.more(lfn, -min(file.tell(), size))
        finally:
            progress.end(lfn)
    raise AssertionError("unreachable")


def _sent(file: BinaryIO, lfn: Lfn, size: int, progress: Progress, stop: threading.Event) -> Iterator[bytes]:
    left = size
    for chunk in chunks_of(file):
        if stop.is_set():
            raise _Stopped
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
        progress.more(lfn, len(chunk))
    if left:
        raise Conflict(f"the file for {lfn} changed while it was read", hint="put it again when it is complete")


# --- how ---------------------------------------------------------------------------------------------------------
def _each(
    work: Callable[[str], Done], names: Sequence[str], parallel: int, stop: threading.Event, outcome: Outcome
) -> None:
    """Do the work for every name, `parallel` at a time; what comes of it is noted in order. When this thread is
    interrupted the others end soon, and nothing new begins."""
    results: dict[int, Done | Failed] = {}
    waiting = iter(enumerate(names))
    lock = threading.Lock()
    unforeseen: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            with lock:
                number, name = next(waiting, (-1, ""))
            if number < 0:
                return
            try:
                results[number] = work(name)
            except LightkeeperError as error:
                results[number] = Failed(name, error)
            except _Stopped:
                return
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that asked for the work
                unforeseen.append(error)
                stop.set()

    threads = [threading.Thread(target=run, name=f"content-{n}", daemon=True) for n in range(min(parallel, len(names)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that an interrupt is heard
    except BaseException:
        stop.set()
        deadline = time.monotonic() + 10
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    if unforeseen:
        raise unforeseen[0]
    for number in sorted(results):
        result = results[number]
        if isinstance(result, Done):
            outcome.done.append(result)
        else:
            outcome.failed.append(result)


@contextmanager
def _local_errors(path: str) -> Generator[None]:
    """Turn what this machine's disk says into an error that names the file."""
    try:
        yield
    except OSError as error:
        what = f"{printable(path)}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(what, hint="free space and call again: what is there is kept") from error
        if error.errno == errno.ENOENT:
            raise NotFound(f"there is no file {printable(path)}") from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Refused(what, hint="a link or a file is in the way; move it away") from error
        raise Refused(what, hint="look at its folder and who may use it") from error
