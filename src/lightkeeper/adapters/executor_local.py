"""Starts pilots as processes of this machine: no batch system needed.

A pilot is a session of its own and survives the server, even its kill -9: it works on and reports when the
server is back, as it would on a batch system. A service manager that ends whole control groups with the
server must be told not to (systemd: KillMode=process). Only `stop`, or the pilot's own end, ends it.

The secret travels in the environment, which only the same user can read, never on the command line. Other
settings of the server (LIGHTKEEPER_*, PG*) hold secrets that are none of the pilot's business and are left
out, but for the file of storages' credentials: a pilot reads and writes them itself.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lightkeeper.adapters import credentials
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import PilotOrder

SECRET = "LIGHTKEEPER_PILOT_SECRET"  # noqa: S105  the variable's name
LOG = "pilot.log"
PILOT = (sys.executable, "-m", "lightkeeper.pilot")
GRACE_SECONDS = 2.0
KILL_SECONDS = 0.5  # a killed process takes a moment to go

_POLL_SECONDS = 0.02
_PRIVATE = ("LIGHTKEEPER_", "PG")


class LocalExecutor:
    """Pilots as process groups. A handle is "pid:starttime": a pid used again is never mistaken for ours.

    Several instances, also of later servers, may watch and stop the same pilots.
    """

    def __init__(self, command: Sequence[str] = PILOT, grace: float = GRACE_SECONDS) -> None:
        self._command = tuple(command)
        self._grace = grace
        self._lock = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, order: PilotOrder) -> str:
        """Start the pilot in `work_dir`, which is made; what it prints goes to pilot.log there."""
        self._reap()
        facts = ("--name", order.name, "--site", order.site, "--api-url", order.api_url)
        try:
            order.work_dir.mkdir(parents=True, exist_ok=True)
            with (order.work_dir / LOG).open("ab") as log:
                child = subprocess.Popen(
                    [*self._command, *facts, "--work-dir", str(order.work_dir)],
                    env=_environment(os.environ, order.secret),
                    cwd=order.work_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable(
                f"pilot {order.name} cannot be started at {order.site}: {error}",
                hint=f"check that {order.work_dir} can be written and that {self._command[0]} can be run",
            ) from error
        # Not yet among the children, so nobody reaps it before its start time is read.
        stat = _process(child.pid)
        with self._lock:
            self._children.append(child)
        return f"{child.pid}:{stat.started if stat else 0}"

    def running(self, handles: Sequence[str]) -> set[str]:
        """Those of `handles` that still run, whichever process started them. Reaps the ended ones."""
        self._reap()
        return {handle for handle in handles if _pid_of(handle) is not None}

    def stop(self, handles: Sequence[str]) -> None:
        """TERM to the whole group of each; KILL to those that are still there after the grace."""
        self._reap()
        groups = {pid for handle in handles if (pid := _pid_of(handle)) is not None}
        for group in groups:
            _signal(group, signal.SIGTERM)
        left = self._left_after(self._grace, groups)
        for group in left:
            _signal(group, signal.SIGKILL)
        self._left_after(KILL_SECONDS, left)

    def _left_after(self, seconds: float, groups: set[int]) -> set[int]:
        """Those of `groups` that still have members after `seconds`; sooner when none has."""
        deadline = time.monotonic() + seconds
        while groups := {group for group in groups if self._lives(group)}:
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        return groups

    def _lives(self, group: int) -> bool:
        self._reap()
        return _signal(group, 0)

    def _reap(self) -> None:
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]


class _Process:
    """What the kernel says of one process."""

    def __init__(self, stat: str) -> None:
        # The second field is the program's name in parentheses and may hold anything, even ')'.
        fields = stat[stat.rindex(")") + 2 :].split()
        self.ended = fields[0] in ("Z", "X")
        self.started = int(fields[19])


def _process(pid: int) -> _Process | None:
    try:
        return _Process(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def _pid_of(handle: str) -> int | None:
    """The pid of a handle whose process still runs; it is also the id of its group."""
    pid, _, started = handle.partition(":")
    if not (pid.isascii() and pid.isdigit() and int(pid) > 1):  # group 1 would mean everybody
        return None
    process = _process(int(pid))
    if process is None or process.ended or str(process.started) != started:
        return None
    return int(pid)


def _signal(group: int, number: int) -> bool:
    """Whether there was anybody in the group to receive it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _environment(server: Mapping[str, str], secret: str) -> dict[str, str]:
    kept = {
        name: value for name, value in server.items() if not name.startswith(_PRIVATE) or name == credentials.VARIABLE
    }
    return kept | {SECRET: secret}
