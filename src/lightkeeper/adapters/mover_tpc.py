"""Copies a file from storage to storage without its bytes passing through here, where both servers can do that.

Between two XRootD storages it is that protocol's third-party copy. Between two WebDAV storages it is a COPY over HTTP,
as the WLCG servers understand it: the target is asked to pull, or else the source to push; the server that is asked is
shown the other's token, never a password. Everything else is streamed through this process, and so are small files,
which takes less time than to arrange anything else.

A server's word is not taken for it: the copy is read back here, as always. A third-party copy that is refused or fails
is made once more as a stream, since only so is it known what fails; one that breaks off or stands still is Unavailable,
so that it is tried again. Either way, when the stream succeeds or the copy breaks off, files between these two storages
are streamed for some minutes.
"""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from lightkeeper.adapters.credentials import credentials_of
from lightkeeper.adapters.mover_stream import StreamMover, read_back
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.errors import LightkeeperError, Unavailable
from lightkeeper.domain.names import Fixity, printable
from lightkeeper.ports import Copied, Copy

AT_LEAST = 64 << 20  # XRootD servers notice in steps of 2.5 s that a copy is done
PATIENCE = 120.0
FORGET_AFTER = 600.0

_LONGEST_LINE = 8 << 10
_MOST_STRIPES = 1000
_MARKER = re.compile(r"\s*Stripe (Index|Bytes Transferred):\s*(\d{1,18})\s*\Z", re.IGNORECASE)
_SUCCESS = re.compile(r"success\b", re.IGNORECASE)
_FAILURE = re.compile(r"(failure|failed|aborted)\b", re.IGNORECASE)
# Of the XRootD client's library: everything that is wrong with connections, and "operation expired".
_LOST = {*range(101, 200), 206}


class TpcMover:
    """Copies by third party where that works, else as a stream. Remembers for some minutes what does not; threads may
    share it.

    `at_least` is the size below which files are streamed, `patience` the seconds that a copy may stand still, and
    `forget_after` the seconds after which a way that failed is tried again.
    """

    def __init__(
        self, *, at_least: int = AT_LEAST, patience: float = PATIENCE, forget_after: float = FORGET_AFTER
    ) -> None:
        self._at_least = at_least
        self._patience = patience
        self._forget_after = forget_after
        self._stream = StreamMover()
        self._failed: dict[tuple[str, str, str], float] = {}

    def carry(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Copy each, and read it back; what is streamed, together."""
        streamed: list[Copy] = []
        for copy in copies:
            ways = [way for way in _ways(copy) if self._failed.get(way.key, 0.0) <= time.monotonic()]
            if not ways or copy.paced or copy.size < self._at_least:
                streamed.append(copy)
            else:
                yield self._by_third_party(copy, ways)
        yield from self._stream.carry(streamed)

    def _by_third_party(self, copy: Copy, ways: "list[_Way]") -> Copied:
        failed: list[_Way] = []
        for way in ways:
            try:
                fixity = _bring(way, copy, _Watch(way, copy.source_path, copy.progress, self._patience))
                self._remember(failed)
                return Copied(copy, fixity)
            except _Unable:
                failed.append(way)
            except _BrokeOff as error:
                self._remember([way])
                return Copied(copy, error=error)
            except (LightkeeperError, OSError) as error:
                return Copied(copy, error=error)
        (ended,) = self._stream.carry([copy])
        if ended.error is None:
            self._remember(failed)
        return ended

    def _remember(self, failed: "list[_Way]") -> None:
        for way in failed:
            self._failed[way.key] = time.monotonic() + self._forget_after


def _ways(copy: Copy) -> "list[_Way]":
    """How others could make this copy, the best way first."""
    source, target = copy.source, copy.target
    if isinstance(source, XrootdStorage) and isinstance(target, XrootdStorage):
        return [_Way("xrootd", source.name, target.name, partial(_by_xrootd, source, target))]
    if isinstance(source, WebdavStorage) and isinstance(target, WebdavStorage):
        pull = _Way("pull", source.name, target.name, partial(_by_pull, source, target))
        push = _Way("push", source.name, target.name, partial(_by_push, source, target))
        return [pull, push] if _differ(source, target) else [pull]
    return []


def _bring(way: "_Way", copy: Copy, watch: "_Watch") -> Fixity:
    """Have it copied, and read it back."""
    try:
        way.ask(copy.source_path, copy.target_path, watch)
        found = copy.target.stat(copy.target_path)
        if found is None or found.size != copy.size:
            raise _Unable
        watch.tell(copy.size)
        return read_back(copy, watch.again)
    except BaseException:
        with suppress(LightkeeperError):  # it is in the way of nobody
            copy.target.delete(copy.target_path)
        raise


# --- XRootD ------------------------------------------------------------------------------------------------
def _by_xrootd(source: XrootdStorage, target: XrootdStorage, source_path: str, temporary: str, watch: "_Watch") -> None:
    target.stat(temporary)  # raises when the base is not there: the copy would make it
    # -P: nothing of the current directory is imported.
    command = [sys.executable, "-P", "-m", "lightkeeper.adapters.tpc_xrootd"]
    command += [source.address(source_path), target.address(temporary)]
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.DEVNULL)
    except OSError:  # of this machine, not of a file
        os.close(reading)
        raise _Unable from None
    finally:
        os.close(writing)
    last = ""
    try:
        for line in _lines(watch.over(_arriving(reading, watch))):
            if line.isdigit():
                watch.at(int(line))
            last = line
    finally:
        os.close(reading)
        child.kill()
        child.wait()
    try:
        ended = json.loads(last)
        code, message = int(ended["code"]), str(ended["message"])
    except (ValueError, KeyError, TypeError):
        raise _Unable from None  # the library ended the process
    if code in _LOST:
        raise watch.lost(re.sub(r"^\[\w+\] ", "", message).strip())
    if code:
        raise _Unable


def _arriving(pipe: int, watch: "_Watch") -> Iterator[bytes]:
    """What a process prints, until it ends; raises when it is silent for too long."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while True:
        if not waiting.poll(1000.0 * watch.left()):
            raise watch.stood_still()
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return
        yield piece


# --- HTTP --------------------------------------------------------------------------------------------------
def _by_pull(source: WebdavStorage, target: WebdavStorage, source_path: str, temporary: str, watch: "_Watch") -> None:
    target.make_room(temporary)
    _ask_by_http(target, temporary, "Source", source, source_path, watch)


def _by_push(source: WebdavStorage, target: WebdavStorage, source_path: str, temporary: str, watch: "_Watch") -> None:
    target.make_room(temporary)
    _ask_by_http(source, source_path, "Destination", target, temporary, watch)


def _differ(source: WebdavStorage, target: WebdavStorage) -> bool:
    """Whether the source cannot take the target for itself: nginx compares the beginning of the host's name only, and
    would copy to a place of its own."""
    ours, others = (urlsplit(storage.address("/x")).hostname or "" for storage in (source, target))
    return not (ours.startswith(others) or others.startswith(ours))


def _ask_by_http(
    asked: WebdavStorage, path: str, header: str, other: WebdavStorage, other_path: str, watch: "_Watch"
) -> None:
    """Have `asked` copy `path` from or to the other storage; raises unless it says that it did."""
    credentials = credentials_of(other.name)
    if credentials.user or (credentials.token_file and not asked.keeps_secrets):
        raise _Unable
    headers = {
        header: other.address(other_path),
        "Overwrite": "T",
        "Credential": "none",
        "RequireChecksumVerification": "false",  # not every source can sum up; what arrived is read back anyway
    }
    answered = False
    try:
        with asked.copying(path, headers, handing_on=credentials, silence=watch.left()) as (status, body):
            answered = True
            if status not in (200, 201, 202, 204):
                raise _Unable
            _follow(body, watch, may_be_silent=status in (201, 204))
    except LightkeeperError:
        if answered:
            raise
        asked.stat(path)  # raises, unless the server is well and only gives no answer to this request
        raise _Unable from None


def _follow(body: Iterator[bytes], watch: "_Watch", *, may_be_silent: bool) -> None:
    """Read what a server tells while it copies; returns when its last line tells of success."""
    stripe, done = 0, dict[int, int]()
    silent = True
    for line in _lines(watch.over(body)):
        silent = silent and not line.strip()
        if _SUCCESS.match(line):
            return
        if _FAILURE.match(line):
            raise _Unable
        marker = _MARKER.match(line)
        if marker and marker[1].lower() == "index":
            stripe = int(marker[2])
        elif marker and len(done) < _MOST_STRIPES:
            done[stripe] = int(marker[2])
            watch.at(sum(done.values()))
    if done:
        raise watch.lost("it ended without saying how")
    if not (silent and may_be_silent):
        raise _Unable


# --- helpers -----------------------------------------------------------------------------------------------
class _Unable(Exception):
    """This way of copying did not work. Nothing of what a server said is kept: it may quote a token."""


class _BrokeOff(Unavailable):
    """A copy had begun, and nothing more is heard of it."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One way in which others could copy between two storages; `ask` has a path copied to a temporary one."""

    name: str
    source: str
    target: str
    ask: "Callable[[str, str, _Watch], None]"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.name, self.source, self.target


class _Watch:
    """Follows a copy that others make: tells how far it is, and sees that it moves."""

    def __init__(self, way: _Way, path: str, progress: Callable[[int], None], patience: float) -> None:
        self._what = f"the third-party copy of {printable(path)} from {way.source} to {way.target}"
        self._progress = progress
        self._patience = patience
        self._done = 0
        self._moved = time.monotonic()

    def at(self, done: int) -> None:
        """Told by a server that this many bytes are there."""
        if done > self._done:
            self.tell(done)

    def tell(self, done: int) -> None:
        """Tell whoever wants to know; the time that takes is not the server's."""
        self._done = done
        self._progress(done)
        self._moved = time.monotonic()

    def again(self) -> None:
        """Tell now and then that it goes on, while it is read back."""
        if time.monotonic() - self._moved >= 1.0:
            self.tell(self._done)

    def left(self) -> float:
        """Seconds for which it may stand still from now on."""
        return max(0.0, self._moved + self._patience - time.monotonic())

    def over(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """`pieces`, for as long as the copy moves; whatever they say, it must not stand still for too long."""
        while True:
            try:
                piece = next(pieces, b"")
            except Unavailable as error:
                raise _BrokeOff(error.message, hint=error.hint) from None
            if not piece:
                return
            yield piece
            if not self.left():
                raise self.stood_still()

    def stood_still(self) -> _BrokeOff:
        """The error for that."""
        return self.lost(f"it stood still at byte {self._done} for {self._patience:.0f} s")

    def lost(self, why: str) -> _BrokeOff:
        """The error for a copy of which nothing more is heard."""
        return _BrokeOff(
            f"{self._what} broke off: {printable(why)[:300]}",
            hint="look at both servers and the network between them; what waits is tried again",
        )


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Text by its lines, the last one also without an end; of a very long line, its first part."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        rest = rest[:_LONGEST_LINE]
        for line in whole:
            yield line[:_LONGEST_LINE].decode("utf-8", "replace").strip("\r")
    if rest:
        yield rest.decode("utf-8", "replace").strip("\r")
