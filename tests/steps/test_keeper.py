"""Transformations end on their own, or say in one sentence what a person must decide; what may not be is put right."""

import json
import threading
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import psycopg
import pytest
from tests.conftest import World
from tests.steps.test_tell import options
from tests.steps.test_work import Hands, do_all, go_on, submit, transformation

from lightkeeper.domain.contradictions import Outputs, Repair, table
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.domain.healing import DEFAULT, Keeper, Options, ParentFacts, Remedy, TransformationFacts, decide
from lightkeeper.domain.states import Job, Task, Transformation
from lightkeeper.steps import contradictions, heal, produce, productions, report, run, tell, topology, transform
from lightkeeper.steps.why import why
from lightkeeper.store import healing, messages, reports


def one_of(world: World, type_: str, name: str, files: int = 1, group_size: int = 1) -> None:
    """A production of one transformation of a type, with files of its own."""
    world.register(*(f"/test/raw/{name}{n}.plain" for n in range(files)), night=name)
    submit(world, {"query": {"night": name}, "group_size": group_size, "type": type_}, name=name)


@pytest.mark.feature("S1-050")
@pytest.mark.parametrize("most", [10, 3])
def test_as_many_transformations_are_looked_after_at_once_as_the_topology_says_and_no_more(world: World, most: int):
    if most != Keeper().threads:
        options(world, f"threads: {most}")
    for n in range(2 * most):
        one_of(world, "Merging", f"p{n}", files=1, group_size=2)
    transform.make_tasks(world.ctx)
    looking = threading.Thread(target=heal.look_after_work, args=(world.ctx,))
    with world.ctx.db.transaction() as conn:
        conn.execute("LOCK TABLE remedy IN SHARE MODE")  # nothing can be remedied meanwhile
        looking.start()
        seen = 0
        deadline = time.monotonic() + 30
        while seen < most and time.monotonic() < deadline:
            seen = max(seen, at_work())
            time.sleep(0.01)
        time.sleep(0.2)
        assert (seen, at_work()) == (most, most)
    looking.join(60)
    assert world.value("SELECT count(*) FROM transformation WHERE flushes = 1") == 2 * most
    assert at_work() == 0


def at_work() -> int:
    return sum(thread.name.startswith("keeper") for thread in threading.enumerate())


def states(world: World) -> dict[str, str]:
    """State of the transformation of each production."""
    with world.ctx.db.transaction() as conn:
        return dict(
            conn.execute(
                "SELECT p.name, t.state::text FROM transformation t JOIN production p USING (production_id)"
            ).fetchall()
        )


def sentence(world: World) -> str:
    """The one decision that a person must make."""
    with world.ctx.db.transaction() as conn:
        (one,) = messages.concerns(conn)
    return one.sentence


# --- the twelve weaknesses of the original ------------------------------------------------------------------------
@pytest.mark.feature("S1-074")
def test_weakness_1_counters_of_flushes_and_attempts_survive_a_restart(world: World):
    one_of(world, "Merging", "a", files=3, group_size=2)
    hands = Hands.at(world, "North")
    for attempt in (1, 2, 3, 4):
        go_on(world)
        jobs = [job for _ in range(2) if (job := hands.claim())]
        assert {job["attempt"] for job in jobs} == {attempt}
        for job in jobs:
            hands.fail(job)
        heal.after_restart(world.ctx)  # each time a new program: nothing is kept but rows
    go_on(world)
    assert hands.claim() is None
    assert world.value("SELECT flushes FROM transformation") == 1
    assert world.value("SELECT array_agg(DISTINCT reassigned) FROM task") == [3]


@pytest.mark.feature("S1-074", "S1-056")
def test_weakness_2_the_limit_is_per_transformation_and_exact_and_counts_only_what_was_done(world: World):
    world.register("/test/raw/n1.plain")
    for name in ("a", "b"):
        submit(world, {"query": {"level": 0}, "group_size": 1}, name=name)
    hands = Hands.at(world, "North")
    claimed: list[tuple[int, int]] = []
    go_on(world)
    while job := hands.claim():
        claimed.append((job["task_id"], job["attempt"]))
        hands.fail(job)
        go_on(world)
    assert sorted(claimed) == [(task, attempt) for task in (1, 2) for attempt in (1, 2, 3, 4)]
    with world.ctx.db.transaction() as conn:  # it is not Running: nothing changes, and nothing is counted
        assert healing.next_attempts(conn, [1], "x", "x", Keeper(default=Options(max_reassign=9)), run.timedelta()) == (
            [],
            [],
        )
    assert world.value("SELECT max(reassigned) FROM task") == 3


@pytest.mark.feature("S1-074", "S1-046")
def test_weakness_3_files_that_were_processed_are_never_processed_again(world: World):
    one_of(world, "Merging", "a", files=6, group_size=2)
    hands = Hands.at(world, "North")
    go_on(world)
    first, second, third = (hands.claim() for _ in range(3))
    assert first and second and third
    hands.finish(first)
    hands.fail(second)
    world.value("UPDATE job_alive SET seen = now() - interval '1 hour'")  # the third falls silent
    heal.release_abandoned(world.ctx)
    assert do_all(world, hands) == 2
    used = world.value("SELECT max(n) FROM (SELECT file_id, count(*) AS n FROM used GROUP BY file_id) u")
    assert used == 1
    assert world.value("SELECT count(*) FROM job WHERE state = 'Done'") == 3


@pytest.mark.feature("S1-074")
def test_weakness_5_every_parent_counts_and_only_parents_do(world: World):
    facts = TransformationFacts(9, "t", tasks=1, done=1)
    done, at_work = ParentFacts(1, Transformation.COMPLETED), ParentFacts(2, Transformation.ACTIVE)
    for parents, what in (
        ((done, at_work), Remedy.WAIT),
        ((at_work, done), Remedy.WAIT),
        ((done, done), Remedy.COMPLETE),
    ):
        assert decide(TransformationFacts(9, "t", tasks=1, done=1, parents=parents)).what is what
    assert decide(facts).what is Remedy.COMPLETE
    # a link of another production changes nothing: the child of "a" is complete while "b" is at work
    world.register("/test/raw/n1.plain")
    steps = [{"query": {"level": 0}, "group_size": 1}, {"query": {"level": 1}, "group_size": 5, "parent": 1}]
    submit(world, *steps, name="b")
    submit(world, *steps, name="a")
    with world.ctx.db.transaction() as conn:
        parents = {f.transformation_id: [p.transformation_id for p in f.parents] for f in healing.facts(conn)}
    assert parents == {1: [], 2: [1], 3: [], 4: [3]}
    do_all(world, Hands.at(world, "North"))


@pytest.mark.feature("S1-074")
def test_weakness_6_no_production_is_asked_for_to_flush_or_complete():
    alone = TransformationFacts(1, "alone", group_size=5, waiting=2, ready=2)
    assert decide(alone).what is Remedy.FLUSH
    assert decide(TransformationFacts(1, "alone", tasks=2, done=2)).what is Remedy.COMPLETE


@pytest.mark.feature("S1-074")
def test_weakness_7_nothing_is_flushed_while_its_input_still_arrives(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 5}, open_=True)
    for n in range(2, 5):
        go_on(world)
        assert transformation(world).flushes == 0
        world.register(f"/test/raw/n{n}.plain")
    productions.close(world.ctx, "p")
    assert do_all(world, Hands.at(world, "North")) == 1
    assert transformation(world).flushes == 1


@pytest.mark.feature("S1-074", "S1-035")
def test_weakness_8_what_cannot_be_processed_holds_up_nothing_else_and_is_told_once(world: World):
    one_of(world, "Merging", "a", files=5)
    hands = Hands.at(world, "North")
    go_on(world)
    poison = hands.claim()
    assert poison
    for _ in range(4):
        hands.fail(poison)
        go_on(world)
        while (job := hands.claim()) and job["task_id"] != poison["task_id"]:
            hands.finish(job)
        poison = job or poison
        go_on(world)
    assert (transformation(world).processed, transformation(world).problematic) == (4, 1)
    assert sentence(world) == "transformation 1 (00000001_Step1_Concatenate): 1 of 5 tasks failed in every attempt"
    first = world.value("SELECT concern_id FROM concern")
    for _ in range(3):
        heal.look_after_work(world.ctx)
    assert world.value("SELECT array_agg(concern_id) FROM concern") == [first]
    produce.retry(world.ctx, 1)
    do_all(world, hands)
    assert states(world) == {"a": "Completed"}
    assert world.value("SELECT count(*) FROM concern WHERE ended IS NULL") == 0


@pytest.mark.feature("S1-074", "S1-043")
def test_weakness_10_one_that_cannot_be_looked_after_stops_no_other_and_is_told(world: World):
    for n in range(10):
        one_of(world, "Merging", f"p{n}")
    hands = Hands.at(world, "North")
    transform.make_tasks(world.ctx)
    transform.submit_jobs(world.ctx)
    while job := hands.claim():
        hands.finish(job)
    world.value(  # the database refuses to complete the fifth
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.transformation_id = 5 AND NEW.state = ''Completed'' THEN RAISE ''it is cursed''; END IF; "
        "RETURN NEW; END'"
    )
    world.value("CREATE TRIGGER no BEFORE UPDATE ON transformation FOR EACH ROW EXECUTE FUNCTION no()")
    heal.look_after_work(world.ctx)
    assert sorted(states(world).values()) == ["Active", *["Completed"] * 9]
    assert "transformation 5 cannot be looked after: it is cursed" in sentence(world)
    world.value("DROP TRIGGER no ON transformation")
    heal.look_after_work(world.ctx)
    assert set(states(world).values()) == {"Completed"}
    assert world.value("SELECT count(*) FROM concern WHERE ended IS NULL") == 0


@pytest.mark.feature("S1-074")
def test_weakness_12_a_transformation_without_a_task_ends_and_has_a_report(world: World):
    world.register("/test/raw/n1.plain")
    steps = [{"query": {"level": 0}, "group_size": 1}, {"query": {"level": 7}, "group_size": 5, "parent": 1}]
    submit(world, *steps)
    do_all(world, Hands.at(world, "North"))
    made = report.transformation(world.ctx, 2)
    assert (str(made.summary.status), [row.total for row in made.rows]) == ("Completed", ["0"])
    assert "its parent made nothing that it takes" in made.history[-1].why


# --- options --------------------------------------------------------------------------------------------------------
@pytest.mark.feature("S1-040", "S1-042", "S1-054", "S1-055", "S1-057", "S1-058")
def test_each_type_is_treated_as_the_topology_says_and_a_change_holds_at_once(world: World):
    options(
        world,
        "types: [DataReprocessing, Merging, Training, ApplyModel, MCSimulation]",
        "reassign: [DataReprocessing, Merging, Training, ApplyModel]",
        "complete: [DataReprocessing, Merging, Training, ApplyModel]",
        "flush: [DataReprocessing, Merging]",
    )
    for type_ in ("DataReprocessing", "Training", "MCSimulation", "EvnDisp"):
        one_of(world, type_, type_, files=3, group_size=2)
    hands = Hands.at(world, "North")
    go_on(world)
    claimed = [job for _ in range(9) if (job := hands.claim())]
    for job in claimed:
        hands.fail(job) if "MCSim" in job["input_files"][0]["lfn"] else hands.finish(job)
    do_all(world, hands)
    of = {production: t.flushes for production, t in _by_production(world).items()}
    assert of == {"DataReprocessing": 1, "Training": 0, "MCSimulation": 0, "EvnDisp": 0}
    assert states(world) == {
        "DataReprocessing": "Completed",
        "Training": "Active",
        "MCSimulation": "Active",
        "EvnDisp": "Active",
    }
    assert _by_production(world)["MCSimulation"].failed == 1, "its failed task is left alone"
    options(world, "max_flush: 2")
    produce.retry(world.ctx, 3)
    do_all(world, hands)
    assert set(states(world).values()) == {"Completed"}


def _by_production(world: World) -> dict[str, Any]:
    with world.ctx.db.transaction() as conn:
        return {t.production: t for t in reports.transformations(conn)}


@pytest.mark.feature("S1-052")
def test_only_active_transformations_are_touched(world: World):
    one_of(world, "Merging", "a", files=1, group_size=5)
    one_of(world, "Merging", "b", files=1, group_size=5)
    world.value("UPDATE transformation SET state = 'Stopped' WHERE transformation_id = 1")
    go_on(world)
    assert world.value("SELECT array_agg(transformation_id) FROM task") == [2]
    do_all(world, Hands.at(world, "North"))
    assert states(world) == {"a": "Stopped", "b": "Completed"}
    world.value("UPDATE transformation SET state = 'Active' WHERE transformation_id = 1")
    do_all(world, Hands.at(world, "North", "two"))


def test_what_is_around_the_work_has_a_limit_of_its_own(world: World):
    options(world, "max_reassign: 0", "max_reschedule: 2")
    one_of(world, "Merging", "a")
    hands = Hands.at(world, "North")
    for _ in range(3):
        go_on(world)
        job = hands.claim()
        assert job
        told = {"minor_status": "Input data resolution", "application_status": "no copy of /x could be read"}
        ended = told | {"exit_code": None, "log": "", "bad_replicas": []}
        run.report_failure(world.ctx, hands.pilot, job["job_id"], ended)
    go_on(world)
    assert hands.claim() is None
    rows = report.transformation(world.ctx, 1).rows
    assert (rows[0].status, rows[0].minor_status) == ("Failed", "Maximum of reschedulings reached")
    assert rows[0].application_status == "Input data resolution: no copy of /x could be read"


def test_a_third_flush_is_a_person_s_to_decide():
    facts = TransformationFacts(1, "t", group_size=9, waiting=2, ready=2, flushes=2)
    decision = decide(facts)
    assert decision.what is Remedy.DECIDE
    assert "it was flushed 2 times, which is all it may, and 2 files wait again" in decision.why
    assert decide(facts, Options(max_flush=3)).what is Remedy.FLUSH


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("evry: 10 min", "unknown key 'evry'"),
        ("every: soon", "keeper.every: 'soon' is not a time"),
        ("tell: ['ops@example.org, all@example.org']", "keeper.tell"),
        ("tell: [nobody]", "keeper.tell"),
        ("max_reassign: -1", "keeper.max_reassign"),
        ("by_type: {Merging: {flsh: true}}", "unknown key 'flsh'"),
        ("states: [Completed]", "keeper.states"),
    ],
)
def test_an_option_that_says_nothing_is_refused_with_its_place(world: World, line: str, told: str):
    with pytest.raises(Invalid) as error:
        options(world, line)
    assert told in error.value.message


def test_applying_the_options_twice_changes_nothing(world: World):
    document = "version: 1\nkeeper: {digest: 2 h, tell: [ops@example.org], by_type: {Merging: {max_flush: 5}}}"
    assert topology.apply(world.ctx, document) != []
    assert topology.apply(world.ctx, document) == []
    with world.ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
    assert keeper.of("Merging").max_flush == 5
    assert keeper.of("Training") == Options(tell=("ops@example.org",))
    assert keeper.of("Merging").tell == ("ops@example.org",)
    assert Keeper().of("anything") == DEFAULT


# --- contradictions -------------------------------------------------------------------------------------------------
@pytest.fixture
def unguarded(world: World) -> Iterator[World]:
    """A world whose rows can be changed by hand, as after a restored backup."""
    yield world
    world.value("TRUNCATE task, task_input, job, job_queue, job_alive, history CASCADE")
    world.value("DELETE FROM activity WHERE job_id IS NOT NULL")
    world.value("DELETE FROM transformation")
    world.value("DELETE FROM production")


@pytest.mark.feature("S1-080", "S1-076", "S1-037")
def test_every_contradiction_in_the_database_is_repaired_or_told(unguarded: World):
    world = unguarded
    one_of(world, "Merging", "a")
    go_on(world)
    hands = Hands.at(world, "North")
    possible = [c for c in product(Task, (None, *Job), Outputs) if c[1] or c[2] in (Outputs.NONE, Outputs.OTHERS)]
    with psycopg.connect(world.ctx.db.url) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("DELETE FROM task; DELETE FROM job; DELETE FROM job_queue")
        for number, (task, job, outputs) in enumerate(possible, start=1000):
            conn.execute(
                "INSERT INTO task (task_id, transformation_id, state, attempts) OVERRIDING SYSTEM VALUE"
                " VALUES (%s, 1, %s, 2)",
                (number, str(task)),
            )
            told = json.dumps({"outputs": [{"name": "x"}] if outputs is Outputs.REPORTED else []})
            attempts = [(1, "Failed", number * 2)] + ([(2, str(job), number * 2 + 1)] if job else [])
            for attempt, state, job_id in attempts:
                conn.execute(
                    "INSERT INTO job (job_id, task_id, attempt, state, report, pilot_id, transformation_id)"
                    " OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, 1)",
                    (job_id, number, attempt, state, told, hands.pilot.pilot_id),
                )
                if state == "Running":
                    conn.execute("INSERT INTO job_alive (job_id, pilot_id) VALUES (%s, 1)", (job_id,))
            if outputs in (Outputs.REGISTERED, Outputs.OTHERS):
                of = number * 2 + (outputs is Outputs.REGISTERED)
                conn.execute(
                    "INSERT INTO activity (job_id, started, name, agent, software) VALUES (%s, now(), '', '', '{}')",
                    (of,),
                )
        conn.execute(
            "INSERT INTO job_queue SELECT (jsonb_populate_record(NULL::job_queue, jsonb_build_object("
            "'job_id', job_id, 'site_id', 1, 'priority', 5, 'bound', false, 'transformation_id', 1))).*"
            " FROM job WHERE state = 'Waiting'"
        )
        conn.commit()
    expected = {number: table()[c] for number, c in enumerate(possible, start=1000)}
    dry = {one.id: one.what for one in contradictions.look(world.ctx)}
    assert dry == {number: v.repair for number, v in expected.items() if v.repair is not Repair.FINE}
    for _ in range(2):  # what a repair leaves behind may be a person's to look at
        contradictions.sweep_all(world.ctx)
    left = {one.id: one.what for one in contradictions.look(world.ctx)}
    assert set(left.values()) <= {Repair.TELL}
    with world.ctx.db.transaction() as conn:
        told_of = {one.id for one in messages.concerns(conn, 10_000) if one.condition == "contradiction"}
    assert told_of == set(left)
    assert {number for number, v in expected.items() if v.repair is Repair.TELL} <= told_of
    repaired = {number for number, v in expected.items() if v.repair not in (Repair.FINE, Repair.TELL)}
    assert {i for (i,) in _rows(world, "SELECT DISTINCT id FROM remedy WHERE kind = 'task'")} >= repaired - told_of


def _rows(world: World, query: str) -> list[Any]:
    with world.ctx.db.transaction() as conn:
        return conn.execute(query).fetchall()


def test_a_job_outside_the_queue_and_one_that_no_pilot_has_are_given_up_and_the_task_goes_on(world: World):
    one_of(world, "Merging", "a", files=2)
    go_on(world)
    hands = Hands.at(world, "North")
    assert hands.claim()
    world.value("DELETE FROM job_queue")
    world.value("DELETE FROM job_alive")
    assert contradictions.sweep(world.ctx) == 0
    do_all(world, hands)
    assert states(world) == {"a": "Completed"}


def test_a_running_job_on_a_pilot_that_has_ended_is_given_up(world: World):
    one_of(world, "Merging", "a")
    go_on(world)
    hands = Hands.at(world, "North")
    assert hands.claim()
    world.value("UPDATE pilot SET state = 'Ended'")
    contradictions.sweep_all(world.ctx)
    assert world.value("SELECT state::text FROM task") == "Ready"
    do_all(world, Hands.at(world, "North", "two"))


def test_a_healthy_world_has_no_contradiction(world: World):
    one_of(world, "Merging", "a", files=3)
    hands = Hands.at(world, "North")
    go_on(world)
    assert contradictions.look(world.ctx) == []
    job = hands.claim()
    assert job
    assert contradictions.look(world.ctx) == []
    hands.fail(job)
    assert contradictions.look(world.ctx) == []
    do_all(world, hands)
    assert contradictions.look(world.ctx) == []
    assert contradictions.sweep(world.ctx) == 0


def test_a_copy_that_a_transfer_brought_and_that_is_gone_is_made_again(world: World):
    world.register("/test/raw/n1.plain")
    world.settle()
    (target,) = set(world.copies("/test/raw/n1.plain")) - {"north"}
    world.value(
        "WITH gone AS (DELETE FROM replica r USING storage s WHERE s.storage_id = r.storage_id AND s.name = %s"
        " RETURNING r.storage_id) UPDATE storage_count c SET n_files = n_files - 1, n_bytes = n_bytes - f.size"
        " FROM gone, file f WHERE c.storage_id = gone.storage_id",
        target,
    )
    contradictions.sweep_all(world.ctx)
    world.settle()
    assert world.copies("/test/raw/n1.plain")[target] == "Available"


# --- rounds -----------------------------------------------------------------------------------------------------------
def test_a_dry_round_says_what_would_be_done_and_why_and_does_nothing(world: World):
    one_of(world, "Merging", "a", files=2, group_size=5)
    made = heal.round_now(world.ctx, dry_run=True)
    ((looked),) = made.transformations
    assert looked.decision.what is Remedy.FLUSH
    assert looked.decision.why == "its input is complete and 2 files wait below the group size of 5"
    assert (transformation(world).flushes, transformation(world).unused) == (0, 2)
    (done,) = heal.round_now(world.ctx).transformations
    assert done.done
    do_all(world, Hands.at(world, "North"))


@pytest.mark.feature("S1-049")
def test_all_is_looked_at_as_often_as_the_topology_says(world: World):
    assert heal.every(world.ctx) == 600
    options(world, "every: 2 s")
    assert heal.every(world.ctx) == 2


# --- why --------------------------------------------------------------------------------------------------------------
def test_why_says_at_each_moment_what_a_task_waits_for_and_what_comes_next(world: World):
    one_of(world, "Merging", "a")
    hands = Hands.at(world, "North")
    transform.make_tasks(world.ctx)
    assert "its next attempt, which is queued in a moment" in why(world.ctx, "task 1").waits_for
    go_on(world)
    assert why(world.ctx, "task 1").waits_for == "a pilot: it is the next, and 1 of 4 pilots are there"
    assert why(world.ctx, "1").waits_for == "1 of 1 tasks are not done yet: 1 waiting for a pilot"
    job = hands.claim()
    assert job
    answer = why(world.ctx, f"job {job['job_id']}")
    assert answer.waits_for.startswith("its job: attempt 1 runs at North on pilot hands since ")
    assert answer.next == "its outputs are read back"
    slow = world.having(settings=world.ctx.settings.model_copy(update={"retry_after": run.timedelta(minutes=1)}))
    told = {"minor_status": "Application Finished With Errors", "application_status": "exit code 1: broken"}
    run.report_failure(slow.ctx, hands.pilot, job["job_id"], told | {"exit_code": 1, "log": "", "bad_replicas": []})
    answer = why(world.ctx, "task 1")
    assert answer.waits_for.startswith("its next attempt at 2")
    assert answer.waits_for.endswith(
        "because attempt 1 of 4 failed: Application Finished With Errors: exit code 1: broken"
    )
    world.value("UPDATE task SET not_before = now()")
    for _ in range(3):
        go_on(world)
        job = hands.claim()
        assert job
        hands.fail(job)
    answer = why(world.ctx, "task 1")
    assert answer.person
    assert answer.waits_for == (
        "a person: it failed in all 4 attempts; the last said: Application Finished With Errors: exit code 1: broken"
    )
    answer = why(world.ctx, "1")
    assert answer.person
    assert answer.choices[0].startswith("lightkeeper transformation retry 1")
    produce.retry(world.ctx, 1)
    do_all(world, hands)
    assert why(world.ctx, "1").next == "nothing: it is Completed"
    assert why(world.ctx, "00000001_Step1_Concatenate").waits_for == ""


def test_why_of_a_file_names_the_task_it_is_in_and_what_that_waits_for(world: World):
    one_of(world, "Merging", "a")
    go_on(world)
    answer = why(world.ctx, "/test/raw/a0.plain")
    assert "task 1, which waits for a pilot" in answer.waits_for
    assert answer.next == "a pilot that asks for work gets it"
    do_all(world, Hands.at(world, "North"))


def test_why_of_a_child_goes_up_to_what_its_parent_waits_for(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1}, {"query": {"level": 1}, "group_size": 5, "parent": 1})
    go_on(world)
    answer = why(world.ctx, "2")
    assert answer.waits_for == "its parent is not complete yet (1)"
    assert answer.because[0].waits_for == "1 of 1 tasks are not done yet: 1 waiting for a pilot"
    do_all(world, Hands.at(world, "North"))


def test_why_says_when_no_site_may_compute(world: World):
    one_of(world, "Merging", "a")
    go_on(world)
    world.value("UPDATE site SET executor = NULL")
    answer = why(world.ctx, "task 1")
    assert answer.waits_for == "a pilot, but no site where it may run has any with what it needs"
    assert answer.person
    do_all(world, Hands.at(world, "North"))


def test_why_of_what_completes_while_it_is_asked_says_that_it_is_completed(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    one_of(world, "Merging", "a")

    def completed_meanwhile(conn: Any, **only: Any) -> Any:
        monkeypatch.undo()
        do_all(world, Hands.at(world, "North"))
        return healing.facts(conn, **only)

    monkeypatch.setattr(healing, "facts", completed_meanwhile)
    assert why(world.ctx, "1").next == "nothing: it is Completed"


@pytest.mark.parametrize("subject", ["9", "task 9", "job 9", "no-such-name", "/test/none.plain", str(2**40)])
def test_why_of_nothing_says_so(world: World, subject: str):
    with pytest.raises(NotFound):
        why(world.ctx, subject)


def test_why_of_what_names_nothing_says_what_can_be_asked(world: World):
    with pytest.raises(Invalid, match="names nothing"):
        why(world.ctx, "is it not ending")


def test_tell_needs_no_notifier(world: World):
    assert tell.gather(world.ctx) == 0
    assert tell.send(world.ctx) == 0
