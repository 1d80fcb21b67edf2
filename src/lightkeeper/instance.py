"""A running Lightkeeper on a home: its database, its API and, for `up`, its worker.

<home>/postgres/            the embedded database, unless database_url names another
<home>/run/instance.lock    flock of the one program that runs this instance; its pid
<home>/run/instance.json    where its API is
<home>/run/operator.token   what a program must show to change something; readable by the owner only
<home>/pilots/              folders of local pilots
"""

import fcntl
import gc
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from lightkeeper.api import make_api
from lightkeeper.app import make_context
from lightkeeper.client import Client, find, running
from lightkeeper.context import Context, Log
from lightkeeper.domain.errors import Conflict, Refused, Unavailable
from lightkeeper.ports import Mover
from lightkeeper.settings import Settings
from lightkeeper.steps import heal, manifests
from lightkeeper.store import postgres
from lightkeeper.worker import Worker

WAIT_FOR_OTHER = 30.0
"""Seconds that a command waits for another command on the same home that is just starting or ending."""


class Instance:
    """Everything that runs for one home, started in order and stopped in reverse. Use as a context manager."""

    def __init__(
        self, settings: Settings, *, work: bool = True, mover: Mover | None = None, log: Log | None = None
    ) -> None:
        """With `work` the duties run too, else only the API answers. `mover` and `log` replace the installed ones."""
        self.settings = settings
        self._stack = ExitStack()
        self.context: Context
        self.url = ""
        try:
            self._start(work, mover, log)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, work: bool, mover: Mover | None, log: Log | None) -> None:
        gc.set_threshold(100_000, 20, 50)  # a list of files is a million objects that nothing points back to
        run = _run_dir(self.settings.home)
        self._stack.callback(os.close, _lock(run, WAIT_FOR_OTHER if work else 0))
        self._stack.callback((run / "instance.json").unlink, missing_ok=True)
        url = self.settings.database_url
        if not url:
            server = postgres.start(self.settings.home / "postgres", shared_buffers_mb=self.settings.shared_buffers_mb)
            self._stack.callback(server.stop)
            url = server.url
        self.context = make_context(self.settings, url, mover=mover, log=log)
        self._stack.callback(self.context.db.close)
        listener = _listen(self.settings.host, self.settings.port)
        self.url = f"http://{self.settings.host}:{listener.getsockname()[1]}"
        self._serve(listener, _token(run))
        if work:
            if not self.settings.database_url:
                heal.after_restart(self.context)
            manifests.look_for_newer(self.context)
            worker = Worker(self.context, self.url)
            worker.start()
            self._stack.callback(worker.stop)
        _write(run / "instance.json", json.dumps({"url": self.url, "pid": os.getpid(), "works": work}))

    def _serve(self, listener: socket.socket, token: str) -> None:
        config = uvicorn.Config(
            make_api(self.context, token), log_level="warning", timeout_graceful_shutdown=5, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api")
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join()

        self._stack.callback(stop)

    def stop(self) -> None:
        """Stop everything; pilots go on with what they are at and come back to the next start."""
        self._stack.close()

    def __enter__(self) -> "Instance":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def connect(settings: Settings, *, work: bool = False) -> Generator[Client]:
    """A client of the instance that runs on this home; when none does, of one that runs for this call only, and with
    `work` does what is to be done meanwhile."""
    deadline = time.monotonic() + WAIT_FOR_OTHER
    while True:
        client = find(settings.home)
        if client is not None:
            with client:
                yield client
            return
        try:
            instance = Instance(settings.model_copy(update={"port": 0}), work=work, log=_Silent())
        except Conflict:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            continue
        with instance, Client(instance.url, _token(_run_dir(settings.home))) as client:
            yield client
        return


def _run_dir(home: Path) -> Path:
    run = home / "run"
    try:
        run.mkdir(parents=True, exist_ok=True)
        run.chmod(0o700)
    except OSError as error:
        raise Refused(
            f"the home {home} cannot be used: {error.strerror}",
            hint="choose another with --home or LIGHTKEEPER_HOME",
        ) from error
    return run


def _lock(run: Path, patience: float) -> int:
    """Hold the home. Waits up to `patience` seconds for one that holds it for a single command."""
    deadline = time.monotonic() + patience
    lock = os.open(run / "instance.lock", os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            other = running(run.parent)
            if (other and other["works"]) or time.monotonic() > deadline:
                owner = os.pread(lock, 20, 0).decode().strip() or "just starting"
                os.close(lock)
                raise Conflict(
                    f"Lightkeeper runs on {run.parent} already (process {owner})",
                    hint="use it: every command finds it; or stop it, or choose another --home",
                ) from None
            time.sleep(0.1)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _listen(host: str, port: int) -> socket.socket:
    if not ip_address(host).is_loopback:
        raise Refused(
            f"the API may not listen on {host}: whoever reaches it may read everything",
            hint="keep host = 127.0.0.1; other machines come through an SSH tunnel",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, proto=socket.IPPROTO_TCP)  # asyncio looks at this before it sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(f"port {port} of {host} is taken", hint="choose another with --port, or --port 0") from error
    listener.listen(128)
    return listener


def _token(run: Path) -> str:
    path = run / "operator.token"
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    """Atomically, readable by the owner only."""
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.rename(path)


class _Silent:
    """No log: for commands that answer one question."""

    def info(self, event: str, **facts: object) -> None: ...
    def warning(self, event: str, **facts: object) -> None: ...
    def error(self, event: str, **facts: object) -> None: ...
