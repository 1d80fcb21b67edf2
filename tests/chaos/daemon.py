"""A worker as a process of its own, for tests that kill, stop and starve it: `python -m tests.chaos.daemon URL ROOT`.

It runs the table of duties on the database at URL for the small observatory whose storages lie below ROOT, and logs
to standard error. `--set NAME=VALUE` gives a setting; `--once DUTY` does that duty once, and prints what it returned.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.conftest import build_context

from lightkeeper.app import make_log
from lightkeeper.steps import ingest
from lightkeeper.store.db import Database
from lightkeeper.worker import Worker, duties

TREE = Path(__file__).parents[2]


def command(url: str, root: Path, *more: str, **settings: Any) -> list[str]:
    """What starts one."""
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return [sys.executable, "-B", "-m", "tests.chaos.daemon", url, str(root), *more, *given]


@contextmanager
def daemon(
    url: str, root: Path, stderr: IO[bytes] | int = subprocess.DEVNULL, **settings: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running one; killed at the end if it has not ended."""
    process = subprocess.Popen(command(url, root, **settings), stderr=stderr, stdout=stderr, cwd=TREE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("root", type=Path)
    parser.add_argument("--once", default="")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    settings = {name: json.loads(value) for name, _, value in (one.partition("=") for one in given.set)}
    database = Database(given.url, max_connections=30).open()
    ctx = build_context(database, given.root, **settings)
    if given.once:
        do = {duty.name: duty.do for duty in duties(ctx, "")} | {"ingest": ingest.register_accepted}
        print(do[given.once](ctx), flush=True)
        return
    ctx = build_context(database, given.root, log=make_log(ctx.settings), **settings)
    worker = Worker(ctx, "http://127.0.0.1:1")
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    worker.start()
    over.wait()
    worker.stop()


if __name__ == "__main__":
    main()
