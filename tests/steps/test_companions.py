"""Models and the like: what every job of a step reads beside its inputs."""

import pytest
from tests.conftest import World
from tests.steps.test_work import Hands, do_all, go_on, submit, tasks, transformation

from lightkeeper.domain.errors import Invalid
from lightkeeper.steps import heal, report
from lightkeeper.store import lookups


def model(query: dict[str, object], parent: int | None = None) -> dict[str, object]:
    return {"role": "model", "query": query, "parent": parent}


def used_by(world: World, activity: str = "Concatenate") -> list[str]:
    with world.ctx.db.transaction() as conn:
        found = conn.execute(
            "SELECT DISTINCT f.name FROM used JOIN file f USING (file_id) JOIN activity a ON a.activity_id ="
            " used.activity_id WHERE a.name = %s ORDER BY 1",
            (activity,),
        ).fetchall()
    return [name for (name,) in found]


def test_every_job_reads_the_model_and_every_output_tells_of_it(world: World):
    world.register("/test/models/m.plain", kind="model", level=9)
    world.register(*(f"/test/raw/n{n}.plain" for n in range(4)), kind="shower")
    taken = {"query": {"level": 0}, "group_size": 2, "companions": [model({"kind": "model"})]}
    submit(world, taken)
    hands = Hands.at(world, "North")
    go_on(world)
    jobs = [hands.claim(), hands.claim()]
    for job in jobs:
        assert job
        assert "/test/models/m.plain" in [file["lfn"] for file in job["input_files"]]
        hands.finish(job)
    assert [len(task) for task in tasks(world)] == [2, 2]
    assert "m.plain" in used_by(world)


@pytest.mark.parametrize(("n", "told"), [(0, "no registered files are 'model'"), (2, "2 registered files are 'model'")])
def test_a_model_that_is_missing_or_not_the_only_one_is_refused_at_once(world: World, n: int, told: str):
    world.register(*(f"/test/models/m{k}.plain" for k in range(n)), kind="model", level=9)
    world.register("/test/raw/n.plain")
    with pytest.raises(Invalid, match=told):
        submit(world, {"query": {"level": 0}, "group_size": 1, "companions": [model({"kind": "model"})]})
    assert world.value("SELECT count(*) FROM production") == 0


def test_jobs_wait_until_an_earlier_step_has_made_their_model(world: World):
    world.register("/test/raw/teach.plain", kind="teach")
    world.register("/test/raw/n.plain", kind="shower")
    training = {"query": {"kind": "teach"}, "group_size": 1}
    applying = {"query": {"kind": "shower", "level": 0}, "group_size": 1, "companions": [model({"level": 1}, 1)]}
    submit(world, training, applying)
    hands = Hands.at(world, "North")
    go_on(world)
    first = hands.claim()
    assert first
    assert hands.claim() is None  # the other task waits for what this one makes
    hands.finish(first)
    assert do_all(world, hands) == 1
    assert transformation(world, 2).done == 1
    assert f"task{first['task_id']}.joined" in used_by(world)


def test_a_parent_that_makes_two_models_leaves_the_choice_to_a_person(world: World):
    world.register("/test/raw/t1.plain", "/test/raw/t2.plain", kind="teach")
    world.register("/test/raw/n.plain", kind="shower")
    training = {"query": {"kind": "teach"}, "group_size": 1}
    applying = {"query": {"kind": "shower", "level": 0}, "group_size": 1, "companions": [model({"level": 1}, 1)]}
    submit(world, training, applying)
    assert do_all(world, Hands.at(world, "North")) == 2
    heal.look_after_work(world.ctx)
    told = report.transformation(world.ctx, transformation(world, 2).id)
    assert "exactly one file was to be made that is its 'model'" in str(told)


def test_a_model_in_use_is_kept(world: World):
    ids = world.register("/test/models/m.plain", kind="model", level=9)
    world.register("/test/raw/n.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1, "companions": [model({"kind": "model"})]})
    go_on(world)
    (file_id,) = ids.values()
    with world.ctx.db.transaction() as conn:
        assert file_id in lookups.open_tasks(conn, [file_id])
        assert "reads it" in lookups.ties(conn, [file_id])[file_id]
