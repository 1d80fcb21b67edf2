"""Step 1, beside: the processes that read deliveries, so that a file which crashes, hangs or swells takes only itself.

Each process is served by a thread of ours. It is given some files at a time, and says which of them it is at: when it
ends, that one is what ended it, and the others go to the next process. A file that takes longer than STUCK seconds
holds up nobody: the files beside it are given to others, and when nothing moves its process gets a substitute, until it
is done or is ended. What a process tells is text and is checked: a file may have got the better of it.
"""

import atexit
import base64
import json
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from queue import Empty, SimpleQueue

from lightkeeper.context import Context
from lightkeeper.domain.delivering import Found
from lightkeeper.domain.errors import LightkeeperError, Unavailable
from lightkeeper.ports import LocalStorage
from lightkeeper.steps.reading import Reading
from lightkeeper.steps.verifying import BEAT, NO_MEMORY, NUMBER, READY, SECONDS

WINDOW, LEAST = 256, 64
"""Files that a process is given at a time, and those it has left when it is given more: so it never waits."""
STUCK = 2.0
MOST_STUCK = 16
"""Processes that wait for files on which nothing moves, beside those that work."""
START = 60.0
"""Seconds within which a process must be ready."""
LONGEST = 16 << 20
"""Bytes of an answer."""


@dataclass(frozen=True, slots=True)
class Order:
    """A delivery to be read, and where its Reading is wanted, with its number and beside others. `storage` is from
    `pickled`."""

    number: int
    storage: str
    path: str
    answers: "SimpleQueue[list[tuple[int, Reading]]]"


def pickled(storage: LocalStorage) -> str:
    """A storage as an Order names it."""
    return base64.b64encode(pickle.dumps(storage)).decode()


def verifier(ctx: Context) -> "Verifier":
    """The processes of this program for the readers of `ctx`; they are started when they are first needed."""
    settings = ctx.settings
    setup: dict[str, object] = {
        "path": sys.path,
        "readers": base64.b64encode(pickle.dumps(ctx.product_readers)).decode(),
        "memory": settings.ingest_memory_mb << 20,
    }
    return _verifier(json.dumps(setup), settings.ingest_processes, settings.ingest_silence.total_seconds())


@cache
def _verifier(setup: str, processes: int, patience: float) -> "Verifier":
    return Verifier(setup, processes, patience)


class Verifier:
    """Reads deliveries in processes of their own, which end with this program. Thread-safe."""

    def __init__(self, setup: str, processes: int, patience: float) -> None:
        """`setup` is what verifying.py is told first; what does not move for `patience` seconds is ended."""
        self._setup = setup
        self._patience = patience
        self._waiting: SimpleQueue[Order] = SimpleQueue()
        self._lock = threading.Lock()
        self._stuck = 0
        for _ in range(processes):
            self._serve_beside()

    def read(self, orders: Iterable[Order]) -> None:
        """Have these read. Each is answered once, whatever happens."""
        for order in orders:
            self._waiting.put(order)

    def _serve_beside(self) -> None:
        threading.Thread(target=self._serve, name="verify", daemon=True).start()

    def _serve(self) -> None:
        """Have one process after the other read what waits, until a substitute has taken this place."""
        substituted = False
        while not substituted:
            hand = _numbered(self._waiting.get())
            try:
                with _Process(self._setup) as process:
                    substituted = self._keep_busy(process, hand)
            except Unavailable as error:
                _answer(hand.copy(), Reading(Found.AWAY, why=error.message))
                hand.clear()
                time.sleep(1)
            self.read(hand.values())
        with self._lock:
            self._stuck -= 1

    def _keep_busy(self, process: "_Process", hand: "_Hand") -> bool:
        """Have `hand`, and what comes, read by a process until it ends, or must; what it leaves in `hand` has not been
        read. Whether a substitute has taken its place."""
        process.give(hand)
        shared = substituted = False
        answered = moved = time.monotonic()
        while hand:
            told = process.hear(0.2)
            now = time.monotonic()
            if told is None:
                _answer(process.at(hand), process.epitaph())
                break
            for line in told:
                moved = now
                if line != BEAT:
                    answered = now
                    if not _take(line, hand):
                        _answer(process.at(hand), Reading(Found.CRASHED, why="what was told of it is no answer"))
                        return substituted
            if told and (shared or substituted):
                if answered == now:
                    break  # it would go on with what was given to others
            elif told:
                if not hand:
                    hand.update(_numbered(self._waiting.get()))
                    if process.has_ended():
                        break  # while it had nothing to do
                    process.give(hand)
                    answered = moved = time.monotonic()
                self._fill(hand, process)
            elif now - moved > self._patience:
                _answer(process.at(hand), process.given_up(self._patience))
                break
            if now - answered > STUCK and not shared:
                stuck = process.at(hand)
                shared = bool(hand)
                self.read(hand.values())
                hand.clear()
                hand.update(stuck)
            if now - moved > STUCK and not substituted:
                substituted = self._substitute()
        return substituted

    def _fill(self, hand: "_Hand", process: "_Process") -> None:
        """Give a process more of what waits, if anything does, and it has not much left."""
        if len(hand) > LEAST:
            return
        new: _Hand = {}
        with suppress(Empty):
            while len(new) < WINDOW:
                new.update(_numbered(self._waiting.get_nowait()))
        process.give(new)
        hand.update(new)

    def _substitute(self) -> bool:
        with self._lock:
            if self._stuck == MOST_STUCK:
                return False
            self._stuck += 1
        self._serve_beside()
        return True


_Hand = dict[int, Order]
"""What a process has been given and has not answered, by a number of its own."""
_numbers = count()


def _numbered(order: Order) -> _Hand:
    return {next(_numbers): order}


def _answer(orders: _Hand, reading: Reading) -> None:
    for order in orders.values():
        order.answers.put([(order.number, reading)])


def _take(line: bytes, hand: _Hand) -> bool:
    """Take what was read out of `hand` and answer it; False when the line is no answer."""
    try:
        told = [(number, Reading.from_json(reading)) for number, reading in json.loads(line)]
    except (ValueError, TypeError, RecursionError, LightkeeperError):
        return False
    by_queue: dict[int, tuple[Order, list[tuple[int, Reading]]]] = {}
    for number, reading in told:
        order = hand.pop(number, None)
        if order:
            by_queue.setdefault(id(order.answers), (order, []))[1].append((order.number, reading))
    for order, those in by_queue.values():
        order.answers.put(those)
    return True


class _Process:
    """One process that reads deliveries; ended when the block is left."""

    def __init__(self, setup: str) -> None:
        """Raises Unavailable when it does not become ready."""
        shared = os.memfd_create("verify", os.MFD_CLOEXEC)
        os.ftruncate(shared, mmap.PAGESIZE)
        self._shared = mmap.mmap(shared, mmap.PAGESIZE)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "lightkeeper.steps.verifying", str(shared)]
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=[shared],
            )
        except OSError as error:
            raise Unavailable(f"a process that reads deliveries cannot be started: {error.strerror}") from error
        finally:
            os.close(shared)
        atexit.register(self.end)  # not a moment longer than this program
        assert self._child.stdin and self._child.stdout  # noqa: S101  # they were asked for
        self._orders, self._answers = self._child.stdin, self._child.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._rest = b""
        self._cpu: float | None = None  # what it had used when it fell silent
        self._write(setup.encode() + b"\n")
        told = self.hear(START)
        if told != [READY]:
            self.end()
            raise Unavailable(f"a process that reads deliveries does not start: {told}")

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def give(self, hand: _Hand) -> None:
        """Have these read."""
        lines = (json.dumps([number, order.storage, order.path]) + "\n" for number, order in hand.items())
        self._write("".join(lines).encode())

    def at(self, hand: _Hand) -> _Hand:
        """Take out of `hand` what it is at; what it has had for the longest time when it tells nonsense."""
        (number,) = NUMBER.unpack_from(self._shared, 0)
        number = number if number in hand else next(iter(hand))
        return {number: hand.pop(number)}

    def hear(self, patience: float) -> list[bytes] | None:
        """The lines that it told meanwhile, as soon as there are any; None when it has ended, or tells nonsense."""
        if not self._poll.poll(patience * 1000):
            self._cpu = self._used() if self._cpu is None else self._cpu
            return []
        self._cpu = None
        data = os.read(self._answers, 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if (not data and not lines) or len(self._rest) > LONGEST:
            return None
        return lines

    def has_ended(self) -> bool:
        """Whether it is dead."""
        return self._child.poll() is not None

    def epitaph(self) -> Reading:
        """What is to be said of the file on which it ended."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(10)  # it has closed its output, or tells nonsense
        match self._child.poll():
            case None:
                why = "the process that read it told nonsense"
            case code if code == NO_MEMORY:
                why = "reading it takes more memory than a file may"
            case code if code == -signal.SIGXCPU:
                why = f"reading it takes more than {SECONDS} s of processor time"
            case code if code < 0:
                why = f"the process that read it ended with {signal.Signals(-code).name}"
            case code:
                why = f"the process that read it ended with status {code}"
        return Reading(Found.CRASHED, why=why)

    def given_up(self, patience: float) -> Reading:
        """What is to be said of the file on which nothing moves: a reader that only works is at fault, a storage that
        does not answer is not the file's fault."""
        if self._used() - (self._cpu or 0.0) > patience / 10:
            return Reading(Found.CRASHED, why=f"its reader came to no end within {patience:g} s")
        return Reading(Found.SILENT, why=f"its storage did not give it within {patience:g} s")

    def end(self) -> None:
        """End it at once. One that hangs in the kernel is left behind."""
        atexit.unregister(self.end)
        with suppress(OSError):
            self._orders.close()
        self._child.kill()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(2)
        if self._child.stdout:
            self._child.stdout.close()

    def _write(self, data: bytes) -> None:
        with suppress(OSError):  # it has ended, which `hear` will tell
            self._orders.write(data)
            self._orders.flush()

    def _used(self) -> float:
        """Seconds of processor time."""
        try:
            with open(f"/proc/{self._child.pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                told = file.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
