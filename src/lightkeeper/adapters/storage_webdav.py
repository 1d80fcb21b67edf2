"""A storage behind WebDAV: dCache, XRootD, EOS, nginx, Apache, rclone and the like. Root: https://host:port/base, also
davs:// and dav://.

A file is sent to a temporary name in `.lightkeeper/incoming`, its size is asked of the server (its Adler-32 too, where
the server tells it), and one MOVE gives it its name. How durable and how atomic that is, is the server's promise: most
rename on their file system; rclone removes an existing target first, so that for an instant there is none.

What can be told from outside is not believed: a collection is never deleted, replaced or read as a file, a listing that
ends early or names something elsewhere raises, and a missing base is an unavailable storage, not an empty one.

Redirects are followed for GET, HEAD and PUT, to the same scheme only. Credentials go to the root's own host and port
and to nobody else, and never unencrypted beyond this machine.
"""

import ipaddress
import os
import re
import ssl
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4
from xml.parsers import expat

import httpx2 as httpx

from lightkeeper.adapters import remote
from lightkeeper.adapters.credentials import Credentials, credentials_of, must_be_private
from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import CHUNK, chunks_of
from lightkeeper.domain.names import printable
from lightkeeper.ports import Entry

INCOMING = (".lightkeeper", "incoming")
PROBES = (".lightkeeper", "probe")

SMALL = 1 << 20
"""Files below this are sent in one piece with their length, and sent again when the connection was a dead one."""

LENGTH_TOLD_SECONDS = 600.0
"""For so long a server that failed to take a stream whose length was not told is told the length of every other: the
failure may have been a passing one, and the way by a temporary file costs space on this machine."""

_SCHEMES = {"https": "https", "davs": "https", "http": "http", "dav": "http"}
_DEEPEST = 100
_MOVED = {301, 302, 307, 308}
_HOPS = 4
_TRIES = 3
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_PATIENCE = httpx.Timeout(remote.ANSWER_SECONDS, connect=remote.CONNECT_SECONDS)
_BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
_PROPERTIES = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>'
    b"<D:resourcetype/><D:getcontentlength/><D:getlastmodified/></D:prop></D:propfind>"
)
_ADLER32 = re.compile(r"(?:^|,)\s*adler32\s*=\s*([0-9a-fA-F]{1,8})\s*(?:,|$)", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(-?\d+)/(\d+)\Z")


class WebdavStorage:
    """Storage on the collection at URL `root`, which must exist. Threads may share it; making one costs nothing."""

    def __init__(self, name: str, root: str) -> None:
        self.name = name
        self._origin, self._base = _parsed(name, root)
        self._where = self._origin + "".join(f"/{quote(part)}" for part in self._base)

    # --- files -------------------------------------------------------------------------------------------
    def open(self, path: str) -> BinaryIO:
        """The file for reading, seekable. A lost connection is taken up again where it ended, unless the file was
        replaced meanwhile."""
        parts = remote.parts_of(self.name, path)
        for _ in range(_TRIES):
            size = self._file(parts, "read", path).size
            opened = _Opened(self, parts, path, size)
            with suppress(_Changed, NotFound):  # replaced between both questions
                return cast(
                    BinaryIO, remote.buffered(remote.RemoteFile(opened.what, size, opened.at, first=opened.at(0)))
                )
        if self._look(parts, "read", path) is None:
            raise self._no_file(path)
        raise Unavailable(
            f"storage {self.name} gives {printable(path)} with another size than it tells",
            hint="its server is busy or broken; what waits is tried again",
        )

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write a new file and return its bytes; complete under `path` when it returns.

        When it raises, `path` is as it was before; the temporary file is removed if the server still answers, else by
        a later probe. What `chunks` raises passes through as it is.
        """
        parts = remote.parts_of(self.name, path)
        temporary = (*INCOMING, uuid4().hex)
        passing = _Passing()
        try:
            self._send(temporary, path, passing.through(chunks))
            self._compare(temporary, path, passing)
            self._move(temporary, parts, "write", path)
        except BaseException:
            with suppress(LightkeeperError):
                self._discard(temporary, path)
            raise
        return passing.size

    def rename(self, source: str, target: str) -> None:
        """Move within the storage by one MOVE, parents made; an existing file is replaced, a collection never."""
        from_parts = remote.parts_of(self.name, source)
        to_parts = remote.parts_of(self.name, target)
        self._file(from_parts, "rename", source)
        if from_parts != to_parts:
            self._move(from_parts, to_parts, "rename", source)

    def delete(self, path: str) -> bool:
        """Remove a file. False when it was not there."""
        parts = remote.parts_of(self.name, path)
        found = self._look(parts, "delete", path)
        if found is None:
            return False
        if found.collection:
            raise self._no_plain_file(path)
        status = self._ask("DELETE", parts, "delete", path)
        if status in (404, 410):
            return False
        if status not in (200, 204):
            raise self.failure(status, "delete", path)
        return True

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None when there is no file."""
        found = self._look(remote.parts_of(self.name, path), "look at", path)
        return None if found is None or found.collection else Entry(path, found.size, found.modified)

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        """Every file below collection `prefix`, streamed; none when there is no such collection.

        Collections whose names begin with '.' are left out unless `prefix` leads into them. What cannot be read or
        understood raises: a listing never looks complete when it is not.
        """
        start = remote.directory_of(self.name, prefix)
        waiting = [start]
        while waiting:
            parts = waiting.pop()
            if len(parts) > _DEEPEST:
                raise self._hostile(prefix, f"its collections are nested more than {_DEEPEST} deep")
            for found in self._members(parts, prefix, must_exist=parts == start):
                below = (*parts, found.name)
                if not found.collection:
                    yield Entry("/" + "/".join(below), found.size, found.modified)
                elif not found.name.startswith("."):
                    waiting.append(below)

    def probe(self) -> None:
        """Write, read back and remove a small file; also remove what killed writers left behind."""
        self._remove_stale()
        path = "/".join(("", *PROBES, uuid4().hex))
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
                hint=f"take {self.name} out of use and tell who runs {self._where}",
            )

    def adler32(self, path: str) -> str | None:
        """The Adler-32 of a file as the server tells it, eight lower-case digits; None when it tells none."""
        parts = remote.parts_of(self.name, path)
        self._file(parts, "read", path)
        return self._heads(parts, "read", path).adler32

    # --- copies between servers --------------------------------------------------------------------------
    @property
    def keeps_secrets(self) -> bool:
        """Whether what it is sent can be read by nobody on the way."""
        return self._origin.startswith("https:") or _is_local(urlsplit(self._origin).hostname or "")

    def address(self, path: str) -> str:
        """The file's whole address, as one server is told of a file of another."""
        return str(self._url(remote.parts_of(self.name, path)))

    def make_room(self, path: str) -> None:
        """Make the collections above `path`, as far as they are missing; never the base itself."""
        self._make(remote.parts_of(self.name, path)[:-1], path)

    @contextmanager
    def copying(
        self, path: str, headers: Mapping[str, str], *, handing_on: Credentials, silence: float
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Ask the server to copy `path` from or to another, which it shows the token of `handing_on`; gives the status
        and what it tells while it copies. Unavailable when it says nothing for `silence` seconds. A server that sends
        this elsewhere within the same protocol decides itself who sees that token."""
        url = self._url(remote.parts_of(self.name, path))
        patience = httpx.Timeout(silence, connect=remote.CONNECT_SECONDS)
        token = handing_on.token()
        shown = {"TransferHeaderAuthorization": f"Bearer {token.reveal()}"} if token else {}
        with self._exchange(
            "COPY", url, "write", path, headers={**headers, **shown}, follow=True, patience=patience
        ) as answer:
            yield answer.status_code, self._pieces(answer, path, patience)

    def _pieces(self, answer: httpx.Response, path: str, patience: httpx.Timeout) -> Iterator[bytes]:
        raw = answer.iter_raw()
        while True:
            with self._failures("write", path, patience):
                piece = next(raw, b"")
            if not piece:
                return
            yield piece

    # --- sending -----------------------------------------------------------------------------------------
    def _send(self, parts: Sequence[str], path: str, chunks: Iterator[bytes]) -> None:
        taken, whole = remote.gathered(chunks, SMALL)
        if whole:
            self._send_small(parts, path, b"".join(taken))
        else:
            self._send_large(parts, path, chain(taken, chunks))

    def _send_small(self, parts: Sequence[str], path: str, content: bytes) -> None:
        for last in (False, True):
            with self._exchange("PUT", self._url(parts), "write", path, content=content, follow=True) as answer:
                status = answer.status_code
            if status in (200, 201, 204):
                return
            if last or status not in (403, 404, 409, 500):
                raise self.failure(status, "write", path)
            self._make(parts[:-1], path)

    def _send_large(self, parts: Sequence[str], path: str, chunks: Iterator[bytes]) -> None:
        """A stream can be sent only once, so all that could turn it away is found out before. A server that must be
        told the length gets the file by way of a temporary file of this machine."""
        server = self._server()
        if not server.asked:
            self._learn(server, path)
        url = self._url(parts)
        if server.redirects:
            with self._exchange("PUT", url, "write", path, content=b"") as answer:
                status = answer.status_code
                if status in _MOVED:
                    url = self._redirected(answer, path)
                elif status not in (200, 201, 204):
                    raise self.failure(status, "write", path)
        if server.needs_length or time.monotonic() < server.length_told_until:
            with tempfile.TemporaryFile() as spool:
                for chunk in chunks:
                    spool.write(chunk)
                length = {"Content-Length": str(spool.tell())}
                spool.seek(0)
                self._stream_to(url, path, chunks_of(cast(BinaryIO, spool)), length)
        else:
            self._stream_to(url, path, chunks, {})

    def _stream_to(self, url: httpx.URL, path: str, chunks: Iterator[bytes], headers: Mapping[str, str]) -> None:
        try:
            with self._exchange("PUT", url, "write", path, content=chunks, headers=headers) as answer:
                status = answer.status_code
        except Unavailable:
            self._server().asked = False
            raise
        if status not in (200, 201, 204):
            server = self._server()
            server.asked = False  # the server, or what lies there, is not what it was when we learnt its ways
            if status in _MOVED:
                raise self._unavailable("write", path, "it sends elsewhere only now and then")
            if status in (400, 411, 500) and "Content-Length" not in headers:
                server.length_told_until = time.monotonic() + LENGTH_TOLD_SECONDS
            if status in (400, 411):
                raise self._unavailable("write", path, "it wants to know the length, and is told the next time")
            raise self.failure(status, "write", path)

    def _learn(self, server: "_Server", path: str) -> None:
        """Make the incoming collection and find out by a few bytes whether this server redirects streams, and whether
        it takes one whose length is not told."""
        self._make(INCOMING, path)
        parts = (*INCOMING, uuid4().hex)
        sample = b"lightkeeper"
        try:
            with self._exchange("PUT", self._url(parts), "write", path, content=iter([sample])) as answer:
                status = answer.status_code
            server.redirects = status in _MOVED
            if answer.headers.get("Server", "").startswith("XrootD"):
                server.needs_length = True  # 5.5 answers 400 when a chunk's head arrives in two pieces
            elif status in (200, 201, 204):
                found = self._look(parts, "write", path)
                server.needs_length = found is None or found.size != len(sample)
            elif status in (400, 411, 501, 505):
                server.needs_length = True
            if status not in (200, 201, 204, 400, 411, 501, 505, *_MOVED):
                raise self.failure(status, "write", path)
            server.asked = True
        finally:
            with suppress(LightkeeperError):
                self._remove(parts)

    def _compare(self, parts: Sequence[str], path: str, sent: "_Passing") -> None:
        """Whether the server has what was sent. A size that is wrong is asked for once more: XrdHttp 5.5 now and then
        answers with what belongs to another request, the ":-)" that it says to a PUT."""
        heads, size = self._kept(parts, path)
        if size != sent.size:
            heads, size = self._kept(parts, path)
        if size != sent.size:
            raise Unavailable(
                f"storage {self.name} kept {size} of {sent.size} bytes of {printable(path)}, which was not written",
                hint=f"its disk may be full: ask who runs {self._where}; what waits is tried again",
            )
        if heads.adler32 not in (None, sent.adler32):
            raise Corrupt(
                f"storage {self.name} got other bytes than were sent: {printable(path)} was not written",
                hint="they were damaged on the way or on its disk; what waits is tried again",
            )

    def _kept(self, parts: Sequence[str], path: str) -> "tuple[_Heads, int | None]":
        """What the server tells of a file that was written, and its size, from its collection if need be."""
        heads = self._heads(parts, "write", path)
        if heads.size is not None:
            return heads, heads.size
        found = self._look(parts, "write", path)
        return heads, None if found is None else found.size

    def _move(self, source: Sequence[str], target: Sequence[str], doing: str, path: str) -> None:
        """Give a file its name. First without leave to replace, since that would be leave to replace a collection."""
        headers = {"Destination": str(self._url(target)), "Overwrite": "F"}
        parents_made = False
        pauses = iter(_PAUSES)
        while True:
            try:
                status = self._ask("MOVE", source, doing, path, headers=headers)
            except _Lost:
                # Was it moved before the connection was lost? Nobody else knows the source, or renames it.
                found = self._look(target, doing, path)
                if self._look(source, doing, path) is None and found is not None and not found.collection:
                    return
                raise
            if status in (200, 201, 204):
                self._must_be_known(target, path)
                return
            if status == 423 and (pause := next(pauses, None)) is not None:
                time.sleep(pause)  # another writer's move to the same name
            elif status == 412 and headers["Overwrite"] == "F":
                found = self._look(target, doing, path)
                if found is not None and found.collection:
                    raise self._no_plain_file("/" + "/".join(target))
                headers["Overwrite"] = "T"
            elif status in (403, 404, 405, 409, 500) and not parents_made:
                self._make(target[:-1], path)
                parents_made = True
            else:
                raise self.failure(status, doing, path)

    def _must_be_known(self, parts: Sequence[str], path: str) -> None:
        """Some servers do not decode the target of a MOVE: a name with other than plain characters is then lost."""
        if any(quote(part, safe="") != part for part in parts) and self._look(parts, "write", path) is None:
            raise Refused(
                f"storage {self.name} cannot write {printable(path)}: its server moves files to other names than asked",
                hint="use letters, digits, '.', '_' and '-' only",
            )

    def _make(self, parts: Sequence[str], path: str) -> None:
        """Make a collection and those above it, as far as they are missing; never the base itself."""
        if not parts:
            return
        url = self._url(parts, collection=True)
        for last in (False, True):
            with self._exchange("MKCOL", url, "write", path, again=True) as answer:
                status = answer.status_code
            if status in (200, 201):
                return
            found = self._look(parts, "write", path)
            if found is not None:
                if found.collection:
                    return
                raise Refused(
                    f"storage {self.name} cannot write {printable(path)}: a file lies where a directory must be",
                    hint=f"something else lies under that name below {self._where}",
                )
            if last or status not in (403, 404, 405, 409, 500):
                raise self.failure(status, "write", path)
            self._make(parts[:-1], path)

    def _discard(self, parts: Sequence[str], path: str) -> None:
        """Remove a file whose sending was cut off: a server may notice that only after our request to remove it."""
        for pause in _PAUSES[1:4]:
            self._remove(parts)
            time.sleep(pause)
            if self._look(parts, "delete", path) is None:
                return

    def _remove(self, parts: Sequence[str]) -> None:
        """Remove what is ours; a server may still be busy with what was cut off."""
        for pause in _PAUSES:
            if self._ask("DELETE", parts, "delete", "/".join(("", *parts))) != 423:
                return
            time.sleep(pause)

    def _remove_stale(self) -> None:
        for directory in (INCOMING, PROBES):
            for entry in self.list("/".join(("", *directory))):
                if time.time() - entry.modified > remote.STALE_SECONDS:
                    self.delete(entry.path)

    # --- looking -----------------------------------------------------------------------------------------
    def _file(self, parts: Sequence[str], doing: str, path: str) -> "_Found":
        """What is known of a file that must be there."""
        found = self._look(parts, doing, path)
        if found is None:
            raise self._no_file(path)
        if found.collection:
            raise self._no_plain_file(path)
        return found

    def _look(self, parts: Sequence[str], doing: str, path: str) -> "_Found | None":
        """What lies there; None when nothing does, although the base is there."""
        found = self._properties(parts, doing, path)
        if found is None and parts and self._properties((), doing, path) is None:
            raise self._no_base()
        return found

    def _properties(self, parts: Sequence[str], doing: str, path: str) -> "_Found | None":
        with self._propfind(parts, doing, path, depth="0") as answer:
            if answer is None:
                return None
            found = [*self._entries(answer, parts, doing, path)]
        own = [entry for entry in found if not entry.name]
        if len(own) != 1:
            raise self._hostile(path, "its answer is about something else")
        return own[0]

    def _members(self, parts: Sequence[str], prefix: str, *, must_exist: bool) -> Iterator["_Found"]:
        with self._propfind(parts, "list", prefix, depth="1") as answer:
            if answer is not None:
                for found in self._entries(answer, parts, "list", prefix):
                    if found.name:
                        yield found
            elif must_exist:
                self._look((), "list", prefix)
                if not parts or self._properties((), "list", prefix) is None:
                    raise self._no_base()

    @contextmanager
    def _propfind(self, parts: Sequence[str], doing: str, path: str, depth: str) -> Iterator[httpx.Response | None]:
        """The multi-status answer about what lies there, None when nothing does."""
        with self._exchange(
            "PROPFIND",
            self._url(parts, collection=depth == "1" or not parts),
            doing,
            path,
            headers={"Depth": depth, "Content-Type": "application/xml; charset=utf-8"},
            content=_PROPERTIES,
        ) as answer:
            status = answer.status_code
            if status == 207:
                yield answer
                return
        if status not in (404, 409, 410) and not (status == 500 and self._is_below_a_file(parts, doing, path)):
            raise self.failure(status, doing, path)
        yield None

    def _is_below_a_file(self, parts: Sequence[str], doing: str, path: str) -> bool:
        """Whether a name leads through a file: some servers take that for a fault of their own."""
        if len(parts) < 2:
            return False
        above = self._properties(parts[:-1], doing, path)
        return above is None or not above.collection

    def _entries(self, answer: httpx.Response, parts: Sequence[str], doing: str, path: str) -> Iterator["_Found"]:
        """What the answer tells of the collection at `parts` and its members; itself has an empty name."""
        here = (*self._base, *parts)
        reader = _MultiStatus()
        raw = answer.iter_raw()
        while True:
            with self._failures(doing, path):
                chunk = next(raw, b"")
            try:
                told = reader.feed(chunk)
            except _Forbidden as error:
                raise self._hostile(path, str(error)) from None
            except expat.ExpatError:
                why = "it ended early" if not chunk else "it is no XML"
                raise self._unavailable(doing, path, f"its answer was not understood, {why}") from None
            for one in told:
                yield self._found(one, here, doing, path)
            if not chunk:
                return

    def _found(self, told: "_Told", here: Sequence[str], doing: str, path: str) -> "_Found":
        names = _decoded(told.href)
        if names is None or names[: len(here)] != here or len(names) > len(here) + 1:
            raise self._hostile(path, f"it names '{printable(told.href)}', which lies elsewhere")
        name = names[-1] if len(names) > len(here) else ""
        if name and remote.wrong_with(name):
            raise self._hostile(path, f"it names '{printable(told.href)}', which is no file name")
        if told.status != 200:
            raise self.failure(told.status or 500, doing, "/".join((path.rstrip("/"), name)) if name else path)
        size = 0 if told.collection else _number(told.length)
        if size is None:
            raise self._unavailable(doing, path, f"it does not tell the size of '{printable(told.href)}'")
        return _Found(name, told.collection, size, _seconds(told.modified))

    def _heads(self, parts: Sequence[str], doing: str, path: str) -> "_Heads":
        headers = {"Want-Digest": "adler32"}
        with self._exchange("HEAD", self._url(parts), doing, path, headers=headers, follow=True) as answer:
            if answer.status_code != 200:
                raise self.failure(answer.status_code, doing, path)
            digest = _ADLER32.search(answer.headers.get("Digest", ""))
            return _Heads(
                _number(answer.headers.get("Content-Length", "")), digest[1].lower().zfill(8) if digest else None
            )

    # --- speaking ----------------------------------------------------------------------------------------
    def get(self, parts: Sequence[str], path: str, first: int, last: int) -> AbstractContextManager[httpx.Response]:
        """The answer to a GET of a file's bytes, all of them when `first` is 0."""
        headers = {"Range": f"bytes={first}-{last}"} if first else {}
        return self._exchange("GET", self._url(parts), "read", path, headers=headers, follow=True)

    def _ask(
        self, method: str, parts: Sequence[str], doing: str, path: str, headers: Mapping[str, str] | None = None
    ) -> int:
        with self._exchange(method, self._url(parts), doing, path, headers=headers) as answer:
            return answer.status_code

    @contextmanager
    def _exchange(
        self,
        method: str,
        url: httpx.URL,
        doing: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        follow: bool = False,
        again: bool = False,
        patience: httpx.Timeout = _PATIENCE,
    ) -> Iterator[httpx.Response]:
        """One request and its answer, whose body is not yet read. Sent once more when the connection broke, if that
        cannot do it twice."""
        again = again or (method != "MOVE" and (content is None or isinstance(content, bytes)))
        hops = _HOPS if follow else 0
        while True:
            answer = self._answer(method, url, headers or {}, content, doing, path, again, patience)
            try:
                if not (hops and answer.status_code in _MOVED):
                    if answer.headers.get("Content-Encoding", "identity") != "identity":
                        raise self._unavailable(doing, path, "it answers with an encoding that was not asked for")
                    yield answer
                    return
                url = self._redirected(answer, path)
                hops -= 1
            finally:
                self._end(answer)

    def _answer(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: bytes | Iterator[bytes] | None,
        doing: str,
        path: str,
        again: bool,
        patience: httpx.Timeout,
    ) -> httpx.Response:
        server = self._server()
        request = server.http.build_request(method, url, headers=dict(headers), content=content, timeout=patience)
        auth = _Showing(server.credentials) if self._is_own(url) else None
        with self._failures(doing, path, patience):
            try:
                return server.http.send(request, stream=True, auth=auth)
            except _BROKEN:
                if not again:
                    raise
            return server.http.send(request, stream=True, auth=auth)

    def _end(self, answer: httpx.Response) -> None:
        """Read the little that is left, so that the connection can be used again; else give it up."""
        with suppress(httpx.HTTPError, httpx.StreamError):
            length = _number(answer.headers.get("Content-Length", "")) or 0
            if not answer.is_stream_consumed and (length <= 4096 or answer.request.method == "HEAD"):
                left = 0
                for piece in answer.iter_raw():
                    left += len(piece)
                    if left > 4096:
                        break
        answer.close()

    def _redirected(self, answer: httpx.Response, path: str) -> httpx.URL:
        """Where an answer sends us; never named in an error, since its query may be a key."""
        try:
            url = answer.request.url.join(answer.headers.get("Location", ""))
        except (httpx.InvalidURL, ValueError):
            raise self._hostile(path, "it sends to an address that is none") from None
        if f"{url.scheme}:" != self._origin.partition("//")[0]:
            raise Refused(
                f"storage {self.name} sends {printable(path)} to another protocol, which is not followed",
                hint="give the root as the address that answers by itself",
            )
        if not url.host or (_is_local(url.host) and not _is_local(urlsplit(self._origin).hostname or "")):
            raise self._hostile(path, "it sends to an address that nobody else may name")
        return url.copy_with(username=None, password=None, fragment=None)

    def _is_own(self, url: httpx.URL) -> bool:
        own = httpx.URL(self._origin)
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    def _url(self, parts: Sequence[str], *, collection: bool = False) -> httpx.URL:
        path = "".join(f"/{quote(part, safe='')}" for part in (*self._base, *parts))
        return httpx.URL(f"{self._origin}{path}{'/' if collection or not path else ''}")

    def _server(self) -> "_Server":
        credentials = credentials_of(self.name)
        if credentials.access_key:
            raise Invalid(f"the credentials of {self.name} are those of an S3 storage", hint="token_file, or user")
        if credentials.identifying and self._origin.startswith("http:"):
            host = urlsplit(self._origin).hostname or ""
            if not _is_local(host):
                raise Refused(
                    f"storage {self.name} would be shown its credentials unencrypted", hint="give its root as https://"
                )
        return _server(self._where, credentials, _version(credentials.certificate), os.getpid())

    # --- failures ----------------------------------------------------------------------------------------
    @contextmanager
    def _failures(self, doing: str, path: str, patience: httpx.Timeout = _PATIENCE) -> Iterator[None]:
        """Turn what the HTTP library raises inside into the errors that storages promise, in our own words: its own
        may hold addresses with keys in them."""
        try:
            yield
        except httpx.ConnectTimeout:
            raise self._unavailable(
                doing, path, f"no connection within {remote.CONNECT_SECONDS:.0f} s", _Lost
            ) from None
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            raise self._unavailable(doing, path, f"no answer within {patience.read:.0f} s", _Lost) from None
        except httpx.PoolTimeout:
            raise self._unavailable(doing, path, "all connections to it are busy") from None
        except httpx.ConnectError as error:
            raise self._unavailable(doing, path, f"it cannot be reached ({_cause(error)})") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL):
            raise self._unavailable(doing, path, "the connection was lost", _Lost) from None

    def failure(self, status: int, doing: str, path: str) -> LightkeeperError:
        """The error that storages promise for what the server answered."""
        why = f"storage {self.name} cannot {doing} {printable(path)}: {self._where} answers {status}"
        if status == 401:
            return Refused(why, hint=f"the credentials of {self.name} are missing, wrong or out of date")
        if status == 403:
            return Refused(why, hint=f"the identity shown to {self.name} needs the right to {doing} there")
        if status in (404, 410) and doing not in ("write", "list"):
            return self._no_file(path)
        if status == 507:
            return Unavailable(
                f"storage {self.name} is full: {printable(path)} was not written",
                hint=f"free space or raise the quota of {self._where}; what waits is tried again",
            )
        if status in (405, 409, 412, 415, 414, 413, 400, 416, 422, 424):
            return Refused(why, hint=f"something else lies under that name, or {self._where} does not allow it")
        return Unavailable(why, hint="look at the server and its log; what waits is tried again")

    def _unavailable(self, doing: str, path: str, why: str, kind: type[Unavailable] = Unavailable) -> Unavailable:
        return kind(
            f"storage {self.name} cannot {doing} {printable(path)}: {why}",
            hint=f"look at {self._where} and the network; what waits is tried again",
        )

    def _hostile(self, path: str, why: str) -> Refused:
        return Refused(
            f"storage {self.name} answers about {printable(path)} what is not believed: {why}",
            hint=f"take {self.name} out of use and tell who runs {self._where}",
        )

    def _no_file(self, path: str) -> NotFound:
        return NotFound(f"storage {self.name} has no file {printable(path)}", hint=f"look below {self._where}")

    def _no_plain_file(self, path: str) -> Refused:
        return Refused(
            f"storage {self.name} refuses {printable(path)}: it is a directory, not a file",
            hint=f"look at it below {self._where}, or use another name",
        )

    def _no_base(self) -> Unavailable:
        return Unavailable(
            f"storage {self.name} is not there: {self._where} does not exist",
            hint=f"make {self._where}, or mount what lies behind it, then probe storage {self.name}",
        )


# --- one server, as this process knows it ------------------------------------------------------------------
@dataclass(slots=True)
class _Server:
    """The connections to one storage and what was learnt about it."""

    http: httpx.Client
    credentials: Credentials
    asked: bool = False
    redirects: bool = False
    needs_length: bool = False
    length_told_until: float = 0.0
    """Monotonic time: it failed to take a stream whose length was not told, though it took the few bytes."""


@lru_cache(maxsize=64)
def _server(where: str, credentials: Credentials, _certificate_version: int, _process: int) -> _Server:
    verify = ssl.create_default_context() if where.startswith("https:") else False
    if isinstance(verify, ssl.SSLContext):
        verify.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if credentials.ca:
                of = "capath" if credentials.ca.is_dir() else "cafile"
                verify.load_verify_locations(**{of: str(credentials.ca)})
            if credentials.certificate and credentials.key:
                must_be_private(credentials.key, "key")
                verify.load_cert_chain(credentials.certificate, credentials.key, password=lambda: "")
        except (OSError, ssl.SSLError):
            raise Invalid(
                f"the certificate, key or ca for {where} cannot be used",
                hint="PEM files that belong together, the key without a passphrase",
            ) from None
    http = httpx.Client(
        verify=verify,
        timeout=_PATIENCE,
        limits=httpx.Limits(max_connections=remote.CONNECTIONS, max_keepalive_connections=remote.CONNECTIONS),
        headers={"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "lightkeeper"},
        trust_env=False,
        follow_redirects=False,
    )
    return _Server(http, credentials)


def _version(file: Path | None) -> int:
    """Changes when a certificate was renewed."""
    with suppress(OSError):
        return file.stat().st_mtime_ns if file else 0
    return 0


class _Showing(httpx.Auth):
    """Shows credentials to the one host they are for; holds no secret in a variable that a trace could print."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        if self._credentials.token_file:
            request.headers["Authorization"] = f"Bearer {self._credentials.token().reveal()}"
        elif self._credentials.user:
            shown = httpx.BasicAuth(self._credentials.user, self._credentials.password.reveal())
            request = next(shown.auth_flow(request))
        yield request


class _Lost(Unavailable):
    """The connection broke or went silent: whether the request was carried out is not known."""


class _Changed(Exception):
    """The server gives other bytes than were asked for: the file was replaced."""


# --- reading -----------------------------------------------------------------------------------------------
class _Opened:
    """A file being read: opens its bytes from anywhere, as long as it is the same file."""

    def __init__(self, storage: WebdavStorage, parts: Sequence[str], path: str, size: int) -> None:
        self.what = f"storage {storage.name} cannot read {printable(path)}: it"
        self._storage = storage
        self._parts = parts
        self._path = path
        self._size = size
        self._version: dict[str, str] = {}

    def at(self, position: int) -> "_Body":
        """Its bytes from `position` on."""
        if position >= self._size:
            return _Body(self._storage, self._path, None)
        context = self._storage.get(self._parts, self._path, position, self._size - 1)
        answer = context.__enter__()
        try:
            skip = self._checked(answer, position)
        except BaseException as error:
            context.__exit__(type(error), error, error.__traceback__)
            raise
        return _Body(self._storage, self._path, context, answer, skip)

    def _checked(self, answer: httpx.Response, position: int) -> int:
        """How many bytes to pass over; raises when these are not the bytes."""
        status = answer.status_code
        if status == 206 and position:
            told = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            right = told is not None and (int(told[1]), int(told[3])) == (position, self._size)
            length, skip = self._size - position, 0
        elif status == 200:
            right, length, skip = True, self._size, position
        elif status == 416:
            right, length, skip = False, 0, 0
        else:
            raise self._storage.failure(status, "read", self._path)
        version = {key: answer.headers[key] for key in ("ETag", "Last-Modified") if key in answer.headers}
        common = version.keys() & self._version.keys()
        if any(version[key] != self._version[key] for key in common):
            right = False
        if _number(answer.headers.get("Content-Length", str(length))) != length:
            right = False
        if not right:
            if not position and not self._version:
                raise _Changed
            raise Unavailable(
                f"storage {self._storage.name} cannot read {printable(self._path)}: it was replaced meanwhile",
                hint="what waits is tried again",
            )
        self._version = version
        return skip


class _Body:
    """The bytes of one answer, after those to pass over."""

    def __init__(
        self,
        storage: WebdavStorage,
        path: str,
        context: AbstractContextManager[httpx.Response] | None,
        answer: httpx.Response | None = None,
        skip: int = 0,
    ) -> None:
        self._storage = storage
        self._path = path
        self._context = context
        self._raw = answer.iter_raw() if answer else iter(())
        self._skip = skip

    def __next__(self) -> bytes:
        while True:
            with self._storage._failures("read", self._path):  # pyright: ignore[reportPrivateUsage]
                chunk = next(self._raw, b"")
            if not chunk:
                raise StopIteration
            if self._skip < len(chunk):
                chunk = chunk[self._skip :]
                self._skip = 0
                return chunk
            self._skip -= len(chunk)

    def close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._context = None


class _Passing:
    """What passed through: how much, and its sum."""

    def __init__(self) -> None:
        self.size = 0
        self._adler32 = zlib.adler32(b"")

    @property
    def adler32(self) -> str:
        return f"{self._adler32:08x}"

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """`chunks`, none of them empty or longer than servers take in one."""
        for whole in chunks:
            for first in range(0, len(whole), CHUNK):
                chunk = whole if len(whole) <= CHUNK else whole[first : first + CHUNK]
                self.size += len(chunk)
                self._adler32 = zlib.adler32(chunk, self._adler32)
                yield chunk


# --- understanding -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Found:
    """A file or collection by its name in the collection that was asked; itself has none."""

    name: str
    collection: bool
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class _Heads:
    size: int | None
    adler32: str | None


@dataclass(slots=True)
class _Told:
    """One response element, as text."""

    href: str = ""
    status: int = 200
    collection: bool = False
    length: str = ""
    modified: str = ""


class _Forbidden(Exception):
    """XML that no server needs and an attacker might send."""


class _MultiStatus:
    """Reads a multi-status document as it arrives. No document type, no entities, nothing deep, nothing long."""

    MAX_TEXT = 16 << 10
    MAX_DEPTH = 30

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._forbid
        self._parser.EntityDeclHandler = self._forbid
        self._parser.ExternalEntityRefHandler = self._forbid
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._inside: list[str] = []
        self._words: list[str] = []
        self._length = 0
        self._entry = _Told()
        self._properties = _Told()
        self._done: list[_Told] = []

    def feed(self, chunk: bytes) -> list[_Told]:
        """The responses that are complete with `chunk`; an empty one is the end. Raises ExpatError and _Forbidden."""
        self._parser.Parse(chunk, not chunk)
        done, self._done = self._done, []
        return done

    def _forbid(self, *_: object) -> int:
        raise _Forbidden("its XML declares a document type or entities")

    def _start(self, name: str, _attributes: object) -> None:
        self._inside.append(name)
        if len(self._inside) > self.MAX_DEPTH:
            raise _Forbidden("its XML is nested too deep")
        if len(self._inside) == 1 and name != "DAV: multistatus":
            raise _Forbidden("its XML is no multi-status")
        self._words, self._length = [], 0
        if name == "DAV: response":
            self._entry = _Told()
        elif name == "DAV: propstat":
            self._properties = _Told()
        elif name == "DAV: collection" and self._inside[-2] == "DAV: resourcetype":
            self._properties.collection = True

    def _text(self, text: str) -> None:
        self._length += len(text)
        if self._length > self.MAX_TEXT:
            raise _Forbidden("its XML holds a very long text")
        self._words.append(text)

    def _end(self, name: str) -> None:
        text = "".join(self._words).strip()
        self._words, self._length = [], 0
        self._inside.pop()
        above = self._inside[-1] if self._inside else ""
        if name == "DAV: href" and above == "DAV: response":
            self._entry.href = text
        elif name == "DAV: status":
            told = self._properties if above == "DAV: propstat" else self._entry
            told.status = _status(text)
        elif name == "DAV: getcontentlength":
            self._properties.length = text
        elif name == "DAV: getlastmodified":
            self._properties.modified = text
        elif name == "DAV: propstat" and self._properties.status == 200:
            own, told = self._entry, self._properties
            own.collection = own.collection or told.collection
            own.length, own.modified = told.length or own.length, told.modified or own.modified
        elif name == "DAV: propstat" and self._properties.status != 404:
            self._entry.status = self._properties.status  # neither told nor unknown: it could not be looked at
        elif name == "DAV: response":
            self._done.append(self._entry)


def _status(text: str) -> int:
    words = text.split()
    return _number(words[1]) or 500 if len(words) > 1 else 500


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _seconds(text: str) -> float:
    with suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(text).timestamp()
    return 0.0


def _decoded(href: str) -> tuple[str, ...] | None:
    """The parts of the path that a reference names, each decoded once; None when it cannot be decoded."""
    try:
        parts = urlsplit(href).path.split("/")
        decoded = tuple(unquote(part, errors="strict") for part in parts if part)
    except ValueError:
        return None
    return None if any("/" in part or part in (".", "..") for part in decoded) else decoded


def _parsed(name: str, root: str) -> tuple[str, tuple[str, ...]]:
    """Scheme and host of a root, and the parts of its path."""
    hint = "like https://host:port/base"
    try:
        url = urlsplit(root)
        port = url.port
    except ValueError:
        raise Invalid(f"the root of storage {name} is no address", hint=hint) from None
    if url.username is not None or url.password is not None or "@" in url.netloc:
        raise Invalid(f"the root of storage {name} holds credentials", hint="put them in LIGHTKEEPER_CREDENTIALS")
    if url.scheme not in _SCHEMES or not url.hostname or url.query or url.fragment:
        raise Invalid(f"the root of storage {name} is no address of a WebDAV collection", hint=hint)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    base = _decoded(url.path)
    if base is None or any(remote.wrong_with(part) for part in base):
        raise Invalid(f"the root of storage {name} has a path that is none", hint=hint)
    return f"{_SCHEMES[url.scheme]}://{host}{f':{port}' if port else ''}", base


def _is_local(host: str) -> bool:
    """Whether only this machine, or its own network segment, knows what is meant."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast


def _cause(error: BaseException) -> str:
    """Why there was no connection, in the operating system's or the TLS library's words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {printable(seen.verify_message)}"
        if isinstance(seen, OSError) and seen.strerror:
            return printable(seen.strerror)
        seen = seen.__cause__ or seen.__context__
    return "no connection"
