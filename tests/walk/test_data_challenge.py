"""A data challenge in small: two observatories, four data centres, many observations, and what must be true at the end.

Ten terabytes a day are four hundred files here, and a link of gigabits carries a file now and then; the steps are those
that carry the real ones. LIGHTKEEPER_TEST_SCALE makes the last of them so many times as large.
"""

import os
from collections import Counter
from dataclasses import dataclass
from datetime import time

import pytest
from ruamel.yaml import YAML
from tests.chaos.clock import pass_time
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.steps import delete, replicate, topology, transfer
from lightkeeper.store import catalog, provenance
from lightkeeper.store import topology as places

OBSERVATIONS, FILES_EACH = 40, 10
CENTRES = ("North", "East", "South", "West")
SCALE = int(os.environ.get("LIGHTKEEPER_TEST_SCALE", "1"))
TICKS = 5
"""In so many portions the files of a phase come."""
PHASES = """
- {name: many small, begin: "07:30", end: "10:00", files: 60, bytes: 1_000}
- {name: another storage, begin: "11:00", end: "20:00", files: 60, bytes: 10_000, without: north}
- {name: few large, begin: "20:00", end: "04:00", files: 20, bytes: 2_000_000}
"""
"""A day of a challenge, with a thousandth of the bytes of each file."""


@pytest.fixture
def challenge(world: World) -> World:
    """The four centres and the two observatories, and four hundred files that were taken."""
    for name in ("west", "desert"):
        (world.root / name).mkdir()
    more = f"""
sites:
  Desert: {{kind: observatory}}
  West: {{}}
storages:
  west: {{site: West, root: "{world.root}/west"}}
  desert: {{site: Desert, root: "{world.root}/desert"}}
"""
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)))
    topology.apply(world.ctx, more)
    storages = {s.name: s for s in world.storages}
    new: list[NewFile] = []
    for observation in range(OBSERVATIONS):
        site = storages["mountain" if observation % 2 else "desert"]
        for number in range(FILES_EACH):
            name, content = f"/test/raw/{observation}/{number}.plain", f"{observation} {number}".encode() * 50
            PosixStorage(site.name, site.root).write(name, [content])
            meta = {"level": 0, "night": f"2030-01-{1 + observation % 28:02}", "kind": f"observation {observation}"}
            new.append(NewFile(parse_lfn(name), fixity_of([content]), meta, site.storage_id))
    with world.ctx.db.transaction() as conn:
        activity = provenance.add_activity(conn, name="test", agent="test", software={})
        batch = catalog.Batch(new, places.vocabulary(conn))
        names = catalog.name(conn, batch)
    with world.ctx.db.transaction() as conn:
        catalog.register(conn, batch, names, activity)
    return world


@pytest.mark.feature("S0-030", "S2-001", "S2-020", "S3-015", "S3-022", "S3-023", "S3-024", "S3-025")
def test_every_file_of_two_observatories_ends_with_two_copies_at_distinct_centres_in_equal_shares(challenge: World):
    while replicate.settle(challenge.ctx) + transfer.carry_out(challenge.ctx):
        pass
    copies = centres_of(challenge)
    assert set(Counter(copies.values())) == {2}, "two verified copies of each file"
    assert challenge.value("SELECT count(*) FROM file") == OBSERVATIONS * FILES_EACH
    while delete.delete(challenge.ctx):
        pass
    assert not list(challenge.root.glob("mountain/test/raw/*/*")) + list(challenge.root.glob("desert/test/raw/*/*"))
    held = {name: len(list((challenge.root / name.lower()).glob("test/raw/*/*"))) for name in CENTRES}
    assert sum(held.values()) == 2 * OBSERVATIONS * FILES_EACH
    equal = 2 * OBSERVATIONS * FILES_EACH / len(CENTRES)
    assert all(abs(n - equal) <= 0.1 * equal for n in held.values()), held


@pytest.mark.feature("S0-026", "S0-028", "S3-021", "S3-023")
def test_each_file_leaves_its_observatory_once_and_the_second_copy_is_made_between_centres(challenge: World):
    challenge.settle()
    from_site = challenge.value(
        """
        SELECT sum(n_transfers) FROM transfer_log l JOIN storage s ON s.storage_id = l.source_id
          JOIN site USING (site_id) WHERE site.kind = 'observatory'
        """
    )
    assert from_site == OBSERVATIONS * FILES_EACH
    assert challenge.value("SELECT sum(n_transfers) FROM transfer_log") == 2 * OBSERVATIONS * FILES_EACH
    sizes = challenge.value("SELECT sum(size) FROM file")
    assert challenge.value("SELECT sum(n_bytes) FROM transfer_log") == 2 * sizes


@pytest.mark.feature("S0-024", "S2-002")
def test_with_one_stream_from_each_observatory_the_day_ends_without_a_backlog(challenge: World):
    slow = "".join(
        f"  - {{from: {site}, to: {centre}, max_transfers: 1}}\n"
        for site in ("Mountain", "Desert")
        for centre in CENTRES
    )
    topology.apply(challenge.ctx, f"links:\n{slow}")
    most = 0
    while replicate.settle(challenge.ctx) + transfer.carry_out(challenge.ctx):
        most = max(most, challenge.value("SELECT count(DISTINCT stream) FROM transfer WHERE state = 'Running'"))
    assert most <= 1
    assert challenge.value("SELECT count(*) FROM transfer WHERE state IN ('Waiting', 'Running')") == 0
    challenge.settle()


@pytest.mark.feature("S4-010")
def test_another_storage_is_taken_in_the_middle_without_any_name_changing(challenge: World):
    for _ in range(20):
        replicate.settle(challenge.ctx)
        transfer.carry_out(challenge.ctx)
    topology.apply(challenge.ctx, f'storages:\n  west: {{site: West, root: "{challenge.root}/west", enabled: false}}\n')
    before = {file.lfn for file in challenge.files()}
    challenge.settle()
    assert {file.lfn for file in challenge.files()} == before
    assert set(Counter(centres_of(challenge, but="West").values())) == {2}


@pytest.mark.feature("S4-004", "S4-005")
def test_datasets_of_five_and_of_two_hundred_files_come_in_side_by_side(world: World):
    small = {f"/test/raw/s{d}/{n}.plain" for d in range(10) for n in range(5)}
    large = {f"/test/raw/l/{n}.plain" for n in range(200)}
    for name in sorted(small | large):
        world.deliver(name, kind=name.split("/")[3])
    world.ingest()
    world.settle()
    sizes = world.value(
        "SELECT array_agg(n_files ORDER BY n_files) FROM set_count JOIN meta_set USING (set_id) WHERE n_files > 0"
    )
    assert sizes == [5] * 10 + [200]
    assert world.value("SELECT count(*) FROM (SELECT FROM verified_copy GROUP BY file_id HAVING count(*) = 2)") == 250


@dataclass(frozen=True)
class Phase:
    """Files that come evenly between two times of the day; `without`: a storage that is switched off meanwhile."""

    name: str
    begin: str
    end: str
    files: int
    bytes: int
    without: str = ""

    @property
    def minutes(self) -> int:
        """How long it lasts."""
        begin, end = (time.fromisoformat(text) for text in (self.begin, self.end))
        return (60 * (end.hour - begin.hour) + end.minute - begin.minute) % (24 * 60)


@pytest.mark.feature("S4-008", "S4-011", "S4-020", "S4-024")
def test_a_day_in_three_phases_by_its_timetable_leaves_no_backlog_and_loses_no_file(world: World):
    phases = [Phase(**phase) for phase in YAML(typ="safe", pure=True).load(PHASES)]
    on = TOPOLOGY.replace("ROOT", str(world.root))
    delivered = 0
    for phase in phases:
        off = f'storages:\n  north: {{site: North, root: "{world.root}/north", enabled: false}}\n'
        topology.apply(world.ctx, off if phase.without else on)
        for _ in range(TICKS):
            for _ in range(phase.files * SCALE // TICKS):
                delivered += 1
                world.deliver(f"/test/raw/n{delivered}.plain", content="x" * phase.bytes, kind=phase.name)
            pass_time(world, minutes=phase.minutes / TICKS)
            world.ingest()
            world.settle()
        left = world.value("SELECT count(*) FROM transfer WHERE state IN ('Waiting', 'Running')")
        assert left == 0, f"what waits after '{phase.name}' would hold up the next phase"
        assert world.value("SELECT count(*) FROM verified_copy") == 2 * delivered
    assert world.value("SELECT count(*) FROM file") == delivered == 140 * SCALE
    topology.apply(world.ctx, on)


def centres_of(world: World, but: str = "") -> dict[int, int]:
    """In how many data centres each file has a verified copy."""
    with world.ctx.db.transaction() as conn:
        found = conn.execute(
            """
            SELECT file_id, count(DISTINCT site_id) FROM verified_copy JOIN site USING (site_id)
             WHERE site.name <> %s GROUP BY file_id
            """,
            (but,),
        ).fetchall()
    return dict(found)
