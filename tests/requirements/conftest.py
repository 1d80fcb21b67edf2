"""The observatory with its own rules, for tests that are named after its requirements."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from tests.conftest import World, build_world

from lightkeeper.steps import topology
from lightkeeper.store import topology as topology_store
from lightkeeper.store.db import Database
from lightkeeper.worker import Worker
from lightkeeper_ctao import CTAO
from lightkeeper_ctao.layout import ELEMENTS
from lightkeeper_ctao.simulate import NightPlan, stamp_night

NIGHT = date(2026, 3, 14)
TOPOLOGY = """
version: 1
sites:
  LaPalma: {kind: observatory}
  PIC: {}
  DESY: {}
  CSCS: {}
storages:
  ONSITE: {site: LaPalma, root: "ROOT/onsite", ingest: true}
  PIC-disk: {site: PIC, root: "ROOT/pic"}
  DESY-disk: {site: DESY, root: "ROOT/desy"}
  CSCS-disk: {site: CSCS, root: "ROOT/cscs"}
policies:
  raw: {files: {data_level: 0}, copies: 2, free_on_site: true}
"""


@dataclass
class Site(World):
    """The observatory's site: a World whose files are DL0, and short words for a night."""

    @property
    def onsite(self) -> Path:
        return self.root / "onsite"

    def night(
        self,
        files: int = 3,
        bad: int = 0,
        *,
        day: int = 0,
        telescopes: tuple[str, ...] = ("LSTN-01",),
        triggers: bool = True,
    ) -> list[str]:
        """Hand in some files of a night, of the three streams in turn; their names. The same arguments hand in the same
        files."""
        elements = tuple(ELEMENTS[name] for name in telescopes)
        before = set(self.onsite.rglob("ctao/**/*.fits.fz*"))
        night = NIGHT + timedelta(days=day)
        plan = NightPlan(self.onsite, night, elements, files, bad=bad, observations=1, triggers=triggers)
        stamp_night(plan)
        new = set(self.onsite.rglob("ctao/**/*.fits.fz*")) - before
        names = {"/" + str(path.relative_to(self.onsite)).removesuffix(".trigger") for path in new}
        return sorted(name for name in names if not name.startswith("/.lightkeeper"))

    def local(self, lfn: str) -> Path:
        return self.onsite / lfn[1:]

    def trigger(self, lfn: str) -> Path:
        return self.onsite / (lfn[1:] + ".trigger")

    def lfns(self) -> set[str]:
        return {file.lfn for file in self.files()}

    def states(self) -> dict[str, int]:
        with self.ctx.db.transaction() as conn:
            return dict(conn.execute("SELECT state::text, count(*) FROM trigger GROUP BY state").fetchall())

    def reasons(self) -> dict[str, str]:
        with self.ctx.db.transaction() as conn:
            return dict(conn.execute("SELECT path, reason FROM trigger WHERE state = 'Quarantined'").fetchall())

    def said(self, event: str) -> list[dict[str, object]]:
        """What the log said of an event."""
        return [facts for told, facts in self.ctx.log.lines if told == event]  # type: ignore[attr-defined]

    def apply(self, document: str) -> list[str]:
        return topology.apply(self.ctx, document.replace("ROOT", str(self.root)))

    @contextmanager
    def daemon(self) -> Iterator[Worker]:
        """Everything that runs by itself, running."""
        worker = Worker(self.ctx, "http://127.0.0.1:1")
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    for name in ("onsite", "pic", "desy", "cscs"):
        (tmp_path / name).mkdir()
    world = build_world(database, tmp_path, "version: 1")
    ctx = replace(
        world.ctx,
        observatories=(CTAO(),),
        settings=world.ctx.settings.model_copy(update={"trigger_patience": timedelta(0)}),
    )
    with database.transaction() as conn:
        topology_store.put_keys(conn, ctx.metadata_keys)
    site = Site(ctx, tmp_path)
    site.apply(TOPOLOGY)
    yield site
    assert [v for v in site.violations() if " is dark since " not in v] == []


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is so."""
    import time

    def wait(so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not so():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.05)

    return wait
