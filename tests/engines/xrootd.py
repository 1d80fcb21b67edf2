"""An XRootD server on loopback, from the distribution's package, as an unprivileged process of its own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class XrootdServer:
    """A server that exports the directory `data` as /data."""

    home: Path
    port: int
    rights: str = "r/w"
    checksums: bool = True
    tpc: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        """What is exported, as a directory of this machine."""
        return self.home / "data"

    def url(self, path: str = "") -> str:
        """The root of a storage at `path` below what is exported."""
        return f"root://127.0.0.1:{self.port}//data{path}"

    def own(self, path: Path) -> Path:
        """Give `path` to the server's account."""
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        return path

    def make(self, path: str) -> Path:
        """A new directory of the server, below what is exported."""
        made = self.data / path.lstrip("/")
        made.mkdir()
        return self.own(made)

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        config = self.home / "xrootd.cfg"
        checksums = "xrootd.chksum max 4 adler32\n" if self.checksums else ""
        tpc = "ofs.tpc ttl 15 30 autorm xfr 20 pgm /usr/bin/xrdcp --server\n" if self.tpc else ""
        config.write_text(
            f"xrd.port {self.port}\n"
            "xrd.network nodnr\n"
            f"all.export /data {self.rights}\n"
            f"oss.localroot {self.home}\n"
            f"all.adminpath {self.home}/admin\n"
            f"all.pidpath {self.home}/admin\n"
            f"{checksums}{tpc}"
            "ofs.persist auto hold 0\n"
        )
        account = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            ["xrootd", "-c", str(config), "-l", str(self.home / "admin" / "log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.home,
            start_new_session=True,
            **(account if os.geteuid() == 0 else {}),  # it refuses to run as root
        )
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                log = self.home / "admin" / "log"
                told = log.read_text()[-2000:] if log.exists() else ""
                assert self.process.poll() is None and time.monotonic() < until, f"xrootd did not start: {told}"
                time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut of its machine would, its connections apart."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def xrootd(rights: str = "r/w", *, checksums: bool = True, tpc: bool = False) -> Iterator[XrootdServer]:
    """A running server with nothing in it; with `tpc` it makes third-party copies."""
    if shutil.which("xrootd") is None:
        pytest.skip("xrootd is not installed: apt-get install xrootd-server")
    if tpc and not Path("/usr/bin/xrdcp").exists():
        pytest.skip("xrdcp is not installed: apt-get install xrootd-client")
    # Not pytest's own folder: the server's account may not enter it, and its path may be too long for a socket.
    home = Path(tempfile.mkdtemp(prefix="lk-xrootd-"))
    server = XrootdServer(home, free_port(), rights, checksums, tpc)
    try:
        home.chmod(0o755)
        for name in ("data", "admin"):
            (home / name).mkdir()
            server.own(home / name)
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(home)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
