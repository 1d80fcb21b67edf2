"""A night of 5.5 TB in 500,000 files, a thousandth of it (full) or a ten-thousandth (small), in one installation as it
is run: from the first trigger until every file has two verified copies at data centres and none is left on site.

Every file leaves the site once, for one centre, and goes from there to the other. The site's line and the line between
the centres are held to a rate by the topology; `make bench-link` measures that such a rate is kept, and used. Of the
four streams that an instance carries, two fill the site's line and leave two for the line between the centres. The peer
is the time that the bytes need on the site's line at that rate, with nothing else to do. The files are valid DL0,
written before the clock starts; their triggers appear at once, which is harder than a night. Everything shares this
machine: the database, verifying, and reading, writing and reading back at both ends.
"""

import os
import tempfile
import time
from datetime import date
from pathlib import Path

from bench.__main__ import Measure
from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper_ctao.layout import ELEMENTS
from lightkeeper_ctao.simulate.stamped import NightPlan, stamp_night

NIGHT = date(2026, 3, 14)
SIZE = 11_000_000
FILES = {"small": 50, "full": 500}
RATE = {"small": 25_000_000, "full": 125_000_000}
"""Bytes per second of each line: 200 Mbit/s, 1 Gbit/s."""
PATIENCE = 600
TOPOLOGY = """
version: 1
sites: {Mountain: {kind: observatory}, North: {}, South: {}}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true, max_rate: RATE, max_transfers: 2}
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
links:
  - {from: North, to: South, max_rate: RATE}
  - {from: South, to: North, max_rate: RATE}
policies:
  raw-first: {files: {data_level: 0}, copies: 1, priority: 2}
  raw: {files: {data_level: 0}, copies: 2, free_on_site: true, priority: 3, source: kind=data-centre}
"""


class Silent:
    def info(self, event: str, **facts: object) -> None: ...

    warning = error = info


def run(scale: str) -> list[Measure]:
    n, rate = FILES[scale], RATE[scale]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        home = Path(folder)
        for name in ("mountain", "north", "south"):
            (home / name).mkdir()
        telescopes = tuple(e for e in ELEMENTS.values() if e.is_telescope and e.name.startswith(("LSTN", "MSTN")))
        plan = NightPlan(home / "mountain", NIGHT, telescopes, n, SIZE, observations=2, triggers=False)
        made = stamp_night(plan)
        os.sync()  # a night is written in ten hours: its files lie on the disk when their triggers come
        data = sorted((home / "mountain").rglob("*.fits.fz"))
        settings = Settings(home=home / "home", port=0, log_format="json")
        with Instance(settings, log=Silent()) as instance:
            token = (settings.home / "run" / "operator.token").read_text()
            with Client(instance.url, token) as api:
                document = TOPOLOGY.replace("ROOT", str(home)).replace("RATE", f"{rate // 1_000_000} MB/s")
                api.apply(document)
                times = walked(api, data)
                begin = time.perf_counter()
                closed = api.close_night(NIGHT.isoformat(), by="bench")
                closing = time.perf_counter() - begin
                refused, sound = api.status()["files_quarantined"], not api.fsck()["violations"]
    assert closed["summary"]["state"] == "Closed"
    assert (closed["summary"]["files"], refused, sound) == (n, 0, True)
    needs = made.size / rate
    return [
        Measure("night: size", made.size / 1e9, "GB"),
        Measure("first trigger to registered, all", times["files"], "s"),
        Measure("first trigger to two verified copies, all", times["preserved"], "s"),
        Measure("first trigger to freed on site, all", times["freed"], "s", 1.2 * needs, False, "the line", needs),
        Measure("closing the night with its receipt", closing, "s"),
        Measure("load of the machine at the end", os.getloadavg()[0], "processes"),
    ]


def walked(api: Client, data: list[Path]) -> dict[str, float]:
    """Announce the night; seconds until all of it is registered, preserved and freed."""
    times: dict[str, float] = {}
    begin = time.perf_counter()
    for path in data:
        path.with_name(path.name + ".trigger").symlink_to(path.name)
    while "freed" not in times:
        time.sleep(0.2)
        spent = time.perf_counter() - begin
        assert spent < PATIENCE, "the night did not get through"
        tonight = next(iter(api.nights()), None) or {}
        for what in ("files", "preserved", "freed"):
            if tonight.get(what) == len(data):
                times.setdefault(what, spent)
    return times
