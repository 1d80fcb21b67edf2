"""What may be done on a storage: switches, quotas, draining, and what follows for copies, reads and deletions."""

import itertools

import pytest
from tests.conftest import World

from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.errors import Invalid
from lightkeeper.steps import replicate, rules, topology, transfer
from lightkeeper.steps.rules import NewRule
from lightkeeper.store import topology as elements

A, B = "/test/raw/a.plain", "/test/raw/b.plain"


def configure(world: World, name: str, **keys: str) -> list[str]:
    """Apply a document that says something more of one storage."""
    site = {"mountain": "Mountain", "north": "North", "east": "East"}.get(name, "South")
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    ingest = ", ingest: true" if name == "mountain" else ""
    return topology.apply(
        world.ctx, f'storages: {{{name}: {{site: {site}, root: "{world.root}/{name}"{ingest}{more}}}}}'
    )


def element(world: World, name: str) -> StorageElement:
    return next(s for s in world.storages if s.name == name)


def test_the_database_and_the_program_agree_on_what_may_be_done(world: World):
    both = (True, False)
    for enabled, read, write, delete, drain in itertools.product(both, repeat=5):
        for health, switched in itertools.product(("Good", "Degraded", "Banned"), both):
            with world.ctx.db.transaction() as conn, conn.transaction(force_rollback=True):
                conn.execute("UPDATE health SET state = 'Degraded' WHERE state <> %s", (health,))
                conn.execute("UPDATE health SET state = %s::health_state WHERE state <> %s", (health, health))
                conn.execute(
                    "UPDATE storage SET enabled = %s, can_read = %s, can_write = %s, can_delete = %s, draining = %s",
                    (enabled, *((True, True, True, False) if switched else (read, write, delete, drain))),
                )
                if switched:
                    conn.cursor().executemany(
                        "INSERT INTO storage_switch (storage_id, operation, is_on, why) "
                        "SELECT storage_id, %s, %s, '' FROM storage",
                        [("read", read), ("write", write), ("delete", delete), ("drain", drain)],
                    )
                north = next(s for s in elements.storages(conn) if s.name == "north")
                told = conn.execute(
                    "SELECT readable, writable, deletable FROM storage_now JOIN storage USING (storage_id) "
                    "WHERE name = 'north'"
                ).fetchone()
            assert told == (north.readable, north.writable, north.deletable)


def test_a_document_says_what_may_be_done_and_applying_it_twice_changes_nothing(world: World):
    told = configure(world, "east", status="{write: off, delete: off}", quota="10 TB", draining="true")
    assert told == [
        "storage east: status read on, write on, delete on → read on, write off, delete off, draining False → True, "
        "quota none → 10 TB"
    ]
    assert configure(world, "east", status="{write: off, delete: off}", quota="10000 GB", draining="true") == []
    east = element(world, "east")
    assert (east.readable, east.writable, east.deletable, east.quota) == (True, False, False, 10**13)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("quota", "much", "'much' is not an amount of data"),
        ("quota", "0", "'0' is not an amount of data"),
        ("status", "{wriet: off}", "unknown key 'wriet' at storages.east.status.wriet"),
        ("status", "{write: perhaps}", "storages.east.status.write"),
    ],
)
def test_what_a_document_says_wrongly_of_a_storage_is_told(world: World, key: str, value: str, told: str):
    with pytest.raises(Invalid, match=told):
        configure(world, "east", **{key: value})


@pytest.mark.feature("S2-024")
def test_copies_go_to_storages_that_take_new_files(world: World):
    configure(world, "east", status="{write: off}")
    world.deliver(A)
    world.ingest()
    world.settle()
    assert set(world.copies(A)) == {"north", "south"}


def test_a_transfer_waits_while_its_target_takes_nothing(world: World):
    world.register(A)
    replicate.settle(world.ctx)
    configure(world, "east", status="{write: off}")
    configure(world, "south", status="{write: off}")
    assert transfer.carry_out(world.ctx) == 0
    configure(world, "east")
    configure(world, "south")
    assert transfer.carry_out(world.ctx) == 1


def test_nothing_is_read_from_a_storage_that_may_not_be_read(world: World):
    world.register(A)
    configure(world, "north", status="{read: off}")
    world.settle()
    assert world.copies(A) == {"north": "Available"}, "the only copy cannot be read now, and is not called lost"
    with world.ctx.db.transaction() as conn:
        rule = next(p for p in elements.policies(conn) if p.name == "raw")
    told = rules.explain(world.ctx, rule.name)
    assert told.reasons == [("its copies are where nothing can be read now: north", 1)]
    configure(world, "north")
    world.value("UPDATE unsettled SET not_before = now()")
    world.settle()
    assert len(world.copies(A)) == 2


def test_a_copy_that_cannot_be_read_now_is_no_evidence_for_a_deletion(world: World):
    world.deliver(A)
    world.ingest()
    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx):
        if len(world.copies(A)) == 3:
            break
    keeper = next(name for name in world.copies(A) if name != "mountain")
    configure(world, keeper, status="{read: off}")
    world.settle()
    assert "mountain" in world.copies(A)
    configure(world, keeper)
    world.value("UPDATE unsettled SET not_before = now()")
    world.settle()
    assert "mountain" not in world.copies(A)


def test_nothing_is_deleted_where_deleting_is_off(world: World):
    configure(world, "mountain", status="{delete: off}")
    world.deliver(A)
    world.ingest()
    world.settle()
    assert "mountain" in world.copies(A)
    assert world.value("SELECT state FROM intent") == "Approved", "it is carried out when deleting is on again"
    configure(world, "mountain")
    world.settle()
    assert "mountain" not in world.copies(A)


def test_a_draining_storage_gives_its_copies_to_others_and_is_empty_then(world: World):
    world.register(A, storage="north")
    world.register("/test/made/owed-nothing", storage="north", level=-1)
    world.settle()
    configure(world, "north", draining="true")
    world.value("INSERT INTO unsettled SELECT file_id FROM file ON CONFLICT DO NOTHING")
    world.settle()
    assert set(world.copies(A)) == {"east", "south"}
    assert set(world.copies("/test/made/owed-nothing")) == {"east", "south"}
    assert not [path for path in (world.root / "north" / "test").rglob("*") if path.is_file()]


def test_a_draining_storage_keeps_a_copy_that_has_no_other_place(world: World):
    world.register(A, storage="north")
    configure(world, "east", status="{write: off}")
    configure(world, "north", draining="true")
    world.settle()
    assert world.copies(A)["north"] == "Available"


def test_what_is_not_deleted_yet_stays_when_draining_ends(world: World):
    world.register(A, storage="north")
    configure(world, "north", draining="true", status="{delete: off}")
    world.settle()
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 1
    configure(world, "north")
    world.settle()
    assert world.copies(A)["north"] == "Available"


# --- quotas ------------------------------------------------------------------------------------------------------
def test_nothing_is_planned_beyond_a_quota_and_the_rule_says_why(world: World):
    world.register(*(f"/test/raw/{n}.plain" for n in range(10)), level=1)
    size = world.value("SELECT sum(size) FROM file")
    for name in ("east", "south"):
        configure(world, name, quota=str(size * 25 // 100))
    world.settle()
    for storage in ("east", "south"):
        kept = world.value("SELECT n_bytes FROM storage_count JOIN storage USING (storage_id) WHERE name = %s", storage)
        assert 0 < kept <= size * 25 // 100
    reasons = rules.explain(world.ctx, "made").reasons
    assert len(reasons) == 1
    assert "east is full: its quota is" in reasons[0][0]
    assert "south is full" in reasons[0][0]
    configure(world, "east", quota="1 GB")
    world.value("UPDATE unsettled SET not_before = now()")
    world.settle()
    assert rules.show(world.ctx, "made").percent == 100


def test_what_waits_for_a_storage_counts_for_its_quota(world: World):
    names = [f"/test/raw/{n}.plain" for n in range(4)]
    world.register(*names, level=1)
    size = world.value("SELECT max(size) FROM file")
    configure(world, "east", quota=str(2 * size))
    configure(world, "south", status="{write: off}")
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM transfer") == 2
    rules.add(world.ctx, NewRule("more", "level = 1", copies=2))
    replicate.settle(world.ctx)
    assert world.value("SELECT count(*) FROM transfer") == 2
    world.settle()
    assert element(world, "east").used == 2 * size
