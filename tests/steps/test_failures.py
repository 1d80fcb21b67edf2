"""Failures of every kind: what another attempt can mend ends without a person, the rest says the right sentence; and no
history of jobs, crashes and restarts leaves a task where a reference model would not have it."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import World
from tests.steps.test_keeper import sentence
from tests.steps.test_tell import options
from tests.steps.test_work import Hands, go_on, submit

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.steps import contradictions, heal, report, run
from lightkeeper.store import healing

Worlds = Callable[[], AbstractContextManager[World]]
KINDS = ("input", "set-up", "kill", "storage", "wrong output", "silence")
"""The mix of the published report, and a pilot that disappears."""
TOLD = {
    "input": ("Input data resolution", "no copy of an input could be read (tried: north)", None),
    "set-up": ("Application Finished With Errors", "exit code 1: set-up failed", 1),
    "kill": ("Application Finished With Errors", "received kill signal SIGKILL while executing", -9),
    "storage": ("Storing output data", "north is full", None),
}


def go_wrong(world: World, hands: Hands, job: dict[str, Any], kind: str) -> None:
    """End a job the wrong way."""
    if kind in TOLD:
        minor, application, code = TOLD[kind]
        told = {"minor_status": minor, "application_status": application, "exit_code": code}
        run.report_failure(world.ctx, hands.pilot, job["job_id"], told | {"log": application, "bad_replicas": []})
    elif kind == "wrong output":
        told = hands.upload(job)
        place = job["upload"]
        PosixStorage(place["storage"], place["root"]).write(f"{place['directory']}/{job['outputs'][0]}", [b"rotten"])
        run.finish(world.ctx, hands.pilot, job["job_id"], told)
    else:
        world.value("UPDATE job_alive SET seen = now() - interval '1 hour' WHERE job_id = %s", job["job_id"])
        heal.release_abandoned(world.ctx)


def run_all(world: World, tasks: int, part: float, seed: int, doomed: int = 0) -> dict[str, int]:
    """Run a transformation of so many tasks of which a part fails now and then, and the first `doomed` always."""
    world.register(*(f"/test/raw/n{n}.plain" for n in range(tasks)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    chance = random.Random(seed)
    hands = Hands.at(world, "North")
    seen = dict.fromkeys(KINDS, 0)
    first: list[int] = []
    while True:
        go_on(world)
        job = hands.claim()
        if job is None:
            return seen
        task = job["task_id"]
        if task not in first and len(first) < doomed:
            first.append(task)
        if task in first:
            go_wrong(world, hands, job, "set-up")
        elif job["attempt"] < 4 and chance.random() < part:
            kind = chance.choice(KINDS)
            seen[kind] += 1
            go_wrong(world, hands, job, kind)
        else:
            hands.finish(job)


@pytest.mark.feature("S1-035", "S1-036", "S1-046", "S1-063", "S1-065")
def test_tasks_that_fail_now_and_then_all_end_without_a_person(world: World):
    seen = run_all(world, 60, 0.3, seed=4848)
    assert all(seen.values()), "every kind of failure was there"
    assert world.value("SELECT state::text FROM transformation") == "Completed"
    assert world.value("SELECT count(*) FROM task WHERE state = 'Done'") == 60
    assert world.value("SELECT count(*) FROM concern") == 0
    assert contradictions.look(world.ctx) == []


@pytest.mark.nightly
@pytest.mark.feature("S1-035", "S1-036")
def test_a_thousand_tasks_of_which_15_percent_fail_as_published_all_end_without_a_person(world: World):
    run_all(world, 1000, 0.15, seed=1)
    assert world.value("SELECT state::text FROM transformation") == "Completed"
    assert world.value("SELECT count(*) FROM task WHERE state = 'Done'") == 1000
    assert world.value("SELECT count(*) FROM concern") == 0


@pytest.mark.feature("S1-035", "S1-063")
def test_where_no_attempt_can_help_the_sentence_says_so_and_the_report_says_why(world: World):
    run_all(world, 12, 0.2, seed=3, doomed=2)
    assert sentence(world).endswith(": 2 of 12 tasks failed in every attempt")
    rows = report.transformation(world.ctx, 1).rows
    failed = [(r.minor_status, r.application_status, r.total) for r in rows if r.status == "Failed"]
    assert failed[0] == ("Application Finished With Errors", "exit code 1: set-up failed", "2")


@pytest.mark.feature("S1-064")
def test_an_input_that_cannot_be_read_for_long_ends_with_the_published_words(world: World):
    options(world, "max_reschedule: 3")
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(world, "North")
    for _ in range(4):
        go_on(world)
        job = hands.claim()
        assert job
        go_wrong(world, hands, job, "input")
    go_on(world)
    rows = report.transformation(world.ctx, 1).rows
    assert (rows[0].minor_status, rows[-2].status) == ("Maximum of reschedulings reached", "Total: Failed")


# --- poison ---------------------------------------------------------------------------------------------------------
def test_poison_tasks_end_after_their_attempts_with_a_reason_and_disturb_no_other(world: World):
    """One of a hundred fails each time in the same way, whatever way that is; all others are done."""
    world.register(*(f"/test/raw/n{n}.plain" for n in range(30)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(world, "North")
    poison: dict[int, str] = {}
    attempts: dict[int, int] = {}
    ways = ["set-up", "kill", "wrong output", "silence"]
    go_on(world)
    while job := hands.claim():
        task = job["task_id"]
        if len(poison) < len(ways) and task not in poison:
            poison[task] = ways[len(poison)]
        if task in poison:
            attempts[task] = attempts.get(task, 0) + 1
            go_wrong(world, hands, job, poison[task])
        else:
            hands.finish(job)
        go_on(world)
    assert set(attempts.values()) == {4}
    assert world.value("SELECT count(*) FROM task WHERE state = 'Done'") == 26
    with world.ctx.db.transaction() as conn:
        told = dict(
            conn.execute(
                "SELECT task_id, minor_status || ': ' || application_status FROM job JOIN task USING (task_id)"
                " WHERE task.state = 'Failed' AND attempt = attempts"
            ).fetchall()
        )
    assert set(told) == set(poison)
    assert all(len(why) > 10 for why in told.values())


# --- histories against a reference model ----------------------------------------------------------------------------
@dataclass
class Model:
    """What a task must be after a history of attempts: the reference, in a few lines."""

    most: int = 3
    around: int = 5
    state: str = "Ready"
    worked: int = 0
    waited: int = 0
    jobs: list[int] = field(default_factory=list)

    def failed(self, kind: str) -> None:
        if kind in ("input", "storage"):
            self.state = "Ready" if self.waited < self.around else "Failed"
            self.waited += self.state == "Ready"
        else:
            self.state = "Ready" if self.worked < self.most else "Failed"
            self.worked += self.state == "Ready"


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from((*KINDS, "finish", "restart", "sweep"))), max_size=40)


def live_through(world: World, events: list[tuple[int, str]]) -> None:
    """A history of four tasks, step by step beside the model."""
    number = world.value("SELECT count(*) FROM production")
    night = f"night {number}"
    options(world, "max_reassign: 3", "max_reschedule: 5")
    world.register(*(f"/test/h{number}/n{n}.plain" for n in range(4)), night=night)
    submit(world, {"query": {"night": night}, "group_size": 1}, name=f"h{number}")
    hands = Hands.at(world, "North", f"hands {number}")
    go_on(world)
    with world.ctx.db.transaction() as conn:
        found = conn.execute(
            "SELECT task_id FROM task JOIN transformation USING (transformation_id)"
            " JOIN production USING (production_id) WHERE production.name = %s ORDER BY 1",
            (f"h{number}",),
        ).fetchall()
    models = {task: Model() for (task,) in found}
    running: dict[int, dict[str, Any]] = {}

    def claim_all() -> None:
        go_on(world)
        while job := hands.claim():
            running[job["task_id"]] = job
            models[job["task_id"]].state = "Running"

    for which, event in events:
        claim_all()
        if event == "restart":
            heal.after_restart(world.ctx)
        elif event == "sweep":
            contradictions.sweep_all(world.ctx)
        else:
            task = sorted(models)[which]
            if task not in running:
                continue
            job = running.pop(task)
            if event == "finish":
                hands.finish(job)
                models[task].state = "Done"
            else:
                go_wrong(world, hands, job, event)
                models[task].failed(event)
        agree(world, models)
    claim_all()
    for job in running.values():
        hands.finish(job)
        models[job["task_id"]].state = "Done"
    go_on(world)
    agree(world, models)
    done = all(model.state == "Done" for model in models.values())
    with world.ctx.db.transaction() as conn:
        (state,) = conn.execute(
            "SELECT t.state::text FROM transformation t JOIN production p USING (production_id) WHERE p.name = %s",
            (f"h{number}",),
        ).fetchone() or ("",)
    assert state == ("Completed" if done else "Active")


def agree(world: World, models: dict[int, Model]) -> None:
    with world.ctx.db.transaction() as conn:
        found = conn.execute(
            "SELECT task_id, state::text, reassigned, rescheduled FROM task WHERE task_id = ANY(%s)", (list(models),)
        ).fetchall()
    assert {i: rest for i, *rest in found} == {i: [m.state, m.worked, m.waited] for i, m in models.items()}
    assert contradictions.look(world.ctx) == []


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=EVENTS)
@pytest.mark.feature("S1-044")
def test_random_histories_agree_with_the_model(fresh_worlds: Worlds, events: list[tuple[int, str]]):
    with fresh_worlds() as world:
        live_through(world, events)


@pytest.mark.nightly
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=EVENTS)
def test_thousands_of_random_histories_agree_with_the_model(fresh_worlds: Worlds, events: list[tuple[int, str]]):
    with fresh_worlds() as world:
        live_through(world, events)


@pytest.mark.parametrize("histories", [3000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_the_decision_about_a_failed_attempt_agrees_with_the_model_in_every_history(histories: int):
    """The decision alone, without a database."""
    chance = random.Random(22)
    keeper = healing.Keeper(default=healing.keeper_of({"max_reassign": 3, "max_reschedule": 5}).default)
    for _ in range(histories):
        model, counters = Model(), (0, 0)
        while model.state == "Ready":
            kind = chance.choice(KINDS)
            minor = TOLD[kind][0] if kind in TOLD else "Pilot lost"
            failed = healing.FailedAttempt(1, 1, minor, *counters)
            decided = healing.after_failure(failed, keeper.of("Merging"), run.timedelta(seconds=2))
            model.failed(kind)
            counters = (decided.reassigned, decided.rescheduled)
            assert (decided.again, counters) == (model.state == "Ready", (model.worked, model.waited))
