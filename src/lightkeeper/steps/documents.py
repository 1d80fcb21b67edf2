"""Production documents and templates are read in a process of their own, which can open nothing and not grow for ever.

Before: a person wrote the document.    After: produce.py makes transformations of the plan.
One helper per program is started when the first document comes; it makes a process for each document, from itself, so
that nothing is loaded twice. Whatever a document does to its reader, it is refused within SECONDS.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from typing import IO, Any, cast

from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound, errors_by_code, nearest
from lightkeeper.domain.work import Companion, PlannedStep, ProductionPlan
from lightkeeper.ports import Observatory

SECONDS = 15
"""For one document, on a machine that does other things too."""
MEMORY = 2 << 30
"""Bytes of address space; what is loaded already is part of it."""
IDLE = 300
"""Seconds after which a helper that nobody asks ends."""
PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL")
"""Of the environment; the rest may hold secrets."""
MAX_ANSWER = 64_000_000
MAX_DOCUMENT = 1_000_000

Datasets = Callable[[str], Mapping[str, Any]]


# --- this side -------------------------------------------------------------------------------------------------
def read_document(
    observatory: Observatory, document: str, sandbox: Mapping[str, bytes], dataset: Datasets
) -> ProductionPlan:
    """The plan of a document as the observatory's reader finds it; raises Invalid. `sandbox`: files beside it by name;
    `dataset` the conditions of a dataset by its name, or NotFound."""
    return _helper.plan(observatory, document, sandbox, dataset)


def read_template(observatory: Observatory, template: str, kind: str) -> Mapping[str, str]:
    """The documents of a campaign by the names of their files; raises Invalid."""
    return _helper.campaign(observatory, template, kind)


def change_document(observatory: Observatory, document: str, changes: Mapping[str, str]) -> str:
    """The document with other values for some of its settings; raises Invalid."""
    return _helper.change(observatory, document, changes)


class Helper:
    """The process that reads, as long as it lives. One document at a time, each within `seconds` and `memory` bytes."""

    def __init__(self, seconds: int = SECONDS, memory: int = MEMORY) -> None:
        self._seconds = seconds
        self._memory = memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def plan(
        self, observatory: Observatory, document: str, sandbox: Mapping[str, bytes], dataset: Datasets
    ) -> ProductionPlan:
        """The plan of a document; raises Invalid."""
        files = {name: content.decode("latin-1") for name, content in sandbox.items()}
        return _plan(self._ask(observatory, document, {"sandbox": files}, dataset)["plan"])

    def campaign(self, observatory: Observatory, template: str, kind: str) -> Mapping[str, str]:
        """The documents of a template; raises Invalid."""
        return self._ask(observatory, template, {"kind": kind}, _no_dataset)["documents"]

    def change(self, observatory: Observatory, document: str, changes: Mapping[str, str]) -> str:
        """The document with other values for some of its settings; raises Invalid."""
        return self._ask(observatory, document, {"changes": dict(changes)}, _no_dataset)["document"]

    def end(self) -> None:
        """End the process; the next document starts another."""
        with self._lock:
            self._end()

    def _ask(
        self, observatory: Observatory, text: str, question: Mapping[str, Any], dataset: Datasets
    ) -> Mapping[str, Any]:
        """Have the question answered; a helper that does not is ended."""
        if len(text) > MAX_DOCUMENT:
            raise Invalid(f"the document has {len(text)} characters", hint=f"at most {MAX_DOCUMENT} are read")
        kind = type(observatory)
        limits = {"seconds": self._seconds, "memory": self._memory}
        asked = {**question, **limits, "observatory": [kind.__module__, kind.__qualname__], "text": text}
        with self._lock:
            deadline = time.monotonic() + self._seconds
            process = self._started()
            try:
                self._send(process, asked)
                while "dataset" in (answer := self._receive(process, deadline)):
                    self._send(process, _told(lambda name=answer["dataset"]: {"query": dict(dataset(name))}))
            except (OSError, ValueError) as error:
                self._end()
                raise Invalid(
                    f"the document could not be read within {self._seconds} seconds and {self._memory >> 20} MB",
                    hint="it is nested, repeated or long beyond what a production needs",
                ) from error
        if "error" in answer:
            raise _rebuilt(answer["error"])
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        if self._owner == os.getpid():
            self._end()
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
            env={name: value for name, value in os.environ.items() if name in PASSED_ON},
        )
        return self._process

    def _send(self, process: subprocess.Popen[bytes], message: Mapping[str, Any]) -> None:
        _write(cast(IO[bytes], process.stdin).fileno(), message)

    def _receive(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
        return _read(cast(IO[bytes], process.stdout).fileno(), deadline)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _no_dataset(name: str) -> Mapping[str, Any]:
    raise NotFound(f"there is no dataset '{name}' here")


_helper = Helper()


def _plan(told: Mapping[str, Any]) -> ProductionPlan:
    """The plan as it was before it was JSON."""
    steps: list[PlannedStep] = []
    for step in told["steps"]:
        facts: dict[str, Any] = {**step, **{name: tuple(step[name]) for name in ("files", "tags", "feeders", "sites")}}
        facts["companions"] = tuple(Companion(**companion) for companion in step["companions"])
        steps.append(PlannedStep(**facts))
    return ProductionPlan(tuple(steps), told["campaign"], tuple(told["warnings"]), tuple(told["missing"]))


# --- the other side --------------------------------------------------------------------------------------------
def main() -> None:
    """Read documents until nobody is there any more: each in a process of its own, made from this one."""
    while True:
        try:
            question = _read(0, time.monotonic() + IDLE)
            _observatory(question)  # loaded here, so that every process after this one has it
        except (OSError, ValueError):
            return
        child = os.fork()
        if child == 0:
            try:
                _answer(question)
            except MemoryError:
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            return


def _answer(question: Mapping[str, Any]) -> None:
    observatory = _observatory(question)
    reader, writer = observatory.production_reader(), observatory.campaigns()
    resource.setrlimit(resource.RLIMIT_AS, (question["memory"], question["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (question["seconds"], question["seconds"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # what is open stays open; no file, no socket can be opened
    if "kind" in question:
        _write(1, _told(lambda: {"documents": dict(writer.documents(question["text"], question["kind"]))}))
        return
    if "changes" in question:
        _write(1, _told(lambda: {"document": writer.change(question["text"], question["changes"])}))
        return
    sandbox: dict[str, str] = question["sandbox"]

    def fetch(name: str) -> bytes:
        if name not in sandbox:
            raise NotFound(f"there is no file '{name}' beside the document", hint=nearest(name, sandbox))
        return sandbox[name].encode("latin-1")

    def dataset(name: str) -> Mapping[str, Any]:
        _write(1, {"dataset": name})
        told = _read(0, time.monotonic() + question["seconds"])
        if "error" in told:
            raise _rebuilt(told["error"])
        return told["query"]

    _write(1, _told(lambda: {"plan": asdict(reader.read(question["text"], sandbox=fetch, dataset=dataset))}))


def _observatory(question: Mapping[str, Any]) -> Observatory:
    module, name = question["observatory"]
    return getattr(import_module(module), name)()


# --- what both say ---------------------------------------------------------------------------------------------
def _told(make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `make` returns, or the error that it raises."""
    try:
        return make()
    except LightkeeperError as error:
        return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def _rebuilt(error: Mapping[str, str]) -> LightkeeperError:
    kind = errors_by_code().get(error["code"], LightkeeperError)
    return kind(error["message"], hint=error["hint"])


def _write(pipe: int, message: Mapping[str, Any]) -> None:
    text = json.dumps(message).encode()
    data = memoryview(len(text).to_bytes(8, "big") + text)
    while data:
        data = data[os.write(pipe, data) :]


def _read(pipe: int, deadline: float) -> dict[str, Any]:
    """One message; raises OSError when none comes in time, or the other side is gone."""
    length = int.from_bytes(_exactly(pipe, 8, deadline), "big")
    if length > MAX_ANSWER:
        raise ValueError("a message too long")
    return json.loads(_exactly(pipe, length, deadline))


def _exactly(pipe: int, length: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while length:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError("no answer in time")
        part = os.read(pipe, min(length, 1 << 16))
        if not part:
            raise OSError("the other side is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
