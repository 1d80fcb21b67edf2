"""A small tape storage for trying out and for tests: the WLCG Tape REST API, version 1, and WebDAV for the bytes.

    python -m lightkeeper.testing.tape_server FOLDER --port 8444 --drives 2 --mount-seconds 30

Root of the storage: http://127.0.0.1:8444/tape. Like a real one it has few drives, a mount takes its time, files are
read fast only one after the other as they lie on a cartridge, and what is not in the disk buffer cannot be read: it
must be staged. A file that was written lies in the buffer, is written to tape some seconds later, and may then be
dropped from the buffer, unless it is pinned. Names below a folder that begins with '.' never go to tape.

Everything lies in FOLDER, so that it may be killed and started again. It asks nobody who he is: keep it on loopback.
GET /control tells what it did; POST /control with JSON makes it fail as asked: see `Library.control`.
"""

import argparse
import json
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

BASE = "/tape"
API = "/api/v1"
WELL_KNOWN = "/.well-known/wlcg-tape-rest-api"
CHUNK = 1 << 20
PIECE = 200
"""Files that a drive takes on at once, in the order in which they lie on the cartridge."""
LONGEST_BODY = 64 << 20
LONGEST_NAME = 255
DAY = 86400.0

_DURATION = re.compile(
    r"P(?:(\d{1,6})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,8})M)?(?:(\d{1,9}(?:\.\d{1,6})?)S)?)?\Z", re.IGNORECASE
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folder (path TEXT PRIMARY KEY, parent TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS folder_parent ON folder (parent);
CREATE TABLE IF NOT EXISTS file (
    path TEXT PRIMARY KEY, parent TEXT NOT NULL, bytes TEXT NOT NULL, size INTEGER NOT NULL, adler32 TEXT NOT NULL,
    modified REAL NOT NULL, used REAL NOT NULL, on_disk INTEGER NOT NULL DEFAULT 1, lost INTEGER NOT NULL DEFAULT 0,
    cartridge TEXT, position INTEGER);
CREATE INDEX IF NOT EXISTS file_parent ON file (parent);
CREATE INDEX IF NOT EXISTS file_new ON file (modified) WHERE cartridge IS NULL;
CREATE INDEX IF NOT EXISTS file_old ON file (used) WHERE on_disk AND cartridge IS NOT NULL;
CREATE TABLE IF NOT EXISTS request (id TEXT PRIMARY KEY, created REAL NOT NULL, started REAL, completed REAL);
CREATE TABLE IF NOT EXISTS staging (
    request TEXT NOT NULL, path TEXT NOT NULL, lifetime REAL NOT NULL, state TEXT NOT NULL DEFAULT 'SUBMITTED',
    error TEXT, started REAL, finished REAL, pinned REAL, PRIMARY KEY (request, path));
CREATE INDEX IF NOT EXISTS staging_waits ON staging (path) WHERE state IN ('SUBMITTED', 'STARTED');
CREATE INDEX IF NOT EXISTS staging_pins ON staging (path) WHERE pinned IS NOT NULL;
CREATE TABLE IF NOT EXISTS cartridge (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, files INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the tape storage is like. Sizes in bytes, times in seconds."""

    drives: int = 2
    mount_seconds: float = 2.0
    file_seconds: float = 0.02
    bytes_per_second: float = 300e6
    buffer: int = 10**9
    cartridge: int = 10**9
    migrate_after: float = 2.0
    keep: bool = True
    """Files on tape stay in the buffer, unpinned, until others need the room; else they are dropped at once."""
    latency: float = 0.0
    """Each answer of the tape API takes so long."""


class NoRoom(Exception):
    """The buffer is full of files that are pinned or not on tape yet."""


# --- the library: names, bytes, cartridges ---------------------------------------------------------------------
class Library:
    """Files with their names, the buffer, cartridges, drives, requests. Threads may share it."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.machine = machine
        self._disk, self._tape, self._incoming = folder / "disk", folder / "tape", folder / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)
        for place in (self._disk, self._tape, self._incoming):
            place.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "library.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO folder VALUES (?, '/')", (BASE,))
        self._db.execute("UPDATE staging SET state = 'SUBMITTED', started = NULL WHERE state = 'STARTED'")
        self._used: int = self._one("SELECT coalesce(sum(size), 0) FROM file WHERE on_disk")
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._mounted: dict[int, str] = {}
        self._faults: dict[str, list[Any]] = {}
        self._away: set[str] = set()
        self.unavailable = False
        self.silent = 0
        self._threads = [
            threading.Thread(target=self._drive, args=(n,), name=f"drive-{n}", daemon=True)
            for n in range(machine.drives)
        ]

    def start(self) -> None:
        """Let the drives work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the drives; everything is kept."""
        self._stopping.set()
        with self._news:
            self._news.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._lock:
            self._db.close()

    # --- names
    def kind(self, path: str) -> str:
        """'file', 'folder', or nothing."""
        with self._lock:
            if path == "/" or self._one("SELECT 1 FROM folder WHERE path = ?", path):
                return "folder"
            return "file" if self._one("SELECT 1 FROM file WHERE path = ?", path) else ""

    def file(self, path: str) -> sqlite3.Row | None:
        """A file's row."""
        with self._lock:
            return self._row("SELECT * FROM file WHERE path = ?", path)

    def members(self, path: str) -> tuple[list[str], list[sqlite3.Row]]:
        """Folders and files in a folder."""
        with self._lock:
            folders = self._rows("SELECT path FROM folder WHERE parent = ?", path)
            return [row["path"] for row in folders], self._rows("SELECT * FROM file WHERE parent = ?", path)

    def make_folder(self, path: str) -> int:
        """Make a folder; the HTTP status that says how it went."""
        with self._lock:
            if self.kind(path):
                return 405
            if self.kind(_parent(path)) != "folder":
                return 409
            self._do("INSERT INTO folder VALUES (?, ?)", path, _parent(path))
            return 201

    @contextmanager
    def incoming(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A file to write a body to; it is gone afterwards unless it was kept."""
        temporary = self._incoming / uuid4().hex
        try:
            with temporary.open("wb") as file:
                yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)

    def keep(self, path: str, temporary: Path, size: int, adler32: str) -> int:
        """Make a body that is complete the content of a name; the HTTP status."""
        with self._lock:
            kind = self.kind(path)
            if kind == "folder" or self.kind(_parent(path)) != "folder":
                return 409
            try:
                self._make_room(size)
            except NoRoom:
                return 507
            old = self.file(path)
            name, now = uuid4().hex, time.time()
            temporary.rename(self._disk / name)
            self._do(
                """
                INSERT OR REPLACE INTO file (path, parent, bytes, size, adler32, modified, used)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                """,
                *(path, _parent(path), name, size, adler32, now, now),
            )
            self._used += size
            if old:
                self._forget_bytes(old)
            return 204 if old else 201

    def open(self, path: str) -> tuple[sqlite3.Row, BinaryIO] | int:
        """A file and its bytes, or the HTTP status that says why not."""
        with self._lock:
            file = self.file(path)
            if file is None:
                return 409 if self.kind(path) else 404
            if not file["on_disk"]:
                return 503
            self._do("UPDATE file SET used = ? WHERE path = ?", time.time(), path)
            return file, (self._disk / file["bytes"]).open("rb")

    def rename(self, source: str, target: str, *, overwrite: bool) -> int:
        """Give a file another name; the HTTP status."""
        with self._lock:
            if self.kind(source) != "file":
                return 403 if self.kind(source) else 404
            there = self.kind(target)
            if there and not overwrite:
                return 412
            if there == "folder" or self.kind(_parent(target)) != "folder":
                return 409
            if there and target != source and (old := self.file(target)):
                self._do("DELETE FROM file WHERE path = ?", target)
                self._forget_bytes(old)
            self._do("UPDATE file SET path = ?, parent = ? WHERE path = ?", target, _parent(target), source)
            return 204 if there else 201

    def remove(self, path: str) -> int:
        """Remove a file, from disk and tape, or an empty folder; the HTTP status."""
        with self._lock:
            file = self.file(path)
            if file:
                self._do("DELETE FROM file WHERE path = ?", path)
                self._forget_bytes(file)
                self._news.notify_all()
                return 204
            if not self.kind(path):
                return 404
            if path == BASE or any(self.members(path)):
                return 403
            self._do("DELETE FROM folder WHERE path = ?", path)
            return 204

    def _forget_bytes(self, file: sqlite3.Row) -> None:
        if file["on_disk"]:
            self._used -= file["size"]
        for place in (self._disk, self._tape):
            (place / file["bytes"]).unlink(missing_ok=True)

    # --- the tape API
    def stage(self, wanted: Mapping[str, float]) -> str:
        """Ask for files, each pinned for so many seconds once it is there; the request's id."""
        request, now = str(uuid4()), time.time()
        with self._transaction():
            self._do("INSERT INTO request (id, created) VALUES (?, ?)", request, now)
            self._count("requests")
            for path, lifetime in wanted.items():
                file = self.file(path)
                state, error = "SUBMITTED", None
                if file is None:
                    state, error = "FAILED", "no such file"
                elif file["lost"]:
                    state, error = "FAILED", f"lost on cartridge {file['cartridge']}"
                elif file["on_disk"]:
                    state = "COMPLETED"
                    self._do("UPDATE file SET used = ? WHERE path = ?", now, path)
                done = None if state == "SUBMITTED" else now
                pinned = now + lifetime if state == "COMPLETED" else None
                self._do(
                    "INSERT INTO staging VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    *(request, path, lifetime, state, error, done, done, pinned),
                )
            self._close_request(request)
            self._news.notify_all()
        return request

    def staged(self, request: str) -> dict[str, Any] | None:
        """How far a request is, as the API tells it."""
        with self._lock:
            head = self._row("SELECT * FROM request WHERE id = ?", request)
            if head is None:
                return None
            files = self._rows("SELECT * FROM staging WHERE request = ? ORDER BY path", request)
            on_disk = {path for path in (f["path"] for f in files) if (one := self.file(path)) and one["on_disk"]}
        told = [
            {"path": f["path"], "state": f["state"], "onDisk": f["path"] in on_disk and f["state"] == "COMPLETED"}
            | ({"error": f["error"]} if f["error"] else {})
            | ({"startedAt": int(f["started"])} if f["started"] else {})
            | ({"finishedAt": int(f["finished"])} if f["finished"] else {})
            for f in files
        ]
        times = {"createdAt": "created", "startedAt": "started", "completedAt": "completed"}
        return {"id": request} | {key: int(head[c]) for key, c in times.items() if head[c]} | {"files": told}

    def cancel(self, request: str, paths: Sequence[str]) -> int:
        """Bring these files no more; the HTTP status."""
        with self._transaction():
            if not self._one("SELECT 1 FROM request WHERE id = ?", request):
                return 404
            known = {row["path"] for row in self._rows("SELECT path FROM staging WHERE request = ?", request)}
            if not set(paths) <= known:
                return 400
            for path in paths:
                self._do(
                    """
                    UPDATE staging SET pinned = NULL, finished = coalesce(finished, ?),
                           state = CASE WHEN state IN ('SUBMITTED', 'STARTED') THEN 'CANCELLED' ELSE state END
                     WHERE request = ? AND path = ?
                    """,
                    *(time.time(), request, path),
                )
            self._close_request(request)
            self._drop_unpinned(paths)
            return 200

    def forget(self, request: str) -> int:
        """Cancel a request and know it no more; the HTTP status."""
        with self._transaction():
            paths = [row["path"] for row in self._rows("SELECT path FROM staging WHERE request = ?", request)]
            status = self.cancel(request, paths)
            self._do("DELETE FROM staging WHERE request = ?", request)
            self._do("DELETE FROM request WHERE id = ?", request)
            return status

    def release(self, request: str, paths: Sequence[str]) -> int:
        """Take the pins of a request off these files; the HTTP status."""
        with self._transaction():
            if not self._one("SELECT 1 FROM request WHERE id = ?", request):
                return 404
            for path in paths:
                self._do("UPDATE staging SET pinned = NULL WHERE request = ? AND path = ?", request, path)
            self._count("released", len(paths))
            self._drop_unpinned(paths)
            return 200

    def locality(self, path: str) -> dict[str, str]:
        """Where a file lies, as the API tells it."""
        file = self.file(path)
        if file is None:
            return {"path": path, "error": "no such file"}
        if file["lost"]:
            return {"path": path, "locality": "LOST"}
        if file["cartridge"] in self._away and not file["on_disk"]:
            return {"path": path, "locality": "UNAVAILABLE"}
        disk, tape = bool(file["on_disk"]), file["cartridge"] is not None
        return {"path": path, "locality": "DISK_AND_TAPE" if disk and tape else "DISK" if disk else "TAPE"}

    def _close_request(self, request: str) -> None:
        self._do(
            """
            UPDATE request SET completed = ?, started = coalesce(started, created)
             WHERE id = ? AND completed IS NULL
               AND NOT EXISTS (SELECT 1 FROM staging WHERE request = id AND state IN ('SUBMITTED', 'STARTED'))
            """,
            *(time.time(), request),
        )

    # --- the buffer
    def _make_room(self, size: int) -> None:
        """Have so many bytes free in the buffer, or raise NoRoom."""
        while self._used + size > self.machine.buffer:
            old = self._rows(
                """
                SELECT path, bytes, size FROM file
                 WHERE on_disk AND cartridge IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM staging s WHERE s.path = file.path AND s.pinned > ?)
                 ORDER BY used LIMIT 100
                """,
                time.time(),
            )
            if not old:
                raise NoRoom
            for file in old:
                if self._used + size > self.machine.buffer:
                    self._drop(file)

    def _drop_unpinned(self, paths: Sequence[str]) -> None:
        """A storage that keeps nothing drops what nobody pins."""
        if not self.machine.keep:
            for path in paths:
                file = self.file(path)
                pins = "SELECT 1 FROM staging WHERE path = ? AND pinned > ?"
                if file and file["on_disk"] and file["cartridge"] and not self._one(pins, path, time.time()):
                    self._drop(file)
        self._news.notify_all()

    def _drop(self, file: sqlite3.Row) -> None:
        self._do("UPDATE file SET on_disk = 0 WHERE path = ?", file["path"])
        self._used -= file["size"]
        (self._disk / file["bytes"]).unlink(missing_ok=True)
        self._count("dropped")

    # --- drives
    def _drive(self, number: int) -> None:
        while not self._stopping.is_set():
            with self._news:
                job = self._next_job(number)
                if job is None:
                    self._news.wait(0.2)
                    continue
                cartridge, writes = job
                mounted = self._mounted.get(number) == cartridge
                self._mounted[number] = cartridge
                if not mounted:
                    self._count("mounts")
            if not mounted:
                self._sleep(self.machine.mount_seconds)
            done = self._write(cartridge) if writes else self._read(cartridge)
            if not done:
                with self._news:
                    self._news.wait(0.2)  # the buffer is full, or another drive was faster

    def _next_job(self, number: int) -> tuple[str, bool] | None:
        """The cartridge to be read from, or to be written to, next: the one that is in the drive already, else the one
        most files are wanted from."""
        taken = {name for drive, name in self._mounted.items() if drive != number} | self._away
        wanted = [
            row["cartridge"]
            for row in self._rows(
                """
                SELECT f.cartridge, count(*) AS n FROM staging s JOIN file f USING (path)
                 WHERE s.state IN ('SUBMITTED', 'STARTED') GROUP BY 1 ORDER BY 2 DESC
                """
            )
            if row["cartridge"] is not None and row["cartridge"] not in taken
        ]
        mine = self._mounted.get(number)
        if wanted:
            return (mine if mine is not None and mine in wanted else wanted[0]), False
        due = time.time() - self.machine.migrate_after
        new = "SELECT 1 FROM file WHERE cartridge IS NULL AND modified < ? AND path NOT LIKE '%/.%' LIMIT 1"
        if not self._one(new, due):
            return None
        name = self._one("SELECT name FROM cartridge WHERE bytes < ? ORDER BY name LIMIT 1", self.machine.cartridge)
        if name is None:
            made: int = self._one("SELECT count(*) FROM cartridge")
            name = f"VOL{made + 1:04d}"
            self._do("INSERT INTO cartridge VALUES (?, 0, 0)", name)
        return None if name in taken else (name, True)

    def _read(self, cartridge: str) -> int:
        """Bring the files that are wanted from a cartridge, in the order in which they lie there."""
        with self._lock:
            files = self._rows(
                """
                SELECT DISTINCT f.* FROM staging s JOIN file f USING (path)
                 WHERE s.state IN ('SUBMITTED', 'STARTED') AND f.cartridge = ? ORDER BY f.position LIMIT ?
                """,
                *(cartridge, PIECE),
            )
        done = 0
        for file in files:
            if self._stopping.is_set():
                break
            path, now = file["path"], time.time()
            waits = "path = ? AND state IN ('SUBMITTED', 'STARTED')"
            with self._transaction():
                if not self._one(f"SELECT 1 FROM staging WHERE {waits}", path):  # noqa: S608
                    continue
                try:
                    self._make_room(file["size"])
                except NoRoom:
                    return done
                self._used += file["size"]  # reserved
                self._do(
                    f"UPDATE staging SET state = 'STARTED', started = coalesce(started, ?) WHERE {waits}",  # noqa: S608
                    *(now, path),
                )
            self._sleep(self.machine.file_seconds + file["size"] / self.machine.bytes_per_second)
            with self._transaction():
                done += self._brought(file, waits)
        return done

    def _brought(self, file: sqlite3.Row, waits: str) -> int:
        path, now = file["path"], time.time()
        error = self._fault(path)
        if not error and not (self._tape / file["bytes"]).exists():
            error = f"cannot be read from cartridge {file['cartridge']}"
        there = self.file(path)
        requests = [r["request"] for r in self._rows(f"SELECT request FROM staging WHERE {waits}", path)]  # noqa: S608
        if error or there is None or there["bytes"] != file["bytes"] or there["on_disk"] or not requests:
            self._used -= file["size"]
        else:
            target = self._disk / file["bytes"]
            target.unlink(missing_ok=True)
            os.link(self._tape / file["bytes"], target)
            self._do("UPDATE file SET on_disk = 1, used = ? WHERE path = ?", now, path)
            self._count("staged")
            self._count("staged_bytes", file["size"])
        self._do(
            f"""
            UPDATE staging SET state = ?, error = ?, finished = ?, pinned = CASE WHEN ? THEN NULL ELSE ? + lifetime END
             WHERE {waits}
            """,  # noqa: S608
            *("FAILED" if error else "COMPLETED", error or None, now, bool(error), now, path),
        )
        for request in requests:
            self._close_request(request)
        return 1

    def _write(self, cartridge: str) -> int:
        """Write new files to a cartridge, in the order in which they came."""
        with self._lock:
            files = self._rows(
                """
                SELECT * FROM file WHERE cartridge IS NULL AND modified < ? AND path NOT LIKE '%/.%'
                 ORDER BY modified LIMIT ?
                """,
                *(time.time() - self.machine.migrate_after, PIECE),
            )
        self._sleep(sum(self.machine.file_seconds + f["size"] / self.machine.bytes_per_second for f in files))
        done = 0
        with self._transaction():
            for file in files:
                room = self._row("SELECT bytes, files FROM cartridge WHERE name = ?", cartridge)
                there = self.file(file["path"])
                if there is None or there["bytes"] != file["bytes"] or room is None:
                    continue
                if room["bytes"] and room["bytes"] + file["size"] > self.machine.cartridge:
                    self._do("UPDATE cartridge SET bytes = ? WHERE name = ?", self.machine.cartridge, cartridge)
                    return done + 1
                with suppress(FileExistsError):  # linked before it was killed
                    os.link(self._disk / file["bytes"], self._tape / file["bytes"])
                self._do(
                    "UPDATE file SET cartridge = ?, position = ? WHERE path = ?",
                    *(cartridge, room["files"] + 1, file["path"]),
                )
                self._do(
                    "UPDATE cartridge SET bytes = bytes + ?, files = files + 1 WHERE name = ?",
                    *(file["size"], cartridge),
                )
                self._count("migrated")
                done += 1
            self._drop_unpinned([file["path"] for file in files])
        return done

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)

    # --- faults and statistics
    def control(self, order: Mapping[str, Any]) -> None:
        """Fail as asked: `fail` {path: error} brings each of these files not, `times` how often (for ever); `lose` and
        `damage` [paths] do that to what lies on tape; `unavailable` true or false: the tape API answers 503; `silent`
        n: the next n requests to stage are carried out and not answered; `away` [cartridges]; `forget` true: every
        request is forgotten; `drop` true: everything on tape leaves the buffer, pinned or not."""
        with self._transaction():
            for path, error in dict(order.get("fail", {})).items():
                self._faults[path] = [error, order.get("times", sys.maxsize)]
            for path in order.get("lose", ()):
                if file := self.file(path):
                    self._drop(file) if file["on_disk"] else None
                    (self._tape / file["bytes"]).unlink(missing_ok=True)
                    self._do("UPDATE file SET lost = 1 WHERE path = ?", path)
            for path in order.get("damage", ()):
                if file := self.file(path):
                    with (self._tape / file["bytes"]).open("r+b") as there:
                        first = there.read(1)
                        there.seek(0)
                        there.write(bytes([first[0] ^ 0xFF]) if first else b"")
            self.unavailable = bool(order.get("unavailable", self.unavailable))
            self.silent = int(order.get("silent", self.silent))
            self._away = set(order.get("away", self._away))
            if order.get("forget"):
                self._do("DELETE FROM staging")
                self._do("DELETE FROM request")
            if order.get("drop"):
                for file in self._rows("SELECT * FROM file WHERE on_disk AND cartridge IS NOT NULL"):
                    self._drop(file)
            self._news.notify_all()

    def statistics(self) -> dict[str, Any]:
        """What it did since it was made, and what it has now."""
        with self._lock:
            counted = {row["name"]: row["n"] for row in self._rows("SELECT * FROM counter")}
            places = "SELECT count(*) FILTER (WHERE on_disk) AS disk, count(cartridge) AS tape, count(*) AS n FROM file"
            now = self._row(places)
            pins = self._one("SELECT count(DISTINCT path) FROM staging WHERE pinned > ?", time.time())
            waiting = self._one("SELECT count(*) FROM staging WHERE state IN ('SUBMITTED', 'STARTED')")
            names = ("requests", "mounts", "staged", "staged_bytes", "migrated", "released", "dropped")
            return {name: counted.get(name, 0) for name in names} | {
                "files": now["n"] if now else 0,
                "on_disk": now["disk"] if now else 0,
                "on_tape": now["tape"] if now else 0,
                "pinned": pins,
                "waiting": waiting,
                "buffer_used": self._used,
                "buffer": self.machine.buffer,
            }

    def _fault(self, path: str) -> str:
        fault = self._faults.get(path)
        if not fault or fault[1] <= 0:
            return ""
        fault[1] -= 1
        return str(fault[0])

    def _count(self, name: str, by: int = 1) -> None:
        self._do(
            "INSERT INTO counter VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
            *(name, by),
        )

    # --- SQL
    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _do(self, query: str, *values: Any) -> None:
        self._db.execute(query, values)

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        cursor = self._db.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(query, values).fetchall()

    def _row(self, query: str, *values: Any) -> sqlite3.Row | None:
        found = self._rows(query, *values)
        return found[0] if found else None

    def _one(self, query: str, *values: Any) -> Any:
        line = self._db.execute(query, values).fetchone()
        return line[0] if line else None


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


# --- HTTP ------------------------------------------------------------------------------------------------------
class _Refusal(Exception):
    """An answer that says no: status, title."""


class _Handler(BaseHTTPRequestHandler):
    """One connection. The library is the server's."""

    protocol_version = "HTTP/1.1"
    server_version = "lightkeeper-tape"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    library: ClassVar[Library]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written for each request."""

    def _any(self) -> None:
        self._unread = True
        self.answered = False
        try:
            self._route()
        except _Refusal as refusal:
            status, title = refusal.args
            self._problem(status, title)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _any  # noqa: N815
    do_MOVE = do_MKCOL = do_PROPFIND = do_OPTIONS = do_COPY = _any  # noqa: N815

    def _route(self) -> None:
        path = urlsplit(self.path).path
        if path == WELL_KNOWN:
            self._only("GET")
            host = self.headers.get("Host", "")
            self._json(
                200,
                {
                    "sitename": "lightkeeper-tape",
                    "description": "a small tape storage to try things on",
                    "endpoints": [{"uri": f"http://{host}{API}", "version": "v1", "metadata": {}}],
                },
            )
        elif path.startswith(f"{API}/"):
            self._tape_api(path.removeprefix(f"{API}/").strip("/").split("/"))
        elif path == "/control":
            if self.command == "POST":
                self.library.control(self._body_as_json())
            self._json(200, self.library.statistics())
        else:
            self._webdav(self._name(path))

    def _tape_api(self, parts: list[str]) -> None:
        time.sleep(self.library.machine.latency)
        if self.library.unavailable:
            raise _Refusal(503, "The tape system is not available")
        match self.command, parts:
            case "POST", ["stage"]:
                request = self.library.stage(self._wanted())
                if self.library.silent > 0:
                    self.library.silent -= 1
                    self.close_connection = True
                    self.connection.close()
                    return
                host = self.headers.get("Host", "")
                self._json(201, {"requestId": request}, {"Location": f"http://{host}{API}/stage/{request}"})
            case "GET", ["stage", request]:
                told = self.library.staged(request)
                if told is None:
                    raise _Refusal(404, "Stage request not found")
                self._json(200, told)
            case "DELETE", ["stage", request]:
                self._done(self.library.forget(request))
            case "POST", ["stage", request, "cancel"]:
                self._done(self.library.cancel(request, self._paths()))
            case "POST", ["release", request]:
                self._done(self.library.release(request, self._paths()))
            case "POST", ["archiveinfo"]:
                self._json(200, [self.library.locality(path) for path in self._paths()])
            case _:
                raise _Refusal(404, "No such resource")

    def _done(self, status: int) -> None:
        if status != 200:
            titles = {404: "Stage request not found", 400: "File missing from stage request"}
            raise _Refusal(status, titles.get(status, "Refused"))
        self._answer(200)

    def _wanted(self) -> dict[str, float]:
        body = self._body_as_json()
        files = body.get("files") if isinstance(body, dict) else None
        if not isinstance(files, list) or not files:
            raise _Refusal(400, "JSON Validation error")
        wanted: dict[str, float] = {}
        for file in cast("list[Any]", files):
            if not isinstance(file, dict) or not isinstance(file.get("path"), str):
                raise _Refusal(400, "JSON Validation error")
            wanted[file["path"]] = _seconds(file.get("diskLifetime"))
        return wanted

    def _paths(self) -> list[str]:
        body = self._body_as_json()
        paths = body.get("paths") if isinstance(body, dict) else None
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in cast("list[Any]", paths)):
            raise _Refusal(400, "JSON Validation error")
        return cast("list[str]", paths)

    # --- WebDAV
    def _webdav(self, path: str) -> None:
        match self.command:
            case "OPTIONS":
                self._answer(200, {"DAV": "1", "Allow": "OPTIONS, GET, HEAD, PUT, DELETE, MOVE, MKCOL, PROPFIND"})
            case "PROPFIND":
                self._propfind(path)
            case "GET" | "HEAD":
                self._get(path)
            case "PUT":
                self._put(path)
            case "MKCOL":
                self._answer(self.library.make_folder(path))
            case "DELETE":
                self._answer(self.library.remove(path))
            case "MOVE":
                target = self._name(urlsplit(self.headers.get("Destination", "")).path)
                overwrite = self.headers.get("Overwrite", "T").upper() != "F"
                self._answer(self.library.rename(path, target, overwrite=overwrite))
            case _:
                raise _Refusal(501, "Not implemented")

    def _name(self, quoted: str) -> str:
        try:
            parts = [unquote(part, errors="strict") for part in quoted.split("/") if part]
        except UnicodeDecodeError:
            raise _Refusal(400, "The name is no text") from None
        if any(p in (".", "..") or "/" in p or "\0" in p or len(p.encode()) > LONGEST_NAME for p in parts):
            raise _Refusal(400, "The name cannot be one")
        return "/" + "/".join(parts)

    def _propfind(self, path: str) -> None:
        self._read_body()
        kind = self.library.kind(path)
        if not kind:
            raise _Refusal(404, "Not found")
        told = ['<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:">']
        if kind == "file" and (file := self.library.file(path)):
            told.append(_file_xml(file))
        else:
            told.append(_folder_xml(path))
            if self.headers.get("Depth", "1") != "0":
                folders, files = self.library.members(path)
                told += [_folder_xml(folder) for folder in folders]
                told += [_file_xml(file) for file in files]
        body = "".join([*told, "</D:multistatus>"]).encode()
        self._answer(207, {"Content-Type": "application/xml; charset=utf-8"}, body)

    def _get(self, path: str) -> None:
        if self.command == "HEAD":
            file = self.library.file(path)
            if file is None:
                raise _Refusal(404, "Not found")
            digest = {"Digest": f"adler32={file['adler32']}"} if "Want-Digest" in self.headers else {}
            self._head(200, _about(file) | digest, file["size"])
            return
        found = self.library.open(path)
        if isinstance(found, int):
            raise _Refusal(found, "It lies on tape: stage it first" if found == 503 else "Not found")
        row, file = found
        with file:
            first, last, status, ranged = 0, row["size"] - 1, 200, {}
            if match := _RANGE.match(self.headers.get("Range", "")):
                first, last = int(match[1]), min(int(match[2] or last), last)
                if first > last:
                    raise _Refusal(416, "Range")
                status, ranged = 206, {"Content-Range": f"bytes {first}-{last}/{row['size']}"}
            self._head(status, _about(row) | ranged, last - first + 1)
            file.seek(first)
            left = last - first + 1
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)

    def _put(self, path: str) -> None:
        with self.library.incoming() as (temporary, file):
            size, adler32 = 0, zlib.adler32(b"")
            for chunk in self._body():
                file.write(chunk)
                size += len(chunk)
                adler32 = zlib.adler32(chunk, adler32)
            file.flush()
            os.fsync(file.fileno())
            status = self.library.keep(path, temporary, size, f"{adler32:08x}")
        self._answer(status)

    # --- bodies
    def _body(self) -> Iterator[bytes]:
        self._unread = False
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline(100).split(b";")[0].strip() or b"-", 16):
                yield from self._exactly(size)
                self.rfile.readline(10)
            while self.rfile.readline(1000).strip():
                pass
        else:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self.rfile.read(min(size, CHUNK))
            if not chunk:
                raise ConnectionError("the sender went away")
            size -= len(chunk)
            yield chunk

    def _read_body(self) -> bytes:
        if int(self.headers.get("Content-Length") or 0) > LONGEST_BODY:
            self.close_connection = True
            raise _Refusal(413, "Too large")
        return b"".join(self._body())

    def _body_as_json(self) -> Any:
        try:
            return json.loads(self._read_body())
        except ValueError:
            raise _Refusal(400, "JSON Validation error") from None

    # --- answers
    def _only(self, method: str) -> None:
        if self.command != method:
            raise _Refusal(405, "Method not allowed")

    def _problem(self, status: int, title: str) -> None:
        body = json.dumps({"title": title, "status": status, "detail": title, "type": "about:blank"}).encode()
        headers = {"Content-Type": "application/problem+json"} | ({"Retry-After": "30"} if status == 503 else {})
        self._answer(status, headers, body)

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, {"Content-Type": "application/json"} | dict(headers or {}), json.dumps(value).encode())

    def _answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self._head(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        if self._unread:
            if self.headers.get("Transfer-Encoding") or int(self.headers.get("Content-Length") or 0) > LONGEST_BODY:
                self.close_connection = True
            else:
                for _ in self._body():
                    pass
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _seconds(duration: object) -> float:
    """Seconds of an ISO 8601 duration, or of a number; a day when none is given."""
    if duration is None:
        return DAY
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return float(duration)
    match = _DURATION.match(duration) if isinstance(duration, str) else None
    if match is None or not any(match.groups()):
        raise _Refusal(400, "JSON Validation error")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return days * DAY + hours * 3600 + minutes * 60 + seconds


def _about(file: sqlite3.Row) -> dict[str, str]:
    return {
        "ETag": f'"{file["bytes"]}"',
        "Last-Modified": formatdate(file["modified"], usegmt=True),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
    }


def _href(path: str) -> str:
    return "/".join(quote(part, safe="") for part in path.split("/"))


def _folder_xml(path: str) -> str:
    return (
        f"<D:response><D:href>{_href(path.rstrip('/'))}/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/>"
        "</D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


def _file_xml(file: sqlite3.Row) -> str:
    return (
        f"<D:response><D:href>{_href(file['path'])}</D:href><D:propstat><D:prop><D:resourcetype/>"
        f"<D:getcontentlength>{file['size']}</D:getcontentlength>"
        f"<D:getlastmodified>{formatdate(file['modified'], usegmt=True)}</D:getlastmodified>"
        "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


class TapeServer:
    """The server, in threads of this process. Made again on the same folder it goes on where it was."""

    def __init__(self, folder: Path, machine: Machine | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.library = Library(folder, machine or Machine())
        handler = type("Handler", (_Handler,), {"library": self.library})
        self._http = ThreadingHTTPServer((host, port), handler)
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_port}"
        self.root = self.url + BASE
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="tape", daemon=True)

    def start(self) -> "TapeServer":
        """Answer from now on."""
        self.library.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.library.stop()

    def __enter__(self) -> "TapeServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lightkeeper.testing.tape_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="where everything is kept")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8444, help="port to listen on; 0: any")
    for field in fields(Machine):
        option = f"--{field.name.replace('_', '-')}"
        if field.type is bool or isinstance(field.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = int if isinstance(field.default, int) else float
            parser.add_argument(option, type=kind, default=field.default, help=f"({field.default})")
    given = parser.parse_args()
    machine = Machine(**{field.name: getattr(given, field.name) for field in fields(Machine)})
    with TapeServer(given.folder, machine, host=given.host, port=given.port) as server:
        print(f"storage root: {server.root}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
