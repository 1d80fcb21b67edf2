"""The default for nights: from on site to one data centre, from there to a second, then freed on site.

Said as two policies that both stand on the metadata of the files, so that no crash comes between them: what is owed is
there in the transaction that registers a file, and what is missing is planned again whatever happened.
"""

from typing import Any

import pytest
from tests.conftest import World

from lightkeeper.steps import audit, delete, heal, ingest, replicate, topology, transfer

FILE = "/test/raw/n1.plain"
NIGHTS = """
policies:
  raw: {files: {level: 0}, copies: 2, free_on_site: true, source: kind=data-centre}
  raw-first: {files: {level: 0}, copies: 1, priority: 3}
"""


class Crash(BaseException):
    """As if the process were gone: nothing catches it."""


def went(world: World) -> dict[str, int]:
    """Bytes that left each site, as they were counted."""
    with world.ctx.db.transaction() as conn:
        return dict(
            conn.execute("""
                SELECT s.name, sum(n_bytes)::bigint FROM transfer_log l JOIN storage s ON s.storage_id = l.source_id
                 GROUP BY 1
            """).fetchall()
        )


def is_preserved(world: World) -> bool:
    """Two verified copies at two data centres, none on site, and the site's line used once."""
    copies = world.copies(FILE)
    size = world.files()[0].size
    first = next(name for name, _ in sorted(went(world).items()) if name != "mountain")
    return (
        len(copies) == 2
        and set(copies) <= {"north", "east", "south"}
        and set(copies.values()) == {"Available"}
        and went(world) == {"mountain": size, first: size}
    )


@pytest.mark.feature(
    "S3-021", "S3-022", "S3-023", "S3-024", "S3-025", "S0-026", "S0-028", "S2-003", "S2-023", "S3-009", "S4-028"
)
def test_a_night_goes_to_one_centre_then_to_a_second_and_is_then_freed_on_site(world: World):
    topology.apply(world.ctx, NIGHTS)
    world.deliver(FILE)
    world.ingest()
    assert set(world.copies(FILE)) == {"mountain"}, "on site first"
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM transfer") == 1, "the second copy is made from the first"
    while transfer.carry_out(world.ctx):
        pass
    assert len(world.copies(FILE)) == 2, "one off-site copy"
    assert delete.delete(world.ctx) == 0, "with one copy elsewhere nothing is freed"
    replicate.settle(world.ctx)
    assert "mountain" in world.copies(FILE)
    while transfer.carry_out(world.ctx):
        pass
    assert len(world.copies(FILE)) == 3, "freed only after both were read back"
    world.settle()
    assert is_preserved(world)
    order = world.value("""
        SELECT string_agg(s.name || ' ' || h.what, ', ' ORDER BY h.at)
          FROM (SELECT written_at AS at, storage_id, 'written' AS what FROM replica
                 UNION ALL
                SELECT at, part, 'deleted' FROM history WHERE kind = 'replica' AND target = 'Deleted') h
          JOIN storage s USING (storage_id)
    """)
    assert order.endswith("mountain deleted")


CRASHES: list[tuple[Any, str]] = [
    (ingest.catalog, "register"),
    (replicate.transfers, "add_transfers"),
    (transfer.transfers, "start"),
    (transfer.transfers, "arrived"),
    (replicate.deletions, "add_intents"),
    (delete.deletions, "begin"),
    (delete.deletions, "deleted"),
]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(("module", "name"), CRASHES, ids=[name for _, name in CRASHES])
def test_a_crash_at_any_point_leaves_no_file_with_one_copy_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, nth: int, before: bool
):
    """At the first and the second time that each change is written, before it and just after it, within its
    transaction."""
    topology.apply(world.ctx, NIGHTS)
    world.deliver(FILE)
    calls = 0
    write = getattr(module, name)

    def crashing(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and before:
            raise Crash
        told = write(*args, **more)
        if calls == nth:
            raise Crash
        return told

    with monkeypatch.context() as patch:
        patch.setattr(module, name, crashing)
        try:
            world.ingest()
            world.settle()
        except Crash:
            pass
    world.value("UPDATE trigger SET lease_until = now() - interval '1 s' WHERE state = 'Accepted'")
    world.value("UPDATE transfer SET lease_until = now() - interval '1 s' WHERE state = 'Running'")
    heal.release_abandoned(world.ctx)
    world.ingest()
    world.settle()
    assert is_preserved(world)


def test_a_first_copy_that_is_lost_before_the_second_is_made_again_from_on_site(world: World):
    topology.apply(world.ctx, NIGHTS)
    world.deliver(FILE)
    world.ingest()
    replicate.settle(world.ctx)
    while transfer.carry_out(world.ctx):
        pass
    (first,) = set(world.copies(FILE)) - {"mountain"}
    (world.root / first / FILE[1:]).unlink()
    world.value(
        "INSERT INTO recheck SELECT file_id, storage_id FROM replica JOIN storage USING (storage_id) WHERE name = %s",
        first,
    )
    while audit.recheck(world.ctx):
        pass
    world.settle()
    copies = {name for name, state in world.copies(FILE).items() if state == "Available"}
    assert len(copies) == 2 and "mountain" not in copies


@pytest.mark.feature("S3-009", "S3-015")
def test_a_centre_that_is_given_up_is_replaced_from_the_other(world: World):
    topology.apply(world.ctx, NIGHTS)
    names = [f"/test/raw/n{n}.plain" for n in range(1, 7)]
    for name in names:
        world.deliver(name, content=name)
    world.ingest()
    world.settle()
    topology.apply(world.ctx, f"storages: {{east: {{site: East, root: {world.root / 'east'}, enabled: false}}}}")
    world.settle()
    for name in names:
        assert set(world.copies(name)) >= {"north", "south"}
