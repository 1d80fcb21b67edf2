"""What flows over limited ways, counted by the moment when all that was asked for has gone.

One row a way, shared by every worker on this database: bytes are asked for before they go, in grants of a fraction of a
second, so a limit holds whatever the number of streams and of machines.
"""

from collections.abc import Mapping

from psycopg import Connection


def reserve(conn: Connection, rates: Mapping[str, int], count: int) -> float:
    """Ask for `count` bytes on every way named in `rates` (bytes per second); the seconds to wait before they may go.
    A way that was idle begins anew: nothing is saved up."""
    # Nothing is lost with a grant that a crash forgets: its bytes did not go.
    conn.execute("SET LOCAL synchronous_commit = off")
    found = conn.execute(
        """
        INSERT INTO meter AS m (name, free_at)
        SELECT name, statement_timestamp() + %(count)s / rate * interval '1 second'
          FROM unnest(%(names)s::text[], %(rates)s::float[]) AS w (name, rate)
         ORDER BY name
        ON CONFLICT (name) DO UPDATE
           SET free_at = greatest(m.free_at, clock_timestamp()) + (excluded.free_at - statement_timestamp())
     RETURNING name, extract(epoch FROM free_at - clock_timestamp())::float
        """,
        {"names": list(rates), "rates": [float(rate) for rate in rates.values()], "count": float(count)},
    ).fetchall()
    return max((left - count / rates[name] for name, left in found), default=0.0)
