"""One third-party copy between two XRootD servers, as a program: SOURCE TARGET. `mover_tpc` runs it.

A process of its own, because the client's library waits without limit for a server that does not answer a copy that
was given up, and leaks with every copy. Its end closes the connections, and the target's server then gives up too.

Prints the bytes copied so far, a line at a time; at the end one line of JSON: code, number and message, code 0 for
success.
"""

import json
import os
import queue
import secrets
import sys
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from lightkeeper.adapters.storage_xrootd import _library  # pyright: ignore[reportPrivateUsage]

CONNECT_SECONDS = 60
TELL_SECONDS = 1.0
WHOLE_COPY_SECONDS = 65_000  # the library's longest; who runs this sees earlier that nothing moves


class _Telling:
    """What the library calls while it copies."""

    def begin(self, *_: Any) -> None: ...

    def end(self, *_: Any) -> None: ...

    def update(self, _job: int, done: int, _whole: int) -> None:
        _say(str(done))

    def should_cancel(self, _job: int) -> bool:
        return False


def main(source: str, target: str) -> None:
    """Copy, replacing `target` and making its parents."""
    library = _library()
    # A connection that is lost stays lost: else the library opens the target again and goes on in another file.
    library.EnvPutString("WriteRecovery", "false")
    library.EnvPutString("ReadRecovery", "false")
    status = _rendezvous(library, source, target)
    if status is None:
        status = _by_library(library, source, target)
    ended = {"code": 0 if status.ok else status.code or -1, "number": status.errno, "message": status.message}
    _say(json.dumps(ended))


def _rendezvous(library: Any, source: str, target: str) -> Any | None:
    """The steps of a third-party copy, as the library makes them, except that its end is noticed at once; the library
    looks every 2.5 s. None when it cannot even begin: the library knows more ways, such as handing on a proxy."""
    flags = import_module("XRootD.client.flags").OpenFlags
    key = secrets.token_hex(12)
    host, _, path = source.partition("://")[2].partition("//")
    placed = library.File()
    status, _ = placed.open(f"{source}?tpc.stage=placement", flags.READ, 0, CONNECT_SECONDS)
    if not status.ok:
        return None
    status, found = placed.stat(False, CONNECT_SECONDS)
    placed.close(CONNECT_SECONDS)
    if not status.ok or (placed.get_property("LastURL") or source).partition("?")[0] != source:
        return None  # another server has the file
    from_where = (
        f"tpc.key={key}&tpc.src={host.rpartition('@')[2]}&tpc.lfn=/{path}&tpc.stage=copy&oss.asize={found.size}"
    )
    to = library.File()
    status, _ = to.open(f"{target}?{from_where}", flags.DELETE | flags.UPDATE | flags.MAKEPATH, 0o644, CONNECT_SECONDS)
    if not status.ok:
        return None
    to_host = urlsplit(to.get_property("LastURL") or target).hostname
    status, _ = to.sync(CONNECT_SECONDS)
    if not status.ok:
        to.close(CONNECT_SECONDS)
        return None
    of = library.File()
    status, _ = of.open(f"{source}?tpc.key={key}&tpc.dst={to_host}&tpc.stage=copy", flags.READ, 0, CONNECT_SECONDS)
    if not status.ok:
        to.close(CONNECT_SECONDS)
        return None
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    to.sync(WHOLE_COPY_SECONDS, callback=lambda told, _answer, _hosts: ended.put(told))
    while True:
        try:
            status = ended.get(timeout=TELL_SECONDS)
            break
        except queue.Empty:
            told, so_far = to.stat(True, CONNECT_SECONDS)
            if told.ok:
                _say(str(so_far.size))
    closed = [file.close(CONNECT_SECONDS)[0] for file in (of, to)]
    if not status.ok:
        return status
    return next((one for one in closed if not one.ok), status)


def _by_library(library: Any, source: str, target: str) -> Any:
    process = library.CopyProcess()
    limits = {"inittimeout": CONNECT_SECONDS, "tpctimeout": WHOLE_COPY_SECONDS, "retry": 0}
    process.add_job(source, target, thirdparty="only", force=True, mkdir=True, **limits)
    status = process.prepare()
    if status.ok:
        status, _ = process.run(_Telling())
    return status


def _say(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:  # who ran us is gone
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the library's own threads are not waited for
