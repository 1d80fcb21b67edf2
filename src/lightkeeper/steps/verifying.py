"""Step 1, beside: the program of one process that reads deliveries, started by verify.py.

It is told on its standard input: first a line of JSON with what it needs, then a line for each delivery; it answers
each with a line on its standard output, in their order, and writes BEAT once a second while bytes of a large file come.
Then it takes limits on itself: memory, processor time for each file, open files, and no file can be written. It ends
with its input.
"""

import base64
import gc
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from lightkeeper.ports import LocalStorage, ProductReader
from lightkeeper.steps.reading import read

READY, BEAT = b"ready", b"beat"
NO_MEMORY = 77
"""Exit status when a file took more memory than it may."""
SECONDS = 60
"""Of processor time for each file, and one more for every SLOWEST bytes."""
SLOWEST = 5_000_000
OPEN_FILES = 128


def main() -> None:
    """Read deliveries until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for our parent, which then ends our input
    orders, answers = _channels()
    setup = json.loads(orders.readline())
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
    _work(orders, answers, readers)


def _work(orders: BinaryIO, answers: int, readers: Sequence[ProductReader]) -> None:
    storages: dict[str, LocalStorage] = {}
    beaten = 0.0

    def notice() -> None:
        nonlocal beaten
        if time.monotonic() - beaten > 1:
            beaten = time.monotonic()
            os.write(answers, BEAT + b"\n")

    for line in orders:
        pickled, path = json.loads(line)
        if pickled not in storages:
            storages[pickled] = pickle.loads(base64.b64decode(pickled))  # noqa: S301  # our parent's
        storage = storages[pickled]
        _limit_processor(f"{storage.local_path('/')}{path}")
        beaten = time.monotonic()
        try:
            told = json.dumps(read(storage, readers, path, notice).to_json())
        except MemoryError:
            os._exit(NO_MEMORY)
        os.write(answers, told.encode() + b"\n")


def _channels() -> tuple[BinaryIO, int]:
    """Our input and output; whatever a reader reads or prints is not them."""
    orders, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    return orders, answers


def _limit(memory: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor(file: str) -> None:
    try:
        size = os.lstat(file).st_size
    except OSError:
        size = 0
    seconds = int(time.process_time()) + 1 + SECONDS + size // SLOWEST
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
