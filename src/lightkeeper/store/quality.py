"""Quality figures: what they are, and what nights have of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from lightkeeper.domain.quality import Figure, NightValue
from lightkeeper.store.db import rows, value

TOPOLOGY = "topology"
"""The origin of figures that a document defines; others have their observatory's name."""


def count(conn: Connection, sets: Sequence[int]) -> None:
    """Make the figures of these metadata sets anew."""
    conn.execute("DELETE FROM quality_count WHERE set_id = ANY(%s)", (list(sets),))
    conn.execute(
        """
        INSERT INTO quality_count (set_id, figure_id, element, night_id, n_files, n_below, n_above, total, least, most)
        SELECT v.set_id, v.figure_id, v.element, min(n.night_id), count(*), count(*) FILTER (WHERE below),
               count(*) FILTER (WHERE above), sum(value), min(value), max(value)
          FROM quality_values(%s::bigint[]) v
          JOIN night n ON n.name = v.night
         GROUP BY 1, 2, 3
        """,
        (list(sets),),
    )


# --- figures ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Known:
    """A figure and where it is defined."""

    figure: Figure
    origin: str


def figures(conn: Connection) -> list[Known]:
    """Every figure by name."""
    found = conn.execute("""
        SELECT name, key, begin_key, end_key, reduction_to, query, low, high, unit, description, origin
          FROM quality_figure ORDER BY name
    """).fetchall()
    return [
        Known(Figure(name, key, (begin, end) if begin else None, level, query, low, high, unit, description), origin)
        for name, key, begin, end, level, query, low, high, unit, description, origin in found
    ]


def put(conn: Connection, figure: Figure, set_query: str, file_query: str | None, origin: str) -> bool:
    """Make the figure so; whether that changed anything. What a topology says stays, whatever an observatory says."""
    begin, end = figure.per or (None, None)
    given: dict[str, Any] = {
        "name": figure.name,
        "key": figure.key,
        "begin": begin,
        "end": end,
        "level": figure.reduction_to,
        "query": Jsonb(dict(figure.files)),
        "set_query": set_query,
        "file_query": file_query,
        "low": figure.low,
        "high": figure.high,
        "unit": figure.unit,
        "description": figure.description,
        "origin": origin,
    }
    return bool(
        conn.execute(
            """
            INSERT INTO quality_figure AS q (name, key, begin_key, end_key, reduction_to, query, set_query, file_query,
                                             low, high, unit, description, origin)
            VALUES (%(name)s, %(key)s, %(begin)s, %(end)s, %(level)s, %(query)s, %(set_query)s::jsonpath,
                    %(file_query)s::jsonpath, %(low)s, %(high)s, %(unit)s, %(description)s, %(origin)s)
            ON CONFLICT (name) DO UPDATE
               SET key = excluded.key, begin_key = excluded.begin_key, end_key = excluded.end_key,
                   reduction_to = excluded.reduction_to, query = excluded.query, set_query = excluded.set_query,
                   file_query = excluded.file_query, low = excluded.low, high = excluded.high, unit = excluded.unit,
                   description = excluded.description, origin = excluded.origin
             WHERE (q.origin <> 'topology' OR excluded.origin = 'topology')
               AND (q.key, q.begin_key, q.end_key, q.reduction_to, q.set_query::text, q.file_query::text, q.low, q.high,
                    q.unit, q.description, q.origin)
                   IS DISTINCT FROM
                   (excluded.key, excluded.begin_key, excluded.end_key, excluded.reduction_to,
                    excluded.set_query::text, excluded.file_query::text, excluded.low, excluded.high, excluded.unit,
                    excluded.description, excluded.origin)
            """,
            given,
        ).rowcount
    )


def remove(conn: Connection, name: str) -> bool:
    """Forget a figure; False when there was none."""
    return bool(conn.execute("DELETE FROM quality_figure WHERE name = %s", (name,)).rowcount)


# --- nights ----------------------------------------------------------------------------------------------------
def trend(conn: Connection, name: str, nights: int, *, by_element: bool) -> list[NightValue]:
    """A figure in the last nights that have it, oldest first, of all elements together or of each."""
    return rows(
        conn,
        NightValue,
        """
        SELECT n.name AS night, CASE WHEN %(by_element)s THEN c.element ELSE '' END AS element,
               sum(c.n_files)::bigint AS files, sum(c.total) / sum(c.n_files) AS mean, min(c.least) AS least,
               max(c.most) AS most, sum(c.n_below)::bigint AS below, sum(c.n_above)::bigint AS above
          FROM quality_figure q
          JOIN quality_count c USING (figure_id)
          JOIN night n USING (night_id)
         WHERE q.name = %(name)s
           AND n.name IN (SELECT DISTINCT m.name FROM quality_count x JOIN night m USING (night_id)
                           WHERE x.figure_id = q.figure_id ORDER BY m.name DESC LIMIT %(nights)s)
         GROUP BY 1, 2
         ORDER BY 1, 2
        """,
        name=name,
        nights=nights,
        by_element=by_element,
    )


def reductions(conn: Connection, level: int, low: float | None, high: float | None, nights: int) -> list[NightValue]:
    """How many raw bytes there are for each byte at a data level, in the last nights that have it, oldest first."""
    return rows(
        conn,
        NightValue,
        """
        SELECT night, '' AS element, 1 AS files, value AS mean, value AS least, value AS most,
               coalesce(value < %(low)s::float8, false)::int AS below,
               coalesce(value > %(high)s::float8, false)::int AS above
          FROM (SELECT n.name AS night,
                       (sum(n_bytes) FILTER (WHERE coalesce(level, 0) = 0)
                        / sum(n_bytes - b_removed) FILTER (WHERE level = %(level)s))::float8 AS value
                  FROM night_count JOIN night n USING (night_id)
                 GROUP BY n.name
                HAVING sum(n_bytes - b_removed) FILTER (WHERE level = %(level)s) > 0
                   AND sum(n_bytes) FILTER (WHERE coalesce(level, 0) = 0) > 0
                 ORDER BY n.name DESC
                 LIMIT %(nights)s) v
         ORDER BY night
        """,
        level=level,
        low=low,
        high=high,
        nights=nights,
    )


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A figure with values out of range in an open night, by array element."""

    figure: str
    night: str
    element: str
    files: int
    mean: float
    least: float
    most: float
    below: int
    above: int


def out_of_range(conn: Connection) -> list[OutOfRange]:
    """What is out of range in nights that are open, the latest night first."""
    return rows(
        conn,
        OutOfRange,
        """
        SELECT q.name AS figure, n.name AS night, c.element, sum(c.n_files)::bigint AS files,
               sum(c.total) / sum(c.n_files) AS mean, min(c.least) AS least, max(c.most) AS most,
               sum(c.n_below)::bigint AS below, sum(c.n_above)::bigint AS above
          FROM night n
          JOIN quality_count c USING (night_id)
          JOIN quality_figure q USING (figure_id)
         WHERE n.state = 'Open'
         GROUP BY 1, 2, 3
        HAVING sum(c.n_below + c.n_above) > 0
         ORDER BY 2 DESC, 1, 3
        """,
    )


def is_open(conn: Connection, night: str) -> bool:
    """Whether a night is open."""
    return bool(value(conn, "SELECT state = 'Open' FROM night WHERE name = %(night)s", night=night))


@dataclass(frozen=True, slots=True)
class FileValue:
    """A figure of one file."""

    lfn: str
    value: float
    below: bool
    above: bool


def files(conn: Connection, name: str, night: str, *, only_out_of_range: bool, limit: int) -> list[FileValue]:
    """The files of a night that have a figure, the worst first, with its values."""
    return rows(
        conn,
        FileValue,
        """
        SELECT d.path || '/' || f.name AS lfn, v.value, v.below, v.above
          FROM quality_figure q
         CROSS JOIN LATERAL quality_values(ARRAY(
               SELECT DISTINCT c.set_id FROM quality_count c JOIN night n USING (night_id)
                WHERE c.figure_id = q.figure_id AND n.name = %(night)s
                  AND (NOT %(bad)s OR c.n_below + c.n_above > 0))) v
          JOIN file f USING (file_id)
          JOIN directory d USING (dir_id)
         WHERE q.name = %(name)s AND v.figure_id = q.figure_id AND (NOT %(bad)s OR v.below OR v.above)
         ORDER BY (v.below OR v.above) DESC, CASE WHEN v.below THEN v.value ELSE -v.value END, 1
         LIMIT %(limit)s
        """,
        name=name,
        night=night,
        bad=only_out_of_range,
        limit=limit,
    )
