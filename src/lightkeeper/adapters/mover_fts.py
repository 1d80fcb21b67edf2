"""Has files copied by FTS3, the file transfer service, through its REST interface: one job for many files.

A storage whose attribute `fts` is the address of such a service receives its copies through it, like in Rucio. What FTS
cannot be told an address of, and what keeps to a rate of ours, is streamed.

FTS's word is not taken for it: what it calls finished is read back here, as always. The answer to a submission may be
lost: the job's number follows from what is asked for (FTS calls that deterministic), so asking again cannot make a
second job, and the first is found. Each attempt has names of its own at the target; what FTS still does for an attempt
that ended changes nothing of a later one, and is called off when the later one begins.

FTS forgets jobs after some days, and its files' states with them: then it is looked at what arrived.
"""

import hashlib
import re
import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import httpx2 as httpx

from lightkeeper.adapters import remote
from lightkeeper.adapters.credentials import Credentials, credentials_of, must_be_private
from lightkeeper.adapters.mover_stream import StreamMover, read_back
from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Copied, Copy

POLL_SECONDS = 5.0
PATIENCE = 120.0
"""Seconds for which FTS may not answer, as when it is started again, before its job is given up."""
LONGEST = 86_400.0
"""Seconds after which a job that did not end is called off."""
TOGETHER = 200
"""Files in one job at most."""

_UNDER_WAY = ("SUBMITTED", "READY", "ACTIVE", "STAGING", "STARTED", "ARCHIVING", "ON_HOLD", "TOKEN_PREP")
_TOLD = "file_id,file_state,dest_surl,reason,transferred"
_NUMBER = re.compile(r"\[(\d{1,3})\]")
_MOST_BYTES = 32 << 20


@runtime_checkable
class _Addressed(Protocol):
    def address(self, path: str) -> str:
        """The file's whole address, as others are told of it."""
        ...


class FtsMover:
    """Copies through the FTS at `url`. Remembers nothing; threads may share it.

    `poll_seconds`: how often it is asked how far a job is; `patience`: for how long it may not answer; `longest`: after
    how long a job is called off.
    """

    def __init__(
        self, url: str, *, poll_seconds: float = POLL_SECONDS, patience: float = PATIENCE, longest: float = LONGEST
    ) -> None:
        self._service = _Service(url)
        self._poll_seconds = poll_seconds
        self._patience = patience
        self._longest = longest

    def carry(self, copies: Sequence[Copy]) -> Generator[Copied]:
        """Have each copied, and read it back."""
        told = [copy for copy in copies if _is_told(copy)]
        for start in range(0, len(told), TOGETHER):
            yield from self._job({_address(copy.target, copy.target_path): copy for copy in told[start:][:TOGETHER]})
        yield from StreamMover().carry([copy for copy in copies if not _is_told(copy)])

    def _job(self, copies: dict[str, Copy]) -> Generator[Copied]:
        """One job, from its submission to its end; what has not ended when the caller leaves is called off."""
        waiting = dict(copies)
        job = ""
        try:
            self._call_off_earlier(copies)
            job = self._submitted(copies)
            for address, state in self._followed(job, waiting):
                yield self._ended(waiting.pop(address), state)
        except LightkeeperError as error:
            for copy in [*waiting.values()]:
                yield Copied(copy, error=error)
        finally:
            if job and waiting:
                with suppress(LightkeeperError):
                    self._service.ask("DELETE", f"/jobs/{job}")
                for copy in waiting.values():
                    _discard(copy)

    # --- submission --------------------------------------------------------------------------------------
    def _submitted(self, copies: dict[str, Copy]) -> str:
        """The number of the job that makes these copies; of a submission whose answer was lost, the one it made."""
        asked = "\n".join(f"{_address(copy.source, copy.source_path)} {at} {copy.key}" for at, copy in copies.items())
        key = hashlib.sha256(asked.encode()).hexdigest()
        job = {
            "files": [
                {
                    "sources": [_address(copy.source, copy.source_path)],
                    "destinations": [address],
                    "filesize": copy.size,
                    "metadata": {"lightkeeper": copy.key},
                }
                for address, copy in copies.items()
            ],
            "params": {
                "id_generator": "deterministic",
                "sid": key,
                "job_metadata": {"lightkeeper": key},
                "verify_checksum": "none",
                "overwrite": True,
                "retry": 0,
            },
        }
        until = time.monotonic() + self._patience
        while True:
            try:
                status, told = self._service.ask("POST", "/jobs", job, accept=(409,))
                number = _text(told, "job_id") if status == 200 else self._number_of(key)
                if number:
                    return number
                raise self._service.unavailable("it takes a job and tells no number of it")
            except _NoAnswer:
                if time.monotonic() > until:
                    raise
                time.sleep(min(self._poll_seconds, 1.0))

    def _number_of(self, key: str) -> str:
        """The number that FTS gives a job with this key."""
        _, told = self._service.ask("GET", "/whoami")
        try:
            return str(uuid5(uuid5(UUID(_text(told, "base_id")), str(cast(Any, told)["vos"][0])), key))
        except (ValueError, KeyError, IndexError, TypeError):
            raise self._service.unavailable(
                "it does not tell who we are, so a job of ours is not found again"
            ) from None

    def _call_off_earlier(self, copies: dict[str, Copy]) -> None:
        """Call off what is still done for attempts before these."""
        earlier = {_address(copy.target, path) for copy in copies.values() for path in copy.earlier}
        if not earlier:
            return
        _, jobs = self._service.ask("GET", f"/jobs?state_in={','.join(_UNDER_WAY[:3])}")
        for job in _list(jobs):
            metadata = cast(dict[str, Any], job).get("job_metadata")
            if not isinstance(metadata, dict) or "lightkeeper" not in metadata:
                continue
            number = _text(job, "job_id")
            _, files = self._service.ask("GET", f"/jobs/{number}/files", accept=(404,))
            ours = [str(file.get("file_id")) for file in _list(files) if file.get("dest_surl") in earlier]
            if ours:
                self._service.ask("DELETE", f"/jobs/{number}/files/{','.join(ours)}", accept=(404,))

    # --- following ---------------------------------------------------------------------------------------
    def _followed(self, job: str, waiting: dict[str, Copy]) -> "Iterator[tuple[str, dict[str, Any]]]":
        """Address and state of each file as it ends."""
        begun = heard = time.monotonic()
        while waiting:
            time.sleep(self._poll_seconds)
            try:
                status, told = self._service.ask("GET", f"/jobs/{job}?files={_TOLD}", accept=(404,))
            except _NoAnswer:
                if time.monotonic() - heard > self._patience:
                    raise
                continue
            heard = time.monotonic()
            if status == 404:
                for address in [*waiting]:
                    yield address, {"file_state": "FORGOTTEN"}
                return
            files = {str(file.get("dest_surl")): file for file in _list(cast(Any, told).get("files"))}
            for address, copy in [*waiting.items()]:
                state = files.get(address, {})
                if state.get("file_state", "SUBMITTED") in _UNDER_WAY:
                    done = state.get("transferred")
                    try:
                        copy.progress(done if isinstance(done, int) else 0)
                    except (LightkeeperError, OSError) as error:  # whoever wanted it has given it up
                        self._service.ask("DELETE", f"/jobs/{job}/files/{state.get('file_id')}", accept=(404,))
                        yield address, {"error": error}
                else:
                    yield address, state
            if time.monotonic() - begun > self._longest:
                raise self._service.unavailable(f"job {job} did not end in {self._longest / 3600:.0f} h")

    def _ended(self, copy: Copy, state: dict[str, Any]) -> Copied:
        """How a copy ended: what FTS calls finished, or has forgotten, is read back."""
        name = str(state.get("file_state"))
        try:
            if "error" in state:
                raise state["error"]
            if name == "FORGOTTEN":
                found = copy.target.stat(copy.target_path)
                if found is None or found.size != copy.size:
                    raise LightkeeperError(
                        f"{self._service.where} has forgotten {printable(copy.source_path)}, and it is not there",
                        hint="it is tried again",
                    )
            elif name != "FINISHED":
                raise self._failure(copy, name, str(state.get("reason") or ""))
            copy.progress(copy.size)
            return Copied(copy, read_back(copy, lambda: copy.progress(copy.size)))
        except (LightkeeperError, OSError) as error:
            _discard(copy)
            return Copied(copy, error=error)

    def _failure(self, copy: Copy, state: str, reason: str) -> LightkeeperError:
        """What FTS says of a file that it did not copy, as the error that says what to do."""
        said = f"{self._service.where} did not copy {printable(copy.source_path)}: {printable(reason) or state}"
        found = _NUMBER.search(reason)
        number = int(found[1]) if found else 0
        if number == 2 and "SOURCE" in reason.upper():
            return NotFound(said, hint="another copy is taken")
        if number in (1, 13):
            return Refused(said, hint="the credentials that FTS was given must let it read there and write here")
        if "checksum" in reason.lower():
            return Corrupt(said, hint="another copy is taken")
        return LightkeeperError(said, hint="it is tried again")


# --- the service -------------------------------------------------------------------------------------------
class _NoAnswer(Unavailable):
    """FTS did not answer: whether it did what was asked is not known."""


class _Service:
    """One FTS. Nothing of an answer is believed before it was looked at."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query:
            raise Invalid(f"'{printable(url)}' is not the address of an FTS", hint="like https://fts3.example.org:8446")
        self.host = parts.hostname
        self.where = f"FTS at {parts.netloc}"
        self._url = url.rstrip("/")

    def ask(self, method: str, path: str, body: object = None, *, accept: Sequence[int] = ()) -> tuple[int, object]:
        """Status and JSON of an answer."""
        credentials = credentials_of(self.host)
        headers = {"Accept": "application/json"}
        if credentials.token_file:
            headers["Authorization"] = f"Bearer {credentials.token().reveal()}"
        try:
            answer = _http(self._url, credentials, _version(credentials.certificate)).request(
                method, f"{self._url}{path}", json=body, headers=headers
            )
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._no_connection(error) from None
        status = answer.status_code
        if status in (401, 403, 419):
            raise Refused(
                f"{self.where} does not take our credentials: {_said(answer) or status}",
                hint=f"renew the certificate, proxy or token of {self.host} in LIGHTKEEPER_CREDENTIALS, "
                "and delegate it to FTS again",
            )
        if status >= 500:
            raise _NoAnswer(
                f"{self.where} answers {status}: {_said(answer)}", hint="look at it; what waits is tried again"
            )
        if status not in (200, 207, *accept):
            raise Refused(f"{self.where} refuses {method} {path.partition('?')[0]}: {_said(answer) or status}")
        if status not in (200, 207):
            return status, None
        try:
            if len(answer.content) > _MOST_BYTES:
                raise ValueError
            return status, answer.json()
        except ValueError:
            raise _NoAnswer(f"{self.where} gives an answer that is no JSON", hint="is it an FTS?") from None

    def unavailable(self, why: str) -> Unavailable:
        """The error for a service that does not do what it should."""
        return Unavailable(f"{self.where}: {why}", hint="look at it; what waits is tried again")

    def _no_connection(self, error: Exception) -> LightkeeperError:
        seen: BaseException | None = error
        while seen is not None:
            words = str(seen).lower()
            if isinstance(seen, ssl.SSLError) or "ssl" in words:
                if "alert" in words and ("expired" in words or "certificate" in words):
                    return Refused(
                        f"{self.where} does not take our certificate: {printable(str(seen))}",
                        hint=f"renew the certificate of {self.host} in LIGHTKEEPER_CREDENTIALS",
                    )
                why = getattr(seen, "verify_message", "") or str(seen)
                return _NoAnswer(
                    f"{self.where}: its certificate is not trusted: {printable(why)}",
                    hint=f"has it expired, or is `ca` of {self.host} in LIGHTKEEPER_CREDENTIALS another one?",
                )
            seen = seen.__cause__ or seen.__context__
        return _NoAnswer(f"{self.where} does not answer", hint="is it up? what waits is tried again")


@lru_cache(maxsize=16)
def _http(url: str, credentials: Credentials, _version: int) -> httpx.Client:
    verify: ssl.SSLContext | bool = False
    if url.startswith("https:"):
        verify = ssl.create_default_context()
        try:
            if credentials.ca:
                of = "capath" if credentials.ca.is_dir() else "cafile"
                verify.load_verify_locations(**{of: str(credentials.ca)})
            if credentials.certificate and credentials.key:
                must_be_private(credentials.key, "key")
                verify.load_cert_chain(credentials.certificate, credentials.key, password=lambda: "")
        except (OSError, ssl.SSLError):
            raise Invalid(
                f"the certificate, key or ca for {url} cannot be used",
                hint="PEM files that belong together, the key without a passphrase",
            ) from None
    patience = httpx.Timeout(remote.ANSWER_SECONDS, connect=remote.CONNECT_SECONDS)
    return httpx.Client(verify=verify, timeout=patience, trust_env=False, headers={"User-Agent": "lightkeeper"})


def _version(file: Path | None) -> int:
    """Changes when a certificate was renewed."""
    with suppress(OSError):
        return file.stat().st_mtime_ns if file else 0
    return 0


# --- helpers -----------------------------------------------------------------------------------------------
def _is_told(copy: Copy) -> bool:
    return isinstance(copy.source, _Addressed) and isinstance(copy.target, _Addressed) and not copy.paced


def _address(storage: object, path: str) -> str:
    """As FTS is told of it: WebDAV over TLS is davs there."""
    address = cast(_Addressed, storage).address(path)
    return f"davs{address[5:]}" if address.startswith("https:") else address


def _text(told: object, key: str) -> str:
    value = cast(dict[str, Any], told).get(key) if isinstance(told, dict) else None
    return value if isinstance(value, str) else ""


def _list(told: object) -> list[dict[str, Any]]:
    return [one for one in cast(list[Any], told) if isinstance(one, dict)] if isinstance(told, list) else []


def _said(answer: httpx.Response) -> str:
    """What a service gives as its reason."""
    with suppress(ValueError):
        return printable(_text(answer.json(), "message"))
    return printable(answer.text)


def _discard(copy: Copy) -> None:
    with suppress(LightkeeperError):  # it is in the way of nobody
        copy.target.delete(copy.target_path)
