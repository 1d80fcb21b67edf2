"""The keeper: a round over a thousand transformations, nothing to do, the report of a million tasks, and how long it
takes from the end of the last job until a transformation is Completed.

Embedded PostgreSQL with fsync on. Tasks and jobs are written as they are when work went on for weeks; the ends of the
last jobs are real ones, seen by a worker that is woken as in operation.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.__main__ import Measure, timed
from bench.bookkeeping import context
from lightkeeper.context import Context
from lightkeeper.steps import contradictions, heal, report, tell, topology
from lightkeeper.store import postgres
from lightkeeper.store.db import Database
from lightkeeper.store.schema import migrate

TASKS = {"small": 100_000, "full": 1_000_000}
TRANSFORMATIONS = 1000
ENDS = {"small": 50, "full": 200}
TOPOLOGY = """
sites: {North: {}}
storages: {north: {site: North, root: "ROOT/north"}}
keeper: {tell: [ops@example.org]}
"""


def run(scale: str) -> list[Measure]:
    n = TASKS[scale]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        postgres.start(Path(folder) / "pg", shared_buffers_mb=512) as server,
    ):
        migrate(server.url)
        database = Database(server.url).open()
        ctx = context(database, Path(folder))
        (Path(folder) / "north").mkdir()
        topology.apply(ctx, TOPOLOGY.replace("ROOT", folder))
        _fill(ctx, n)
        before = timed(lambda: heal.look_after_work(ctx))
        swept = timed(lambda: contradictions.sweep_all(ctx))
        gathered = timed(lambda: tell.gather(ctx))
        idle = timed(lambda: (heal.look_after_work(ctx), tell.gather(ctx), tell.send(ctx)))
        large = _large(ctx, n)
        told = timed(lambda: report.transformation(ctx, large))
        ended = _ends(ctx, server.url, ENDS[scale])
        database.close()
    p95 = statistics.quantiles(ended, n=20)[-1]
    whole = before + swept + gathered
    lower = {"more_is_better": False}
    return [
        Measure(
            f"a round over {TRANSFORMATIONS:,} transformations, {n:,} tasks",
            whole,
            "s",
            20,
            **lower,
        ),
        Measure("  decisions, each done", before, "s", **lower),
        Measure("  contradictions looked for in all tasks", swept, "s", **lower),
        Measure("a round with nothing to do", idle, "s", 1, **lower),
        Measure(f"the report of a transformation of {n:,} tasks", told, "s", 1, **lower),
        Measure("from the end of the last job to Completed, p95", p95, "s", 3, **lower),
    ]


def _fill(ctx: Context, n: int) -> None:
    """A thousand transformations: most are done but not Completed, some at work, some with failed tasks."""
    with ctx.db.transaction() as conn:
        conn.execute("SET LOCAL session_replication_role = replica")  # as if all of it had happened long ago
        _transformations(conn, TRANSFORMATIONS)
        conn.execute(
            """
            INSERT INTO task (transformation_id, attempts, state, n_inputs)
            SELECT 1 + i %% %(t)s, 1,
                   CASE WHEN i %% %(t)s < 100 AND i < %(t)s * 3 THEN 'Failed'
                        WHEN i %% %(t)s BETWEEN 100 AND 499 AND i < %(t)s * 3 THEN 'Ready'
                        ELSE 'Done' END::task_state, 1
              FROM generate_series(0, %(n)s - 1) i
            """,
            {"t": TRANSFORMATIONS, "n": n},
        )
        _jobs_and_counts(conn)
    with ctx.db.session() as conn:
        conn.execute("VACUUM ANALYZE")


def _transformations(conn: object, n: int, first: str = "p") -> None:
    execute: Callable[..., object] = conn.execute  # type: ignore[attr-defined]
    execute("INSERT INTO production (name, campaign, document, state) VALUES (%s, 'bench', '', 'Active')", (first,))
    execute(
        """
        INSERT INTO transformation (production_id, group_size, step, state, name, type, job_type, query, set_query,
                                    body)
        SELECT p.production_id, 10, 1, 'Active', p.name || i, 'Merging', 'None', '{}', 'true', '{}'
          FROM generate_series(1, %s) i, production p WHERE p.name = %s
        """,
        (n, first),
    )


def _jobs_and_counts(conn: object) -> None:
    execute: Callable[..., object] = conn.execute  # type: ignore[attr-defined]
    execute("""
        INSERT INTO job (task_id, attempt, state, minor_status, site_id, transformation_id, started, ended, report)
        SELECT task_id, 1, CASE state WHEN 'Done' THEN 'Done' ELSE 'Failed' END::job_state,
               CASE state WHEN 'Done' THEN 'Execution Complete' ELSE 'Application Finished With Errors' END,
               1, transformation_id, now(), now(), '{"outputs": []}'
          FROM task
         WHERE NOT EXISTS (SELECT FROM job WHERE job.task_id = task.task_id)
    """)
    execute("""
        INSERT INTO transformation_count (transformation_id, ready, done, failed, in_vain)
        SELECT transformation_id, count(*) FILTER (WHERE state = 'Ready'), count(*) FILTER (WHERE state = 'Done'),
               count(*) FILTER (WHERE state = 'Failed'), count(*) FILTER (WHERE state <> 'Done')
          FROM task t
         WHERE NOT EXISTS (SELECT FROM transformation_count c WHERE c.transformation_id = t.transformation_id)
         GROUP BY 1
    """)


def _large(ctx: Context, n: int) -> int:
    """One transformation with all the tasks; some have failed."""
    with ctx.db.transaction() as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        _transformations(conn, 1, "large")
        (number,) = conn.execute("SELECT max(transformation_id) FROM transformation").fetchone() or (0,)
        conn.execute(
            """
            INSERT INTO task (transformation_id, attempts, state, n_inputs)
            SELECT %(id)s, 1, CASE WHEN i %% 20 = 0 THEN 'Failed' ELSE 'Done' END::task_state, 1
              FROM generate_series(1, %(n)s) i
            """,
            {"id": number, "n": n},
        )
        _jobs_and_counts(conn)
    with ctx.db.session() as conn:
        conn.execute("VACUUM ANALYZE")
    return number


def _ends(ctx: Context, url: str, n: int) -> list[float]:
    """Seconds from the end of the last job of each transformation until it is Completed, with the keeper as a worker
    runs it: woken, or every ten minutes."""
    del url
    stop, woken = threading.Event(), threading.Event()

    def listen() -> None:
        with ctx.db.listen() as conn:
            while not stop.is_set():
                for notice in conn.notifies(timeout=0.5):
                    if notice.payload in ("task", "input"):
                        woken.set()

    def keep() -> None:
        while not stop.is_set():
            if woken.wait(0.5):
                woken.clear()
                heal.look_after_work(ctx)

    threads = [threading.Thread(target=target) for target in (listen, keep)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    ids: list[int] = []
    with ctx.db.transaction() as conn:
        conn.execute("SET LOCAL session_replication_role = replica")
        _transformations(conn, n, "ends")
        ids = [
            line[0]
            for line in conn.execute("SELECT transformation_id FROM transformation WHERE name LIKE 'ends%'").fetchall()
        ]
        conn.execute(
            "INSERT INTO task (transformation_id, attempts, state, n_inputs) SELECT unnest(%s::int[]), 1, 'Running', 1",
            (ids,),
        )
        conn.execute(
            "INSERT INTO transformation_count (transformation_id, running) SELECT unnest(%s::int[]), 1", (ids,)
        )
        conn.execute("""
            INSERT INTO job (task_id, attempt, state, transformation_id)
            SELECT task_id, 1, 'Done', transformation_id FROM task WHERE state = 'Running'
        """)
    for number in ids:
        with ctx.db.transaction() as conn:
            conn.execute(
                "UPDATE task SET state = 'Done', state_since = clock_timestamp() WHERE transformation_id = %s",
                (number,),
            )
            conn.execute("SELECT pg_notify('lightkeeper', 'task')")
        time.sleep(0.02)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with ctx.db.transaction() as conn:
            left = conn.execute(
                "SELECT count(*) FROM transformation WHERE transformation_id = ANY(%s) AND state <> 'Completed'", (ids,)
            ).fetchone()
        if left == (0,):
            break
        time.sleep(0.1)
    stop.set()
    woken.set()
    for thread in threads:
        thread.join()
    with ctx.db.transaction() as conn:
        return [
            float(line[0])
            for line in conn.execute(
                """
                SELECT extract(epoch FROM t.state_since - k.state_since)
                  FROM transformation t JOIN task k USING (transformation_id)
                 WHERE transformation_id = ANY(%s) AND t.state = 'Completed'
                """,
                (ids,),
            ).fetchall()
        ]
