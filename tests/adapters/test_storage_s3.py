"""The storage in a bucket: the suite every storage must pass on a real server, and what only S3 does."""

import itertools
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.engines.hostile_http import hostile
from tests.engines.s3 import moto

from lightkeeper.adapters import storage_s3
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_s3 import PART, S3Storage
from lightkeeper.domain.errors import Corrupt, Invalid, Refused, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.testing.mover_conformance import copied
from lightkeeper.testing.storage_conformance import (
    MIB,
    OTHER,
    PATH,
    StorageConformance,
    all_files,
    content,
    failing,
    resident,
    sizes,
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with moto(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(tmp_path: Path, monkeypatch):
    file = tmp_path / "credentials.yaml"
    file.write_text("far-s3: {access_key: key-canary, secret_key: s3cret-canary}\n")
    file.chmod(0o600)
    monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(file))


@pytest.fixture
def storage(server) -> S3Storage:
    bucket = f"bucket-{next(_numbers)}"
    server.make_bucket(bucket)
    around = S3Storage("far-s3", f"s3://{bucket}?endpoint={server.url}")
    around.write("/around/canary", [b"not ours"])
    return S3Storage("far-s3", f"s3://{bucket}/around/root?endpoint={server.url}&region=eu-west-1")


class TestConformance(StorageConformance):
    @pytest.fixture
    def storage(self, storage):
        return storage

    def surroundings(self, storage):
        found = storage._s3().list_objects_v2(Bucket=storage.bucket).get("Contents", ())
        return [item["Key"] for item in found if not item["Key"].startswith("around/root/")]

    def test_of_several_writers_to_one_path_one_wins_whole(self, storage):
        """This server answers 500 now and then when several write at once; that is Unavailable, so: try again."""

        class Patient(S3Storage):
            def write(self, path, chunks):
                whole = list(chunks)
                for _ in range(5):
                    with suppress(Unavailable):
                        return super().write(path, whole)
                return super().write(path, whole)

        root = f"s3://{storage.bucket}/around/root?endpoint={storage._endpoint}"
        super().test_of_several_writers_to_one_path_one_wins_whole(Patient("far-s3", root))


# --- a real server -----------------------------------------------------------------------------------------
def uploads(storage):
    """Keys of uploads that are begun and not ended."""
    found = storage._s3().list_multipart_uploads(Bucket=storage.bucket)
    return [upload["Key"] for upload in found.get("Uploads", ())]


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return PosixStorage("here-disk", tmp_path / "disk")


def test_a_file_goes_there_and_back_by_the_stream_mover(storage, disk):
    for size in (0, 10, PART - 1, PART, PART + 1, 2 * PART + 3):
        whole = (b"light%d" % size * (size // 5 + 1))[:size]
        disk.write(PATH, [whole])
        for source, target, path in ((disk, storage, OTHER), (storage, disk, OTHER)):
            from_path = PATH if source is disk else OTHER
            assert copied(StreamMover(), source, from_path, target, path, lambda _: None) == fixity_of([whole])
    assert uploads(storage) == []


def test_two_hundred_megabytes_are_read_from_anywhere_in_constant_memory(storage):
    before = resident()
    storage.write(PATH, (bytes([number]) * MIB for number in range(200)))
    with storage.open(PATH) as file:
        for number in (198, 0, 100, 101, 5):
            file.seek(number * MIB + 17)
            assert file.read(MIB) == bytes([number]) * (MIB - 17) + bytes([number + 1]) * 17
        assert file.seek(0, 2) == 200 * MIB
        assert file.read(1) == b""
    # Two parts are in memory at once, and what the library copies of them.
    assert resident() - before < 40 * MIB


def test_three_thousand_files_are_listed_page_by_page(server, storage):
    paths = [f"/n{number % 3}/f{number}" for number in range(3000)]
    with httpx.Client(base_url=server.url) as http:  # unsigned: this server does not mind, and it is faster
        for path in paths:
            assert http.put(f"/{storage.bucket}/{storage._key(path)}", content=b"12").status_code == 200
    assert sizes(storage) == dict.fromkeys(paths, 2)
    assert len(sizes(storage, "/n1")) == 1000


def test_a_source_that_fails_leaves_no_begun_upload(storage):
    storage.write(PATH, [b"old"])
    with pytest.raises(KeyError, match="source ended"):
        storage.write(PATH, failing([b"new" * PART]))
    assert content(storage, PATH) == b"old"
    assert uploads(storage) == []


def test_probe_ends_uploads_that_killed_writers_left_long_ago(storage, monkeypatch):
    """This server says of every upload that it began in 2010."""
    storage._s3().create_multipart_upload(Bucket=storage.bucket, Key=storage._key(PATH))
    monkeypatch.setattr(storage_s3, "STALE_UPLOAD_SECONDS", 1e10)
    storage.probe()
    assert len(uploads(storage)) == 1
    monkeypatch.setattr(storage_s3, "STALE_UPLOAD_SECONDS", 3600.0)
    storage.probe()
    assert uploads(storage) == []
    assert all_files(storage) == {}


def test_a_file_too_large_for_one_copy_is_copied_in_parts(storage, monkeypatch):
    monkeypatch.setattr(storage_s3, "COPY_AT_ONCE", 6 * MIB)
    monkeypatch.setattr(storage_s3, "COPY_PART", 5 * MIB)
    whole = [bytes([number]) * MIB for number in range(12)]
    storage.write(PATH, whole)
    storage.rename(PATH, OTHER)
    assert all_files(storage) == {OTHER: 12 * MIB}
    assert content(storage, OTHER) == b"".join(whole)
    assert uploads(storage) == []


def test_a_rename_to_itself_keeps_the_file(storage):
    storage.write(PATH, [b"mine"])
    storage.rename(PATH, PATH)
    assert all_files(storage) == {PATH: 4}


def test_an_object_whose_name_is_no_file_name_is_never_left_out_in_silence(storage):
    storage.write(PATH, [b"mine"])
    s3 = storage._s3()
    s3.put_object(Bucket=storage.bucket, Key=storage._key("/ctao") + "/", Body=b"")  # a folder, as other tools show it
    assert sizes(storage) == {PATH: 4}
    s3.put_object(Bucket=storage.bucket, Key=storage._key("/ctao") + "/../up", Body=b"x")
    with pytest.raises(Refused, match="no file name"):
        list(storage.list())


def test_a_bucket_that_is_not_there_is_an_unavailable_storage_and_never_an_empty_one(server):
    storage = S3Storage("unmounted", f"s3://never?endpoint={server.url}")
    for attempt in (
        lambda: storage.open(PATH),
        lambda: storage.write(PATH, [b"x"]),
        lambda: storage.write(PATH, [b"x" * PART] * 2),
        lambda: storage.rename(PATH, OTHER),
        lambda: storage.delete(PATH),
        lambda: storage.stat(PATH),
        lambda: list(storage.list()),
    ):
        with pytest.raises(Unavailable, match="unmounted is not there"):
            attempt()


def test_a_server_killed_while_it_is_written_to_or_read_from_is_said_so(tmp_path):
    with moto(tmp_path) as server:
        server.make_bucket("doomed")
        storage = S3Storage("far-s3", f"s3://doomed?endpoint={server.url}")
        storage.write(OTHER, [b"o" * MIB] * 64)
        file = storage.open(OTHER)
        assert file.read(MIB) == b"o" * MIB

        def chunks():
            for number in range(50):
                if number == 30:
                    assert storage.stat(PATH) is None
                    server.kill()
                yield b"a" * MIB

        with pytest.raises(Unavailable, match="far-s3 cannot write"):
            storage.write(PATH, chunks())
        with pytest.raises(Unavailable, match="far-s3 cannot read"):
            while file.read(MIB):
                pass


# --- a server that is not to be trusted --------------------------------------------------------------------
@pytest.fixture
def liar():
    with hostile() as server:
        yield server


@pytest.fixture
def doubted(liar):
    return S3Storage("far-s3", f"s3://bucket?endpoint={liar.url}")


def xml(code):
    body = f"<Error><Code>{code}</Code><Message>about key-canary and s3cret-canary</Message></Error>"
    return {"Content-Type": "application/xml"}, body.encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", Refused),
        (403, "SignatureDoesNotMatch", Refused),
        (400, "ExpiredToken", Refused),
        (400, "InvalidRequest", Refused),
        (500, "InternalError", Unavailable),
        (503, "SlowDown", Unavailable),
        (507, "InsufficientStorage", Unavailable),
        (403, "QuotaExceeded", Unavailable),
        (404, "NoSuchBucket", Unavailable),
        (400, "BadDigest", Corrupt),
    ],
)
def test_every_failure_names_the_storage_tells_no_secret_and_is_of_the_kind_that_is_promised(
    liar, doubted, status, code, kind
):
    liar.answer = lambda _: (status, *xml(code))
    for attempt in (lambda: doubted.open(PATH), lambda: doubted.write(PATH, [b"x"]), lambda: list(doubted.list())):
        with pytest.raises(kind, match="far-s3") as caught:
            attempt()
        assert "canary" not in caught.value.message + caught.value.hint
    assert not any("s3cret" in str(asked.headers) + asked.path for asked in liar.asked)


def test_a_body_that_ends_early_is_never_a_short_file(liar, doubted):
    liar.answer = lambda _: (200, {"Content-Length": "100", "ETag": '"1"'}, b"x" * 50)
    with doubted.open(PATH) as file, pytest.raises(Unavailable, match=PATH):
        file.read()


def test_a_file_replaced_while_it_is_read_is_not_mixed(liar, doubted):
    def answer(asked):
        if "Range" in asked.headers:
            assert asked.headers["If-Match"] == '"1"'
            return 206, {"Content-Range": "bytes 50-99/100", "ETag": '"2"'}, b"y" * 50
        return 200, {"Content-Length": "100", "ETag": '"1"'}, b"x" * 50

    liar.answer = answer
    with doubted.open(PATH) as file, pytest.raises(Unavailable, match="replaced"):
        file.read()


TRUNCATED = b"<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated></ListBucketResult>"


@pytest.mark.parametrize("body", [b"<ListBucketResult><Contents><Key>a", b"<html>all is well</html>", b"", TRUNCATED])
def test_a_listing_that_is_none_never_looks_complete(liar, doubted, body):
    liar.answer = lambda _: (200, {"Content-Type": "application/xml"}, body)
    with pytest.raises(Unavailable, match="far-s3"):
        list(doubted.list())


def test_keys_outside_the_prefix_are_refused(liar):
    storage = S3Storage("far-s3", f"s3://bucket/base?endpoint={liar.url}")
    body = "<Contents><Key>other/f</Key><Size>1</Size><LastModified>2030-01-02T00:00:00.000Z</LastModified></Contents>"
    listing = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{body}</ListBucketResult>"
    liar.answer = lambda _: (200, {"Content-Type": "application/xml"}, listing.encode())
    with pytest.raises(Refused, match="far-s3"):
        list(storage.list())


def test_a_copy_of_another_size_keeps_the_source(liar, doubted):
    def answer(asked):
        if asked.method == "PUT":
            return 200, {}, b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"
        size = "5" if asked.path.endswith(PATH) else "4"
        when = "Wed, 02 Jan 2030 00:00:00 GMT"
        return 200, {"Content-Length": size, "ETag": '"1"', "Last-Modified": when}, b""

    liar.answer = answer
    with pytest.raises(Unavailable, match="the source was kept"):
        doubted.rename(PATH, OTHER)
    assert "DELETE" not in liar.methods


def test_without_keys_it_is_anonymous_and_nothing_of_the_users_shell_is_used(liar, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env-canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-canary")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    liar.answer = lambda _: (403, *xml("AccessDenied"))
    with pytest.raises(Refused, match="open-s3"):
        S3Storage("open-s3", f"s3://bucket?endpoint={liar.url}").open(PATH)
    assert "Authorization" not in liar.asked[0].headers
    assert "canary" not in str(liar.asked)


def test_without_the_extra_only_s3_storages_are_missed():
    program = """
import sys
sys.modules["botocore"] = None
from lightkeeper.adapters.storage_s3 import S3Storage
from lightkeeper.domain.errors import Unavailable
try:
    S3Storage("far-s3", "s3://bucket").stat("/f")
except Unavailable as error:
    print(error.hint)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "lightkeeper[s3]" in told.stdout


@pytest.mark.parametrize(
    "root",
    [
        "/a/path",
        "https://host/bucket",
        "s3://",
        "s3://user:s3cret-canary@bucket",
        "s3://bucket?endpoint=https://user:s3cret-canary@host",
        "s3://bucket?endpoint=file:///etc",
        "s3://bucket?endpoint=https://h?x=canary",
        "s3://bucket?enpoint=https://host",
        "s3://bucket/../up",
        "s3://bucket?endpoint=https://host:port",
    ],
)
def test_a_root_that_is_none_is_refused_without_telling_it(root):
    with pytest.raises(Invalid, match="far-s3") as caught:
        S3Storage("far-s3", root)
    assert "canary" not in caught.value.message + caught.value.hint
