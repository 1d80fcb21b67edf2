"""A storage in a bucket of any S3 server. Root: s3://bucket/prefix?endpoint=https://host:port&region=…

A small file is one PUT, a larger one a multipart upload in constant memory; either becomes visible when it is complete
and not before. S3 cannot rename: that is a copy inside the server, checked, then the removal of the source. The target
appears complete at once, but a crash in between leaves both; doing it again ends it.

There are no directories in S3. A file may exist below another file's name, and a listing walks names, not folders.

Needs the extra `s3`; it is imported with the first request, so that nothing else misses it.
"""

import base64
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import Lock
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from lightkeeper.adapters import remote
from lightkeeper.adapters.credentials import Credentials, credentials_of, must_be_private
from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Entry

PROBES = "/.lightkeeper/probe"

PART = 8 << 20
"""Bytes of the first thousand parts of an upload, and of a file sent without parts; each further thousand is one more
of it, so that the 10,000 parts that S3 allows hold 440 GB."""

MAX_PARTS = 10_000
MAX_KEY = 1024
COPY_AT_ONCE = 5 << 30
COPY_PART = 1 << 30
STALE_UPLOAD_SECONDS = 7 * 86_400.0

_READ = 256 << 10
_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
_NO_BUCKET = {"NoSuchBucket"}
_RIGHTS = {
    *("AccessDenied", "403", "401", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
    *("InvalidToken", "TokenRefreshRequired", "AccountProblem", "AllAccessDisabled", "RequestTimeTooSkewed"),
}
_DAMAGED = {"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507", "EntityTooLarge", "ServiceQuotaExceeded"}


class S3Storage:
    """Storage on the bucket and prefix of `root`; the bucket must exist. Threads may share it."""

    def __init__(self, name: str, root: str) -> None:
        self.name = name
        self.bucket, self._prefix, self._endpoint, self._region = _parsed(name, root)
        self._where = f"bucket {self.bucket}" + (f" at {self._endpoint}" if self._endpoint else "")

    # --- files -------------------------------------------------------------------------------------------
    def open(self, path: str) -> BinaryIO:
        """The file for reading, seekable. A lost connection is taken up again where it ended, unless the file was
        replaced meanwhile."""
        key = self._key(path)
        with self._failures("read", path):
            answer = self._s3().get_object(Bucket=self.bucket, Key=key)
        size, etag = int(answer["ContentLength"]), answer.get("ETag")

        def open_at(position: int) -> remote.Stream:
            same = {"IfMatch": etag} if etag else {}
            with self._failures("read", path):
                told = self._s3().get_object(Bucket=self.bucket, Key=key, Range=f"bytes={position}-{size - 1}", **same)
            if told.get("ContentRange") != f"bytes {position}-{size - 1}/{size}" or told.get("ETag") != etag:
                told["Body"].close()
                raise self._unavailable("read", path, "it was replaced meanwhile")
            return _Body(self, path, told["Body"])

        what = f"storage {self.name} cannot read {printable(path)}: it"
        first = _Body(self, path, answer["Body"])
        return cast(BinaryIO, remote.buffered(remote.RemoteFile(what, size, open_at, first)))

    def write(self, path: str, chunks: Iterable[bytes]) -> int:
        """Write a new file and return its bytes; visible and complete when it returns.

        When it raises, `path` is as it was before, with one exception: if the answer to the very last request was lost,
        the whole new file may be there. What `chunks` raises passes through as it is.
        """
        key = self._key(path)
        parts = _cut(chunks)
        first, more = next(parts)
        if more:
            return self._write_parts(path, key, first, parts)
        with self._failures("write", path):
            told = self._s3().put_object(Bucket=self.bucket, Key=key, Body=first, ContentMD5=_md5(first))
        if "ETag" not in told:
            raise self._unavailable("write", path, "its answer is not that of an S3 server")
        return len(first)

    def rename(self, source: str, target: str) -> None:
        """Copy inside the server, compare, then remove the source: not atomic, but never without a complete file."""
        key, to_key = self._key(source), self._key(target)
        s3 = self._s3()
        with self._failures("rename", source):
            found = self._head(key)
            if found is None:
                raise self._no_file(source)
            if key == to_key:
                return
            size, etag = int(found["ContentLength"]), found.get("ETag")
            same = {"CopySourceIfMatch": etag} if etag else {}
            place = {"Bucket": self.bucket, "Key": to_key, "CopySource": {"Bucket": self.bucket, "Key": key}}
            if size <= COPY_AT_ONCE:
                s3.copy_object(**place, **same)
            else:
                self._copy_parts(to_key, place, same, size)
            copy = self._head(to_key)
            if copy is None or int(copy["ContentLength"]) != size:
                raise self._unavailable("rename", source, "the copy has another size; the source was kept")
            s3.delete_object(Bucket=self.bucket, Key=key)

    def delete(self, path: str) -> bool:
        """Remove a file. False when it was not there."""
        key = self._key(path)
        with self._failures("delete", path):
            if self._head(key) is None:
                return False
            self._s3().delete_object(Bucket=self.bucket, Key=key)
        return True

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None when there is no file."""
        with self._failures("look at", path):
            found = self._head(self._key(path))
        if found is None:
            return None
        return Entry(path, int(found["ContentLength"]), _seconds(found["LastModified"]))

    def list(self, prefix: str = "/") -> Iterator[Entry]:
        """Every file below `prefix`, a page at a time.

        Names with a part before the last that begins with '.' are left out unless `prefix` has it. An object whose
        name is no file name raises: a listing never looks complete when it is not.
        """
        start = "".join(f"{part}/" for part in (*self._prefix, *remote.directory_of(self.name, prefix)))
        below = prefix.rstrip("/")
        pages = iter(self._s3().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start))
        while True:
            with self._failures("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            # What is no listing at all reads like an empty one; a page without its successor like the last.
            if "IsTruncated" not in page or (page["IsTruncated"] and not page.get("NextContinuationToken")):
                raise self._unavailable("list", prefix, "its answer is no whole listing")
            for item in page.get("Contents", ()):
                key = item["Key"]
                *directories, name = key.removeprefix(start).split("/")
                if any(part.startswith(".") and part not in (".", "..") for part in directories):
                    continue
                if not name and int(item["Size"]) == 0:
                    continue  # what other tools leave to show a folder
                if not key.startswith(start) or any(remote.wrong_with(part) for part in (*directories, name)):
                    raise Refused(
                        f"storage {self.name} holds '{printable(key)}', which is no file name",
                        hint=f"rename or remove it in {self._where}",
                    )
                yield Entry("/".join((below, *directories, name)), int(item["Size"]), _seconds(item["LastModified"]))

    def probe(self) -> None:
        """Write, read back and remove a small file; also remove what killed writers left behind."""
        self._remove_stale()
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
                hint=f"take {self.name} out of use and tell who runs {self._where}",
            )

    # --- helpers -----------------------------------------------------------------------------------------
    def _write_parts(self, path: str, key: str, first: bytearray, rest: Iterator[tuple[bytearray, bool]]) -> int:
        s3 = self._s3()
        with self._failures("write", path):
            upload = {"Bucket": self.bucket, "Key": key}
            upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
        try:
            done: list[dict[str, Any]] = []
            size = 0
            part = first
            while part:
                number = len(done) + 1
                if number > MAX_PARTS:
                    raise Refused(f"storage {self.name} takes no file as large as {printable(path)}")
                with self._failures("write", path):
                    told = s3.upload_part(**upload, PartNumber=number, Body=part, ContentMD5=_md5(part))
                done.append({"PartNumber": number, "ETag": told["ETag"]})
                size += len(part)
                part.clear()
                part, _ = next(rest, (bytearray(), False))
            with self._failures("write", path):
                s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        except BaseException:
            with suppress(LightkeeperError), self._failures("write", path):
                s3.abort_multipart_upload(**upload)
            raise
        entry = self.stat(path)
        if entry is None or entry.size != size:
            raise self._unavailable("write", path, "it is not there as it was sent, or was replaced meanwhile")
        return size

    def _copy_parts(self, key: str, place: Mapping[str, Any], same: Mapping[str, Any], size: int) -> None:
        s3 = self._s3()
        upload = {"Bucket": self.bucket, "Key": key}
        upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
        step = max(COPY_PART, -(-size // MAX_PARTS))
        try:
            done: list[dict[str, Any]] = []
            for first in range(0, size, step):
                bytes_ = f"bytes={first}-{min(first + step, size) - 1}"
                told = s3.upload_part_copy(
                    **{**place, **upload}, **same, PartNumber=len(done) + 1, CopySourceRange=bytes_
                )
                done.append({"PartNumber": len(done) + 1, "ETag": told["CopyPartResult"]["ETag"]})
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        except BaseException:
            with suppress(Exception):
                s3.abort_multipart_upload(**upload)
            raise

    def _remove_stale(self) -> None:
        for entry in self.list(PROBES):
            if time.time() - entry.modified > remote.STALE_SECONDS:
                self.delete(entry.path)
        prefix = "".join(f"{part}/" for part in self._prefix)
        with suppress(LightkeeperError), self._failures("list", "/"):  # not every server can list uploads
            found = self._s3().list_multipart_uploads(Bucket=self.bucket, Prefix=prefix)
            for upload in found.get("Uploads", ()):
                if time.time() - upload["Initiated"].timestamp() > STALE_UPLOAD_SECONDS:
                    self._s3().abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _head(self, key: str) -> dict[str, Any] | None:
        """What the server tells of an object; None when it is not there, although the bucket is."""
        client_error, _ = _failures_of_library()
        try:
            return self._s3().head_object(Bucket=self.bucket, Key=key)
        except client_error as error:
            if _code(error) not in _MISSING:
                raise
        # The answer to HEAD has no body that could tell a missing bucket from a missing object.
        try:
            self._s3().head_bucket(Bucket=self.bucket)
        except client_error as error:
            if _code(error) in _MISSING | _NO_BUCKET:
                raise self._no_bucket() from None
            if _code(error) not in _RIGHTS:  # some may read objects, but not ask about the bucket
                raise
        return None

    def _key(self, path: str) -> str:
        parts = remote.parts_of(self.name, path)
        key = "/".join((*self._prefix, *parts))
        if len(key.encode()) > MAX_KEY:
            raise Refused(f"storage {self.name} refuses {printable(path)}: its name is longer than {MAX_KEY} bytes")
        return key

    def _s3(self) -> Any:
        credentials = credentials_of(self.name)
        if credentials.user or credentials.token_file:
            raise Invalid(f"the credentials of {self.name} are no S3 keys", hint="access_key and secret_key")
        version = 0
        with suppress(OSError):
            version = credentials.certificate.stat().st_mtime_ns if credentials.certificate else 0
        with _making:
            return _client(self.name, self._endpoint, self._region, credentials, version, os.getpid())

    # --- failures ----------------------------------------------------------------------------------------
    @contextmanager
    def _failures(self, doing: str, path: str) -> Iterator[None]:
        """Turn what the S3 library raises inside into the errors that storages promise, in our own words: its own may
        hold signed addresses."""
        client_error, library_errors = _failures_of_library()
        try:
            yield
        except client_error as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise self.failure(_code(error), status, doing, path) from None
        except library_errors as error:
            raise self._unavailable(doing, path, _in_words(error)) from None

    def failure(self, code: str, status: int, doing: str, path: str) -> LightkeeperError:
        """The error that storages promise for what the server answered."""
        why = f"storage {self.name} cannot {doing} {printable(path)}: {self._where} answers {printable(code)}"
        if code in _NO_BUCKET:
            return self._no_bucket()
        if code in _DAMAGED:
            return Corrupt(
                f"storage {self.name} got other bytes than were sent: {printable(path)} was not written",
                hint="they were damaged on the way; what waits is tried again",
            )
        if code in _FULL or status == 507:
            return Unavailable(
                f"storage {self.name} is full: {printable(path)} was not written",
                hint=f"free space or raise the quota of {self._where}; what waits is tried again",
            )
        if code in _RIGHTS or status in (401, 403):
            return Refused(why, hint=f"the keys of {self.name} are missing, wrong, or have no right to {doing} there")
        if code in _MISSING and doing not in ("write", "list"):
            return self._no_file(path)
        if code in ("PreconditionFailed", "412", "416", "InvalidRange"):
            return self._unavailable(doing, path, "it was replaced meanwhile")
        if 400 <= status < 500 and status not in (404, 408, 409, 425, 429):
            return Refused(why, hint=f"{self._where} does not allow it")
        return Unavailable(why, hint="look at the server and its log; what waits is tried again")

    def _unavailable(self, doing: str, path: str, why: str) -> Unavailable:
        return Unavailable(
            f"storage {self.name} cannot {doing} {printable(path)}: {why}",
            hint=f"look at {self._where} and the network; what waits is tried again",
        )

    def _no_file(self, path: str) -> NotFound:
        return NotFound(f"storage {self.name} has no file {printable(path)}", hint=f"look in {self._where}")

    def _no_bucket(self) -> Unavailable:
        return Unavailable(
            f"storage {self.name} is not there: {self._where} does not exist",
            hint=f"make bucket {self.bucket}, then probe storage {self.name}",
        )


class _Body:
    """The bytes of one answer."""

    def __init__(self, storage: S3Storage, path: str, body: Any) -> None:
        self._storage = storage
        self._path = path
        self._body = body

    def __next__(self) -> bytes:
        with self._storage._failures("read", self._path):  # pyright: ignore[reportPrivateUsage]
            chunk = self._body.read(_READ)
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._body.close()


# --- the library -------------------------------------------------------------------------------------------
_making = Lock()


@lru_cache(maxsize=64)
def _client(
    name: str, endpoint: str, region: str, credentials: Credentials, _certificate_version: int, _process: int
) -> Any:
    """A client of one storage with its own few connections; no setting of the user's shell or home reaches it."""
    _failures_of_library()
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    if credentials.key:
        must_be_private(credentials.key, "key")
    config: dict[str, Any] = {
        "connect_timeout": remote.CONNECT_SECONDS,
        "read_timeout": remote.ANSWER_SECONDS,
        "max_pool_connections": remote.CONNECTIONS,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
        "request_checksum_calculation": "when_required",  # the newer ones are not known to every server
        "response_checksum_validation": "when_required",
        "ignore_configured_endpoint_urls": True,
        "proxies": {},
        "s3": {"addressing_style": "path" if endpoint else "auto"},
        "signature_version": "s3v4" if credentials.access_key else UNSIGNED,
    }
    if credentials.certificate:
        config["client_cert"] = (str(credentials.certificate), str(credentials.key))
    session = botocore.session.Session(
        session_vars={
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
            "profile": (None, None, None, None),
        }
    )
    try:
        return session.create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint or None,
            verify=str(credentials.ca) if credentials.ca else True,
            config=Config(**config),
            **_shown(credentials),
        )
    except (ValueError, OSError) as error:
        raise Invalid(f"storage {name} cannot be set up: {type(error).__name__}", hint="look at its root") from None


def _shown(credentials: Credentials) -> dict[str, Any]:
    if not credentials.access_key:
        return {}
    return {
        "aws_access_key_id": credentials.access_key.reveal(),
        "aws_secret_access_key": credentials.secret_key.reveal(),
        "aws_session_token": credentials.session_token.reveal() or None,
    }


def _failures_of_library() -> tuple[Any, tuple[type[BaseException], ...]]:
    """What the library raises: an answer of the server, and all else that goes wrong."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise Unavailable("S3 storages need a library that is not here", hint="pip install 'lightkeeper[s3]'") from None
    return ClientError, (BotoCoreError, HTTPClientError, HTTPError, OSError)


def _in_words(error: BaseException) -> str:
    words = {
        "ConnectTimeoutError": f"no connection within {remote.CONNECT_SECONDS:.0f} s",
        "ReadTimeoutError": f"no answer within {remote.ANSWER_SECONDS:.0f} s",
        "EndpointConnectionError": "it cannot be reached",
        "SSLError": "its certificate is not trusted",
        "ResponseParserError": "its answer was not understood",
    }
    return words.get(type(error).__name__, "the connection was lost")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


# --- text and bytes ----------------------------------------------------------------------------------------
def _cut(chunks: Iterable[bytes]) -> Iterator[tuple[bytearray, bool]]:
    """`chunks` cut into parts, and whether more may follow. There is always a first, maybe empty."""
    number = 0
    part = bytearray()
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            room = PART * (1 + number // 1000) - len(part)
            if not room:
                yield part, True
                part = bytearray()
                number += 1
                continue
            part += rest[:room]
            rest = rest[room:]
    yield part, False


def _md5(content: bytearray) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _seconds(moment: Any) -> float:
    """Whole seconds: a listing tells fractions that a single answer does not."""
    return float(int(moment.timestamp()))


def _parsed(name: str, root: str) -> tuple[str, tuple[str, ...], str, str]:
    """Bucket, parts of the prefix, endpoint and region."""
    hint = "like s3://bucket/prefix?endpoint=https://host:port&region=…"
    try:
        url = urlsplit(root)
        asked = parse_qs(url.query, strict_parsing=True) if url.query else {}
        endpoint = urlsplit(asked.get("endpoint", [""])[0])
        endpoint.port  # noqa: B018  raises when it is none
    except ValueError:
        raise Invalid(f"the root of storage {name} is no address", hint=hint) from None
    prefix = tuple(part for part in url.path.split("/") if part)
    if url.scheme != "s3" or url.fragment or set(asked) - {"endpoint", "region"}:
        raise Invalid(f"the root of storage {name} is no bucket", hint=hint)
    if "@" in url.netloc or "@" in endpoint.netloc or endpoint.query:
        raise Invalid(f"the root of storage {name} holds credentials", hint="put them in LIGHTKEEPER_CREDENTIALS")
    if not url.netloc or any(remote.wrong_with(part) for part in (url.netloc, *prefix)):
        raise Invalid(f"the root of storage {name} is no bucket", hint=hint)
    if asked.get("endpoint") and (
        endpoint.scheme not in ("http", "https") or not endpoint.hostname or endpoint.fragment
    ):
        raise Invalid(f"the endpoint of storage {name} is no address", hint=hint)
    region = asked.get("region", ["us-east-1"])[0]
    return url.netloc, prefix, endpoint.geturl(), region
