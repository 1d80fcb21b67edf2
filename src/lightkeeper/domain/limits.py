"""What a job may use, what it used, and what is said when that is too much."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, floor, log10

from lightkeeper.domain.units import readable_bytes, readable_time

LEFT_OUT = "\n… %d bytes are left out here: a log keeps its beginning and its end …\n"
MB = 1_000_000
ASKED = ("wall_time", "memory", "processes", "disk", "files")
"""What a step may say of its jobs, instead of what the settings say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use at the most: seconds from its start to its end, bytes of memory and number of processes, of
    all its processes together, bytes and number of the files that it writes into its folder, bytes of what it prints. 0
    is no limit. `grace`: seconds that it has to end when it is told to."""

    wall_time: float = 86_400
    memory: int = 8_000 * MB
    processes: int = 500
    disk: int = 50_000 * MB
    files: int = 100_000
    log: int = 64 * 1024
    grace: float = 10


@dataclass(frozen=True, slots=True)
class Used:
    """What a job used: seconds of processors, seconds from its start to its end, and at its peak bytes of memory and of
    files that it wrote into its folder."""

    cpu_seconds: float
    wall_seconds: float
    memory: int
    disk: int


def limits_of(default: Limits, asked: Mapping[str, int], *, needs: int | None, has: int | None) -> Limits:
    """The limits of a job: what its step asks for goes before the default. A job that needs more memory than that may
    use as much as it needs; none may use more than its pilot has."""
    given = replace(default, **{name: asked[name] for name in ASKED if name in asked})
    memory = given.memory
    if needs and "memory" not in asked and memory:
        memory = max(memory, needs)
    if has:
        memory = min(memory, has) if memory else has
    return replace(given, memory=memory)


def readable(what: str, amount: float) -> str:
    """'1.5 GB' or '12.3 s': an amount of what jobs use."""
    return f"{amount:.1f} s" if what.endswith("seconds") else readable_bytes(amount)


class Limit(StrEnum):
    """What can be too much."""

    WALL_TIME = "wall_time"
    MEMORY = "memory"
    PROCESSES = "processes"
    DISK = "disk"
    FILES = "files"


_MINOR = {
    Limit.WALL_TIME: "Wall time limit exceeded",
    Limit.MEMORY: "Memory limit exceeded",
    Limit.PROCESSES: "Process limit exceeded",
    Limit.DISK: "Disk limit exceeded",
    Limit.FILES: "Disk limit exceeded",
}
_ASK = {
    Limit.WALL_TIME: "split its input, or let its step ask for more time (wall_time)",
    Limit.MEMORY: "let its step ask for more memory (max_memory), at a site that has it",
    Limit.PROCESSES: "let it start fewer, or its step ask for more (max_processes)",
    Limit.DISK: "let it write less, or its step ask for more (max_disk)",
    Limit.FILES: "let it write fewer files, or raise job_files in the settings",
}


def exceeded(limit: Limit, used: float, limits: Limits) -> tuple[str, str]:
    """Minor status and sentence of a job that was ended because it used too much: which limit, how much, what to do.
    The amount is rounded up, so that a report has one row for many such jobs; what each used exactly is kept too."""
    may = getattr(limits, limit)
    step = 10 ** floor(log10(used) - 1) if used else 1
    used = ceil(used / step) * step
    match limit:
        case Limit.WALL_TIME:
            told = f"it ran for {readable_time(used)} and may run for {readable_time(may)}"
        case Limit.MEMORY:
            told = f"it had {readable_bytes(used)} of memory and may have {readable_bytes(may)}"
        case Limit.PROCESSES:
            told = f"it had {used:.0f} processes at once and may have {may}"
        case Limit.DISK:
            told = f"it wrote {readable_bytes(used)} and may write {readable_bytes(may)}"
        case Limit.FILES:
            told = f"it wrote {used:.0f} files and may write {may}"
    return _MINOR[limit], f"{told}: {_ASK[limit]}"


def capped(text: str, most: int) -> str:
    """A text of at most so many characters, and the line in between: its first quarter and its end. 0 is no limit."""
    if not most or len(text) <= most + len(LEFT_OUT) + 20:  # one that was cut already has that line
        return text
    head = most // 4
    return text[:head] + LEFT_OUT % (len(text) - most) + text[len(text) - (most - head) :]
