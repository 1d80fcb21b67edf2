"""Ingest: nights of small DL0 files from triggers to registered, large files, and the time that one delivery takes.

Small files (25-45 kB, valid, all different) lie on the site's storage with their triggers when ingest begins; it ends
when every file is registered, verified, with what it is owed, and no trigger is left. The limits are measured in the
same run on the same files: the walk over headers and sums alone, and SHA-256 alone, each in two processes. Large files
are read from the cache: what is measured is the processor, not the disk. What else runs on the machine slows all of
them, so the load is told too.
"""

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from multiprocessing import get_context
from pathlib import Path

from bench.__main__ import Measure, timed
from lightkeeper.app import make_context
from lightkeeper.context import Context
from lightkeeper.settings import Settings
from lightkeeper.steps import topology
from lightkeeper.store import postgres
from lightkeeper.worker import Worker
from lightkeeper_ctao.fits import walk
from lightkeeper_ctao.layout import ELEMENTS
from lightkeeper_ctao.simulate import NightPlan, stamp_night

FILES = {"small": 10_000, "full": 100_000}
LARGE = {"small": 256 << 20, "full": 2 << 30}
SINGLE = {"small": 20, "full": 200}
SECONDS = {"small": 10, "full": 60}
RATE = 14.0
BLOCK = 1 << 20
TOPOLOGY = """
version: 1
sites:
  LaPalma: {{kind: observatory}}
  PIC: {{}}
  DESY: {{}}
storages:
  site: {{site: LaPalma, root: "{root}/site", ingest: true}}
  pic: {{site: PIC, root: "{root}/pic"}}
  desy: {{site: DESY, root: "{root}/desy"}}
policies:
  DL0: {{files: {{data_level: 0}}, copies: 2, free_on_site: true}}
"""
TELESCOPES = tuple(one for name, one in ELEMENTS.items() if name[:4] in ("LSTN", "MSTN", "MSTS", "SSTS"))


def run(scale: str) -> list[Measure]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        home = Path(folder)
        return [*small(home / "small", scale), *large(home, scale), *latency(home / "latency", scale)]


@contextmanager
def world(root: Path) -> Iterator[Context]:
    """A Context of the observatory with three storages, on a database of its own."""
    for name in ("site", "pic", "desy"):
        (root / name).mkdir(parents=True)
    with postgres.start(root / "pg", shared_buffers_mb=256) as server:
        ctx = make_context(Settings(home=root, database_url=server.url), server.url, log=Silent())
        topology.apply(ctx, TOPOLOGY.format(root=root))
        yield ctx
        ctx.db.close()


class Silent:
    def info(self, event: str, **facts: object) -> None: ...
    def warning(self, event: str, **facts: object) -> None: ...
    def error(self, event: str, **facts: object) -> None:
        print(event, facts)


def value(ctx: Context, query: str) -> int:
    with ctx.db.transaction() as conn:
        found = conn.execute(query).fetchone()
    return int(found[0]) if found else 0


# --- many small files --------------------------------------------------------------------------------------------
def small(root: Path, scale: str) -> list[Measure]:
    n = FILES[scale]
    with world(root) as ctx:
        plan = NightPlan(root / "site", date(2030, 3, 14), TELESCOPES[:13], files=n, observations=20, triggers=True)
        made = stamp_night(plan, processes=2)
        files = list((root / "site").rglob("*.fits.fz"))
        os.sync()
        walked, walking = in_two_processes(walk_all, files), processor_time(files[:1000]) * n / 1000
        hashed = in_two_processes(hash_all, files)
        worker = Worker(ctx, "", only=("watch", "ingest"))
        memory: list[int] = []
        begin, before = time.perf_counter(), used()
        worker.start()
        while (done := value(ctx, "SELECT count(*) FROM trigger WHERE state <> 'Accepted'")) < n:
            if done > n * (len(memory) + 1) / 20:
                memory.append(resident())
            time.sleep(0.2)
        seconds, processor = time.perf_counter() - begin, used() - before
        worker.stop()
        memory.append(resident())
        assert value(ctx, "SELECT count(*) FROM file") == n
        assert value(ctx, "SELECT count(*) FROM unsettled") == n
        assert gone(root / "site", "*.trigger")
    mean = made.size / n / 1000
    return [
        Measure(
            f"small files ({mean:.0f} kB), triggers to registered",
            n / seconds,
            "files/s",
            3000,
            peer="headers and sums alone, 2 processes",
            peer_value=n / walked,
        ),
        Measure("SHA-256 of them alone, 2 processes", n / hashed, "files/s"),
        Measure(
            "processor time of a file in all processes",
            processor / n * 1e6,
            "us",
            2e6 / 3000,
            more_is_better=False,
            peer="headers and sums alone",
            peer_value=walking / n * 1e6,
        ),
        Measure("memory of all processes after a tenth", memory[1] / 1e6, "MB"),
        Measure(
            "memory of all processes at the end", memory[-1] / 1e6, "MB", memory[1] / 1e6 * 1.1, more_is_better=False
        ),
        Measure("load of the machine", os.getloadavg()[0], ""),
    ]


def gone(root: Path, pattern: str) -> bool:
    """Whether no such file is left, after a moment: triggers are removed beside."""
    end = time.monotonic() + 5
    while any(root.rglob(pattern)):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def in_two_processes(work: Callable[[Sequence[Path]], None], files: Sequence[Path]) -> float:
    context = get_context("spawn")
    both = context.Barrier(2)
    with ProcessPoolExecutor(2, context, initializer=both.wait) as pool:
        list(pool.map(work, [[], []]))  # both are started
        begin = time.perf_counter()
        list(pool.map(work, [files[::2], files[1::2]]))
        return time.perf_counter() - begin


def walk_all(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            assert not walk(file).problems


def processor_time(files: Sequence[Path]) -> float:
    begin = time.process_time()
    walk_all(files)
    return time.process_time() - begin


def hash_all(files: Sequence[Path]) -> None:
    for path in files:
        hash_one(path)


def hash_one(path: Path) -> None:
    """The fastest single pass: one buffer, no copies."""
    sha256, buffer = hashlib.sha256(), bytearray(BLOCK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            sha256.update(view[:n])


def tree() -> Iterator[tuple[Path, list[str]]]:
    """Every process that this one started, itself, and theirs, with what the kernel tells of it."""
    told: dict[int, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told[int(process.name)] = (process / "stat").read_text().rpartition(")")[2].split()
    for pid, line in told.items():
        above = pid
        while above in told and above != os.getpid():
            above = int(told[above][1])
        if above == os.getpid():
            yield Path("/proc") / str(pid), line


def resident() -> int:
    """Bytes that this process and those it started hold, without the database."""
    total = 0
    for process, _ in tree():
        with suppress(OSError):
            if b"postgres" not in (process / "cmdline").read_bytes():
                total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total


def used() -> float:
    """Seconds of processor time of this process and all that it started."""
    return sum(sum(map(int, line[11:15])) for _, line in tree()) / os.sysconf("SC_CLK_TCK")


# --- large files -------------------------------------------------------------------------------------------------
def large(root: Path, scale: str) -> list[Measure]:
    size = LARGE[scale]
    plan = NightPlan(root / "large", date(2030, 3, 14), TELESCOPES[:1], files=2, size=size, observations=1)
    stamp_night(plan)
    files = sorted((root / "large").rglob("*.fits.fz"))
    assert len(files) == 2
    total = sum(path.stat().st_size for path in files)
    rates: dict[str, list[float]] = {}
    for _ in range(3):
        for what, seconds in (
            ("SHA-256", timed(lambda: hash_all(files))),
            ("all", timed(lambda: walk_all(files))),
            ("two", in_two_processes(walk_all, files)),
        ):
            rates.setdefault(what, []).append(total / seconds / 1e6)
    rate = {what: max(measured) for what, measured in rates.items()}
    return [
        Measure(
            "large files verified with all sums, 1 process",
            rate["all"],
            "MB/s",
            0.85 * rate["SHA-256"],
            peer="SHA-256 alone",
            peer_value=rate["SHA-256"],
        ),
        Measure(
            "the same, 2 processes", rate["two"], "MB/s", 1.8 * rate["all"], peer="1 process", peer_value=rate["all"]
        ),
    ]


# --- how long one delivery takes -----------------------------------------------------------------------------------
def latency(root: Path, scale: str) -> list[Measure]:
    with world(root) as ctx:
        plan = NightPlan(root / "site", date(2030, 3, 14), TELESCOPES, files=2000, observations=1, triggers=False)
        stamp_night(plan, processes=2)
        files = sorted(path for path in (root / "site").rglob("*.fits.fz"))
        worker = Worker(ctx, "http://127.0.0.1:1")
        worker.start()
        time.sleep(3)
        first, *idle = [delivered(files[n : n + 1], 0.0) for n in range(SINGLE[scale])]
        rest = files[SINGLE[scale] :]
        chosen = [rest[(n * 61) % len(rest)] for n in range(min(len(rest), int(RATE * SECONDS[scale])))]
        busy = delivered(chosen, 1 / RATE)
        worker.stop()
    return [
        Measure("the first delivery after a start", first[0], "s"),
        Measure("trigger to registered, idle, p95", p95([one[0] for one in idle]), "s", 1.0, more_is_better=False),
        Measure(
            f"trigger to registered, {len(TELESCOPES)} telescopes, {RATE:g} files/s, p95",
            p95(busy),
            "s",
            2.0,
            more_is_better=False,
        ),
    ]


def delivered(files: Sequence[Path], spacing: float) -> list[float]:
    """Announce files, one after the other; for each the time until its trigger was gone, which is after the commit."""
    open_: dict[Path, float] = {}
    taken: list[float] = []
    begin, n = time.perf_counter(), 0
    while n < len(files) or open_:
        while n < len(files) and time.perf_counter() >= begin + n * spacing:
            trigger = Path(f"{files[n]}.trigger")
            trigger.symlink_to(files[n].name)
            open_[trigger] = time.perf_counter()
            n += 1
        for trigger in [one for one in open_ if not os.path.lexists(one)]:
            taken.append(time.perf_counter() - open_.pop(trigger))
        time.sleep(0.002)
    return taken


def p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]
