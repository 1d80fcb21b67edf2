"""A way through which TCP connections go, and that breaks as a test tells it: cut, mute, slow, or cut at a COMMIT."""

import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

PIECE = 1 << 16


@dataclass
class Way:
    """A running proxy on loopback. All of it may be set anew at any time, also for connections that are open."""

    port: int = 0
    rate: float = 0
    """Bytes per second of each connection, each way; 0: unlimited."""
    delay: float = 0
    """Seconds that each piece is under way, each way; what follows it is under way at the same time."""
    mute: bool = False
    """Nothing passes, and nobody is told: packets are lost on the way."""
    closed: bool = False
    """New connections are refused at once."""
    passed: int = 0
    """Bytes that went through, both ways."""
    most: int = 0
    """The largest number of connections that were open at once."""
    _open: set[socket.socket] = field(default_factory=set)

    def cut(self) -> None:
        """End every connection that is open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Commits:
    """What becomes of the COMMITs that pass: `cut` is asked for each, and told nothing. The connection of one that is
    cut ends either before the server hears of it, or after the server has done it: the client cannot know which."""

    cut: Callable[[], bool]
    seen: int = 0
    lost_before: int = 0
    lost_after: int = 0

    @property
    def lost(self) -> int:
        return self.lost_before + self.lost_after


@contextmanager
def way_to(host: str, port: int) -> Iterator[Way]:
    """A proxy before a server."""
    with _listening(Way(), host, port, _pump) as way:
        yield way


@contextmanager
def cutting_commits(url: str, commits: Commits, chance: random.Random) -> Iterator[str]:
    """The URL of a proxy before the PostgreSQL at `url`."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    host, port = str(parts["host"]), int(parts.get("port") or 5432)

    def requests(way: Way, client: socket.socket, server: socket.socket) -> None:
        _pump_messages(client, server, commits, chance)

    with _listening(Way(), host, port, requests) as way:
        yield psycopg.conninfo.make_conninfo(
            url, host="127.0.0.1", port=way.port, sslmode="disable", gssencmode="disable"
        )


# --- helpers -----------------------------------------------------------------------------------------------
@contextmanager
def _listening(
    way: Way, host: str, port: int, requests: Callable[[Way, socket.socket, socket.socket], None]
) -> Iterator[Way]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    way.port = listener.getsockname()[1]

    def serve(client: socket.socket) -> None:
        try:
            server = _connected(host, port)
        except OSError:
            client.close()
            return
        ends = {client, server}
        way._open |= ends
        way.most = max(way.most, len(way._open) // 2)
        back = threading.Thread(target=_pump, args=(way, server, client), daemon=True)
        back.start()
        requests(way, client, server)
        back.join()
        way._open -= ends
        for end in ends:
            end.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if way.closed:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield way
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        way.cut()
        thread.join()


def _connected(host: str, port: int) -> socket.socket:
    if host.startswith("/"):
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server
    return socket.create_connection((host, port), timeout=10)


def _pump(way: Way, source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until one end closes."""
    source.settimeout(None)
    with suppress(OSError), _arriving(way, target) as send:
        while piece := source.recv(int(min(PIECE, way.rate / 10 + 1)) if way.rate else PIECE):
            while way.mute:
                time.sleep(0.02)
            if way.rate:
                time.sleep(len(piece) / way.rate)
            send(piece)
            way.passed += len(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def _arriving(way: Way, target: socket.socket) -> Iterator[Callable[[bytes], object]]:
    """What sends a piece on its way to `target`, where it arrives after the delay."""
    if not way.delay:
        yield target.sendall
        return
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def arrive() -> None:
        while True:
            due, piece = under_way.get()
            if not piece:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            with suppress(OSError):
                target.sendall(piece)

    thread = threading.Thread(target=arrive, daemon=True)
    thread.start()
    try:
        yield lambda piece: under_way.put((time.monotonic() + way.delay, piece))
    finally:
        under_way.put((0.0, b""))
        thread.join()


def _pump_messages(client: socket.socket, server: socket.socket, commits: Commits, chance: random.Random) -> None:
    """Pass a PostgreSQL client's messages on, one by one; end both ends at a COMMIT that is cut."""
    with suppress(OSError, EOFError), client.makefile("rb") as messages:
        length = _exactly(messages, 4)
        server.sendall(length + _exactly(messages, struct.unpack("!I", length)[0] - 4))  # the startup message
        while True:
            head = _exactly(messages, 5)
            body = _exactly(messages, struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"Q" and body == b"COMMIT\0":
                commits.seen += 1
                if commits.cut():
                    if chance.random() < 0.5:
                        commits.lost_before += 1
                        break
                    _commit_unheard(client, server, head + body)
                    commits.lost_after += 1
                    break
            server.sendall(head + body)
    for end in (client, server):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _commit_unheard(client: socket.socket, server: socket.socket, message: bytes) -> None:
    """Have the server commit, and nobody hear of it: the client's side is ended first. A server that reads COMMIT and
    then the end of its connection has done the one before the other."""
    client.shutdown(socket.SHUT_RDWR)
    server.sendall(message)
    server.shutdown(socket.SHUT_WR)


def _exactly(file: object, count: int) -> bytes:
    got = file.read(count)  # type: ignore[attr-defined]
    if len(got) < count:
        raise EOFError
    return got
