"""A real Rucio beside our catalogue: REST server with PostgreSQL on this machine, for as long as a benchmark needs it.

    with rucio.start(work_dir) as peer:
        files / peer.register(files)

    python -m bench.peers.rucio --files 5000

Rucio is installed into an environment of its own, which this program never imports: `rucio_client.py` runs there.
Its PostgreSQL is the one of our benchmarks (fsync on, the same settings). Rucio is slow without memcached, up to
eight times with replicas, so it gets the machine's, or else the one that Debian's package manager can fetch.
"""

import argparse
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import psycopg
from rich.console import Console
from rich.table import Table

from bench.register import made
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.store import postgres

VERSION = "41.5.1"
REQUIREMENTS = [f"rucio[postgresql]=={VERSION}", "gunicorn>=23,<28"]
BATCH = 500  # files per call; more makes it slower
CLIENTS = (1, 2, 4)
WORKERS = max(2, min(os.cpu_count() or 2, 8))
THREADS = 4
INSTALL_SECONDS, START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 1200, 60, 10, 3600
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None)


class PeerNotAvailable(Exception):
    """Rucio cannot be measured here; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What is installed: the Python that has Rucio, and memcached where there is one."""

    python: Path
    memcached: Path | None


@dataclass(frozen=True, slots=True)
class Again:
    """How the same files were answered the second time: nothing refused, or one message for each batch."""

    seconds: float
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The median time of one query, and the names it gave."""

    seconds: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """What Rucio says of a dataset, and how long it took to fill it, to say this, and to list its files."""

    count: int
    size: int
    attach_seconds: float
    count_seconds: float
    stream_seconds: float


@contextmanager
def start(work_dir: Path, cache: Path | None = None) -> Iterator["Rucio"]:
    """A running Rucio with an empty catalogue below `work_dir`; stopped and removed at the end.

    The installation stays in `cache` for the next time; without one it goes with the rest. `PeerNotAvailable` when
    it cannot be installed or does not start.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rucio-", dir=work_dir.resolve())))
        programs = install(cache.resolve() if cache else home)
        try:
            server = stack.enter_context(postgres.start(home / "pg", shared_buffers_mb=512))
        except LightkeeperError as error:
            raise PeerNotAvailable(f"no PostgreSQL for Rucio: {error}") from error
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("CREATE DATABASE rucio")
        rest = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        if programs.memcached:
            stack.enter_context(_caching(home, programs.memcached))
        password = secrets.token_hex(16)
        _write_settings(home, server.url, rest.getsockname()[1], password)
        peer = Rucio(home, programs.python, server.url, programs.memcached is not None)
        peer.ask("schema")
        stack.enter_context(_serving(home, programs.python, rest))
        peer.ask("prepare", prefix=str(home / "store"))
        yield peer


def install(cache: Path) -> "Programs":
    """What Rucio needs, put below `cache` when absent. Two programs take turns."""
    place = cache / f"rucio-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    python, ready = place / "bin" / "python", place / "ready"
    pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "rucio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(place, ignore_errors=True)
            for command in ([sys.executable, "-m", "venv", place], [*pip, *REQUIREMENTS]):
                _run(command, "Rucio cannot be installed", INSTALL_SECONDS)
            ready.touch()
        system = shutil.which("memcached")
        return Programs(python, Path(system) if system else _unpacked_memcached(cache / "memcached"))


def _unpacked_memcached(place: Path) -> Path | None:
    """Debian's memcached with its libraries, unpacked but not installed; None where that does not work."""
    program = place / "usr" / "bin" / "memcached"
    if not program.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            needed = _run(["apt-cache", "depends", "memcached"], "no memcached", INSTALL_SECONDS).split()
            libraries = [name for name in needed if name.startswith(("libevent", "libsasl"))]
            _run(["apt-get", "download", "memcached", *libraries], "no memcached", INSTALL_SECONDS, cwd=place)
            for package in place.glob("*.deb"):
                _run(["dpkg-deb", "--extract", package, place], "no memcached", INSTALL_SECONDS)
        except PeerNotAvailable:
            shutil.rmtree(place)
    return program if program.exists() else None


@dataclass(slots=True)
class Rucio:
    """A running Rucio. Made by `start`; whatever it does not answer is a `PeerNotAvailable`."""

    home: Path
    python: Path
    database_url: str  # of the server, not of Rucio's database in it
    cached: bool  # with memcached
    clients: int = 2  # that register at the same time; `tune` looks for the best number
    names: list[str] = field(default_factory=list)  # registered until now

    def tune(self, files: Sequence[NewFile]) -> dict[int, float]:
        """Register `files` in equal shares with 1, 2 and 4 clients, keep the fastest number; files/s of each."""
        rates = {}
        for k, self.clients in enumerate(CLIENTS):
            share = files[k :: len(CLIENTS)]
            rates[self.clients] = len(share) / self.register(share)
        self.clients = max(rates, key=rates.__getitem__)
        return rates

    def register(self, files: Sequence[NewFile]) -> float:
        """Seconds to register `files` with their metadata and a replica each."""
        before = self._complete()
        answer = self._register(files)
        if answer.errors:
            raise PeerNotAvailable(f"Rucio refused files: {answer.errors[0]}")
        if (new := self._complete() - before) != len(files):
            raise PeerNotAvailable(f"Rucio registered {new} of {len(files)} files")
        self.names += [file.lfn for file in files]
        return answer.seconds

    def register_again(self, files: Sequence[NewFile]) -> Again:
        """The same call with files that Rucio has already, perhaps with another content."""
        return self._register(files)

    def find(self, keys: Mapping[str, object], limit: int, repeats: int = 5) -> Found:
        """Files by metadata: `{"key1": "value", "zenith.lte": 30}`, at most `limit`."""
        answer = self.ask("find", keys=dict(keys), limit=limit, repeats=repeats)
        return Found(answer["seconds"], tuple(answer["names"]))

    def replicas(self, names: Sequence[str], batch: int = BATCH) -> float:
        """Seconds to list where `names` are, `batch` of them per call."""
        answer = self.ask("replicas", names=list(names), batch=batch)
        if answer["count"] != len(names):
            raise PeerNotAvailable(f"Rucio listed replicas of {answer['count']} of {len(names)} files")
        return answer["seconds"]

    def dataset(self, n: int) -> Dataset:
        """A dataset of the first `n` files registered: how big it is, and a walk through all of it."""
        names = self.names[:n]
        answer = self.ask("dataset", name=f"dataset-{secrets.token_hex(4)}", names=names, batch=BATCH)
        if not answer["count"] == answer.pop("streamed") == n:
            raise PeerNotAvailable(f"Rucio has {answer['count']} of {n} files in the dataset")
        return Dataset(**answer)

    def ask(self, operation: str, **request: object) -> dict:
        """The answer of one operation of `rucio_client.py`."""
        asked = self.home / "request.json"
        asked.write_text(json.dumps(request, default=str))
        settings = "server.cfg" if operation == "schema" else "client.cfg"
        script = Path(__file__).with_name("rucio_client.py")
        command = [self.python, "-I", script, operation, asked]
        env = _environment(self.home, settings)
        return json.loads(_run(command, f"Rucio fails at '{operation}'", ANSWER_SECONDS, env))

    def _register(self, files: Sequence[NewFile]) -> Again:
        lines = [
            {"name": file.lfn, "bytes": file.fixity.size, "adler32": file.fixity.adler32, "meta": dict(file.meta)}
            for file in files
        ]
        answer = self.ask("register", files=lines, clients=self.clients, batch=BATCH)
        return Again(answer["seconds"], tuple(answer["errors"]))

    def _complete(self) -> int:
        """Files with their replica and metadata in Rucio's tables, which are left with fresh statistics."""
        with psycopg.connect(self.database_url, dbname="rucio", autocommit=True) as conn:
            conn.execute("VACUUM ANALYZE")
            row = conn.execute("""
                SELECT count(*)
                FROM dids
                JOIN replicas USING (scope, name)
                JOIN did_meta USING (scope, name)
                WHERE meta IS NOT NULL
            """).fetchone()
        return row[0] if row else 0


# --- settings ----------------------------------------------------------------------------------------------
def _write_settings(home: Path, database_url: str, port: int, password: str) -> None:
    sockets = quote(parse_qs(urlsplit(database_url).query)["host"][0], safe="/")
    database = f"postgresql+psycopg:///rucio?host={sockets}&user=postgres".replace("%", "%%")  # as its parser reads it
    folder = str(home).replace("%", "%%")
    client = f"""
        [client]
        rucio_host = http://127.0.0.1:{port}
        auth_host = http://127.0.0.1:{port}
        auth_type = userpass
        username = root
        password = {password}
        account = root
        auth_token_file_path = {folder}/token
        [policy]
        permission = generic
        schema = generic
        lfn2pfn_algorithm_default = hash
    """
    server = f"""
        [common]
        logdir = {folder}
        loglevel = ERROR
        [database]
        default = {database}
        pool_recycle = 3600
        pool_reset_on_return = rollback
        [cache]
        url = unix:{folder}/memcached.sock
        [bootstrap]
        userpass_identity = root
        userpass_pwd = {password}
        userpass_email = root@localhost
        x509_identity =
        gss_identity =
        ssh_identity =
        [monitor]
        enable_metrics = False
        [trace]
        tracedir = {folder}
    """
    for name, text in (("client.cfg", client), ("server.cfg", server + client)):
        (home / name).write_text("\n".join(line.strip() for line in text.splitlines()))  # home is private to us


def _environment(home: Path, settings: str) -> dict[str, str]:
    """Ours, without what would reach Rucio past its settings: variables of Python, PostgreSQL, Rucio, and proxies."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PG", "RUCIO_", "X509_")) and not name.lower().endswith("_proxy")
    }
    return ours | {"RUCIO_HOME": str(home), "RUCIO_CONFIG": str(home / settings)}


# --- processes ---------------------------------------------------------------------------------------------
@contextmanager
def _caching(home: Path, memcached: Path) -> Iterator[None]:
    """memcached at a socket in `home`, where nobody else can put what Rucio would believe."""
    sock, log = home / "memcached.sock", home / "memcached.log"
    account = ["-u", "root"] if os.geteuid() == 0 else []
    libraries = map(str, memcached.parents[1].glob("lib/*-linux-gnu"))
    env = _environment(home, "server.cfg") | {"LD_LIBRARY_PATH": ":".join(libraries)}
    with _running([memcached, *account, "-s", sock, "-m", "128"], log, env) as process:
        deadline = time.monotonic() + START_SECONDS
        while not sock.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerNotAvailable(f"memcached does not start: {_tail(log)}")
            time.sleep(0.05)
        yield


@contextmanager
def _serving(home: Path, python: Path, rest: socket.socket) -> Iterator[None]:
    """Rucio's REST server at the open socket `rest`, ready for requests."""
    command = [python, "-I", "-m", "gunicorn", "--worker-class", "gthread"]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS), "--timeout", "600", "--log-level", "warning"]
    command += ["--bind", f"fd://{rest.fileno()}", "--chdir", home, "rucio.web.rest.flaskapi.v1.main:application"]
    log, url = home / "server.log", f"http://127.0.0.1:{rest.getsockname()[1]}/ping"
    with _running(command, log, _environment(home, "server.cfg"), rest.fileno()) as process:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(httpx2.HTTPError):
                if httpx2.get(url, trust_env=False, timeout=5).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerNotAvailable(f"Rucio's server does not start: {_tail(log)}")
            time.sleep(0.1)
        yield


@contextmanager
def _running(command: list, log: Path, env: dict[str, str], *shared: int) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as told:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            pass_fds=shared,
            start_new_session=True,
            preexec_fn=_end_with_us,
        )
    try:
        yield process
    finally:
        _end(process)


def _run(command: list, what: str, seconds: float, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What `command` prints; `PeerNotAvailable` with `what` and its last complaint when it fails."""
    with tempfile.TemporaryFile("w+") as told:
        try:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                start_new_session=True,
                preexec_fn=_end_with_us,
            )
        except OSError as error:
            raise PeerNotAvailable(f"{what}: {error}") from error
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise PeerNotAvailable(f"{what}: no answer within {seconds:.0f} s") from error
        finally:
            _end(process)
        if process.returncode != 0:
            told.seek(0)
            raise PeerNotAvailable(f"{what}: {_complaint(told.read() or said) or f'exit {process.returncode}'}")
        return said


def _end(process: subprocess.Popen) -> None:
    """End a process and those it started, which share its group."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _end_with_us() -> None:
    """Between fork and exec: be ended when this program is killed and cannot end what it started."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _tail(log: Path) -> str:
    return _complaint(log.read_text(errors="replace")) or "it says nothing"


def _complaint(text: str) -> str:
    """The last line that says error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[-1][:500]


# --- the table ---------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers.rucio", description="Rucio's rates on this machine.")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "lightkeeper-bench")
    given = parser.parse_args()
    begin = time.perf_counter()
    try:
        with start(given.work_dir, given.cache) as peer:
            show(peer, given.files, time.perf_counter() - begin)
    except PeerNotAvailable as why:
        sys.exit(f"peer not available: {why}")


def show(peer: Rucio, n: int, started: float) -> None:
    samples, files = list(made(0, 3 * min(n, 2000))), list(made(1_000_000, n))
    query = {f"key{k}": f"value {k} of run 1000" for k in range(4)} | {"zenith.lte": 30.0}
    cached = "with memcached" if peer.cached else "without memcached"
    title = f"Rucio {VERSION}, {WORKERS} workers, {cached}; ready after {started:.0f} s"
    table = Table("measure", "value", "unit", title=title, box=None)

    def row(measure: str, value: float, unit: str) -> None:
        table.add_row(measure, f"{value:,.4g}", unit)

    for clients, rate in peer.tune(samples).items():
        row(f"register, sample, {clients} clients", rate, "files/s")
    row(f"register {n} files, {peer.clients} clients", n / peer.register(files), "files/s")
    again = peer.register_again(files)
    row(f"register the same again, {len(again.errors)} batches refused", n / again.seconds, "files/s")
    found = peer.find(query, 1000)
    row(f"find by 5 keys, {len(found.names)} files", found.seconds * 1000, "ms")
    names = [file.lfn for file in files]
    row(f"replicas of {n} files", n / peer.replicas(names), "files/s")
    one_by_one = names[:100]
    row("replicas of one file", peer.replicas(one_by_one, batch=1) / len(one_by_one) * 1000, "ms")
    dataset = peer.dataset(n)
    row(f"attach {n} files to a dataset", n / dataset.attach_seconds, "files/s")
    row("count and size of the dataset", dataset.count_seconds * 1000, "ms")
    row("list the files of the dataset", n / dataset.stream_seconds, "files/s")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
