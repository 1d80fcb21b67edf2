"""Productions: what they would take, what they take, whose files they take, and how they are extended and stopped."""

import json
from typing import Any

import pytest
from tests.conftest import World
from tests.steps.test_work import Hands, do_all, go_on

from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.domain.work import Match
from lightkeeper.steps import preview, produce, productions, transform
from lightkeeper.steps.productions import Shown


def document(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": steps})


RAW = {"query": {"level": 0}, "group_size": 2}
AGAIN = {"parent": 1, "query": {"level": 1}, "group_size": 10}


def submit(world: World, name: str, *steps: dict[str, Any], **how: Any) -> str:
    return produce.submit(world.ctx, name, document(*steps), {}, **how)


def show(world: World, name: str = "p") -> Shown:
    return productions.show(world.ctx, name)


def inputs(world: World, name: str, step: int) -> set[str]:
    """Names of the files that a step has taken, whether they wait or not."""
    with world.ctx.db.transaction() as conn:
        found = conn.execute(
            """
            SELECT d.path || '/' || f.name
              FROM transformation t JOIN production p USING (production_id)
              JOIN (SELECT file_id, transformation_id FROM pending_input
                     UNION SELECT file_id, transformation_id FROM task_input) i USING (transformation_id)
              JOIN file f USING (file_id) JOIN directory d USING (dir_id)
             WHERE p.name = %s AND t.step = %s
            """,
            (name, step),
        ).fetchall()
    return {line[0] for line in found}


def raw(world: World, n: int, first: int = 0, **meta: Any) -> None:
    world.register(*(f"/test/raw/n{number:03d}.plain" for number in range(first, first + n)), **meta)


# --- looked at beforehand --------------------------------------------------------------------------------------
def rows_of_everything(world: World) -> dict[str, int]:
    with world.ctx.db.transaction() as conn:
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name: conn.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables}  # noqa: S608


@pytest.mark.feature("S0-106")
def test_a_plan_tells_inputs_tasks_bytes_and_time_and_touches_nothing(world: World):
    raw(world, 5)
    before = rows_of_everything(world)
    told = preview.look(world.ctx, document({**RAW, "cpu_time": 60}, {**AGAIN, "cpu_time": 10}), {}).told()
    assert rows_of_everything(world) == before
    first, second = (step["estimate"] for step in told["steps"])
    size = world.value("SELECT sum(size)::bigint FROM file")
    assert (first["files"], first["bytes"], first["tasks"], first["seconds"]) == (5, size, 3, 180)
    assert (second["known"], second["files"], second["tasks"], second["bytes"]) == (False, 3, 1, None)
    assert first["sample"][0] == "/test/raw/n000.plain"
    assert told["total"] == {"files": 5, "bytes": size, "tasks": 4, "cpu_seconds": 190}
    assert told["missing"] == []


def test_the_tasks_that_a_plan_tells_are_those_that_are_made(world: World):
    raw(world, 7)
    raw(world, 6, first=100, storage="east")
    tasks = preview.look(world.ctx, document(RAW), {}).told()["total"]["tasks"]
    submit(world, "p", RAW)
    go_on(world)
    assert show(world).steps[0].tasks == tasks == 7


def test_the_number_of_tasks_is_told_as_it_will_be_also_where_they_are_cut_by_bytes(world: World):
    world.register(f"/test/raw/{'a' * 200}.plain", *(f"/test/raw/b{n}.plain" for n in range(3)))
    by_bytes = {"query": {"level": 0}, "group_size": 60, "grouping": "size"}
    told = preview.look(world.ctx, document(by_bytes), {}).told()["total"]["tasks"]
    submit(world, "p", by_bytes)
    go_on(world)
    assert told == world.value("SELECT count(*) FROM task") == 2  # four, if all were of the mean size


def test_time_is_told_from_what_such_jobs_took_before(world: World):
    raw(world, 4)
    assert preview.look(world.ctx, document(RAW), {}).told()["total"]["cpu_seconds"] is None
    submit(world, "p", RAW)
    do_all(world, Hands.at(world, "North"))
    world.value("UPDATE job SET started = ended - interval '10 seconds'")
    found = preview.look(world.ctx, document(RAW), {}).told()["total"]["cpu_seconds"]
    assert found == pytest.approx(20, rel=0.01)


def test_what_is_missing_for_a_production_is_told_in_sentences(world: World):
    raw(world, 2, storage="mountain")
    raw(world, 1, first=10)
    world.value(
        "UPDATE replica SET state = 'Lost' WHERE storage_id = (SELECT storage_id FROM storage WHERE name = 'north')"
    )
    told = preview.look(world.ctx, document(RAW, {"query": {"level": 7}, "group_size": 1}), {}).told()["missing"]
    assert told == [
        "step 1: of 1 file there is no copy anywhere",
        "step 1: 2 files without a verified copy at a data centre: they would wait for one",
        "step 2: no registered file matches",
    ]
    world.value("UPDATE replica SET state = 'Available' WHERE state = 'Lost'")


# --- whose files are taken -------------------------------------------------------------------------------------
def test_two_productions_with_the_same_metadata_never_take_each_others_files(world: World):
    raw(world, 4)
    submit(world, "one", RAW, AGAIN)
    submit(world, "two", RAW, AGAIN)
    do_all(world, Hands.at(world, "North"))
    ones, twos = inputs(world, "one", 2), inputs(world, "two", 2)
    assert len(ones) == len(twos) == 2
    assert not ones & twos
    assert show(world, "one").of.state == show(world, "two").of.state == "Completed"


def test_a_child_takes_every_file_that_matches_when_that_is_asked_for(world: World):
    raw(world, 4)
    submit(world, "one", RAW)
    do_all(world, Hands.at(world, "North"))
    submit(world, "two", RAW, AGAIN, match=Match.CATALOGUE)
    do_all(world, Hands.at(world, "North", "other hands"))
    assert len(inputs(world, "two", 2)) == 4
    assert show(world, "two").of.state == "Completed"


def test_a_step_with_several_parents_takes_what_each_of_them_makes_and_waits_for_all(world: World):
    raw(world, 4, kind="a")
    raw(world, 4, first=50, kind="b")
    both = {"feeders": [1, 2], "query": {"level": {"in": [1, 2]}}, "group_size": 100}
    steps = ({**RAW, "query": {"kind": "a", "level": 0}}, {**RAW, "query": {"kind": "b", "level": 0}}, both)
    submit(world, "other", *steps[:2])
    submit(world, "p", *steps)
    assert show(world).nodes[2].parents == (1, 2)
    do_all(world, Hands.at(world, "North"))
    shown = show(world)
    assert len(inputs(world, "p", 3)) == 4
    assert (shown.steps[2].tasks, shown.of.state) == (1, "Completed")


@pytest.mark.feature("S0-049")
def test_ten_and_more_steps_keep_their_order(world: World):
    raw(world, 1)
    steps = [{"query": {"level": 0}, "group_size": 1}]
    steps += [{"parent": n - 1, "query": {"level": n - 1}, "group_size": 1} for n in range(2, 13)]
    submit(world, "p", *steps)
    do_all(world, Hands.at(world, "North"))
    shown = show(world)
    assert [step.step for step in shown.steps] == list(range(1, 13))
    assert [node.parents for node in shown.nodes] == [(), *((n,) for n in range(1, 12))]
    assert shown.of.state == "Completed"
    assert world.value("SELECT max((meta ->> 'level')::int) FROM meta_set") == 12


@pytest.mark.feature("S0-060", "S1-002", "S1-019N")
def test_sixteen_steps_with_branches_run_and_merge_all_that_a_parent_made_into_one(world: World):
    kinds = "abcdefgh"
    for number, kind in enumerate(kinds):
        raw(world, 2, first=10 * number, kind=kind)
    every = {"query": {"level": 0}, "group_size": 1, "group_by": "kind"}
    branches = [{"parent": 1, "query": {"level": 1, "kind": kind}, "group_size": 2} for kind in kinds]
    merged = [{"parent": n, "query": {"level": n}, "group_size": 10_000} for n in range(2, 9)]
    submit(world, "p", every, *branches, *merged)
    do_all(world, Hands.at(world, "North"))
    shown = show(world)
    assert (len(shown.steps), shown.of.state) == (16, "Completed")
    assert [step.tasks for step in shown.steps] == [16, *[1] * 8, *[1] * 7]
    assert [node.parents for node in shown.nodes[9:]] == [(n,) for n in range(2, 9)]


@pytest.mark.feature("S1-006")
def test_what_one_production_makes_is_the_input_of_the_next(world: World):
    raw(world, 4)
    submit(world, "one", RAW)
    do_all(world, Hands.at(world, "North"))
    submit(world, "two", {"query": {"level": 1}, "group_size": 10})
    do_all(world, Hands.at(world, "North", "other hands"))
    assert {name.rsplit("/", 1)[0] for name in inputs(world, "two", 1)} == {"/test/products/1"}
    assert show(world, "two").of.state == "Completed"


def test_only_so_many_files_are_taken_as_the_document_says_the_first_by_name(world: World):
    raw(world, 9)
    submit(world, "p", {**RAW, "input_limit": 3}, open_=True)
    raw(world, 2, first=100)
    assert inputs(world, "p", 1) == {f"/test/raw/n00{n}.plain" for n in range(3)}


# --- modes -----------------------------------------------------------------------------------------------------
def test_single_jobs_are_one_for_each_step_on_all_its_files(world: World):
    raw(world, 7)
    raw(world, 3, first=50, storage="east")
    submit(world, "p", RAW, AGAIN, single_jobs=True)
    do_all(world, Hands.at(world, "North"))
    shown = show(world)
    assert [(step.files, step.tasks) for step in shown.steps] == [(10, 1), (1, 1)]


def test_a_production_that_is_held_back_takes_nothing_until_it_is_started(world: World):
    raw(world, 2)
    submit(world, "p", RAW, hold=True)
    assert (show(world).of.state, inputs(world, "p", 1)) == ("New", set())
    assert productions.start(world.ctx, "p", dry_run=True) == 1
    assert show(world).of.state == "New"
    assert productions.start(world.ctx, "p") == 1
    assert (show(world).of.state, len(inputs(world, "p", 1))) == ("Active", 2)
    assert productions.start(world.ctx, "p") == 0


def test_a_stopped_production_starts_no_job_and_goes_on_where_it_was(world: World):
    raw(world, 4)
    submit(world, "p", RAW, open_=True)
    assert productions.stop(world.ctx, "p", "the calibration is wrong", dry_run=True) == 1
    assert show(world).of.state == "Active"
    assert productions.stop(world.ctx, "p", "the calibration is wrong") == 1
    go_on(world)
    assert Hands.at(world, "North").claim() is None
    assert world.value("SELECT why FROM history WHERE kind = 'production' AND target = 'Stopped'") == (
        "the calibration is wrong"
    )
    raw(world, 2, first=100)
    assert productions.start(world.ctx, "p") == 1
    productions.close(world.ctx, "p")
    assert do_all(world, Hands.at(world, "North", "other hands")) == 3
    assert show(world).of.state == "Completed"


def test_what_is_complete_cannot_be_stopped(world: World):
    raw(world, 2)
    submit(world, "p", RAW)
    do_all(world, Hands.at(world, "North"))
    with pytest.raises(Conflict, match="'p' is Completed"):
        productions.stop(world.ctx, "p", "")


def test_steps_without_input_make_as_many_tasks_as_is_said(world: World):
    nothing = {"without_input": True, "group_size": 1}
    submit(world, "p", {**nothing, "n_tasks": 3}, {**nothing, "n_tasks": 0})
    raw(world, 2)
    transform.make_tasks(world.ctx)
    assert [step.tasks for step in show(world).steps] == [3, 0]
    assert productions.more_tasks(world.ctx, "p", 2, 5) == 5
    transform.make_tasks(world.ctx)
    assert [(step.files, step.tasks) for step in show(world).steps] == [(0, 3), (0, 5)]
    with pytest.raises(Invalid, match="step 7 of production 'p'"):
        productions.more_tasks(world.ctx, "p", 7, 1)


# --- extending -------------------------------------------------------------------------------------------------
def test_a_step_that_is_added_takes_what_its_parent_made_already_and_what_it_makes_then(world: World):
    raw(world, 4)
    hands = Hands.at(world, "North")
    submit(world, "p", RAW, open_=True)
    go_on(world)
    hands.finish(hands.claim() or {})
    assert [step.number for step in productions.extend(world.ctx, "p", document(RAW, AGAIN), {}, dry_run=True)] == [2]
    assert len(show(world).steps) == 1
    productions.extend(world.ctx, "p", document(RAW, AGAIN), {})
    assert len(inputs(world, "p", 2)) == 1
    productions.close(world.ctx, "p")
    do_all(world, hands)
    assert len(inputs(world, "p", 2)) == 2
    assert show(world).of.state == "Completed"
    assert productions.extend(world.ctx, "p", document(RAW, AGAIN), {}) == []


def test_a_production_that_is_complete_goes_on_with_the_step_that_is_added(world: World):
    raw(world, 4)
    hands = Hands.at(world, "North")
    submit(world, "p", RAW)
    do_all(world, hands)
    assert show(world).of.state == "Completed"
    productions.extend(world.ctx, "p", document(RAW, AGAIN), {})
    assert show(world).of.state == "Active"
    do_all(world, hands)
    assert (show(world).of.state, len(inputs(world, "p", 2))) == ("Completed", 2)


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([{**RAW, "group_size": 3}, AGAIN], "step 1 is another one in this document: group_size"),
        ([{**RAW, "query": {"level": 1}}], "step 1 is another one in this document: query"),
    ],
)
def test_what_runs_already_cannot_be_changed(world: World, steps: list[dict[str, Any]], told: str):
    raw(world, 2)
    submit(world, "p", RAW)
    with pytest.raises(Conflict, match=told):
        productions.extend(world.ctx, "p", document(*steps), {})
    submit(world, "q", RAW, AGAIN)
    with pytest.raises(Conflict, match="step 2 is not in the document any more"):
        productions.extend(world.ctx, "q", document(RAW), {})


def test_files_that_came_later_are_taken_when_that_is_asked_for_each_once(world: World):
    raw(world, 4)
    submit(world, "p", RAW)
    go_on(world)
    raw(world, 3, first=100)
    assert len(inputs(world, "p", 1)) == 4
    assert productions.match_again(world.ctx, "p", dry_run=True) == 3
    assert len(inputs(world, "p", 1)) == 4
    assert productions.match_again(world.ctx, "p") == 3
    assert productions.match_again(world.ctx, "p") == 0
    do_all(world, Hands.at(world, "North"))
    with pytest.raises(Conflict, match="takes files any more"):
        productions.match_again(world.ctx, "p")


# --- many, and once more ---------------------------------------------------------------------------------------
def test_three_layouts_and_four_particles_are_twelve_productions_by_one_call(world: World):
    text = '{"steps": [{"query": {"kind": "$layout-$particle"}, "group_size": 1}]}'
    values = {"layout": ["Alpha", "Beta", "Gamma"], "particle": ["gamma", "electron", "proton", "helium"]}
    for layout in values["layout"]:
        for particle in values["particle"]:
            world.register(f"/test/raw/{layout}-{particle}.plain", kind=f"{layout}-{particle}")
    names = productions.submit_all(world.ctx, "c", text, {}, values)
    assert len(names) == 12
    assert names[1] == "c_Alpha_electron"
    assert productions.submit_all(world.ctx, "c", text, {}, values) == names
    assert inputs(world, "c_Gamma_helium", 1) == {"/test/raw/Gamma-helium.plain"}


def test_a_clone_has_the_document_of_the_first_with_the_changes(world: World):
    raw(world, 2)
    produce.submit(world.ctx, "p", document(RAW), {"beside.txt": b"light"})
    text, beside, _ = productions.clone(world.ctx, "p", "q", {"campaign": "next"})
    assert json.loads(text) == {"steps": [RAW], "campaign": "next"}
    assert beside == {"beside.txt": b"light"}
    with pytest.raises(Conflict, match="there is a production 'p' already"):
        productions.clone(world.ctx, "p", "p", {})
    with pytest.raises(NotFound) as caught:
        productions.clone(world.ctx, "pp", "q", {})
    assert caught.value.hint == "did you mean 'p'?"
