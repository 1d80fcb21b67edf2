"""Transformations and jobs: matching and grouping of files, lists of progress, and jobs from the queue to their end.

Embedded PostgreSQL with fsync on. Small: 200,000 files, 300 productions, 200,000 pending jobs; full: 1,000,000 files,
1,500 productions, 5,000,000 pending jobs. A long reader holds a snapshot while jobs are claimed in the store. Pilots
are eight processes that ask over HTTP; their tool is replaced by one that only writes the output: the rest is ours.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from psycopg.types.json import Jsonb

from bench.__main__ import Measure, timed
from bench._work import context
from bench.register import made
from lightkeeper.context import Context
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, Vocabulary
from lightkeeper.domain.sharing import Offer
from lightkeeper.pilot import IDLE_POLL
from lightkeeper.steps import preview, produce, topology, transform
from lightkeeper.steps import run as run_step
from lightkeeper.steps.queue import Queue
from lightkeeper.store import catalog, jobs, postgres, productions, provenance, reports
from lightkeeper.store import topology as places
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate
from lightkeeper.testing.observatory import KEYS
from lightkeeper.worker import Worker

FILES = {"small": 200_000, "full": 1_000_000}
GROUPING_TARGET = {"small": 6, "full": 30}
PLAN_TARGET = {"small": 2, "full": 8}
PRODUCTIONS = {"small": 300, "full": 1500}
TASKS = {"small": 4_000, "full": 20_000}
PENDING = {"small": 200_000, "full": 5_000_000}
CLIENTS = 3
BATCH = 200
FOR_SECONDS = {"small": 10, "full": 30}
TOPOLOGY = """
sites:
  North: {computing: {executor: none, pilots: 8}}
  South: {computing: {executor: none, pilots: 8}}
storages:
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
"""


def run(scale: str) -> list[Measure]:
    """In parts, each on a database of its own."""
    return [*grouping(scale), *lists(scale), *queue(scale), *through_the_api(scale), *latency()]


# --- files become tasks --------------------------------------------------------------------------------------------
def grouping(scale: str) -> list[Measure]:
    n = FILES[scale]
    with observatory() as ctx:
        register(ctx, n)
        document = json.dumps({"steps": [{"query": {"key0": {"!=": "none"}}, "group_size": 50}]})
        planned = timed(lambda: preview.look(ctx, document, {}))
        submitted = timed(lambda: produce.submit(ctx, "p", document, {}, open_=True))
        grouped = timed(lambda: transform.make_tasks(ctx))
        summary = timed(lambda: one_summary(ctx))
        idle = timed(lambda: transform.make_tasks(ctx))
        register(ctx, 40, n)  # fewer than a task needs: they are looked at, and left
        few = timed(lambda: transform.make_tasks(ctx))
        submitted_jobs = timed(lambda: until_done(lambda: transform.submit_jobs(ctx)))
    target = GROUPING_TARGET[scale]
    return [
        Measure(
            f"{n:,} files matched and grouped in tasks of 50", submitted + grouped, "s", target, more_is_better=False
        ),
        Measure("the same, grouping only", grouped, "s"),
        Measure("'plan' of it beforehand", planned, "s", PLAN_TARGET[scale], more_is_better=False),
        Measure("jobs queued for these tasks", n / 50 / submitted_jobs, "jobs/s"),
        Measure("status summary of it", summary * 1e3, "ms", 50, more_is_better=False),
        Measure("a wake-up when nothing is new", idle * 1e3, "ms"),
        Measure("a wake-up for 40 new files", few * 1e3, "ms"),
    ]


def one_summary(ctx: Context) -> None:
    with ctx.db.transaction() as conn:
        reports.transformations(conn, only=1)


# --- lists of progress ---------------------------------------------------------------------------------------------
def lists(scale: str) -> list[Measure]:
    n = PRODUCTIONS[scale]
    with observatory() as ctx:
        with ctx.db.transaction() as conn:
            conn.execute(
                "INSERT INTO production (name, campaign, document)"
                " SELECT 'p' || n, 'c', '' FROM generate_series(1, %s) n",
                (n,),
            )
            conn.execute("""
                INSERT INTO transformation (production_id, group_size, step, name, type, job_type, query, set_query,
                                            body)
                SELECT production_id, 50, s, production_id || '_' || s, 'Merging', 'Concatenate', '{}', 'true', '{}'
                  FROM production CROSS JOIN generate_series(1, 3) s
            """)
            conn.execute("""
                INSERT INTO transformation_count (transformation_id, processed, ready, done)
                SELECT transformation_id, 100 * d, d, 2 * d FROM transformation CROSS JOIN generate_series(1, 5) d
            """)
        found = timed(lambda: listed(ctx, productions.summaries))
        transformations = timed(lambda: listed(ctx, reports.transformations))
    return [
        Measure(f"list of {n:,} productions with progress", found * 1e3, "ms", 200, more_is_better=False),
        Measure(f"list of their {3 * n:,} transformations", transformations * 1e3, "ms"),
    ]


def listed(ctx: Context, what: Callable[[Any], object]) -> None:
    with ctx.db.transaction() as conn:
        what(conn)


# --- the queue -----------------------------------------------------------------------------------------------------
def queue(scale: str) -> list[Measure]:
    n = PENDING[scale]
    with observatory() as ctx:
        pending(ctx, n)
        with ctx.db.session() as reader, reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM site")
            claims, done, took = drained(ctx, FOR_SECONDS[scale])
    return [
        Measure(f"claim and finish in batches of {BATCH}, {n:,} pending", done / took, "tasks/s", 8000),
        Measure("such a claim, p99, a long reader open", percentile(claims, 99) * 1e3, "ms", 50, more_is_better=False),
        Measure("such a claim, median", percentile(claims, 50) * 1e3, "ms"),
    ]


def pending(ctx: Context, n: int, transformations: int = 10, name: str = "p", job_type: str = "Nothing") -> None:
    """Tasks of transformations without input, each with a job in the queue."""
    for number in range(transformations):
        with ctx.db.transaction() as conn:
            conn.execute(
                "INSERT INTO production (name, campaign, document) VALUES (%s, 'c', '')", (f"{name}-{number}",)
            )
            conn.execute(
                """
                INSERT INTO transformation (production_id, group_size, step, name, type, job_type, query, set_query,
                                            body, state, n_tasks)
                SELECT max(production_id), 1, 1, %s, 'MCSimulation', %s, %s, 'true', %s, 'New', %s
                  FROM production
                """,
                (f"{name}-{number}", job_type, Jsonb({}), Jsonb({"level": 1}), n // transformations),
            )
            conn.execute("UPDATE transformation SET state = 'Active' WHERE state = 'New'")
    with ctx.db.transaction() as conn:
        conn.execute("""
            INSERT INTO task (transformation_id, number, attempts, site_id)
            SELECT transformation_id, g, 1, 1 + g % 2 FROM transformation CROSS JOIN generate_series(1, n_tasks) g
             WHERE state = 'Active'
        """)
        conn.execute("""
            INSERT INTO job (task_id, transformation_id, attempt, site_id, minor_status)
            SELECT task_id, transformation_id, 1, site_id, 'Waiting for a pilot' FROM task
              JOIN transformation USING (transformation_id) WHERE transformation.state = 'Active'
        """)
        conn.execute("INSERT INTO job_queue (job_id, transformation_id, site_id) "
                     "SELECT job_id, transformation_id, site_id FROM job WHERE state = 'Waiting' "
                     "ON CONFLICT DO NOTHING")  # fmt: skip
    with ctx.db.session() as conn:
        conn.execute("VACUUM ANALYZE task, job, job_queue, transformation_count")
        conn.execute("CHECKPOINT")  # what is measured is not how this was written


def drained(ctx: Context, seconds: float) -> tuple[list[float], int, float]:
    """Clients that claim and finish as fast as they can; the time of each claim, the jobs, and how long it took."""
    claims: list[float] = []
    over = time.monotonic() + seconds
    shared = Queue()

    def work(number: int) -> None:
        site_id = 1 + number % 2
        with ctx.db.transaction() as conn:
            pilot_id = jobs.add_pilot(conn, site_id, f"pilot{number}", "none", os.urandom(32))
        while time.monotonic() < over:
            began = time.perf_counter()
            with ctx.db.transaction() as conn:
                begun = jobs.begin(conn, shared.take(conn, Offer(site_id), BATCH), pilot_id, site_id)
            claims.append(time.perf_counter() - began)
            with ctx.db.transaction() as conn:
                ours = jobs.reported(conn, {job.job_id: {} for job in begun}, pilot_id)
                jobs.accepted(conn, jobs.completing(conn, ours))

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return claims, len(claims) * BATCH, time.monotonic() - began


# --- through the API -----------------------------------------------------------------------------------------------
PILOTS = 8


def through_the_api(scale: str) -> list[Measure]:
    """Pilots in processes of their own, on the API of an instance in another one."""
    n = TASKS[scale]
    with observatory() as ctx:
        trivial, took = with_pilots(ctx, n, "Nothing", "--claims", "16")
        whole, took_whole = with_pilots(ctx, n // 4, "Concatenate", "--jobs")
    return [
        Measure(f"claim and finish without outputs, {PILOTS} pilots", trivial / took, "tasks/s", 500),
        Measure(f"jobs with an output, without the tool, {PILOTS} pilots", whole / took_whole, "tasks/s"),
        Measure("overhead of such a job", 1e3 * took_whole / whole, "ms", 10, more_is_better=False),
    ]


def with_pilots(ctx: Context, n: int, job_type: str, *how: str) -> tuple[int, float]:
    """Have eight pilots do `n` tasks; how many were done, and how long it took from the first to the last."""
    with ctx.db.transaction() as conn:
        conn.execute("UPDATE transformation SET state = 'Stopped' WHERE state = 'Active'")
    pending(ctx, n, transformations=1, name=job_type, job_type=job_type)
    with ctx.db.transaction() as conn:
        secrets = [os.urandom(16).hex() for _ in range(PILOTS)]
        for number, secret in enumerate(secrets):
            digest = hashlib.sha256(secret.encode()).digest()
            jobs.add_pilot(conn, 1 + number % 2, f"{job_type}-{number}", "none", digest)
    server = subprocess.Popen(
        [sys.executable, "-m", "bench._work", "serve", str(ctx.settings.home), ctx.db.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    assert server.stdin
    url = server.stdout.readline().strip()
    pilots = [
        subprocess.Popen([sys.executable, "-m", "bench._work", "pilot", url,
                          str(ctx.settings.home / f"{job_type}{i}"), *how],
                         env=os.environ | {"LIGHTKEEPER_PILOT_SECRET": secret}, stdout=subprocess.DEVNULL)
        for i, secret in enumerate(secrets)
    ]  # fmt: skip
    for pilot in pilots:
        pilot.wait()
    with ctx.db.transaction() as conn:
        found = conn.execute(
            """
            SELECT count(*), extract(epoch FROM max(ended) - min(started))
              FROM job JOIN transformation t USING (transformation_id)
             WHERE job.state = 'Done' AND t.job_type = %s
            """,
            (job_type,),
        ).fetchone()
    server.stdin.close()
    server.wait()
    assert found
    return int(found[0]), float(found[1])


# --- from a file to its job ----------------------------------------------------------------------------------------
def latency(n: int = 40) -> list[Measure]:
    """A worker runs and a pilot waits; files are registered one after the other."""
    with observatory() as ctx:
        document = json.dumps({"steps": [{"query": {"key0": {"!=": "none"}}, "group_size": 1}]})
        produce.submit(ctx, "p", document, {}, open_=True)
        with ctx.db.transaction() as conn:
            jobs.add_pilot(conn, 1, "waiting", "none", hashlib.sha256(b"secret").digest())
            conn.execute("UPDATE site SET executor = NULL")  # no other pilot is started
        pilot = run_step.greet(ctx, "secret")
        worker, over = Worker(ctx, ""), threading.Event()

        def wait_for_work() -> None:
            waiting = Queue()
            while not over.is_set():
                if not run_step.claim(ctx, pilot, queue=waiting):
                    time.sleep(IDLE_POLL)

        thread = threading.Thread(target=wait_for_work)
        worker.start()
        thread.start()
        for number in range(n):
            register(ctx, 1, number)
            time.sleep(0.3)
        time.sleep(3)
        over.set()
        thread.join()
        worker.stop()
        with ctx.db.transaction() as conn:
            found = conn.execute("""
                SELECT extract(epoch FROM j.started - f.created)
                  FROM file f JOIN task_input USING (file_id) JOIN job j USING (task_id) WHERE j.started IS NOT NULL
            """).fetchall()
    waits = [float(line[0]) for line in found]
    assert len(waits) == n, f"{len(waits)} of {n} began"
    return [
        Measure("file registered until its job starts, p95", percentile(waits, 95), "s", 2, more_is_better=False),
        Measure("the same, median", percentile(waits, 50), "s"),
    ]


# --- how -----------------------------------------------------------------------------------------------------------
@contextmanager
def observatory() -> Iterator[Context]:
    """Two data centres on an embedded database."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        postgres.start(Path(folder) / "pg", shared_buffers_mb=512) as server,
    ):
        migrate(server.url)
        database = Database(server.url).open()
        ctx = context(database, Path(folder))
        with database.transaction() as conn:
            places.put_keys(conn, keys())
        for name in ("north", "south"):
            (Path(folder) / name).mkdir()
        topology.apply(ctx, TOPOLOGY.replace("ROOT", folder))
        try:
            yield ctx
        finally:
            database.close()


def keys() -> list[MetaKey]:
    found = [MetaKey(f"key{k}", KeyType.STRING) for k in range(18)]
    found += [key for key in KEYS if key.name not in ("number", "zenith")]
    return [*found, MetaKey("number", KeyType.INT, KeyLevel.FILE), MetaKey("zenith", KeyType.FLOAT)]


def register(ctx: Context, n: int, first: int = 0) -> None:
    with ctx.db.transaction() as conn:
        activity = provenance.add_activity(conn, name="bench", agent="bench", software={})
    vocabulary = Vocabulary(keys())
    for start in range(first, first + n, 50_000):
        batch = catalog.Batch(list(made(start, min(50_000, first + n - start))), vocabulary)
        with ctx.db.transaction() as conn:
            names = catalog.name(conn, batch)
        with ctx.db.transaction() as conn:
            catalog.register(conn, batch, names, activity)


def until_done(duty: Callable[[], int]) -> None:
    while duty():
        pass


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else values[0]
