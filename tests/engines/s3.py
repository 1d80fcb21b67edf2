"""An S3 server on loopback: moto, from PyPI, as a process of its own."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.engines.webdav import free_port


@dataclass
class S3Server:
    """A running server: its address and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")  # noqa: S310
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310

    def kill(self) -> None:
        """End it as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def moto(home: Path) -> Iterator[S3Server]:
    """A moto server."""
    for module in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install '.[dev]'")
    port = free_port()
    environment = {**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 20), "TMPDIR": str(home)}
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
    server = S3Server(f"http://127.0.0.1:{port}", process)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                told = (home / "server.log").read_text()[-2000:]
                assert process.poll() is None and time.monotonic() < until, f"moto did not start: {told}"
                time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            server.kill()
