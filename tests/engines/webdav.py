"""WebDAV servers on loopback, from Debian packages: rclone, nginx (nginx-light, libnginx-mod-http-dav-ext) and XrdHttp
(xrootd-server, xrootd-server-plugins). Each is a context manager that gives a `Dav` and stops what it started."""

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
from dataclasses import dataclass
from pathlib import Path

import pytest

NGINX = """
{user}
daemon off;
load_module {module};
pid {home}/pid; error_log {home}/error.log; worker_processes 2;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; keepalive_timeout {keepalive}s;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  scgi_temp_path {home}/scgi; uwsgi_temp_path {home}/uwsgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      root {data};
      dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; autoindex on;
    }}
  }}
}}
"""

XROOTD = """
xrd.port {inner}
xrd.network nodnr
xrd.protocol XrdHttp:{port} libXrdHttp.so
all.export /data r/w
oss.localroot {home}
all.adminpath {home}/admin
all.pidpath {home}/pid
xrootd.chksum max 2 adler32
xrootd.async off
http.listingdeny no
"""

# It loads its third-party copies only where it can speak TLS; it then answers http and https on the same port.
XROOTD_TPC = """
xrd.tls {home}/certificate.pem {home}/key.pem
xrd.tlsca certfile {home}/certificate.pem
xrootd.tls capable none
http.exthandler xrdtpc libXrdHttpTPC.so
"""


@dataclass
class Dav:
    """A running server: its address, the directory it serves, and its process."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    command: list[str]

    def kill(self) -> None:
        """End it and its workers as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def rclone(home: Path) -> Iterator[Dav]:
    """`rclone serve webdav`."""
    _needs("rclone")
    port = free_port()
    data = _data(home)
    address = f"127.0.0.1:{port}"
    config = ["--config", os.devnull, "--vfs-cache-mode", "off", "--dir-cache-time", "1s"]
    with _running(["rclone", "serve", "webdav", str(data), "--addr", address, *config], home, port) as (
        process,
        command,
    ):
        yield Dav(f"http://{address}", data, process, command)


@contextmanager
def nginx(home: Path, keepalive: int = 75, *, data: Path | None = None, account: str = "root") -> Iterator[Dav]:
    """nginx with its dav module, and the module that adds PROPFIND. With `data` it serves a directory that is there
    already; when root starts it, it works as `account`, who must be able to enter `home`."""
    _needs("nginx", "nginx-light")
    module = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")
    if not module.exists():
        pytest.skip("needs the Debian package libnginx-mod-http-dav-ext")
    port = free_port()
    home.mkdir(exist_ok=True)
    data = data or _data(home)
    user = f"user {account};" if os.geteuid() == 0 else ""
    config = home / "nginx.conf"
    config.write_text(NGINX.format(user=user, module=module, home=home, data=data, port=port, keepalive=keepalive))
    with _running(["nginx", "-p", str(home), "-e", str(home / "error.log"), "-c", str(config)], home, port) as (
        process,
        command,
    ):
        yield Dav(f"http://127.0.0.1:{port}", data, process, command)


@contextmanager
def xrdhttp(_home: Path, tpc: bool = False) -> Iterator[Dav]:
    """XRootD with its HTTP protocol; as root it runs as the package's own account. With `tpc` it makes third-party
    copies."""
    _needs("xrootd", "xrootd-server")
    # Not below pytest's folders, which only root may enter: every other pytest that starts makes them so again.
    home = Path(tempfile.mkdtemp(prefix="xrdhttp-"))
    home.chmod(0o755)
    port, inner = free_port(), free_port()
    data = _data(home)
    config = home / "xrootd.cfg"
    config.write_text((XROOTD + XROOTD_TPC if tpc else XROOTD).format(home=home, port=port, inner=inner))
    if tpc:
        _certificate(home)
    command = ["xrootd", "-c", str(config), "-n", "dav"]
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam("xrootd")
        except KeyError:
            pytest.skip("needs the account of the Debian package xrootd-server")
        for path in (home, data, *home.glob("*.pem")):
            os.chown(path, account.pw_uid, account.pw_gid)
        command += ["-R", "xrootd"]
    try:
        with _running(command, home, port) as (process, started):
            yield Dav(f"http://127.0.0.1:{port}/data", data, process, started)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- helpers -----------------------------------------------------------------------------------------------
@contextmanager
def _running(command: list[str], home: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, start_new_session=True)
    try:
        until = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                log_text = (home / "server.log").read_text(errors="replace")[-2000:]
                assert process.poll() is None and time.monotonic() < until, f"{command[0]} did not start: {log_text}"
                time.sleep(0.02)
        yield process, command
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _certificate(home: Path) -> None:
    _needs("openssl")
    files = ["-keyout", str(home / "key.pem"), "-out", str(home / "certificate.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    (home / "key.pem").chmod(0o400)


def _data(home: Path) -> Path:
    data = home / "data"
    data.mkdir(parents=True)
    return data


def _needs(program: str, package: str = "") -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: the Debian package {package or program}")
