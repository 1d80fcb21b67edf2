"""One third-party copy between two XRootD servers, as a program: SOURCE TARGET. `mover_tpc` runs it.

A process of its own, because the client's library waits without limit for a server that does not answer a copy that
was given up, and leaks with every copy. Its end closes the connections, and the target's server then gives up too.

Prints the bytes copied so far, a line at a time; at the end one line of JSON: code, number and message, code 0 for
success.
"""

import json
import os
import sys
from typing import Any

from lightkeeper.adapters.storage_xrootd import _library  # pyright: ignore[reportPrivateUsage]

CONNECT_SECONDS = 60
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
    process = library.CopyProcess()
    limits = {"inittimeout": CONNECT_SECONDS, "tpctimeout": WHOLE_COPY_SECONDS, "retry": 0}
    process.add_job(source, target, thirdparty="only", force=True, mkdir=True, **limits)
    status = process.prepare()
    if status.ok:
        status, _ = process.run(_Telling())
    ended = {"code": 0 if status.ok else status.code or -1, "number": status.errno, "message": status.message}
    _say(json.dumps(ended))


def _say(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:  # who ran us is gone
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the library's own threads are not waited for
