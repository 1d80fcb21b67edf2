"""States change through move() and nothing else."""

import psycopg
import pytest
from tests.conftest import World

from lightkeeper.domain.states import Replica, Transfer
from lightkeeper.store.transitions import move, move_replicas


def transfer(world: World) -> int:
    ids = world.register("/test/data/a.plain")
    with world.ctx.db.transaction() as conn:
        row = conn.execute(
            "INSERT INTO transfer (file_id, target_id) SELECT %s, storage_id FROM storage WHERE name = 'east' "
            "RETURNING transfer_id",
            (ids["/test/data/a.plain"],),
        ).fetchone()
    assert row
    return row[0]


def test_a_move_leaves_a_line_of_history(world: World):
    of = transfer(world)
    with world.ctx.db.transaction() as conn:
        assert move(conn, [of], Transfer.WAITING, Transfer.FAILED, "no longer wanted") == [of]
    assert world.value("SELECT state FROM transfer WHERE transfer_id = %s", of) is Transfer.FAILED
    assert world.value("SELECT why FROM history WHERE kind = 'transfer' AND id = %s", of) == "no longer wanted"


def test_the_slower_of_two_workers_moves_nothing(world: World):
    of = transfer(world)
    with world.ctx.db.transaction() as conn:
        assert move(conn, [of], Transfer.WAITING, Transfer.RUNNING) == [of]
        assert move(conn, [of], Transfer.WAITING, Transfer.RUNNING) == []
    assert world.value("SELECT count(*) FROM history WHERE kind = 'transfer'") == 1


def test_a_move_that_the_table_does_not_have_is_a_mistake_in_the_program(world: World):
    with world.ctx.db.transaction() as conn, pytest.raises(ValueError, match="may not move from Waiting to Done"):
        move(conn, [transfer(world)], Transfer.WAITING, Transfer.DONE)


def test_the_database_itself_refuses_a_move_that_the_table_does_not_have(world: World):
    of = transfer(world)
    with pytest.raises(psycopg.errors.CheckViolation, match="transfer may not move from Waiting to Done"):
        world.value("UPDATE transfer SET state = 'Done' WHERE transfer_id = %s RETURNING 1", of)
    assert world.value("SELECT state FROM transfer WHERE transfer_id = %s", of) is Transfer.WAITING


def test_the_database_refuses_to_change_the_content_of_a_file(world: World):
    world.register("/test/data/a.plain")
    with pytest.raises(psycopg.errors.CheckViolation, match="may not change"):
        world.value("UPDATE file SET size = size + 1 RETURNING 1")


def test_a_void_deletion_does_not_make_an_old_verification_young(world: World):
    file_id = world.register("/test/data/a.plain")["/test/data/a.plain"]
    storage_id = next(s.storage_id for s in world.storages if s.name == "north")
    before = world.value("SELECT verified_at FROM replica")
    with world.ctx.db.transaction() as conn:
        moved = move_replicas(conn, [(file_id, storage_id)], Replica.AVAILABLE, Replica.DELETING)
        assert moved == [(file_id, storage_id)]
        move_replicas(conn, moved, Replica.DELETING, Replica.AVAILABLE)
    assert world.value("SELECT verified_at FROM replica") == before
