"""What people do with transformations: look, pause, change files, finalize, clean; and what runs first."""

from typing import Any

import pytest
from tests.conftest import World
from tests.steps.test_work import Hands, do_all, go_on, one_task, submit, tasks, transformation

from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.domain.states import File
from lightkeeper.steps import finalize, operations, productions, run, transform, transformations
from lightkeeper.steps.operations import Kind, NewOperation
from lightkeeper.steps.queue import Queue

WHY = "because of the test"


def states(world: World, transformation_id: int = 1) -> dict[str, str]:
    return {file.lfn: file.state for file in transformations.input_files(world.ctx, transformation_id)}


def fail_all(world: World, hands: Hands) -> None:
    """Every job fails until no task gets another attempt."""
    while True:
        go_on(world)
        job = hands.claim()
        if job is None:
            return
        hands.fail(job)


def set_status(world: World, state: str, *given: str, **more: Any) -> list[tuple[int, str]]:
    changed = transformations.set_status(world.ctx, given or ["1"], state, WHY, **more)
    assert changed.failed == []
    return changed.done


# --- looking ---------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-065")
def test_transformations_are_found_by_number_name_wildcard_and_production(world: World):
    world.register("/test/raw/n1.plain")
    for name in ("spring", "summer"):
        submit(world, {"query": {"level": 0}, "group_size": 1}, name=name)
    ctx = world.ctx
    assert transformations.resolve(ctx, ["2"]) == [2]
    assert transformations.resolve(ctx, ["spring"]) == [1]
    assert transformations.resolve(ctx, ["s*"]) == [1, 2]
    assert transformations.resolve(ctx, ["00000002_Step1_Concatenate", "2", "su?mer"]) == [2]
    with pytest.raises(NotFound, match="no transformation is called 'autumn'"):
        transformations.resolve(ctx, ["autumn"])
    with pytest.raises(NotFound, match="no transformation 7"):
        transformations.resolve(ctx, ["7"])
    with pytest.raises(NotFound):
        transformations.resolve(ctx, ["s_mmer", "%"])


@pytest.mark.feature("S0-046", "S0-066")
def test_what_moves_removes_and_stages_files_is_in_the_same_list(world: World):
    world.register("/test/raw/n1.plain", "/test/raw/n2.plain")
    submit(world, {"query": {"level": 0}, "group_size": 2})
    for kind, places in ((Kind.REPLICATE, {"target": "east"}), (Kind.MOVE, {"target": "east", "source": "north"})):
        operations.begin(world.ctx, NewOperation(kind, query={"level": 0}, name=f"my-{kind}", **places))
    found = {line.name: line for line in transformations.find(world.ctx)}
    assert (found["my-move"].type, found["my-move"].status, found["my-move"].files) == ("Moving", "Active", 2)
    assert found["my-replicate"].type == "Replication"
    assert found["00000001_Step1_Concatenate"].unused == 2
    assert [line.name for line in transformations.find(world.ctx, type_="Moving")] == ["my-move"]
    assert [line.name for line in transformations.find(world.ctx, names=["my-*"], status="Done")] == []
    world.settle()
    operations.look_after(world.ctx)
    done = transformations.find(world.ctx, names=["my-replicate"])[0]
    assert (done.status, done.processed) == ("Done", 2)


# --- files -----------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-045", "S0-065")
def test_each_file_says_where_it_stands_and_why(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(3)))
    world.deliver("/test/raw/late.plain")
    submit(world, {"query": {"level": 0}, "group_size": 2}, open_=True)
    world.ingest()
    hands = Hands.at(world, "North")
    transform.make_tasks(world.ctx)
    go_on(world)
    why = {file.lfn: file.why for file in transformations.input_files(world.ctx, 1, "Unused")}
    assert why == {
        "/test/raw/n2.plain": "it waits for others",
        "/test/raw/late.plain": "no data centre has a verified copy",
    }
    assert sorted(states(world).values()) == ["Assigned", "Assigned", "Unused", "Unused"]
    fail_all(world, hands)
    (bad, _) = transformations.input_files(world.ctx, 1, "Problematic")
    assert (bad.task_state, bad.why) == ("Failed", "Application Finished With Errors: exit code 1: broken")


@pytest.mark.feature("S1-046")
def test_a_bad_file_is_taken_out_of_a_failed_task_and_the_others_are_done_without_it(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(4)))
    submit(world, {"query": {"level": 0}, "group_size": 4})
    hands = Hands.at(world, "North")
    fail_all(world, hands)
    dry = transformations.set_files(world.ctx, "1", "Removed", WHY, names=["/test/raw/n2.plain"], dry_run=True)
    assert (dry.done, dry.tasks, set(states(world).values())) == (["/test/raw/n2.plain"], 1, {"Problematic"})
    changed = transformations.set_files(
        world.ctx, "1", "Removed", WHY, names=["/test/raw/n2.plain", "/test/raw/x.plain"]
    )
    assert changed.tasks == 1
    assert changed.failed == [("/test/raw/x.plain", "it is no file of this transformation")]
    assert sorted(states(world).values()) == ["Removed", "Unused", "Unused", "Unused"]
    assert do_all(world, hands) == 1
    assert sorted(states(world).values()) == ["Processed", "Processed", "Processed", "Removed"]
    assert str(transformation(world).status) == "Completed"


@pytest.mark.feature("S0-065")
def test_files_are_set_processed_or_unused_again_by_their_state(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(3)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(world, "North")
    fail_all(world, hands)
    ctx = world.ctx
    assert len(transformations.set_files(ctx, "1", "Processed", WHY, task_state="Failed").done) == 3
    assert set(states(world).values()) == {"Processed"}
    assert len(transformations.set_files(ctx, "1", "Unused", WHY, now="Processed").done) == 3
    assert do_all(world, hands) == 3
    told = transformations.set_files(ctx, "1", "Unused", WHY, now="Processed")
    assert told.done == []
    assert "has processed it, which is final" in told.failed[0][1]


def test_a_file_that_a_job_works_on_is_left_alone(world: World):
    hands = one_task(world)
    assert hands.claim()
    told = transformations.set_files(world.ctx, "1", "Removed", WHY, names=["/test/raw/n1.plain"])
    assert told.failed == [("/test/raw/n1.plain", "task 1 works on it: lightkeeper job kill")]


@pytest.mark.feature("S0-065", "S0-006")
def test_files_are_added_by_name_once_and_a_completed_transformation_goes_on(world: World):
    hands = one_task(world)
    do_all(world, hands)
    assert str(transformation(world).status) == "Completed"
    world.register("/test/raw/n2.plain", level=7)
    names = ["/test/raw/n1.plain", "/test/raw/n2.plain", "/test/raw/none.plain"]
    told = transformations.add_files(world.ctx, "1", names)
    assert (told.done, told.already) == (["/test/raw/n2.plain"], ["/test/raw/n1.plain"])
    assert told.failed == [("/test/raw/none.plain", "it is not in the catalogue")]
    assert transformations.add_files(world.ctx, "1", names).done == []
    assert do_all(world, hands) == 1
    assert states(world) == {"/test/raw/n1.plain": "Processed", "/test/raw/n2.plain": "Processed"}


# --- states ----------------------------------------------------------------------------------------------------
def test_a_paused_transformation_begins_nothing_and_goes_on_where_it_was(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(3)))
    submit(world, {"query": {"level": 0}, "group_size": 1}, open_=True)
    hands = Hands.at(world, "North")
    go_on(world)
    job = hands.claim()
    assert job
    set_status(world, "Stopped")
    world.register("/test/raw/late.plain")
    go_on(world)
    assert hands.claim() is None, "queued jobs wait too"
    hands.finish(job)
    assert transformation(world).processed == 1, "what runs goes on"
    set_status(world, "Active")
    productions.close(world.ctx, "p")
    assert do_all(world, hands) == 3
    assert transformation(world).processed == 4


def test_a_stopped_one_ends_its_jobs_and_the_pilot_is_told(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(2)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(world, "North")
    go_on(world)
    job = hands.claim()
    assert job
    dry = transformations.set_status(world.ctx, ["1"], "Stopped", WHY, kill=True, dry_run=True)
    assert dry.done == [(1, "Active → Stopped, 2 jobs ended")]
    assert run.alive(world.ctx, hands.pilot, {job["job_id"]: "Executing Payload"}) == []
    set_status(world, "Stopped", kill=True)
    assert run.alive(world.ctx, hands.pilot, {job["job_id"]: "Executing Payload"}) == [job["job_id"]]
    assert world.value("SELECT count(*) FROM job_queue") == 0
    set_status(world, "Active")
    assert do_all(world, hands) == 2


def test_one_that_cannot_be_changed_stops_no_other(world: World):
    world.register("/test/raw/n1.plain")
    for name in ("one", "two"):
        submit(world, {"query": {"level": 0}, "group_size": 1}, name=name)
    set_status(world, "Stopped", "1")
    told = transformations.set_status(world.ctx, ["1", "2"], "Flush", WHY)
    assert [number for number, _ in told.done] == [2]
    assert told.failed == [(1, "it is Stopped (only what is Active can be flushed)")]
    with pytest.raises(Invalid, match="no state of a transformation"):
        transformations.set_status(world.ctx, ["1"], "Activ", WHY)


def test_archived_ones_are_left_out_of_lists(world: World):
    hands = one_task(world)
    do_all(world, hands)
    set_status(world, "Archived")
    assert transformations.find(world.ctx) == []
    assert [line.status for line in transformations.find(world.ctx, all_=True)] == ["Archived"]


@pytest.mark.feature("S0-065")
def test_cleaning_removes_what_was_made_and_only_then_it_may_be_deleted(world: World):
    hands = one_task(world)
    do_all(world, hands)
    ctx = world.ctx
    assert "it is Completed" in transformations.delete(ctx, ["1"], WHY).failed[0][1]
    assert transformations.clean(ctx, ["1"], WHY, dry_run=True).done[0][1].startswith("1 files of")
    assert str(transformation(world).status) == "Completed"
    transformations.clean(ctx, ["1"], WHY)
    assert transformations.clean_due(ctx) == 1
    world.settle()
    made = world.value("SELECT count(*) FROM file JOIN meta_set USING (set_id) WHERE state = %s", str(File.REMOVED))
    assert made == 1
    assert not list((world.root / "north/test/products").rglob("*.joined"))
    assert transformations.delete(ctx, ["1"], WHY).done == [(1, "deleted")]
    assert transformations.find(ctx) == []


def test_outputs_that_another_task_will_read_are_not_cleaned(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1}, {"query": {"level": 1}, "group_size": 1, "parent": 1})
    hands = Hands.at(world, "North")
    go_on(world)
    job = hands.claim()
    assert job
    hands.finish(job)
    go_on(world)
    told = transformations.clean(world.ctx, ["1"], WHY)
    assert "1 tasks of other transformations read what it made" in told.failed[0][1]


# --- jobs ------------------------------------------------------------------------------------------------------
def test_a_killed_job_waits_until_somebody_asks_for_another_attempt(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    told = transformations.kill_jobs(world.ctx, [job["job_id"], 99], WHY, again=False)
    assert (told.done, told.failed) == ([job["job_id"]], [(99, "there is no such job")])
    go_on(world)
    assert hands.claim() is None
    shown = transformations.show_job(world.ctx, job["job_id"])
    assert (shown.job.status, shown.job.minor_status) == ("Killed", "Received Kill signal")
    assert shown.inputs == ["/test/raw/n1.plain"]
    told = transformations.kill_jobs(world.ctx, [job["job_id"]], WHY, again=True)
    assert told.failed == []
    assert do_all(world, hands) == 1


def test_a_waiting_or_running_job_is_done_again_elsewhere_when_it_is_rescheduled(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    transformations.kill_jobs(world.ctx, [job["job_id"]], WHY, again=True)
    go_on(world)
    again = Hands.at(world, "East", "other").claim()
    assert again
    assert (again["task_id"], again["attempt"]) == (job["task_id"], 2)


def test_a_claim_whose_answer_was_lost_gives_the_same_job_again(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(3)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(world, "North")
    go_on(world)
    ctx, queue = world.ctx, Queue()
    lost = run.claim(ctx, hands.pilot, most=2, holding=[], queue=queue)
    again = run.claim(ctx, hands.pilot, most=2, holding=[], queue=queue)
    assert [job["job_id"] for job in again] == [job["job_id"] for job in lost]
    assert again == lost
    other = run.claim(ctx, hands.pilot, holding=[job["job_id"] for job in lost], queue=queue)
    assert {job["job_id"] for job in other}.isdisjoint(job["job_id"] for job in lost)
    for job in (*lost, *other):
        hands.finish(job)
    assert world.value("SELECT count(*) FROM job") == 3, "no attempt was wasted"


def test_a_report_that_was_delivered_twice_is_accepted_once(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    told = hands.upload(job)
    for _ in range(2):
        run.finish(world.ctx, hands.pilot, job["job_id"], told)
    assert world.value("SELECT count(*) FROM file") == 2
    assert world.value("SELECT state::text FROM job") == "Done"


# --- simulation ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-059")
def test_tasks_without_input_are_made_at_once_numbered_and_extended(world: World):
    submit(world, {"without_input": True, "n_tasks": 3, "group_size": 1})
    hands = Hands.at(world, "North")
    assert do_all(world, hands) == 3
    assert transformation(world).outputs == 3
    with world.ctx.db.transaction() as conn:
        numbers = [n for (n,) in conn.execute("SELECT number FROM task ORDER BY number").fetchall()]
    assert numbers == [1, 2, 3]
    assert str(transformation(world).status) == "Completed"


# --- finalizing ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-070", "S0-065")
def test_finalize_tells_its_plan_and_then_carries_it_out(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(5)))
    submit(world, {"query": {"level": 0}, "group_size": 2}, open_=True)
    hands = Hands.at(world, "North")
    fail_all(world, hands)
    plan = finalize.finalize(world.ctx, "1")
    assert [(str(r.stand), r.files, r.tasks) for r in plan] == [("below the group size", 1, 0), ("task failed", 4, 2)]
    assert all(not r.told for r in plan)
    assert set(states(world).values()) == {"Problematic", "Unused"}
    told = finalize.finalize(world.ctx, "1", apply=True)
    assert [r.told for r in told] == ["tasks of fewer files are made", "2 tasks get another attempt"]
    productions.close(world.ctx, "p")
    assert do_all(world, hands) == 3
    assert str(transformation(world).status) == "Completed"
    with pytest.raises(Conflict, match="is Completed"):
        finalize.finalize(world.ctx, "1")


@pytest.mark.feature("S0-070")
def test_finalize_takes_out_what_is_lost_and_makes_tasks_of_the_rest(world: World):
    world.register(*(f"/test/made/n{n}.plain" for n in range(4)), level=3)
    submit(world, {"query": {"level": 3}, "group_size": 2})
    hands = Hands.at(world, "North")
    fail_all(world, hands)
    world.value("UPDATE replica SET state = 'Suspect' WHERE file_id = (SELECT min(file_id) FROM replica)")
    world.value("UPDATE replica SET state = 'Lost' WHERE state = 'Suspect'")
    (world.root / "north/test/made/n0.plain").unlink()
    plan = finalize.finalize(world.ctx, "1")
    assert {str(r.stand): r.tasks for r in plan} == {"input lost": 1, "task failed": 1}
    finalize.finalize(world.ctx, "1", apply=True)
    assert states(world)["/test/made/n0.plain"] == "Removed"
    do_all(world, hands)
    assert sorted(states(world).values()) == ["Processed", "Processed", "Processed", "Removed"]


def test_finalize_says_when_no_pilot_anywhere_can_run_its_jobs(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1, "processors": 64})
    go_on(world)
    (remedy,) = finalize.finalize(world.ctx, "1", apply=True)
    assert remedy.what.startswith("nothing: no site has pilots with the processors")


# --- waking ----------------------------------------------------------------------------------------------------
def test_only_what_is_new_is_looked_at_and_what_gets_a_copy_is_new_again(world: World):
    world.deliver("/test/raw/n1.plain")
    world.ingest()
    submit(world, {"query": {"level": 0}, "group_size": 1})
    transform.make_tasks(world.ctx)
    assert world.value("SELECT stand::text FROM pending_input") == "no copy"
    assert transform.make_tasks(world.ctx) == 0
    world.settle()
    assert transform.make_tasks(world.ctx) == 1
    assert tasks(world)


def test_a_missed_announcement_is_found_by_looking(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    world.value("UPDATE pending_input SET stand = 'no copy'")
    assert transform.make_tasks(world.ctx) == 0
    assert transform.look_again(world.ctx) == 1
    assert transform.make_tasks(world.ctx) == 1


def test_counts_are_the_same_when_their_rows_are_joined(world: World):
    hands = one_task(world)
    do_all(world, hands)
    before = transformation(world)
    assert world.value("SELECT count(*) FROM transformation_count") > 1
    transformations.fold_counts(world.ctx)
    assert world.value("SELECT count(*) FROM transformation_count") == 1
    assert transformation(world) == before


def test_one_wrong_grouping_does_not_stop_the_others(world: World):
    class Wrong:
        def check(self, size: int, keys: Any) -> None: ...

        def groups(self, files: Any, size: int, *, flush: bool) -> Any:
            return [files, files]

    world = world.having(groupings={"number": world.ctx.groupings["number"], "site": Wrong()})
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1}, name="wrong")
    submit(world, {"query": {"level": 0}, "group_size": 1, "grouping": "number"}, name="right")
    assert transform.make_tasks(world.ctx) == 1
    assert transformation(world).unused == 1
