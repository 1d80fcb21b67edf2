"""A small FTS3: its REST interface as far as `mover_fts` uses it, and real copies. For tests and trials.

    with fts({"root://here//data": XrootdStorage(...), ...}) as service:
        FtsMover(service.url)

It copies between storages that are given with the beginning of their addresses, a few files at a time, by priority, and
keeps states as FTS does: SUBMITTED, READY, ACTIVE, then FINISHED, FAILED or CANCELED. What real services do at their
worst it does when told to: fail files, lose the answer to a submission, forget jobs, stop answering, refuse expired
credentials, be started again.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID, uuid1, uuid5

from lightkeeper.domain.errors import LightkeeperError
from lightkeeper.domain.fixity import chunks_of
from lightkeeper.ports import Storage

BASE = UUID("01874efb-4735-4595-bc9c-591aef8240c9")
VO = "ctao"
ACTIVE = ("SUBMITTED", "READY", "ACTIVE")


@dataclass
class _File:
    file_id: int
    source: str
    target: str
    state: str = "SUBMITTED"
    reason: str = ""
    transferred: int = 0
    metadata: Any = None


@dataclass
class _Job:
    job_id: str
    files: list[_File]
    priority: int
    metadata: Any
    submitted: float = field(default_factory=time.time)

    @property
    def state(self) -> str:
        states = {file.state for file in self.files}
        if states & {"ACTIVE", "READY"}:
            return "ACTIVE"
        if "SUBMITTED" in states:
            return "SUBMITTED" if states == {"SUBMITTED"} else "ACTIVE"
        return states.pop() if len(states) == 1 else "CANCELED" if "CANCELED" in states else "FINISHEDDIRTY"


class Fts:
    """A running service and what it can be told to do wrong."""

    def __init__(self, endpoints: Mapping[str, Storage], at_once: int) -> None:
        self.url = ""
        self.endpoints = dict(endpoints)
        self.at_once = at_once
        self.submissions = 0
        self.most_active = 0
        self.begun: list[str] = []
        self.lose_answers = 0
        """So many submissions are carried out and not answered."""
        self.refuse = ""
        """Every request is turned away: this is the reason, as of credentials that expired."""
        self.silent = False
        """No request is answered."""
        self.held = False
        """Nothing more is begun."""
        self.failing: Callable[[str], str] = lambda _address: ""
        """Of a target's address: why this file fails now; empty when it does not."""
        self._jobs: dict[str, _Job] = {}
        self._numbers = 0
        self._changed = threading.Condition()
        self._over = False

    # --- what a test asks --------------------------------------------------------------------------------
    def jobs(self) -> dict[str, str]:
        """State of every job it knows."""
        with self._changed:
            return {job.job_id: job.state for job in self._jobs.values()}

    def files(self) -> list[tuple[str, str]]:
        """Target and state of every file it knows."""
        with self._changed:
            return [(file.target, file.state) for job in self._jobs.values() for file in job.files]

    def forget(self) -> None:
        """Forget every job that has ended, as it does after some days."""
        with self._changed:
            self._jobs = {number: job for number, job in self._jobs.items() if job.state in ACTIVE}

    def restart(self) -> None:
        """Be started again: what was being copied is begun once more, nothing is forgotten."""
        with self._changed:
            for job in self._jobs.values():
                for file in job.files:
                    if file.state in ("ACTIVE", "READY"):
                        file.state = "SUBMITTED"
            self._changed.notify_all()

    # --- what clients ask --------------------------------------------------------------------------------
    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any] | None:
        """Status and JSON; None when the answer is lost."""
        if self.refuse:
            return 419, {"status": "419 Authentication Timeout", "message": self.refuse}
        match method, path.strip("/").split("/"):
            case "GET", ["whoami"]:
                return 200, {"base_id": str(BASE), "vos": [VO], "vos_id": [str(uuid5(BASE, VO))], "user_dn": "/CN=test"}
            case "POST", ["jobs"]:
                return self._submit(json.loads(body))
            case "GET", ["jobs"]:
                wanted = query.get("state_in", [",".join(ACTIVE)])[0].split(",")
                with self._changed:
                    return 200, [_told(job) for job in self._jobs.values() if job.state in wanted]
            case "GET", ["jobs", number, *files]:
                with self._changed:
                    job = self._jobs.get(number)
                    if job is None:
                        return 404, {
                            "status": "404 Not Found",
                            "message": f'No job with the id "{number}" has been found',
                        }
                    if files == ["files"]:
                        return 200, [_told_of(file) for file in job.files]
                    asked = query.get("files", [""])[0].split(",")
                    some = [{key: value for key, value in _told_of(f).items() if key in asked} for f in job.files]
                    return 200, _told(job) | ({"files": some} if asked != [""] else {}) | {"http_status": "200 Ok"}
            case "DELETE", ["jobs", number, *files]:
                return self._cancel(number, files[1].split(",") if files[:1] == ["files"] else None)
            case _:
                return 404, {"status": "404 Not Found", "message": "no such resource"}

    def _submit(self, asked: Any) -> tuple[int, Any] | None:
        params = asked.get("params") or {}
        files = asked.get("files") or []
        if not files or not all(file.get("sources") and file.get("destinations") for file in files):
            return 400, {"status": "400 Bad Request", "message": "No valid pairs available"}
        number = str(uuid1())
        if params.get("id_generator") == "deterministic":
            number = str(uuid5(uuid5(BASE, VO), str(params["sid"])))
        with self._changed:
            if number in self._jobs:
                return 409, {"status": "409 Conflict", "message": "The sid provided by the user is duplicated"}
            made: list[_File] = []
            for file in files:
                self._numbers += 1
                made.append(
                    _File(self._numbers, file["sources"][0], file["destinations"][0], metadata=file.get("metadata"))
                )
            priority = int(params.get("priority") or 3)
            self._jobs[number] = _Job(number, made, priority, params.get("job_metadata"))
            self.submissions += 1
            self._changed.notify_all()
            if self.lose_answers:
                self.lose_answers -= 1
                return None
        return 200, {"job_id": number}

    def _cancel(self, number: str, only: list[str] | None) -> tuple[int, Any]:
        with self._changed:
            job = self._jobs.get(number)
            if job is None:
                return 404, {"status": "404 Not Found", "message": f'No job with the id "{number}" has been found'}
            for file in job.files:
                if file.state in ACTIVE and (only is None or str(file.file_id) in only):
                    file.state, file.reason = "CANCELED", "Job canceled by the user"
            return 200, _told(job) | {"http_status": "200 Ok"}

    # --- copying -----------------------------------------------------------------------------------------
    def work(self) -> None:
        """Copy what waits, until it is over. In several threads."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._next() is not None)
                if self._over:
                    return
                file = self._next()
                if file is None:
                    continue
                file.state = "ACTIVE"
                self.begun.append(file.target)
                active = sum(f.state == "ACTIVE" for job in self._jobs.values() for f in job.files)
                self.most_active = max(self.most_active, active)
            why = self._copy(file)
            with self._changed:
                if file.state == "ACTIVE":
                    file.state, file.reason = ("FAILED", why) if why else ("FINISHED", "")
                self._changed.notify_all()

    def _next(self) -> _File | None:
        if self.held:
            return None
        waiting = [
            (-job.priority, job.submitted, file.file_id, file)
            for job in self._jobs.values()
            for file in job.files
            if file.state == "SUBMITTED"
        ]
        return min(waiting)[3] if waiting else None

    def _copy(self, file: _File) -> str:
        why = self.failing(file.target)
        if why:
            return why
        try:
            source, source_path = self._place(file.source)
            target, target_path = self._place(file.target)
        except KeyError:
            return f"SOURCE [22] no such endpoint: {file.source}"
        try:
            opened = source.open(source_path)
        except LightkeeperError as error:
            return f"SOURCE [2] {error.message}"
        try:
            with opened:
                file.transferred = target.write(target_path, chunks_of(opened))
        except LightkeeperError as error:
            return f"TRANSFER [5] {error.message}"
        return ""

    def _place(self, address: str) -> tuple[Storage, str]:
        for begin, storage in self.endpoints.items():
            if address.startswith(f"{begin}/"):
                return storage, unquote(address.removeprefix(begin))
        raise KeyError(address)

    def stop(self) -> None:
        """End its threads."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def begin(self) -> None:
        """Go on with what was held."""
        with self._changed:
            self.held = False
            self._changed.notify_all()


def _told(job: _Job) -> dict[str, Any]:
    return {"job_id": job.job_id, "job_state": job.state, "job_metadata": job.metadata, "priority": job.priority}


def _told_of(file: _File) -> dict[str, Any]:
    return {
        "file_id": file.file_id,
        "file_state": file.state,
        "source_surl": file.source,
        "dest_surl": file.target,
        "reason": file.reason,
        "transferred": file.transferred,
        "file_metadata": file.metadata,
    }


@contextmanager
def fts(endpoints: Mapping[str, Storage], at_once: int = 4) -> Iterator[Fts]:
    """A service on loopback that copies between `endpoints`, storages by the beginning of their addresses."""
    service = Fts(endpoints, at_once)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            answer = None if service.silent else service.answer(self.command, parts.path, parse_qs(parts.query), body)
            if answer is None:
                self.close_connection = True
                return
            content = json.dumps(answer[1]).encode()
            with suppress(OSError):  # whoever asked has gone
                self.send_response(answer[0])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None: ...

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    threads = [threading.Thread(target=service.work, name="fts") for _ in range(at_once)]
    threads.append(threading.Thread(target=server.serve_forever, args=(0.05,), name="fts"))
    for thread in threads:
        thread.start()
    try:
        yield service
    finally:
        service.stop()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()
