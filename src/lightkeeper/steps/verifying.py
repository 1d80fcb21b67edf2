"""Step 1, beside: the program of one process that reads deliveries, started by verify.py.

It is told on its standard input: first a line of JSON with what it needs, then a line for each delivery. It answers on
its standard output with lines of JSON, lists of the numbers of deliveries and their Readings, and writes BEAT once a
second while bytes of a large file come. In memory that it shares with its parent stands the number of the delivery that
it is at. It takes limits on itself: memory, processor time for each file, open files, and no file can be written. It
ends with its input.
"""

import base64
import gc
import json
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lightkeeper.ports import LocalStorage, ProductReader
from lightkeeper.steps.reading import read_all

READY, BEAT = b"ready", b"beat"
NUMBER = struct.Struct("q")
NO_MEMORY = 77
"""Exit status when a file took more memory than it may."""
SECONDS = 60
"""Of processor time for each file, and one more for every SLOWEST bytes."""
SLOWEST = 5_000_000
OPEN_FILES = 400
TOGETHER = 256
"""Deliveries that are read together, at most."""
TELL = 0.02
"""Seconds after which is told what was read."""


def main() -> None:
    """Read deliveries until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for our parent, which then ends our input
    orders, answers, shared = _channels()
    lines = _lines(orders)
    setup = json.loads(next(lines)[0])
    sys.path[:] = setup["path"]
    try:
        readers: Sequence[ProductReader] = pickle.loads(base64.b64decode(setup["readers"]))  # noqa: S301  # our parent's
    except Exception as error:  # noqa: BLE001  # our parent tells it
        os.write(answers, json.dumps(f"{type(error).__name__}: {error}").encode() + b"\n")
        return
    gc.collect()
    gc.freeze()
    _limit(setup["memory"])
    os.write(answers, READY + b"\n")
    storages: dict[str, LocalStorage] = {}
    for together in lines:
        _read(together, readers, storages, _Progress(answers, shared))


def _read(
    lines: Sequence[bytes], readers: Sequence[ProductReader], storages: dict[str, LocalStorage], progress: "_Progress"
) -> None:
    deliveries: list[tuple[LocalStorage, str]] = []
    for line in lines:
        number, pickled, path = json.loads(line)
        if pickled not in storages:
            storages[pickled] = pickle.loads(base64.b64decode(pickled))  # noqa: S301  # our parent's
        deliveries.append((storages[pickled], path))
        progress.numbers.append(number)
    try:
        for place, reading in read_all(deliveries, readers, progress):
            progress.read(place, reading.to_json())
    except MemoryError:
        os._exit(NO_MEMORY)
    progress.tell()


class _Progress:
    """Tells our parent how it goes."""

    def __init__(self, answers: int, shared: mmap.mmap) -> None:
        self.numbers: list[int] = []
        self._answers = answers
        self._shared = shared
        self._read: list[tuple[int, Any]] = []
        self._told = time.monotonic()

    def at(self, number: int, size: int = 0) -> None:
        """From now on it is this one's fault."""
        NUMBER.pack_into(self._shared, 0, self.numbers[number])
        if size:
            seconds = int(time.process_time()) + 1 + SECONDS + size // SLOWEST
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))

    def moved(self) -> None:
        """It is alive."""
        if time.monotonic() - self._told > 1:
            self.tell()
            os.write(self._answers, BEAT + b"\n")

    def read(self, number: int, reading: Any) -> None:
        """One is read."""
        self._read.append((self.numbers[number], reading))
        if time.monotonic() - self._told > TELL:
            self.tell()

    def tell(self) -> None:
        """Say what was read."""
        if self._read:
            told = memoryview(json.dumps(self._read).encode() + b"\n")
            while told:
                told = told[os.write(self._answers, told) :]
            self._read.clear()
        self._told = time.monotonic()


def _channels() -> tuple[int, int, mmap.mmap]:
    """Our input, our output and the shared memory; whatever a reader reads or prints is not them."""
    orders, answers = os.dup(0), os.dup(1)
    shared = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    return orders, answers, shared


def _lines(orders: int) -> Iterator[list[bytes]]:
    """What has been told, as soon as there is a line, up to TOGETHER of them; the very first line alone."""
    rest, first = b"", True
    while data := os.read(orders, 1 << 20):
        *lines, rest = (rest + data).split(b"\n")
        if first and lines:
            yield [lines.pop(0)]
            first = False
        for start in range(0, len(lines), TOGETHER):
            yield lines[start : start + TOGETHER]


def _limit(memory: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
