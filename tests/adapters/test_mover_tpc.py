"""Copies between servers: the bytes do not pass through us, nobody is believed, and what else happens."""

import importlib.util
import re
import signal
import threading
import time
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpx2 as httpx
import pytest
from tests.engines.hostile_http import hostile
from tests.engines.webdav import nginx, rclone, xrdhttp
from tests.engines.xrootd import xrootd

from lightkeeper.adapters.mover_tpc import TpcMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_webdav import WebdavStorage
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.errors import Conflict, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.ports import Mover
from lightkeeper.testing.mover_conformance import copied
from lightkeeper.testing.storage_conformance import MIB, OTHER, PATH, all_files, content

WHOLE = bytes(range(256)) * (12 * MIB // 256) + b"rest"
BIG = 256 * MIB


class Seen:
    """A storage that notes what is asked of it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked: list[str] = []

    def open(self, path):
        self.asked.append("open")
        return super().open(path)

    def write(self, path, chunks):
        self.asked.append("write")
        return super().write(path, chunks)

    def address(self, path):
        self.asked.append("address")
        return super().address(path)


class SeenXrootd(Seen, XrootdStorage):
    pass


class SeenWebdav(Seen, WebdavStorage):
    pass


def ignore(_done: int) -> None:
    pass


def mover(**options) -> TpcMover:
    return TpcMover(**{"at_least": 0, **options})


def incoming(storage):
    return list(storage.list("/.lightkeeper/incoming"))


def took_less_than(seconds, since):
    assert time.monotonic() - since < seconds


@contextmanager
def as_soon_as_it_arrives(directory, act):
    """Do `act` as soon as a file below `directory` has its first bytes."""
    over = threading.Event()

    def watch():
        while not over.is_set():
            for path in directory.rglob("*"):
                if path.is_file() and path.stat().st_size:
                    act()
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def big_one(folder):
    """A large file of nothing below a server's `folder`."""
    with (folder / "big").open("wb") as file:
        file.truncate(BIG)
    (folder / "big").chmod(0o644)


# --- any storages ------------------------------------------------------------------------------------------
def test_directories_are_streamed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    source, target = PosixStorage("one", tmp_path / "one"), PosixStorage("two", tmp_path / "two")
    source.write(PATH, [WHOLE])
    told: list[int] = []
    any_mover: Mover = TpcMover()
    assert copied(any_mover, source, PATH, target, OTHER, told.append) == fixity_of([WHOLE])
    assert told[-1] == len(WHOLE)
    assert content(target, OTHER) == WHOLE


# --- XRootD ------------------------------------------------------------------------------------------------
needs_client = pytest.mark.skipif(importlib.util.find_spec("XRootD") is None, reason="pip install '.[xrootd]'")


@pytest.fixture(scope="module")
def pair():
    """Two servers that make third-party copies."""
    with xrootd(tpc=True) as one, xrootd(tpc=True) as two:
        yield one, two


def at(server, name):
    root = f"/{uuid4().hex}"
    server.make(root)
    return SeenXrootd(name, server.url(root), answer_seconds=3)


@needs_client
def test_between_xrootd_servers_the_bytes_do_not_pass_through_us(pair):
    source, target = at(pair[0], "pic-disk"), at(pair[1], "cscs-disk")
    source.write(PATH, [WHOLE])
    source.asked.clear()
    told: list[int] = []
    assert copied(mover(), source, PATH, target, OTHER, told.append) == fixity_of([WHOLE])
    assert source.asked == ["address"]
    assert target.asked == ["address", "open"]  # it is read back, from there
    assert told == sorted(told)
    assert told[-1] == len(WHOLE)
    assert all_files(target) == {OTHER: len(WHOLE)}
    assert incoming(target) == []


@needs_client
def test_a_small_file_is_streamed(pair):
    source, target = at(pair[0], "pic-disk"), at(pair[1], "cscs-disk")
    source.write(PATH, [WHOLE])
    began = time.monotonic()
    assert copied(TpcMover(), source, PATH, target, OTHER, ignore) == fixity_of([WHOLE])
    took_less_than(2, began)
    assert "address" not in source.asked


@needs_client
def test_what_is_read_back_of_a_rotten_source_is_told_as_it_is(pair):
    source, target = at(pair[0], "pic-disk"), at(pair[1], "cscs-disk")
    source.write(PATH, [WHOLE])
    with (pair[0].home / source.root.split("//", 2)[2] / PATH[1:]).open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"!")
    rotten = WHOLE[: 5 * MIB] + b"!" + WHOLE[5 * MIB + 1 :]
    assert copied(mover(), source, PATH, target, OTHER, ignore) == fixity_of([rotten])


@needs_client
def test_a_source_that_is_not_there_is_not_found_and_leaves_nothing(pair):
    source, target = at(pair[0], "pic-disk"), at(pair[1], "cscs-disk")
    with pytest.raises(NotFound, match="pic-disk has no file"):
        copied(mover(), source, PATH, target, OTHER, ignore)
    assert all_files(target) == {}
    assert incoming(target) == []


@needs_client
def test_a_base_that_is_not_there_is_not_made(pair):
    source, target = at(pair[0], "pic-disk"), XrootdStorage("unmounted", pair[1].url("/never"))
    source.write(PATH, [WHOLE])
    with pytest.raises(Unavailable, match="unmounted is not there"):
        copied(mover(), source, PATH, target, OTHER, ignore)
    assert not (pair[1].data / "never").exists()


@needs_client
def test_servers_that_make_no_third_party_copies_are_streamed_and_not_asked_again_for_a_while(pair):
    with xrootd() as plain:
        source, target = at(pair[0], "pic-disk"), at(plain, "cscs-disk")
        source.write(PATH, [WHOLE])
        patient, forgetful = mover(), mover(forget_after=0)
        for one, asked in ((patient, True), (patient, False), (forgetful, True), (forgetful, True)):
            source.asked.clear()
            assert copied(one, source, PATH, target, OTHER, ignore) == fixity_of([WHOLE])
            assert ("address" in source.asked) == asked
        assert all_files(target) == {OTHER: len(WHOLE)}
        assert incoming(target) == []


@needs_client
def test_a_copy_that_the_caller_gives_up_leaves_nothing(pair):
    source, target = at(pair[0], "pic-disk"), at(pair[1], "cscs-disk")
    source.write(PATH, [WHOLE])

    def give_up(_done):
        raise Conflict("overtaken")

    with pytest.raises(Conflict, match="overtaken"):
        copied(mover(), source, PATH, target, OTHER, give_up)
    assert all_files(target) == {}
    assert incoming(target) == []


@needs_client
def test_a_target_killed_in_the_middle_is_unavailable_and_the_next_try_arrives(pair):
    with xrootd(tpc=True) as server:
        source, target = at(pair[0], "pic-disk"), at(server, "cscs-disk")
        big_one(pair[0].data / source.root.rpartition("/")[2])
        with as_soon_as_it_arrives(server.data, server.kill), pytest.raises(Unavailable, match="broke off"):
            copied(mover(), source, "/big", target, OTHER, ignore)
        server.start()
        assert all_files(target) == {}
        assert copied(mover(), source, "/big", target, OTHER, ignore).size == BIG
        assert all_files(target) == {OTHER: BIG}


@needs_client
def test_a_target_that_does_not_answer_any_more_is_unavailable_in_time(pair):
    with xrootd(tpc=True) as server:
        source, target = at(pair[0], "pic-disk"), at(server, "cscs-disk")
        big_one(pair[0].data / source.root.rpartition("/")[2])
        began = time.monotonic()
        with (
            as_soon_as_it_arrives(server.data, lambda: server.signal(signal.SIGSTOP)),
            pytest.raises(Unavailable, match="stood still at byte 0 for 2 s"),
        ):
            copied(mover(patience=2), source, "/big", target, OTHER, ignore)
        took_less_than(10, began)
        server.signal(signal.SIGCONT)
        assert set(all_files(target)) <= {OTHER}, "under the name of this attempt at most"


# --- WebDAV ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def davs():
    """Two servers that make third-party copies."""
    with xrdhttp(None, tpc=True) as one, xrdhttp(None, tpc=True) as two:
        yield one, two


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server that makes none."""
    with nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


def dav(server, name, host="127.0.0.1"):
    root = f"{server.url}/{uuid4().hex}"
    assert httpx.request("MKCOL", f"{root}/").status_code == 201
    return SeenWebdav(name, root.replace("127.0.0.1", host))


@pytest.mark.feature("S3-091")
def test_between_webdav_servers_the_bytes_do_not_pass_through_us(davs):
    source, target = dav(davs[0], "pic-dav"), dav(davs[1], "cscs-dav")
    source.write(PATH, [WHOLE])
    source.asked.clear()
    told: list[int] = []
    assert copied(mover(), source, PATH, target, OTHER, told.append) == fixity_of([WHOLE])
    assert "open" not in source.asked
    assert "write" not in target.asked
    assert told == sorted(told)
    assert told[-1] == len(WHOLE)
    assert all_files(target) == {OTHER: len(WHOLE)}
    assert incoming(target) == []


@pytest.mark.parametrize("make", [nginx, rclone, xrdhttp], ids=lambda make: make.__name__)
def test_a_source_pushes_to_a_target_that_cannot_pull(davs, tmp_path, make):
    with make(tmp_path) as server:
        source, target = dav(davs[0], "pic-dav", "localhost"), dav(server, "far-dav")
        source.write(PATH, [WHOLE])
        assert copied(mover(), source, PATH, target, OTHER, ignore) == fixity_of([WHOLE])
        assert "write" not in target.asked
        assert all_files(target) == {OTHER: len(WHOLE)}
        assert incoming(target) == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_between_servers_that_cannot_it_is_streamed_and_not_asked_again_for_a_while(plain, tmp_path, host):
    with rclone(tmp_path) as server:
        source, target, one = dav(plain, "pic-dav"), dav(server, "far-dav", host), mover()
        source.write(PATH, [WHOLE])
        for asked in (True, False):
            source.asked.clear()
            target.asked.clear()
            assert copied(one, source, PATH, target, OTHER, ignore) == fixity_of([WHOLE])
            assert "write" in target.asked
            # Both are asked for their names, to see whether one may be taken for the other.
            assert (source.asked.count("address") > 1) == asked
        assert all_files(source) == {PATH: len(WHOLE)}
        assert incoming(source) == []  # nginx made no copy at a place of its own
        assert all_files(target) == {OTHER: len(WHOLE)}


def test_a_source_that_is_not_there_is_not_found_by_webdav(davs):
    source, target = dav(davs[0], "pic-dav"), dav(davs[1], "cscs-dav")
    with pytest.raises(NotFound, match="pic-dav has no file"):
        copied(mover(), source, PATH, target, OTHER, ignore)
    assert all_files(target) == {}


def test_a_webdav_target_killed_in_the_middle_is_unavailable(davs):
    with xrdhttp(None, tpc=True) as server:
        source, target = dav(davs[0], "pic-dav"), dav(server, "cscs-dav")
        big_one(davs[0].data / source.address("/big").split("/")[-2])
        with (
            as_soon_as_it_arrives(server.data, server.kill),
            pytest.raises(Unavailable, match="the connection was lost"),
        ):
            copied(mover(), source, "/big", target, OTHER, ignore)
        left = [path for path in server.data.rglob("*") if path.is_file()]
        assert all(path.name == OTHER.rpartition("/")[2] for path in left), "under the name of this attempt at most"


# --- a server that is not to be trusted --------------------------------------------------------------------
class Fake:
    """A WebDAV server's files; answers COPY as a test tells it, and may refuse what we ask ourselves."""

    def __init__(self, server, copying=lambda fake, asked: (405, {}, b"")):
        self.files: dict[str, bytes] = {}
        self.asked = server.asked
        self.copying = copying
        self.refuses: set[str] = set()
        server.answer = self.answer

    def answer(self, asked):
        path = unquote(urlsplit(asked.path).path).rstrip("/")
        if asked.method in self.refuses and asked.headers.get("User-Agent") == "lightkeeper":
            return 403, {}, b""
        return getattr(self, f"on_{asked.method.lower()}")(asked, path)

    def on_propfind(self, _asked, path):
        here = path in self.files
        if not here and path != "/base" and ".lightkeeper" not in path.rpartition("/")[0][:-1]:
            return 404, {}, b""
        if not here and re.search(r"incoming/.", path):
            return 404, {}, b""
        kind = f"<D:getcontentlength>{len(self.files[path])}</D:getcontentlength>" if here else ""
        kind += "<D:resourcetype/>" if here else "<D:resourcetype><D:collection/></D:resourcetype>"
        told = f"<D:response><D:href>{path}</D:href><D:propstat><D:prop>{kind}</D:prop>"
        told += "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        return 207, {}, f'<D:multistatus xmlns:D="DAV:">{told}</D:multistatus>'.encode()

    def on_mkcol(self, _asked, _path):
        return 201, {}, b""

    def on_get(self, _asked, path):
        return (200, {}, self.files[path]) if path in self.files else (404, {}, b"")

    on_head = on_get

    def on_put(self, asked, path):
        self.files[path] = asked.body
        return 201, {}, b""

    def on_delete(self, _asked, path):
        return (204 if self.files.pop(path, None) is not None else 404), {}, b""

    def on_move(self, asked, path):
        self.files[unquote(urlsplit(asked.headers["Destination"]).path)] = self.files.pop(path)
        return 201, {}, b""

    def on_copy(self, asked, _path):
        return self.copying(self, asked)

    def copies(self):
        return [asked for asked in self.asked if asked.method == "COPY"]


@pytest.fixture
def fakes():
    with hostile() as one, hostile() as two:
        source, target = Fake(one), Fake(two)
        source.files["/base/file"] = WHOLE
        yield source, target, WebdavStorage("pic-dav", f"{one.url}/base"), WebdavStorage("cscs-dav", f"{two.url}/base")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Sets the credentials of storages."""

    def tell(**entries):
        file = tmp_path / "credentials.yaml"
        file.touch(mode=0o600)
        file.write_text("".join(f"{name.replace('_', '-')}: {entry}\n" for name, entry in entries.items()))
        monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(file))

    for name in ("source", "target"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(f"{name}-token-{uuid4().hex}")
    tell.file = lambda name: tmp_path / name
    tell.token = lambda name: (tmp_path / name).read_text()
    return tell


def markers(*done):
    return "".join(
        f"Perf Marker\n    Timestamp: 1537788010\n    Stripe Index: {index}\n    Stripe Bytes Transferred: {count}\n"
        f"    Total Stripe Count: 2\nEnd\n"
        for index, count in done
    ).encode()


def made(fake, asked, body):
    fake.files[asked.path] = WHOLE
    return 202, {}, body


def test_a_source_that_refuses_us_is_read_by_the_other_server_with_the_token_it_was_handed(davs, fakes, told):
    source_fake, _, source, _ = fakes
    told(pic_dav=f"{{token_file: {told.file('source')}}}")
    source_fake.refuses = {"GET", "HEAD"}
    target = dav(davs[1], "cscs-dav")
    assert copied(mover(), source, "/file", target, OTHER, ignore) == fixity_of([WHOLE])
    gets = [asked for asked in source_fake.asked if asked.method == "GET"]
    assert gets
    for get in gets:
        assert get.headers["User-Agent"].startswith("xrootd-tpc")
        assert get.headers["Authorization"] == f"Bearer {told.token('source')}"


def test_each_server_is_shown_its_own_token_and_told_the_others_apart(fakes, told):
    _, target_fake, source, target = fakes
    told(pic_dav=f"{{token_file: {told.file('source')}}}", cscs_dav=f"{{token_file: {told.file('target')}}}")
    target_fake.copying = lambda fake, asked: made(fake, asked, markers((0, 5)) + b"success: Created")
    assert copied(mover(), source, "/file", target, "/copy", ignore) == fixity_of([WHOLE])
    (copy,) = target_fake.copies()
    assert copy.headers["Authorization"] == f"Bearer {told.token('target')}"
    shown = {key.lower(): value for key, value in copy.headers.items()}
    assert shown["transferheaderauthorization"] == f"Bearer {told.token('source')}"
    assert shown["source"] == source.address("/file")
    assert (shown["overwrite"], shown["credential"], shown["requirechecksumverification"]) == ("T", "none", "false")


def test_a_password_is_handed_to_nobody(fakes, told):
    _, target_fake, source, target = fakes
    told(pic_dav="{user: lightkeeper, password: secret-word}")
    target_fake.copying = lambda fake, asked: made(fake, asked, b"success: Created")
    assert copied(mover(), source, "/file", target, "/copy", ignore) == fixity_of([WHOLE])
    assert target_fake.copies() == []


def test_progress_adds_up_what_the_stripes_tell(fakes):
    _, target_fake, source, target = fakes
    body = markers((0, 100), (1, 50), (0, 100), (0, 300))
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    target_fake.copying = lambda fake, asked: made(fake, asked, [*pieces, b"success: ", b"Created\n"])
    done: list[int] = []
    copied(mover(), source, "/file", target, "/copy", done.append)
    assert done == [100, 150, 350, len(WHOLE)]


def test_a_server_that_stalls_after_its_answer_is_unavailable_within_the_limit(fakes):
    _, target_fake, source, target = fakes
    over = threading.Event()

    def body():
        yield markers((0, 100))
        over.wait(20)

    target_fake.copying = lambda fake, asked: (202, {}, body())
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        copied(mover(patience=1), source, "/file", target, "/copy", ignore)
    took_less_than(5, began)
    over.set()
    assert target_fake.files == {}


@pytest.mark.parametrize("word", [markers((0, 100)), b"waiting\n", b"x" * 500], ids=["marker", "line", "no-line"])
def test_a_server_that_talks_without_moving_is_unavailable_within_the_limit(fakes, word):
    _, target_fake, source, target = fakes
    over = threading.Event()

    def body():
        while not over.wait(0.05):
            yield word

    target_fake.copying = lambda fake, asked: (202, {}, body())
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"stood still at byte (100|0) for 1 s"):
        copied(mover(patience=1), source, "/file", target, "/copy", ignore)
    took_less_than(5, began)
    over.set()


def test_a_server_that_breaks_off_in_the_middle_is_unavailable(fakes):
    _, target_fake, source, target = fakes
    target_fake.copying = lambda fake, asked: (202, {}, [markers((0, 100))])
    one = mover()
    with pytest.raises(Unavailable, match="ended without saying how"):
        copied(one, source, "/file", target, "/copy", ignore)
    assert target_fake.files == {}
    assert copied(one, source, "/file", target, "/copy", ignore) == fixity_of([WHOLE])
    assert len(target_fake.copies()) == 1  # the next try is a stream


@pytest.mark.parametrize(
    ("lie", "asked"),
    [
        (lambda fake, asked: (201, {}, b"success: Created\n"), 1),
        (lambda fake, asked: (204, {}, b""), 1),
        (lambda fake, asked: fake.files.update({asked.path: WHOLE[:-1]}) or (201, {}, b"success: Created\n"), 1),
        (lambda fake, asked: (200, {}, b"<html>welcome</html>"), 1),
        (lambda fake, asked: (202, {}, b"failure: no space\nsuccess: Created\n"), 1),
        (lambda fake, asked: (307, {"Location": "https://elsewhere/"}, b""), 1),
        (lambda fake, asked: None, 2),  # cut off, so asked once more
    ],
    ids=["nothing", "nothing-204", "short", "page", "failure", "elsewhere", "cut"],
)
def test_a_copy_that_is_not_there_is_not_accepted_and_made_as_a_stream(fakes, lie, asked):
    _, target_fake, source, target = fakes
    target_fake.copying = lie
    one = mover()
    for _ in range(2):
        assert copied(one, source, "/file", target, "/copy", ignore) == fixity_of([WHOLE])
        assert {path: len(whole) for path, whole in target_fake.files.items()} == {"/base/copy": len(WHOLE)}
    assert len(target_fake.copies()) == asked


def test_a_token_that_a_server_quotes_is_in_no_error(fakes, told):
    _, target_fake, source, target = fakes
    told(pic_dav=f"{{token_file: {told.file('source')}}}", cscs_dav=f"{{token_file: {told.file('target')}}}")
    secrets = f"{told.token('source')} {told.token('target')}"
    quoted = f"Bearer {secrets}".encode()
    answers = [
        (403, {}, quoted),
        (202, {}, b"failure: " + quoted),
        (202, {}, [markers((0, 1)) + quoted]),
        (307, {"Location": f"https://elsewhere/{secrets.split()[0]}"}, b""),
    ]
    target_fake.refuses = {"PUT"}
    for answer in answers:
        target_fake.copying = lambda fake, asked, answer=answer: answer
        with pytest.raises(LightkeeperError) as caught:
            copied(mover(patience=1), source, "/file", target, "/copy", ignore)
        error: BaseException | None = caught.value
        while error is not None:
            assert not [word for word in secrets.split() if word in f"{error!r} {error} {vars(error)}"]
            error = error.__cause__ or error.__context__


def test_a_failure_of_both_ways_is_told_as_the_stream_finds_it_and_nothing_is_remembered(fakes):
    _, target_fake, source, target = fakes
    target_fake.refuses = {"PUT"}
    one = mover()
    for number in (1, 2):
        with pytest.raises(Refused, match="answers 403"):
            copied(one, source, "/file", target, "/copy", ignore)
        assert len(target_fake.copies()) == number


def test_what_cannot_be_read_back_is_not_left_there(fakes):
    _, target_fake, source, target = fakes
    target_fake.copying = lambda fake, asked: made(fake, asked, b"success: Created")
    target_fake.refuses = {"GET"}
    with pytest.raises(Refused, match="cscs-dav cannot read"):
        copied(mover(), source, "/file", target, "/copy", ignore)
    assert target_fake.files == {}


@pytest.mark.parametrize("at_call", [1, 2])
def test_a_caller_that_gives_up_leaves_nothing(fakes, at_call):
    _, target_fake, source, target = fakes
    target_fake.copying = lambda fake, asked: made(fake, asked, markers((0, 100)) + b"success: Created")
    done: list[int] = []

    def give_up(count):
        done.append(count)
        if len(done) == at_call:
            raise Conflict("overtaken")

    with pytest.raises(Conflict, match="overtaken"):
        copied(mover(), source, "/file", target, "/copy", give_up)
    assert target_fake.files == {}
