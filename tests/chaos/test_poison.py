"""T21: programs of the worst kind. Each is ended for the limit that it exceeds, nothing of it is left, and jobs beside
it do not notice. Limits are low here, and the programs bounded in themselves."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chaos import poison

from lightkeeper import tool
from lightkeeper.domain.limits import MB, Limits, Used

LIMITS = Limits(wall_time=60, memory=200 * MB, processes=40, disk=50 * MB, files=500, log=8192, grace=0.3)


def run(folder: Path, program: str, limits: Limits = LIMITS) -> Used | tool.JobFailed:
    """What a program used, or why it failed."""
    environment = os.environ | {"LIGHTKEEPER_TEST_MARK": str(folder)}
    watchdogs = tool.Watchdogs()
    try:
        return watchdogs.watch([sys.executable, "-c", program], folder, environment, limits, folder / "log")
    except tool.JobFailed as failure:
        return failure
    finally:
        watchdogs.close()


def left_of(folder: Path) -> set[int]:
    """Processes of what was run in a folder."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"LIGHTKEEPER_TEST_MARK={folder}".encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found - {os.getpid()}


POISONS = {
    "always fails": (
        poison.ALWAYS_FAILS,
        "Application Finished With Errors",
        "exit code 1: the calibration is missing",
    ),
    "crashes": (poison.CRASHES, "Application Finished With Errors", "exit code -11"),
    "a bomb": (poison.FORK_BOMB, "Process limit exceeded", "may have 40: let it start fewer"),
    "fills memory": (poison.FILLS_MEMORY, "Memory limit exceeded", "of memory and may have 200.0 MB: let its step ask"),
    "in many": (poison.FILLS_MEMORY_IN_MANY, "Memory limit exceeded", "may have 200.0 MB"),
    "fills the disk": (poison.FILLS_DISK, "Disk limit exceeded", "and may write 50.0 MB: let it write less"),
    "one large file": (poison.ONE_LARGE_FILE, "Disk limit exceeded", "MB and may write 50.0 MB: let it write less"),
    "fills inodes": (poison.FILLS_INODES, "Disk limit exceeded", "files and may write 500"),
    "never ends": (poison.NEVER_ENDS, "Wall time limit exceeded", "it ran for 1 second and may run for 1 second"),
    "ignores TERM": (poison.IGNORES_TERM, "Wall time limit exceeded", "let its step ask for more time"),
    "hides": (poison.HIDES_ITS_THREADS, "Wall time limit exceeded", "may run for 1 second"),
    "goes deep": (poison.DEEP, "Disk limit exceeded", "files and may write 500"),
}


@pytest.mark.parametrize(("program", "minor", "told"), POISONS.values(), ids=POISONS)
def test_a_poison_is_ended_for_the_limit_it_exceeds_and_nothing_of_it_is_left(
    tmp_path: Path, program: str, minor: str, told: str
):
    failure = run(tmp_path, program, replace(LIMITS, wall_time=1) if minor.startswith("Wall") else LIMITS)
    assert isinstance(failure, tool.JobFailed)
    assert failure.minor == minor
    assert told in failure.application
    assert failure.used is not None
    assert failure.used.cpu_seconds > 0
    assert left_of(tmp_path) == set()
    subprocess.run(["rm", "-rf", *map(str, tmp_path.iterdir())], check=True)  # pytest removes nothing that is so deep


def test_what_a_job_leaves_in_a_session_of_its_own_ends_with_it(tmp_path: Path):
    used = run(tmp_path, poison.LEAVES_A_DAEMON)
    assert isinstance(used, Used)
    daemon = int((tmp_path / "daemon.pid").read_text())
    assert not Path(f"/proc/{daemon}").exists()


def test_of_much_that_is_printed_the_beginning_and_the_end_are_kept(tmp_path: Path):
    printed = 20_000_000
    failure = run(tmp_path, poison.PRINTS % printed)
    assert isinstance(failure, tool.JobFailed)
    assert failure.application == "exit code 3: the last line"
    log = (tmp_path / "log").read_text()
    assert log.startswith("the first line\nxxx")
    assert log.endswith("xxx\nthe last line\n")
    whole = printed + len("the first line\nthe last line\n")
    assert f"\n… {whole - LIMITS.log} bytes are left out here" in log
    assert len(log) < LIMITS.log + 100


def test_a_gentle_program_has_its_figures_measured(tmp_path: Path):
    program = (
        "import time\nheld = bytearray(b'x') * 60_000_000\nopen('out', 'wb').write(held[:7_000_000])\n"
        "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    )
    used = run(tmp_path, program)
    assert isinstance(used, Used)
    assert 0.3 <= used.cpu_seconds <= used.wall_seconds
    assert 60 * MB < used.memory < 120 * MB
    assert 7 * MB < used.disk < 8 * MB


def test_inputs_and_memory_that_is_shared_count_once_or_not_at_all(tmp_path: Path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "raw").write_bytes(bytes(60 * MB))
    program = (
        "import os, time\nheld = bytearray(b'x') * 80_000_000\n"
        "for _ in range(4):\n    if os.fork() == 0:\n        time.sleep(0.5)\n        os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
    )
    used = run(tmp_path, program)
    assert isinstance(used, Used), used.application
    assert used.disk < 1 * MB
    assert used.memory < LIMITS.memory


def test_without_limits_nothing_is_limited(tmp_path: Path):
    none = replace(LIMITS, wall_time=0, memory=0, processes=0, disk=0, files=0, log=0)
    used = run(tmp_path, "import time\nprint('x' * 100_000)\nopen('o', 'wb').write(bytes(60_000_000))\n", none)
    assert isinstance(used, Used)
    assert (tmp_path / "log").stat().st_size == 100_001


@pytest.mark.parametrize("program", ["KILLS_ITS_WATCHDOG", "KILLS_ALL_WATCHDOGS"])
def test_a_program_whose_watchdog_is_killed_fails_and_is_ended_by_who_is_left(tmp_path: Path, program: str):
    pilot = (
        "import sys; from pathlib import Path; from tests.chaos import poison, test_poison\n"
        "from lightkeeper import watchdog\nwatchdog.adopt_orphans()\n"
        f"print(test_poison.run(Path(sys.argv[1]), poison.{program}).minor)"
    )
    told = subprocess.run(
        [sys.executable, "-c", pilot, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "Watchdog killed"
    assert left_of(tmp_path) == set()


def test_watchdogs_watch_one_program_after_the_other_whatever_becomes_of_them(tmp_path: Path):
    watchdogs = tool.Watchdogs()
    failures: list[str] = []
    for n, program in enumerate([poison.KILLS_ITS_WATCHDOG, poison.GENTLE, poison.NEVER_ENDS, poison.GENTLE]):
        folder = tmp_path / str(n)
        folder.mkdir()
        command = [sys.executable, "-c", 'open("begun", "w").close();' + program]
        if program == poison.NEVER_ENDS:
            ending = threading.Thread(target=lambda: (until((folder / "begun").exists), watchdogs.end()))  # noqa: B023
            ending.start()
        try:
            watchdogs.watch(command, folder, os.environ, LIMITS, folder / "log")
        except tool.JobFailed as failure:
            failures.append(failure.application)
        if n == 1:
            watchdogs.end()  # nothing runs: that ends nothing
    watchdogs.close()
    assert failures == [
        "whoever held it to its limits was killed, so it was ended",
        "somebody told its watchdog to end it",
    ]


def test_nothing_of_a_job_outlives_a_pilot_that_is_killed(tmp_path: Path):
    pilot = (
        "import sys; from pathlib import Path; from tests.chaos import poison, test_poison\n"
        'test_poison.run(Path(sys.argv[1]), \'open("begun", "w").close();\' + poison.IGNORES_TERM)'
    )
    process = subprocess.Popen([sys.executable, "-c", pilot, str(tmp_path)])
    until(lambda: (tmp_path / "begun").exists())
    assert left_of(tmp_path)
    process.kill()
    process.wait()
    until(lambda: not left_of(tmp_path))


def until(done: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
