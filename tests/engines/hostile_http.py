"""A small HTTP server that answers as a test tells it, also what no server should."""

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes | Iterable[bytes]]


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Hostile:
    """A running server; `answer` may be set anew at any time. Content-Length is told unless the answer tells its own;
    the connection is closed after an answer whose length is a lie. A body in pieces is sent piece by piece."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Answer | None] = lambda _: (404, {}, b"")

    @property
    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]


@contextmanager
def hostile(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    """A server on loopback."""
    told = Hostile()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def handle_any(self) -> None:
            asked = Asked(self.command, self.path, dict(self.headers.items()), self._read())
            told.asked.append(asked)
            answer = told.answer(asked)
            if answer is None:  # cut off
                self.close_connection = True
                return
            status, headers, body = answer
            if not isinstance(body, bytes):
                self._send_pieces(status, headers, body)
                return
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            if headers.get("Content-Length", str(len(body))) != str(len(body)) and self.command != "HEAD":
                self.close_connection = True

        def _send_pieces(self, status: int, headers: dict[str, str], pieces: Iterable[bytes]) -> None:
            self.send_response(status)
            for key, value in {"Connection": "close", **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                self.wfile.flush()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def _read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def log_message(self, *_: object) -> None: ...

        do_GET = do_PUT = do_HEAD = do_DELETE = handle_any  # noqa: N815
        do_PROPFIND = do_MKCOL = do_MOVE = do_COPY = do_POST = handle_any  # noqa: N815

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    told.url = f"http{'s' if tls else ''}://{host}:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
