"""The tape storage: both suites on the shipped server, and what only tape does."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2 as httpx
import pytest

from lightkeeper.adapters.storage_tape_rest import TapeRestStorage
from lightkeeper.domain.errors import NotFound, Refused, Unavailable
from lightkeeper.ports import Locality, Staging
from lightkeeper.testing.storage_conformance import PATH, StorageConformance
from lightkeeper.testing.tape_conformance import FILES, LONG, TapeConformance, content, until
from lightkeeper.testing.tape_server import Machine, TapeServer

FAST = Machine(mount_seconds=0, file_seconds=0, migrate_after=0, bytes_per_second=1e12)


@contextmanager
def serving(folder, machine=FAST):
    with TapeServer(folder, machine) as server:
        yield server, TapeRestStorage("vault", server.root)


def to_tape(server, tape, paths):
    """Have these files on tape only."""
    until(lambda: all(where.on_tape for where in tape.localities(paths).values()))
    server.library.control({"drop": True})


class TestTape(TapeConformance):
    @pytest.fixture
    def tape(self, tmp_path):
        with serving(tmp_path) as (self.server, tape):
            yield tape

    def only_on_tape(self, tape, paths):
        to_tape(self.server, tape, paths)


class StagingFirst(TapeRestStorage):
    """Reads what lies on tape by staging it first, as the system does."""

    def open(self, path):
        for _ in range(100):
            try:
                return super().open(path)
            except Unavailable:  # Offline, or replaced by another writer and dropped while it was opened
                request = self.stage([path], timedelta(minutes=1))
                until(lambda r=request: all(s.state is not Staging.WAITING for s in self.staged(r).values()))
        raise AssertionError("it never stays")


class TestStorage(StorageConformance):
    """As a storage like any other, where every file leaves the buffer as soon as it is on tape, so that a read needs
    staging first."""

    @pytest.fixture
    def storage(self, tmp_path):
        machine = Machine(mount_seconds=0, file_seconds=0, migrate_after=0, bytes_per_second=1e12, keep=False)
        with serving(tmp_path, machine) as (self.server, tape):
            self.server.library.keep("/beside", self._file(tmp_path), 6, "00000000")
            yield StagingFirst("vault", tape._origin + "/tape")

    def _file(self, folder):
        (folder / "incoming" / "beside").write_bytes(b"beside")
        return folder / "incoming" / "beside"

    def surroundings(self, storage):
        return [dict(row)["path"] for row in self.server.library.members("/")[1]], self.server.library.members("/")[0]


@pytest.mark.nightly
class TestStorageWithARoomyBuffer(TestStorage):
    """The same while everything that is written lies in the buffer."""

    @pytest.fixture
    def storage(self, tmp_path):
        with serving(tmp_path, Machine(migrate_after=3600)) as (self.server, tape):
            self.server.library.keep("/beside", self._file(tmp_path), 6, "00000000")
            yield tape


# --- tape ------------------------------------------------------------------------------------------------------
def test_a_batch_mounts_each_cartridge_once_where_single_files_mount_them_again_and_again(tmp_path):
    machine = Machine(
        drives=1, mount_seconds=0.01, file_seconds=0, migrate_after=0, cartridge=300, bytes_per_second=1e12
    )
    paths = [f"/ctao/{n}" for n in range(9)]
    with serving(tmp_path, machine) as (server, tape):
        for path in paths:
            tape.write(path, [b"x" * 100])
        to_tape(server, tape, paths)
        scattered = [paths[n] for n in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
        before = server.library.statistics()["mounts"]
        for path in scattered:
            request = tape.stage([path], LONG)
            until(lambda r=request: all(s.state is Staging.ONLINE for s in tape.staged(r).values()))
        one_by_one = server.library.statistics()["mounts"] - before
        server.library.control({"drop": True})
        request = tape.stage(scattered, LONG)
        until(lambda: all(s.state is Staging.ONLINE for s in tape.staged(request).values()))
        assert server.library.statistics()["mounts"] - before - one_by_one <= 3 < one_by_one


def test_the_buffer_takes_no_more_than_it_holds_and_pinned_files_stay(tmp_path):
    machine = Machine(mount_seconds=0, file_seconds=0, migrate_after=0, buffer=1000, bytes_per_second=1e12)
    paths = [f"/ctao/{n}" for n in range(4)]
    with serving(tmp_path, machine) as (server, tape):
        for path in paths:
            tape.write(path, [b"x" * 400])
            until(lambda p=path: tape.localities([p])[p].on_tape)
        server.library.control({"drop": True})
        request = tape.stage(paths, LONG)
        until(lambda: sum(s.state is Staging.ONLINE for s in tape.staged(request).values()) == 2)
        with pytest.raises(Unavailable, match="full"):
            tape.write("/ctao/more", [b"x" * 400])
        online = [path for path, one in tape.staged(request).items() if one.state is Staging.ONLINE]
        assert server.library.statistics()["buffer_used"] == 800
        tape.release(request, online)
        until(lambda: sum(tape.localities([p])[p].online for p in paths if p not in online) == 2)


def test_a_pin_ends_with_its_lifetime(tmp_path):
    machine = Machine(mount_seconds=0, file_seconds=0, migrate_after=0, buffer=1000, bytes_per_second=1e12)
    with serving(tmp_path, machine) as (server, tape):
        tape.write(FILES[0], [b"x" * 900])
        to_tape(server, tape, FILES[:1])
        request = tape.stage(FILES[:1], timedelta(seconds=1))
        until(lambda: tape.staged(request)[FILES[0]].state is Staging.ONLINE)
        assert server.library.statistics()["pinned"] == 1
        until(lambda: server.library.statistics()["pinned"] == 0)
        tape.write(FILES[1], [b"x" * 900])
        assert tape.localities([FILES[0]])[FILES[0]] is Locality.TAPE


def test_a_cancelled_file_is_not_brought(tmp_path):
    machine = Machine(drives=1, mount_seconds=0.3, file_seconds=0, migrate_after=0, bytes_per_second=1e12)
    with serving(tmp_path, machine) as (server, tape):
        tape.write(FILES[0], [b"light"])
        to_tape(server, tape, FILES[:1])
        server.library.control({"away": ["VOL0001"]})
        assert tape.localities(FILES[:1]) == {FILES[0]: Locality.UNAVAILABLE}
        request = tape.stage(FILES[:1], LONG)
        tape.cancel(request, FILES[:1])
        server.library.control({"away": []})
        assert tape.staged(request)[FILES[0]].state is Staging.FAILED
        assert tape.localities(FILES[:1]) == {FILES[0]: Locality.TAPE}


def test_what_the_drive_cannot_read_is_said_and_what_is_lost_is_lost(tmp_path):
    with serving(tmp_path) as (server, tape):
        for path in FILES[:2]:
            tape.write(path, [b"light"])
        to_tape(server, tape, FILES[:2])
        server.library.control({"fail": {f"/tape{FILES[0]}": "media error at block 7"}, "lose": [f"/tape{FILES[1]}"]})
        request = tape.stage(FILES[:2], LONG)
        until(lambda: all(one.state is Staging.FAILED for one in tape.staged(request).values()))
        assert tape.staged(request)[FILES[0]].error == "media error at block 7"
        assert tape.localities(FILES[:2]) == {FILES[0]: Locality.TAPE, FILES[1]: Locality.LOST}


def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "lightkeeper.testing.tape_server", str(tmp_path), "--port", "0"]
    command += ["--migrate-after", "0", "--mount-seconds", "0.2", "--file-seconds", "0.05", "--drives", "1"]

    def start():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return process, TapeRestStorage("vault", process.stdout.readline().split()[-1])

    process, tape = start()
    try:
        for path in FILES:
            tape.write(path, [path.encode()])
        until(lambda: all(where.on_tape for where in tape.localities(FILES).values()))
        httpx.post(tape._origin + "/control", json={"drop": True})
        request = tape.stage(FILES, LONG)
        until(lambda: any(one.state is Staging.ONLINE for one in tape.staged(request).values()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(Unavailable):
            tape.staged(request)
        process, tape = start()
        until(lambda: all(one.state is Staging.ONLINE for one in tape.staged(request).values()))
        assert [content(tape, path) for path in FILES] == [path.encode() for path in FILES]
    finally:
        process.kill()
        process.wait()


def test_a_tape_system_that_does_not_answer_is_unavailable_and_its_disk_is_there(tmp_path):
    with serving(tmp_path) as (server, tape):
        tape.write(PATH, [b"light"])
        server.library.control({"unavailable": True})
        for attempt in (
            lambda: tape.stage([PATH], LONG),
            lambda: tape.localities([PATH]),
            lambda: tape.open(PATH),
            lambda: tape.staged("x"),
        ):
            with pytest.raises(Unavailable, match="503"):
                attempt()
        assert tape.stat(PATH).size == 5


# --- answers that are not believed -----------------------------------------------------------------------------
@contextmanager
def answering(answers):
    """A server that answers each path with a status and a body, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        asked = []  # noqa: RUF012

        def _any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.asked.append((self.command, self.path, body))
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            status, told = answers.get(self.path, (404, "{}"))
            told = told.replace("HERE", here).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = do_PROPFIND = _any  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield TapeRestStorage("vault", f"http://127.0.0.1:{server.server_address[1]}/pnfs/x"), Handler.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


KNOWN = {
    "/.well-known/wlcg-tape-rest-api": (
        200,
        json.dumps({"endpoints": [{"uri": "http://old/api/v0", "version": "v0"}, {"uri": "HERE/t/", "version": "v1"}]}),
    )
}


def test_requests_are_as_the_api_says(tmp_path):
    answers = KNOWN | {
        "/t/stage": (201, '{"requestId": "a-1"}'),
        "/t/release/a-1": (200, ""),
        "/t/stage/a-1/cancel": (200, ""),
    }
    with answering(answers) as (tape, asked):
        assert tape.stage(["/f"], timedelta(minutes=90)) == "a-1"
        tape.release("a-1", ["/f"])
        tape.cancel("a-1", ["/f"])
        assert [(method, path, json.loads(body)) for method, path, body in asked[1:]] == [
            ("POST", "/t/stage", {"files": [{"path": "/pnfs/x/f", "diskLifetime": "PT5400S"}]}),
            ("POST", "/t/release/a-1", {"paths": ["/pnfs/x/f"]}),
            ("POST", "/t/stage/a-1/cancel", {"paths": ["/pnfs/x/f"]}),
        ]


def test_both_ways_of_telling_a_files_state_are_understood_and_strangers_are_left_out():
    files = [
        {"path": "/pnfs/x/disk", "onDisk": True},
        {"path": "/pnfs/x/wait", "onDisk": False},
        {"path": "/pnfs/x/done", "state": "COMPLETED"},
        {"path": "/pnfs/x/went", "state": "COMPLETED", "onDisk": False},
        {"path": "/pnfs/x/bad", "state": "FAILED", "error": "no\x1b[31m"},
        {"path": "/pnfs/x/off", "state": "CANCELLED"},
        {"path": "/pnfs/x/new", "state": "SUBMITTED"},
        {"path": "/etc/passwd", "state": "COMPLETED"},
        {"path": 7},
        "text",
    ]
    with answering(KNOWN | {"/t/stage/a": (200, json.dumps({"files": files}))}) as (tape, _):
        told = tape.staged("a")
        assert {path: str(one.state) for path, one in told.items()} == {
            "/disk": "online",
            "/wait": "waiting",
            "/done": "online",
            "/went": "failed",
            "/bad": "failed",
            "/off": "failed",
            "/new": "waiting",
        }
        assert "\x1b" not in told["/bad"].error


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((200, '{"requestId": "../../etc"}'), Unavailable, "none"),
        ((200, '{"requestId": 7}'), Unavailable, "none"),
        ((200, "[]"), Unavailable, "none"),
        ((200, "<html>"), Unavailable, "JSON"),
        ((200, "[" * 100_000), Unavailable, "JSON"),
        ((500, "oops"), Unavailable, "500"),
        ((429, "{}"), Unavailable, "429"),
        ((403, '{"title": "no right"}'), Refused, "no right"),
    ],
)
def test_an_answer_that_is_none_is_no_request(answer, error, says):
    with answering(KNOWN | {"/t/stage": answer}) as (tape, _), pytest.raises(error, match=re.escape(says)):
        tape.stage(["/f"], LONG)


@pytest.mark.parametrize(
    "endpoints",
    [
        "[]",
        "{}",
        '[{"version": "v2", "uri": "HERE/t"}]',
        '[{"version": "v1", "uri": "file:///etc/passwd"}]',
        '[{"version": "v1", "uri": "https://elsewhere/t"}]',
        '[{"version": "v1", "uri": "http://user:secret@elsewhere/t"}]',
        '[{"version": "v1"}]',
        '[{"version": "v1", "uri": 7}]',
        "7",
    ],
)
def test_a_host_that_names_no_tape_api_is_no_tape_storage(endpoints):
    answers = {"/.well-known/wlcg-tape-rest-api": (200, f'{{"endpoints": {endpoints}}}')}
    with answering(answers) as (tape, _), pytest.raises(Refused, match="vault"):
        tape.stage(["/f"], LONG)


def test_a_locality_that_nobody_knows_is_not_taken_for_tape():
    answers = KNOWN | {
        "/t/archiveinfo": (
            200,
            '[{"path": "/pnfs/x/a", "locality": "MARS"}, {"path": "/pnfs/x/b", "locality": "tape"}]',
        ),
        "/pnfs/x/a": (404, ""),
        "/pnfs/x/": (207, FOLDER),
    }
    with answering(answers) as (tape, _):
        assert tape.localities(["/a", "/b"]) == {"/a": Locality.NONE, "/b": Locality.TAPE}


FOLDER = (
    '<D:multistatus xmlns:D="DAV:"><D:response><D:href>/pnfs/x/</D:href><D:propstat><D:prop><D:resourcetype>'
    "<D:collection/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    "</D:multistatus>"
)


def test_an_unknown_request_is_not_found():
    with answering(KNOWN) as (tape, _), pytest.raises(NotFound, match="any more"):
        tape.staged("gone")


def test_the_server_is_idle_when_nothing_is_wanted(tmp_path):
    with serving(tmp_path, Machine(migrate_after=3600)):
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.25
