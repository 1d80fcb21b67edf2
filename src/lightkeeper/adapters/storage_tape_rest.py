"""A tape storage behind the WLCG Tape REST API, version 1: dCache, EOS with CTA, StoRM. Root: https://host:port/base.

Bytes come and go by WebDAV, as in storage_webdav.py; where the tape API answers, the host of the root tells at
/.well-known/wlcg-tape-rest-api. Paths of the API are those of the root's host, so the base is part of them.

A file is opened only when the server says that it lies on disk: reading one that does not would make some servers
mount a cartridge for it, and others wait for ever. The folder `.lightkeeper` must stay on disk: its files are small,
are read often, and nobody stages them.

The API's address may be on another host than the root; the root's own host named it over a connection that shows it
our token anyway. It must be as well protected as the root. What it answers is believed only about what was asked.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, BinaryIO, cast

import httpx2 as httpx

from lightkeeper.adapters import remote
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.domain.errors import LightkeeperError, NotFound, Offline, Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Locality, Staged, Staging

WELL_KNOWN = "/.well-known/wlcg-tape-rest-api"
MOST_PATHS = 1000
"""Paths in one question about localities; more are asked in parts."""
FORGET_AFTER = 600.0
LONGEST_ANSWER = 64 << 20
LONGEST_ERROR = 300

_REQUEST = re.compile(r"[A-Za-z0-9._~-]{1,200}\Z")
_FAILED = {"FAILED", "CANCELLED"}
_known_apis: dict[str, tuple[httpx.URL, float]] = {}


class TapeRestStorage(WebdavStorage):
    """Tape storage whose files lie below URL `root`. Threads may share it; making one costs nothing."""

    def open(self, path: str) -> BinaryIO:
        """The file for reading; raises Offline when it lies on tape only."""
        if path.startswith("/.lightkeeper/"):
            return super().open(path)
        self._must_be_online(path)
        try:
            return super().open(path)
        except Unavailable:
            self._must_be_online(path)  # it may have left the disk just now
            raise

    def _must_be_online(self, path: str) -> None:
        if self.localities([path])[path] is Locality.TAPE:
            raise Offline(
                f"{printable(path)} lies on tape at storage {self.name}", hint=f"lightkeeper stage {printable(path)}"
            )

    def stage(self, paths: Sequence[str], lifetime: timedelta) -> str:
        """Ask for these files, to be kept for `lifetime` once they are on disk; the request's id."""
        kept = f"PT{max(1, round(lifetime.total_seconds()))}S"
        files = [{"path": self._there(path), "diskLifetime": kept} for path in paths]
        status, told = self._call("POST", "stage", {"files": files}, "stage")
        if status not in (200, 201):
            raise self._failed(status, told, "stage")
        request = cast("dict[str, Any]", told).get("requestId") if isinstance(told, dict) else None
        return self._request(request)

    def staged(self, request: str) -> Mapping[str, Staged]:
        """How far each file of a request is."""
        status, told = self._call("GET", f"stage/{self._request(request)}", None, "stage")
        if status in (404, 410):
            raise NotFound(f"storage {self.name} does not know the stage request {request} any more")
        if status != 200:
            raise self._failed(status, told, "stage")
        files = cast("dict[str, Any]", told).get("files") if isinstance(told, dict) else None
        return {path: _staged(one) for path, one in self._about_ours(files)}

    def cancel(self, request: str, paths: Sequence[str]) -> None:
        """Bring these files no more."""
        self._tell(f"stage/{self._request(request)}/cancel", paths)

    def release(self, request: str, paths: Sequence[str]) -> None:
        """Take the pins of this request off these files."""
        self._tell(f"release/{self._request(request)}", paths)

    def localities(self, paths: Sequence[str]) -> Mapping[str, Locality]:
        """Where each of these files lies."""
        found: dict[str, Locality] = {}
        for first in range(0, len(paths), MOST_PATHS):
            found |= self._localities(paths[first : first + MOST_PATHS])
        return found

    def _localities(self, paths: Sequence[str]) -> dict[str, Locality]:
        status, told = self._call("POST", "archiveinfo", {"paths": [self._there(path) for path in paths]}, "look at")
        if status != 200:
            raise self._failed(status, told, "look at")
        told_of = {path: str(one.get("locality", "")) for path, one in self._about_ours(told)}
        return {path: self._locality(path, told_of.get(path, "")) for path in paths}

    def _locality(self, path: str, word: str) -> Locality:
        """What a word means; what the server has no word for is looked at."""
        try:
            return Locality(word.upper())
        except ValueError:
            return Locality.NONE if self.stat(path) is None else Locality.UNAVAILABLE

    def _tell(self, what: str, paths: Sequence[str]) -> None:
        status, told = self._call("POST", what, {"paths": [self._there(path) for path in paths]}, "release")
        if status not in (200, 201, 202, 204, 404, 410):
            raise self._failed(status, told, "release")

    # --- paths
    def _there(self, path: str) -> str:
        """A path as the API takes it; raises Refused for one that is none."""
        return "/" + "/".join((*self._base, *remote.parts_of(self.name, path)))

    def _about_ours(self, told: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a list of files tells, by our own paths; what lies elsewhere is nothing that we asked for."""
        base = "".join(f"/{part}" for part in self._base)
        for one in cast("list[Any]", told) if isinstance(told, list) else []:
            path = one.get("path") if isinstance(one, dict) else None
            if isinstance(path, str) and path.startswith(f"{base}/"):
                yield path.removeprefix(base), cast("dict[str, Any]", one)

    def _request(self, request: object) -> str:
        if not isinstance(request, str) or not _REQUEST.match(request):
            raise Unavailable(
                f"storage {self.name} names a stage request that is none",
                hint="look at its tape API; it is tried again",
            )
        return request

    # --- speaking
    def _call(self, method: str, what: str, body: Mapping[str, Any] | None, doing: str) -> tuple[int, object]:
        """One call of the tape API: the status, and what it told."""
        url = httpx.URL(f"{str(self._api()).rstrip('/')}/{what}")
        return self._asked(method, url, body, doing)

    def _asked(self, method: str, url: httpx.URL, body: Mapping[str, Any] | None, doing: str) -> tuple[int, object]:
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
        content = None if body is None else json.dumps(body).encode()
        with self._exchange(method, url, doing, "the tape API", headers=headers, content=content) as answer:
            pieces = bytearray()
            with self._failures(doing, "the tape API"):
                for piece in answer.iter_raw():
                    pieces += piece
                    if len(pieces) > LONGEST_ANSWER:
                        raise Unavailable(f"the tape API of storage {self.name} answers without end")
            try:
                return answer.status_code, json.loads(pieces) if pieces else None
            except (ValueError, RecursionError):
                if answer.status_code < 300:
                    raise Unavailable(
                        f"the tape API of storage {self.name} does not answer in JSON", hint=f"look at {url.host}"
                    ) from None
                return answer.status_code, None

    def _api(self) -> httpx.URL:
        """Where the tape API of this storage answers, as its host told in the last minutes."""
        known = _known_apis.get(self._origin)
        if known and time.monotonic() < known[1]:
            return known[0]
        status, told = self._asked("GET", httpx.URL(self._origin + WELL_KNOWN), None, "stage")
        if status != 200:
            raise self._failed(status, told, "find the tape API, told at " + WELL_KNOWN)
        endpoints = cast("dict[str, Any]", told).get("endpoints") if isinstance(told, dict) else None
        for one in cast("list[Any]", endpoints) if isinstance(endpoints, list) else []:
            if isinstance(one, dict) and str(cast("dict[str, Any]", one).get("version")).lower() == "v1":
                url = self._checked(cast("dict[str, Any]", one).get("uri"))
                _known_apis[self._origin] = (url, time.monotonic() + FORGET_AFTER)
                return url
        raise Refused(
            f"storage {self.name} has no WLCG Tape REST API of version 1",
            hint="is it a tape storage? else: driver webdav",
        )

    def _checked(self, uri: object) -> httpx.URL:
        try:
            url = httpx.URL(str(uri))
        except httpx.InvalidURL:
            url = httpx.URL("")
        own = httpx.URL(self._origin)
        if url.scheme != own.scheme or not url.host or url.userinfo or url.query:
            raise Refused(
                f"storage {self.name} says that its tape API is at {printable(str(uri))[:200]}, which is not believed",
                hint=f"it must be an address that begins with {own.scheme}://",
            )
        return url

    def _is_own(self, url: httpx.URL) -> bool:
        known = _known_apis.get(self._origin)
        api = known[0] if known else None
        same = api is not None and (url.scheme, url.host, url.port) == (api.scheme, api.host, api.port)
        return super()._is_own(url) or same

    def _failed(self, status: int, told: object, doing: str) -> LightkeeperError:
        told = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
        said = printable(str(told.get("detail") or told.get("title") or ""))[:LONGEST_ERROR]
        why = f"storage {self.name} cannot {doing}: its tape API answers {status}{': ' if said else ''}{said}"
        if status in (400, 401, 403, 404, 405, 413, 422):
            return Refused(why, hint=f"does the identity shown to {self.name} have the right to stage?")
        return Unavailable(why, hint="look at the server and its log; what waits is tried again")


def _staged(one: Mapping[str, Any]) -> Staged:
    """What one file's line means; servers tell `state`, or `onDisk`, or both."""
    state, error = str(one.get("state") or "").upper(), printable(str(one.get("error") or ""))[:LONGEST_ERROR]
    if one.get("onDisk") is True or (state == "COMPLETED" and "onDisk" not in one):
        return Staged(Staging.ONLINE)
    if error or state in _FAILED or (state == "COMPLETED" and one.get("onDisk") is False):
        return Staged(Staging.FAILED, error or {"COMPLETED": "it left the disk again"}.get(state, state.lower()))
    return Staged(Staging.WAITING)
