"""Holds the programs of jobs to their limits, and sees that nothing of a job outlives it.

Two processes between the pilot and a program. `python -I -S watchdog.py` reads an order from each line of its input and
forks a watchdog for it, which takes a moment; starting Python each time would take longer. The watchdog starts the
program, and prints what it used as one line of JSON. SIGTERM to the first has the second end its program.

Whatever the program starts stays below the watchdog, which adopts orphans: also what began a session of its own. All of
it is looked at ten times a second, or less often where looking takes long. What is too much ends with SIGKILL; what
lasts too long, or is not wanted any more, with SIGTERM first. When the pilot is gone, so is the job. Neither root nor
control groups are needed for this, only /proc.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

LOOK = 0.1
"""Seconds between two looks, at the least."""
SHARE = 20
"""Looking takes at most one part of so many of the time."""
KILLED_WITHIN = 60.0
"""Seconds after which a killed process that is still there is left to the kernel: its storage does not answer."""
QUIET = 3
"""Nothing new is made when so many looks one after the other found nothing."""
PAGE = os.sysconf("SC_PAGE_SIZE")
BLOCK = 65536


# --- processes -------------------------------------------------------------------------------------------------------
def below(root: int) -> dict[int, int]:
    """Every living process that descends from `root`, with its bytes of memory."""
    children: dict[int, list[int]] = {}
    memory: dict[int, int] = {}
    for pid, parent, rss in _processes():
        children.setdefault(parent, []).append(pid)
        memory[pid] = rss
    found: dict[int, int] = {}
    left = [root]
    while left:
        for pid in children.get(left.pop(), ()):
            if pid not in found:
                found[pid] = memory[pid]
                left.append(pid)
    return found


def _processes() -> Iterator[tuple[int, int, int]]:
    """Id, parent and resident bytes of each process that has not ended: of which a thread is left."""
    for name in _names():
        if name.isdigit() and (fields := _stat(name)) and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1):
            yield int(name), int(fields[1]), int(fields[21]) * PAGE


def _names() -> list[str]:
    return os.listdir("/proc")  # noqa: PTH208  # pathlib takes longer to import than the rest of this takes


def _parent(pid: int) -> int | None:
    fields = _stat(str(pid))
    return int(fields[1]) if fields else None


def _stat(name: str) -> list[bytes]:
    """What the kernel says of a process, from its state on; nothing when it is gone."""
    with suppress(OSError):
        # The second field is the program's name in parentheses and may hold anything, even ')'.
        stat = _read(f"/proc/{name}/stat")
        return stat[stat.rindex(b")") + 2 :].split()
    return []


def _own_share(pids: Mapping[int, int]) -> int:
    """Bytes of memory of these processes, what several of them share counted once."""
    total = 0
    for pid, rss in pids.items():
        try:
            told = _read(f"/proc/{pid}/smaps_rollup").split(b"\nPss:", 1)[1]
            total += int(told.split(None, 1)[0]) * 1024
        except (OSError, IndexError):
            total += rss
    return total


_LIBC = ctypes.CDLL(None, use_errno=True)
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36


def end_with_parent(number: int) -> None:
    """This process is sent a signal when its parent disappears."""
    if sys.platform == "linux":
        _LIBC.prctl(_PDEATHSIG, number)


def adopt_orphans() -> None:
    """What processes below this one leave behind when they end comes to this one."""
    if sys.platform == "linux":
        _LIBC.prctl(_CHILD_SUBREAPER, 1)


def reap(statuses: dict[int, int] | None = None) -> bool:
    """Take note of children that have ended; whether any is left. Who adopts orphans and has no children has nothing
    below it."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if statuses is not None:
                statuses[ended[0]] = ended[1]
    except ChildProcessError:
        return False
    return True


def end_all(grace: float, meanwhile: Callable[[], bool] = reap) -> bool:
    """End whatever is below this process: SIGTERM, and after the grace SIGKILL. Whether nothing is left. `meanwhile` is
    called again and again, and says whether there is anything."""
    told = False
    root = os.getpid()
    gently = time.monotonic() + grace
    last = gently + KILLED_WITHIN
    while True:
        if not meanwhile():
            return True
        left = below(root)
        now = time.monotonic()
        if not left or now > last:
            return not left
        if now >= gently:
            _signal(freeze(root), signal.SIGKILL)
            time.sleep(0.005)
        else:
            if not told:
                _signal(left, signal.SIGTERM)
                told = True
            time.sleep(0.02)


def freeze(root: int) -> set[int]:
    """Stop everything below `root`, and what that still makes meanwhile, so that nothing that is killed is replaced.
    Each time only the processes are looked at that are new, so that no bomb is faster than this."""
    found = set(below(root))
    _signal(found, signal.SIGSTOP)
    known, quiet = {*found, os.getpid()}, 0
    until = time.monotonic() + KILLED_WITHIN / 6
    while quiet < QUIET and time.monotonic() < until:
        new = [pid for name in _names() if name.isdigit() and (pid := int(name)) not in known]
        parents = {pid: parent for pid in new if (parent := _parent(pid)) is not None}
        known.update(new)
        ours: set[int] = set()
        while (
            more := {pid for pid, parent in parents.items() if parent == root or parent in found or parent in ours}
            - ours
        ):
            ours |= more
        _signal(ours, signal.SIGSTOP)
        found |= ours
        quiet = 0 if ours else quiet + 1
    return found


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


# --- files -----------------------------------------------------------------------------------------------------------
def written(folder: str, without: str) -> tuple[int, int]:
    """Bytes on disk and number of files and directories below a folder, but those below `without`."""
    size = n = 0
    seen: set[tuple[int, int]] = set()
    left = [folder]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.path == without:
                    continue
                n += 1
                with suppress(OSError):
                    told = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    elif told.st_nlink > 1:
                        if (told.st_dev, told.st_ino) in seen:
                            continue
                        seen.add((told.st_dev, told.st_ino))
                    size += told.st_blocks * 512
    return size, n


class Log:
    """What the program prints: the beginning and the end are kept, and how much there was in between."""

    def __init__(self, path: str, most: int) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: PTH123, SIM115
        self._head, self._tail = most // 4, most - most // 4
        self._end = bytearray()
        self._left_out = 0

    def take(self, data: bytes) -> None:
        """More was printed."""
        if self._head:
            self._file.write(data[: self._head])
            data, self._head = data[self._head :], max(0, self._head - len(data))
        self._end += data
        if len(self._end) > 2 * self._tail + BLOCK:
            self._cut()

    def close(self, left_out: str) -> None:
        """Nothing more comes. `left_out` is the line that tells how much is missing."""
        self._cut()
        if self._left_out:
            self._file.write((left_out % self._left_out).encode())
        self._file.write(self._end)
        self._file.close()

    def _cut(self) -> None:
        too_much = max(0, len(self._end) - self._tail)
        del self._end[:too_much]
        self._left_out += too_much


# --- one program -----------------------------------------------------------------------------------------------------
class Watchdog:
    """One program from its start until nothing of it is left."""

    def __init__(self, order: Mapping[str, Any], parent: int) -> None:
        self._order, self._limits = order, order["limits"]
        self._log = Log(order["log"], self._limits["log"] or sys.maxsize)
        self._unwanted = False
        self._prints = True
        self._status: int | None = None
        self._memory = self._disk = 0
        self._look_at_processes = self._look_at_files = 0.0
        self._parent = parent

    def run(self) -> dict[str, Any]:
        """Run it; what it used, how it ended, and which limit it exceeded."""
        began = time.monotonic()
        go_first()
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._printed, printing = os.pipe()
        os.set_blocking(self._printed, False)
        self._pid = os.fork()
        if self._pid == 0:
            become(self._order, printing)
        os.close(printing)
        os.set_blocking(woken, False)
        too_much: tuple[str, float] | None = None
        while self._status is None and not self._unwanted and too_much is None:
            ready, _, _ = select.select([woken, self._printed][: 1 + self._prints], [], [], LOOK)
            if woken in ready:
                os.read(woken, BLOCK)
            self._turn()
            if os.getppid() != self._parent:
                self._unwanted = True
            elif self._status is None:
                too_much = self._look(time.monotonic() - began)
        gentle = too_much is None or too_much[0] == "wall_time"
        grace = self._limits["grace"] if gentle and os.getppid() == self._parent else 0
        gone = end_all(grace, self._turn)
        self._turn()
        took = time.monotonic() - began
        self._log.close(self._order["left_out"])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if too_much is None and not self._unwanted:
            too_much = self._too_much_on_disk()
        return {
            "exit_code": os.waitstatus_to_exitcode(self._status) if self._status is not None else None,
            "exceeded": too_much,
            "unwanted": self._unwanted,
            "gone": gone,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "wall_seconds": took,
            "memory": max(self._memory, used.ru_maxrss * 1024),
            "disk": self._disk,
        }

    def _stop(self, *_: object) -> None:
        self._unwanted = True

    def _turn(self) -> bool:
        """Take what was printed, and note who has ended; whether anything of it is left."""
        with suppress(BlockingIOError):
            for _ in range(64 if self._prints else 0):  # then others have their turn
                data = os.read(self._printed, BLOCK)
                self._prints = bool(data)
                if not data:
                    break
                self._log.take(data)
        ended: dict[int, int] = {}
        left = reap(ended)
        self._status = ended.get(self._pid, self._status)
        return left

    def _look(self, took: float) -> tuple[str, float] | None:
        """The limit that is exceeded now, and what is used of it."""
        limits = self._limits
        now = time.monotonic()
        if limits["wall_time"] and took > limits["wall_time"]:
            return "wall_time", took
        if now >= self._look_at_processes:
            pids = below(os.getpid())
            if limits["processes"] and len(pids) > limits["processes"]:
                return "processes", len(pids)
            memory = sum(pids.values())
            if limits["memory"] and memory > limits["memory"]:
                memory = _own_share(pids)
            self._memory = max(self._memory, memory)
            self._look_at_processes = _next(now)
            if limits["memory"] and memory > limits["memory"]:
                return "memory", memory
        if now >= self._look_at_files:
            too_much = self._too_much_on_disk()
            self._look_at_files = _next(now)
            return too_much
        return None

    def _too_much_on_disk(self) -> tuple[str, float] | None:
        folder = os.getcwd()  # noqa: PTH109
        size, n = written(folder, f"{folder}/{self._order['without']}")
        self._disk = max(self._disk, size)
        if self._limits["disk"] and size > self._limits["disk"]:
            return "disk", size
        if self._limits["files"] and n > self._limits["files"]:
            return "files", n
        return None


def _next(began: float) -> float:
    """When to look again after a look that began then."""
    return began + max(LOOK, SHARE * (time.monotonic() - began))


def become(order: Mapping[str, Any], printing: int) -> NoReturn:
    """In the child: a session of its own, the limits that the kernel keeps, and then the program."""
    command, limits = order["command"], order["limits"]
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (printing, 1), (printing, 2)):
            os.dup2(source, target)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them
        _lower(resource.RLIMIT_CORE, 0)
        if limits["disk"]:
            _lower(resource.RLIMIT_FSIZE, limits["disk"])
        if limits["processes"]:
            # It counts what all of a user's programs have, and threads: an outer wall that only a bomb can reach.
            with suppress(OSError, ValueError, IndexError):
                running = int(_read("/proc/loadavg").split()[3].split(b"/")[1])
                _lower(resource.RLIMIT_NPROC, running + 4 * limits["processes"] + 1000)
        with suppress(OSError):
            score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(score, b"800")  # when memory is short, the job goes before those who serve others
        os.execvpe(command[0], command, order["environment"])  # noqa: S606
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(127)


def _lower(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (allowed, allowed))


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, BLOCK)
    finally:
        os.close(file)


# --- one after the other ---------------------------------------------------------------------------------------------
def serve() -> None:
    """Have a watchdog for each order that is read. Instead of the line of one that was killed stands null: what it
    left is ended."""
    watching = 0

    def end(*_: object) -> None:
        if watching:
            os.kill(watching, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    end_with_parent(signal.SIGKILL)
    adopt_orphans()
    go_first()
    here = os.getpid()
    for line in sys.stdin.buffer:
        watching = os.fork()
        if watching == 0:
            _watch(json.loads(line), here)
        _, status = os.waitpid(watching, 0)
        watching = 0
        if status != 0:
            end_all(0)
            os.write(1, b"null\n")


def _watch(order: Mapping[str, Any], parent: int) -> NoReturn:
    """In the child: be the watchdog of one program."""
    status = 1
    try:
        end_with_parent(signal.SIGTERM)
        adopt_orphans()
        os.chdir(order["folder"])
        told = Watchdog(order, parent).run()
        os.write(1, (json.dumps(told) + "\n").encode())
        status = 0
    except Exception as error:  # noqa: BLE001  # never back into what the other process does
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)  # nothing is left to be tidied


def go_first() -> None:
    """Have a processor when it is needed, however many of a program's processes want one. Only root may have that, and
    needs it: the kernel limits the processes of everybody else."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


if __name__ == "__main__":
    serve()
