"""Bytes are put and fetched: through the real API, on real disks, with everything that may come in between."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pytest
import uvicorn
from tests.conftest import World

from lightkeeper import content as client_side
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.api import make_api
from lightkeeper.client import Client
from lightkeeper.content import Progress, get, put
from lightkeeper.domain.errors import (
    Conflict,
    Corrupt,
    Invalid,
    LightkeeperError,
    NotFound,
    Refused,
    Unavailable,
)
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.states import File
from lightkeeper.steps import audit, content, heal
from lightkeeper.store import changes, promotion

META = {"level": 3, "night": "2030-01-02"}


@pytest.fixture
def serve() -> Iterator[Callable[[World], Client]]:
    """Serves a world over HTTP, with its operator as client."""
    ends: list[Callable[[], object]] = []

    def start(world: World) -> Client:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            make_api(world.ctx, "token"), log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "token")

        def stop() -> None:
            client.__exit__()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

        ends.append(stop)
        return client

    yield start
    for end in ends:
        end()


@pytest.fixture
def api(world: World, serve: Callable[[World], Client]) -> Client:
    return serve(world)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def arrivals(world: World) -> list[Path]:
    return [p for p in world.root.glob("*/.lightkeeper/*/**/*") if p.is_file()]


@dataclass
class Counting(Progress):
    """How many bytes really came."""

    bytes: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def more(self, name: str, size: int) -> None:
        with self.lock:
            self.bytes += max(size, 0)


class Watched(PosixStorage):
    """A storage that tells what is read from it, and fails when it is told to."""

    opened: ClassVar[list[tuple[str, str]]] = []
    fail_after: ClassVar[dict[str, int]] = {}

    def open(self, path: str) -> BinaryIO:
        self.opened.append((self.name, path))
        file = super().open(path)
        return Failing(file, self.fail_after[self.name]) if self.name in self.fail_after else file  # type: ignore[return-value]


class Failing:
    """A file whose medium gives up after so many bytes."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file, self.left = file, left

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise OSError(5, "Input/output error")
        return self.file.read(size)

    def seek(self, start: int) -> int:
        return self.file.seek(start)

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def watched(world: World) -> Iterator[World]:
    Watched.opened.clear()
    Watched.fail_after.clear()
    yield world.having(storage_drivers={"posix": Watched})
    Watched.fail_after.clear()


# --- put then get --------------------------------------------------------------------------------------------------
@pytest.mark.feature("S4-030", "S3-073")
def test_what_was_put_is_got_byte_for_byte(world: World, api: Client, local: Path):
    paths = [written(local / f"f{n}.dat", noise(n * 700_001, n)) for n in range(4)]  # the first is empty
    stored = put(api, paths, "/vo/scope/dir", at="north", meta=META)
    assert [d.state for d in stored.done] == ["put"] * 4
    got = get(api, [d.name for d in stored.done], local / "back")
    assert [d.state for d in got.done] == ["loaded"] * 4
    for path in paths:
        assert (local / "back" / path.name).read_bytes() == path.read_bytes()
    assert arrivals(world) == []
    assert list((local / "back").glob("*.incomplete")) == []


@pytest.mark.feature("S4-026")
def test_a_file_that_was_put_has_metadata_provenance_and_gets_the_copies_it_is_owed(
    world: World, api: Client, local: Path
):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META | {"number": 7})
    (file,) = world.files()
    assert file.meta == META | {"number": 7}
    assert world.value("SELECT name FROM activity WHERE activity_id = %s", file.activity_id) == "put"
    world.settle()
    assert sorted(world.copies("/vo/scope/a.dat").values()) == ["Available", "Available"]


@pytest.mark.feature("S4-025")
def test_a_file_that_was_put_is_found_by_name_and_by_what_it_is(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    assert [f["lfn"] for f in api.find("level = 3")] == ["/vo/scope/a.dat"]
    assert api.file_facts("/vo/scope/a.dat")["meta"] == META


def test_putting_again_changes_nothing_and_sends_nothing(world: World, api: Client, local: Path):
    path = written(local / "a.dat", noise(3_000_000))
    put(api, [path], "/vo/scope", at="north", meta=META)
    counting = Counting()
    again = put(api, [path], "/vo/scope", at="north", meta=META, progress=counting)
    assert [d.state for d in again.done] == ["there"]
    assert counting.bytes == 0
    assert world.value("SELECT count(*) FROM activity WHERE name = 'put'") == 1


def test_putting_at_another_storage_adds_a_copy(world: World, api: Client, local: Path):
    path = written(local / "a.dat", b"light")
    put(api, [path], "/vo/scope", at="north", meta=META)
    put(api, [path], "/vo/scope", at="east", meta=META)
    assert world.copies("/vo/scope/a.dat") == {"north": "Available", "east": "Available"}


def test_another_content_under_a_known_name_is_refused_before_and_after_its_bytes_came(
    world: World, api: Client, local: Path
):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    other = put(api, [written(local / "x/a.dat", b"dark!")], "/vo/scope", at="north", meta=META)
    assert isinstance(other.failed[0].error, Conflict)
    big = noise(30_000_000)
    for sha256 in (hashlib.sha256(big).hexdigest(), ""):
        params = {"sha256": sha256} if sha256 else {}
        answer = api._http.put(  # without asking first, as a stranger would
            "/api/v1/files/content", params={"lfn": "/vo/scope/a.dat", "at": "east"} | params, content=big
        )
        assert answer.status_code == 409
    assert (world.root / "north/vo/scope/a.dat").read_bytes() == b"light"
    assert not (world.root / "east/vo/scope/a.dat").exists()
    assert arrivals(world) == []


def test_what_cannot_be_is_refused_before_the_bytes(world: World, api: Client, local: Path):
    path = written(local / "a.dat", noise(2_000_000))
    counting = Counting()

    def refused(kind: type[LightkeeperError], match: str, at: str = "north", meta: dict[str, Any] = META) -> None:
        with pytest.raises(kind, match=match):
            put(api, [path], "/vo/scope", at=at, meta=meta, progress=counting)

    refused(Invalid, "unknown metadata key 'levl'", meta={"levl": 3})
    refused(Invalid, "is of type int", meta={"level": "three"})
    refused(NotFound, "storage 'nroth' does not exist", at="nroth")
    refused(Refused, "takes deliveries", at="mountain")
    world.value("UPDATE storage SET enabled = false WHERE name = 'east'")
    refused(Refused, "is given up", at="east")
    bad = put(api, [path], "/vo/sc ope", at="north", meta=META, progress=counting)
    assert isinstance(bad.failed[0].error, Invalid)
    with Client(api.url) as stranger, pytest.raises(Refused, match="operator"):
        put(stranger, [path], "/vo/scope", at="north", meta=META)
    with Client(api.url) as stranger, pytest.raises(Refused, match="operator"):
        stranger.put_content("/vo/scope/a.dat", "north", [b"light"], 5, hashlib.sha256(b"light").hexdigest(), META)
    with pytest.raises(Invalid, match="the metadata must be a map"):
        api.put_content("/vo/scope/a.dat", "north", [b"light"], 5, "0" * 64, [])  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="is no sha256"):
        api.put_content("/vo/scope/a.dat", "north", [b"light"], 5, "0" * 63, META)
    assert counting.bytes == 0
    assert world.files() == []


def test_bytes_that_changed_on_the_way_are_not_kept(world: World, api: Client):
    with pytest.raises(Corrupt, match="arrived with sha256"):
        api.put_content("/vo/scope/a.dat", "north", [b"light"], 5, hashlib.sha256(b"night").hexdigest(), META)
    assert world.files() == []
    assert arrivals(world) == []


def test_a_sender_that_leaves_in_the_middle_leaves_nothing(world: World, api: Client):
    def half() -> Iterator[bytes]:
        yield noise(2_000_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.put_content("/vo/scope/a.dat", "north", half(), 9_000_000, "0" * 64, META)
    deadline = time.monotonic() + 10
    while arrivals(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert arrivals(world) == []
    assert world.files() == []


def test_a_server_that_stops_does_not_wait_for_a_sender_that_says_nothing(
    world: World, serve: Callable[[World], Client]
):
    address = serve(world).url.removeprefix("http://").split(":")
    quiet = socket.create_connection((address[0], int(address[1])))
    quiet.sendall(
        b"PUT /api/v1/files/content?lfn=/vo/scope/a&at=north HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer token\r\nContent-Length: 1000000\r\n\r\n" + bytes(500)
    )
    time.sleep(0.3)  # the fixture ends the server now, and says when that takes too long


# --- one name, one content -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("storages", [("north", "north"), ("north", "east")])
def test_of_two_contents_put_under_one_name_at_once_one_is_registered_and_whole(
    world: World, api: Client, local: Path, storages: tuple[str, str]
):
    for n in range(8):
        contents = [noise(300_000, 2 * n), noise(300_000, 2 * n + 1)]
        paths = [written(local / str(i) / f"a{n}.dat", contents[i]) for i in (0, 1)]
        begin = threading.Barrier(2)

        def send(i: int, paths: list[Path] = paths, begin: threading.Barrier = begin) -> client_side.Outcome:
            begin.wait()
            return put(api, [paths[i]], "/vo/scope", at=storages[i], meta=META)

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(send, (0, 1)))
        done = [i for i in (0, 1) if outcomes[i].done]
        assert len(done) == 1
        assert all(isinstance(f.error, Conflict) for o in outcomes for f in o.failed)
        lies = world.root / storages[done[0]] / f"vo/scope/a{n}.dat"
        assert lies.read_bytes() == contents[done[0]]
    assert arrivals(world) == []


def test_a_put_that_another_put_overtakes_is_refused_and_leaves_the_other_alone(world: World):
    """Every moment at which the slower one may find out: while its bytes come, and under the lock of the name."""

    def overtaken() -> Iterator[bytes]:
        yield b"dark"
        content.put(world.ctx, content.Wanted("/vo/scope/a.dat", "north", META), [b"light"])

    for at in ("north", "east"):
        with pytest.raises(Conflict, match="registered already"):
            content.put(world.ctx, content.Wanted("/vo/scope/a.dat", at, META), overtaken())
    assert (world.root / "north/vo/scope/a.dat").read_bytes() == b"light"
    assert world.copies("/vo/scope/a.dat") == {"north": "Available"}
    assert arrivals(world) == []


def test_a_name_that_somebody_is_promoting_is_waited_for(world: World):
    """Jobs' outputs and puts hold the name: whoever comes second sees what the first registered."""
    wanted = content.Wanted("/vo/scope/a.dat", "north", META)
    with ThreadPoolExecutor(1) as pool:
        with world.ctx.db.transaction() as conn:
            promotion.hold_names(conn, [parse_lfn("/vo/scope/a.dat")])
            late = pool.submit(content.put, world.ctx, wanted, [b"light"])
            with pytest.raises(TimeoutError):
                late.result(0.5)
            assert not (world.root / "north/vo/scope/a.dat").exists()
        assert late.result(10).state is content.Put.NEW


def test_a_delivery_of_the_same_name_that_comes_first_wins(world: World):
    def overtaken() -> Iterator[bytes]:
        yield b'{"level": 3}\ndark'
        world.deliver("/vo/scope/a.plain", "light")
        world.ingest()

    with pytest.raises(Conflict, match="registered already"):
        content.put(world.ctx, content.Wanted("/vo/scope/a.plain", "north", META), overtaken())
    assert world.copies("/vo/scope/a.plain") == {"mountain": "Available"}


def test_many_puts_of_the_same_content_at_once_all_succeed(world: World, api: Client, local: Path):
    path = written(local / "a.dat", noise(300_000))
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: put(api, [path], "/vo/scope", at="north", meta=META), range(8)))
    assert [o.failed for o in outcomes] == [[]] * 8
    assert world.value("SELECT count(*) FROM file") == 1


class Stop(BaseException):
    """The machine dies here."""


class Dying(PosixStorage):
    """A storage of a machine that dies before, or just after, bytes get their name."""

    when = ""

    def rename(self, source: str, target: str) -> None:
        if self.when == "before":
            raise Stop
        super().rename(source, target)
        if self.when == "after":
            raise Stop

    def delete(self, path: str) -> bool:
        return super().delete(path) if not self.when else False


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_put_that_was_killed_breaks_nothing_and_completes_when_repeated(
    world: World, when: str, monkeypatch: pytest.MonkeyPatch
):
    dying = world.having(storage_drivers={"posix": Dying}).ctx
    wanted = content.Wanted("/vo/scope/a.dat", "north", META)
    monkeypatch.setattr(Dying, "when", when)
    with pytest.raises(Stop):
        content.put(dying, wanted, [b"light"])
    assert world.violations() == []
    assert world.files() == []
    left = arrivals(world)
    assert len(left) == (1 if when == "before" else 0)
    for path in left:  # as old as what heal clears
        os.utime(path, (1, 1))
    heal.clear_temporaries(world.ctx)
    assert arrivals(world) == []
    if when == "after":
        with pytest.raises(Conflict, match="the catalogue does not know"):
            content.put(world.ctx, wanted, [b"dark"])
        assert (world.root / "north/vo/scope/a.dat").read_bytes() == b"light"
    monkeypatch.setattr(Dying, "when", "")
    assert content.put(dying, wanted, [b"light"]).state is content.Put.NEW
    assert content.put(dying, wanted, [b"light"]).state is content.Put.KNOWN
    assert world.copies("/vo/scope/a.dat") == {"north": "Available"}


def test_a_server_killed_in_a_put_leaves_nothing_that_a_repeat_does_not_mend(
    world: World, database_url: str, tmp_path: Path
):
    """kill -9 at many moments; the same put is then made again."""
    path = written(tmp_path / "a.dat", noise(20_000_000))
    for n in range(6):
        lfn = f"/vo/scope/a{n}.dat"
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from lightkeeper.store.db import Database\n"
            "from lightkeeper.adapters.storage_posix import PosixStorage\n"
            "from lightkeeper.context import Context\n"
            "from lightkeeper.settings import Settings\n"
            "from lightkeeper.steps import content\n"
            "from lightkeeper.domain.fixity import chunks_of\n"
            "from tests.conftest import SilentLog\n"
            "url, path, lfn = sys.argv[1:]\n"
            "ctx = Context(Database(url).open(), Settings(home=Path('.')), SilentLog(), {'posix': PosixStorage}, None,"
            " {}, ())\n"
            "print('begins', flush=True)\n"
            "content.put(ctx, content.Wanted(lfn, 'north', {'level': 3}), chunks_of(open(path, 'rb')))\n"
            "print('done', flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, database_url, str(path), lfn],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout and process.stdout.readline() == "begins\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.03 * n)
        process.kill()
        process.communicate()
        assert world.violations() == []
        with path.open("rb") as file:
            content.put(world.ctx, content.Wanted(lfn, "north", {"level": 3}), iter(lambda: file.read(1 << 20), b""))
        assert world.copies(lfn) == {"north": "Available"}


def test_a_file_that_nobody_knows_is_not_overwritten(world: World, api: Client, local: Path):
    stray = written(world.root / "north/vo/scope/a.dat", b"somebody's")
    outcome = put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    assert isinstance(outcome.failed[0].error, Conflict)
    assert "does not know" in outcome.failed[0].error.message
    assert stray.read_bytes() == b"somebody's"
    assert world.files() == []
    same = put(api, [written(local / "a.dat", b"somebody's")], "/vo/scope", at="north", meta=META)
    assert [d.state for d in same.done] == ["put"]


def test_a_copy_that_was_lost_is_put_back(world: World, api: Client, local: Path):
    path = written(local / "a.dat", b"light")
    put(api, [path], "/vo/scope", at="north", meta=META)
    written(world.root / "north/vo/scope/a.dat", b"rotten")
    world.value("INSERT INTO recheck SELECT file_id, storage_id FROM replica")
    audit.recheck(world.ctx)
    assert world.copies("/vo/scope/a.dat") == {"north": "Lost"}
    put(api, [path], "/vo/scope", at="north", meta=META)
    assert world.copies("/vo/scope/a.dat") == {"north": "Available"}


def test_a_copy_that_is_being_deleted_is_not_put_back_meanwhile(world: World, api: Client, local: Path):
    path = written(local / "a.dat", b"light")
    put(api, [path], "/vo/scope", at="north", meta=META)
    put(api, [path], "/vo/scope", at="east", meta=META)
    world.value("UPDATE replica SET state = 'Deleting' WHERE storage_id = (SELECT storage_id FROM storage s "
                "WHERE s.name = 'north')")  # fmt: skip
    with pytest.raises(Unavailable, match="is being deleted"):
        content.put(world.ctx, content.Wanted("/vo/scope/a.dat", "north", META), [b"light"])
    world.value("UPDATE replica SET state = 'Available'")


def test_a_file_that_was_removed_is_there_again_when_it_is_put_even_before_its_copies_went(
    world: World, api: Client, local: Path
):
    path = written(local / "a.dat", b"light")
    put(api, [path], "/vo/scope", at="north", meta=META)
    with world.ctx.db.transaction() as conn:
        changes.move_files(conn, [world.files()[0].file_id], File.CURRENT, File.REMOVED, "not wanted any more")
    assert list(api.find("level = 3")) == []
    assert [d.state for d in put(api, [path], "/vo/scope", at="north", meta=META).done] == ["put"]
    assert len(list(api.find("level = 3"))) == 1


# --- get -----------------------------------------------------------------------------------------------------------
def test_a_get_that_broke_off_loads_only_the_rest(watched: World, serve: Callable[[World], Client], local: Path):
    api = serve(watched)
    data = noise(8 << 20)
    put(api, [written(local / "a.dat", data)], "/vo/scope", at="north", meta=META)
    written(local / "back/a.dat.incomplete", data[: 5 << 20])
    counting = Counting()
    outcome = get(api, ["/vo/scope/a.dat"], local / "back", progress=counting)
    assert outcome.failed == []
    assert counting.bytes == 3 << 20
    assert (local / "back/a.dat").read_bytes() == data


def test_a_part_with_other_bytes_is_thrown_away_and_blamed_on_nobody(world: World, api: Client, local: Path):
    data = noise(3 << 20)
    put(api, [written(local / "a.dat", data)], "/vo/scope", at="north", meta=META)
    for part in (bytes(2 << 20), data + b"more", bytes(3 << 20), data):
        written(local / "back/a.dat.incomplete", part)
        assert get(api, ["/vo/scope/a.dat"], local / "back").failed == []
        assert (local / "back/a.dat").read_bytes() == data
        (local / "back/a.dat").unlink()
    assert world.value("SELECT count(*) FROM recheck") == 0


def test_a_rotten_copy_is_not_delivered_and_is_read_again(world: World, api: Client, local: Path):
    data = noise(3 << 20)
    path = written(local / "a.dat", data)
    for storage in ("north", "east", "south"):
        put(api, [path], "/vo/scope", at=storage, meta=META)
    good = api.file_facts("/vo/scope/a.dat")
    with api.open_content("/vo/scope/a.dat") as opened:
        first = opened.storage
    written(world.root / first / "vo/scope/a.dat", data[:-1] + bytes([data[-1] ^ 1]))
    outcome = get(api, ["/vo/scope/a.dat"], local / "back")
    assert [d.state for d in outcome.done] == ["loaded"]
    assert hashlib.sha256((local / "back/a.dat").read_bytes()).hexdigest() == good["sha256"]
    assert audit.recheck(world.ctx) == 1
    assert world.copies("/vo/scope/a.dat")[first] == "Lost"


def test_when_every_copy_is_rotten_nothing_is_delivered_and_the_error_names_them(
    world: World, api: Client, local: Path
):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    written(world.root / "north/vo/scope/a.dat", b"night")
    outcome = get(api, ["/vo/scope/a.dat"], local / "back")
    assert isinstance(outcome.failed[0].error, Corrupt)
    assert "north" in outcome.failed[0].error.message
    assert list((local / "back").iterdir()) == []
    written(world.root / "north/vo/scope/a.dat", b"light")


def test_a_copy_whose_medium_fails_in_the_middle_breaks_the_connection_and_counts_no_more(
    watched: World, serve: Callable[[World], Client], local: Path
):
    api = serve(watched)
    data = noise(6 << 20)
    path = written(local / "a.dat", data)
    put(api, [path], "/vo/scope", at="north", meta=META)
    put(api, [path], "/vo/scope", at="east", meta=META)
    Watched.fail_after["north"] = 3 << 20
    received = 0
    with pytest.raises(Unavailable, match="broke off"), api.open_content("/vo/scope/a.dat", at="north") as opened:
        for chunk in opened.chunks:
            received += len(chunk)
    assert received < 6 << 20
    assert watched.copies("/vo/scope/a.dat")["north"] == "Suspect"
    watched.value("UPDATE replica SET state = 'Available'")
    counting = Counting()
    outcome = get(api, ["/vo/scope/a.dat"], local / "back", progress=counting)
    assert outcome.failed == []
    assert (local / "back/a.dat").read_bytes() == data
    assert counting.bytes == 6 << 20  # the other copy went on where the first broke off
    Watched.fail_after.clear()
    audit.recheck(watched.ctx)


def test_a_copy_that_is_gone_or_short_counts_no_more_and_the_next_is_read(world: World, api: Client, local: Path):
    path = written(local / "a.dat", b"light")
    for storage in ("north", "east", "south"):
        put(api, [path], "/vo/scope", at=storage, meta=META)
    (world.root / "north/vo/scope/a.dat").unlink()
    written(world.root / "east/vo/scope/a.dat", b"lig")
    for storage in ("north", "east"):
        with pytest.raises(Unavailable, match=f"{storage}: "), api.open_content("/vo/scope/a.dat", at=storage):
            pass
    with api.open_content("/vo/scope/a.dat") as opened:
        assert (opened.storage, b"".join(opened.chunks)) == ("south", b"light")
    audit.recheck(world.ctx)
    assert world.copies("/vo/scope/a.dat") == {"north": "Lost", "east": "Lost", "south": "Available"}
    with pytest.raises(NotFound, match="north: Lost"), api.open_content("/vo/scope/a.dat", not_at=["south"]):
        pass


def test_a_storage_that_does_not_answer_is_not_held_against_its_copies(world: World, api: Client, local: Path):
    path = written(local / "a.dat", b"light")
    put(api, [path], "/vo/scope", at="north", meta=META)
    put(api, [path], "/vo/scope", at="vault", meta=META)
    (world.root / "north").rename(world.root / "unmounted")
    with api.open_content("/vo/scope/a.dat") as opened:
        assert opened.storage == "vault"
    assert world.copies("/vo/scope/a.dat")["north"] == "Available"
    (world.root / "unmounted").rename(world.root / "north")


def test_ranges_are_answered_as_http_says(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"0123456789")], "/vo/scope", at="north", meta=META)

    def ask(value: str, lfn: str = "/vo/scope/a.dat") -> Any:
        return api._http.get("/api/v1/files/content", params={"lfn": lfn}, headers={"Range": value})

    whole = ask("")
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"0123456789", "10")
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["x-lightkeeper-storage"] == "north"
    assert whole.headers["x-lightkeeper-sha256"] == hashlib.sha256(b"0123456789").hexdigest()
    assert len(whole.headers["x-lightkeeper-adler32"]) == 8
    rest = ask("bytes=7-")
    assert (rest.status_code, rest.content, rest.headers["content-range"]) == (206, b"789", "bytes 7-9/10")
    beyond = ask("bytes=10-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    for other in ("bytes=2-4", "bytes=-3", "bytes=1-2,4-", "lines=1-", "bytes=" + "9" * 30 + "-"):
        assert ask(other).content == b"0123456789"  # a range that is not understood is left out
    assert ask("", "/vo/scope/b.dat").status_code == 404
    assert ask("", "../etc/passwd").status_code == 422


def test_a_local_file_is_compared_left_or_replaced_as_asked(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    back = local / "back"
    name = ["/vo/scope/a.dat"]
    assert get(api, name, back).done[0].state == "loaded"
    assert get(api, name, back).done[0].state == "there"
    written(back / "a.dat", b"mine!")
    assert isinstance(get(api, name, back).failed[0].error, Conflict)
    assert get(api, name, back, skip_existing=True).done[0].state == "there"
    assert (back / "a.dat").read_bytes() == b"mine!"
    assert get(api, name, back, overwrite=True).done[0].state == "loaded"
    assert (back / "a.dat").read_bytes() == b"light"


def test_two_names_for_one_local_file_are_refused_before_anything_is_loaded(world: World, api: Client, local: Path):
    for directory in ("/vo/one", "/vo/two"):
        put(api, [written(local / "a.dat", b"light")], directory, at="north", meta=META)
    both = ["/vo/one/a.dat", "/vo/two/a.dat"]
    with pytest.raises(Invalid, match="would be the same local file"):
        get(api, both, local / "back")
    with pytest.raises(Invalid, match="would be the same local file"):
        get(api, ["/vo/one/a.dat", "/vo/one/a.dat.incomplete"], local / "back")
    assert not (local / "back").exists()
    assert get(api, both, local / "back", tree=True).failed == []
    assert (local / "back/vo/two/a.dat").read_bytes() == b"light"


def test_nothing_is_written_through_a_link(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    secret = written(local / "secret", b"untouched")
    back = local / "back"
    back.mkdir()
    (back / "a.dat.incomplete").symlink_to(secret)
    assert isinstance(get(api, ["/vo/scope/a.dat"], back).failed[0].error, Refused)
    (back / "a.dat.incomplete").unlink()
    (back / "a.dat.incomplete").hardlink_to(secret)
    assert isinstance(get(api, ["/vo/scope/a.dat"], back).failed[0].error, Refused)
    (back / "a.dat.incomplete").unlink()
    (back / "a.dat").symlink_to(secret)
    assert isinstance(get(api, ["/vo/scope/a.dat"], back).failed[0].error, Conflict)
    assert get(api, ["/vo/scope/a.dat"], back, overwrite=True).failed == []
    assert not (back / "a.dat").is_symlink()
    (back / "vo").symlink_to(local)
    assert isinstance(get(api, ["/vo/scope/a.dat"], back, tree=True).failed[0].error, Refused)
    assert secret.read_bytes() == b"untouched"


def test_one_bad_file_does_not_stop_the_others(world: World, api: Client, local: Path):
    paths = [written(local / f"f{n:02}.dat", noise(20_000 + n, n)) for n in range(64)]
    sent = put(api, [*paths, local / "missing"], "/vo/scope", at="north", meta=META, parallel=16)
    assert len(sent.done) == 64
    assert isinstance(sent.failed[0].error, NotFound)
    names = [d.name for d in sent.done]
    assert names == sorted(names)
    outcome = get(api, [*names[:32], "/vo/scope/none.dat", "bad name", *names[32:]], local / "back", parallel=64)
    assert [d.name for d in outcome.done] == names
    assert {f.name: f.error.code for f in outcome.failed} == {"bad name": "invalid", "/vo/scope/none.dat": "not_found"}
    assert all((local / "back" / p.name).read_bytes() == p.read_bytes() for p in paths)
    assert len(list((local / "back").iterdir())) == 64


def test_an_interrupted_get_leaves_what_a_later_one_goes_on_with(world: World, api: Client, local: Path):
    data = noise(16 << 20)
    put(api, [written(local / "a.dat", data)], "/vo/scope", at="north", meta=META)

    class Enough(Counting):
        def more(self, name: str, size: int) -> None:
            super().more(name, size)
            if self.bytes > 4 << 20:
                raise KeyboardInterrupt

    first = Enough()
    with pytest.raises(KeyboardInterrupt):
        get(api, ["/vo/scope/a.dat"], local / "back", progress=first)
    part = (local / "back/a.dat.incomplete").stat().st_size
    assert 0 < part < 16 << 20
    second = Counting()
    get(api, ["/vo/scope/a.dat"], local / "back", progress=second)
    assert second.bytes == len(data) - part
    assert (local / "back/a.dat").read_bytes() == data


def test_folders_are_put_with_what_is_below_them(world: World, api: Client, local: Path):
    written(local / "night/raw/a.dat", b"light")
    written(local / "night/b.dat", b"dark")
    written(local / "night/.hidden", b"?")
    with pytest.raises(Invalid, match="is a folder"):
        put(api, [local / "night"], "/vo/scope", at="north", meta=META)
    planned = put(api, [local / "night"], "/vo/scope", at="north", meta=META, recursive=True, dry_run=True)
    assert [d.state for d in planned.done] == ["new", "new"]
    assert world.files() == []
    outcome = put(api, [local / "night"], "/vo/scope", at="north", meta=META, recursive=True)
    assert [d.name for d in outcome.done] == ["/vo/scope/night/b.dat", "/vo/scope/night/raw/a.dat"]
    assert [Path(f.name).name for f in outcome.failed] == [".hidden"]
    with pytest.raises(Invalid, match="would both be"):
        twice = [written(local / f"{n}/a.dat", b"x") for n in (1, 2)]
        put(api, twice, "/vo/scope", at="north", meta=META)


def test_only_the_operator_has_copies_read_again(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    with Client(api.url) as stranger, pytest.raises(Refused):
        stranger.suspect("/vo/scope/a.dat", "north", "I do not like it")
    for lfn, storage in (("/vo/scope/b.dat", "north"), ("/vo/scope/a.dat", "nowhere"), ("/vo/scope/a.dat", "east")):
        with pytest.raises(NotFound):
            api.suspect(lfn, storage, "it is not there")
    api.suspect("/vo/scope/a.dat", "north", "read as something else")
    assert audit.recheck(world.ctx) == 1
    assert world.copies("/vo/scope/a.dat") == {"north": "Available"}


def test_a_reader_without_a_token_may_get(world: World, api: Client, local: Path):
    put(api, [written(local / "a.dat", b"light")], "/vo/scope", at="north", meta=META)
    with Client(api.url) as stranger:
        assert get(stranger, ["/vo/scope/a.dat"], local / "back").failed == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_large_file_passes_in_constant_memory(world: World, api: Client, local: Path):
    """Server and client are one process here; the file is ten times what it may grow by."""
    large, small = local / "large.dat", written(local / "small.dat", noise(4 << 20))
    with large.open("wb") as file:
        file.truncate(300 << 20)
    put(api, [small], "/vo/scope", at="north", meta=META)
    get(api, ["/vo/scope/small.dat"], local / "back")
    before = resident()
    most = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert put(api, [large], "/vo/scope", at="north", meta=META).failed == []
        assert get(api, ["/vo/scope/large.dat"], local / "back").failed == []
    finally:
        done.set()
        watcher.join()
    assert (local / "back/large.dat").stat().st_size == 300 << 20
    assert most[0] - before < 30 << 20


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
