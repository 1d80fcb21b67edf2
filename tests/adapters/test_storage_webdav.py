"""The storage behind WebDAV: the suite every storage must pass on three real servers, and what only a network does."""

import itertools
import shutil
import ssl
import subprocess
import time

import httpx2 as httpx
import pytest
from tests.engines.hostile_http import hostile
from tests.engines.webdav import free_port, nginx, rclone, xrdhttp

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_webdav import SMALL, WebdavStorage
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
    resident,
    sizes,
)

_numbers = itertools.count()


@pytest.fixture(scope="module", params=[nginx, rclone, xrdhttp], ids=lambda server: server.__name__)
def server(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp(request.param.__name__)) as running:
        running.kind = request.param.__name__
        yield running


@pytest.fixture
def storage(server) -> WebdavStorage:
    name = f"around-{next(_numbers)}"
    for made in (f"{name}/", f"{name}/root/"):
        assert httpx.request("MKCOL", f"{server.url}/{made}").status_code == 201
    assert httpx.put(f"{server.url}/{name}/canary", content=b"not ours").status_code in (200, 201)
    return WebdavStorage("far-dav", f"{server.url}/{name}/root")


class TestConformance(StorageConformance):
    @pytest.fixture
    def storage(self, server, storage):
        self.server = server
        return storage

    def surroundings(self, storage):
        around = self.server.data / storage._base[-2]
        return sorted(path.name for path in self.server.data.iterdir()), sorted(
            (path.name, path.read_bytes() if path.is_file() else None) for path in around.iterdir()
        )

    def test_of_several_writers_to_one_path_one_wins_whole(self, server, storage):
        if server.kind == "rclone":
            pytest.skip("rclone removes the target of a MOVE before it renames: readers may find none meanwhile")
        super().test_of_several_writers_to_one_path_one_wins_whole(storage)


# --- real servers ------------------------------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return PosixStorage("here-disk", tmp_path / "disk")


def test_a_file_goes_there_and_back_by_the_stream_mover(storage, disk):
    for size in (0, 10, SMALL - 1, SMALL, 5 * MIB + 3):
        whole = (b"light%d" % size * (size // 5 + 1))[:size]
        disk.write(PATH, [whole])
        for source, target, path in ((disk, storage, OTHER), (storage, disk, OTHER)):
            from_path = PATH if source is disk else OTHER
            assert copied(StreamMover(), source, from_path, target, path, lambda _: None) == fixity_of([whole])


def test_two_hundred_megabytes_are_read_from_anywhere_in_constant_memory(storage):
    storage.write(PATH, (bytes([number]) * MIB for number in range(200)))
    before = resident()
    with storage.open(PATH) as file:
        for number in (199, 0, 100, 101, 5):
            file.seek(number * MIB + 17)
            assert file.read(MIB) == bytes([number]) * (MIB - 17) + bytes([number + 1]) * 17 if number < 199 else True
        assert file.seek(0, 2) == 200 * MIB
        assert file.read(1) == b""
    assert resident() - before < 20 * MIB


def test_three_thousand_files_are_listed(server, storage):
    paths = {f"/n{number % 3}/f{number}" for number in range(3000)}
    folder = server.data / "/".join(storage._base[-2:])
    for path in paths:
        (folder / path[1:]).parent.mkdir(exist_ok=True)
        (folder / path[1:]).write_bytes(b"12")
    time.sleep(1.1 if server.kind == "rclone" else 0)  # it remembers a second long what it has seen
    assert sizes(storage) == dict.fromkeys(paths, 2)


def test_the_servers_own_sum_is_told_where_it_has_one(server, storage):
    storage.write(PATH, [b"Wikipedia"])
    assert storage.adler32(PATH) == ("11e60398" if server.kind == "xrdhttp" else None)


def test_a_directory_is_no_file_and_is_never_removed_or_replaced(storage):
    storage.write(PATH, [b"mine"])
    for attempt in (
        lambda: storage.delete("/ctao"),
        lambda: storage.open("/ctao/dl0"),
        lambda: storage.rename("/ctao/dl0", "/x"),
        lambda: storage.write("/ctao", [b"x"]),
        lambda: storage.rename(PATH, "/ctao/dl0"),
        lambda: storage.write(PATH + "/below", [b"x"]),
    ):
        with pytest.raises((Refused, Unavailable)):
            attempt()
    assert all_files(storage) == {PATH: 4}


def test_a_base_that_is_not_there_is_an_unavailable_storage_and_never_an_empty_one(server):
    storage = WebdavStorage("unmounted", f"{server.url}/never")
    for attempt in (
        lambda: storage.open(PATH),
        lambda: storage.rename(PATH, OTHER),
        lambda: storage.delete(PATH),
        lambda: storage.stat(PATH),
        lambda: list(storage.list()),
        lambda: list(storage.list("/ctao")),
    ):
        with pytest.raises(Unavailable, match="unmounted is not there"):
            attempt()


@pytest.mark.parametrize("make", [nginx, rclone], ids=lambda make: make.__name__)
def test_a_server_killed_while_it_is_written_to_or_read_from_is_said_so(tmp_path, make):
    with make(tmp_path) as server:
        storage = WebdavStorage("far-dav", server.url)
        storage.write(OTHER, [b"o" * MIB] * 64)
        file = storage.open(OTHER)
        assert file.read(MIB) == b"o" * MIB

        def chunks():
            for number in range(50):
                if number == 30:
                    server.kill()
                yield b"a" * MIB

        with pytest.raises(Unavailable, match="far-dav cannot write"):
            storage.write(PATH, chunks())
        assert not (server.data / PATH[1:]).exists()
        with pytest.raises(Unavailable, match="far-dav cannot read"):
            while file.read(MIB):
                pass


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew(tmp_path):
    with nginx(tmp_path, keepalive=1) as server:
        storage = WebdavStorage("far-dav", server.url)
        storage.write(PATH, [b"bytes"])
        for _ in range(2):
            time.sleep(1.3)
            assert content(storage, PATH) == b"bytes"
            storage.rename(PATH, OTHER)
            time.sleep(1.3)
            storage.rename(OTHER, PATH)


# --- a server that is not to be trusted --------------------------------------------------------------------
@pytest.fixture
def liar():
    with hostile() as server:
        yield server


@pytest.fixture
def doubted(liar):
    return WebdavStorage("liar-dav", f"{liar.url}/base")


def props(*entries, head=""):
    """A multi-status answer about (href, size), with size None for a collection."""
    told = ""
    for href, size in entries:
        kind = "<D:resourcetype><D:collection/></D:resourcetype>" if size is None else ""
        length = "" if size is None else f"<D:getcontentlength>{size}</D:getcontentlength>"
        told += f"<D:response><D:href>{href}</D:href><D:propstat><D:prop>{kind}{length}</D:prop>"
        told += "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    body = f'<?xml version="1.0"?>{head}<D:multistatus xmlns:D="DAV:">{told}</D:multistatus>'
    return 207, {"Content-Type": "application/xml"}, body.encode()


def serving(size, get):
    """Answers of a server with one file of `size`, whose GET is `get`."""

    def answer(asked):
        if asked.method == "PROPFIND":
            return props((asked.path, size))
        return get(asked) if asked.method == "GET" else (404, {}, b"")

    return answer


def storing(**special):
    """Answers of a server that takes every write, but for what `special` says of a method."""
    kept = {}

    def answer(asked):
        if asked.method in special:
            told = special[asked.method]
            return told(asked) if callable(told) else told
        if asked.method == "PUT":
            kept[asked.path] = asked.body
            return 201, {}, b""
        if asked.method == "PROPFIND":
            if asked.path in kept:
                return props((asked.path, len(kept[asked.path])))
            return props((asked.path, None)) if asked.path.count("/") < 5 else (404, {}, b"")
        if asked.method == "HEAD":
            return 200, {"Content-Length": str(len(kept.get(asked.path, b"")))}, b""
        return 201 if asked.method in ("MOVE", "MKCOL") else 204, {}, b""

    return answer


def test_a_body_that_ends_early_is_never_a_short_file(liar, doubted):
    liar.answer = serving(100, lambda _: (200, {"Content-Length": "100"}, b"x" * 50))
    with doubted.open(PATH) as file, pytest.raises(Unavailable, match=PATH):
        file.read()


def test_a_lost_connection_is_taken_up_where_it_ended(liar, doubted):
    whole = bytes(range(250)) * 4000

    def get(asked):
        first = int(asked.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        rest = whole[first:]
        headers = {"Content-Length": str(len(rest)), "ETag": '"1"'}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(whole) - 1}/{len(whole)}"
        return 206 if first else 200, headers, rest[:300_000]

    liar.answer = serving(len(whole), get)
    assert content(doubted, PATH) == whole
    assert liar.methods.count("GET") == 4


def test_a_file_replaced_while_it_is_read_is_not_mixed(liar, doubted):
    def get(asked):
        headers = {"Content-Length": "100", "ETag": f'"{len(liar.asked)}"'}
        if "Range" in asked.headers:
            return 206, {**headers, "Content-Length": "50", "Content-Range": "bytes 50-99/100"}, b"y" * 50
        return 200, headers, b"x" * 50

    liar.answer = serving(100, get)
    with doubted.open(PATH) as file, pytest.raises(Unavailable, match="replaced"):
        file.read()


@pytest.mark.parametrize("headers", [{"Content-Length": "90"}, {"Content-Encoding": "gzip"}])
def test_an_answer_of_another_length_or_encoding_is_not_the_file(liar, doubted, headers):
    liar.answer = serving(100, lambda _: (200, headers, b"x" * 90))
    with pytest.raises(Unavailable, match=PATH):
        doubted.open(PATH)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Refused), (403, Refused), (500, Unavailable), (503, Unavailable), (507, Unavailable), (429, Unavailable)],
)
def test_every_failure_names_the_storage_and_is_of_the_kind_that_is_promised(liar, doubted, status, kind):
    liar.answer = lambda _: (status, {}, b"")
    for attempt in (
        lambda: doubted.open(PATH),
        lambda: doubted.write(PATH, [b"x"]),
        lambda: doubted.write(PATH, [b"x" * MIB] * 3),
        lambda: doubted.delete(PATH),
        lambda: doubted.rename(PATH, OTHER),
        lambda: doubted.stat(PATH),
        lambda: list(doubted.list()),
        doubted.probe,
    ):
        with pytest.raises(kind, match="liar-dav"):
            attempt()


def test_a_full_storage_is_said_so_and_nothing_gets_the_name(liar, doubted):
    liar.answer = storing(PUT=lambda asked: (507, {}, b"") if len(asked.body) > 11 else (201, {}, b""))
    for chunks in ([b"x" * 100], [b"x" * MIB] * 3):
        with pytest.raises(Unavailable, match="liar-dav"):
            doubted.write(PATH, chunks)
    assert "MOVE" not in liar.methods
    liar.answer = lambda _: (507, {}, b"")
    with pytest.raises(Unavailable, match="is full"):
        doubted.write(PATH, [b"x"])


def test_an_answer_that_belongs_to_another_request_is_not_held_against_a_file(liar, doubted):
    sizes = iter(["3", "4"])
    liar.answer = storing(HEAD=lambda _: (200, {"Content-Length": next(sizes)}, b""))
    assert doubted.write(PATH, [b"1234"]) == 4
    assert liar.methods.count("HEAD") == 2


def test_a_server_that_keeps_other_bytes_than_were_sent_is_found_out(liar, doubted):
    liar.answer = storing(HEAD=(200, {"Content-Length": "3"}, b""))
    with pytest.raises(Unavailable, match="kept 3 of 4 bytes"):
        doubted.write(PATH, [b"1234"])
    liar.answer = storing(HEAD=(200, {"Content-Length": "4", "Digest": "adler32=deadbeef"}, b""))
    with pytest.raises(Corrupt, match="other bytes"):
        doubted.write(PATH, [b"1234"])
    assert "MOVE" not in liar.methods
    assert {asked.path for asked in liar.asked if asked.method == "DELETE"} == {
        asked.path for asked in liar.asked if asked.method == "PUT"
    }
    liar.answer = storing(HEAD=(200, {"Content-Length": "4", "Digest": "md5=x, ADLER32=1f800cb"}, b""))
    assert doubted.write(PATH, [b"1234"]) == 4


def test_a_move_whose_answer_was_lost_is_looked_after(liar, doubted):
    moved = []

    def answer(asked):
        if asked.method == "MOVE":
            moved.append(asked)
            return None
        if asked.method == "PROPFIND" and asked.path == f"/base{OTHER}":
            return props((asked.path, 5)) if moved else (404, {}, b"")
        if asked.method == "PROPFIND" and asked.path == f"/base{PATH}":
            return (404, {}, b"") if moved else props((asked.path, 5))
        return props((asked.path, None))

    liar.answer = answer
    doubted.rename(PATH, OTHER)
    assert len(moved) == 1
    liar.answer = lambda asked: None if asked.method == "MOVE" else props((asked.path, 5))
    with pytest.raises(Unavailable):
        doubted.rename(PATH, OTHER)


BOMB = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("entries", "head"),
    [
        ([("/base/&b;", 1)], BOMB),
        ([("/base/&a;", 1)], FILE),
        ([("/base/", None), ("/base/../etc/passwd", 1)], ""),
        ([("/base/", None), ("/base/%2e%2e/up", 1)], ""),
        ([("/base/", None), ("/base/a%2f..%2f..%2fup", 1)], ""),
        ([("/base/", None), ("/base/a%00b", 1)], ""),
        ([("/base/", None), ("/base/a%0ab", 1)], ""),
        ([("/base/", None), ("/base/%ff", 1)], ""),
        ([("/base/", None), ("/elsewhere/f", 1)], ""),
        ([("/base/", None), ("/base/a/b", 1)], ""),
        ([("/base/", None), ("http://other/else/f", 1)], ""),
        ([("/base/", None), ("/base/" + "n" * 300, 1)], ""),
        ([("/base/", None), ("/base/" + "n" * 30_000, 1)], ""),
        ([("/base/", None), ("//base", 1)], ""),
    ],
)
def test_a_hostile_listing_is_refused(liar, doubted, entries, head):
    liar.answer = lambda _: props(*entries, head=head)
    with pytest.raises(Refused, match="liar-dav"):
        list(doubted.list())


def test_a_listing_never_looks_complete_when_it_is_not(liar, doubted):
    status, headers, body = props(("/base/", None), *((f"/base/f{n}", n) for n in range(2000)))
    liar.answer = lambda _: (status, headers, body)
    assert len(list(doubted.list())) == 2000
    liar.answer = lambda _: (status, {**headers, "Content-Length": str(len(body))}, body[:-5000])
    with pytest.raises(Unavailable, match="liar-dav cannot list"):
        list(doubted.list())
    liar.answer = lambda _: (status, headers, body[:-5000])
    with pytest.raises(Unavailable, match="ended early"):
        list(doubted.list())
    liar.answer = lambda _: (200, {}, b"<html>all is well</html>")
    with pytest.raises(Unavailable, match="liar-dav"):
        list(doubted.list())
    lost = body.replace(b"<D:status>HTTP/1.1 200 OK", b"<D:status>HTTP/1.1 500 no", 5)
    liar.answer = lambda _: (status, headers, lost)
    with pytest.raises(Unavailable, match="answers 500"):
        list(doubted.list())


def test_a_server_with_endless_directories_is_left(liar, doubted):
    liar.answer = lambda asked: props((asked.path, None), (f"{asked.path}d/", None))
    with pytest.raises(Refused, match="deep"):
        list(doubted.list())


def test_xml_nested_without_end_is_refused(liar, doubted):
    liar.answer = lambda _: (207, {}, b'<D:multistatus xmlns:D="DAV:">' + b"<a>" * 100_000)
    with pytest.raises(Refused, match="deep"):
        list(doubted.list())


# --- credentials -------------------------------------------------------------------------------------------
@pytest.fixture
def shown(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("t0ken-canary\n")
    token.chmod(0o600)
    file = tmp_path / "credentials.yaml"
    file.write_text(f"liar-dav: {{token_file: {token}}}\nuser-dav: {{user: ada, password: s3cret-canary}}\n")
    file.chmod(0o600)
    monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(file))
    return token


def test_the_token_goes_to_the_root_and_not_to_whom_it_redirects(liar, doubted, shown):
    with hostile("127.0.0.2") as other:
        kept = {}

        def data_server(asked):
            if asked.method == "PUT":
                kept["body"] = asked.body
                return 201, {}, b""
            return (200, {}, kept["body"]) if asked.method == "GET" else (404, {}, b"")

        def door(asked):
            if asked.method in ("GET", "PUT"):
                return 307, {"Location": f"{other.url}{asked.path}?authz=signed-canary"}, b""
            if asked.method == "HEAD":
                return 200, {"Content-Length": str(len(kept["body"]))}, b""
            if asked.method == "PROPFIND":
                return props((asked.path, len(kept["body"]) if asked.path.endswith(PATH) else None))
            return 201, {}, b""

        other.answer, liar.answer = data_server, door
        for whole in (b"small", b"large" * MIB):
            assert doubted.write(PATH, [whole]) == len(whole)
            assert content(doubted, PATH) == whole
        assert {asked.headers["Authorization"] for asked in liar.asked} == {"Bearer t0ken-canary"}
        assert other.asked
        assert not any("canary" in str(asked.headers) for asked in other.asked)
        other.answer = lambda _: (500, {}, b"signed-canary")
        for attempt in (lambda: doubted.open(PATH), lambda: doubted.write(PATH, [b"x"])):
            with pytest.raises(Unavailable) as caught:
                attempt()
            assert "canary" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("location", ["https://127.0.0.1/x", "ftp://x/y", "file:///etc/passwd", "//[", ""])
def test_a_redirect_to_another_protocol_or_nowhere_is_not_followed(liar, doubted, location):
    liar.answer = serving(5, lambda _: (302, {"Location": location}, b""))
    with pytest.raises((Refused, Unavailable), match="liar-dav"):
        doubted.open(PATH)


def test_redirects_in_a_circle_end(liar, doubted):
    liar.answer = serving(5, lambda asked: (302, {"Location": asked.path}, b""))
    with pytest.raises(Unavailable, match="liar-dav"):
        doubted.open(PATH)
    assert liar.methods.count("GET") <= 6


def test_a_token_renewed_in_its_file_is_used_and_a_bad_one_is_not_told(liar, doubted, shown):
    liar.answer = lambda asked: props((asked.path, None))
    assert list(doubted.list()) == []
    shown.write_text("second")
    assert list(doubted.list()) == []
    assert [asked.headers["Authorization"] for asked in liar.asked] == ["Bearer t0ken-canary", "Bearer second"]
    shown.write_text("two words-canary")
    with pytest.raises(Invalid, match="holds no token") as caught:
        list(doubted.list())
    assert "canary" not in caught.value.message + caught.value.hint
    shown.chmod(0o640)
    with pytest.raises(Refused, match="others may read the token file"):
        list(doubted.list())


def test_user_and_password_are_shown(liar, shown):
    liar.answer = lambda asked: props((asked.path, None))
    assert list(WebdavStorage("user-dav", f"{liar.url}/base").list()) == []
    assert liar.asked[0].headers["Authorization"].startswith("Basic ")


def test_credentials_are_not_shown_unencrypted(shown):
    with pytest.raises(Refused, match="unencrypted"):
        WebdavStorage("liar-dav", "http://storage.example/base").stat(PATH)


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: the Debian package openssl")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path / "certificate.pem", tmp_path / "key.pem"


def test_only_a_server_that_shows_a_trusted_certificate_is_spoken_to(tmp_path, monkeypatch, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    tls.load_verify_locations(certificate[0])
    tls.verify_mode = ssl.CERT_REQUIRED
    pair = f"certificate: {certificate[0]}, key: {certificate[1]}"
    file = tmp_path / "credentials.yaml"
    file.write_text(f"a-dav: {{{pair}, ca: {certificate[0]}}}\nb-dav: {{{pair}}}\nc-dav: {{ca: {certificate[0]}}}\n")
    file.chmod(0o600)
    monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(file))
    with hostile(tls=tls) as server:
        server.answer = lambda asked: props((asked.path, None))
        root = f"{server.url.replace('https', 'davs')}/base"
        assert list(WebdavStorage("a-dav", root).list()) == []
        asked = len(server.asked)
        with pytest.raises(Unavailable, match="its certificate is not trusted"):
            list(WebdavStorage("b-dav", root).list())
        with pytest.raises(Unavailable, match="c-dav"):
            list(WebdavStorage("c-dav", root).list())
        assert len(server.asked) == asked
        certificate[1].chmod(0o644)
        with pytest.raises(Refused, match="others may read the key"):
            list(WebdavStorage("a-dav", f"{root}/other").list())


@pytest.mark.parametrize(
    "root",
    [
        "/a/path",
        "ftp://host/base",
        "https://user:s3cret-canary@host/base",
        "https:///base",
        "https://host/base?token=canary",
        "https://host:port/base",
        "https://host/base/../up",
        "https://host/%2e%2e",
        "https://host/a%2fb",
    ],
)
def test_a_root_that_is_none_is_refused_without_telling_it(root):
    with pytest.raises(Invalid, match="far-dav") as caught:
        WebdavStorage("far-dav", root)
    assert "canary" not in caught.value.message + caught.value.hint


def test_a_server_that_does_not_answer_is_unavailable():
    with pytest.raises(Unavailable, match="cannot be reached"):
        WebdavStorage("far-dav", f"davs://127.0.0.1:{free_port()}/base").stat(PATH)
