"""Beside step 6: which waiting jobs a pilot gets.

Before: transform.py queued jobs.    After: run.py hands them out. Any number of queues may work on one database: a job
is taken once, whatever they believe.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from lightkeeper.domain.sharing import Lane, Offer, in_turn
from lightkeeper.store import jobs
from lightkeeper.store.db import Connection

REFRESH = 0.5
"""Seconds for which what waits and runs is believed, but for what is taken here."""
AT_LEAST = 0.05
"""Seconds between two looks when nothing seems to wait."""
_START = (-1, 0)
_LAST_SITE = 32_767


class Queue:
    """What waited a moment ago, and how far it has been handed out.

    A claim begins behind the last job that was taken, for before it lie the remains of many, which a long reader keeps
    the database from clearing away. When nothing is found there it begins at the start again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = -1e9
        self._lanes: dict[int, Lane] = {}
        self._shares: Mapping[tuple[str, str], float] = {}
        self._after: dict[tuple[int, int | None], tuple[int, int]] = {}

    def take(self, conn: Connection, offer: Offer, most: int = 1) -> list[int]:
        """Take up to `most` jobs that suit the offer out of the queue, in turn; of its own site before others."""
        taken = self._take(conn, offer, most, REFRESH)
        return taken or self._take(conn, offer, most, AT_LEAST)

    def _take(self, conn: Connection, offer: Offer, most: int, age: float) -> list[int]:
        taken: list[int] = []
        for lane in in_turn(self._look(conn, age), self._shares, offer):
            found = self._from(conn, lane, offer.site_id, most - len(taken))
            self._took(lane.transformation_id, len(found))
            taken += found
            if len(taken) == most:
                break
        return taken

    def _from(self, conn: Connection, lane: Lane, site_id: int, most: int) -> list[int]:
        """Jobs of one lane: first those of the site itself, then those of any."""
        own = self._behind(conn, lane.transformation_id, site_id, most)
        if len(own) == most:
            return own
        return own + self._behind(conn, lane.transformation_id, None, most - len(own))

    def _behind(self, conn: Connection, transformation_id: int, site_id: int | None, most: int) -> list[int]:
        key = (transformation_id, site_id)
        start = _START if site_id is None else (site_id, 0)
        last = _LAST_SITE if site_id is None else site_id
        after = self._after.get(key, start)
        found = jobs.take(conn, transformation_id, after, last, most)
        if not found and after != start:
            found = jobs.take(conn, transformation_id, start, last, most)
        with self._lock:
            if found:
                self._after[key] = max(found)
            else:
                self._after.pop(key, None)
        return [job_id for _, job_id in found]

    def _look(self, conn: Connection, age: float) -> list[Lane]:
        with self._lock:
            if time.monotonic() - self._seen < age:
                return list(self._lanes.values())
        lanes, shares = {lane.transformation_id: lane for lane in jobs.lanes(conn)}, jobs.shares(conn)
        with self._lock:
            self._lanes, self._shares, self._seen = lanes, shares, time.monotonic()
            return list(lanes.values())

    def _took(self, transformation_id: int, n: int) -> None:
        """What was taken runs now; where nothing was found nothing waits."""
        with self._lock:
            lane = self._lanes.get(transformation_id)
            if lane is not None:
                waiting = max(0, lane.waiting - n) if n else 0
                self._lanes[transformation_id] = replace(lane, waiting=waiting, running=lane.running + n)
