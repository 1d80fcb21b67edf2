"""What jobs used: kept when they end, and told as mean and tail."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import Connection

from lightkeeper.domain.limits import Used

MEASURED = ("cpu_seconds", "wall_seconds", "memory", "disk")
"""What is measured of each job, in the words of its columns."""


def put(conn: Connection, used: Mapping[int, Used]) -> None:
    """Keep what the tools of jobs used."""
    conn.execute(
        """
        UPDATE job SET cpu_seconds = u.cpu_seconds, wall_seconds = u.wall_seconds, memory = u.memory, disk = u.disk
          FROM unnest(%(ids)s::bigint[], %(cpu)s::real[], %(wall)s::real[], %(memory)s::bigint[], %(disk)s::bigint[])
               AS u (job_id, cpu_seconds, wall_seconds, memory, disk)
         WHERE job.job_id = u.job_id
        """,
        {
            "ids": list(used),
            "cpu": [one.cpu_seconds for one in used.values()],
            "wall": [one.wall_seconds for one in used.values()],
            "memory": [one.memory for one in used.values()],
            "disk": [one.disk for one in used.values()],
        },
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """What the jobs of a transformation that ended in one state used of one thing: seconds of processors, or from start
    to end; bytes of memory, or of disk, at the peak."""

    status: str
    jobs: int
    what: str
    mean: float
    p50: float
    p95: float
    most: float


def of_transformation(conn: Connection, transformation_id: int) -> list[Usage]:
    """What its jobs used, those of which it is known: the mean, and how far from it the others are."""
    found = conn.execute(
        """
        SELECT state::text, count(*),
               avg(cpu_seconds),
               percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY cpu_seconds), max(cpu_seconds),
               avg(wall_seconds),
               percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY wall_seconds), max(wall_seconds),
               avg(memory), percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY memory), max(memory),
               avg(disk), percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY disk), max(disk)
          FROM job
         WHERE task_id IN (SELECT task_id FROM task WHERE transformation_id = %s)
           AND state IN ('Done', 'Failed', 'Killed') AND wall_seconds IS NOT NULL
         GROUP BY state
         ORDER BY state
        """,
        (transformation_id,),
    ).fetchall()
    return [
        Usage(state, n, what, float(mean), float(middle), float(tail), float(most))
        for state, n, *figures in found
        for what, mean, (middle, tail), most in zip(MEASURED, *(figures[i::3] for i in range(3)), strict=True)
    ]
